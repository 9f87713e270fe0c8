"""Handle signals during a run: the first one requests a stop, the second one ends the process at once."""

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
    """Turn a signal into a request on `stop` while the block runs; needs a running event loop.

    `say` prints a line; `restore` resets the terminal before the process ends at once.
    """
    stop_requested = False

    def on_signal(reason: StopReason) -> None:
        nonlocal stop_requested
        if stop_requested:
            _exit_now(_CODES[reason], restore)
        stop_requested = True
        say("Stopping: saving progress. Run the same command to resume. Press Ctrl-C again to quit immediately.")
        stop.request(reason)

    loop = asyncio.get_running_loop()
    with _handlers(loop, on_signal):
        yield


@contextmanager
def _handlers(loop: asyncio.AbstractEventLoop, on_signal: Callable[[StopReason], None]) -> Iterator[None]:
    restorers: list[Callable[[], object]] = []
    try:
        for name, reason in _REASONS.items():
            number = getattr(signal, name, None)
            # nohup ignores SIGHUP so that the run survives its terminal; keep it ignored.
            if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                continue
            restorers.append(_install(loop, number, on_signal, reason))
        yield
    finally:
        for restore in restorers:
            restore()


def _install(
    loop: asyncio.AbstractEventLoop,
    number: signal.Signals,
    on_signal: Callable[[StopReason], None],
    reason: StopReason,
) -> Callable[[], object]:
    """Install one handler; return a function that restores the previous one."""
    try:
        before = signal.getsignal(number)
        loop.add_signal_handler(number, on_signal, reason)
    except NotImplementedError:  # Windows: use a plain handler that wakes the loop

        def forward(_number: int, _frame: Any) -> None:
            loop.call_soon_threadsafe(on_signal, reason)

        previous = signal.signal(number, forward)
        return lambda: signal.signal(number, previous)

    def remove() -> None:
        loop.remove_signal_handler(number)
        if before is not None:
            signal.signal(number, before)

    return remove


def _exit_now(code: int, restore: Callable[[], None]) -> None:
    with suppress(Exception):
        restore()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
