"""SQLite file of the journal: open it for writing or reading, migrate it, replace a damaged one, map its errors.

On a network file system, and below 512 MiB of free disk space, the database uses a rollback journal instead of a
write-ahead log (WAL).
"""

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

__all__ = ["BUSY", "Opened", "Steps", "database_error", "has_space_for_wal", "migrate", "open_or_replace", "read_only"]

T = TypeVar("T")
Steps = tuple[tuple[str, ...], ...]
"""SQL statements by step; step n migrates the schema from version n to n + 1. A released step never changes."""

BUSY: Final = 30.0
"""Seconds to wait for a reader that blocks a write."""
_MIN_FREE_FOR_WAL: Final = 512 * 1024 * 1024
"""Free bytes required for a write-ahead log. Its index is mapped into memory. If the disk has no block for a page of
it (btrfs, or blocks smaller than a page), the system kills the process with SIGBUS."""
_FULL_BELOW: Final = 64 * 1024
"""Free bytes below which an I/O error of SQLite counts as a full disk."""


# --- The file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    connection: sqlite3.Connection
    set_aside: str = ""
    """New name of the damaged file, "" if the file was sound."""


class _Damaged(Exception):  # noqa: N818 - never leaves this module
    pass


def open_or_replace(path: Path, *, steps: Steps, wal: bool, now: float) -> Opened:
    """Open or create the database for writing; rename a damaged file and create a new one.

    `wal=False` selects a rollback journal, for file systems without shared memory. `now` is Unix time. Raise
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
    """Return `load(connection)` of a read-only connection, also beside a writer; create no file.

    Raise `StorageStopped`.
    """
    try:
        try:
            return _load(path, steps, load)
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_READONLY:
                raise
        # A run killed during a commit left a rollback journal. Only the next run may roll back the file itself, so
        # read a rolled-back copy.
        import tempfile  # noqa: PLC0415 - rarely needed

        with tempfile.TemporaryDirectory(prefix="bulkdl-") as folder:
            return _load(_rolled_back_copy(path, Path(folder)), steps, load)
    except sqlite3.Error as error:
        raise database_error(error, path) from error
    except UnicodeDecodeError as error:
        raise StorageStopped(f"The journal '{path}' cannot be used: {_DAMAGED[0]}", hint=_DAMAGED[1]) from error
    except OSError as error:
        raise stopped(error, path=path, what="read", root=path.parent) from error


def _load(path: Path, steps: Steps, load: Callable[[sqlite3.Connection], T]) -> T:
    with closing(sqlite3.connect(_read_only_uri(path), uri=True, timeout=BUSY)) as connection:
        if _version(connection) == len(steps):
            return load(connection)
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
            connection.backup(copy)
            migrate(copy, path, steps)
            return load(copy)


def _rolled_back_copy(path: Path, folder: Path) -> Path:
    """Copy the database to `folder`, roll the interrupted transaction back there, and return the copy."""
    for suffix in ("", "-journal"):
        shutil.copyfile(path.with_name(path.name + suffix), folder / f"{path.name}{suffix}")
    copy = folder / path.name
    with closing(sqlite3.connect(copy)) as connection:
        _version(connection)
    return copy


def migrate(connection: sqlite3.Connection, path: Path, steps: Steps) -> None:
    """Migrate the schema in one transaction; raise `StorageStopped` if a newer bulkdl wrote it."""
    version = _version(connection)
    if version > len(steps):
        raise StorageStopped(
            f"The journal '{path}' was written by a newer bulkdl (schema {version}, this one knows {len(steps)})",
            hint="Update bulkdl, or move the journal away; that loses its history, but no finished product",
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
    wal = wal and has_space_for_wal(path)
    try:
        if not wal:  # a log left by a crash is then read without a shared index
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = FULL")
        _check(connection)
        migrate(connection, path, steps)
        connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'TRUNCATE'}")
        if not wal:
            connection.execute("PRAGMA locking_mode = NORMAL")
            _version(connection)  # SQLite releases the exclusive lock at the next read
    except BaseException:
        connection.close()
        raise
    return connection


def has_space_for_wal(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free >= _MIN_FREE_FOR_WAL
    except OSError:
        return True  # the next operation reports the reason


def _check(connection: sqlite3.Connection) -> None:
    """Raise `_Damaged` if `quick_check` fails. It reads the whole file, as the start of a run does anyway."""
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _Damaged(verdict)


def _is_damage(error: Exception) -> bool:
    # If the schema itself is damaged, SQLite quotes it in its message and Python fails to decode that.
    return isinstance(error, _Damaged | UnicodeDecodeError) or (
        isinstance(error, sqlite3.Error) and _code(error) in _CORRUPT
    )


def _set_aside(path: Path, now: float) -> str:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    aside, count = f"{path.name}.damaged-{stamp}", 1
    while (path.parent / aside).exists():
        count += 1
        aside = f"{path.name}.damaged-{stamp}-{count}"
    for suffix in (
        "-wal",
        "-journal",
        "-shm",
        "",
    ):  # rename the database last: after a crash in between, the next open repeats this
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(path.with_name(aside + suffix))
    return aside


def _read_only_uri(path: Path) -> str:
    """Return a URI that makes SQLite create no file.

    A database in WAL mode whose log is missing must be opened as immutable, or SQLite would create the log.
    """
    with path.open("rb") as file:
        header = file.read(20)
    orphan = header[18:20] == b"\x02\x02" and not path.with_name(f"{path.name}-wal").exists()
    return f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if orphan else ''}"


# --- Errors -----------------------------------------------------------------------------------------------------------

_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DAMAGED: Final = ("it is damaged", "Run again: the damaged file is moved away and finished products are kept")
_REASONS: Final = {
    sqlite3.SQLITE_FULL: ("no space left on the disk", "Free some disk space and run again; recorded progress is kept"),
    sqlite3.SQLITE_READONLY: ("it is read-only", "Make the destination writable, or choose another with -d"),
    sqlite3.SQLITE_CANTOPEN: (
        "it cannot be opened",
        "Check the permissions of the destination and of its folder '.bulkdl', or choose another with -d",
    ),
    sqlite3.SQLITE_PERM: ("permission denied", "Change the permissions or owner of the destination's '.bulkdl'"),
    sqlite3.SQLITE_BUSY: ("another program is using it", "Close the program that has it open, then run again"),
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}


def database_error(error: sqlite3.Error, path: Path) -> StorageStopped:
    """Map an SQLite error to `StorageStopped`."""
    code = sqlite3.SQLITE_FULL if _is_full(error, path) else _code(error)
    otherwise = (str(error), "Check the disk and the system log, then run again; recorded progress is kept")
    reason, hint = _REASONS.get(code, otherwise)
    return StorageStopped(f"The journal '{path}' cannot be used: {reason}", hint=hint, full=code == sqlite3.SQLITE_FULL)


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code (https://sqlite.org/rescode.html), 0 if Python provides none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_full(error: sqlite3.Error, path: Path) -> bool:
    """Return True for a full disk.

    SQLite reports a log or index that cannot grow as IOERR, and one that cannot be created as CANTOPEN.
    """
    if _code(error) not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return _code(error) == sqlite3.SQLITE_FULL
    with suppress(OSError):
        return shutil.disk_usage(path.parent).free < _FULL_BELOW
    return False
