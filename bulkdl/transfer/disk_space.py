"""Free disk space: a product that does not fit is not begun, so that the products that still fit are finished."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.models import FailureKind
from bulkdl.core.units import format_bytes
from bulkdl.protocol.byte_ranges import cover
from bulkdl.storage.os_errors import storage_error
from bulkdl.transfer.response_errors import believed_twice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkdl.core.events import Flight
    from bulkdl.journal.records import Entry
    from bulkdl.storage.destination import Storage
    from bulkdl.transfer.state import SpaceReservations
    from bulkdl.transfer.task import DownloadTask

__all__ = ["known_size", "require_free_space", "reserve_if_plenty"]

MARGIN = 1024 * 1024
"""Bytes that always stay free for the journal."""
PLENTY = 4 * 1024**3
"""Spare bytes with which a product surely fits: no run writes that much until the free space is read again (1 s at most)."""
UNKNOWN = 16 * 1024 * 1024
"""Bytes that must be free before a product of unknown size is requested again after the disk was full."""


def known_size(task: DownloadTask, entry: Entry | None) -> int | None:
    """Return the bytes of the whole product as the manifest, the journal or the archive gives them, None if none does."""
    if task.product.size is not None:
        return task.product.size
    return entry.total if entry is not None and entry.total is not None else task.known_size


async def require_free_space(
    task: DownloadTask,
    entry: Entry | None,
    *,
    storage: Storage,
    reservations: SpaceReservations,
    flights: Mapping[str, Flight],
) -> None:
    """Reserve disk space for the bytes of the product that are still missing.

    Raise `StorageStopped` (full) if they do not fit beside the products in flight. Raise `ProductFailed` (storage) if the
    product is larger than a file can be here. Call it again once the server's response has given the size.
    """
    size = known_size(task, entry)
    if size is not None:
        _require_small_enough(storage, task.shown, size)
        if task.product.size is None:
            await _require_possible(task, size, storage)
        task.known_size = size
    elif task.waits_for_room:
        size = UNKNOWN
    left = max(0, (size or 0) - (cover(entry.ranges) if entry is not None else 0))
    free = await storage.free_bytes(enough=left + PLENTY) - MARGIN if left else 0
    # Nothing is awaited from here on, so of two requests at the same moment the second sees the first one's reservation.
    own = task.product.id
    if left and left > free - reservations.reserved_for_others(own):
        reserved = reservations.still_missing_of_others(own, flights)
        if left > free - reserved:
            raise StorageStopped(
                f"not enough disk space for {task.shown}: it needs {format_bytes(left)} more, "
                f"{format_bytes(max(0, free - reserved))} are free",
                hint="Free some disk space, then run the same command again",
                full=True,
            )
    reservations.reserve(own, left)


def reserve_if_plenty(task: DownloadTask, size: int, *, storage: Storage, reservations: SpaceReservations) -> bool:
    """Reserve `size` bytes and return True if they surely fit, by the free space that was read last."""
    largest = storage.largest_file
    others = reservations.reserved_for_others(task.product.id)
    if (largest is not None and size > largest) or not storage.had_free(size + others + PLENTY):
        return False
    task.known_size = size
    reservations.reserve(task.product.id, size)
    return True


async def _require_possible(task: DownloadTask, size: int, storage: Storage) -> None:
    """Raise the product's own failure for a size from a server that the whole disk cannot hold: no free space helps."""
    if size <= PLENTY:
        return
    await storage.free_bytes(enough=size)
    if size > storage.capacity:
        failed = ProductFailed(
            f"the archive announces {format_bytes(size)} for {task.shown}, and the whole disk has "
            f"{format_bytes(storage.capacity)}",
            kind=FailureKind.SIZE,
            hint="If the size is right, choose a larger disk; otherwise report it to the archive",
        )
        raise believed_twice(task, failed)


def _require_small_enough(storage: Storage, file: str, size: int) -> None:
    """Fail before the request: on FAT32, 4 GiB would arrive in every run and could not be stored."""
    largest = storage.largest_file
    if largest is not None and size > largest:
        too_large = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        raise storage_error(too_large, path=storage.root / file, what="write", root=storage.root)
