"""One SQLite file that only one thread writes: batched commits, migrations, damage set aside, errors made ours.

Whatever is asked for while a commit is under way shares the next one, so that the price of a durable commit is paid
once for many changes.
"""

from __future__ import annotations

import asyncio
import queue
import shutil
import sqlite3
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bulkdl.dataclass import dataclass
from bulkdl.errors import StorageStopped
from bulkdl.store.disk import settled, stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkdl.store.reserve import Reserve

__all__ = ["Opened", "Steps", "Writer", "database_error", "migrate", "open_or_renew", "read_only"]

T = TypeVar("T")
Steps = tuple[tuple[str, ...], ...]
"""Statements; step n brings the schema from version n to n + 1. A step that was released never changes."""

_BATCH: Final = 2000
"""Most changes in one commit."""
_LINGER: Final = 0.5
"""Seconds that changes nobody waits for may stay in memory."""
_BUSY: Final = 30.0
"""Seconds to wait for a reader that is in the way."""
_ROOM: Final = 512 * 1024 * 1024
"""Bytes that must be free for a write-ahead log. Its index is mapped into memory: where the disk below has no block for
a page of it (btrfs, or blocks of less than a page), the system kills the process (SIGBUS)."""
_NEARLY_NONE: Final = 64 * 1024


# --- The file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    connection: sqlite3.Connection
    set_aside: str = ""
    """The name that a damaged file got, "" where none was."""


class _Damaged(Exception):  # noqa: N818 - never leaves this module
    pass


def open_or_renew(path: Path, *, steps: Steps, wal: bool, now: float) -> Opened:
    """Open or create the database for writing; set a damaged one aside for a fresh one.

    Without `wal` it runs with a rollback journal, for file systems without shared memory. `now` is Unix time. Raise
    `StorageStopped`.
    """
    try:
        try:
            return Opened(_connect(path, steps=steps, wal=wal))
        except (sqlite3.Error, UnicodeDecodeError, _Damaged) as error:
            if not _is_damage(error):
                raise
        aside = _set_aside(path, now)
        return Opened(_connect(path, steps=steps, wal=wal), aside)
    except sqlite3.Error as error:
        raise database_error(error, path) from error
    except OSError as error:
        raise stopped(error, path=path, what="open", root=path.parent) from error


def read_only(path: Path, steps: Steps, load: Callable[[sqlite3.Connection], T]) -> T:
    """What `load` makes of the database, also beside a writer; creates nothing beside it. Raise `StorageStopped`."""
    try:
        try:
            return _loaded(path, steps, load)
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_READONLY:
                raise
        # A run that was killed in a commit has left a journal to roll back, which is the next run's to do here.
        with tempfile.TemporaryDirectory(prefix="bulkdl-") as folder:
            return _loaded(_rolled_back(path, Path(folder)), steps, load)
    except sqlite3.Error as error:
        raise database_error(error, path) from error
    except UnicodeDecodeError as error:
        raise StorageStopped(f"The journal '{path}' cannot be used: {_DAMAGED[0]}", hint=_DAMAGED[1]) from error
    except OSError as error:
        raise stopped(error, path=path, what="read", root=path.parent) from error


def _loaded(path: Path, steps: Steps, load: Callable[[sqlite3.Connection], T]) -> T:
    with closing(sqlite3.connect(_read_only_uri(path), uri=True, timeout=_BUSY)) as connection:
        if _version(connection) == len(steps):
            return load(connection)
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
            connection.backup(copy)
            migrate(copy, path, steps)
            return load(copy)


def _rolled_back(path: Path, folder: Path) -> Path:
    """A copy in `folder`, in which what a crash cut short has been undone."""
    for suffix in ("", "-journal"):
        shutil.copyfile(path.with_name(path.name + suffix), folder / f"{path.name}{suffix}")
    copy = folder / path.name
    with closing(sqlite3.connect(copy)) as connection:
        _version(connection)
    return copy


def migrate(connection: sqlite3.Connection, path: Path, steps: Steps) -> None:
    """Bring the schema up to date, all steps or none; raise `StorageStopped` for one from the future."""
    version = _version(connection)
    if version > len(steps):
        raise StorageStopped(
            f"The journal '{path}' was written by a newer bulkdl (schema {version}, this one knows {len(steps)})",
            hint="Update bulkdl, or move the journal away: that loses history, never a finished product",
        )
    if version == len(steps):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in (statement for step in steps[version:] for statement in step):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(steps)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _connect(path: Path, *, steps: Steps, wal: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY)
    wal = wal and _has_room(path)
    try:
        if not wal:  # whatever log a crash left is then read without a shared index
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = FULL")
        _check(connection)
        migrate(connection, path, steps)
        connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'TRUNCATE'}")
        if not wal:
            connection.execute("PRAGMA locking_mode = NORMAL")
            _version(connection)  # the lock goes with the next reading
    except BaseException:
        connection.close()
        raise
    return connection


def _has_room(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free >= _ROOM
    except OSError:
        return True  # what is done next says what is wrong


def _check(connection: sqlite3.Connection) -> None:
    """Reads the whole file once, which the start of a run does anyway."""
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _Damaged(verdict)


def _is_damage(error: Exception) -> bool:
    # Python cannot even read SQLite's message where that quotes a schema that is no text any more.
    return isinstance(error, _Damaged | UnicodeDecodeError) or (
        isinstance(error, sqlite3.Error) and _code(error) in _CORRUPT
    )


def _set_aside(path: Path, now: float) -> str:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    aside, count = f"{path.name}.damaged-{stamp}", 1
    while (path.parent / aside).exists():
        count += 1
        aside = f"{path.name}.damaged-{stamp}-{count}"
    for suffix in ("-wal", "-journal", "-shm", ""):  # the file itself last: a crash in between repeats this
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(path.with_name(aside + suffix))
    return aside


def _read_only_uri(path: Path) -> str:
    """SQLite would create a log for a file that says it has one, unless it is called immutable."""
    with path.open("rb") as file:
        header = file.read(20)
    orphan = header[18:20] == b"\x02\x02" and not path.with_name(f"{path.name}-wal").exists()
    return f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if orphan else ''}"


# --- Errors -----------------------------------------------------------------------------------------------------------

_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DAMAGED: Final = ("it is damaged", "Run again: it is then set aside, and finished products stay")
_REASONS: Final = {
    sqlite3.SQLITE_FULL: ("no space left on the disk", "Make room and run again; what was recorded is kept"),
    sqlite3.SQLITE_READONLY: ("it is read-only", "Make the destination writable, or choose another with -d"),
    sqlite3.SQLITE_CANTOPEN: (
        "it cannot be opened",
        "Check the permissions of the destination and of its folder '.bulkdl', or choose another with -d",
    ),
    sqlite3.SQLITE_PERM: ("permission denied", "Change the permissions or owner of the destination's '.bulkdl'"),
    sqlite3.SQLITE_BUSY: ("another program holds it", "End the program that has it open, then run again"),
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}


def database_error(error: sqlite3.Error, path: Path) -> StorageStopped:
    """The one place where SQLite's errors become ours."""
    code = sqlite3.SQLITE_FULL if _is_full(error, path) else _code(error)
    otherwise = (str(error), "Check the disk and the system's log, then run again; what was recorded is kept")
    reason, hint = _REASONS.get(code, otherwise)
    return StorageStopped(f"The journal '{path}' cannot be used: {reason}", hint=hint, full=code == sqlite3.SQLITE_FULL)


def _code(error: sqlite3.Error) -> int:
    """The primary result code (https://sqlite.org/rescode.html), 0 where Python gives none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_full(error: sqlite3.Error, path: Path) -> bool:
    """A log or its index that could not grow is an input/output error to SQLite, one that could not be made another."""
    if _code(error) not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return _code(error) == sqlite3.SQLITE_FULL
    with suppress(OSError):
        return shutil.disk_usage(path.parent).free < _NEARLY_NONE
    return False


# --- The writer -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any] | None
    """None where nobody waits: the job may linger for company."""
    result: Any = None
    error: Exception | None = None


class Writer:
    """The thread that owns the connection. Jobs run in order, and each batch of them is one transaction.

    If the thread dies, what waits and what comes later is refused: nothing hangs.
    """

    def __init__(
        self, path: Path, connect: Callable[[], sqlite3.Connection], *, reserve: Reserve | None = None
    ) -> None:
        """`connect` runs on the thread; it may raise `StorageStopped`. `reserve` gives way to it on a full disk."""
        self._path = path
        self._connect = connect
        self._reserve = reserve
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
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
        await settled(self._opened)

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the thread; return its result once its transaction is durable. Raise `StorageStopped`."""
        self.raise_unseen()
        future: asyncio.Future[T] = self._loop.create_future()
        self._submit(_Job(work, future))
        return await future

    def do_soon(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Run `work` with the next commit; a failure is raised by the next `do` or by `raise_unseen`."""
        self._submit(_Job(work, None))

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
            await settled(self._ended)

    def _submit(self, job: _Job) -> None:
        with self._gate:
            if self._broken is not None:
                raise self._broken
            if self._closed:
                raise StorageStopped(f"The journal '{self._path}' is closed already")
            self._jobs.put(job)

    # Below: on the thread.

    def _run(self) -> None:
        jobs: list[_Job] = []
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

    def _gather(self, jobs: list[_Job]) -> bool:
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

    def _finish(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        error = self._commit(connection, jobs)
        if any(job.future is None for job in jobs):
            self._unseen = self._unseen or error
        self._tell(_answer, jobs, error)
        self._look_at_room(connection)
        if self._reserve is not None and error is None:
            self._reserve.renew()

    def _look_at_room(self, connection: sqlite3.Connection) -> None:
        """Give the write-ahead log up while there is still room; a reader that is in the way is asked again later."""
        if self._plain or _has_room(self._path):
            return
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA busy_timeout = 0")
            self._plain = connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()[0] != "wal"
        connection.execute(f"PRAGMA busy_timeout = {int(_BUSY * 1000)}")

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> StorageStopped | None:
        if not jobs:
            return None
        try:
            self._insist(lambda: self._transact(connection, jobs))
        except StorageStopped as error:
            return error
        return None

    def _transact(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
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

    def _break(self, jobs: list[_Job], error: Exception) -> None:
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


def _perform(connection: sqlite3.Connection, job: _Job) -> None:
    try:
        job.result = job.work(connection)
    except (OverflowError, ValueError, TypeError, sqlite3.ProgrammingError) as error:
        job.error = error  # a value that SQLite cannot hold: the changes of others stand


def _answer(jobs: list[_Job], error: Exception | None) -> None:
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
