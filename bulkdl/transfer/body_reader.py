"""One response's body into the partial: through aiohttp block by block, or past it by the fast lane."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.errors import ProductFailed, TryAgain
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind
from bulkdl.transfer.checkpoints import CHECKPOINT_S
from bulkdl.transfer.response_errors import SNIFF, believed_twice, compared, not_the_product, objection_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkdl.http.fast_lane.streams import Chunk, Stream
    from bulkdl.http.fast_lane.takeover import FastLane
    from bulkdl.http.response import Response
    from bulkdl.storage.offset_writer import OffsetWriter
    from bulkdl.storage.partial_file import Partial
    from bulkdl.transfer.checkpoints import Checkpoints
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.segment_plan import SegmentLease
    from bulkdl.transfer.stall_watchdog import StallWatchdog
    from bulkdl.transfer.task import DownloadTask

__all__ = ["BodyReader"]

BLOCK = 1024 * 1024
"""Bytes gathered before a write."""
SLOW_WINDOWS = 2
"""Measurements in a row after which a connection counts as slow."""
RATE_S = 0.1
"""Seconds that a connection is measured before its rate counts."""
FAST_LANE_LEAST = 1024 * 1024
"""Least bytes of a segment for the fast lane, where the whole product is large enough for it."""


@dataclass(slots=True)
class WriteBehindBuffer:
    """Writes one block while the next is received, so that the network does not wait for the disk."""

    partial: Partial
    done: Callable[[int, int], None]
    """Receives the offset and the length of each block that has been written."""
    _task: asyncio.Task[None] | None = None

    async def put(self, offset: int, block: bytearray) -> None:
        await self.drain()
        self._task = asyncio.create_task(self._write(offset, block))

    async def drain(self) -> None:
        """Return once the block is written, even when cancelled: nothing may be written after the file is closed."""
        if self._task is not None:
            await run_to_completion(self._task)
            self._task = None

    async def _write(self, offset: int, block: bytearray) -> None:
        await self.partial.write(offset, block)
        self.done(offset, len(block))


class BodyReader:
    """Reads response bodies of one product into its partial, each to where its lease says."""

    def __init__(
        self,
        context: RunContext,
        task: DownloadTask,
        checkpoints: Checkpoints,
        partial: Partial,
        *,
        measured: asyncio.Event,
        is_too_slow: Callable[[SegmentLease], None],
    ) -> None:
        """`measured` is set once the rate of a connection is known; `is_too_slow` gets a lease far slower than others."""
        self._context = context
        self._task = task
        self._checkpoints = checkpoints
        self._partial = partial
        self._measured = measured
        self._is_too_slow = is_too_slow
        self._meter = context.connections.meter(task.product.account, task.source.host)

    async def read(self, response: Response, lease: SegmentLease, *, compare: bytes = b"") -> bool:
        """Write the body to the lease's range, whose end another connection may lower meanwhile.

        `compare` holds the bytes on disk that the body must repeat first. Return whether the body was read to its end.
        """
        lease.counted_at, lease.window, lease.slow_windows = 0.0, (0.0, lease.position), 0
        try:
            return await self._read(response, lease, compare=compare)
        finally:
            self._meter.rates.pop(id(lease), None)

    async def _read(self, response: Response, lease: SegmentLease, *, compare: bytes) -> bool:
        lane, total = self._context.lane, self._checkpoints.entry.total
        if lane is None or total is None or lease.left < self._least(lane, total):
            return (await self._through_aiohttp(response, lease, compare=compare))[0]
        given = 0
        if compare or not lease.position:  # the first bytes are checked before they are written
            ended, given = await self._through_aiohttp(response, lease, compare=compare, until=lane.first)
            if ended or not lease.left:
                return ended
        with lane.slot() as granted:
            worth = granted and lease.left >= self._least(lane, total)
            stream = await response.hand_over(given=given) if worth else None
            if stream is not None:
                return await self._through_fast_lane(lane, stream, response, lease)
        return (await self._through_aiohttp(response, lease))[0]

    @staticmethod
    def _least(lane: FastLane, total: int) -> int:
        return min(lane.least, FAST_LANE_LEAST) if total >= lane.least else lane.least

    # The fast lane

    async def _through_fast_lane(self, lane: FastLane, stream: Stream, response: Response, lease: SegmentLease) -> bool:
        """Read as `_through_aiohttp` does, from a connection that was taken over; close it at the end."""
        first, opened, watchdog = lease.position, self._context.clock.monotonic(), self._context.pace()
        body_end = lease.position + len(stream.ahead) + stream.left
        if stream.round_trip_s is not None:
            account, host = self._task.product.account, self._task.source.host
            self._context.connections.meter(account, host).add_round_trip(stream.round_trip_s)
        try:
            await run_to_completion(self._write_received(stream, lease))
            while lease.position < (end := min(lease.end, body_end)):
                await self._checkpoints.keep_step()
                chunk = await self._partial.with_writer(partial(self._step, lane, stream, lease, end))
                self._measure(lease, first, opened)
                if chunk.error is not None or chunk.ended:
                    raise response.broken(chunk.error)
                if stream.silence_s >= self._context.settings.timeout:
                    raise response.broken(TimeoutError())
                watchdog.count(response, chunk.count, waited=chunk.waited_s)
        finally:
            stream.close()
        return lease.position >= body_end

    async def _write_received(self, stream: Stream, lease: SegmentLease) -> None:
        """Write what the connection had received before it was taken over."""
        received, stream.ahead = stream.ahead[: lease.left], b""  # no second copy of it is kept
        if received:
            await self._partial.write(lease.position, received)
            self._arrived(lease, len(received))

    async def _step(self, lane: FastLane, stream: Stream, lease: SegmentLease, end: int, writer: OffsetWriter) -> Chunk:
        """Receive one chunk, and count it even when whoever waits for it is cancelled."""
        chunk = await lane.step(stream, writer, at=lease.position, end=end)
        self._arrived(lease, chunk.count)
        return chunk

    def _arrived(self, lease: SegmentLease, count: int) -> None:
        if count:
            at = lease.position
            lease.position += count
            self._count(lease, count)
            self._checkpoints.note(at, count)

    # Through aiohttp

    async def _through_aiohttp(
        self, response: Response, lease: SegmentLease, *, compare: bytes = b"", until: int = sys.maxsize
    ) -> tuple[bool, int]:
        """Read the body until its end, the lease's end, or `until` bytes of it once the overlap has been compared.

        Return whether the body was read to its own end, and how many of its bytes were read.
        """
        buffer, at, ended, given = bytearray(), lease.position, False, 0
        first, opened = lease.position, self._context.clock.monotonic()
        began = opened
        behind, watchdog = WriteBehindBuffer(self._partial, self._checkpoints.note), self._context.pace()
        try:
            while lease.position < lease.end and not ended and (given < until or compare):
                patience_s = RATE_S if not lease.rate else CHECKPOINT_S if buffer else None
                found = await _read(watchdog, response, patience_s=patience_s)
                chunk, ended = found or b"", found == b""
                given += len(chunk)
                self._count(lease, len(chunk) if response.decoder is None else response.decoder.take_encoded_count())
                if compare and chunk:
                    chunk, compare = compared(chunk, compare)
                if compare and ended:
                    raise TryAgain("the body ended early", kind=FailureKind.NETWORK)
                chunk = chunk[: max(0, lease.end - lease.position)]
                self._check_length(lease, len(chunk))
                buffer += chunk
                lease.position += len(chunk)
                now = self._measure(lease, first, opened)
                if len(buffer) >= BLOCK or (now - began >= CHECKPOINT_S and len(buffer) >= SNIFF):
                    self._check_beginning(response, at, buffer)
                    await behind.put(at, buffer)
                    at, buffer, began = at + len(buffer), bytearray(), now
                    await self._checkpoints.keep_step()
                await self._context.rate.take(len(chunk))
            self._check_beginning(response, at, buffer)
        finally:
            await run_to_completion(self._keep_rest(behind, response, at, buffer))
        return ended, given

    async def _keep_rest(self, behind: WriteBehindBuffer, response: Response, at: int, buffer: bytearray) -> None:
        """Write what was received and is still in memory, unless it cannot belong to the product."""
        await behind.drain()
        if buffer and not self._objection(response, at, buffer):
            await behind.put(at, buffer)
            await behind.drain()

    def _check_length(self, lease: SegmentLease, count: int) -> None:
        size = self._task.product.size
        if self._checkpoints.entry.total is None and size is not None and lease.position + count > size:
            failed = ProductFailed(
                f"expected {size} bytes, the server sends more",
                kind=FailureKind.SIZE,
                hint="Check the size in the manifest",
            )
            raise believed_twice(self._task, failed, restart=True)

    def _check_beginning(self, response: Response, at: int, buffer: bytearray) -> None:
        """Raise `TryAgain` before a page that stands in the product's place reaches the disk."""
        reason = self._objection(response, at, buffer)
        if reason is not None:
            raise not_the_product(reason)
        self._task.sniffed = self._task.sniffed or at == 0

    def _objection(self, response: Response, at: int, buffer: bytearray) -> str | None:
        if at != 0 or self._task.sniffed or self._task.product.checksums:  # a checksum decides, once all has arrived
            return None
        total = self._checkpoints.entry.total
        return objection_to(
            self._task,
            bytes(buffer),
            name=self._task.shown,
            content_type=response.head.content_type,
            size=self._task.product.size if total is None else total,
        )

    # Both

    def _count(self, lease: SegmentLease, count: int) -> None:
        self._context.count_received(self._task, count)
        now = self._context.clock.monotonic()
        if lease.counted_at:
            self._meter.add_body(id(lease), count, now=now, seconds=now - lease.counted_at)
        lease.counted_at = now

    def _measure(self, lease: SegmentLease, first: int, opened: float) -> float:
        """Measure the rate at which the lease is fetched, from offset `first` since `opened`; return the time."""
        now = self._context.clock.monotonic()
        if now - opened >= RATE_S:
            recent = self._meter.rates.get(id(lease))
            lease.rate = (lease.position - first) / (now - opened) if recent is None else recent
            if lease.rate:
                self._measured.set()
        began, position = lease.window
        if now - began >= self._meter.window_s:
            if began:
                self._meter.rates[id(lease)] = (lease.position - position) / (now - began)
                lease.slow_windows = lease.slow_windows + 1 if self._meter.is_far_slower(id(lease)) else 0
                if lease.slow_windows >= SLOW_WINDOWS:
                    self._is_too_slow(lease)
            lease.window = now, lease.position
        return now


async def _read(watchdog: StallWatchdog, response: Response, *, patience_s: float | None) -> bytes | None:
    """Return the next bytes, b"" at the end; None when a silence has lasted so long that the buffer should go to disk."""
    try:
        async with asyncio.timeout(patience_s) as silence:
            return await watchdog.read(response)
    except TimeoutError:
        if not silence.expired():
            raise
        return None
