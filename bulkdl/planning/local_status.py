"""What to think of a file that is already at a product's final name. Pure."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from bulkdl.journal.records import Phase

if TYPE_CHECKING:
    from bulkdl.core.models import Product
    from bulkdl.journal.records import Entry
    from bulkdl.storage.file_info import FileFacts

__all__ = ["LocalFileStatus", "local_status"]


class LocalFileStatus(Enum):
    """What the journal, the manifest and `stat` say of a product before anything is asked."""

    IN_PLACE = "in place"
    ABSENT = "absent"
    HASH = "hash"  # the size agrees; the checksums have to be computed, or it has to be unpacked
    UNKNOWN = "unknown"  # neither the journal nor the manifest knows anything
    DISAGREES = "disagrees"
    REPLACE = "replace"  # found wrong by `verify --requeue`


def local_status(product: Product, entry: Entry | None, facts: FileFacts | None) -> LocalFileStatus:
    """Pure: what to think of the file at a product's final name."""
    found = _local_status(product, entry, facts)
    unpacked = not product.extract or (entry is not None and entry.phase is Phase.DONE)
    return LocalFileStatus.HASH if found is LocalFileStatus.IN_PLACE and not unpacked else found


def _local_status(product: Product, entry: Entry | None, facts: FileFacts | None) -> LocalFileStatus:
    if facts is None:
        return LocalFileStatus.ABSENT
    if not facts.is_file:
        return LocalFileStatus.DISAGREES
    if entry is not None and entry.phase is Phase.REQUEUED:
        # Its size and time are known once the new file is about to be moved there.
        moved = entry.size == facts.size and entry.mtime_ns == facts.mtime_ns
        return LocalFileStatus.IN_PLACE if moved else LocalFileStatus.REPLACE
    placed = (
        entry if entry is not None and entry.phase in (Phase.DONE, Phase.PLACING) and entry.size is not None else None
    )
    sizes = {size for size in (product.size, placed.size if placed else None) if size is not None}
    if sizes and sizes != {facts.size}:
        return LocalFileStatus.DISAGREES
    if placed is not None and placed.mtime_ns == facts.mtime_ns and set(product.checksums) <= set(placed.digests):
        return LocalFileStatus.IN_PLACE
    if product.checksums or (placed is not None and placed.digests):
        return LocalFileStatus.HASH
    # Of a move that a crash may have cut short the size alone proves nothing: the old file may still be there.
    known = product.size is not None or (placed is not None and placed.phase is Phase.DONE)
    return LocalFileStatus.IN_PLACE if known else LocalFileStatus.UNKNOWN
