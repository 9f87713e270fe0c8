"""The SQLite file: opened for writing or beside a writer, migrated, set aside where damaged, its errors made ours."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from bulkdl.core.errors import StorageStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.storage.os_errors import stopped

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BUSY", "Opened", "Steps", "database_error", "has_room", "migrate", "open_or_renew", "read_only"]

T = TypeVar("T")
Steps = tuple[tuple[str, ...], ...]
"""Statements; step n brings the schema from version n to n + 1. A step that was released never changes."""

BUSY: Final = 30.0
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
        import tempfile  # noqa: PLC0415 - only then

        with tempfile.TemporaryDirectory(prefix="bulkdl-") as folder:
            return _loaded(_rolled_back(path, Path(folder)), steps, load)
    except sqlite3.Error as error:
        raise database_error(error, path) from error
    except UnicodeDecodeError as error:
        raise StorageStopped(f"The journal '{path}' cannot be used: {_DAMAGED[0]}", hint=_DAMAGED[1]) from error
    except OSError as error:
        raise stopped(error, path=path, what="read", root=path.parent) from error


def _loaded(path: Path, steps: Steps, load: Callable[[sqlite3.Connection], T]) -> T:
    with closing(sqlite3.connect(_read_only_uri(path), uri=True, timeout=BUSY)) as connection:
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
    connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY)
    wal = wal and has_room(path)
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


def has_room(path: Path) -> bool:
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
