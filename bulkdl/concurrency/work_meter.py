"""What the connections of one account to one host bring, measured since the last change of their number.

A connection's time is either spent on receiving a body, or on waiting for an answer. Time is counted when it ends, together
with what it brought, so that a measurement does not depend on where in its work each connection is.
"""

from __future__ import annotations

from dataclasses import field

from bulkdl.concurrency.connection_control import Sample, WorkKind
from bulkdl.core.fast_dataclass import dataclass

__all__ = ["WorkMeter"]

_LEAST_S = 0.15
"""Least seconds of a measurement; it also needs `_ROUND_TRIPS` round trips."""
_ROUND_TRIPS = 3
_LEAST_EACH, _LEAST_EACH_S, _MOST_EACH_S = 128 * 1024, 0.08, 1.0
"""Bytes that each connection has to bring on average, so that the size of a read does not matter, within these seconds."""
_WINDOW_BYTES, _WINDOW_S, _LONGEST_WINDOW_S = 256 * 1024, 0.5, 30.0
"""Bytes that a connection usually brings within the window of its recent rate, and the bounds of that window in seconds."""
_LEAST_ANSWERS = 4
_LEAST_OTHERS = 2
_FAR_SLOWER = 0.2
"""Part of the median rate of the others below which a connection is far slower, and how many others there have to be."""
_RECENT_S = 1.0
"""Seconds after which a measurement of a settled number begins again, so that it shows what is so now."""


@dataclass(slots=True)
class WorkMeter:
    """Sums of one account and host; times are monotonic seconds."""

    began: float = 0.0
    """Begin of the measurement; what began before it does not count."""
    received: int = 0
    received_s: float = 0.0
    answers: int = 0
    """Small products that came whole."""
    answered_s: float = 0.0
    bodies: set[int] = field(default_factory=set)
    """Connections whose bodies have been measured."""
    rates: dict[int, float] = field(default_factory=dict)
    """Recent bytes per second of each connection that is receiving."""
    usual_rate: float = 0.0
    """Median of these rates, when there were enough of them."""
    round_trip_s: float = 0.0
    """Shortest known round trip; 0: unknown."""

    def restart(self, now: float) -> None:
        self.began = now
        self.received, self.received_s, self.answers, self.answered_s = 0, 0.0, 0, 0.0
        self.bodies.clear()

    def add_body(self, connection: int, count: int, *, now: float, seconds: float) -> None:
        """Count bytes that arrived within `seconds` on a connection."""
        if now - seconds >= self.began:
            self.received += count
            self.received_s += seconds
            self.bodies.add(connection)

    def add_answer(self, *, now: float, seconds: float) -> None:
        """Count an answer that was waited for."""
        if now - seconds >= self.began:
            self.answers += 1
            self.answered_s += seconds

    def add_round_trip(self, seconds: float) -> None:
        self.round_trip_s = seconds if not self.round_trip_s else min(self.round_trip_s, seconds)

    def is_far_slower(self, connection: int) -> bool:
        """Return whether a connection is far slower than most others of the host are, or were before they ended."""
        others = sorted(rate for other, rate in self.rates.items() if other != connection)
        if len(others) >= _LEAST_OTHERS:
            self.usual_rate = others[len(others) // 2]
        return self.rates[connection] < _FAR_SLOWER * self.usual_rate

    def sample(self, now: float, *, allowed: int, added: int, least_s: float) -> Sample:
        """Return the measurement; `added`: connections added by a trial, half of which have to take part."""
        span = now - self.began
        waits = self.answered_s > self.received_s
        if waits:
            each = self.answers / (self.answered_s + self.received_s)
            is_enough = self.answers >= max(_LEAST_ANSWERS, allowed // 2)
        else:
            each = self.received / self.received_s if self.received_s else 0.0
            least = max(_LEAST_S, _ROUND_TRIPS * self.round_trip_s, least_s)
            is_enough = (
                span >= least
                and self.received_s >= self._least_each_s * allowed
                and len(self.bodies) >= (allowed - added // 2 if added else allowed // 2)
            )
        kind = WorkKind.ANSWERS if waits else WorkKind.BYTES
        return Sample(now=now, span_s=span, kind=kind, each=each, is_enough=is_enough and each > 0)

    @property
    def _least_each_s(self) -> float:
        if not self.received:
            return _MOST_EACH_S
        return min(_MOST_EACH_S, max(_LEAST_EACH_S, _LEAST_EACH * self.received_s / self.received))

    @property
    def window_s(self) -> float:
        """Return the seconds over which the recent rate of a connection is measured."""
        if not self.usual_rate:
            return 2 * _WINDOW_S
        return min(_LONGEST_WINDOW_S, max(_WINDOW_S, _WINDOW_BYTES / self.usual_rate))

    def is_old(self, now: float) -> bool:
        return now - self.began >= _RECENT_S
