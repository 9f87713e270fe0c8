"""Room on the disk: a product that does not fit is not begun, so that what still fits is finished."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from bulkdl.core.errors import StorageStopped
from bulkdl.core.units import format_bytes
from bulkdl.protocol.byte_ranges import cover
from bulkdl.storage.os_errors import storage_error

if TYPE_CHECKING:
    from bulkdl.journal.records import Entry
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["known_size", "require_free_space", "reserve_if_plenty"]

MARGIN = 1024 * 1024
"""Bytes that stay free for the journal."""
PLENTY = 4 * 1024**3
"""Bytes beside a product that no run fills between two looks at the disk, which are a second apart at most."""
UNKNOWN = 16 * 1024 * 1024
"""Bytes that must be free before a product of unknown size, which the disk had no room for, is asked for again."""


def known_size(task: DownloadTask, entry: Entry | None) -> int | None:
    """Bytes of the product, as the manifest, the journal or the archive has told."""
    if task.product.size is not None:
        return task.product.size
    return entry.total if entry is not None and entry.total is not None else task.told_size


async def require_free_space(context: RunContext, task: DownloadTask, entry: Entry | None) -> None:
    """Raise `StorageStopped` (full) when what is left of the product does not fit beside what is in flight.

    Raise `ProductFailed` (storage) for one that is larger than a file can be here.

    `entry`: what is known of it and on disk; asked again once the archive has told the size.
    """
    size = known_size(task, entry)
    if size is not None:
        _require_small_enough(context, task, size)
        task.told_size = size
    elif task.waits_for_room:
        size = UNKNOWN
    left = max(0, (size or 0) - (cover(entry.ranges) if entry is not None else 0))
    free = await context.storage.free_bytes(enough=left + PLENTY) - MARGIN if left else 0
    # From here on nothing is awaited: of two that are asked for at once, the second sees what the first was promised.
    promises, own = context.reservations, task.product.id
    if left and left > free - promises.at_most(own):
        promised = promises.still(own, context.hub.counters.flights)
        if left > free - promised:
            raise StorageStopped(
                f"no room for {task.shown}: it needs {format_bytes(left)} more, {format_bytes(max(0, free - promised))} are free",
                hint="Make room, then run the same command again",
                full=True,
            )
    promises.give(own, left)


def reserve_if_plenty(context: RunContext, task: DownloadTask, size: int) -> bool:
    """Whether a product of so many bytes surely fits, as far as is known at this moment; then it has been promised room."""
    largest = context.storage.largest_file
    others = context.reservations.at_most(task.product.id)
    if (largest is not None and size > largest) or not context.storage.had_free(size + others + PLENTY):
        return False
    task.told_size = size
    context.reservations.give(task.product.id, size)
    return True


def _require_small_enough(context: RunContext, task: DownloadTask, size: int) -> None:
    """Before a byte is asked for: 4 GiB would arrive in vain on FAT32, night after night."""
    largest = context.storage.largest_file
    if largest is not None and size > largest:
        too_large = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        raise storage_error(too_large, path=context.storage.root / task.shown, what="write", root=context.storage.root)
