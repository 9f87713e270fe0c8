"""Where a product's file is, and what the disk says of it: on the caller's thread, for one or for very many."""

from __future__ import annotations

import os
import stat
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.filenames import HARMLESS, STATE_FOLDER
from bulkdl.core.models import FailureKind
from bulkdl.storage.os_errors import GONE, THIS_NAME, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["FileFacts", "check_name", "facts_of", "final_of", "look_at"]

_WORTH_A_LIST = 8
"""Files that are asked for in a folder, for each name in it, from which on its list costs less than looking at each."""


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
    beginning = os.path.join(root, "")  # noqa: PTH118 - a path for each of very many costs more than looking at it
    facts: dict[str, FileFacts | None] = dict.fromkeys(files)
    below: dict[str, list[str]] = {}
    for file in facts:
        if HARMLESS.fullmatch(file):
            below.setdefault(file.rpartition("/")[0], []).append(file)
        else:
            facts[file] = facts_of(final_of(root, file), root)
    for folder, some in below.items():
        there = _few_in(beginning + folder, most=len(some) // _WORTH_A_LIST)
        for file in some:  # the first in any case: a folder may be listed whose files may not be looked at
            if there is None or file is some[0] or _key(file.rpartition("/")[2]) in there:
                facts[file] = facts_of(beginning + file, root)
    return facts


def _few_in(folder: str, *, most: int) -> set[str] | None:
    """What is in `folder`, by `_key`, where that is little: whatever else is asked for is missing. None: look at each.

    None also where a name is not ASCII: which others it may be found under differs between file systems.
    """
    if not most:
        return None
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry in islice(found, most + 1)]
    except FileNotFoundError:
        return set()
    except OSError:
        return None  # looking at each will say why
    return set(map(_key, names)) if len(names) <= most and all(map(str.isascii, names)) else None


def _key(name: str) -> str:
    """One for all names that some file system may take for the same: neither case nor a dot at the end has to count."""
    return name.lower().rstrip(".")


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
