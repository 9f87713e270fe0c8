"""All connections of one product during one attempt: which segments they fetch, and when they are opened and closed.

The head of the first response has been judged before. Extra connections are opportunistic: they are opened while there are
slots for them and given up at the first refusal, and the product goes on with fewer.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.errors import ProductFailed, TryAgain, first_error
from bulkdl.core.events import Level
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind
from bulkdl.core.units import format_bytes
from bulkdl.protocol.byte_ranges import Range, missing
from bulkdl.protocol.resume import Action, RangeRequest, evaluate_response, validator
from bulkdl.protocol.server_quirks import observations
from bulkdl.transfer.body_reader import BodyReader
from bulkdl.transfer.checkpoints import Checkpoints
from bulkdl.transfer.coding_labels import keeps_coding
from bulkdl.transfer.segment_scaling import SegmentScaling
from bulkdl.transfer.task import known_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bulkdl.concurrency.connection_limiter import Slot
    from bulkdl.http.response import Response
    from bulkdl.journal.records import Entry
    from bulkdl.storage.partial_file import Partial
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.segment_plan import SegmentLease
    from bulkdl.transfer.task import DownloadTask

__all__ = ["SegmentedReceiver"]

WORTH_GIVING_UP_S = 3.0
"""Seconds that a connection far slower than others must still need, so that a new request is worth its cost."""
LEAVE, LEAVE_S = 64 * 1024, 0.3
"""A connection whose slot is wanted goes on for so many bytes or seconds, whichever is more: they are under way already."""


HASHED_RATE = 128 * 1024 * 1024 * (os.cpu_count() or 1)
"""Highest rate of a run (bytes/s) at which large products get a digest that only `bulkdl verify` needs.

BLAKE3 takes some 0.35 ms for each MiB with the reading, so this is 5 % of all processors. At a higher rate, which only a
network above 1 Gbit/s for each core reaches, the processors bound the run.
"""


@dataclass(slots=True)
class _ExtraConnection:
    """A connection opened in addition to the product's own, and the lease that it fetches now."""

    lease: SegmentLease | None = None
    leaving: bool = False
    slot: Slot | None = None


class SegmentedReceiver:
    """Receives one product into its partial during one attempt."""

    def __init__(self, context: RunContext, task: DownloadTask, *, entry: Entry, partial: Partial, start: int) -> None:
        """`start`: where the body of the first response begins; `entry`: what is durable of this very version."""
        self._context = context
        self._task = task
        self._partial = partial
        self._progress = Checkpoints(context, task, entry=entry, partial=partial)
        total, durable = entry.total, self._progress.durable
        if total is None:
            gaps: tuple[Range, ...] = ((start, sys.maxsize),)
        elif any(begin <= start < end for begin, end in durable):
            gaps = ((start, total),)  # the server ignored the range and has the same version: write over what is there
        else:
            gaps = missing(durable, total)
        self._scaling = SegmentScaling(context, task, gaps, total=total)
        self._plan = self._scaling.plan
        self._kept = missing(gaps, sys.maxsize if total is None else total)
        self._reader = BodyReader(
            context, task, self._progress, partial, measured=self._scaling.measured, is_too_slow=self._give_up
        )
        self._start = start
        self._splittable = False
        self._live = 1
        """Connections that are fetching, or about to."""
        self._main_is_idle = False
        """True while the product's own connection waits because every segment is leased; it does not count as live then."""
        self._left = asyncio.Event()
        """Set when a connection has ended or has to: it may leave something to fetch."""
        self._opener: asyncio.Task[None] | None = None
        self._fault: TryAgain | None = None
        self._flight = context.hub.counters.flights[task.product.id]

    def _give_up(self, lease: SegmentLease) -> None:
        """End a connection that is far slower than others; what is left of its lease is requested anew."""
        if self._splittable and lease in self._plan and lease.left_s > WORTH_GIVING_UP_S:
            text = f"{self._task.shown}: a connection brings {format_bytes(lease.rate)}/s, far less than others: requested anew"
            self._context.hub.note(Level.DEBUG, text, self._task.product)
            self._plan.cut(lease, 0)

    async def receive(self, response: Response, *, compare: bytes = b"", splittable: bool) -> Entry:
        """Receive until nothing is missing; return the entry with every range, the last of which are not durable yet.

        Raise `TryAgain` when something is still missing, with everything that arrived durable and in the journal.
        """
        self._splittable = splittable
        self._progress.can_resume = response.decoder is None
        self._task.hasher.begin(
            self._partial.path, self._kept, total=self._progress.entry.total, affordable=self._hash_budget()
        )
        try:
            with first_error():
                await self._connect(response, compare, splittable=splittable)
                self._require_all()
        except BaseException:
            # Whatever ends an attempt, the bytes that arrived are kept.
            await run_to_completion(self._progress.checkpoint())
            raise
        finally:
            await self._task.hasher.pause()
        return replace(self._progress.entry, ranges=self._progress.written)

    def _hash_budget(self) -> Callable[[], bool] | None:
        """Return a function that tells whether hashing costs little at the rate of the run; None if it is necessary."""
        if self._task.product.checksums or self._task.server_digest.checksums:
            return None
        counters, clock = self._context.hub.counters, self._context.clock
        began, before = clock.monotonic(), counters.received
        return lambda: counters.received - before <= HASHED_RATE * (clock.monotonic() - began)

    def _require_all(self) -> None:
        if not self._progress.is_complete:
            raise self._fault or TryAgain("the body ended early", kind=FailureKind.NETWORK)

    async def _connect(self, response: Response, compare: bytes, *, splittable: bool) -> None:
        async with asyncio.TaskGroup() as background:
            checkpoints = background.create_task(self._progress.run())
            async with asyncio.TaskGroup() as connections:
                connections.create_task(self._main_connection(response, compare, splittable=splittable))
                if splittable and self._scaling.may_be_several:
                    # In the group that it fills: once that group is ending, nothing more can be opened in it.
                    self._opener = connections.create_task(self._open_connections(connections))
            checkpoints.cancel()

    # The product's own connection

    async def _main_connection(self, response: Response, compare: bytes, *, splittable: bool) -> None:
        """Read the first response, then fetch further segments on the product's own slot."""
        self._flight.connections += 1
        lease = self._plan.lease_at(self._start)
        try:
            try:
                ended = await self._reader.read(response, lease, compare=compare)
            finally:
                self._plan.release(lease)
            if self._progress.entry.total is None:
                self._set_total(lease.position)
                return
            if not ended:
                response.close()
            if splittable:
                await self._fetch_until_done()
        except TryAgain as fault:
            if fault.kind is FailureKind.CONTENT:
                raise  # it is not the product at all
            self._fault = fault
        finally:
            self._flight.connections -= 1
            self._connection_ended()

    async def _fetch_until_done(self) -> None:
        """Fetch while other connections are live: one that has to leave may hand back part of its segment."""
        await self._fetch_segments()
        while self._live > 1:
            self._left.clear()
            self._main_is_idle, self._live = True, self._live - 1
            self._flight.connections -= 1
            try:
                await self._left.wait()
            finally:
                self._main_is_idle, self._live = False, self._live + 1
                self._flight.connections += 1
            await self._fetch_segments()

    def _set_total(self, total: int) -> None:
        """Take the end of a body of unknown length, which HTTP has shown to be its end, for the product's end."""
        if self._task.product.size is not None and total < self._task.product.size:
            raise TryAgain("the body ended early", kind=FailureKind.NETWORK)
        self._progress.entry = replace(self._progress.entry, total=total)
        self._plan = self._scaling.ended()
        self._flight.total = total

    # Extra connections

    async def _open_connections(self, connections: asyncio.TaskGroup) -> None:
        """Open extra connections while there are slots for them."""
        while (self._live or self._main_is_idle) and self._plan.left:
            for _ in range(self._scaling.offered(self._live)):
                self._live += 1
                connections.create_task(self._extra_connection())
            await self._scaling.look_again()

    async def _extra_connection(self) -> None:
        extra = _ExtraConnection()
        try:
            async with self._context.connections.extra(
                account=self._task.product.account, host=self._task.source.host, leave=partial(self._leave, extra)
            ) as extra.slot:
                if extra.slot is not None:
                    self._flight.connections += 1
                    try:
                        await self._fetch_segments(extra)
                    finally:
                        self._flight.connections -= 1
        except (TryAgain, ProductFailed) as fault:
            # Not the product's fault: servers refuse a further connection in many ways.
            if isinstance(fault, TryAgain):
                self._fault = self._fault or fault
        finally:
            self._connection_ended()

    def _leave(self, extra: _ExtraConnection) -> None:
        """Make an extra connection end soon: its slot is wanted for another product."""
        extra.leaving = True
        if extra.lease is not None:
            self._plan.cut(extra.lease, max(LEAVE, int(extra.lease.rate * LEAVE_S)))
        self._left.set()

    def _connection_ended(self) -> None:
        self._live -= 1
        self._left.set()
        if not self._live and not self._main_is_idle and self._opener is not None:
            self._opener.cancel()

    # Segments

    async def _fetch_segments(self, extra: _ExtraConnection | None = None) -> None:
        """Fetch segment after segment, each with its own request, until none is left or the connection has to leave."""
        extra = extra or _ExtraConnection()
        while not extra.leaving and (lease := self._plan.lease()) is not None:
            extra.lease, before = lease, lease.position
            try:
                async with self._request(lease) as response:
                    if extra.slot is not None:
                        extra.slot.answered()
                    if not await self._reader.read(response, lease):
                        response.close()
            except (TryAgain, ProductFailed):
                if lease.position == before:  # a connection that brought bytes was accepted, whatever ended it
                    self._task.most_connections = max(1, self._live - 1)
                    self._context.connections.connection_refused(self._task.product.account, self._task.source.host)
                raise
            finally:
                extra.lease = None
                if lease.position == before:
                    self._plan.hand_back(lease)
                else:
                    self._plan.release(lease)
            if lease.position == before:
                raise TryAgain("the server sent nothing of a range", kind=FailureKind.NETWORK)

    @asynccontextmanager
    async def _request(self, lease: SegmentLease) -> AsyncIterator[Response]:
        """Request the lease's range; raise `TryAgain` unless the response is exactly that, of the same version."""
        task, entry = self._task, self._progress.entry
        known, source = self._context.known(task, entry), task.source.source
        ask = RangeRequest(range=(lease.position, lease.end), if_range=validator(known, source))
        asked = self._context.clock.monotonic()
        async with self._context.open(task, headers=ask.headers) as response:
            self._scaling.answered_s = self._context.clock.monotonic() - asked
            self._context.connections.record_answer(task.product.account, task.source.host, asked=asked, is_whole=False)
            decision = evaluate_response(
                response.head,
                ask=ask,
                known=known,
                source=source,
                expected_size=task.product.size,
                keep_coding=keeps_coding(task, response),
            )
            seen = observations(response.head, ask=ask, known=known_of(entry), decision=decision, source=source)
            self._context.hosts.note(task.source.origin, *seen)
            if decision.action is not Action.APPEND or decision.start != lease.position:
                status = response.head.status
                raise TryAgain(
                    f"{response.url.host} answered {status} to a request for a further range ({decision.why})",
                    kind=FailureKind.HTTP,
                )
            yield response
