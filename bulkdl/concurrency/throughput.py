"""What is seen of one host's connections, for `growth` to judge: what they bring together, and how those that joined began."""

from __future__ import annotations

from collections import deque
from dataclasses import field
from typing import TYPE_CHECKING

from bulkdl.concurrency.adaptive_limit import ConcurrencyLimit, ThroughputSample, next_limit
from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LAPSE_S", "FirstBytes", "HostThroughput"]

LOOK_S = 0.1
"""How long the rate of a host is looked at before it counts; at least, for it has to be several round trips."""
RECENT_S = 1.0
"""No more of a long look counts: what came while connections were being opened says little of them."""
ROUND_TRIPS = 3
NEAR_S = 0.04
"""A host with such a round trip is near: a connection to it is at full speed when its first rate is taken."""
LAPSE_S = 0.5
"""After so long without `report_saturation` a look begins anew: places were free meanwhile."""
MARK_S = 0.02
"""No more often is it noted how far it is."""
CLOSE_S = 0.03
"""Connections that are opened together are no further apart."""
SEVERAL, MANY = 4, 64
"""Fewer connections that have joined tell nothing; more need not be remembered."""
CLEARLY = 1.5
"""So many times as many connections are clearly more."""


@dataclass(frozen=True, slots=True)
class FirstBytes:
    """What came on a connection until it was looked at for the first time."""

    count: int
    rate: float


@dataclass(slots=True)
class HostThroughput:
    """What is known of one host's connections."""

    crowd: ConcurrencyLimit
    brought: int = 0
    """Bytes."""
    fewer: int = 0
    """Connections when the first extra joined, at `joined`."""
    joined: float | None = None
    alone: deque[FirstBytes] = field(default_factory=lambda: deque(maxlen=MANY))
    among: deque[FirstBytes] = field(default_factory=lambda: deque(maxlen=MANY))
    """What connections brought at first: before it, and after that or the last change of the limit."""
    changed: float = 0.0
    connection_refused: float = float("-inf")
    """When a connection was refused."""
    round_trip_s: float | None = None
    """The shortest that is known."""
    pressed: float = float("-inf")
    began: float = 0.0
    """Since when every place has been taken."""
    marks: deque[tuple[float, int]] = field(default_factory=deque)
    """When, and what had been brought: a while before now, and since."""

    def first_look(self, first: FirstBytes, *, opened: float, now: float, held: int) -> None:
        if self.joined is None or now <= self.joined + CLOSE_S:
            self.alone.append(first)
        elif opened >= max(self.joined, self.changed) and held >= CLEARLY * self.fewer:
            self.among.append(first)

    def report_saturation(self, now: float) -> None:
        """Every place is taken, and more are wanted."""
        if now - self.pressed > LAPSE_S:
            self.marks.clear()
        self.pressed = now

    def judge(self, now: float, *, cap: int) -> bool:
        """Whether the limit has changed."""
        sight = self._look(now)
        if sight is None:
            return False
        before, self.crowd = self.crowd, next_limit(self.crowd, sight, cap=cap)
        if self.crowd != before:
            self.changed = now
            self.among.clear()
            self.marks.clear()
        return self.crowd.allowed != before.allowed

    def _look(self, now: float) -> ThroughputSample | None:
        """What is seen, once it has been looked at for long enough."""
        self._mark(now)
        lasted = now - self.began
        start, before = self.marks[0]
        between = [mark for mark in self.marks if start < mark[0] < now]
        if not between or lasted < max(LOOK_S, ROUND_TRIPS * (self.round_trip_s or 0.0)):
            return None
        at, midway = min(between, key=lambda mark: abs(mark[0] - (start + now) / 2))
        first, second = (midway - before) / (at - start), (self.brought - midway) / (now - at)
        return ThroughputSample(
            now=now,
            lasted=lasted,
            rate=(self.brought - before) / (now - start),
            rising=second / first if first else float("inf"),
            begun=not self.alone or self._have_begun,
            alone=_median(first.rate for first in self.alone) if self._tells else None,
            among=self._like_alone() if self._tells and self._have_begun else None,
        )

    def _mark(self, now: float) -> None:
        if not self.marks:
            self.began = now
        if not self.marks or now - self.marks[-1][0] >= MARK_S:
            self.marks.append((now, self.brought))
        while len(self.marks) > 1 and self.marks[1][0] <= now - RECENT_S:
            self.marks.popleft()

    @property
    def _tells(self) -> bool:
        """Whether first looks at connections tell anything."""
        return bool(self.alone) and (self.round_trip_s or 0.0) <= NEAR_S

    @property
    def _have_begun(self) -> bool:
        """Whether enough of those who joined have been looked at."""
        joined = self.crowd.allowed - (self.fewer if self.crowd.allowed == self.crowd.proven else self.crowd.proven)
        return len(self.among) >= max(SEVERAL, min(MANY, joined // 2))

    def _like_alone(self) -> float:
        """What those who joined would have brought each second had they been looked at as soon as the first few.

        Bytes are compared as well as rates: a busy machine looks late, at the first few or at those who joined, and what comes
        by fits and starts is then more in all or less in a second.
        """
        count = _median(first.count for first in self.alone)
        share = _median(first.count for first in self.among) / count if count else 0.0
        return max(share * _median(first.rate for first in self.alone), _median(first.rate for first in self.among))


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
