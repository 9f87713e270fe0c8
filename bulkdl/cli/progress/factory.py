"""Choose and start the progress display of a run; one task per observer redraws it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, TextIO

from bulkdl.cli.background_writer import BackgroundStream, in_background
from bulkdl.cli.output import remember_stalled
from bulkdl.cli.progress.observers import (
    CLOSE_PATIENCE_S,
    JsonProgress,
    Observer,
    PlainProgress,
    Screen,
    left_out,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub

__all__ = ["Mode", "Progress", "open_progress", "pick_mode"]


class Mode(StrEnum):
    """Values of `--progress`."""

    AUTO = "auto"
    BAR = "bar"
    PLAIN = "plain"
    JSON = "json"
    NONE = "none"


def pick_mode(requested: Mode, *, terminal: bool, environ: Mapping[str, str], verbosity: int = 0) -> Mode:
    """Return the display to use: for `auto` the live view if the terminal can move its cursor, else plain lines."""
    if requested not in {Mode.AUTO, Mode.BAR}:
        return requested
    if requested is Mode.AUTO and verbosity < 0:
        return Mode.PLAIN
    return Mode.BAR if terminal and environ.get("TERM", "") not in {"dumb", "unknown"} else Mode.PLAIN


class Progress:
    """The observers of one run; `suspended` frees the terminal for a prompt."""

    def __init__(self, observers: tuple[Observer, ...], stream: TextIO, output: TextIO | BackgroundStream) -> None:
        self._observers = observers
        self._stream = stream
        self._output = output

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Draw nothing inside the block, so that a prompt can use the terminal."""
        from bulkdl.cli.progress.bar import BarProgress  # noqa: PLC0415 - import rich only on a terminal

        bar = next((w for w in self._observers if isinstance(w, BarProgress)), None)
        if bar is None:
            yield
            return
        with bar.suspended():
            self._drain()
            yield

    def close(self, patience_s: float = CLOSE_PATIENCE_S) -> None:
        """Restore the terminal; also called just before a second signal ends the process."""
        for observer in self._observers:
            observer.close()
        if isinstance(self._output, BackgroundStream) and not self._output.end(patience_s):
            remember_stalled(self._stream)

    def _drain(self) -> None:
        if isinstance(self._output, BackgroundStream):
            self._output.drain(CLOSE_PATIENCE_S)


@asynccontextmanager
async def open_progress(
    mode: Mode,
    *,
    hub: Hub,
    clock: Clock,
    stream: TextIO,
    environ: Mapping[str, str],
    verbosity: int = 0,
    more: tuple[Observer, ...] = (),
) -> AsyncIterator[Progress]:
    """Show the events of `hub` on `stream` until the block ends.

    `verbosity` is -1 for `-q`, 1 for `-v`, 2 for `-vv`. `more` are further observers, such as a log file; they are
    closed at the end.
    """
    picked = pick_mode(mode, terminal=stream.isatty(), environ=environ, verbosity=verbosity)
    output = in_background(stream, _NOTES.get(picked, _plain_note))
    observers = (*_observers(picked, hub=hub, clock=clock, stream=output, verbosity=verbosity), *more)
    for observer in observers:
        hub.subscribe(observer.observe)
    progress = Progress(observers, stream, output)
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_ticks(observer, clock)) for observer in observers]
            try:
                yield progress
            except Exception as error:  # noqa: BLE001 - raised again below, outside the task group that would wrap it
                failure = error
            finally:
                for task in tasks:
                    task.cancel()
    finally:
        progress.close()
    if failure is not None:
        raise failure


def _plain_note(number: int) -> str:
    return f"({left_out(number)})\n"


_NOTES: dict[Mode, Callable[[int], str]] = {
    Mode.JSON: lambda number: f'{{"event": "left_out", "lines": {number}}}\n',
    Mode.BAR: lambda number: f"\n({left_out(number)})\n",
}
"""Notes in place of what nobody read, where plain text does not fit."""


def _observers(
    mode: Mode, *, hub: Hub, clock: Clock, stream: TextIO | BackgroundStream, verbosity: int
) -> tuple[Observer, ...]:
    match mode:
        case Mode.BAR:
            from bulkdl.cli.progress.bar import BarProgress  # noqa: PLC0415 - import rich only on a terminal

            return (BarProgress(counters=hub.counters, clock=clock, stream=stream, verbosity=verbosity),)
        case Mode.JSON:
            return (JsonProgress(counters=hub.counters, clock=clock, screen=Screen(stream)),)
        case Mode.NONE:
            return ()
        case _:
            screen = Screen(stream)
            return (PlainProgress(counters=hub.counters, clock=clock, screen=screen, verbosity=verbosity),)


async def _ticks(observer: Observer, clock: Clock) -> None:
    while True:
        await clock.sleep(observer.every_s)
        observer.tick()
