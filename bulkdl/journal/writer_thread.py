"""The one thread that writes a database: its changes in order, as many as there are in one durable commit.

Whatever is asked for while a commit is under way shares the next one, so that the price of a durable commit is paid
once for many changes.
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
from bulkdl.journal.sqlite_file import BUSY, database_error, has_room

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bulkdl.journal.space_reserve import SpaceReserve

__all__ = ["JournalWriter"]

T = TypeVar("T")

_BATCH: Final = 2000
"""Most changes in one commit."""
_LINGER: Final = 0.5
"""Seconds that changes nobody waits for may stay in memory."""


@dataclass(slots=True, eq=False)
class _WriteRequest:
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any] | None
    """None where nobody waits: the job may linger for company."""
    result: Any = None
    error: Exception | None = None


class JournalWriter:
    """The thread that owns the connection. Jobs run in order, and each batch of them is one transaction.

    If the thread dies, what waits and what comes later is refused: nothing hangs.
    """

    def __init__(
        self, path: Path, connect: Callable[[], sqlite3.Connection], *, reserve: SpaceReserve | None = None
    ) -> None:
        """`connect` runs on the thread; it may raise `StorageStopped`. `reserve` gives way to it on a full disk."""
        self._path = path
        self._connect = connect
        self._reserve = reserve
        self._jobs: queue.SimpleQueue[_WriteRequest | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._gate = threading.Lock()
        self._closed = False
        self._plain = False
        """Without a write-ahead log, for want of room."""
        self._broken: StorageStopped | None = None
        self._unseen: StorageStopped | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="bulkdl-journal", daemon=True)

    async def start(self) -> None:
        """Open the database; raise what `connect` raises."""
        self._thread.start()
        await run_to_completion(self._opened)

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the thread; return its result once its transaction is durable. Raise `StorageStopped`."""
        self.raise_unseen()
        future: asyncio.Future[T] = self._loop.create_future()
        self._submit(_WriteRequest(work, future))
        return await future

    def do_soon(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Run `work` with the next commit; a failure is raised by the next `do` or by `raise_unseen`."""
        self._submit(_WriteRequest(work, None))

    def raise_unseen(self) -> None:
        """Raise the failure of jobs that nobody waited for, once."""
        error, self._unseen = self._unseen, None
        if error is not None:
            raise error

    async def close(self) -> None:
        """Commit what is left and end the thread."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        if self._thread.ident is not None:
            await run_to_completion(self._ended)

    def _submit(self, job: _WriteRequest) -> None:
        with self._gate:
            if self._broken is not None:
                raise self._broken
            if self._closed:
                raise StorageStopped(f"The journal '{self._path}' is closed already")
            self._jobs.put(job)

    # Below: on the thread.

    def _run(self) -> None:
        jobs: list[_WriteRequest] = []
        connection = None
        try:
            connection = self._insist(self._connect)
            self._tell(_resolve, self._opened, None, None)
            more = True
            while more:
                more = self._gather(jobs)
                self._finish(connection, jobs)
                jobs = []
        except Exception as error:  # noqa: BLE001 - supervision: whatever it was, nobody may wait for a dead thread
            self._break(jobs, error)
        finally:
            if connection is not None:
                _rest(connection)
            self._tell(_resolve, self._ended, None, None)

    def _gather(self, jobs: list[_WriteRequest]) -> bool:
        """Fill `jobs` with the next batch; False once nothing comes after it."""
        awaited, until = False, 0.0
        while len(jobs) < _BATCH:
            wait = max(0.0, until - time.monotonic()) if jobs else None
            try:
                job = self._jobs.get(block=not awaited, timeout=wait)
            except queue.Empty:
                break
            if job is None:
                return False
            until = until or time.monotonic() + _LINGER
            awaited = awaited or job.future is not None
            jobs.append(job)
        return True

    def _finish(self, connection: sqlite3.Connection, jobs: list[_WriteRequest]) -> None:
        error = self._commit(connection, jobs)
        if any(job.future is None for job in jobs):
            self._unseen = self._unseen or error
        self._tell(_answer, jobs, error)
        self._look_at_room(connection)
        if self._reserve is not None and error is None:
            self._reserve.renew()

    def _look_at_room(self, connection: sqlite3.Connection) -> None:
        """Give the write-ahead log up while there is still room; a reader that is in the way is asked again later."""
        if self._plain or has_room(self._path):
            return
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA busy_timeout = 0")
            self._plain = connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()[0] != "wal"
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY * 1000)}")

    def _commit(self, connection: sqlite3.Connection, jobs: list[_WriteRequest]) -> StorageStopped | None:
        if not jobs:
            return None
        try:
            self._insist(lambda: self._transact(connection, jobs))
        except StorageStopped as error:
            return error
        return None

    def _transact(self, connection: sqlite3.Connection, jobs: list[_WriteRequest]) -> None:
        try:
            connection.execute("BEGIN")
            for job in jobs:
                _perform(connection, job)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                connection.rollback()
            raise database_error(error, self._path) from error

    def _insist(self, work: Callable[[], T]) -> T:
        """Do `work`, on a full disk as often as the reserve has something to give."""
        while True:
            try:
                return work()
            except StorageStopped as error:
                if not error.full or self._reserve is None or not self._reserve.give():
                    raise

    def _break(self, jobs: list[_WriteRequest], error: Exception) -> None:
        ours = error
        if not isinstance(ours, StorageStopped):
            ours = StorageStopped(f"The journal '{self._path}' stopped: {error!r}", hint="Run again")
            ours.__cause__ = error
        left = list(jobs)
        with self._gate:
            self._broken = ours
            with suppress(queue.Empty):
                while True:
                    left += filter(None, [self._jobs.get_nowait()])
        self._tell(_resolve, self._opened, None, ours)
        self._tell(_answer, left, ours)

    def _tell(self, call: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(call, *arguments)


def _perform(connection: sqlite3.Connection, job: _WriteRequest) -> None:
    try:
        job.result = job.work(connection)
    except (OverflowError, ValueError, TypeError, sqlite3.ProgrammingError) as error:
        job.error = error  # a value that SQLite cannot hold: the changes of others stand


def _answer(jobs: list[_WriteRequest], error: Exception | None) -> None:
    for job in jobs:
        if job.future is not None:
            _resolve(job.future, job.result, error or job.error)


def _resolve(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _rest(connection: sqlite3.Connection) -> None:
    """Close without leaving a write-ahead log: readers then need to create nothing, and the file can be copied."""
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA busy_timeout = 1000")
        connection.execute("PRAGMA journal_mode = DELETE")
    with suppress(sqlite3.Error):
        connection.close()
