"""One tool and one row: the archives are started, the tool runs, and its files are compared with the archives'."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.process import run, tail

from .archive import archives_to_json
from .content import names_of, problem
from .log import Seen
from .nginx import nginx_site
from .rules import ideal_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .nginx import NginxSite
    from .rules import Row
    from .tools import Tool

__all__ = ["Result", "run_trial"]

_REPOSITORY = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    row: Row
    tool: Tool
    code: int | None
    """Exit code; None if the tool was ended at the time limit."""
    wall_s: float
    """From the start of the tool's process to its end."""
    first_request_s: float | None
    """From the start of the process to the first request; None if there was none."""
    lost: int
    """Products that are not there with the right bytes."""
    wrong: int
    """Of them those with wrong bytes at the final name."""
    cpu_s: float
    seen: Seen
    said: str
    """End of the standard error."""

    @property
    def factor(self) -> float:
        """Time relative to the shortest possible one."""
        return self.wall_s / ideal_s(self.row)


class _OwnSite:
    """The process of `archive` in one trial."""

    def __init__(self, process: subprocess.Popen[str], ports: list[int]) -> None:
        self.ports = ports
        self._process = process

    def seen(self) -> Seen:
        """End the process, and return what it saw."""
        out, _ = self._process.communicate(timeout=60)
        return Seen(**json.loads(out))


def run_trial(row: Row, tool: Tool, folder: Path, *, limit: float) -> Result:
    """Run a tool in an empty folder, for at most `limit` times the shortest possible time."""
    products = folder / "products"
    products.mkdir(parents=True)
    with _site(row, folder) as site:
        bases = [f"http://{archive.host}:{port}" for archive, port in zip(row.archives, site.ports, strict=True)]
        command = tool.command(row, bases, folder)
        began = time.monotonic()
        done = run(command, folder, timeout_s=limit * ideal_s(row))
        wall_s = done.wall_s if done else time.monotonic() - began
        seen = site.seen()
    problems = [
        problem(products / name, size)
        for archive, names in zip(row.archives, names_of(row), strict=True)
        for name, size in zip(names, archive.sizes, strict=True)
    ]
    first = seen.first_request
    result = Result(
        row=row,
        tool=tool,
        code=done.code if done else None,
        wall_s=wall_s,
        first_request_s=first - (done.started if done else began) if first is not None else None,
        lost=sum(found is not None for found in problems),
        wrong=sum(found == "wrong" for found in problems),
        cpu_s=done.cpu_s if done else 0.0,
        seen=seen,
        said=tail(done.err) if done else "",
    )
    shutil.rmtree(products)
    shutil.rmtree(folder / "nginx", ignore_errors=True)
    return result


@contextlib.contextmanager
def _site(row: Row, folder: Path) -> Iterator[_OwnSite | NginxSite]:
    if row.server == "nginx":
        with nginx_site(row, folder) as nginx:
            yield nginx
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.adaptive.archive"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_REPOSITORY,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(archives_to_json(row.archives, names_of(row)) + "\n")
        process.stdin.flush()
        yield _OwnSite(process, json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
