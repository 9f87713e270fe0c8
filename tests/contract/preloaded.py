"""Processes of the program that are forked from one in which its modules are loaded already.

Loading them costs more than most runs. A forked process has everything else of its own: process id, environment, working
folder, descriptors, signals, exit code. As a script this module is the process that forks: it reads a request a line
from its standard input, and writes a line when a process has started and when it has ended.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import queue
import select
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["PreloadedProcess", "start"]

_LIBRARIES = ("aiohttp", "html.parser", "jsonschema_rs", "pyotp", "rich.console", "rich.progress", "sqlite3", "yaml")
"""Modules that functions of the program load where they need them."""
_STREAMS = (("in", os.O_RDONLY), ("out", os.O_WRONLY), ("err", os.O_WRONLY))
_PATIENCE_S = 100.0


class PreloadedProcess:
    """Process of the program; its methods are those of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None
        self._ended = threading.Event()

    def end(self, code: int) -> None:
        self._code = code
        self._ended.set()

    def poll(self) -> int | None:
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raise `TimeoutExpired` if the process has not ended after `timeout` seconds."""
        self._ended.wait(timeout)
        if self._code is None:
            raise subprocess.TimeoutExpired("bulkdl", timeout or 0)
        return self._code

    def send_signal(self, number: int) -> None:
        if self._code is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Forks:
    """The process that forks, and a thread that reads what it writes."""

    def __init__(self) -> None:
        environ = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environ, "LANG": "C.UTF-8"},
        )
        self._started: queue.SimpleQueue[PreloadedProcess] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, request: Mapping[str, Any]) -> PreloadedProcess:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return self._started.get(timeout=_PATIENCE_S)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _read(self) -> None:
        running: dict[int, PreloadedProcess] = {}
        assert self._process.stdout is not None
        for line in self._process.stdout:
            pid, code = json.loads(line)
            if code is None:
                running[pid] = PreloadedProcess(pid)
                self._started.put(running[pid])
            else:
                running.pop(pid).end(code)


@functools.cache
def _forks() -> _Forks:
    forks = _Forks()
    atexit.register(forks.close)
    return forks


def start(words: Sequence[str], *, folder: Path, cwd: Path, env: Mapping[str, str]) -> PreloadedProcess:
    """Start `python -m bulkdl`; its standard streams are the files `in`, `out` and `err` of `folder`."""
    for name, _ in _STREAMS:
        (folder / name).touch()
    return _forks().start({"words": [*words], "folder": str(folder), "cwd": str(cwd), "env": {**env}})


def _load() -> None:
    """Load all modules of the program, and freeze them so that a collection of garbage does not copy their pages."""
    package = importlib.import_module("bulkdl")
    for module in pkgutil.walk_packages(package.__path__, "bulkdl."):
        if not module.name.startswith(("bulkdl.__main__", "bulkdl.demo_server")):
            importlib.import_module(module.name)
    for name in _LIBRARIES:
        importlib.import_module(name)
    gc.freeze()


def _tell(pid: int, code: int | None) -> None:
    os.write(1, json.dumps([pid, code]).encode() + b"\n")


def _reap() -> None:
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _tell(ended[0], os.waitstatus_to_exitcode(ended[1]))
    except ChildProcessError:
        pass  # no process is left


def _become(request: Mapping[str, Any]) -> None:
    """Give this forked process the streams, environment and folder of the request."""
    for number, (name, flags) in enumerate(_STREAMS):
        opened = os.open(os.path.join(request["folder"], name), flags)  # noqa: PTH118
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.argv = [os.path.join(os.path.dirname(sys.modules["bulkdl"].__file__ or ""), "__main__.py"), *request["words"]]  # noqa: PTH118, PTH120


def _serve() -> bool:
    """Fork a process for each request; return True in a forked one, and False at the end of the requests."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    rest = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap()
        if 0 not in ready:
            continue
        read = os.read(0, 1 << 16)
        if not read:
            return False
        *requests, rest = (rest + read).split(b"\n")
        for request in requests:
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(woken)
                os.close(wake)
                _become(json.loads(request))
                return True
            _tell(pid, None)


if __name__ == "__main__":
    _load()
    if _serve():
        sys.exit(importlib.import_module("bulkdl.__main__").main())
