"""Files of one destination folder: partials written at offsets, and the atomic move to the final name.

All disk work runs in threads of its own. A slow disk therefore blocks neither the event loop nor name resolution nor
hashing, which use other threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self, cast

import aiofiles.os

from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.filenames import STATE_FOLDER
from bulkdl.storage.batch_files import place_all
from bulkdl.storage.file_info import FileFacts, facts_of, final_of
from bulkdl.storage.filesystem import (
    NAME_MAX,
    make_folders,
    name_max,
    sync_folder,
)
from bulkdl.storage.filesystem_type import largest_file
from bulkdl.storage.mount_guard import forget_mount, remember_mount
from bulkdl.storage.os_errors import stopped, storage_error
from bulkdl.storage.partial_file import Partial, T

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

__all__ = ["Storage"]


_THREADS: Final = 8
_FREE_S: Final = 1.0
"""Seconds for which a measured amount of free space stays valid."""


class Storage:
    """Paths and file operations of one destination folder.

    `close`, or the end of the `async with` block, ends its threads. An `executor` passed in stays with the caller, who
    must shut it down.
    """

    def __init__(self, root: Path, *, executor: Executor | None = None, threads: int = _THREADS) -> None:
        self.root = root
        self._own = ThreadPoolExecutor(threads, thread_name_prefix="bulkdl-disk") if executor is None else None
        self._executor: Executor = executor or cast("Executor", self._own)
        self._name_max = NAME_MAX
        self.largest_file: int | None = None
        """Size limit of one file here, in bytes; None if no limit is known."""
        self._free = (0, 0.0)
        self.capacity = 0
        """Bytes of the whole file system, as `free_bytes` read them last; 0: not read yet."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the work under way, then end the threads."""
        if self._own is not None:
            self._own.shutdown(wait=True)
        forget_mount(self.root)

    def final(self, file: str) -> Path:
        """Return the final path of `file` (relative, with `/`); raise `ProductFailed` for a forbidden name."""
        return final_of(self.root, file)

    def partial(self, file: str, id: str, *, taken: Callable[[str], bool]) -> str:  # noqa: A002
        """Return the partial's path, relative with `/`: `NAME.part` beside the file.

        If that name is too long or `taken` by a product, the partial goes under `.bulkdl/`, named by a hash of `id`.
        """
        beside = f"{file}.part"
        fits = 4 * len(beside) <= self._name_max or len(os.fsencode(beside.rpartition("/")[2])) <= self._name_max
        if fits and not taken(beside):
            return beside
        digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return f"{STATE_FOLDER}/partials/{digest}.part"

    async def prepare(self) -> None:
        """Create the destination and check that it is writable; raise `StorageStopped`."""
        self._name_max, self.largest_file = await self._call(_prepare, self.root)

    def open_partial(self, relative: str, *, truncate: bool = False) -> AbstractAsyncContextManager[Partial]:
        """Open a partial by the path that `partial` returned; empty it first if `truncate`."""
        return Partial.open(self.root / relative, root=self.root, executor=self._executor, truncate=truncate)

    async def stat(self, path: Path) -> FileFacts | None:
        """Return the facts of `path`, or None if it does not exist or cannot be read; raise `StorageStopped`."""
        return await self._call(facts_of, path, self.root)

    async def remove(self, path: Path) -> None:
        """Remove a file durably: it stays removed after a power cut. A missing file is no error."""
        await self._guarded("remove", path, _remove, path)

    async def place(self, part: Path, final: Path, *, overwrite: bool) -> FileFacts:
        """Rename a complete partial to its final name atomically, and make the new name durable.

        An existing file or symlink is replaced only if `overwrite`; otherwise raise `ProductFailed` of the kind
        `conflict`.
        """
        return await self._call(_place, self.root, part, final, overwrite)

    async def read(self, path: Path, offset: int, count: int) -> bytes:
        """Read up to `count` bytes of `path` from `offset`."""
        return await self._guarded("read", path, _read, path, offset, count)

    async def sync_folder(self, folder: Path) -> None:
        """Make the names in `folder` durable (POSIX)."""
        await self._guarded("write", folder, sync_folder, folder)

    async def free_bytes(self, *, enough: int | None = None) -> int:
        """Return the bytes that this user can still write to the destination's file system.

        If at least `enough` bytes were free within the last second, return that measurement. The same holds while
        another call is measuring: one measurement serves many callers.
        """
        found, _ = self._free
        if enough is None or not self.had_free(enough):
            self._free = (found, time.monotonic())
            usage = await self._guarded("read", self.root, shutil.disk_usage, self.root)
            found, self.capacity = usage.free, usage.total
            self._free = (found, time.monotonic())
        return found

    def had_free(self, enough: int) -> bool:
        """Return True if a measurement of the last second found `enough` bytes free; never measure."""
        found, at = self._free
        return found >= enough and time.monotonic() - at <= _FREE_S

    async def work(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `function` in this storage's threads, to its end even if the caller is cancelled.

        `function` may raise `ProductFailed` and `StorageStopped` only.
        """
        return await self._call(function, *arguments)

    async def work_blocking(self, function: Callable[..., T], *arguments: object, within_s: float) -> T:
        """Like `work`, but block the event loop for up to `within_s` seconds, for short CPU-bound work on a fast disk.

        If both threads compute, the interpreter lock changes hands at each system call, which costs more than waiting.
        After `within_s` the work continues beside the event loop, so a disk that becomes slow blocks nothing else.
        """
        doing = self._executor.submit(function, *arguments)
        wait((doing,), timeout=within_s)
        return doing.result() if doing.done() else await run_to_completion(asyncio.wrap_future(doing))

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return await run_to_completion(aiofiles.os.wrap(function)(*arguments, executor=self._executor))

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
        remember_mount(root)
    except OSError as error:
        raise stopped(error, path=root, what="write to", root=root) from error
    return name_max(root), largest_file(root)


def _place(root: Path, part: Path, final: Path, overwrite: bool) -> FileFacts:  # noqa: FBT001
    (facts,) = place_all(root, ((_below(root, part), _below(root, final), overwrite),))
    if isinstance(facts, FileFacts):
        return facts
    raise facts


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
