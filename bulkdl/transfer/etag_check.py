"""A stretch of a partial that is about to be written over, to tell later whether the other ETag meant other bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.protocol.headers import strong_etag
from bulkdl.protocol.server_quirks import ServerObservation
from bulkdl.transfer.state import OldBytesSample

if TYPE_CHECKING:
    from bulkdl.journal.records import Entry
    from bulkdl.protocol.response_head import Head
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["capture_sample", "compare_sample"]

STRETCH = 64 * 1024
"""Bytes that are compared; far into a packed product they are those of no other edition."""


async def capture_sample(
    context: RunContext, task: DownloadTask, entry: Entry | None, head: Head, *, total: int | None
) -> None:
    """Before the partial of `entry` is given up for a response with `head`: keep its last stretch where that can tell.

    Only where the ETag alone has changed, and only for a product with a checksum, which will say that the new bytes are right.
    """
    if entry is None or not entry.ranges or not task.product.checksums or total is None or entry.total != total:
        return
    old, new = strong_etag(entry.etag), strong_etag(head.etag)
    if old is None or new is None or old == new or entry.source != task.source.source:
        return
    first, end = entry.ranges[0]
    if first != 0 or end < STRETCH:
        return
    if task.old_bytes is not None and task.old_bytes.offset + STRETCH <= end:
        await compare_sample(context, task, entry)
    data = await context.storage.read(context.storage.root / (entry.part or ""), end - STRETCH, STRETCH)
    task.old_bytes = OldBytesSample(entry.source, old, total, end - STRETCH, data)


async def compare_sample(context: RunContext, task: DownloadTask, entry: Entry) -> None:
    """Hold the kept stretch against the same place in the partial of `entry`, which has arrived that far."""
    witness, task.old_bytes = task.old_bytes, None
    if witness is None or (witness.source, witness.total) != (entry.source, entry.total):
        return
    if strong_etag(entry.etag) in (None, witness.etag):
        return
    path = context.storage.root / (entry.part or "")
    if await context.storage.read(path, witness.offset, STRETCH) == witness.data:
        context.hosts.note(task.source.origin, ServerObservation.ETAG_CHANGED)
