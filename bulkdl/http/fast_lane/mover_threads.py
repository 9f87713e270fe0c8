"""A few threads that move bodies from sockets to files, each of them for many connections: whichever has some is served.

The event loop gives a connection away for one step at a time, which is over after `STEP_BYTES` or `STEP_S`. In between it
counts, checkpoints, lowers the end and cancels; while a step runs nobody else touches the connection or its place in the file.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.http.fast_lane.streams import Chunk, WorkerBuffers

if TYPE_CHECKING:
    from bulkdl.http.fast_lane.streams import Stream
    from bulkdl.storage.offset_writer import OffsetWriter

__all__ = ["STEP_BYTES", "STEP_S", "TransferThreads"]

THREADS: Final = max(2, min(4, os.cpu_count() or 2))
"""With TLS more would only hand the interpreter's lock to and fro, record by record."""
STEP_BYTES: Final = 16 * 1024 * 1024
STEP_S: Final = 0.1


class TransferThreads:
    """The threads. They start when they are needed; `close` ends them, when no step runs."""

    def __init__(self, most: int = THREADS) -> None:
        self._most = most
        self._all: list[_TransferThread] = []

    async def step(self, stream: Stream, pen: OffsetWriter, *, at: int, end: int) -> Chunk:
        """Receive what belongs to `at` and after, up to `end`, and write it. Return when it is over, a cancellation included."""
        mover = self._least_busy()
        mover.load += 1
        try:
            job = _TransferRequest(
                stream, pen, at, min(end, at + STEP_BYTES), asyncio.get_running_loop().create_future()
            )
            mover.take(job)
            return await run_to_completion(job.over)
        finally:
            mover.load -= 1

    def _least_busy(self) -> _TransferThread:
        found = min(self._all, key=lambda mover: mover.load, default=None)
        if found is None or (found.load and len(self._all) < self._most):
            found = _TransferThread(f"bulkdl-lane-{len(self._all)}")
            self._all.append(found)
        return found

    def close(self) -> None:
        for mover in self._all:
            mover.stop()
        self._all.clear()


@dataclass(slots=True, eq=False)
class _TransferRequest:
    """One step under way."""

    stream: Stream
    pen: OffsetWriter
    start: int
    end: int
    over: asyncio.Future[Chunk]
    at: int = 0
    until: float = 0.0
    seen: float = 0.0
    """Since when it has been waiting for the network."""
    waited: float = 0.0


class _TransferThread:
    """One thread."""

    def __init__(self, name: str) -> None:
        self.load = 0
        """Steps that it has been given; for the event loop alone."""
        self._given: deque[_TransferRequest] = deque()
        self._stopping = False
        self._jobs: dict[_TransferRequest, None] = {}
        """In the order in which they began, and will end."""
        self._looked = 0.0
        """When the sockets were looked at last."""
        self._desk = WorkerBuffers()
        self._selector = selectors.DefaultSelector()
        self._ear, self._bell = socket.socketpair()
        for end in (self._ear, self._bell):
            end.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # On the event loop

    def take(self, job: _TransferRequest) -> None:
        self._given.append(job)
        if len(self._given) == 1:  # else the thread has not come to the one before, and finds this one behind it
            self._ring()

    def stop(self) -> None:
        self._stopping = True
        self._ring()
        self._thread.join()
        self._selector.close()
        self._desk.close()
        self._ear.close()
        self._bell.close()

    def _ring(self) -> None:
        with suppress(BlockingIOError):  # it has rung often enough
            self._bell.send(b"\0")

    # In the thread

    def _run(self) -> None:
        while not self._stopping:
            began = time.monotonic()
            first = next(iter(self._jobs), None)
            ready = self._selector.select(None if first is None else max(0.0, first.until - began))
            now = time.monotonic()
            for key, _ in ready:
                if key.data is None:
                    self._begin_given()
                else:
                    # What had nothing at the last look has waited at least until then; since then, this thread may not have looked.
                    self._turn(key.data, waited=max(0.0, self._looked - key.data.seen) + now - began)
            self._looked = now
            self._end_overdue(now)

    def _begin_given(self) -> None:
        with suppress(BlockingIOError):
            self._ear.recv(4096)
        while self._given:
            job = self._given.popleft()
            job.at, job.until = job.start, time.monotonic() + STEP_S
            self._jobs[job] = None
            try:
                self._selector.register(job.stream, selectors.EVENT_READ, job)
            except OSError as error:
                self._end(job, Chunk(0, error=error))
            except Exception as error:  # noqa: BLE001 - whoever waits for the step is told
                self._end(job, error)
            else:
                self._turn(job, waited=0.0)  # something may have been left behind that its socket does not tell of

    def _end_overdue(self, now: float) -> None:
        for job in tuple(self._jobs):
            if job.until > now:
                break
            if self._turn(job, waited=max(0.0, now - job.seen)):  # less may be here than is worth waking for
                self._end(job, Chunk(job.at - job.start, job.waited))

    def _turn(self, job: _TransferRequest, *, waited: float) -> bool:
        """Move what is here; False when that was the end of the step."""
        job.waited += waited
        try:
            done = job.stream.receive(self._desk, job.pen, job.at, job.end - job.at)
        except Exception as error:  # noqa: BLE001 - whoever waits for the step is told
            self._end(job, error)
            return False
        job.at += done.count
        job.stream.silence_s = 0.0 if done.count else job.stream.silence_s + waited
        if done.ended or done.error is not None or job.at >= job.end:
            self._end(job, Chunk(job.at - job.start, job.waited, ended=done.ended, error=done.error))
            return False
        job.stream.wake_for(job.end - job.at)
        job.seen = time.monotonic()
        return True

    def _end(self, job: _TransferRequest, result: Chunk | Exception) -> None:
        del self._jobs[job]
        with suppress(KeyError, ValueError):  # it could not be registered
            self._selector.unregister(job.stream)
        job.over.get_loop().call_soon_threadsafe(_tell, job.over, result)


def _tell(over: asyncio.Future[Chunk], result: Chunk | Exception) -> None:
    if over.done():
        return
    if isinstance(result, Chunk):
        over.set_result(result)
    else:
        over.set_exception(result)
