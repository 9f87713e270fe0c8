"""From an `OSError` to an error that says who acts: the product's own, or this machine's."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.models import FailureKind
from bulkdl.storage.mount_guard import moved_to_another_mount

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FULL", "GONE", "THIS_NAME", "shown", "stopped", "storage_error"]


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
    whole = root is None or path == root or moved_to_another_mount(root) or not os.access(root, os.W_OK | os.X_OK)
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


def stopped(error: OSError, *, path: Path, what: str, root: Path) -> StorageStopped:
    """For what the whole run needs: even a failure that concerns one name stops it."""
    ours = storage_error(error, path=path, what=what, root=root)
    if isinstance(ours, StorageStopped):
        return ours
    in_the_way = "Choose another destination with -d, or move away what is in the way"
    return StorageStopped(ours.reason, hint=in_the_way if error.errno in THIS_NAME else ours.hint)
