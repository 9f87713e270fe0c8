"""How many further connections one product is given, and how small a stretch of it is worth one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from bulkdl.concurrency.adaptive_limit import FAST
from bulkdl.transfer.segment_plan import SegmentPlan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bulkdl.protocol.byte_ranges import Range
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["AUTO_SEGMENTS", "MANY_SEGMENTS", "SegmentScaling"]

MIN_SPLIT = 4 * 1024 * 1024
"""No connection is opened for less than this many bytes."""
MIN_SPLIT_S = 1.0
"""Nor for what the others would have fetched this soon: a connection that is cut short loses what it has under way."""
MIN_SPLIT_SLOW, MIN_SPLIT_SLOW_S = 1024 * 1024, 0.3
"""The same where every connection seems to be held back: what one has under way is little, and another brings as much."""
AUTO_SEGMENTS, MANY_SEGMENTS = 16, 32
"""Most connections to one product, and the same once more of them have brought more from its host."""
LOOK_AGAIN_S, OFFER_S = 0.05, 0.2
"""How often it is seen whether there is room for more connections, and how often some are opened where their number is settled."""
PIECE, PIECE_S, PIECES = 8 * 1024 * 1024, 0.5, 64
"""Where a checksum follows, a connection fetches no less at once, nor for a shorter time, and a product takes no more requests."""
WASTES = 20
"""Nor is a piece so short that asking for it would cost more than one part in so many."""


class SegmentScaling:
    """The plan of one product's stretches, and what decides how many connections share in it."""

    def __init__(self, context: RunContext, task: DownloadTask, gaps: Iterable[Range], *, total: int | None) -> None:
        """`gaps`: what is missing of the product; `total`: its bytes, where they are known."""
        self._context = context
        self._task = task
        self._total = total
        self._offer_at = 0.0
        self._left_over = 0
        self.plan = self._planned(gaps)
        self.measured = asyncio.Event()
        """Set once it is known what a connection brings."""
        self.answered_s = 0.0
        """How long the last further request took to be answered."""

    @property
    def may_be_several(self) -> bool:
        """Whether more than one connection is allowed."""
        return self._most(AUTO_SEGMENTS) > 1

    def offered(self, live: int) -> int:
        """How many connections to open now, beside `live` ones; where there are too few places, that is said."""
        account, host = self._task.product.account, self._task.source.host
        places, now = self._context.connections, self._context.clock.monotonic()
        grows = places.has_grown(account, host)
        self._set_least(grows=grows)
        wanted = self._lacking(MANY_SEGMENTS, live)
        spare = min(
            places.free_slots(account=account, host=host), wanted if grows else self._lacking(AUTO_SEGMENTS, live)
        )
        share = places.fair_share(account, host, among=len(self._context.hub.counters.flights))
        new, opened = min(spare, max(self._left_over, share - live)), 0
        if new > 0 and (grows or now >= self._offer_at):
            opened = self.plan.offer(new)
            self._offer_at = now + OFFER_S if self.measured.is_set() and new == spare else 0.0
        self._left_over = spare - max(0, new)  # whoever else wants it has had the time
        if spare < wanted and (self.plan.has_work() or self.plan.left_s >= MIN_SPLIT_S):
            places.report_saturation(account, host)
        return opened

    def ended(self) -> SegmentPlan:
        """Nothing is missing any more; the plan that says so."""
        self.plan = self._planned(())
        return self.plan

    def _planned(self, gaps: Iterable[Range]) -> SegmentPlan:
        return SegmentPlan(gaps, min_split=MIN_SPLIT, min_split_s=MIN_SPLIT_S)

    async def look_again(self) -> None:
        """Return after a moment, or once it is known what the first connection brings, or more may be opened."""
        news = self._context.connections.limit_raised if self.measured.is_set() else self.measured
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_S):
                await news.wait()

    def _set_least(self, *, grows: bool) -> None:
        least, least_s = (MIN_SPLIT_SLOW, MIN_SPLIT_SLOW_S) if grows else (MIN_SPLIT, MIN_SPLIT_S)
        self.plan.min_split, self.plan.min_split_s = min(MIN_SPLIT, least), min(MIN_SPLIT_S, least_s)
        if self._task.product.checksums:
            self.plan.piece = self._piece()

    def _piece(self) -> int:
        """Bytes that a connection takes at once where they are hashed in their order while they arrive."""
        seconds = max(PIECE_S, WASTES * self.answered_s)  # to ask costs about as much as comes until the answer
        return max(PIECE, (self._total or 0) // PIECES, int(self.plan.fastest * seconds))

    def _lacking(self, auto: int, live: int) -> int:
        """How many connections more there may be."""
        return 0 if self._has_its_share() else max(0, self._most(auto) - live)

    def _has_its_share(self) -> bool:
        """Whether more connections would only take from others: each is fast, and every worker has a product in flight."""
        busy = len(self._context.hub.counters.flights) >= self._context.settings.workers > 1
        return busy and self._context.settings.segments is None and self.plan.fastest >= FAST

    def _most(self, auto: int) -> int:
        return min(self._context.settings.segments or auto, self._task.most_connections)
