"""Record of what an archive saw: requests, refusals, and the number of connections over time."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Log", "Seen", "mean_of_middle", "over_time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Summary of one trial, from the archives' side."""

    requests: int = 0
    refused: int = 0
    """Requests refused, and connections closed instead of a refusal."""
    sent: int = 0
    """Body bytes."""
    first_request: float | None = None
    """Time of the monotonic clock (s)."""
    last_byte: float | None = None
    peak_connections: int = 0
    peak_requests: int = 0
    """Requests open at once, those in the queue included."""
    mean_requests: float = 0.0
    """Mean over time, in the middle half of the transfer."""
    over_time: tuple[float, ...] = ()
    """Mean number of open requests in each twentieth of the transfer."""


@dataclass(slots=True)
class Log:
    """Running record of all archives of a trial."""

    requests: int = 0
    refused: int = 0
    sent: int = 0
    last_byte: float | None = None
    connections: int = 0
    open_requests: int = 0
    peak_connections: int = 0
    first_request: float | None = None
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def now(self) -> float:
        """Return the seconds since the first request."""
        return 0.0 if self.first_request is None else time.monotonic() - self.first_request

    def connected(self, change: int) -> None:
        self.connections += change
        self.peak_connections = max(self.peak_connections, self.connections)

    def requested(self) -> None:
        self.requests += 1
        if self.first_request is None:
            self.first_request = time.monotonic()

    def opened(self, change: int) -> None:
        """Record that a request is open, or is no longer."""
        self.open_requests += change
        self._changes.append((time.monotonic(), self.open_requests))

    def sending(self, count: int) -> None:
        self.sent += count
        self.last_byte = time.monotonic()

    def summary(self) -> dict[str, object]:
        """Return a `Seen` as a dictionary for JSON."""
        return asdict(
            Seen(
                requests=self.requests,
                refused=self.refused,
                sent=self.sent,
                first_request=self.first_request,
                last_byte=self.last_byte,
                peak_connections=self.peak_connections,
                peak_requests=max((count for _, count in self._changes), default=0),
                mean_requests=mean_of_middle(self._changes),
                over_time=over_time(self._changes),
            )
        )


def mean_of_middle(changes: Sequence[tuple[float, int]]) -> float:
    """Return the mean over time of a number that changes at these times, from a quarter to three quarters of them."""
    return _mean(changes, 0.25, 0.75)


def over_time(changes: Sequence[tuple[float, int]], parts: int = 20) -> tuple[float, ...]:
    """Return the mean of that number in each of so many equal parts of the time."""
    return tuple(round(_mean(changes, part / parts, (part + 1) / parts), 1) for part in range(parts))


def _mean(changes: Sequence[tuple[float, int]], first: float, last: float) -> float:
    """Return the mean over time between two shares of the time from the first change to the last."""
    if not changes or changes[-1][0] <= changes[0][0]:
        return 0.0
    begin, whole = changes[0][0], changes[-1][0] - changes[0][0]
    low, high = begin + first * whole, begin + last * whole
    area = 0.0
    for (start, count), (stop, _) in itertools.pairwise(changes):
        area += count * max(0.0, min(stop, high) - max(start, low))
    return area / (high - low)
