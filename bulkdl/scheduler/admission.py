"""Whether a further product may still be begun: `--max-bytes`, and what `--until` leaves time for."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bulkdl.core.units import format_bytes
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.protocol.server_quirks import ignores_ranges

if TYPE_CHECKING:
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Counters
    from bulkdl.core.models import Settings
    from bulkdl.planning.plan import PlannedProduct
    from bulkdl.protocol.server_quirks import ServerFacts, ServerQuirks

__all__ = ["Admission", "can_end", "can_resume"]

MEASURED_S = 30.0
"""Least time (s) over which the present rate is measured; before, it is unknown."""
SAMPLE_S = 5.0
"""Least time (s) between two samples of the bytes received."""


def can_end(left: int, *, rate: float | None, products: int, seconds: float) -> bool:
    """Return whether `left` bytes arrive within `seconds`, where `products` share the `rate` (bytes per second).

    True while the rate is unknown: a product that is begun in vain costs less than a run that begins nothing.
    """
    return rate is None or left <= rate / max(1, products) * seconds


def can_resume(item: PlannedProduct, facts: ServerFacts, *, now: float) -> bool:
    """Return whether a later run can go on with what this one gets of the product, as far as is known at `now` (Unix time).

    An origin that has honoured a range counts as one that always does: a range is only requested with a validator, a
    checksum or an overlap.
    """
    return not ignores_ranges(facts, now=now) and (facts.range_hits > 0 or item.have > 0)


class Admission:
    """Decides for each new product whether this run begins it, and remembers why not."""

    def __init__(
        self, settings: Settings, *, counters: Counters, hosts: ServerQuirks, clock: Clock, ends_at: float | None
    ) -> None:
        """`ends_at`: the deadline on the clock's monotonic time; None: there is none."""
        self._max_bytes = settings.max_bytes
        self._counters = counters
        self._hosts = hosts
        self._clock = clock
        self._ends_at = ends_at
        self._samples: deque[tuple[float, int]] = deque([(clock.monotonic(), counters.received)])
        """Time and bytes received, oldest first; the first is the latest that is old enough for a measurement."""
        self.reason = ""
        """Why products were not begun; "" if none was refused."""

    def may_begin(self, item: PlannedProduct) -> bool:
        """Return whether the product may be begun now; one that needs no download always may."""
        if item.local_status in (LocalFileStatus.IN_PLACE, LocalFileStatus.NEEDS_CHECKSUM):
            return True
        if self._max_bytes is not None and self._counters.received >= self._max_bytes:
            self.reason = (
                f"{format_bytes(self._max_bytes)} have been received (--max-bytes); run the same command to resume"
            )
            return False
        if self._ends_at is not None and not self._has_time(item, self._ends_at):
            self.reason = self.reason or (
                "products that could neither end before the deadline (--until) nor be resumed were not begun; "
                "run the same command to resume"
            )
            return False
        return True

    def _has_time(self, item: PlannedProduct, ends_at: float) -> bool:
        now, size = self._clock.monotonic(), item.size
        rate = self._rate(now)
        if size is None:
            return True
        sharing = len(self._counters.flights) + 1
        if can_end(max(0, size - item.have), rate=rate, products=sharing, seconds=ends_at - now):
            return True
        return can_resume(item, self._hosts.of(item.product.url.origin), now=self._clock.wall())

    def _rate(self, now: float) -> float | None:
        """Return the bytes per second since at least half a minute; None if that is not known yet, or nothing came."""
        samples, received = self._samples, self._counters.received
        if now - samples[-1][0] >= SAMPLE_S:
            samples.append((now, received))
        while len(samples) > 1 and now - samples[1][0] >= MEASURED_S:
            samples.popleft()
        then, before = samples[0]
        if now - then < MEASURED_S or received == before:
            return None
        return (received - before) / (now - then)
