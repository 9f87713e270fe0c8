"""Record of what an archive saw: requests, refusals, and the number of connections over time."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass, field

__all__ = ["Log", "Seen", "mean_of_middle"]


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
            )
        )


def mean_of_middle(changes: list[tuple[float, int]]) -> float:
    """Return the mean over time of a number that changes at these times, from a quarter to three quarters of them."""
    if len(changes) < 2:
        return 0.0
    begin, end = changes[0][0], changes[-1][0]
    first, last = begin + (end - begin) / 4, end - (end - begin) / 4
    area = 0.0
    for (start, count), (stop, _) in itertools.pairwise(changes):
        area += count * max(0.0, min(stop, last) - max(start, first))
    return area / (last - first) if last > first else 0.0
