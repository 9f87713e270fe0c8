"""A stretch of a partial that is about to be written over, to tell later whether the other ETag meant other bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.protocol.headers import strong_etag
from bulkdl.protocol.server_quirks import Sight
from bulkdl.transfer.state import Witness

if TYPE_CHECKING:
    from bulkdl.journal.records import Entry
    from bulkdl.protocol.response_head import Head
    from bulkdl.transfer.context import Bench
    from bulkdl.transfer.task import Job

__all__ = ["hear", "summon"]

STRETCH = 64 * 1024
"""Bytes that are compared; far into a packed product they are those of no other edition."""


async def summon(bench: Bench, job: Job, entry: Entry | None, head: Head, *, total: int | None) -> None:
    """Before the partial of `entry` is given up for a response with `head`: keep its last stretch where that can tell.

    Only where the ETag alone has changed, and only for a product with a checksum, which will say that the new bytes are right.
    """
    if entry is None or not entry.ranges or not job.product.checksums or total is None or entry.total != total:
        return
    old, new = strong_etag(entry.etag), strong_etag(head.etag)
    if old is None or new is None or old == new or entry.source != job.source.source:
        return
    first, end = entry.ranges[0]
    if first != 0 or end < STRETCH:
        return
    if job.witness is not None and job.witness.offset + STRETCH <= end:
        await hear(bench, job, entry)
    data = await bench.storage.read(bench.storage.root / (entry.part or ""), end - STRETCH, STRETCH)
    job.witness = Witness(entry.source, old, total, end - STRETCH, data)


async def hear(bench: Bench, job: Job, entry: Entry) -> None:
    """Hold the kept stretch against the same place in the partial of `entry`, which has arrived that far."""
    witness, job.witness = job.witness, None
    if witness is None or (witness.source, witness.total) != (entry.source, entry.total):
        return
    if strong_etag(entry.etag) in (None, witness.etag):
        return
    path = bench.storage.root / (entry.part or "")
    if await bench.storage.read(path, witness.offset, STRETCH) == witness.data:
        bench.hosts.note(job.source.origin, Sight.ETAG_CHANGED)
