"""The bytes of the products: repeatable for every offset, so that no file has to be kept."""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .rules import Row

__all__ = ["names_of", "part", "problem"]

_PERIOD = 1_048_573
"""A prime, so that bytes at a wrong offset differ."""
_SHIFT = 7919
"""Distance between the beginnings of two products in the pattern."""
_LONGEST = 1 << 20


@cache
def _pattern() -> memoryview:
    block = random.Random(0).randbytes(_PERIOD)
    return memoryview(block + block + block)


def names_of(row: Row) -> list[list[str]]:
    """Return the names of each archive's products; the numbers go on from one archive to the next."""
    names = []
    first = 0
    for archive in row.archives:
        names.append([f"p{number:04d}.bin" for number in range(first, first + len(archive.sizes))])
        first += len(archive.sizes)
    return names


def part(name: str, start: int, stop: int) -> memoryview:
    """Return bytes of a product, at most 1 MiB."""
    begin = (int(name[1:5]) * _SHIFT + start) % _PERIOD
    return _pattern()[begin : begin + min(stop - start, _LONGEST)]


def problem(path: Path, size: int) -> str | None:
    """Return `missing` or `wrong`, or None if the file has all the bytes of its product."""
    if not path.exists() or path.with_name(f"{path.name}.aria2").exists():
        return "missing"
    if path.stat().st_size != size:
        return "wrong"
    with path.open("rb") as stream:
        for start in range(0, size, _LONGEST):
            if stream.read(_LONGEST) != part(path.name, start, size):
                return "wrong"
    return None
