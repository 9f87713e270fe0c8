"""Ask the system not to sleep while a run works.

`wakepy` knows how each system is asked: D-Bus inhibitors on Linux, `caffeinate` on macOS, `SetThreadExecutionState` on
Windows. A system that refuses, such as a compute node without D-Bus, does not sleep by itself either, so nothing is said.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bulkdl.core.clock import Clock

__all__ = ["keep_awake"]

_BEGINS_AFTER_S = 60.0
"""A run that is over sooner need not ask; so `wakepy` is not imported while a run starts (0.1 s)."""


@asynccontextmanager
async def keep_awake(*, clock: Clock) -> AsyncIterator[None]:
    """Keep the system awake in the body of the `async with`, once that has taken a minute."""
    task = asyncio.create_task(_hold(clock), name="keep awake")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _hold(clock: Clock) -> None:
    await clock.sleep(_BEGINS_AFTER_S)
    released = threading.Event()
    # A mode of wakepy belongs to the thread that entered it. The thread is a daemon: a bus that hangs holds up nobody.
    threading.Thread(target=_inhibit_sleep, args=(released,), name="keep awake", daemon=True).start()
    try:
        await asyncio.Event().wait()
    finally:
        released.set()


def _inhibit_sleep(released: threading.Event) -> None:
    from wakepy import keep  # noqa: PLC0415 - see `_BEGINS_AFTER_S`

    with keep.running(on_fail="pass"):
        released.wait()
