"""Everything that arrives for one product during one attempt: connections, blocks to disk, checkpoints.

The head of the first response has been judged before this module is entered. Further connections are opportunistic: they
are opened while there are places for them and given up at the first objection, and the product goes on with fewer.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.errors import ProductFailed, TryAgain, first_error
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind
from bulkdl.protocol.byte_ranges import Range, cover, missing, normalise
from bulkdl.protocol.resume import Action, RangeRequest, evaluate_response, validator
from bulkdl.protocol.server_quirks import observations
from bulkdl.transfer.body_reader import WriteBehindBuffer
from bulkdl.transfer.response_errors import SNIFF, compared, not_the_product, objection_to
from bulkdl.transfer.segment_scaling import SegmentScaling
from bulkdl.transfer.task import known_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bulkdl.http.fast_lane.streams import Chunk, Stream
    from bulkdl.http.fast_lane.takeover import FastLane
    from bulkdl.http.response import Response
    from bulkdl.journal.records import Entry
    from bulkdl.storage.offset_writer import OffsetWriter
    from bulkdl.storage.partial_file import Partial
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.segment_plan import SegmentLease
    from bulkdl.transfer.stall_watchdog import StallWatchdog
    from bulkdl.transfer.task import DownloadTask

__all__ = ["SegmentedReceiver"]

BLOCK = 1024 * 1024
"""Bytes gathered before a write."""
RATE_S = 0.1
"""How long a connection is watched before its rate counts."""
CHECKPOINT_BYTES = 16 * 1024 * 1024
CHECKPOINT_S = 1.0
"""A power cut can cost this much of each product in flight, whichever comes first."""
LEAVE, LEAVE_S = 64 * 1024, 0.3
"""A connection whose place is wanted for another goes on for so many bytes or so long, since they are under way."""
LANE_LEAST = 1024 * 1024
"""A stretch of a product that is worth the fast lane is worth it from so many bytes on."""


@dataclass(slots=True)
class _ExtraConnection:
    """A connection that was opened in addition, and what it fetches now."""

    claim: SegmentLease | None = None
    leaving: bool = False


class SegmentedReceiver:
    """One attempt's stream of one product into its partial."""

    def __init__(self, context: RunContext, task: DownloadTask, *, entry: Entry, partial: Partial, start: int) -> None:
        """`start`: where the body of the first response begins; `entry`: what is durable, of this very edition."""
        self._context = context
        self._task = task
        self._partial = partial
        self._entry = entry
        self._durable = normalise(entry.ranges)
        self._written: tuple[Range, ...] = self._durable
        self._unsynced = 0
        self._due = asyncio.Event()
        self._checkpointing = asyncio.Lock()
        total = entry.total
        if total is None:
            gaps: tuple[Range, ...] = ((start, sys.maxsize),)
        elif any(begin <= start < end for begin, end in self._durable):
            gaps = ((start, total),)  # the range was ignored, the edition is the same: written over what is there
        else:
            gaps = missing(self._durable, total)
        self._opening = SegmentScaling(context, task, gaps, total=total)
        self._plan = self._opening.plan
        self._stays = missing(gaps, sys.maxsize if total is None else total)
        self._start = start
        self._live = 1
        self._idle = False
        """Whether the product's own place, which is not live then, has nothing to fetch."""
        self._left = asyncio.Event()
        self._spawner: asyncio.Task[None] | None = None
        self._continuable = True
        self._fault: TryAgain | None = None
        self._flight = context.hub.counters.flights[task.product.id]
        self._flight.have = cover(self._written)

    async def receive(self, reply: Response, *, compare: bytes = b"", splittable: bool) -> Entry:
        """Stream until nothing is missing; the entry with every range, the last ones not durable yet.

        Raise `TryAgain` when something is still missing, with everything that arrived durable and in the journal.
        """
        self._continuable = reply.decoder is None
        self._task.hasher.begin(self._partial.path, self._stays, total=self._entry.total)
        try:
            with first_error():
                await self._connect(reply, compare, splittable=splittable)
                self._require_all()
        except BaseException:
            # Whatever ends an attempt, what has arrived is kept.
            await run_to_completion(self.checkpoint())
            raise
        finally:
            await self._task.hasher.pause()
        return replace(self._entry, ranges=self._written)

    def _require_all(self) -> None:
        if self._entry.total is None or missing(self._written, self._entry.total):
            raise self._fault or TryAgain("the body ended early", kind=FailureKind.NETWORK)

    async def checkpoint(self) -> None:
        """Make what has been written durable, then known."""
        async with self._checkpointing:
            ranges, self._unsynced = self._written, 0
            if ranges == self._durable:
                return
            await self._partial.sync()
            if not self._continuable:
                return  # no later answer can be asked to go on inside a coding, so nothing of it is known
            self._entry = replace(self._entry, ranges=ranges, updated=self._context.clock.wall())
            await self._context.journal.put(self._entry)
            self._durable = ranges

    async def _connect(self, reply: Response, compare: bytes, *, splittable: bool) -> None:
        async with asyncio.TaskGroup() as background:
            checkpoints = background.create_task(self._checkpoints())
            async with asyncio.TaskGroup() as connections:
                connections.create_task(self._first(reply, compare, splittable=splittable))
                if splittable and self._opening.may_be_several:
                    # In the group that it fills: once that is ending, nothing more can be opened in it.
                    self._spawner = connections.create_task(self._spawn(connections))
            checkpoints.cancel()

    async def _checkpoints(self) -> None:
        while True:
            try:
                async with asyncio.timeout(CHECKPOINT_S):
                    await self._due.wait()
            except TimeoutError:
                self._due.set()
            self._due.clear()
            await self.checkpoint()

    # Connections

    async def _first(self, reply: Response, compare: bytes, *, splittable: bool) -> None:
        self._flight.connections += 1
        claim = self._plan.claim_at(self._start)
        try:
            try:
                ended = await self._stream(reply, claim, compare=compare)
            finally:
                self._plan.release(claim)
            if self._entry.total is None:
                self._end_of_unknown(claim)
                return
            if not ended:
                reply.close()
            if splittable:
                await self._own()
        except TryAgain as fault:
            if fault.kind is FailureKind.CONTENT:
                raise  # it is not the product at all
            self._fault = fault
        finally:
            self._flight.connections -= 1
            self._ended()

    async def _own(self) -> None:
        """Fetch on the product's own place until nobody fetches any more: guests that have to leave leave something."""
        await self._more()
        while self._live > 1:
            self._left.clear()
            self._idle, self._live, self._flight.connections = True, self._live - 1, self._flight.connections - 1
            try:
                await self._left.wait()
            finally:
                self._idle, self._live, self._flight.connections = False, self._live + 1, self._flight.connections + 1
            await self._more()

    async def _extra(self) -> None:
        guest = _ExtraConnection()
        try:
            async with self._context.connections.extra(
                account=self._task.product.account, host=self._task.source.host, leave=partial(self._leave, guest)
            ) as granted:
                if granted:
                    await self._counted_more(guest)
        except (TryAgain, ProductFailed) as fault:
            # Not the product's fault: a server that minds a further connection says so in many ways.
            if isinstance(fault, TryAgain):
                self._fault = self._fault or fault
        finally:
            self._ended()

    def _leave(self, guest: _ExtraConnection) -> None:
        """Its place is wanted: what it is fetching ends soon, and is the last."""
        guest.leaving = True
        if guest.claim is not None:
            self._plan.cut(guest.claim, max(LEAVE, int(guest.claim.rate * LEAVE_S)))
        self._left.set()

    def _ended(self) -> None:
        self._live -= 1
        self._left.set()
        if not self._live and not self._idle and self._spawner is not None:
            self._spawner.cancel()

    async def _counted_more(self, guest: _ExtraConnection) -> None:
        self._flight.connections += 1
        try:
            await self._more(guest)
        finally:
            self._flight.connections -= 1

    async def _more(self, guest: _ExtraConnection | None = None) -> None:
        """Fetch stretch after stretch, each with a request of its own, until none is left or the guest has to leave."""
        guest = guest or _ExtraConnection()
        while not guest.leaving and (claim := self._plan.claim()) is not None:
            guest.claim, before = claim, claim.position
            try:
                async with self._range(claim) as reply:
                    if not await self._stream(reply, claim):
                        reply.close()
            except (TryAgain, ProductFailed):
                if claim.position == before:  # one that was cut has been welcome
                    self._task.most_connections = max(1, self._live - 1)
                    self._context.connections.connection_refused(self._task.product.account, self._task.source.host)
                raise
            finally:
                guest.claim = None
                if claim.position == before:
                    self._plan.hand_back(claim)
                else:
                    self._plan.release(claim)
            if claim.position == before:
                raise TryAgain("the server sent nothing of a range", kind=FailureKind.NETWORK)

    @asynccontextmanager
    async def _range(self, claim: SegmentLease) -> AsyncIterator[Response]:
        """The response to a request for one stretch, when it is exactly that, of the same edition."""
        task, known = self._task, self._context.known(self._task, self._entry)
        ask = RangeRequest(range=(claim.position, claim.end), if_range=validator(known, task.source.source))
        asked = self._context.clock.monotonic()
        async with self._context.open(task, headers=ask.headers) as reply:
            self._opening.answered_s = self._context.clock.monotonic() - asked
            self._context.connections.record_round_trip(
                task.product.account, task.source.host, self._opening.answered_s
            )
            decision = evaluate_response(
                reply.head,
                ask=ask,
                known=known,
                source=task.source.source,
                expected_size=task.product.size,
                keep_coding=task.keeps_coding(reply),
            )
            seen = observations(
                reply.head, ask=ask, known=known_of(self._entry), decision=decision, source=task.source.source
            )
            self._context.hosts.note(task.source.origin, *seen)
            if decision.action is not Action.APPEND or decision.start != claim.position:
                raise TryAgain(f"a further range was refused ({decision.why})", kind=FailureKind.HTTP)
            yield reply

    async def _spawn(self, connections: asyncio.TaskGroup) -> None:
        """Open further connections while there are places for them."""
        while (self._live or self._idle) and self._plan.left:
            for _ in range(self._opening.offered(self._live)):
                self._live += 1
                connections.create_task(self._extra())
            await self._opening.look_again()

    # One connection's body

    async def _stream(self, reply: Response, claim: SegmentLease, *, compare: bytes = b"") -> bool:
        """Write the body of `reply` to where `claim` says, until its end, which another connection may lower.

        True when the body was read to its own end.
        """
        lane = self._context.lane
        if lane is None or self._entry.total is None or claim.left < self._least(lane):
            return (await self._ordinary(reply, claim, compare=compare))[0]
        given = 0
        if compare or not claim.position:  # what comes first is looked at before it is written
            ended, given = await self._ordinary(reply, claim, compare=compare, until=lane.first)
            if ended or not claim.left:
                return ended
        with lane.place() as granted:
            worth = granted and claim.left >= self._least(lane)
            stream = await reply.hand_over(given=given) if worth else None
            if stream is not None:
                return await self._by_lane(lane, stream, reply, claim)
        return (await self._ordinary(reply, claim))[0]

    def _least(self, lane: FastLane) -> int:
        return min(lane.least, LANE_LEAST) if (self._entry.total or 0) >= lane.least else lane.least

    async def _by_lane(self, lane: FastLane, stream: Stream, reply: Response, claim: SegmentLease) -> bool:
        """Like `_ordinary`, the connection having been taken over; it is given up at the end."""
        first, opened, pace = claim.position, self._context.clock.monotonic(), self._context.pace()
        body_end = claim.position + len(stream.ahead) + stream.left
        account, host = self._task.product.account, self._task.source.host
        if stream.round_trip_s is not None:
            self._context.connections.record_round_trip(account, host, stream.round_trip_s)
        try:
            await run_to_completion(self._write_ahead(stream, claim))
            while claim.position < (end := min(claim.end, body_end)):
                await self._keep_step()
                step = await self._partial.lend(partial(self._step, lane, stream, claim, end))
                self._measure(claim, first, opened)
                if step.error is not None or step.ended:
                    raise reply.broken(step.error)
                if stream.silence_s >= self._context.settings.timeout:
                    raise reply.broken(TimeoutError())
                pace.count(reply, step.count, waited=step.waited_s)
        finally:
            stream.close()
        return claim.position >= body_end

    async def _write_ahead(self, stream: Stream, claim: SegmentLease) -> None:
        ahead, stream.ahead = stream.ahead[: claim.left], b""  # it is as much as all else that a connection holds
        if ahead:
            await self._partial.write(claim.position, ahead)
            self._arrived(claim, len(ahead))

    async def _step(self, lane: FastLane, stream: Stream, claim: SegmentLease, end: int, pen: OffsetWriter) -> Chunk:
        """One step, which goes to its end and counts what it has brought, whatever becomes of whoever waits for it."""
        step = await lane.step(stream, pen, at=claim.position, end=end)
        self._arrived(claim, step.count)
        return step

    def _arrived(self, claim: SegmentLease, count: int) -> None:
        if count:
            at = claim.position
            claim.position += count
            self._count(count)
            self._note(at, count)

    async def _ordinary(
        self, reply: Response, claim: SegmentLease, *, compare: bytes = b"", until: int = sys.maxsize
    ) -> tuple[bool, int]:
        """Through aiohttp, as `_stream` says, or until so many bytes of the body and the overlap have been read.

        Whether the body was read to its own end, and how many bytes of it have been.
        """
        buffer, at, ended, given = bytearray(), claim.position, False, 0
        first, opened = claim.position, self._context.clock.monotonic()
        began = opened
        behind, pace = WriteBehindBuffer(self._partial, self._note), self._context.pace()
        try:
            while claim.position < claim.end and not ended and (given < until or compare):
                patience_s = RATE_S if not claim.rate else CHECKPOINT_S if buffer else None
                found = await _read(pace, reply, patience_s=patience_s)
                chunk, ended = found or b"", found == b""
                given += len(chunk)
                self._count(len(chunk) if reply.decoder is None else reply.decoder.take_encoded_count())
                if compare and chunk:
                    chunk, compare = compared(chunk, compare)
                if compare and ended:
                    raise TryAgain("the body ended early", kind=FailureKind.NETWORK)
                chunk = chunk[: max(0, claim.end - claim.position)]
                self._check_length(claim, len(chunk))
                buffer += chunk
                claim.position += len(chunk)
                now = self._measure(claim, first, opened)
                if len(buffer) >= BLOCK or (now - began >= CHECKPOINT_S and len(buffer) >= SNIFF):
                    self._sniff(reply, at, buffer)
                    await behind.put(at, buffer)
                    at, buffer, began = at + len(buffer), bytearray(), now
                    await self._keep_step()
                await self._context.rate.take(len(chunk))
            self._sniff(reply, at, buffer)
        finally:
            await run_to_completion(self._rest(behind, reply, at, buffer))
        return ended, given

    async def _rest(self, behind: WriteBehindBuffer, reply: Response, at: int, buffer: bytearray) -> None:
        """Keep what was received and not written yet, unless it is nothing that belongs to the product."""
        await behind.drain()
        if buffer and not self._objection(reply, at, buffer):
            await behind.put(at, buffer)
            await behind.drain()

    def _count(self, count: int) -> None:
        self._context.hub.counters.received += count
        self._context.connections.count_bytes(self._task.product.account, self._task.source.host, count)

    def _measure(self, claim: SegmentLease, first: int, opened: float) -> float:
        """See how fast `claim` is being fetched, from `first` on since it was `opened`; the time."""
        now = self._context.clock.monotonic()
        if now - opened >= RATE_S:
            known, claim.rate = claim.rate > 0, (claim.position - first) / (now - opened)
            if claim.rate and not known:
                account, host = self._task.product.account, self._task.source.host
                count = claim.position - first
                self._context.connections.record_first_bytes(account, host, count=count, rate=claim.rate, opened=opened)
                self._opening.measured.set()
        return now

    async def _keep_step(self) -> None:
        """Run no further ahead of a slow disk than one checkpoint beside the one under way: that bounds what a crash costs."""
        if self._unsynced >= CHECKPOINT_BYTES and self._checkpointing.locked():
            async with self._checkpointing:
                pass

    def _note(self, at: int, count: int) -> None:
        self._task.hasher.note(at, at + count)
        self._written = normalise((*self._written, (at, at + count)))
        self._flight.have = cover(self._written)
        self._unsynced += count
        if self._unsynced >= CHECKPOINT_BYTES:
            self._due.set()

    def _check_length(self, claim: SegmentLease, count: int) -> None:
        size = self._task.product.size
        if self._entry.total is None and size is not None and claim.position + count > size:
            raise ProductFailed(
                f"expected {size} bytes, the server sends more",
                kind=FailureKind.SIZE,
                hint="Check the size in the manifest",
            )

    def _objection(self, reply: Response, at: int, buffer: bytearray) -> str | None:
        if at != 0 or self._task.sniffed:
            return None
        return objection_to(
            self._task,
            bytes(buffer),
            name=self._task.shown,
            content_type=reply.head.content_type,
            size=self._entry.total,
        )

    def _sniff(self, reply: Response, at: int, buffer: bytearray) -> None:
        """A page instead of the product never reaches the disk."""
        reason = self._objection(reply, at, buffer)
        if reason is not None:
            raise not_the_product(reason)
        self._task.sniffed = self._task.sniffed or at == 0

    def _end_of_unknown(self, claim: SegmentLease) -> None:
        """The body has ended as HTTP says it must, so its length is known now."""
        if self._task.product.size is not None and claim.position < self._task.product.size:
            raise TryAgain("the body ended early", kind=FailureKind.NETWORK)
        self._entry = replace(self._entry, total=claim.position)
        self._plan = self._opening.ended()
        self._flight.total = claim.position


async def _read(pace: StallWatchdog, reply: Response, *, patience_s: float | None) -> bytes | None:
    """The next bytes, b"" at the end; None when a silence has lasted so long that what is here should go to disk."""
    try:
        async with asyncio.timeout(patience_s) as silence:
            return await pace.read(reply)
    except TimeoutError:
        if not silence.expired():
            raise
        return None
