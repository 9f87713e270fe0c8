"""Many small files at a time: written whole, then renamed. Each function runs on a thread."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.models import FailureKind
from bulkdl.storage.file_info import FileFacts
from bulkdl.storage.filesystem import OPEN_FLAGS, make_folders, move_new, sync_all, sync_folder
from bulkdl.storage.mount_guard import is_on_mount, require_same_mount
from bulkdl.storage.offset_writer import write_all
from bulkdl.storage.os_errors import shown, storage_error
from bulkdl.storage.partial_file import open_new_partial, require_file_on_mount

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


__all__ = ["place_all", "write_whole"]


_NEW_FLAGS: Final = OPEN_FLAGS | os.O_EXCL


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
            if not is_on_mount(root, os.fstat(fd).st_dev):
                require_file_on_mount(fd, root / part, root)
            return fd
    fd = open_new_partial(root / part, root)
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
        require_same_mount(root)
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
    if not is_on_mount(root, found.st_dev):
        require_same_mount(root)
    return FileFacts(found.st_size, found.st_mtime_ns, stat.S_ISREG(found.st_mode))
