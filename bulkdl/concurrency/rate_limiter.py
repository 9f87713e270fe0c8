"""Rate limit of the run, and back-off of hosts."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from bulkdl.core.models import RateTimetable

if TYPE_CHECKING:
    from bulkdl.core.clock import Clock


__all__ = ["HostBackoff", "RateLimit"]

BURST_S = 0.25
"""Seconds of the rate that may be made up for after a pause."""
PIECE_S = 0.01
"""Seconds of the rate in one read: what every connection takes at once at the start goes beyond the limit."""
LEAST_PIECE = 512
"""Bytes that are read at once at least."""
ENOUGH = 0.5
"""Bytes; less is not waited for, since a sleep may be too short for the clock to show it."""
CHECK_S = 0.5
"""Longest sleep (s) with a timetable, which may change the rate meanwhile."""


class RateLimit:
    """A token bucket for the whole run, in bytes per second; None or 0: no limit.

    Callers are served in the order of their calls. The bucket is empty at the start, and holds the bytes of 0.25 s later.
    A timetable is looked up again at least twice a second, also while callers wait.
    """

    def __init__(self, rate: int | RateTimetable | None, *, clock: Clock) -> None:
        self._timetable = rate if isinstance(rate, RateTimetable) else None
        self._clock = clock
        self._rate = (None if isinstance(rate, RateTimetable) else rate) or None
        self._taken = 0
        """Bytes that callers have taken since the start."""
        self._allowed = 0.0
        """Bytes that the rate has allowed since the start, less those that nobody took in time."""
        self._counted_at = clock.monotonic()
        self._has_begun = False
        self._free_until = 0.0
        """Time (monotonic) until which bytes may come that were read before a limit began."""

    @property
    def piece(self) -> int | None:
        """Most bytes that a connection should read before it calls `take`; None: any number."""
        rate = self._present_rate()
        return None if rate is None else max(LEAST_PIECE, int(rate * PIECE_S))

    async def take(self, count: int) -> None:
        """Wait until the rate has allowed `count` more bytes."""
        if self._rate is None and self._timetable is None:
            return
        self._count_allowed()
        if self._rate is not None and self._counted_at < self._free_until:
            count = min(
                count, max(LEAST_PIECE, int(self._rate * PIECE_S))
            )  # the rest was read while there was no limit
        self._taken += count
        due = self._taken
        while (rate := self._rate) is not None and (left := due - self._allowed) >= ENOUGH:
            wait = left / rate
            await self._clock.sleep(wait if self._timetable is None else min(wait, CHECK_S))
            self._count_allowed()

    def _count_allowed(self) -> None:
        """Bring the allowance up to now, by the rate that held since the last time; then look the rate up."""
        now = self._clock.monotonic()
        if not self._has_begun:
            self._has_begun, self._counted_at = True, now
        if self._rate is None:
            self._allowed = float(self._taken)
        else:
            allowed = self._allowed + self._rate * (now - self._counted_at)
            self._allowed = min(allowed, self._taken + self._rate * BURST_S)
        before, self._counted_at, self._rate = self._rate, now, self._present_rate()
        if before is None and self._rate is not None and self._taken:
            self._free_until = now + CHECK_S

    def _present_rate(self) -> int | None:
        if self._timetable is None:
            return self._rate
        return self._timetable.rate_at(datetime.fromtimestamp(self._clock.wall()))  # noqa: DTZ006 - local time


class HostBackoff:
    """Back-off for each host: after a Retry-After all workers wait, not only the one that got it."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def pause(self, host: str, seconds: float) -> None:
        self._until[host] = max(self._until.get(host, 0.0), self._clock.monotonic() + seconds)

    def left(self, host: str) -> float:
        """Return the seconds until the next request to the host is allowed; 0: now."""
        until = self._until.get(host)
        return 0.0 if until is None else max(0.0, until - self._clock.monotonic())
