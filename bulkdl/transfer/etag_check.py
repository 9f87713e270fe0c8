"""Find out if a changed ETag meant changed bytes.

Before a partial is overwritten because its ETag has changed, a sample of its bytes is kept in memory. Once the new download
has come that far, the sample is compared. If the bytes are the same, the host's ETags are unstable (`server_quirks`).
"""

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

SAMPLE_BYTES = 64 * 1024
"""Bytes that are compared. Far into a compressed product, no other version has the same ones."""


async def capture_sample(
    context: RunContext, task: DownloadTask, entry: Entry | None, head: Head, *, total: int | None
) -> None:
    """Keep the last bytes of the first range of `entry`, whose partial a response with `head` will overwrite.

    Do so only if nothing but the ETag has changed, and only for a product with a checksum, which proves the new bytes right.
    """
    if entry is None or not entry.ranges or not task.product.checksums or total is None or entry.total != total:
        return
    old, new = strong_etag(entry.etag), strong_etag(head.etag)
    if old is None or new is None or old == new or entry.source != task.source.source:
        return
    first, end = entry.ranges[0]
    if first != 0 or end < SAMPLE_BYTES:
        return
    if task.old_bytes is not None and task.old_bytes.offset + SAMPLE_BYTES <= end:
        await compare_sample(context, task, entry)
    data = await context.storage.read(context.storage.root / (entry.part or ""), end - SAMPLE_BYTES, SAMPLE_BYTES)
    task.old_bytes = OldBytesSample(entry.source, old, total, end - SAMPLE_BYTES, data)


async def compare_sample(context: RunContext, task: DownloadTask, entry: Entry) -> None:
    """Compare the kept sample with the partial of `entry`, which has arrived that far; note an ETag that changed alone."""
    sample, task.old_bytes = task.old_bytes, None
    if sample is None or (sample.source, sample.total) != (entry.source, entry.total):
        return
    if strong_etag(entry.etag) in (None, sample.etag):
        return
    path = context.storage.root / (entry.part or "")
    if await context.storage.read(path, sample.offset, SAMPLE_BYTES) == sample.data:
        context.hosts.note(task.source.origin, ServerObservation.ETAG_CHANGED)
