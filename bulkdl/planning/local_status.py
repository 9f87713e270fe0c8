"""Status of an existing file at a product's final path. Pure."""

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
    """Status of a product's final path by journal, manifest and `stat`, before any request."""

    IN_PLACE = "in place"
    ABSENT = "absent"
    NEEDS_CHECKSUM = "needs checksum"  # the size matches; compute the checksums, or unpack the file
    UNVERIFIABLE = "unverifiable"  # neither the journal nor the manifest has a size or a checksum
    CONFLICTS = "conflicts"  # not a regular file, or the size differs from the journal or the manifest
    REPLACE = "replace"  # `verify --requeue` found it wrong


def local_status(product: Product, entry: Entry | None, facts: FileFacts | None) -> LocalFileStatus:
    """Return the status of the file at a product's final path; a file still to be unpacked is never IN_PLACE."""
    found = _file_status(product, entry, facts)
    unpacked = not product.extract or (entry is not None and entry.phase is Phase.DONE)
    return LocalFileStatus.NEEDS_CHECKSUM if found is LocalFileStatus.IN_PLACE and not unpacked else found


def _file_status(product: Product, entry: Entry | None, facts: FileFacts | None) -> LocalFileStatus:
    if facts is None:
        return LocalFileStatus.ABSENT
    if not facts.is_file:
        return LocalFileStatus.CONFLICTS
    if entry is not None and entry.phase is Phase.REQUEUED:
        # The entry has a size and a time only once a new file was about to be moved there before a crash.
        moved = entry.size == facts.size and entry.mtime_ns == facts.mtime_ns
        return LocalFileStatus.IN_PLACE if moved else LocalFileStatus.REPLACE
    placed = (
        entry if entry is not None and entry.phase in (Phase.DONE, Phase.PLACING) and entry.size is not None else None
    )
    sizes = {size for size in (product.size, placed.size if placed else None) if size is not None}
    if sizes and sizes != {facts.size}:
        return LocalFileStatus.CONFLICTS
    if placed is not None and placed.mtime_ns == facts.mtime_ns and set(product.checksums) <= set(placed.digests):
        return LocalFileStatus.IN_PLACE
    if product.checksums or (placed is not None and placed.digests):
        return LocalFileStatus.NEEDS_CHECKSUM
    # If a crash may have interrupted a move, the size alone proves nothing: the old file may still be there.
    known = product.size is not None or (placed is not None and placed.phase is Phase.DONE)
    return LocalFileStatus.IN_PLACE if known else LocalFileStatus.UNVERIFIABLE
