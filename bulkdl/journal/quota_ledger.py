"""The ledger of what each account has used on this machine, in the user's state folder (SQLite).

All runs of the user add to it, several at once too: an addition is one statement, so none is lost. It keeps buckets of five
minutes for 31 days. An account is a hash of its endpoint and its user, so that neither a secret nor a user name is stored.
A rollback journal is used rather than a write-ahead log, since a home folder may be on a network file system.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, TypeVar

from bulkdl.core.quota import BUCKET_S, KEPT_S, UsageBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bulkdl.core.models import Account

__all__ = ["QuotaLedger", "account_key", "read_usage"]

_T = TypeVar("_T")
_FILE = "quota.sqlite"
_BUSY_S = 5.0
"""Longest wait for another process that writes (s)."""
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS usage (account TEXT NOT NULL, slot INTEGER NOT NULL, bytes INTEGER NOT NULL, "
    "items INTEGER NOT NULL, sessions INTEGER NOT NULL, PRIMARY KEY (account, slot)) WITHOUT ROWID"
)
_ADD = (
    "INSERT INTO usage VALUES (?, ?, ?, ?, ?) ON CONFLICT (account, slot) DO UPDATE SET "
    "bytes = bytes + excluded.bytes, items = items + excluded.items, sessions = sessions + excluded.sessions"
)
_READ = "SELECT slot, bytes, items, sessions FROM usage WHERE account = ? ORDER BY slot"
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def account_key(account: Account, username: str | None) -> str:
    """Return the key of an account: a hash of where it logs in and as whom; its name stands for a missing user name."""
    if account.token_url is not None:
        where = account.token_url.raw
    else:
        where = account.provider or " ".join(account.hosts.entries if account.hosts is not None else ())
    who = username or (account.client_id if account.client_secret else None) or account.name
    return hashlib.sha256(f"bulkdl quota\0{where}\0{who}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


class QuotaLedger:
    """The ledger, open for each call only. Call it from a thread; `warn` gets a message when it is not usable.

    It never raises: a run without a ledger counts its own use only.
    """

    def __init__(self, folder: Path, *, warn: Callable[[str], None]) -> None:
        self._path = folder / _FILE
        self._warn = warn
        self._is_usable = True

    def add(self, used: Mapping[str, UsageBucket], *, now: float) -> bool:
        """Add what accounts used, by key, to the bucket of `now` (Unix time); return whether it was stored."""
        slot, oldest = int(now // BUCKET_S), int((now - KEPT_S - BUCKET_S) // BUCKET_S)

        def write(connection: sqlite3.Connection) -> bool:
            rows = [(key, slot, each.bytes, each.items, each.sessions) for key, each in used.items()]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_ADD, rows)
            connection.execute("DELETE FROM usage WHERE slot < ?", (oldest,))
            connection.execute("COMMIT")
            return True

        return self._with_connection(write) or False

    def read(self, keys: frozenset[str]) -> dict[str, tuple[UsageBucket, ...]]:
        """Return the buckets of accounts by key, the earliest first; nothing if the ledger is not usable."""
        return self._with_connection(lambda connection: _buckets(connection, keys)) or {}

    def _with_connection(self, work: Callable[[sqlite3.Connection], _T]) -> _T | None:
        if not self._is_usable:
            return None
        try:
            try:
                return self._work(work)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
            self._set_aside()
            return self._work(work)
        except (OSError, sqlite3.Error, OverflowError) as error:
            self._is_usable = False
            why = getattr(error, "strerror", None) or str(error)
            self._warn(
                f"the quota ledger '{self._path}' cannot be used ({why}): what this run downloads is not recorded there, "
                "and what earlier runs used is not known"
            )
            return None

    def _work(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)) as connection:
            connection.execute(_SCHEMA)
            return work(connection)

    def _set_aside(self) -> None:
        """Rename a damaged ledger; another run may have done so before."""
        aside = self._path.with_name(f"{_FILE}.damaged")
        with suppress(FileNotFoundError):
            os.replace(self._path, aside)
        with suppress(FileNotFoundError):  # it belongs to the damaged file
            self._path.with_name(f"{_FILE}-journal").unlink()
        self._warn(
            f"the quota ledger was damaged and is kept as '{aside}'; what earlier runs used is not known any more"
        )


def read_usage(folder: Path, keys: frozenset[str]) -> dict[str, tuple[UsageBucket, ...]]:
    """Return the buckets of accounts by key, without creating or changing a file; nothing if there is no usable ledger."""
    path = folder / _FILE
    try:
        if not path.is_file():
            return {}
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as connection:
            return _buckets(connection, keys)
    except (OSError, sqlite3.Error):
        return {}


def _buckets(connection: sqlite3.Connection, keys: frozenset[str]) -> dict[str, tuple[UsageBucket, ...]]:
    return {
        key: tuple(UsageBucket(slot * BUCKET_S, *counts) for slot, *counts in connection.execute(_READ, (key,)))
        for key in keys
    }


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGE
