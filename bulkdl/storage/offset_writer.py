"""Writes at an offset of one open file, from any thread: a block of memory, or bytes spliced from a pipe."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.storage.filesystem import write_some
from bulkdl.storage.os_errors import storage_error

if TYPE_CHECKING:
    from pathlib import Path

    from bulkdl.core.errors import ProductFailed, StorageStopped

__all__ = ["OffsetWriter", "write_all"]


@dataclass(frozen=True, slots=True)
class OffsetWriter:
    """Writes to a partial from another thread; raises the same errors as the partial."""

    fd: int
    path: Path
    root: Path | None

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data` at `offset` (bytes); raise `StorageStopped` or `ProductFailed`."""
        try:
            write_all(self.fd, offset, data)
        except OSError as error:
            raise self._error(error) from error

    def move(self, pipe: int, offset: int, count: int) -> None:
        """Move `count` bytes from `pipe` to `offset`, without a copy if the file system supports it (Linux splice)."""
        try:
            _move_all(pipe, self.fd, offset, count)
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> StorageStopped | ProductFailed:
        return storage_error(error, path=self.path, what="write", root=self.root)


def write_all(fd: int, offset: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte of `data` at `offset`, repeating after short writes; raise `OSError`."""
    done = write_some(fd, data, offset) if isinstance(data, bytes) else 0
    if done == len(data):
        return
    with memoryview(data) as view, view.cast("B") as octets:
        while done < len(octets):
            with octets[done:] as rest:
                written = write_some(fd, rest, offset + done)
            if written == 0:
                raise OSError(errno.EIO, "the system wrote nothing")
            done += written


def _move_all(pipe: int, fd: int, offset: int, count: int) -> None:
    done = 0
    while done < count:
        try:
            moved = os.splice(pipe, fd, count - done, offset_dst=offset + done)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            data = os.read(pipe, count - done)  # this file system does not support splice
            write_all(fd, offset + done, data)
            moved = len(data)
        if moved == 0:
            raise OSError(errno.EIO, "the system wrote nothing")
        done += moved
