"""File system calls that differ between platforms: open flags, positioned writes, sync, moves and folders."""

from __future__ import annotations

import errno
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from bulkdl.core.errors import ProductFailed
from bulkdl.core.filenames import STATE_FOLDER
from bulkdl.core.models import FailureKind
from bulkdl.storage.os_errors import shown, stopped

__all__ = [
    "NAME_MAX",
    "OPEN_FLAGS",
    "make_folders",
    "move_new",
    "name_max",
    "state_folder",
    "sync_all",
    "sync_data",
    "sync_folder",
    "write_some",
]

NAME_MAX: Final = 255
"""Limit of one file name in bytes, if the file system does not report one."""


# --- Platform differences ---------------------------------------------------------------------------------------------

OPEN_FLAGS: Final = (
    os.O_RDWR
    | os.O_CREAT
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # opening a FIFO of that name must not block the thread
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOINHERIT", 0)
)
_SEEK_LOCK: Final = threading.Lock()
_NO_HARD_LINKS: Final = frozenset(
    {errno.EPERM, errno.ENOSYS, errno.EMLINK, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP)}
)
_NO_FOLDER_SYNC: Final = frozenset({errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP})


def write_some(fd: int, data: bytes | memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, offset)
    with _SEEK_LOCK:  # Windows has no pwrite: seek and write must not interleave
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def sync_data(fd: int) -> None:
    """Make data and file length durable; the file times may be written later."""
    if sys.platform == "linux":
        os.fdatasync(fd)
    else:
        sync_all(fd)


def sync_all(fd: int) -> None:
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 - not on Windows

        with suppress(OSError):  # not every file system supports it; then fsync is the best there is
            fcntl.fcntl(fd, fcntl.FFULLFSYNC)
            return
    os.fsync(fd)


def sync_folder(folder: str | Path) -> None:
    """Make the names in `folder` durable. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(fd)


def move_new(part: str, final: str) -> None:
    """Rename `part` to `final` atomically; raise `FileExistsError` instead of replacing an existing file."""
    if os.name == "nt":
        os.rename(part, final)
        return
    try:
        os.link(part, final, follow_symlinks=False)
    except FileExistsError:
        # A crash between link and unlink left both names on one file: finish that move.
        if not os.path.samestat(os.lstat(part), os.lstat(final)):
            raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # FAT, exFAT and some network file systems have no links. Check and rename are two steps then; the destination
        # lock keeps other runs out in between.
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), final) from None
        os.rename(part, final)
        return
    os.unlink(part)


def name_max(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else NAME_MAX
    except (OSError, ValueError):
        return NAME_MAX


# --- Folders ----------------------------------------------------------------------------------------------------------


def make_folders(root: Path | None, folder: Path) -> None:
    """Create `folder` and its parents durably; raise `ProductFailed` if a link leads out of the destination."""
    inside = root is None or folder == root or Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))
    if not inside:
        raise ProductFailed(
            f"{shown(folder, root)} is a link that leads out of the destination folder",
            kind=FailureKind.STORAGE,
            hint="Replace the link with a folder, or give the product another `file`",
        )
    if folder.is_dir():
        return
    if root is not None and not root.is_dir():  # probably unmounted: a new folder here would be on another disk
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(root))
    make_folders(None, folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    sync_folder(folder.parent)


def state_folder(destination: Path) -> Path:
    """Create `.bulkdl/` with a `.gitignore` that keeps it out of repositories; raise `StorageStopped`."""
    folder = destination / STATE_FOLDER
    try:
        make_folders(None, folder)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="ascii")
    except OSError as error:
        raise stopped(error, path=folder, what="create", root=destination) from error
    return folder
