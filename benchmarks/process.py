"""Processes of the benchmarks: measured commands and servers, which always end with the benchmark."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["Command", "Exit", "free_port", "run", "serving", "tail"]

_LAUNCH = str(Path(__file__).with_name("launch.py"))


@dataclass(frozen=True, slots=True)
class Command:
    """A command line.

    `env` is added to this process's environment, without variables that change a contestant's behaviour.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """A measured process that has ended."""

    code: int
    wall_s: float
    cpu_s: float
    rss_bytes: int
    started: float
    """Time just before the process was started (monotonic clock, s)."""
    out: str
    err: str


def run(command: Command, folder: Path, *, timeout_s: float) -> Exit | None:
    """Run a command in `folder` and measure it; None if it took longer than `timeout_s` and was killed."""
    result, out, err = folder / "cost", folder / "stdout", folder / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", _LAUNCH, str(result), *command.argv],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=_environment(command.env),
            cwd=folder,
            start_new_session=True,
        )
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process, grace_s=0)
    texts = {"out": out.read_text(errors="replace"), "err": err.read_text(errors="replace")}
    if not result.exists():
        return Exit(code=process.returncode, wall_s=0, cpu_s=0, rss_bytes=0, started=0, **texts)
    code, wall, user, system, peak, started = result.read_text().split()
    return Exit(
        code=int(code),
        wall_s=float(wall),
        cpu_s=float(user) + float(system),
        rss_bytes=int(peak),
        started=float(started),
        **texts,
    )


@contextlib.contextmanager
def serving(argv: Sequence[str], *, log: Path, ready: Callable[[], bool], what: str) -> Iterator[None]:
    """Run a server for as long as the block lasts. If this process is killed, the kernel ends the server (Linux)."""
    guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*guard, *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=_environment({}),
            start_new_session=True,
        )
    try:
        _await(process, ready, what=what, log=log)
        yield
    finally:
        _end(process, grace_s=10)


def free_port() -> int:
    """Return an unused port of 127.0.0.1 below the range of outgoing connections."""
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port between 20000 and 32000")


def tail(text: str, *, lines: int = 3) -> str:
    """Return the last non-empty lines as one line."""
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])[-300:]


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without proxies and contestants' settings, which would make the comparison unfair."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("BULKDL_", "PYTHON", "RCLONE_", "SSL_CERT_"))
    }
    return {**kept, **extra}


def _await(process: subprocess.Popen[bytes], ready: Callable[[], bool], *, what: str, log: Path) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=0.05)
            raise RuntimeError(f"{what} ended with code {code} before it was ready: {tail(log.read_text())}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} was not ready within 30 s: {tail(log.read_text())}")


def _end(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """End the process and its whole group: with SIGTERM if there is a grace time, then with SIGKILL."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if grace_s:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=grace_s)
            return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
