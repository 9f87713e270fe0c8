"""The hash functions of `models.Checksum` and the CRCs of object stores, and the thread pool that all hashing shares."""

from __future__ import annotations

from hashlib import new
from typing import TYPE_CHECKING, Final, Protocol

from blake3 import blake3

from bulkdl.content.crc import CRCS, crc_hasher
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.thread_pool import CancellableThreadPool

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["BLOCK", "HASHING", "Digests", "Hasher", "file_id", "hasher"]

BLOCK: Final = 1024 * 1024
"""Bytes read at once, in one buffer per thread; a cancellation takes effect after each."""

HASHING: Final = CancellableThreadPool("bulkdl-hash")
"""The pool for all products: about one thread per core, because hashing releases the interpreter lock."""


class Hasher(Protocol):
    """The methods that hashlib and blake3 share."""

    def update(self, data: memoryview | bytes, /) -> object: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """The digests of one file, and its identity."""

    file: tuple[int, int]
    """See `file_id`."""
    size: int
    """Number of bytes hashed."""
    found: Mapping[str, str]
    """Algorithm -> lower-case hex."""

    def of(self, facts: os.stat_result) -> Mapping[str, str]:
        """Return the digests if `facts` belong to the file that was hashed, else none."""
        return self.found if (file_id(facts), facts.st_size) == (self.file, self.size) else {}


def file_id(facts: os.stat_result) -> tuple[int, int]:
    """Return device and inode, which are the same for every name and descriptor of one file."""
    return facts.st_dev, facts.st_ino


def hasher(algorithm: str) -> Hasher:
    """Return a new hasher; raise `ValueError` if BLAKE3, the CRCs and hashlib do not know the algorithm."""
    if algorithm in CRCS:
        return crc_hasher(algorithm)
    return blake3() if algorithm == "blake3" else new(algorithm, usedforsecurity=False)
