"""Child processes of the tests on real servers: each ends with its test session, even if that is killed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["free_port", "spawn", "stop", "until"]


def free_port() -> int:
    """Return a free port of 127.0.0.1.

    It is below the range of outgoing connections, so it is still free for a server that takes a minute to start.
    """
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port between 20000 and 32000")


def spawn(
    command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a server in its own process group, output to `log`. If the test session is killed, the kernel ends it."""
    guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    with log.open("ab") as out:
        return subprocess.Popen(
            [*guard, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
            start_new_session=True,
        )


def until(
    condition: Callable[[], object], process: subprocess.Popen[bytes], *, what: str, log: Path, timeout_s: float
) -> None:
    """Poll until `condition` holds. If the process ends or the time is over, fail with the end of `log`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=0.1)
            raise RuntimeError(f"{what} ended with code {code} before it was ready:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} was not ready within {timeout_s:g} s:\n{_tail(log)}")


def stop(process: subprocess.Popen[bytes], *, grace_s: float = 15) -> None:
    """Stop the process and its group: with SIGTERM, then with SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=grace_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:]) if log.exists() else "(no output)"
