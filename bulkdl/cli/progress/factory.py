"""Which progress a run shows, and the one task that redraws it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, TextIO

from bulkdl.cli.progress.observers import JsonProgress, PlainProgress, Screen, Watcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub

__all__ = ["Mode", "Progress", "open_progress", "pick_mode"]


class Mode(StrEnum):
    """The values of `--progress`."""

    AUTO = "auto"
    BAR = "bar"
    PLAIN = "plain"
    JSON = "json"
    NONE = "none"


def pick_mode(wished: Mode, *, terminal: bool, environ: Mapping[str, str], verbosity: int = 0) -> Mode:
    """What is shown: `auto` is the live view on a terminal that can move its cursor, else plain lines."""
    if wished not in {Mode.AUTO, Mode.BAR}:
        return wished
    if wished is Mode.AUTO and verbosity < 0:
        return Mode.PLAIN
    return Mode.BAR if terminal and environ.get("TERM", "") not in {"dumb", "unknown"} else Mode.PLAIN


class Progress:
    """What `open_progress` gives: the watchers of one run, and the terminal for whoever must ask something."""

    def __init__(self, watchers: tuple[Watcher, ...]) -> None:
        self._watchers = watchers

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Inside, nothing is drawn: a prompt has the terminal."""
        from bulkdl.cli.progress.bar import BarProgress  # noqa: PLC0415 - rich only where a terminal is

        bar = next((w for w in self._watchers if isinstance(w, BarProgress)), None)
        if bar is None:
            yield
            return
        with bar.suspended():
            yield

    def close(self) -> None:
        """Leave the terminal as it was; also called when the process is about to end at once."""
        for watcher in self._watchers:
            watcher.close()


@asynccontextmanager
async def open_progress(
    mode: Mode,
    *,
    hub: Hub,
    clock: Clock,
    stream: TextIO,
    environ: Mapping[str, str],
    verbosity: int = 0,
    more: tuple[Watcher, ...] = (),
) -> AsyncIterator[Progress]:
    """Show the run that speaks through `hub` on `stream` until the block ends.

    `verbosity`: -1 for `-q`, 1 for `-v`, 2 for `-vv`. `more`: further watchers, such as a log file; closed at the end.
    """
    picked = pick_mode(mode, terminal=stream.isatty(), environ=environ, verbosity=verbosity)
    watchers = (*_watchers(picked, hub=hub, clock=clock, stream=stream, verbosity=verbosity), *more)
    for watcher in watchers:
        hub.subscribe(watcher.observe)
    progress = Progress(watchers)
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_ticks(watcher, clock)) for watcher in watchers]
            try:
                yield progress
            except Exception as error:  # noqa: BLE001 - raised again below, outside the group that would wrap it
                failure = error
            finally:
                for task in tasks:
                    task.cancel()
    finally:
        progress.close()
    if failure is not None:
        raise failure


def _watchers(mode: Mode, *, hub: Hub, clock: Clock, stream: TextIO, verbosity: int) -> tuple[Watcher, ...]:
    match mode:
        case Mode.BAR:
            from bulkdl.cli.progress.bar import BarProgress  # noqa: PLC0415 - rich only where a terminal is

            return (BarProgress(counters=hub.counters, clock=clock, stream=stream, verbosity=verbosity),)
        case Mode.JSON:
            return (JsonProgress(counters=hub.counters, clock=clock, screen=Screen(stream)),)
        case Mode.NONE:
            return ()
        case _:
            screen = Screen(stream)
            return (PlainProgress(counters=hub.counters, clock=clock, screen=screen, verbosity=verbosity),)


async def _ticks(watcher: Watcher, clock: Clock) -> None:
    while True:
        await clock.sleep(watcher.every_s)
        watcher.tick()
