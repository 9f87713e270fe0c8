"""The served files, and the comparison of a contestant's downloads with them."""

from __future__ import annotations

import hashlib
import os
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GIB", "KIB", "MIB", "FileSet", "checksums", "compare", "make"]

KIB, MIB, GIB = 1024, 1024 * 1024, 1024 * 1024 * 1024
_BLOCK = 4 * MIB
_PAGE = 4 * KIB
_STAMP = struct.Struct("<IQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """Files of one size; `name` is also their folder below the server's root."""

    name: str
    count: int
    size: int
    """Size of each file (bytes)."""
    sparse: bool = False
    """Zeros that use no disk space on the server; a client still writes all of them."""

    @property
    def total(self) -> int:
        """Size of all files (bytes)."""
        return self.count * self.size

    def names(self) -> list[str]:
        """Return the files' names in the order of the requests."""
        return [f"{number:06}.bin" for number in range(self.count)]


def make(files: FileSet, root: Path) -> None:
    """Write the files below `root` if they do not exist yet."""
    folder = root / files.name
    if folder.exists():
        return
    folder.mkdir(parents=True)
    base = bytearray(random.Random(files.name).randbytes(min(_BLOCK, files.size)))
    for number, name in enumerate(files.names()):
        with (folder / name).open("wb") as out:
            if files.sparse:
                out.truncate(files.size)
                continue
            for offset in range(0, files.size, _BLOCK):
                out.write(_stamped(base, number, offset)[: files.size - offset])


def checksums(files: FileSet, root: Path, algorithm: str) -> dict[str, str]:
    """Return each file's digest in hexadecimal; `algorithm` is `blake3` or a name of hashlib."""

    def digest(name: str) -> str:
        hasher = blake3() if algorithm == "blake3" else hashlib.new(algorithm, usedforsecurity=False)
        with (root / files.name / name).open("rb") as stream:
            for block in iter(lambda: stream.read(_BLOCK), b""):
                hasher.update(block)
        return hasher.hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(files.names(), pool.map(digest, files.names()), strict=True))


def compare(files: FileSet, root: Path, folder: Path) -> str | None:
    """Describe a missing, wrong or left-over file in `folder`; None if all files are correct.

    Every byte is read. bulkdl's journal folder is skipped.
    """
    expected = files.names()
    found = {str(path.relative_to(folder)) for path in _below(folder)}
    if missing := set(expected) - found:
        return f"{len(missing)} of {files.count} files missing, such as {min(missing)}"
    if extra := found - set(expected):
        return f"{len(extra)} files too many, such as {min(extra)}"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        same = pool.map(lambda name: _same(root / files.name / name, folder / name), expected)
        wrong = [name for name, equal in zip(expected, same, strict=True) if not equal]
    return f"{len(wrong)} of {files.count} files have other bytes, such as {wrong[0]}" if wrong else None


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        if Path(parent) == folder and ".bulkdl" in folders:
            folders.remove(".bulkdl")
        yield from (Path(parent, name) for name in names)


def _same(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb", buffering=0) as left, other.open("rb", buffering=0) as right:
        while block := left.read(MIB):
            if block != right.read(MIB):
                return False
    return True


def _stamped(base: bytearray, number: int, offset: int) -> bytearray:
    """Return random bytes with the file's number and the offset in every page, so that a misplaced page is detected."""
    for page in range(0, len(base) - _STAMP.size + 1, _PAGE):
        _STAMP.pack_into(base, page, number, offset + page)
    return base
