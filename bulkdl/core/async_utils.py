"""Await work that a cancellation must not leave half done."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["run_to_completion"]

T = TypeVar("T")


async def run_to_completion(work: Awaitable[T], *, undo: Callable[[T], object] | None = None) -> T:
    """Await `work` to its end even if the caller is cancelled; raise the cancellation afterwards.

    A thread cannot be interrupted. If the caller went on at once, the thread could still write to a buffer or a file
    descriptor that is already used for something else. After a cancellation `undo` releases the unused result.
    """
    import asyncio  # noqa: PLC0415 - commands that only read the disk have no event loop, and asyncio is slow to import

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
