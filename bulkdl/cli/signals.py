"""Signals while a run is going on: the first asks it to stop, the second leaves at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from bulkdl.core.stop_request import StopReason, StopSignal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["stop_on_signals"]

_REASONS: dict[str, StopReason] = {
    "SIGINT": StopReason.SIGINT,
    "SIGTERM": StopReason.SIGTERM,
    "SIGHUP": StopReason.SIGTERM,
    "SIGBREAK": StopReason.SIGTERM,
}
_CODES = {StopReason.SIGINT: 130, StopReason.SIGTERM: 143}


@contextmanager
def stop_on_signals(stop: StopSignal, *, say: Callable[[str], None], restore: Callable[[], None]) -> Iterator[None]:
    """Turn signals into a request to `stop` while the block runs on the running event loop.

    `say` tells the person; `restore` gives the terminal back before the process leaves at once.
    """
    asked = False

    def on_signal(reason: StopReason) -> None:
        nonlocal asked
        if asked:
            _leave(_CODES[reason], restore)
        asked = True
        say("stopping: saving what is here; run the same command to go on (once more leaves at once)")
        stop.request(reason)

    loop = asyncio.get_running_loop()
    with _handlers(loop, on_signal):
        yield


@contextmanager
def _handlers(loop: asyncio.AbstractEventLoop, on_signal: Callable[[StopReason], None]) -> Iterator[None]:
    undo: list[Callable[[], object]] = []
    try:
        for name, reason in _REASONS.items():
            number = getattr(signal, name, None)
            # nohup has set SIGHUP aside: the run is meant to outlive its terminal.
            if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                continue
            undo.append(_install(loop, number, on_signal, reason))
        yield
    finally:
        for restore in undo:
            restore()


def _install(
    loop: asyncio.AbstractEventLoop,
    number: signal.Signals,
    on_signal: Callable[[StopReason], None],
    reason: StopReason,
) -> Callable[[], object]:
    """Install one handler; return what takes it away again."""
    try:
        before = signal.getsignal(number)
        loop.add_signal_handler(number, on_signal, reason)
    except NotImplementedError:  # Windows: the plain handler, which wakes the loop

        def forward(_number: int, _frame: Any) -> None:
            loop.call_soon_threadsafe(on_signal, reason)

        previous = signal.signal(number, forward)
        return lambda: signal.signal(number, previous)

    def remove() -> None:
        loop.remove_signal_handler(number)
        if before is not None:
            signal.signal(number, before)

    return remove


def _leave(code: int, restore: Callable[[], None]) -> None:
    with suppress(Exception):
        restore()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
