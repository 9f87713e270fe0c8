"""Cyclic redundancy checks that object stores send: CRC-32, CRC-32C (Castagnoli) and CRC-64/NVME.

The standard library has CRC-32 alone. A table in Python computes the other two, in some 0.1 s for each MiB, so larger
products are not checked against them (`computable`). A compiled package would be one more dependency for the few large
objects that have no other digest: Google Storage sends an MD5 too, except of composite objects.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Final

__all__ = ["CRCS", "computable", "crc_hasher"]

CRCS: Final = frozenset({"crc32", "crc32c", "crc64nvme"})
_POLYNOMIALS: Final = {"crc32c": (32, 0x82F63B78), "crc64nvme": (64, 0x9A6C9329AC4BC9B5)}
"""Width in bits and reflected polynomial."""
_MAX_SLOW_BYTES: Final = 1024 * 1024


def computable(algorithm: str, size: int) -> bool:
    """Tell whether the digest of `size` bytes takes no noticeable time."""
    return algorithm not in _POLYNOMIALS or size <= _MAX_SLOW_BYTES


def crc_hasher(algorithm: str) -> _Crc32 | _TableCrc:
    """Return a new hasher for one of `CRCS`."""
    return _Crc32() if algorithm == "crc32" else _TableCrc(*_POLYNOMIALS[algorithm])


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview | bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


class _TableCrc:
    """A reflected CRC whose register begins and ends with all bits inverted."""

    def __init__(self, width: int, polynomial: int) -> None:
        self._table = _table(polynomial)
        self._width = width
        self._register = (1 << width) - 1

    def update(self, data: memoryview | bytes, /) -> None:
        table, register = self._table, self._register
        for byte in bytes(data):
            register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
        self._register = register

    def hexdigest(self) -> str:
        return f"{self._register ^ ((1 << self._width) - 1):0{self._width // 4}x}"


@lru_cache
def _table(polynomial: int) -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)  # noqa: PLW2901
        table.append(value)
    return tuple(table)
