"""bulkdl as a user runs it: a process, its exit code and its output."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["Done", "Program", "Running"]


@dataclass(frozen=True, slots=True)
class Done:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """Return the only JSON object on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    def failure(self, file: str) -> dict[str, Any]:
        """Return the summary's failure entry of a file."""
        found: dict[str, Any] = next(item for item in self.summary["failures"] if item["file"] == file)
        return found


class Running:
    """A running process. Its output goes to files, because a full pipe would block it."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, secrets: tuple[str, ...]) -> None:
        self.process = process
        self._folder = folder
        self._secrets = secrets

    @property
    def err(self) -> str:
        """Standard error so far."""
        return (self._folder / "err").read_text(errors="replace")

    def until(self, condition: Callable[[], object], *, timeout_s: float = 120) -> None:
        """Return when `condition` holds; fail if the process ends before."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.01)
                raise AssertionError(f"the program ended too early: {self.done()}")
            assert time.monotonic() < deadline, f"not seen within {timeout_s:g} s: {self.done(kill=True)}"

    def done(self, *, kill: bool = False, timeout_s: float = 300) -> Done:
        """Wait for the end; fail if the output contains a secret or a traceback."""
        if kill:
            self.process.kill()
        try:
            code = self.process.wait(timeout=timeout_s)
        finally:
            self.process.kill()
            self.process.wait()
        out, err = ((self._folder / name).read_text(errors="replace") for name in ("out", "err"))
        for secret in self._secrets:
            assert secret not in out + err, "a secret was printed"
        assert "Traceback" not in err, err
        return Done(code, out, err)


class Program:
    """Starts bulkdl with its own home folder and with the secrets in the environment."""

    def __init__(self, folder: Path, secrets: Mapping[str, str]) -> None:
        self._folder = folder
        self._secrets = dict(secrets)
        self._runs = 0

    def start(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Running:
        self._runs += 1
        folder = self._folder / f"run-{self._runs}"
        folder.mkdir(parents=True)
        # Origins that fail on purpose would be waited for up to an hour.
        given = {"BULKDL_RETRY_FOR": "0s", "BULKDL_GIVE_UP_AFTER": "10s"} | self._secrets | dict(env or {})
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "bulkdl", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self._folder), "LANG": "C.UTF-8", **given},
            )
        hidden = tuple(
            value for name, value in given.items() if not name.endswith("_USER") and not name.startswith("BULKDL_")
        )
        return Running(process, folder, hidden)

    def __call__(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Done:
        return self.start(*arguments, env=env).done()

    def run(self, manifest: Path, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Done:
        """Run `bulkdl run MANIFEST --json ...` with plain lines on standard error, as in a cron job."""
        return self("run", manifest, "--json", "--progress", "plain", *arguments, env=env)
