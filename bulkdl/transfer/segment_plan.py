"""The missing ranges of a product, leased to the connections that fetch them."""

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
    """A range that one connection fetches: `position` advances as bytes arrive, a split may lower `end`."""

    position: int
    end: int
    limit: int = 0
    """The end that was requested: the body goes that far."""
    rate: float = 0.0
    """Bytes per second of its connection; 0 until it is measured."""
    counted_at: float = 0.0
    """Time (monotonic) at which its bytes were counted last; 0: none have been."""
    window: tuple[float, int] = (0.0, 0)
    """Time and position at the begin of the measurement of its recent rate."""
    slow_windows: int = 0
    """Measurements in a row in which it was far slower than others."""

    @property
    def left(self) -> int:
        return max(0, self.end - self.position)

    @property
    def left_s(self) -> float:
        """Seconds until its end at this rate; 0 until it is measured: nothing is split before."""
        return self.left / self.rate if self.rate > 0 else 0.0


class SegmentPlan:
    """Shares the missing ranges of one product among its connections.

    A connection leases a free range. If none is free, it gets the second half of the lease that would take longest, so
    that the end of a product is never one slow stream. With a `piece`, no lease is much longer than that, and the range
    nearest to the front comes first, so that hashing finds no gaps. A split wastes what the cut connection has under
    way, and costs a request: no lease is shorter than `min_split` bytes, nor split below `min_split_s` seconds.
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
        """Bytes per second of the fastest connection; 0 until one is measured."""
        return max((lease.rate for lease in self._active), default=0.0)

    @property
    def left_s(self) -> float:
        """Seconds until the product ends at the current rates; 0 until one is measured."""
        rate = sum(lease.rate for lease in self._active)
        return self.left / rate if rate else 0.0

    def lease(self) -> SegmentLease | None:
        """Lease the next range; None when nothing is worth another connection."""
        if not self.offer(1):
            return None
        self._free.sort()
        start, end = self._free.pop(0)
        if end - start >= self.piece + self.min_split:
            self._free.insert(0, (start + self.piece, end))
            end = start + self.piece
        return self._begin(start, end)

    def offer(self, count: int) -> int:
        """Free ranges for up to `count` more connections by splits; return how many would find work."""
        if count > self._pieces():
            for lease in self._long():
                self.cut(lease, max(self.piece, int(lease.rate * self.min_split_s)))
        for lease, number in self._parts(count - self._pieces()).items():
            self._divide(lease, number)
        return min(count, self._pieces())

    def has_work(self) -> bool:
        """Return whether one more connection would find a range."""
        return bool(self._free or self._long() or self._parts(1))

    def _pieces(self) -> int:
        """Return how many leases the free ranges make."""
        return sum(1 + max(0, end - start - self.min_split) // self.piece for start, end in self._free)

    def _long(self) -> list[SegmentLease]:
        """Return the leases that are long enough to cut off more than a piece."""
        least = 2 * max(self.piece, self.min_split)
        return [c for c in self._active if c.left >= least and c.left_s >= 2 * self.min_split_s]

    def _parts(self, lacking: int) -> dict[SegmentLease, int]:
        """Return into how many parts to divide each lease, so that `lacking` more connections have one."""
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

    def cut(self, lease: SegmentLease, keep: int) -> None:
        """Shorten a lease to its next `keep` bytes; the rest is free again."""
        if lease.left > keep:
            self._free.append((lease.position + keep, lease.end))
            lease.end = lease.position + keep

    def lease_at(self, start: int) -> SegmentLease:
        """Lease the missing range from `start` on, for a response that has begun; empty if `start` is not missing."""
        for i, (gap_start, gap_end) in enumerate(self._free):
            if gap_start <= start < gap_end:
                self._free[i : i + 1] = [(gap_start, start)] if gap_start < start else []
                return self._begin(start, gap_end)
        return self._begin(start, start)

    def __contains__(self, lease: SegmentLease) -> bool:
        return lease in self._active

    def release(self, lease: SegmentLease) -> None:
        """End a lease; its unfetched rest is free again."""
        self._active.remove(lease)
        if lease.left:
            self._free = list(normalise([*self._free, (lease.position, lease.end)]))

    def hand_back(self, lease: SegmentLease) -> None:
        """End a lease whose range was refused; a connection whose body goes on into that range takes it back."""
        self.release(lease)
        for other in self._active:
            for start, end in list(self._free):
                taken = min(end, other.limit)
                if other.position < other.end == start < taken:
                    self._free.remove((start, end))
                    self._free = list(normalise([*self._free, (taken, end)]))
                    other.end = taken

    def _begin(self, start: int, end: int) -> SegmentLease:
        lease = SegmentLease(start, end, limit=end)
        self._active.append(lease)
        return lease
