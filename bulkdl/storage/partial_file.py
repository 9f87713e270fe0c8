"""A partial file: written at offsets, synced, sealed."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import aiofiles.os

from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.models import FailureKind
from bulkdl.storage.file_info import FileFacts
from bulkdl.storage.filesystem import OPEN_FLAGS, make_folders, sync_all, sync_data
from bulkdl.storage.mount_guard import require_same_mount
from bulkdl.storage.offset_writer import OffsetWriter, write_all
from bulkdl.storage.os_errors import shown, storage_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from concurrent.futures import Executor
    from pathlib import Path


__all__ = ["Partial", "T", "open_new_partial", "require_file_on_mount"]


T = TypeVar("T")


class Partial:
    """One product's partial file, opened for writing at any offset, by several tasks at once."""

    def __init__(self, fd: int, path: Path, *, root: Path | None, executor: Executor | None) -> None:
        self.path = path
        self._fd = fd
        self._root = root
        self._executor = executor
        self._using: set[asyncio.Future[Any]] = set()
        self._lost: StorageStopped | ProductFailed | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, root: Path | None = None, executor: Executor | None = None, anew: bool = False
    ) -> AsyncIterator[Partial]:
        """Create the folders and the file where there is none, and keep what is in it, unless it is to be written `anew`.

        Raise `ProductFailed` or `StorageStopped`. `root` is the destination, which the folders may not leave.
        """
        opening = aiofiles.os.wrap(open_new_partial if anew else _open_partial)(path, root, executor=executor)
        partial = cls(await run_to_completion(opening, undo=os.close), path, root=root, executor=executor)
        try:
            yield partial
        except BaseException:
            with suppress(StorageStopped, ProductFailed):  # what happened before says more
                await partial._close()
            raise
        await partial._close()

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` at `offset` (bytes); it must not change before this returns."""
        await self._run("write", write_all, self._fd, offset, data)

    async def lend(self, work: Callable[[OffsetWriter], Awaitable[T]]) -> T:
        """Do `work` with a pen to this file, to its end, a cancellation included; it is not closed before that."""
        return await self._used(lambda: work(OffsetWriter(self._fd, self.path, self._root)))

    async def sync(self) -> None:
        """Return once all that was written before is durable; after a failure it fails for good.

        A system may report lost data once only, so that a second `fsync` that succeeds proves nothing.
        """
        await self._synced(sync_data)

    async def seal(self) -> FileFacts:
        """Like `sync`, times included: the facts hold after a power cut too."""
        await self._synced(sync_all)
        found = await self._run("read", os.fstat, self._fd)
        return FileFacts(size=found.st_size, mtime_ns=found.st_mtime_ns, is_file=True)

    async def size(self) -> int:
        """Length in bytes."""
        return (await self._run("read", os.fstat, self._fd)).st_size

    async def _synced(self, sync: Callable[[int], None]) -> None:
        if self._lost is not None:
            raise self._lost
        try:
            await self._run("write", sync, self._fd)
        except (StorageStopped, ProductFailed) as error:
            self._lost = error
            raise

    async def _run(self, what: str, function: Callable[..., T], *arguments: object) -> T:
        try:
            return await self._used(lambda: aiofiles.os.wrap(function)(*arguments, executor=self._executor))
        except OSError as error:
            raise storage_error(error, path=self.path, what=what, root=self._root) from error

    async def _used(self, begin: Callable[[], Awaitable[T]]) -> T:
        if self._fd < 0:
            raise ValueError(f"{self.path} is closed")
        work = asyncio.ensure_future(begin())
        self._using.add(work)
        work.add_done_callback(self._using.discard)
        return await run_to_completion(work)

    async def _close(self) -> None:
        """Close once no thread uses the descriptor any more: its number will soon mean another file."""
        fd, self._fd = self._fd, -1
        if self._using:
            await run_to_completion(asyncio.wait(tuple(self._using)))
        try:
            await run_to_completion(aiofiles.os.wrap(os.close)(fd, executor=self._executor))
        except OSError as error:  # NFS tells here of a quota that was passed
            raise storage_error(error, path=self.path, what="write", root=self._root) from error


def _open_partial(path: Path, root: Path | None) -> int:
    try:
        require_same_mount(root)
        make_folders(root, path.parent)
        fd = _create(path)
    except OSError as error:
        raise storage_error(error, path=path, what="create", root=root) from error
    require_file_on_mount(fd, path, root)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise _not_a_file(path, root)


def open_new_partial(path: Path, root: Path | None) -> int:
    """The same, empty. Of a move that was cut short between its two names, what has the final one stays as it is."""
    fd = _open_partial(path, root)
    found = os.fstat(fd)
    shared = found.st_nlink > 1
    try:
        if shared:
            os.close(fd)
            path.unlink()
        elif found.st_size:
            os.ftruncate(fd, 0)
    except OSError as error:
        if not shared:
            os.close(fd)
        raise storage_error(error, path=path, what="write", root=root) from error
    return _open_partial(path, root) if shared else fd


def _not_a_file(path: Path, root: Path | None) -> ProductFailed:
    return ProductFailed(
        f"{shown(path, root)} is not a regular file",
        kind=FailureKind.STORAGE,
        hint="Move it away, or give the product another `file`",
    )


def _create(path: Path) -> int:
    try:
        return os.open(path, OPEN_FLAGS, 0o666)
    except FileNotFoundError as error:
        if path.parent.is_dir():  # FUSE drivers of exFAT answer so to a character that they do not store
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path)) from error
        raise


def require_file_on_mount(fd: int, path: Path, root: Path | None) -> None:
    """Like `require_file_on_mount`, once the file is open: until then the disk may have been unmounted."""
    try:
        require_same_mount(root)
    except StorageStopped:
        _take_back(fd, path)
        raise


def _take_back(fd: int, path: Path) -> None:
    """Leave nothing where the destination is not any more; what held bytes before was not made by us."""
    empty = os.fstat(fd).st_size == 0
    os.close(fd)
    if empty:
        with suppress(OSError):
            path.unlink()
