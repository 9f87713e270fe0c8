"""Paths of product files and their `stat` facts, for one file or for very many; runs on the caller's thread."""

from __future__ import annotations

import os
import stat
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.filenames import HARMLESS, STATE_FOLDER, cannot_be_stored
from bulkdl.core.models import FailureKind
from bulkdl.storage.os_errors import MISSING, NAME_ERRORS, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["FileFacts", "cannot_be_named", "check_name", "facts_of", "final_of", "look_at"]

_FILES_PER_ENTRY_FOR_LISTING = 8
"""Wanted files per existing entry of a folder, from which on one listing costs less than a `stat` of each file."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Result of `stat` for one file. Symlinks are followed; a broken link is not a file."""

    size: int
    mtime_ns: int
    is_file: bool
    """True for a regular file."""


def final_of(root: Path, file: str) -> Path:
    """Return the final path of `file` (relative, with `/`); raise `ProductFailed` for a forbidden name."""
    check_name(file)
    return root / file


def check_name(file: str) -> None:
    """Raise `ProductFailed` if no product may have the name `file` (relative, with `/`)."""
    if HARMLESS.fullmatch(file):
        return
    pure = PurePosixPath(file)
    own = bool(pure.parts) and pure.parts[0].casefold() == STATE_FOLDER
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or own or "\0" in file:
        raise ProductFailed(
            f"'{file}' cannot be the file name of a product",
            kind=FailureKind.STORAGE,
            hint=f"Use a relative path inside the destination folder and outside '{STATE_FOLDER}/'",
        )
    if cannot_be_stored(file):
        raise cannot_be_named(file)


def cannot_be_named(file: str) -> ProductFailed:
    """Return the error for a name that the encoding of file names cannot hold: it ends one product, never the run."""
    return ProductFailed(
        f"'{file}' cannot be stored: {cannot_be_stored(file)}",
        kind=FailureKind.STORAGE,
        hint="Run with LC_ALL=C.UTF-8 or PYTHONUTF8=1, or give the product a `file` of ASCII letters",
    )


def look_at(root: Path, files: Iterable[str]) -> dict[str, FileFacts | None]:
    """Return the facts of `files` (relative, with `/`), None for one that is missing; raise `StorageStopped`."""
    prefix = os.path.join(root, "")  # noqa: PTH118 - building a Path for each file costs more than its `stat`
    facts: dict[str, FileFacts | None] = dict.fromkeys(files)
    below: dict[str, list[str]] = {}
    for file in facts:
        if HARMLESS.fullmatch(file):
            below.setdefault(file.rpartition("/")[0], []).append(file)
        else:
            facts[file] = None if cannot_be_stored(file) else facts_of(final_of(root, file), root)
    for folder, some in below.items():
        present = _names_if_few(prefix + folder, most=len(some) // _FILES_PER_ENTRY_FOR_LISTING)
        for file in some:  # the first in any case: a folder may permit listing but not `stat`
            if present is None or file is some[0] or _key(file.rpartition("/")[2]) in present:
                facts[file] = facts_of(prefix + file, root)
    return facts


def _names_if_few(folder: str, *, most: int) -> set[str] | None:
    """Return the `_key` of every name in `folder` if there are at most `most`; every other file is then missing.

    Return None if the caller must `stat` each file. That includes a folder with a non-ASCII name, because file systems
    differ in the spellings under which they find it.
    """
    if not most:
        return None
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry in islice(found, most + 1)]
    except FileNotFoundError:
        return set()
    except OSError:
        return None  # the `stat` of each file reports the reason
    return set(map(_key, names)) if len(names) <= most and all(map(str.isascii, names)) else None


def _key(name: str) -> str:
    """Return one key for all names that some file system treats as equal (case and trailing dots ignored)."""
    return name.lower().rstrip(".")


def facts_of(path: Path | str, root: Path) -> FileFacts | None:
    """Return the facts of `path`, or None if it is missing or unreadable; raise `StorageStopped`."""
    try:
        return _stat(path)
    except OSError as error:
        ours = storage_error(error, path=type(root)(path), what="read", root=root)
        if isinstance(ours, StorageStopped):
            raise ours from error
        return None  # opening it for writing reports the reason


def _stat(path: Path | str) -> FileFacts | None:
    try:
        found = os.lstat(path)
    except OSError as error:
        if error.errno in MISSING or error.errno in NAME_ERRORS:
            return None
        raise
    if stat.S_ISLNK(found.st_mode):
        try:
            found = os.stat(path)
        except OSError:
            return FileFacts(size=0, mtime_ns=0, is_file=False)
    return FileFacts(found.st_size, found.st_mtime_ns, stat.S_ISREG(found.st_mode))
