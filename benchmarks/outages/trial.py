"""One tool, one night: the tool runs under `faketime`, and then its files are compared with the archive's."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .site import Site, content

if TYPE_CHECKING:
    from pathlib import Path

    from .nights import Night
    from .tools import Tool

__all__ = ["LONGEST_S", "Result", "run"]

LONGEST_S = 12 * 3600.0
"""A tool that is still at work at this time of the night is ended; what it has not brought is lost."""


@dataclass(frozen=True, slots=True)
class Result:
    night: Night
    tool: Tool
    lost: int
    """Products that are not there with the right bytes."""
    wrong: int
    """Of them those with wrong bytes at the final name."""
    ill_requests: int
    logins: int
    hours: float
    code: int | None
    """Exit code; None: it was ended."""


async def run(night: Night, tool: Tool, folder: Path, *, speed: float) -> Result:
    """Run the night with that tool in an empty folder."""
    products = folder / "products"
    products.mkdir(parents=True)
    async with Site(night, speed=speed) as site:
        command = ["faketime", "-f", f"+0 x{speed:g}", *tool.command(site, folder)]
        began = time.monotonic()
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=err, env=_environment(folder)
            )
            code = await _end(process, LONGEST_S / speed)
        hours = (time.monotonic() - began) * speed / 3600
        lost, wrong = _compare(site.names, products)
        result = Result(night, tool, lost, wrong, site.ill_requests, site.logins, hours, code)
    shutil.rmtree(products)
    return result


async def _end(process: asyncio.subprocess.Process, limit_s: float) -> int | None:
    try:
        async with asyncio.timeout(limit_s):
            return await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    except asyncio.CancelledError:
        process.kill()
        raise


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    return {**kept, "HOME": str(folder), "PW": "correct horse", "BULKDL_STATE_DIR": str(folder / "state")}


def _compare(names: list[str], products: Path) -> tuple[int, int]:
    """Return how many products are not right, and how many of them lie there with wrong bytes."""
    lost = wrong = 0
    for name in names:
        path = products / name
        if path.exists() and path.read_bytes() == content(name):
            continue
        lost += 1
        wrong += path.exists() and not path.with_name(f"{name}.aria2").exists()
    return lost, wrong
