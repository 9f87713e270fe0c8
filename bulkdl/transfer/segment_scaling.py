"""How many extra connections one product opens, and the smallest segment that is worth one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from bulkdl.concurrency.connection_control import FAST
from bulkdl.transfer.segment_plan import SegmentPlan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bulkdl.protocol.byte_ranges import Range
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["AUTO_SEGMENTS", "MANY_SEGMENTS", "SegmentScaling"]

MIN_SPLIT = 256 * 1024
"""Least bytes of a segment that a connection is opened for."""
MIN_SPLIT_S, MIN_SPLIT_SLOW_S = 1.0, 0.4
"""Least seconds that a connection takes for it: a split wastes what the cut connection has under way. The second where the
server throttles each connection: little is under way then, and a further one adds its own rate."""
AUTO_SEGMENTS, MANY_SEGMENTS = 16, 32
"""Most connections to one product; the second once more connections have brought more from its host."""
LOOK_AGAIN_S, OFFER_S = 0.05, 0.2
"""Seconds between two looks for free slots, and between two openings once the number of connections is settled."""
PIECE, PIECE_S, PIECES = 8 * 1024 * 1024, 0.5, 64
"""With a checksum in the manifest: least bytes and seconds of a segment, and most requests of a product.

Segments are leased from the front then, so that hashing keeps up."""
REQUEST_COSTS = 20
"""A segment must take at least this many times the time that the last request took to be answered."""


class SegmentScaling:
    """The segment plan of one product, and the number of connections that share it."""

    def __init__(self, context: RunContext, task: DownloadTask, gaps: Iterable[Range], *, total: int | None) -> None:
        """`gaps`: what is missing of the product; `total`: its bytes, where they are known."""
        self._context = context
        self._task = task
        self._total = total
        self._offer_at = 0.0
        self._left_over = 0
        self.plan = self._planned(gaps)
        self.measured = asyncio.Event()
        """Set once the rate of a connection is known."""
        self.answered_s = 0.0
        """Seconds until the last request for a segment was answered."""

    @property
    def may_be_several(self) -> bool:
        """Whether more than one connection is allowed."""
        return self._most(AUTO_SEGMENTS) > 1

    def offered(self, live: int) -> int:
        """Return how many connections to open now beside `live` ones; report saturation where slots are missing."""
        account, host = self._task.product.account, self._task.source.host
        places, now = self._context.connections, self._context.clock.monotonic()
        grows = places.has_grown(account, host)
        self._set_least(grows=grows)
        wanted = self._lacking(MANY_SEGMENTS, live)
        free = min(
            places.free_slots(account=account, host=host), wanted if grows else self._lacking(AUTO_SEGMENTS, live)
        )
        share = places.fair_share(account, host, among=len(self._context.hub.counters.flights))
        new, opened = min(free, max(self._left_over, share - live)), 0
        if new > 0 and (grows or now >= self._offer_at):
            opened = self.plan.offer(new)
            self._offer_at = now + OFFER_S if self.measured.is_set() and new == free else 0.0
        self._left_over = free - max(0, new)  # other products had time to take these slots
        if free < wanted and (self.plan.has_work() or self.plan.left_s >= MIN_SPLIT_S):
            places.report_saturation(account, host)
        return opened

    def ended(self) -> SegmentPlan:
        """Replace the plan: nothing is missing any more."""
        self.plan = self._planned(())
        return self.plan

    def _planned(self, gaps: Iterable[Range]) -> SegmentPlan:
        return SegmentPlan(gaps, min_split=MIN_SPLIT, min_split_s=MIN_SPLIT_S)

    async def look_again(self) -> None:
        """Return after a moment, or once the first rate is known, or once the host may have more connections."""
        news = self._context.connections.limit_raised if self.measured.is_set() else self.measured
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_S):
                await news.wait()

    def _set_least(self, *, grows: bool) -> None:
        self.plan.min_split_s = MIN_SPLIT_SLOW_S if grows else MIN_SPLIT_S
        if self._task.product.checksums:
            self.plan.piece = self._piece()

    def _piece(self) -> int:
        """Return the bytes of a segment where they are hashed in their order while they arrive."""
        seconds = max(PIECE_S, REQUEST_COSTS * self.answered_s)  # a request costs as much as arrives until its answer
        return max(PIECE, (self._total or 0) // PIECES, int(self.plan.fastest * seconds))

    def _lacking(self, auto: int, live: int) -> int:
        """Return how many more connections the product may have."""
        return 0 if self._has_enough() else max(0, self._most(auto) - live)

    def _has_enough(self) -> bool:
        """Whether more connections would only take from other products: each is fast, and every worker has one in flight."""
        workers, account, host = self._context.settings.workers, self._task.product.account, self._task.source.host
        if workers is None:
            busy = self._context.connections.has_waiting(account, host)
        else:
            busy = len(self._context.hub.counters.flights) >= workers > 1
        return busy and self._context.settings.segments is None and self.plan.fastest >= FAST

    def _most(self, auto: int) -> int:
        return min(self._context.settings.segments or auto, self._task.most_connections)
