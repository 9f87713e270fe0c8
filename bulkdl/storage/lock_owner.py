"""Owner file of a destination lock: names the process that holds it, for messages and `bulkdl status`."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from bulkdl._version import __version__
from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HELD", "Owner", "holder", "may_be_running", "read_owner", "this_process", "write_owner"]

HELD: Final[set[str]] = set()
"""Exclusively created lock files that this process holds.

The process id in a file is not enough: after a restart of the machine, another process may have the same id.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Process that holds, or held, a destination."""

    pid: int
    host: str
    since: str
    """ISO 8601, UTC."""
    version: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def holder(destination: Path) -> Owner | None:
    """Return the run that holds `destination` now, judged without touching its lock; only for display."""
    folder = destination / ".bulkdl"
    owner = read_owner(folder / "owner.json")
    return (
        owner
        if owner is not None and (owner.pid == os.getpid() or may_be_running(owner, folder / "lock.pid"))
        else None
    )


def this_process() -> Owner:
    return Owner(
        pid=os.getpid(),
        host=socket.gethostname(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
    )


def write_owner(path: Path) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(asdict(this_process())), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def read_owner(path: Path) -> Owner | None:
    """Return the owner in the file; None if the file is missing or was not written by a run."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        return Owner(
            pid=int(found["pid"]), host=str(found["host"]), since=str(found["since"]), version=str(found["version"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def may_be_running(owner: Owner, path: Path) -> bool:
    if owner.host != socket.gethostname() or os.name == "nt":
        return True
    if owner.pid == os.getpid():
        return str(path) in HELD
    try:
        os.kill(owner.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
