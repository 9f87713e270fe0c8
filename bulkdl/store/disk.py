"""What a disk does and how it fails: the one place where platforms differ and where an `OSError` becomes ours."""

from __future__ import annotations

import errno
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.models import FailureKind

__all__ = [
    "FULL",
    "GONE",
    "NAME_MAX",
    "OPEN_FLAGS",
    "STATE_FOLDER",
    "THIS_NAME",
    "check_home",
    "forget_home",
    "largest_file",
    "make_folders",
    "move_new",
    "name_max",
    "network_filesystem",
    "remember_home",
    "shown",
    "state_folder",
    "stopped",
    "storage_error",
    "sync_all",
    "sync_data",
    "sync_folder",
    "write_some",
]


STATE_FOLDER: Final = ".bulkdl"
NAME_MAX: Final = 255
"""Bytes in one name, where the file system does not say."""


# --- Errors -----------------------------------------------------------------------------------------------------------

FULL: Final = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM})
GONE: Final = frozenset({errno.ENOENT, getattr(errno, "ESTALE", errno.ENOENT)})
_OPEN_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})
THIS_NAME: Final = {
    errno.ENAMETOOLONG: ("the name is too long for this file system", "Give the product a shorter `file`"),
    errno.EISDIR: ("a folder is in the way", "Move the folder away, or give the product another `file`"),
    errno.ENOTDIR: (
        "a file is where a folder must be",
        "Move that file away, or give the product another `file`",
    ),
    errno.EEXIST: ("a file is in the way", "Move it away, or give the product another `file`"),
    errno.EINVAL: (
        "this file system does not accept the name",
        "Give the product a `file` of letters, digits, '.', '_' and '-'",
    ),
    errno.EILSEQ: (
        "this file system does not accept the characters of the name",
        "Give the product a `file` of letters, digits, '.', '_' and '-'",
    ),
    errno.ELOOP: ("a symbolic link is in the way", "Remove the link, or give the product another `file`"),
    errno.EFBIG: (
        "the file is larger than this file system or a limit of this process allows",
        "Use a destination on a file system for large files (FAT32 ends at 4 GiB), and see `ulimit -f`",
    ),
    errno.EXDEV: (
        "it leads to another file system, so that the file cannot be moved there in one step",
        "Give the product a `file` outside that folder",
    ),
}


def storage_error(error: OSError, *, path: Path, what: str, root: Path | None = None) -> StorageStopped | ProductFailed:
    """Who acts on `error`: the run stops where the machine is in the way, the product fails where only its name is.

    `what` is a verb that goes before the path, such as `write` or `read`. With `root` (the destination) the path is
    shown relative to it, and a refusal that concerns one file of a healthy destination fails that product only.
    """
    code = error.errno or 0
    could_not = f"Could not {what} {shown(path, root)}"
    if code in FULL:
        return StorageStopped(
            f"{could_not}: no space left on the disk (or in the quota)",
            hint="Make room and run again; what has arrived is kept",
            full=True,
        )
    if code in THIS_NAME:
        reason, hint = THIS_NAME[code]
        return ProductFailed(f"{could_not}: {reason}", kind=FailureKind.STORAGE, hint=hint)
    if code in _REFUSED or code in GONE:
        return _refused_or_gone(code, could_not, path, root)
    if code == errno.EROFS:
        return StorageStopped(
            f"{could_not}: the file system is read-only",
            hint="Mount it writable, or choose another destination with -d",
        )
    if code in _OPEN_FILES:
        return StorageStopped(f"{could_not}: too many open files", hint="Raise `ulimit -n`, or use fewer workers")
    return StorageStopped(
        f"{could_not}: {error.strerror or error}",
        hint="Check the disk and the system's log, then run again; what was recorded is kept",
    )


def _refused_or_gone(code: int, could_not: str, path: Path, root: Path | None) -> StorageStopped | ProductFailed:
    whole = root is None or path == root or _elsewhere(root) or not os.access(root, os.W_OK | os.X_OK)
    if code in _REFUSED:
        hint = "Change its permissions or owner" + (", or choose another destination with -d" if whole else "")
        reason = f"{could_not}: permission denied"
    else:
        hint = "Check that the disk is connected and mounted, then run again" if whole else "Run again to fetch it anew"
        reason = f"{could_not}: it is gone"
    return StorageStopped(reason, hint=hint) if whole else ProductFailed(reason, kind=FailureKind.STORAGE, hint=hint)


def shown(path: Path, root: Path | None) -> str:
    if root is None:
        return f"'{path}'"
    if path == root:
        return f"the destination '{root}'"
    return f"'{path.relative_to(root).as_posix()}'" if path.is_relative_to(root) else f"'{path}'"


# --- Threads ----------------------------------------------------------------------------------------------------------


# --- What differs between platforms -----------------------------------------------------------------------------------

OPEN_FLAGS: Final = (
    os.O_RDWR
    | os.O_CREAT
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO of that name must not hold the thread
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
    with _SEEK_LOCK:  # Windows: position and write are two calls
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def sync_data(fd: int) -> None:
    """Data and the length of the file; times may lag."""
    if sys.platform == "linux":
        os.fdatasync(fd)
    else:
        sync_all(fd)


def sync_all(fd: int) -> None:
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 - not on Windows

        with suppress(OSError):  # not every file system has it; fsync then does what it can
            fcntl.fcntl(fd, fcntl.FFULLFSYNC)
            return
    os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Make names in `folder` durable; Windows has no such call and needs none."""
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
    """Give `part` the name `final` in one step; raise `FileExistsError` rather than replace anything."""
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
        # FAT, exFAT and some network file systems: the lock on the destination keeps other runs out of this gap.
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


_NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "beegfs_nodev", "ceph", "cifs", "coda", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"}
    | {"nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "wekafs"}
)
_FAT: Final = frozenset({"msdos", "vfat", "fuse.fusefat"})
_FAT_LARGEST: Final = (1 << 32) - 1
_LOCAL_FUSE: Final = frozenset(
    f"fuse.{name}" for name in ("fuse-overlayfs", "gocryptfs", "encfs", "mergerfs", "bindfs")
)


def network_filesystem(path: Path, mountinfo: str | None = None) -> str:
    """The type of the network file system that holds `path` (`nfs4`, `fuse.sshfs`…), "" for a local or unknown one.

    `mountinfo` is the text of Linux's /proc/self/mountinfo (proc(5)), by default this process's; elsewhere there is
    none and nothing is detected. SQLite's write-ahead log needs memory shared by all its readers, which network file
    systems do not give.
    """
    kind = _filesystem(path, mountinfo)
    network = kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)
    return kind if network else ""


def largest_file(path: Path, mountinfo: str | None = None) -> int | None:
    """Bytes that a file below `path` can have, by its file system and the limit of this process; None: no such limit."""
    limits = [_FAT_LARGEST] if _filesystem(path, mountinfo) in _FAT else []
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - not on Windows

        own = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        limits += [own] if own != resource.RLIM_INFINITY else []
    return min(limits, default=None)


def _filesystem(path: Path, mountinfo: str | None) -> str:
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return ""
    target = os.path.realpath(path)
    best, kind = "", ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        mount, fstype = _unescape(fields.split(" ")[4:5]), rest.partition(" ")[0]
        inside = mount in ("/", target) or target.startswith(f"{mount}/")
        if mount and inside and len(mount) >= len(best):  # a later mount hides an earlier one at the same place
            best, kind = mount, fstype
    return kind


def _unescape(mount: list[str]) -> str:
    r"""Space, tab, newline and backslash are `\040` and so on there."""
    text = "".join(mount)
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text


# --- Folders ----------------------------------------------------------------------------------------------------------


def make_folders(root: Path | None, folder: Path) -> None:
    """Create `folder` and its parents durably; raise `ProductFailed` where a link leads out of the destination."""
    inside = root is None or folder == root or Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))
    if not inside:
        raise ProductFailed(
            f"{shown(folder, root)} is a link that leads out of the destination",
            kind=FailureKind.STORAGE,
            hint="Replace the link by a folder, or give the product another `file`",
        )
    if folder.is_dir():
        return
    if root is not None and not root.is_dir():  # unmounted, say: what is made in its place would be on another disk
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(root))
    make_folders(None, folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    sync_folder(folder.parent)


_HOMES: Final[dict[Path, int]] = {}
"""The device (`st_dev`) of each destination that this process is working on, as it was when the work began."""


def remember_home(root: Path) -> None:
    """From now on nothing is made below `root` once it is on another device; raise `OSError`."""
    _HOMES[root] = root.stat().st_dev


def forget_home(root: Path) -> None:
    _HOMES.pop(root, None)


def check_home(root: Path | None) -> None:
    """Raise `StorageStopped` when the destination `root` is not on the device any more that it was on.

    An unmounted disk leaves its mount point as an empty folder, and what is made there is on the disk below.
    """
    if root is not None and _elsewhere(root):
        raise StorageStopped(
            f"The destination '{root}' is on another file system than when the run began: its disk was unmounted or replaced",
            hint="Mount the disk again, then run the same command again; nothing was written in its place",
        )


def is_home(root: Path, device: int) -> bool:
    """Whether a file on `device` (`st_dev`) shows that the destination is where it was; False leaves it open."""
    return _HOMES.get(root) == device


def _elsewhere(root: Path) -> bool:
    home = _HOMES.get(root)
    if home is None:
        return False
    try:
        return os.stat(root).st_dev != home
    except OSError:
        return False  # what is done next says what is wrong with it


def state_folder(destination: Path) -> Path:
    """Create `.bulkdl/` with the `.gitignore` that keeps it out of repositories; raise `StorageStopped`."""
    folder = destination / STATE_FOLDER
    try:
        make_folders(None, folder)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="ascii")
    except OSError as error:
        raise stopped(error, path=folder, what="create", root=destination) from error
    return folder


def stopped(error: OSError, *, path: Path, what: str, root: Path) -> StorageStopped:
    """For what the whole run needs: even a failure that concerns one name stops it."""
    ours = storage_error(error, path=path, what=what, root=root)
    if isinstance(ours, StorageStopped):
        return ours
    in_the_way = "Choose another destination with -d, or move away what is in the way"
    return StorageStopped(ours.reason, hint=in_the_way if error.errno in THIS_NAME else ours.hint)
