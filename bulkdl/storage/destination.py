"""Files of one destination: partials that are written at offsets, and the atomic move to the final name.

All of it runs in the storage's own threads, so that a slow disk holds up neither the event loop nor look-ups of host
names or hashing, which use other threads.
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


# --- A partial --------------------------------------------------------------------------------------------------------


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
        forget_mount(self.root)

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
