"""Awaiting work that must not be left half done."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["run_to_completion"]

T = TypeVar("T")


async def run_to_completion(work: Awaitable[T], *, undo: Callable[[T], object] | None = None) -> T:
    """Await `work` to its very end, a cancellation included, which is raised afterwards.

    What a thread does cannot be called back: going on while it still uses a buffer or a descriptor would let it write
    from or into something that has another use by then. `undo` gives back a result that a cancellation leaves unused.
    """
    import asyncio  # noqa: PLC0415 - who only looks at a disk has no event loop, and it takes long to import

    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled() and future.exception() is None and undo is not None:
            undo(future.result())
        raise
