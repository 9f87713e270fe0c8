"""Map an `OSError` to an error with a scope: `ProductFailed` for one file name, `StorageStopped` for the machine."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.models import FailureKind
from bulkdl.storage.mount_guard import moved_to_another_mount

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FULL", "MISSING", "NAME_ERRORS", "shown", "stopped", "storage_error"]


FULL: Final = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Error codes of a full disk or an exhausted quota."""


_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})


MISSING: Final = frozenset({errno.ENOENT, getattr(errno, "ESTALE", errno.ENOENT)})


_OPEN_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})


NAME_ERRORS: Final = {
    errno.ENAMETOOLONG: ("the name is too long for this file system", "Give the product a shorter `file`"),
    errno.EISDIR: ("a folder with this name is in the way", "Move the folder away, or give the product another `file`"),
    errno.ENOTDIR: (
        "a file is where a folder is needed",
        "Move that file away, or give the product another `file`",
    ),
    errno.EEXIST: ("a file is in the way", "Move it away, or give the product another `file`"),
    errno.EINVAL: (
        "this file system does not accept the name",
        "Give the product a `file` of letters, digits, '.', '_' and '-'",
    ),
    errno.EILSEQ: (
        "this file system does not accept some characters of the name",
        "Give the product a `file` of letters, digits, '.', '_' and '-'",
    ),
    errno.ELOOP: ("a symbolic link is in the way", "Remove the link, or give the product another `file`"),
    errno.EFBIG: (
        "the file is larger than this file system or a limit of this process allows",
        "Use a destination on a file system that allows large files (FAT32 is limited to 4 GiB), and check `ulimit -f`",
    ),
    errno.EXDEV: (
        "it is on another file system, so the file cannot be moved there in one step",
        "Give the product a `file` outside that folder",
    ),
}


def storage_error(error: OSError, *, path: Path, what: str, root: Path | None = None) -> StorageStopped | ProductFailed:
    """Return `StorageStopped` if the machine causes `error`, `ProductFailed` if only the name of one product does.

    `what` is the verb before the path in the message, such as `write` or `read`. With `root` (the destination) the
    path is shown relative to it. If permission is denied for one file of a healthy destination, only that product
    fails.
    """
    code = error.errno or 0
    could_not = f"Could not {what} {shown(path, root)}"
    if code in FULL:
        return StorageStopped(
            f"{could_not}: no space left on the disk (or in the quota)",
            hint="Free some disk space and run again; downloaded data is kept",
            full=True,
        )
    if code in NAME_ERRORS:
        reason, hint = NAME_ERRORS[code]
        return ProductFailed(f"{could_not}: {reason}", kind=FailureKind.STORAGE, hint=hint)
    if code in _DENIED or code in MISSING:
        return _denied_or_missing(code, could_not, path, root)
    if code == errno.EROFS:
        return StorageStopped(
            f"{could_not}: the file system is read-only",
            hint="Mount it writable, or choose another destination with -d",
        )
    if code in _OPEN_FILES:
        return StorageStopped(f"{could_not}: too many open files", hint="Raise `ulimit -n`, or use fewer workers")
    return StorageStopped(
        f"{could_not}: {error.strerror or error}",
        hint="Check the disk and the system log, then run again; recorded progress is kept",
    )


def _denied_or_missing(code: int, could_not: str, path: Path, root: Path | None) -> StorageStopped | ProductFailed:
    whole_run = root is None or path == root or moved_to_another_mount(root) or not os.access(root, os.W_OK | os.X_OK)
    if code in _DENIED:
        hint = "Change its permissions or owner" + (", or choose another destination with -d" if whole_run else "")
        reason = f"{could_not}: permission denied"
    else:
        hint = (
            "Check that the disk is connected and mounted, then run again"
            if whole_run
            else "Run again to download it again"
        )
        reason = f"{could_not}: it no longer exists"
    return (
        StorageStopped(reason, hint=hint) if whole_run else ProductFailed(reason, kind=FailureKind.STORAGE, hint=hint)
    )


def shown(path: Path, root: Path | None) -> str:
    if root is None:
        return f"'{path}'"
    if path == root:
        return f"the destination folder '{root}'"
    return f"'{path.relative_to(root).as_posix()}'" if path.is_relative_to(root) else f"'{path}'"


def stopped(error: OSError, *, path: Path, what: str, root: Path) -> StorageStopped:
    """Return `StorageStopped` in any case, for files that the whole run needs (such as the lock or the journal)."""
    ours = storage_error(error, path=path, what=what, root=root)
    if isinstance(ours, StorageStopped):
        return ours
    in_the_way = "Choose another destination with -d, or move away what is in the way"
    return StorageStopped(ours.reason, hint=in_the_way if error.errno in NAME_ERRORS else ours.hint)
