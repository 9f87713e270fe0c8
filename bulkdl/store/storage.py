"""Files of one destination: partials that are written at offsets, and the atomic move to the final name.

All of it runs in the storage's own threads, so that a slow disk holds up neither the event loop nor look-ups of host
names or hashing, which use other threads.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import stat
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import aiofiles.os

from bulkdl.errors import ProductFailed, StorageStopped
from bulkdl.model import FailureKind
from bulkdl.store.disk import (
    GONE,
    NAME_MAX,
    OPEN_FLAGS,
    STATE_FOLDER,
    THIS_NAME,
    check_home,
    forget_home,
    largest_file,
    make_folders,
    move_new,
    name_max,
    remember_home,
    settled,
    shown,
    stopped,
    storage_error,
    sync_all,
    sync_data,
    sync_folder,
)
from bulkdl.store.pen import Pen, write_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

__all__ = ["FileFacts", "Partial", "Storage", "place_all", "storage_error", "write_whole"]

T = TypeVar("T")

_THREADS: Final = 8
_FREE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What `stat` says of a file; a symlink is followed, and one that leads nowhere is not a file."""

    size: int
    mtime_ns: int
    is_file: bool
    """A regular file."""


# --- A partial --------------------------------------------------------------------------------------------------------


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
        cls, path: Path, *, root: Path | None = None, executor: Executor | None = None
    ) -> AsyncIterator[Partial]:
        """Create the folders and the file where there is none, and keep what is in it.

        Raise `ProductFailed` or `StorageStopped`. `root` is the destination, which the folders may not leave.
        """
        opening = aiofiles.os.wrap(_open_partial)(path, root, executor=executor)
        partial = cls(await settled(opening, undo=os.close), path, root=root, executor=executor)
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

    async def lend(self, work: Callable[[Pen], Awaitable[T]]) -> T:
        """Do `work` with a pen to this file, to its end, a cancellation included; it is not closed before that."""
        return await self._used(lambda: work(Pen(self._fd, self.path, self._root)))

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

    async def truncate(self, size: int) -> None:
        """Cut or extend (with zeros) to `size` bytes."""
        await self._run("truncate", os.ftruncate, self._fd, size)

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
        return await settled(work)

    async def _close(self) -> None:
        """Close once no thread uses the descriptor any more: its number will soon mean another file."""
        fd, self._fd = self._fd, -1
        if self._using:
            await settled(asyncio.wait(tuple(self._using)))
        try:
            await settled(aiofiles.os.wrap(os.close)(fd, executor=self._executor))
        except OSError as error:  # NFS tells here of a quota that was passed
            raise storage_error(error, path=self.path, what="write", root=self._root) from error


def _open_partial(path: Path, root: Path | None, known: set[Path] | None = None) -> int:
    try:
        if known is None or path.parent not in known:
            check_home(root)
            make_folders(root, path.parent)
        if known is not None:
            known.add(path.parent)
        fd = _create(path)
    except OSError as error:
        raise storage_error(error, path=path, what="create", root=root) from error
    try:
        check_home(root)  # after it: until here the disk may have been unmounted
    except StorageStopped:
        _take_back(fd, path)
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise ProductFailed(
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


def _take_back(fd: int, path: Path) -> None:
    """Leave nothing where the destination is not any more; what held bytes before was not made by us."""
    empty = os.fstat(fd).st_size == 0
    os.close(fd)
    if empty:
        with suppress(OSError):
            path.unlink()


# --- A destination ----------------------------------------------------------------------------------------------------


class Storage:
    """One destination: where its files are, and what may be done to them.

    Its threads end with `close`, or with the `async with` block. An `executor` that is given stays the giver's.
    """

    def __init__(self, root: Path, *, executor: Executor | None = None, threads: int = _THREADS) -> None:
        self.root = root
        self._own = ThreadPoolExecutor(threads, thread_name_prefix="bulkdl-disk") if executor is None else None
        self._executor: Executor | None = executor or self._own
        self._name_max = NAME_MAX
        self.largest_file: int | None = None
        """Bytes that one file can have here; None: no such limit is known."""
        self._free = (0, 0.0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; what they are doing is finished first."""
        if self._own is not None:
            self._own.shutdown(wait=True)
        forget_home(self.root)

    def final(self, file: str) -> Path:
        """Where `file` (relative, with `/`) goes; raise `ProductFailed` for a name that is not the product's to have."""
        pure = PurePosixPath(file)
        own = bool(pure.parts) and pure.parts[0].casefold() == STATE_FOLDER
        if not pure.parts or pure.is_absolute() or ".." in pure.parts or own or "\0" in file:
            raise ProductFailed(
                f"'{file}' cannot be the name of a product",
                kind=FailureKind.STORAGE,
                hint=f"Use a relative path that stays in the destination and outside '{STATE_FOLDER}/'",
            )
        return self.root.joinpath(*pure.parts)

    def partial(self, file: str, id: str, *, taken: Callable[[str], bool]) -> str:  # noqa: A002
        """The partial's path, relative with `/`: `NAME.part` beside the file.

        Where that name is too long or `taken` by a product: a name under `.bulkdl/` made from the product's `id`.
        """
        beside = f"{file}.part"
        if len(os.fsencode(PurePosixPath(beside).name)) <= self._name_max and not taken(beside):
            return beside
        digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return f"{STATE_FOLDER}/partials/{digest}.part"

    async def prepare(self) -> None:
        """Make sure that the destination exists and can be written to; raise `StorageStopped`."""
        self._name_max, self.largest_file = await self._call(_prepare, self.root)

    def open_partial(self, relative: str) -> AbstractAsyncContextManager[Partial]:
        """Open the partial that `partial` named, in this storage's threads."""
        return Partial.open(self.root / relative, root=self.root, executor=self._executor)

    async def stat(self, path: Path) -> FileFacts | None:
        """The facts of `path`, None where nothing can be seen; raise `StorageStopped`."""
        return (await self.stats((path,)))[0]

    async def stats(self, paths: Sequence[Path]) -> list[FileFacts | None]:
        """Like `stat` for many at the price of one change of thread."""
        return await self._call(_stats, self.root, tuple(paths))

    async def remove(self, path: Path) -> None:
        """Remove a file for good: no power cut brings it back. One that is missing is fine."""
        await self._guarded("remove", path, _remove, path)

    async def place(self, part: Path, final: Path, *, overwrite: bool) -> FileFacts:
        """Move a complete partial to its final name in one step, and make the name durable.

        Whatever is there already, a symlink included, is replaced only if `overwrite`; else `ProductFailed` of the
        kind `conflict`.
        """
        return await self._call(_place, self.root, part, final, overwrite)

    async def read(self, path: Path, offset: int, count: int) -> bytes:
        """Up to `count` bytes of `path` from `offset`."""
        return await self._guarded("read", path, _read, path, offset, count)

    async def sync_folder(self, folder: Path) -> None:
        """Make the names in `folder` durable (POSIX)."""
        await self._guarded("write", folder, sync_folder, folder)

    async def free_bytes(self, *, enough: int | None = None) -> int:
        """Bytes that this user can still write to the destination's file system.

        Where at least `enough` were free within the last second, what was found then.
        """
        found, at = self._free
        now = time.monotonic()
        if enough is None or found < enough or now - at > _FREE_S:
            found = (await self._guarded("read", self.root, shutil.disk_usage, self.root)).free
            self._free = (found, now)
        return found

    async def work(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `function`, which raises only what is ours, in this storage's threads; to its end also when cancelled."""
        return await self._call(function, *arguments)

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return await settled(aiofiles.os.wrap(function)(*arguments, executor=self._executor))

    async def _guarded(self, what: str, path: Path, function: Callable[..., T], *arguments: object) -> T:
        try:
            return await self._call(function, *arguments)
        except OSError as error:
            raise storage_error(error, path=path, what=what, root=self.root) from error


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def _read(path: Path, offset: int, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(count)


def _prepare(root: Path) -> tuple[int, int | None]:
    try:
        make_folders(None, root)
        probe = root / f"{STATE_FOLDER}-{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
        remember_home(root)
    except OSError as error:
        raise stopped(error, path=root, what="write to", root=root) from error
    return name_max(root), largest_file(root)


def _stats(root: Path, paths: tuple[Path, ...]) -> list[FileFacts | None]:
    found: list[FileFacts | None] = []
    for path in paths:
        try:
            found.append(_facts(path))
        except OSError as error:
            ours = storage_error(error, path=path, what="read", root=root)
            if isinstance(ours, StorageStopped):
                raise ours from error
            found.append(None)  # opening it for writing will say why
    return found


def write_whole(root: Path, part: Path, data: bytes, *, known: set[Path]) -> FileFacts:
    """On the caller's thread: make `data` all that the partial has, durably; raise `ProductFailed` or `StorageStopped`.

    `known`: the folders that have been seen to be there, which is added to.
    """
    fd = _open_partial(part, root, known)
    try:
        os.ftruncate(fd, 0)
        write_all(fd, 0, data)
        sync_all(fd)
        found = os.fstat(fd)
    except OSError as error:
        raise storage_error(error, path=part, what="write", root=root) from error
    finally:
        os.close(fd)
    return FileFacts(size=found.st_size, mtime_ns=found.st_mtime_ns, is_file=True)


def place_all(
    root: Path, moves: tuple[tuple[Path, Path, bool], ...]
) -> list[FileFacts | ProductFailed | StorageStopped]:
    """Like `Storage.place` for many (part, final, overwrite) on the caller's thread; each folder is synced once."""
    found: list[FileFacts | ProductFailed | StorageStopped] = []
    changed: set[Path] = set()
    for part, final, overwrite in moves:
        try:
            found.append(_place(root, part, final, overwrite, changed))
        except (ProductFailed, StorageStopped) as error:
            found.append(error)
    finals = {final.parent for _, final, _ in moves}
    for folder in [*(changed & finals), *(changed - finals)]:  # a name is gone for good only once the new one is there
        try:
            sync_folder(folder)
        except OSError as error:
            ours = storage_error(error, path=folder, what="write", root=root)
            found = [ours if moves[i][1].parent == folder else f for i, f in enumerate(found)]
    return found


def _place(
    root: Path,
    part: Path,
    final: Path,
    overwrite: bool,  # noqa: FBT001
    unsynced: set[Path] | None = None,
) -> FileFacts:
    """`unsynced`: left to the caller to sync, and seen to be there."""
    check_home(root)
    try:
        if unsynced is None or final.parent not in unsynced:
            make_folders(root, final.parent)
        if overwrite:
            part.replace(final)
        else:
            move_new(part, final)
        if unsynced is not None:
            unsynced |= {final.parent, part.parent}
        else:
            sync_folder(final.parent)
            if part.parent != final.parent:
                sync_folder(part.parent)
        found = final.stat()
    except FileExistsError as error:
        raise ProductFailed(
            f"{shown(final, root)} exists already and was not put there by this run",
            kind=FailureKind.CONFLICT,
            hint="Move it away, or replace it with --overwrite",
        ) from error
    except OSError as error:
        missing = not os.path.lexists(part)
        path, what = (part, "move") if missing else (final, "move the finished file to")
        raise storage_error(error, path=path, what=what, root=root) from error
    return FileFacts(size=found.st_size, mtime_ns=found.st_mtime_ns, is_file=stat.S_ISREG(found.st_mode))


def _facts(path: Path) -> FileFacts | None:
    try:
        found = path.stat()
    except OSError as error:
        if os.path.islink(path):  # noqa: PTH114 - Path.is_link raises for names that cannot exist
            return FileFacts(size=0, mtime_ns=0, is_file=False)
        if error.errno in GONE or error.errno in THIS_NAME:
            return None
        raise
    return FileFacts(size=found.st_size, mtime_ns=found.st_mtime_ns, is_file=stat.S_ISREG(found.st_mode))
