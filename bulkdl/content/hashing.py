"""The hash functions of `model.Checksum`, and the threads that all hashing of the program shares."""

from __future__ import annotations

from hashlib import new
from typing import TYPE_CHECKING, Final, Protocol

from blake3 import blake3

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.thread_pool import CancellableThreadPool

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["BLOCK", "HASHING", "Digests", "Hasher", "file_id", "hasher"]

BLOCK: Final = 1024 * 1024
"""Bytes between two looks at whether the work is still wanted; each thread has one such buffer."""

HASHING: Final = CancellableThreadPool("bulkdl-hash")
"""As many threads as there are cores, within reason, for all products together: hashing releases the interpreter's lock."""


class Hasher(Protocol):
    """What hashlib and blake3 have in common."""

    def update(self, data: memoryview | bytes, /) -> object: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """What one file was hashed to, and how to tell that a file is that one."""

    file: tuple[int, int]
    """As `file_id` has it."""
    size: int
    """Bytes; that many were hashed."""
    found: Mapping[str, str]
    """Algorithm -> lower-case hex."""

    def of(self, facts: os.stat_result) -> Mapping[str, str]:
        """The digests if `facts` are those of the file that was hashed, else none."""
        return self.found if (file_id(facts), facts.st_size) == (self.file, self.size) else {}


def file_id(facts: os.stat_result) -> tuple[int, int]:
    """Device and inode: the same for every name and every descriptor of one file."""
    return facts.st_dev, facts.st_ino


def hasher(algorithm: str) -> Hasher:
    """Raise `ValueError` for an algorithm that is neither BLAKE3 nor hashlib's."""
    return blake3() if algorithm == "blake3" else new(algorithm, usedforsecurity=False)
