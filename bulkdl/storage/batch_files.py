"""Write and rename many small files in one batch; every function runs on a worker thread.

A new small file costs nine system calls: create exclusively, fstat, write, fsync, fstat, close, then link, unlink and
stat. If anything already exists at the path of the partial, the slower and more careful open takes over.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.models import FailureKind
from bulkdl.storage.file_info import FileFacts, cannot_be_named
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
    """Replace the partial's content by `data` and fsync it, on the caller's thread.

    Raise `ProductFailed` or `StorageStopped`. `part` is relative with `/`. `known` lists the folders that exist; the
    function adds to it.
    """
    try:
        fd = _open_empty(root, part, known)
        found = _write_and_close(fd, data)
    except OSError as error:
        raise storage_error(error, path=root / part, what="write", root=root) from error
    except UnicodeEncodeError:
        raise cannot_be_named(part) from None
    return FileFacts(found.st_size, found.st_mtime_ns, is_file=True)


def _open_empty(root: Path, part: str, known: set[str]) -> int:
    """Return a descriptor of the partial: an empty, regular file."""
    folder = part.rpartition("/")[0]
    if folder in known:
        try:
            fd = os.open(f"{root}/{part}", _NEW_FLAGS, 0o666)
        except OSError:
            pass  # `open_new_partial` below handles or reports whatever is in the way
        else:
            if not is_on_mount(root, os.fstat(fd).st_dev):
                require_file_on_mount(fd, root / part, root)
            return fd
    fd = open_new_partial(root / part, root)
    known.add(folder)
    return fd


def _write_and_close(fd: int, data: bytes) -> os.stat_result:
    """Write `data` to the empty file, fsync and close it."""
    try:
        write_all(fd, 0, data)
        sync_all(fd)
        return os.fstat(fd)
    finally:
        os.close(fd)


def place_all(root: Path, moves: Sequence[tuple[str, str, bool]]) -> list[FileFacts | ProductFailed | StorageStopped]:
    """Move many (part, final, overwrite) as `Storage.place` does, on the caller's thread; sync each folder once.

    Paths are relative with `/`. The result has the facts or the error of each move, in the same order.
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
            found.append(_move_one(root, part, final, overwrite, known=folder in finals))
        except (ProductFailed, StorageStopped) as error:
            found.append(error)
        else:
            finals.add(folder)
            parts.add(part.rpartition("/")[0])
    # New names first: the old name may vanish only once the new one is durable.
    for folder in [*finals, *(parts - finals)]:
        try:
            sync_folder(root / folder)
        except OSError as error:
            ours = storage_error(error, path=root / folder, what="write", root=root)
            found = [ours if moves[i][1].rpartition("/")[0] == folder else f for i, f in enumerate(found)]
    return found


def _move_one(root: Path, part: str, final: str, overwrite: bool, *, known: bool) -> FileFacts:  # noqa: FBT001
    """Rename one file; the caller must sync its folder. `known`: the target folder exists."""
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
            f"{shown(root / final, root)} already exists and was not created by this run",
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
