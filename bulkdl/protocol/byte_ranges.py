"""Byte ranges as values, and how what is missing is shared among connections. Pure.

A range is half-open, `(start, end)`; HTTP's are closed (RFC 9110 §14.1.2) and converted at the border.
"""

from __future__ import annotations

import itertools
import re
import sys
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Claim", "ContentRange", "Range", "SegmentPlan", "cover", "missing", "normalise", "parse_content_range"]

Range = tuple[int, int]

_MOST_BYTES = 2**63 - 1
"""What a file, and the journal, can hold."""
_CONTENT_RANGE = re.compile(r"\s*bytes\s+(?:(\d{1,19})-(\d{1,19})|(\*))/(?:(\d{1,19})|\*)\s*", re.IGNORECASE | re.ASCII)


def normalise(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Sorted, disjoint, without empty or touching ranges."""
    merged: list[Range] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def cover(ranges: Iterable[Range]) -> int:
    """How many bytes the ranges hold."""
    return sum(end - start for start, end in normalise(ranges))


def missing(have: Iterable[Range], total: int) -> tuple[Range, ...]:
    """What `have` lacks of `(0, total)`."""
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
    """RFC 9110 §14.4: which part a 206 holds, or of what length a 416 speaks. `range` is None for `bytes */N`."""

    range: Range | None
    total: int | None


def parse_content_range(value: str | None) -> ContentRange | None:
    """None where the field is absent or not a sound `bytes` range."""
    match = _CONTENT_RANGE.fullmatch(value) if value else None
    if match is None:
        return None
    first, last, star, length = match.groups()
    total = int(length) if length is not None else None
    if max(int(last or 0) + 1, total or 0) > _MOST_BYTES:
        return None
    if star:
        return ContentRange(None, total)
    start, end = int(first), int(last) + 1
    if start >= end or (total is not None and end > total):
        return None
    return ContentRange((start, end), total)


@dataclass(slots=True, eq=False)
class Claim:
    """A stretch that one connection fetches: `position` moves on as bytes arrive, `end` may be lowered by a split."""

    position: int
    end: int
    limit: int = 0
    """Where it ended at first: how far the body that was asked for goes."""
    rate: float = 0.0
    """Bytes a second that its connection brings; 0: not measured yet."""

    @property
    def left(self) -> int:
        return max(0, self.end - self.position)

    @property
    def left_s(self) -> float:
        """Seconds until its end at this rate; 0 where it is not measured yet, and so not worth a split."""
        return self.left / self.rate if self.rate > 0 else 0.0


class SegmentPlan:
    """Shares what is missing of one product among its connections.

    A connection claims a gap; where no gap is free, it takes the second half of the stretch that would take longest, so that
    the end of a product is never one slow stream. With a `piece` nobody takes much more than that at once, always what is
    nearest to the front, so that the beginning of the product is soon without gaps. A split costs what the cut connection has under way, and a new
    request: none is made of less than `min_split` bytes, nor where both halves would not take `min_split_s` seconds.
    """

    def __init__(self, gaps: Iterable[Range], *, min_split: int, min_split_s: float) -> None:
        self._free: list[Range] = list(normalise(gaps))
        self._active: list[Claim] = []
        self.min_split = min_split
        """Bytes."""
        self.min_split_s = min_split_s
        self.piece = sys.maxsize
        """Bytes."""

    @property
    def left(self) -> int:
        """Bytes not yet fetched."""
        return sum(e - s for s, e in self._free) + sum(c.left for c in self._active)

    @property
    def fastest(self) -> float:
        """Bytes a second of the quickest connection; 0 where none is measured yet."""
        return max((claim.rate for claim in self._active), default=0.0)

    @property
    def left_s(self) -> float:
        """Seconds until its end at the rates of now; 0 where none is measured yet."""
        rate = sum(claim.rate for claim in self._active)
        return self.left / rate if rate else 0.0

    def claim(self) -> Claim | None:
        """The next stretch to fetch, or None when nothing is worth another connection."""
        if not self.offer(1):
            return None
        self._free.sort()
        start, end = self._free.pop(0)
        if end - start >= self.piece + self.min_split:
            self._free.insert(0, (start + self.piece, end))
            end = start + self.piece
        return self._begin(start, end)

    def offer(self, count: int) -> int:
        """Make room for up to `count` more connections, dividing what is fetched evenly; how many would find work."""
        if count > self._pieces():
            for claim in self._long():
                self.cut(claim, max(self.piece, int(claim.rate * self.min_split_s)))
        for claim, number in self._parts(count - self._pieces()).items():
            self._divide(claim, number)
        return min(count, self._pieces())

    def has_work(self) -> bool:
        """Whether one more connection would find something to fetch."""
        return bool(self._free or self._long() or self._parts(1))

    def _pieces(self) -> int:
        """How many claims there are in what nobody fetches."""
        return sum(1 + max(0, end - start - self.min_split) // self.piece for start, end in self._free)

    def _long(self) -> list[Claim]:
        """What is being fetched and so long that more than a piece can be taken off."""
        least = 2 * max(self.piece, self.min_split)
        return [c for c in self._active if c.left >= least and c.left_s >= 2 * self.min_split_s]

    def _parts(self, lacking: int) -> dict[Claim, int]:
        """Into how many parts to divide what is under way, so that `lacking` more connections have one."""
        parts: dict[Claim, int] = {}
        for _ in range(lacking if self._active else 0):
            victim = max(self._active, key=lambda c: c.left_s / parts.get(c, 1))
            number = parts.get(victim, 1) + 1
            if min(victim.left / self.min_split, victim.left_s / self.min_split_s) < number:
                break
            parts[victim] = number
        return parts

    def _divide(self, victim: Claim, parts: int) -> None:
        start, end, left = victim.position, victim.end, victim.left
        edges = [start + left * i // parts for i in range(1, parts)] + [end]
        victim.end = edges[0]
        self._free += itertools.pairwise(edges)

    def cut(self, claim: Claim, keep: int) -> None:
        """Leave `claim` no more than the next `keep` bytes; the others can have the rest."""
        if claim.left > keep:
            self._free.append((claim.position + keep, claim.end))
            claim.end = claim.position + keep

    def claim_at(self, start: int) -> Claim:
        """What is missing from `start` on; empty where `start` is not missing. For a response that is already there."""
        for i, (gap_start, gap_end) in enumerate(self._free):
            if gap_start <= start < gap_end:
                self._free[i : i + 1] = [(gap_start, start)] if gap_start < start else []
                return self._begin(start, gap_end)
        return self._begin(start, start)

    def __contains__(self, claim: Claim) -> bool:
        return claim in self._active

    def release(self, claim: Claim) -> None:
        """Give back what `claim` did not fetch; it is finished or given up."""
        self._active.remove(claim)
        if claim.left:
            self._free = list(normalise([*self._free, (claim.position, claim.end)]))

    def hand_back(self, claim: Claim) -> None:
        """Like `release`, for a stretch that was refused: a connection whose body goes on into it takes it back."""
        self.release(claim)
        for other in self._active:
            for start, end in list(self._free):
                taken = min(end, other.limit)
                if other.position < other.end == start < taken:
                    self._free.remove((start, end))
                    self._free = list(normalise([*self._free, (taken, end)]))
                    other.end = taken

    def _begin(self, start: int, end: int) -> Claim:
        claim = Claim(start, end, limit=end)
        self._active.append(claim)
        return claim
