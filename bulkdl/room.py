"""Room on the disk: a product that does not fit is not begun, so that what still fits is finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.errors import StorageStopped
from bulkdl.ranges import cover
from bulkdl.units import format_bytes

if TYPE_CHECKING:
    from bulkdl.bench import Bench, Job

__all__ = ["check_room"]

MARGIN = 1024 * 1024
"""Bytes that stay free for the journal."""


async def check_room(bench: Bench, job: Job) -> None:
    """Raise `StorageStopped` (full) when what is left of the product does not fit beside what is in flight."""
    entry = await bench.journal.get(job.product.id)
    size = job.product.size if job.product.size is not None else (entry.total if entry is not None else None)
    left = max(0, (size or 0) - (cover(entry.ranges) if entry is not None else 0))
    if not left:
        return
    flights = bench.hub.counters.flights
    promised = sum(max(0, f.total - f.have) for id_, f in flights.items() if f.total and id_ != job.product.id)
    free = await bench.storage.free_bytes() - MARGIN
    if left > free - promised:
        raise StorageStopped(
            f"no room for {job.shown}: it needs {format_bytes(left)} more, {format_bytes(max(0, free - promised))} are free",
            hint="Make room, then run the same command again",
            full=True,
        )
