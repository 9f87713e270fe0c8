"""Which bytes of a product are fetched, and by which connection."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.protocol.byte_ranges import Range, normalise

if TYPE_CHECKING:
    from collections.abc import Iterable


__all__ = ["SegmentLease", "SegmentPlan"]


@dataclass(slots=True, eq=False)
class SegmentLease:
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
        self._active: list[SegmentLease] = []
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

    def claim(self) -> SegmentLease | None:
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

    def _long(self) -> list[SegmentLease]:
        """What is being fetched and so long that more than a piece can be taken off."""
        least = 2 * max(self.piece, self.min_split)
        return [c for c in self._active if c.left >= least and c.left_s >= 2 * self.min_split_s]

    def _parts(self, lacking: int) -> dict[SegmentLease, int]:
        """Into how many parts to divide what is under way, so that `lacking` more connections have one."""
        parts: dict[SegmentLease, int] = {}
        for _ in range(lacking if self._active else 0):
            victim = max(self._active, key=lambda c: c.left_s / parts.get(c, 1))
            number = parts.get(victim, 1) + 1
            if min(victim.left / self.min_split, victim.left_s / self.min_split_s) < number:
                break
            parts[victim] = number
        return parts

    def _divide(self, victim: SegmentLease, parts: int) -> None:
        start, end, left = victim.position, victim.end, victim.left
        edges = [start + left * i // parts for i in range(1, parts)] + [end]
        victim.end = edges[0]
        self._free += itertools.pairwise(edges)

    def cut(self, claim: SegmentLease, keep: int) -> None:
        """Leave `claim` no more than the next `keep` bytes; the others can have the rest."""
        if claim.left > keep:
            self._free.append((claim.position + keep, claim.end))
            claim.end = claim.position + keep

    def claim_at(self, start: int) -> SegmentLease:
        """What is missing from `start` on; empty where `start` is not missing. For a response that is already there."""
        for i, (gap_start, gap_end) in enumerate(self._free):
            if gap_start <= start < gap_end:
                self._free[i : i + 1] = [(gap_start, start)] if gap_start < start else []
                return self._begin(start, gap_end)
        return self._begin(start, start)

    def __contains__(self, claim: SegmentLease) -> bool:
        return claim in self._active

    def release(self, claim: SegmentLease) -> None:
        """Give back what `claim` did not fetch; it is finished or given up."""
        self._active.remove(claim)
        if claim.left:
            self._free = list(normalise([*self._free, (claim.position, claim.end)]))

    def hand_back(self, claim: SegmentLease) -> None:
        """Like `release`, for a stretch that was refused: a connection whose body goes on into it takes it back."""
        self.release(claim)
        for other in self._active:
            for start, end in list(self._free):
                taken = min(end, other.limit)
                if other.position < other.end == start < taken:
                    self._free.remove((start, end))
                    self._free = list(normalise([*self._free, (taken, end)]))
                    other.end = taken

    def _begin(self, start: int, end: int) -> SegmentLease:
        claim = SegmentLease(start, end, limit=end)
        self._active.append(claim)
        return claim
