"""Throughput of one host: the total rate of its connections, and the first rate of new ones, for `adaptive_limit`."""

from __future__ import annotations

from collections import deque
from dataclasses import field
from typing import TYPE_CHECKING

from bulkdl.concurrency.adaptive_limit import ConcurrencyLimit, ThroughputSample, next_limit
from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LAPSE_S", "FirstBytes", "HostThroughput"]

MIN_SAMPLE_S = 0.1
"""Minimum seconds of a measurement; it also needs `ROUND_TRIPS` round trips."""
RECENT_S = 1.0
"""Only the last seconds of a long measurement count, since earlier ones include the opening of connections."""
ROUND_TRIPS = 3
"""Minimum round trips of a measurement."""
NEAR_ROUND_TRIP_S = 0.04
"""Round trip in seconds up to which a host is near: connections reach full speed before the first measurement."""
LAPSE_S = 0.5
"""Seconds without `report_saturation` after which the measurement starts again, since slots were free meanwhile."""
MARK_S = 0.02
"""Minimum seconds between two marks of the received bytes."""
TOGETHER_S = 0.03
"""Seconds within which connections count as opened together."""
MIN_JOINED, MAX_JOINED = 4, 64
"""Minimum number of new connections for a comparison, and limit of those that are kept."""
CLEARLY_MORE = 1.5
"""Factor from which a number of connections counts as clearly larger."""


@dataclass(frozen=True, slots=True)
class FirstBytes:
    """Bytes, and bytes per second, of a connection at its first measurement."""

    count: int
    rate: float


@dataclass(slots=True)
class HostThroughput:
    """Connection limit and measurements of one host."""

    limit: ConcurrencyLimit
    received: int = 0
    """Bytes received so far."""
    held_before: int = 0
    """Connections that were open when the first extra connection joined."""
    joined_at: float | None = None
    """Time at which the first extra connection joined."""
    first_bytes: deque[FirstBytes] = field(default_factory=lambda: deque(maxlen=MAX_JOINED))
    """First measurements of connections before extra ones joined."""
    joined_bytes: deque[FirstBytes] = field(default_factory=lambda: deque(maxlen=MAX_JOINED))
    """First measurements of connections opened since then, and since the last change of the limit."""
    changed_at: float = 0.0
    """Time of the last change of the limit."""
    refused_at: float = float("-inf")
    """Time of the last refused connection."""
    round_trip_s: float | None = None
    """Shortest known round trip in seconds; None if unknown."""
    saturated_at: float = float("-inf")
    """Time of the last `report_saturation`."""
    started_at: float = 0.0
    """Start of the measurement: since then every slot has been taken."""
    marks: deque[tuple[float, int]] = field(default_factory=deque)
    """Times with the bytes received until then, over the last `RECENT_S` seconds."""

    def record_first_bytes(self, measured: FirstBytes, *, opened: float, now: float, held: int) -> None:
        if self.joined_at is None or now <= self.joined_at + TOGETHER_S:
            self.first_bytes.append(measured)
        elif opened >= max(self.joined_at, self.changed_at) and held >= CLEARLY_MORE * self.held_before:
            self.joined_bytes.append(measured)

    def report_saturation(self, now: float) -> None:
        """Record that every slot is taken and more are wanted."""
        if now - self.saturated_at > LAPSE_S:
            self.marks.clear()
        self.saturated_at = now

    def update_limit(self, now: float, *, cap: int) -> bool:
        """Apply the current measurement; return whether the allowed number has changed."""
        sample = self._sample(now)
        if sample is None:
            return False
        before, self.limit = self.limit, next_limit(self.limit, sample, cap=cap)
        if self.limit != before:
            self.changed_at = now
            self.joined_bytes.clear()
            self.marks.clear()
        return self.limit.allowed != before.allowed

    def _sample(self, now: float) -> ThroughputSample | None:
        """Return the current sample; None until the measurement is long enough."""
        self._mark(now)
        duration_s = now - self.started_at
        start, before = self.marks[0]
        between = [mark for mark in self.marks if start < mark[0] < now]
        if not between or duration_s < max(MIN_SAMPLE_S, ROUND_TRIPS * (self.round_trip_s or 0.0)):
            return None
        at, midway = min(between, key=lambda mark: abs(mark[0] - (start + now) / 2))
        first, second = (midway - before) / (at - start), (self.received - midway) / (now - at)
        return ThroughputSample(
            now=now,
            duration_s=duration_s,
            rate=(self.received - before) / (now - start),
            rise=second / first if first else float("inf"),
            started=not self.first_bytes or self._joined_have_started,
            first_rate=_median(first.rate for first in self.first_bytes) if self._is_comparable else None,
            joined_rate=self._joined_rate() if self._is_comparable and self._joined_have_started else None,
        )

    def _mark(self, now: float) -> None:
        if not self.marks:
            self.started_at = now
        if not self.marks or now - self.marks[-1][0] >= MARK_S:
            self.marks.append((now, self.received))
        while len(self.marks) > 1 and self.marks[1][0] <= now - RECENT_S:
            self.marks.popleft()

    @property
    def _is_comparable(self) -> bool:
        """True if first rates are comparable: some are known, and the host is near."""
        return bool(self.first_bytes) and (self.round_trip_s or 0.0) <= NEAR_ROUND_TRIP_S

    @property
    def _joined_have_started(self) -> bool:
        """True if enough of the added connections have had their first measurement."""
        joined = self.limit.allowed - (
            self.held_before if self.limit.allowed == self.limit.proven else self.limit.proven
        )
        return len(self.joined_bytes) >= max(MIN_JOINED, min(MAX_JOINED, joined // 2))

    def _joined_rate(self) -> float:
        """Return the first rate of the added connections as if they had been measured as soon as the first ones.

        Compare byte counts as well as rates and use the better one: a busy machine measures late, and then bursts give
        more bytes in total or fewer per second.
        """
        count = _median(first.count for first in self.first_bytes)
        share = _median(first.count for first in self.joined_bytes) / count if count else 0.0
        return max(
            share * _median(first.rate for first in self.first_bytes),
            _median(first.rate for first in self.joined_bytes),
        )


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
