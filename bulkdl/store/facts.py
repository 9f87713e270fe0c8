"""Where a product's file is, and what the disk says of it: on the caller's thread, for one or for very many."""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from bulkdl.dataclass import dataclass
from bulkdl.errors import ProductFailed, StorageStopped
from bulkdl.model import FailureKind
from bulkdl.names import HARMLESS
from bulkdl.store.disk import GONE, STATE_FOLDER, THIS_NAME, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["FileFacts", "check_name", "facts_of", "final_of", "look_at"]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What `stat` says of a file; a symlink is followed, and one that leads nowhere is not a file."""

    size: int
    mtime_ns: int
    is_file: bool
    """A regular file."""


def final_of(root: Path, file: str) -> Path:
    """Where `file` (relative, with `/`) goes; raise `ProductFailed` for a name that is not the product's to have."""
    check_name(file)
    return root / file


def check_name(file: str) -> None:
    """Raise `ProductFailed` where `file` (relative, with `/`) is not a product's to have."""
    if HARMLESS.fullmatch(file):
        return
    pure = PurePosixPath(file)
    own = bool(pure.parts) and pure.parts[0].casefold() == STATE_FOLDER
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or own or "\0" in file:
        raise ProductFailed(
            f"'{file}' cannot be the name of a product",
            kind=FailureKind.STORAGE,
            hint=f"Use a relative path that stays in the destination and outside '{STATE_FOLDER}/'",
        )


def look_at(root: Path, files: Iterable[str]) -> dict[str, FileFacts | None]:
    """The facts of `files`, as `final_of` takes them; None where nothing can be seen. Raise `StorageStopped`."""
    folder = os.path.join(root, "")  # noqa: PTH118 - a path for each of very many costs more than looking at it
    return {
        file: facts_of(f"{folder}{file}" if HARMLESS.fullmatch(file) else final_of(root, file), root) for file in files
    }


def facts_of(path: Path | str, root: Path) -> FileFacts | None:
    """The facts of `path`, None where nothing can be seen; raise `StorageStopped`."""
    try:
        return _facts(path)
    except OSError as error:
        ours = storage_error(error, path=type(root)(path), what="read", root=root)
        if isinstance(ours, StorageStopped):
            raise ours from error
        return None  # opening it for writing will say why


def _facts(path: Path | str) -> FileFacts | None:
    try:
        found = os.lstat(path)
    except OSError as error:
        if error.errno in GONE or error.errno in THIS_NAME:
            return None
        raise
    if stat.S_ISLNK(found.st_mode):
        try:
            found = os.stat(path)
        except OSError:
            return FileFacts(size=0, mtime_ns=0, is_file=False)
    return FileFacts(found.st_size, found.st_mtime_ns, stat.S_ISREG(found.st_mode))
