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
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import aiofiles.os

from bulkdl.core.async_utils import settled
from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.models import FailureKind
from bulkdl.store.disk import (
    NAME_MAX,
    OPEN_FLAGS,
    STATE_FOLDER,
    check_home,
    forget_home,
    is_home,
    largest_file,
    make_folders,
    move_new,
    name_max,
    remember_home,
    shown,
    stopped,
    storage_error,
    sync_all,
    sync_data,
    sync_folder,
)
from bulkdl.store.facts import FileFacts, facts_of, final_of
from bulkdl.store.pen import Pen, write_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

__all__ = ["FileFacts", "Partial", "Storage", "place_all", "storage_error", "write_whole"]

T = TypeVar("T")

_THREADS: Final = 8
_FREE_S: Final = 1.0
_NEW_FLAGS: Final = OPEN_FLAGS | os.O_EXCL


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
        cls, path: Path, *, root: Path | None = None, executor: Executor | None = None, anew: bool = False
    ) -> AsyncIterator[Partial]:
        """Create the folders and the file where there is none, and keep what is in it, unless it is to be written `anew`.

        Raise `ProductFailed` or `StorageStopped`. `root` is the destination, which the folders may not leave.
        """
        opening = aiofiles.os.wrap(_open_anew if anew else _open_partial)(path, root, executor=executor)
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


def _open_partial(path: Path, root: Path | None) -> int:
    try:
        check_home(root)
        make_folders(root, path.parent)
        fd = _create(path)
    except OSError as error:
        raise storage_error(error, path=path, what="create", root=root) from error
    _stay_home(fd, path, root)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise _not_a_file(path, root)


def _open_anew(path: Path, root: Path | None) -> int:
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


def _stay_home(fd: int, path: Path, root: Path | None) -> None:
    """Like `check_home`, once the file is open: until then the disk may have been unmounted."""
    try:
        check_home(root)
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


# --- A destination ----------------------------------------------------------------------------------------------------


class Storage:
    """One destination: where its files are, and what may be done to them.

    Its threads end with `close`, or with the `async with` block. An `executor` that is given stays the giver's.
    """

    def __init__(self, root: Path, *, executor: Executor | None = None, threads: int = _THREADS) -> None:
        self.root = root
        self._own = ThreadPoolExecutor(threads, thread_name_prefix="bulkdl-disk") if executor is None else None
        self._executor: Executor = executor or cast("Executor", self._own)
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
        return final_of(self.root, file)

    def partial(self, file: str, id: str, *, taken: Callable[[str], bool]) -> str:  # noqa: A002
        """The partial's path, relative with `/`: `NAME.part` beside the file.

        Where that name is too long or `taken` by a product: a name under `.bulkdl/` made from the product's `id`.
        """
        beside = f"{file}.part"
        fits = 4 * len(beside) <= self._name_max or len(os.fsencode(beside.rpartition("/")[2])) <= self._name_max
        if fits and not taken(beside):
            return beside
        digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return f"{STATE_FOLDER}/partials/{digest}.part"

    async def prepare(self) -> None:
        """Make sure that the destination exists and can be written to; raise `StorageStopped`."""
        self._name_max, self.largest_file = await self._call(_prepare, self.root)

    def open_partial(self, relative: str, *, anew: bool = False) -> AbstractAsyncContextManager[Partial]:
        """Open the partial that `partial` named, in this storage's threads; without what is in it where it is written `anew`."""
        return Partial.open(self.root / relative, root=self.root, executor=self._executor, anew=anew)

    async def stat(self, path: Path) -> FileFacts | None:
        """The facts of `path`, None where nothing can be seen; raise `StorageStopped`."""
        return await self._call(facts_of, path, self.root)

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

        Where at least `enough` were free within the last second, or before a look that is under way, what was found then.
        """
        found, _ = self._free
        if enough is None or not self.had_free(enough):
            self._free = (found, time.monotonic())
            found = (await self._guarded("read", self.root, shutil.disk_usage, self.root)).free
            self._free = (found, time.monotonic())
        return found

    def had_free(self, enough: int) -> bool:
        """Whether so many bytes were free within the last second, as far as anyone has looked."""
        found, at = self._free
        return found >= enough and time.monotonic() - at <= _FREE_S

    async def work(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `function`, which raises only what is ours, in this storage's threads; to its end also when cancelled."""
        return await self._call(function, *arguments)

    async def work_alone(self, function: Callable[..., T], *arguments: object, within_s: float) -> T:
        """Like `work`, of what computes and hardly waits: for up to `within_s` seconds the event loop stands still for it.

        Where both compute, the interpreter goes to and fro between the threads at each of the system calls.
        """
        doing = self._executor.submit(function, *arguments)
        wait((doing,), timeout=within_s)
        return doing.result() if doing.done() else await settled(asyncio.wrap_future(doing))

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


def write_whole(root: Path, part: str, data: bytes, *, known: set[str]) -> FileFacts:
    """On the caller's thread: make `data` all that the partial has, durably; raise `ProductFailed` or `StorageStopped`.

    `part`: relative with `/`. `known`: the folders that have been seen to be there, which is added to.
    """
    try:
        fd = _open_whole(root, part, known)
        found = _fill(fd, data)
    except OSError as error:
        raise storage_error(error, path=root / part, what="write", root=root) from error
    return FileFacts(found.st_size, found.st_mtime_ns, is_file=True)


def _open_whole(root: Path, part: str, known: set[str]) -> int:
    """A descriptor of the partial, which is empty and regular."""
    folder = part.rpartition("/")[0]
    if folder in known:
        try:
            fd = os.open(f"{root}/{part}", _NEW_FLAGS, 0o666)
        except OSError:
            pass  # what is in the way is seen below
        else:
            if not is_home(root, os.fstat(fd).st_dev):
                _stay_home(fd, root / part, root)
            return fd
    fd = _open_anew(root / part, root)
    known.add(folder)
    return fd


def _fill(fd: int, data: bytes) -> os.stat_result:
    """Make `data` all that the file has, which is empty, durably, and close it."""
    try:
        write_all(fd, 0, data)
        sync_all(fd)
        return os.fstat(fd)
    finally:
        os.close(fd)


def place_all(root: Path, moves: Sequence[tuple[str, str, bool]]) -> list[FileFacts | ProductFailed | StorageStopped]:
    """Like `Storage.place` for many (part, final, overwrite) on the caller's thread; each folder is synced once.

    Paths are relative with `/`.
    """
    found: list[FileFacts | ProductFailed | StorageStopped] = []
    parts: set[str] = set()
    finals: set[str] = set()
    try:
        check_home(root)
    except StorageStopped as error:
        return [error] * len(moves)
    for part, final, overwrite in moves:
        folder = final.rpartition("/")[0]
        try:
            found.append(_moved(root, part, final, overwrite, known=folder in finals))
        except (ProductFailed, StorageStopped) as error:
            found.append(error)
        else:
            finals.add(folder)
            parts.add(part.rpartition("/")[0])
    for folder in [*finals, *(parts - finals)]:  # a name is gone for good only once the new one is there
        try:
            sync_folder(root / folder)
        except OSError as error:
            ours = storage_error(error, path=root / folder, what="write", root=root)
            found = [ours if moves[i][1].rpartition("/")[0] == folder else f for i, f in enumerate(found)]
    return found


def _moved(root: Path, part: str, final: str, overwrite: bool, *, known: bool) -> FileFacts:  # noqa: FBT001
    """The name is not durable before its folder is synced. `known`: that folder has been seen to be there."""
    old, new = f"{root}/{part}", f"{root}/{final}"
    try:
        if not known:
            make_folders(root, (root / final).parent)
        if overwrite:
            os.replace(old, new)
        else:
            move_new(old, new)
        found = os.stat(new)
    except FileExistsError as error:
        raise ProductFailed(
            f"{shown(root / final, root)} exists already and was not put there by this run",
            kind=FailureKind.CONFLICT,
            hint="Move it away, or replace it with --overwrite",
        ) from error
    except OSError as error:
        missing = not os.path.lexists(old)
        path, what = (root / part, "move") if missing else (root / final, "move the finished file to")
        raise storage_error(error, path=path, what=what, root=root) from error
    if not is_home(root, found.st_dev):
        check_home(root)
    return FileFacts(found.st_size, found.st_mtime_ns, stat.S_ISREG(found.st_mode))


def _place(root: Path, part: Path, final: Path, overwrite: bool) -> FileFacts:  # noqa: FBT001
    (facts,) = place_all(root, ((_below(root, part), _below(root, final), overwrite),))
    if isinstance(facts, FileFacts):
        return facts
    raise facts


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
