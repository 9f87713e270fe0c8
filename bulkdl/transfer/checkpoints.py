"""State of one product on disk during an attempt: written, then synced, then recorded in the journal.

A byte range is in the journal only once the partial has been synced, so a crash costs work but never truth.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.protocol.byte_ranges import Range, cover, missing, normalise

if TYPE_CHECKING:
    from bulkdl.journal.records import Entry
    from bulkdl.storage.partial_file import Partial
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["CHECKPOINT_S", "Checkpoints"]

CHECKPOINT_BYTES = 16 * 1024 * 1024
CHECKPOINT_S = 1.0
"""A power cut can cost so many bytes, or so many seconds, of each product in flight, whichever comes first."""


class Checkpoints:
    """The ranges of one partial that are written and those that are durable."""

    def __init__(self, context: RunContext, task: DownloadTask, *, entry: Entry, partial: Partial) -> None:
        """`entry`: what is durable of the version that is arriving."""
        self._context = context
        self._hasher = task.hasher
        self._partial = partial
        self.entry = entry
        """The journal's entry; its ranges are those of the last checkpoint."""
        self.durable = normalise(entry.ranges)
        self.written: tuple[Range, ...] = self.durable
        self.can_resume = True
        """False while a content coding is removed: no later request can continue inside it, so nothing is recorded."""
        self._unsynced = 0
        self._due = asyncio.Event()
        self._lock = asyncio.Lock()
        self._flight = context.hub.counters.flights[task.product.id]
        self._flight.have = cover(self.written)

    @property
    def is_complete(self) -> bool:
        """Whether every byte has been written; False while the total is unknown."""
        return self.entry.total is not None and not missing(self.written, self.entry.total)

    def note(self, at: int, count: int) -> None:
        """Take note that `count` bytes have been written from offset `at` on."""
        self._hasher.note(at, at + count)
        self.written = normalise((*self.written, (at, at + count)))
        self._flight.have = cover(self.written)
        self._unsynced += count
        if self._unsynced >= CHECKPOINT_BYTES:
            self._due.set()

    async def run(self) -> None:
        """Take a checkpoint whenever one is due, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(CHECKPOINT_S):
                    await self._due.wait()
            except TimeoutError:
                self._due.set()
            self._due.clear()
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Sync what has been written, then record it."""
        async with self._lock:
            ranges, self._unsynced = self.written, 0
            if ranges == self.durable:
                return
            await self._partial.sync()
            if not self.can_resume:
                return
            self.entry = replace(self.entry, ranges=ranges, updated=self._context.clock.wall())
            await self._context.journal.put(self.entry)
            self.durable = ranges

    async def keep_step(self) -> None:
        """Wait while a checkpoint is under way and the next one is full: that bounds what a crash on a slow disk costs."""
        if self._unsynced >= CHECKPOINT_BYTES and self._lock.locked():
            async with self._lock:
                pass
