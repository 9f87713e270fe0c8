"""A partial file: written at any offset, synced for checkpoints, sealed when it is complete."""

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
    """One product's partial file, open for writes at any offset by several tasks at once."""

    def __init__(self, fd: int, path: Path, *, root: Path | None, executor: Executor | None) -> None:
        self.path = path
        self._fd = fd
        self._root = root
        self._executor = executor
        self._in_use: set[asyncio.Future[Any]] = set()
        self._sync_error: StorageStopped | ProductFailed | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, root: Path | None = None, executor: Executor | None = None, truncate: bool = False
    ) -> AsyncIterator[Partial]:
        """Open the file, creating it and its folders if needed; keep its content unless `truncate`.

        Raise `ProductFailed` or `StorageStopped`. `root` is the destination; the folders must stay inside it.
        """
        opening = aiofiles.os.wrap(open_new_partial if truncate else _open_partial)(path, root, executor=executor)
        partial = cls(await run_to_completion(opening, undo=os.close), path, root=root, executor=executor)
        try:
            yield partial
        except BaseException:
            with suppress(StorageStopped, ProductFailed):  # the first error is the more useful one
                await partial._close()
            raise
        await partial._close()

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` at `offset` (bytes). The caller must not change `data` before this returns."""
        await self._run("write", write_all, self._fd, offset, data)

    async def with_writer(self, work: Callable[[OffsetWriter], Awaitable[T]]) -> T:
        """Run `work` with an `OffsetWriter` of this file, to its end even if cancelled; the file stays open so long."""
        return await self._track(lambda: work(OffsetWriter(self._fd, self.path, self._root)))

    async def sync(self) -> None:
        """Return once all earlier writes are durable. After one failure every later call fails too.

        A system may report lost data only once, so a later successful `fsync` proves nothing.
        """
        await self._sync_with(sync_data)

    async def seal(self) -> FileFacts:
        """Sync data and file times; return facts that are still true after a power cut."""
        await self._sync_with(sync_all)
        found = await self._run("read", os.fstat, self._fd)
        return FileFacts(size=found.st_size, mtime_ns=found.st_mtime_ns, is_file=True)

    async def size(self) -> int:
        """Return the file length in bytes."""
        return (await self._run("read", os.fstat, self._fd)).st_size

    async def _sync_with(self, sync: Callable[[int], None]) -> None:
        if self._sync_error is not None:
            raise self._sync_error
        try:
            await self._run("write", sync, self._fd)
        except (StorageStopped, ProductFailed) as error:
            self._sync_error = error
            raise

    async def _run(self, what: str, function: Callable[..., T], *arguments: object) -> T:
        try:
            return await self._track(lambda: aiofiles.os.wrap(function)(*arguments, executor=self._executor))
        except OSError as error:
            raise storage_error(error, path=self.path, what=what, root=self._root) from error

    async def _track(self, begin: Callable[[], Awaitable[T]]) -> T:
        if self._fd < 0:
            raise ValueError(f"{self.path} is closed")
        work = asyncio.ensure_future(begin())
        self._in_use.add(work)
        work.add_done_callback(self._in_use.discard)
        return await run_to_completion(work)

    async def _close(self) -> None:
        """Close the descriptor once no thread uses it; the system may reuse its number for another file at once."""
        fd, self._fd = self._fd, -1
        if self._in_use:
            await run_to_completion(asyncio.wait(tuple(self._in_use)))
        try:
            await run_to_completion(aiofiles.os.wrap(os.close)(fd, executor=self._executor))
        except OSError as error:  # NFS reports an exceeded quota only at close
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
    """Open the partial and empty it.

    If a crash interrupted a move between `link` and `unlink`, the partial and the final file are one file. Then unlink
    the partial's name instead of truncating, so the final file keeps its content.
    """
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
        if path.parent.is_dir():  # FUSE drivers of exFAT answer ENOENT to an unsupported character
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path)) from error
        raise


def require_file_on_mount(fd: int, path: Path, root: Path | None) -> None:
    """Check the mount again after the open, since the disk may have been unmounted before; raise `StorageStopped`."""
    try:
        require_same_mount(root)
    except StorageStopped:
        _discard(fd, path)
        raise


def _discard(fd: int, path: Path) -> None:
    """Close the file and delete it if it is empty; a file with content was not created by this call."""
    empty = os.fstat(fd).st_size == 0
    os.close(fd)
    if empty:
        with suppress(OSError):
            path.unlink()
