"""Observers of a run without a live view: plain lines, JSON lines and the log file.

Observers receive the events of a run and read its counters; the code that downloads never prints.
"""

from __future__ import annotations

import io
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TextIO

from bulkdl.cli.background_writer import BackgroundStream, BackgroundWriter
from bulkdl.cli.output_file import descriptor_of
from bulkdl.cli.progress.messages import EventFilter, fields, level_of, sentence
from bulkdl.cli.progress.sampler import Sampler, progress_line
from bulkdl.cli.text import count
from bulkdl.core.errors import UsageError
from bulkdl.core.events import Retrying, RunFinished, RunStarted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Counters, Event

__all__ = ["CLOSE_PATIENCE_S", "JsonProgress", "LogFile", "Observer", "PlainProgress", "Screen", "left_out"]


CLOSE_PATIENCE_S = 2.0
"""Wait at the end of the run for a reader who takes nothing (s)."""
_MOST_LOGGED = 100_000
"""Lines of the log that wait at most while its disk hangs."""


class Observer(Protocol):
    """Receives every event at once, and a `tick` every `every_s` seconds."""

    every_s: float

    def observe(self, event: Event) -> None: ...

    def tick(self) -> None: ...

    def close(self) -> None: ...


class Screen:
    """A stream of lines; if its reader closes the pipe, later lines are dropped and the run continues."""

    def __init__(self, stream: TextIO | BackgroundStream) -> None:
        self._stream = stream
        self._closed = False

    @property
    def is_behind(self) -> bool:
        """True while the reader has not taken the last line, so that a further sample is of no use."""
        return isinstance(self._stream, BackgroundStream) and self._stream.is_behind

    def leave_out(self) -> bool:
        """Count a message as left out, and return True, if too many wait already."""
        return isinstance(self._stream, BackgroundStream) and self._stream.leave_out()

    def line(self, text: str) -> None:
        if self._closed:
            return
        try:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._closed = True


class PlainProgress:
    """Plain lines for pipes and logs: one progress line every 30 s, and one for each event worth showing."""

    every_s = 30.0

    def __init__(self, *, counters: Counters, clock: Clock, screen: Screen, verbosity: int = 0) -> None:
        self._counters = counters
        self._clock = clock
        self._screen = screen
        self._verbosity = verbosity
        self._filter = EventFilter(verbosity)
        self._sampler = Sampler(counters, window_s=self.every_s)
        self._retries = 0
        self._last_retry: Retrying | None = None
        self._running = False

    def observe(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._running = True
                self._sampler.started(event)
                self._sampler.sample(self._clock.monotonic())
            case RunFinished():
                self._running = False
            case Retrying():
                self._retries += 1
                self._last_retry = event
            case _:
                pass
        if self._filter.shows(event):
            self._say(sentence(event))

    def tick(self) -> None:
        if not self._running or self._verbosity < 0 or self._screen.is_behind:
            return
        line = progress_line(self._sampler.sample(self._clock.monotonic()))
        self._say("; ".join((line, *self._retried(), *self._accounts())))

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _retried(self) -> list[str]:
        if not self._retries or self._last_retry is None:
            return []
        latest = f"{self._last_retry.file}: {self._last_retry.reason}"
        text = f"{count(self._retries, 'retry', 'retries')} since the last line (latest: {latest})"
        self._retries, self._last_retry = 0, None
        return [text]

    def _accounts(self) -> list[str]:
        return [f"{name}: {state}" for name, state in sorted(self._counters.accounts.items()) if state]

    def _say(self, text: str) -> None:
        time = datetime.fromtimestamp(self._clock.wall()).astimezone()
        self._screen.line(f"{time:%H:%M:%S} {text}")


class JsonProgress:
    """JSON lines for programs: one object for each event, and a sample of the counters every second."""

    every_s = 1.0

    def __init__(self, *, counters: Counters, clock: Clock, screen: Screen) -> None:
        self._counters = counters
        self._clock = clock
        self._screen = screen
        self._sampler = Sampler(counters)
        self._running = False

    def observe(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._running = True
            self._sampler.started(event)
        self._write(fields(event))

    def tick(self) -> None:
        if not self._running or self._screen.is_behind:  # before `RunStarted` the products are not counted yet
            return
        sample = self._sampler.sample(self._clock.monotonic())
        flights = [
            {"file": f.file, "have": f.have, "total": f.total, "connections": f.connections, "phase": f.phase}
            for f in self._counters.flights.values()
        ]
        self._write(
            {
                "event": "sample",
                "products": sample.products,
                "done": sample.done,
                "failed": sample.failed,
                "retries": sample.retries,
                "received": sample.received,
                "left": sample.left,
                "rate": round(sample.rate, 1),
                "eta_s": None if sample.eta_s is None else round(sample.eta_s, 1),
                "in_flight": flights,
                "accounts": dict(self._counters.accounts),
            }
        )

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _write(self, values: Mapping[str, object]) -> None:
        self._screen.line(json.dumps({"time": round(self._clock.wall(), 3), **values}))


class LogFile:
    """`--log-file`: append every event as a line with its time (UTC) and level; only the owner can read the file.

    A thread writes: the file may be a FIFO or stand on a network disk that hangs.
    """

    every_s = 3600.0

    def __init__(self, path: Path, *, clock: Clock) -> None:
        """Open the file for appending; raise `UsageError` if this fails."""
        self._clock = clock
        self._raw = None if _is_fifo(path) else _opened(path)
        self._writer = BackgroundWriter(
            lambda: self._raw or _open(path),
            left_out=lambda number: self._line("warning", left_out(number)),
            most=_MOST_LOGGED,
        )

    def observe(self, event: Event) -> None:
        self.write(level_of(event).value, sentence(event))

    def write(self, level: str, text: str) -> None:
        """Write one line; indent further lines of `text`, such as a traceback, below it."""
        first, *rest = text.splitlines() or [""]
        self._writer.put(self._line(level, first) + "".join(f"    {line}\n" for line in rest))

    def _line(self, level: str, text: str) -> str:
        time = datetime.fromtimestamp(self._clock.wall(), UTC)
        return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z {level.upper():<7} {text}\n"

    def tick(self) -> None:
        """Do nothing: the log has no samples."""

    def close(self) -> None:
        """Write what is left; a full disk is reported elsewhere, and a lost log must not end the run."""
        if self._writer.close(CLOSE_PATIENCE_S) and self._raw is not None:
            with suppress(OSError):
                self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_fifo(path: Path) -> bool:
    """Tell whether opening the file would wait for a reader; then the thread opens it."""
    try:
        return path.is_fifo()
    except (OSError, ValueError):
        return False


def _open(path: Path) -> io.RawIOBase:
    own = descriptor_of(path)
    if own is not None:  # a second opening of the same file would overwrite what the first one has written
        return io.FileIO(os.dup(own), "a")
    return io.FileIO(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a")


def _opened(path: Path) -> io.RawIOBase:
    try:
        return _open(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid path"
        raise UsageError(
            f"--log-file {path} cannot be written: {reason}", hint="Choose a file in an existing folder."
        ) from error


def left_out(number: int) -> str:
    """Return the note in place of lines that were dropped because nobody read them."""
    return f"{count(number, 'line')} left out here: nobody read them in time"
