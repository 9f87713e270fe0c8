"""Keep what a run learns of the connections of hosts in the journal, where the next run begins with it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.core.errors import StorageStopped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from bulkdl.concurrency.host_memory import HostMemory

__all__ = ["SAVE_S", "ConnectionMemory", "keep_memory"]

SAVE_S = 60.0
"""Seconds between two records, so that a killed run costs no more than that."""


class ConnectionMemory:
    """Records what has changed since the last record."""

    def __init__(
        self, known: Iterable[HostMemory], *, put: Callable[[HostMemory], None], is_rate_limited: bool
    ) -> None:
        """`known` is in the journal already; with `is_rate_limited`, the numbers show the user's limit, not the host's."""
        self._known = {memory.key: memory for memory in known}
        self._put = put
        self._is_rate_limited = is_rate_limited

    def save(self, memories: Iterable[HostMemory]) -> None:
        """Put each memory that says something new."""
        for memory in memories:
            known = self._known.get(memory.key)
            learned = _without_numbers(memory, known) if self._is_rate_limited else memory
            if learned != known and (learned.at or known is not None):
                self._known[memory.key] = learned
                self._put(learned)


def _without_numbers(memory: HostMemory, known: HostMemory | None) -> HostMemory:
    if known is None:
        return replace(memory, connections=0, rate=0.0, connections_at=0.0)
    return replace(
        memory,
        connections=known.connections,
        rate=known.rate,
        is_rate_of_answers=known.is_rate_of_answers,
        connections_at=known.connections_at,
    )


@asynccontextmanager
async def keep_memory(
    memory: ConnectionMemory, remembered: Callable[[], Iterable[HostMemory]], *, every_s: float = SAVE_S
) -> AsyncIterator[None]:
    """Record what is `remembered` every `every_s` seconds in the body of the `async with`, and at its end."""
    task = asyncio.create_task(_record(memory, remembered, every_s), name="keep memory")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        memory.save(remembered())


async def _record(memory: ConnectionMemory, remembered: Callable[[], Iterable[HostMemory]], every_s: float) -> None:
    with suppress(StorageStopped):  # the next entry of a product meets the same, and ends the run
        while True:
            await asyncio.sleep(every_s)  # the loop's own time, as for what is measured
            memory.save(remembered())
