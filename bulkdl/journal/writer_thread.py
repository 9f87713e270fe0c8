"""Writer thread of the journal: it applies changes in order and commits many of them in one transaction.

All changes submitted during a commit share the next one, so many changes pay for one durable commit.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.errors import StorageStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.journal.sqlite_file import BUSY, database_error, has_space_for_wal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bulkdl.journal.space_reserve import SpaceReserve

__all__ = ["JournalWriter"]

T = TypeVar("T")

_BATCH: Final = 2000
"""Limit of changes in one commit."""
_LINGER: Final = 0.5
"""Seconds for which changes without a waiting caller may stay in memory."""


@dataclass(slots=True, eq=False)
class _WriteRequest:
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any] | None
    """None if no caller waits; then the request may wait up to `_LINGER` for others."""
    result: Any = None
    error: Exception | None = None


class JournalWriter:
    """Thread that owns the connection. It runs requests in order, each batch as one transaction.

    If the thread dies, waiting and later requests fail with `StorageStopped`; none of them hangs.
    """

    def __init__(
        self, path: Path, connect: Callable[[], sqlite3.Connection], *, reserve: SpaceReserve | None = None
    ) -> None:
        """Set up the thread; `start` runs it.

        `connect` runs on the thread and may raise `StorageStopped`. `reserve` is released step by step on a full disk.
        """
        self._path = path
        self._connect = connect
        self._reserve = reserve
        self._requests: queue.SimpleQueue[_WriteRequest | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._left_wal = False
        """True once the write-ahead log was given up for lack of disk space."""
        self._broken: StorageStopped | None = None
        self._unseen: StorageStopped | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="bulkdl-journal", daemon=True)

    async def start(self) -> None:
        """Open the database; raise what `connect` raises."""
        self._thread.start()
        await run_to_completion(self._opened)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the thread and return its result once the transaction is durable; raise `StorageStopped`."""
        self.raise_unseen()
        future: asyncio.Future[T] = self._loop.create_future()
        self._submit(_WriteRequest(work, future))
        return await future

    def run_unsynced(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Run `work` with the next commit without waiting; the next `run` or `raise_unseen` raises a failure."""
        self._submit(_WriteRequest(work, None))

    def raise_unseen(self) -> None:
        """Raise the failure of requests without a waiting caller, once."""
        error, self._unseen = self._unseen, None
        if error is not None:
            raise error

    async def close(self) -> None:
        """Commit the remaining requests and end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._requests.put(None)
        if self._thread.ident is not None:
            await run_to_completion(self._ended)

    def _submit(self, request: _WriteRequest) -> None:
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if self._closed:
                raise StorageStopped(f"The journal '{self._path}' is already closed")
            self._requests.put(request)

    # The methods below run on the thread.

    def _run(self) -> None:
        requests: list[_WriteRequest] = []
        connection = None
        try:
            connection = self._retry_with_reserve(self._connect)
            self._call_in_loop(_resolve, self._opened, None, None)
            more = True
            while more:
                more = self._next_batch(requests)
                self._commit_and_answer(connection, requests)
                requests = []
        except Exception as error:  # noqa: BLE001 - after any error, no caller may wait for a dead thread
            self._fail_all(requests, error)
        finally:
            if connection is not None:
                _close_without_wal(connection)
            self._call_in_loop(_resolve, self._ended, None, None)

    def _next_batch(self, requests: list[_WriteRequest]) -> bool:
        """Fill `requests` with the next batch; return False if it is the last one."""
        awaited, until = False, 0.0
        while len(requests) < _BATCH:
            wait = max(0.0, until - time.monotonic()) if requests else None
            try:
                request = self._requests.get(block=not awaited, timeout=wait)
            except queue.Empty:
                break
            if request is None:
                return False
            until = until or time.monotonic() + _LINGER
            awaited = awaited or request.future is not None
            requests.append(request)
        return True

    def _commit_and_answer(self, connection: sqlite3.Connection, requests: list[_WriteRequest]) -> None:
        error = self._commit(connection, requests)
        if any(request.future is None for request in requests):
            self._unseen = self._unseen or error
        self._call_in_loop(_answer, requests, error)
        self._leave_wal_if_nearly_full(connection)
        if self._reserve is not None and error is None:
            self._reserve.refill()

    def _leave_wal_if_nearly_full(self, connection: sqlite3.Connection) -> None:
        """Leave WAL mode while there is still enough disk space for it; if a reader blocks this, retry later."""
        if self._left_wal or has_space_for_wal(self._path):
            return
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA busy_timeout = 0")
            self._left_wal = connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()[0] != "wal"
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY * 1000)}")

    def _commit(self, connection: sqlite3.Connection, requests: list[_WriteRequest]) -> StorageStopped | None:
        if not requests:
            return None
        try:
            self._retry_with_reserve(lambda: self._run_transaction(connection, requests))
        except StorageStopped as error:
            return error
        return None

    def _run_transaction(self, connection: sqlite3.Connection, requests: list[_WriteRequest]) -> None:
        try:
            connection.execute("BEGIN")
            for request in requests:
                _run_request(connection, request)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                connection.rollback()
            raise database_error(error, self._path) from error

    def _retry_with_reserve(self, work: Callable[[], T]) -> T:
        """Run `work`; on a full disk, release one step of the reserve and retry until nothing is left."""
        while True:
            try:
                return work()
            except StorageStopped as error:
                if not error.full or self._reserve is None or not self._reserve.release_step():
                    raise

    def _fail_all(self, requests: list[_WriteRequest], error: Exception) -> None:
        ours = error
        if not isinstance(ours, StorageStopped):
            ours = StorageStopped(
                f"The journal '{self._path}' stopped unexpectedly: {error!r}",
                hint="Run again; recorded progress is kept",
            )
            ours.__cause__ = error
        left = list(requests)
        with self._lock:
            self._broken = ours
            with suppress(queue.Empty):
                while True:
                    left += filter(None, [self._requests.get_nowait()])
        self._call_in_loop(_resolve, self._opened, None, ours)
        self._call_in_loop(_answer, left, ours)

    def _call_in_loop(self, call: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the event loop is closed, so no caller waits any more
            self._loop.call_soon_threadsafe(call, *arguments)


def _run_request(connection: sqlite3.Connection, request: _WriteRequest) -> None:
    try:
        request.result = request.work(connection)
    except (OverflowError, ValueError, TypeError, sqlite3.ProgrammingError) as error:
        request.error = error  # SQLite cannot store this value; only this request fails


def _answer(requests: list[_WriteRequest], error: Exception | None) -> None:
    for request in requests:
        if request.future is not None:
            _resolve(request.future, request.result, error or request.error)


def _resolve(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _close_without_wal(connection: sqlite3.Connection) -> None:
    """Close without leaving a write-ahead log, so that readers need not create one and the file can be copied."""
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA busy_timeout = 1000")
        connection.execute("PRAGMA journal_mode = DELETE")
    with suppress(sqlite3.Error):
        connection.close()
