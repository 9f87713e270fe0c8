"""Blocking work on threads of its own, so that the loop stays free and a cancellation ends the work, not just the wait."""

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

_MOST = 8
"""Threads of one workshop where the machine has many cores: MD5 at 4 GB/s."""


class Stopped(Exception):  # noqa: N818 - named for what happened
    """The work was told to end; never seen by the awaiting side, which gets its `CancelledError`."""


class Stop:
    """Told from the loop, asked between two blocks of work."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Raise `Stopped` once the work is no longer wanted."""
        if self._event.is_set():
            raise Stopped


class CancellableThreadPool:
    """A few named threads, started with the first work and kept; more work waits its turn."""

    def __init__(self, name: str, *, workers: int | None = None) -> None:
        self._name = name
        self._workers = workers or max(2, min(_MOST, os.cpu_count() or 2))
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have `work` done when a thread is free, first come first served; whoever calls sees to its end."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix=self._name)
        return self._pool.submit(work)

    async def run(self, work: Callable[[Stop], T]) -> T:
        """Run `work` on a thread; a cancellation tells it to stop and waits until it has."""
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
    """Wait through further cancellations: the caller may remove the file once this returns."""
    while not waiter.done():
        try:
            await asyncio.wait([waiter])
        except asyncio.CancelledError:
            continue
    if not waiter.cancelled():
        waiter.exception()  # seen, so that asyncio doesn't report it as lost
