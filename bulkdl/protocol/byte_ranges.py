"""Byte ranges as values, and the parser of Content-Range. Pure.

A range is half-open, `(start, end)`. HTTP's ranges are closed (RFC 9110 §14.1.2); requests and responses convert them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.units import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ContentRange", "Range", "cover", "missing", "normalise", "parse_content_range"]

Range = tuple[int, int]

_CONTENT_RANGE = re.compile(r"\s*bytes\s+(?:(\d{1,19})-(\d{1,19})|(\*))/(?:(\d{1,19})|\*)\s*", re.IGNORECASE | re.ASCII)


def normalise(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Return the ranges sorted and merged, without empty ones."""
    merged: list[Range] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def cover(ranges: Iterable[Range]) -> int:
    """Return the number of bytes in the ranges; a byte in two ranges counts once."""
    return sum(end - start for start, end in normalise(ranges))


def missing(have: Iterable[Range], total: int) -> tuple[Range, ...]:
    """Return the gaps of `have` in `(0, total)`."""
    gaps: list[Range] = []
    at = 0
    for start, end in normalise(have):
        if start >= total:
            break
        if at < start:
            gaps.append((at, start))
        at = max(at, end)
    if at < total:
        gaps.append((at, total))
    return tuple(gaps)


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The Content-Range of a 206 or a 416 (RFC 9110 §14.4).

    `range` is None in a 416 (`bytes */N`); `total` is None if the server does not know the length.
    """

    range: Range | None
    total: int | None


def parse_content_range(value: str | None) -> ContentRange | None:
    """Parse a Content-Range; return None if the field is absent or not a valid `bytes` range."""
    match = _CONTENT_RANGE.fullmatch(value) if value else None
    if match is None:
        return None
    first, last, star, length = match.groups()
    total = int(length) if length is not None else None
    if max(int(last or 0) + 1, total or 0) > MAX_BYTES:
        return None
    if star:
        return ContentRange(None, total)
    start, end = int(first), int(last) + 1
    if start >= end or (total is not None and end > total):
        return None
    return ContentRange((start, end), total)
