"""Transfer threads of the fast lane: a few threads move the bodies of many connections from sockets to files.

The event loop lends a connection to a thread for one step, which ends after `STEP_BYTES` or `STEP_S`. Between two steps
the event loop counts bytes, makes checkpoints, shortens the range (when another connection steals a part of it) and
cancels. During a step only the thread uses the connection and its place in the file.

A thread waits for all of its sockets at once. A socket wakes it when 512 KiB have arrived, or all bytes that are still
wanted. The thread then moves one block of one connection at a time. It owns the pipe and the buffers
(`streams.WorkerBuffers`).
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
"""Limit of threads. With TLS each record needs the interpreter's lock, so more threads would only contend for it."""
STEP_BYTES: Final = 16 * 1024 * 1024
"""Longest step (bytes)."""
STEP_S: Final = 0.1
"""Longest step (s)."""


class TransferThreads:
    """The threads of one run. They start on demand; `close` ends them and must not be called during a step."""

    def __init__(self, most: int = THREADS) -> None:
        self._most = most
        self._threads: list[_TransferThread] = []

    async def step(self, stream: Stream, writer: OffsetWriter, *, at: int, end: int) -> Chunk:
        """Receive body bytes from offset `at` up to `end` and write them.

        Return when the step is over, even if cancelled.
        """
        thread = self._least_busy()
        thread.load += 1
        try:
            request = _TransferRequest(
                stream, writer, at, min(end, at + STEP_BYTES), asyncio.get_running_loop().create_future()
            )
            thread.submit(request)
            return await run_to_completion(request.result)
        finally:
            thread.load -= 1

    def _least_busy(self) -> _TransferThread:
        found = min(self._threads, key=lambda thread: thread.load, default=None)
        if found is None or (found.load and len(self._threads) < self._most):
            found = _TransferThread(f"bulkdl-lane-{len(self._threads)}")
            self._threads.append(found)
        return found

    def close(self) -> None:
        for thread in self._threads:
            thread.stop()
        self._threads.clear()


@dataclass(slots=True, eq=False)
class _TransferRequest:
    """One step."""

    stream: Stream
    writer: OffsetWriter
    start: int
    end: int
    result: asyncio.Future[Chunk]
    at: int = 0
    """Offset of the next byte in the file."""
    deadline: float = 0.0
    waiting_since: float = 0.0
    """Time since which the step waits for the network."""
    waited: float = 0.0
    """Total wait for the network (s)."""


class _TransferThread:
    """One thread; `submit` and `stop` are called on the event loop, all other methods in the thread."""

    def __init__(self, name: str) -> None:
        self.load = 0
        """Unfinished steps of this thread. Only the event loop uses it."""
        self._submitted: deque[_TransferRequest] = deque()
        self._stopping = False
        self._active: dict[_TransferRequest, None] = {}
        """Steps in the order of their start, which is also the order of their deadlines."""
        self._polled_at = 0.0
        """Time of the last look at the sockets."""
        self._buffers = WorkerBuffers()
        self._selector = selectors.DefaultSelector()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        for end in (self._wake_receiver, self._wake_sender):
            end.setblocking(False)
        self._selector.register(self._wake_receiver, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # On the event loop

    def submit(self, request: _TransferRequest) -> None:
        self._submitted.append(request)
        if (
            len(self._submitted) == 1
        ):  # else the thread is still to be woken for an earlier request and finds this one too
            self._wake()

    def stop(self) -> None:
        self._stopping = True
        self._wake()
        self._thread.join()
        self._selector.close()
        self._buffers.close()
        self._wake_receiver.close()
        self._wake_sender.close()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # the socket is full of wake-ups already
            self._wake_sender.send(b"\0")

    # In the thread

    def _run(self) -> None:
        while not self._stopping:
            began = time.monotonic()
            first = next(iter(self._active), None)
            ready = self._selector.select(None if first is None else max(0.0, first.deadline - began))
            now = time.monotonic()
            for key, _ in ready:
                if key.data is None:
                    self._start_submitted()
                else:
                    # The connection had nothing at the last poll, so it waited at least until then, and during this
                    # poll. The time between the polls does not count: bytes may have arrived while the thread was busy.
                    self._receive(key.data, waited=max(0.0, self._polled_at - key.data.waiting_since) + now - began)
            self._polled_at = now
            self._finish_overdue(now)

    def _start_submitted(self) -> None:
        with suppress(BlockingIOError):
            self._wake_receiver.recv(4096)
        while self._submitted:
            request = self._submitted.popleft()
            request.at, request.deadline = request.start, time.monotonic() + STEP_S
            self._active[request] = None
            try:
                self._selector.register(request.stream, selectors.EVENT_READ, request)
            except OSError as error:
                self._finish(request, Chunk(0, error=error))
            except Exception as error:  # noqa: BLE001 - the coroutine that awaits the step gets it
                self._finish(request, error)
            else:
                self._receive(request, waited=0.0)  # the TLS state may hold bytes for which the socket does not wake us

    def _finish_overdue(self, now: float) -> None:
        for request in tuple(self._active):
            if request.deadline > now:
                break
            # Bytes may have arrived that were too few to wake the thread, so read once more.
            if self._receive(request, waited=max(0.0, now - request.waiting_since)):
                self._finish(request, Chunk(request.at - request.start, request.waited))

    def _receive(self, request: _TransferRequest, *, waited: float) -> bool:
        """Move the bytes that have arrived; return False if this ended the step."""
        request.waited += waited
        try:
            done = request.stream.receive(self._buffers, request.writer, request.at, request.end - request.at)
        except Exception as error:  # noqa: BLE001 - the coroutine that awaits the step gets it
            self._finish(request, error)
            return False
        request.at += done.count
        request.stream.silence_s = 0.0 if done.count else request.stream.silence_s + waited
        if done.ended or done.error is not None or request.at >= request.end:
            result = Chunk(request.at - request.start, request.waited, ended=done.ended, error=done.error)
            self._finish(request, result)
            return False
        request.stream.wake_for(request.end - request.at)
        request.waiting_since = time.monotonic()
        return True

    def _finish(self, request: _TransferRequest, result: Chunk | Exception) -> None:
        del self._active[request]
        with suppress(KeyError, ValueError):  # it could not be registered
            self._selector.unregister(request.stream)
        request.result.get_loop().call_soon_threadsafe(_set_result, request.result, result)


def _set_result(future: asyncio.Future[Chunk], result: Chunk | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Chunk):
        future.set_result(result)
    else:
        future.set_exception(result)
