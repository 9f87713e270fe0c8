"""Blocking work on threads: the event loop stays free, and a cancellation ends the work, not just the wait."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

__all__ = ["CancellableThreadPool", "Stop", "Stopped"]

T = TypeVar("T")

_MAX_THREADS = 8
"""Limit of threads in one pool on a machine with many cores: enough for MD5 at 4 GB/s."""


class Stopped(Exception):  # noqa: N818 - named for what happened
    """Ends cancelled work on its thread; the awaiting side sees only its own `CancelledError`."""


class Stop:
    """Stop flag: the event loop sets it, and the work checks it between two blocks."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Raise `Stopped` if the work has been cancelled."""
        if self._event.is_set():
            raise Stopped


class CancellableThreadPool:
    """A few named threads that start with the first work and stay; further work waits in a queue."""

    def __init__(self, name: str, *, workers: int | None = None) -> None:
        self._name = name
        self._workers = workers or max(2, min(_MAX_THREADS, os.cpu_count() or 2))
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue `work` for the next free thread, in order of arrival; the caller must wait for its end."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix=self._name)
        return self._pool.submit(work)

    async def run(self, work: Callable[[Stop], T]) -> T:
        """Run `work` on a thread; on cancellation ask it to stop, and wait until it has stopped."""
        stop = Stop()
        future = self.submit(partial(work, stop))
        waiter = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            stop.set()
            future.cancel()
            await _until_done(waiter)
            raise


async def _until_done(waiter: asyncio.Future[T]) -> None:
    """Wait despite further cancellations: after this returns, the caller may remove the file."""
    while not waiter.done():
        try:
            await asyncio.wait([waiter])
        except asyncio.CancelledError:
            continue
    if not waiter.cancelled():
        waiter.exception()  # retrieved, so that asyncio does not log it as never retrieved
