"""Entry of one product, the database schema, and the decoding of rows."""

from __future__ import annotations

import zlib
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Checksum, FailureKind

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from bulkdl.journal.sqlite_file import Steps

__all__ = [
    "STEPS",
    "STORED",
    "Entry",
    "Phase",
    "crc_of_bytes",
    "load",
    "load_some",
    "load_unfinished",
    "text_of",
]


class Phase(StrEnum):
    PARTIAL = "partial"
    PLACING = "placing"
    DONE = "done"
    FAILED = "failed"
    REQUEUED = "requeued"
    """`verify` found the final file wrong: the next run replaces it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Recorded state of one product. It contains no secret: `source` has no query."""

    id: str
    """`Product.id`."""
    phase: Phase
    file: str | None = None
    """Path relative to the destination, with `/`; None until the name is known."""
    source: str = ""
    """Origin and path (`Url.source`) that sent the representation."""
    total: int | None = None
    """Length of the representation in bytes, if known."""
    etag: str | None = None
    """Entity tag exactly as the server sent it."""
    last_modified: str | None = None
    """Date exactly as the server sent it; stored only if it is a strong validator (RFC 9110 §8.8.2.2)."""
    ranges: tuple[tuple[int, int], ...] = ()
    """Durable byte ranges of the partial: half-open, sorted, disjoint."""
    part: str | None = None
    """The partial's path relative to the destination."""
    size: int | None = None
    """Size of the final file in bytes."""
    mtime_ns: int | None = None
    digests: tuple[Checksum, ...] = ()
    """Digests of the final file; of a partial (`size` None) those that the server sent, which nobody has compared yet."""
    note: str = ""
    """Remark for the user, such as `existing, unverified`."""
    failure_kind: FailureKind | None = None
    failure_reason: str = ""
    attempts: int = 0
    updated: float = 0.0
    """Unix time of the last put; set by the journal."""


STEPS: Final[Steps] = (
    (
        """
        CREATE TABLE product (
            id TEXT PRIMARY KEY NOT NULL, phase TEXT NOT NULL, file TEXT, source TEXT NOT NULL, total INTEGER,
            etag TEXT, last_modified TEXT, ranges TEXT NOT NULL, part TEXT, size INTEGER, mtime_ns INTEGER,
            digests TEXT NOT NULL, note TEXT NOT NULL, failure_kind TEXT, failure_reason TEXT NOT NULL,
            attempts INTEGER NOT NULL, updated REAL NOT NULL
        ) WITHOUT ROWID
        """,
    ),
    ("ALTER TABLE product ADD COLUMN crc INTEGER",),
    (
        "CREATE TABLE faulty (id TEXT PRIMARY KEY NOT NULL, facts TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE host (origin TEXT PRIMARY KEY NOT NULL, facts TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
    ),
    (
        """
        CREATE TABLE moving (
            batch INTEGER PRIMARY KEY NOT NULL, updated REAL NOT NULL, moves TEXT NOT NULL, crc INTEGER NOT NULL
        )
        """,
    ),
    ("CREATE TABLE account (name TEXT PRIMARY KEY NOT NULL, facts TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",),
    (
        """
        CREATE TABLE outage (
            origin TEXT NOT NULL, account TEXT NOT NULL, began REAL NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL,
            ended REAL, waiting INTEGER NOT NULL, updated REAL NOT NULL, PRIMARY KEY (origin, account, began)
        ) WITHOUT ROWID
        """,
    ),
    (
        """
        CREATE TABLE connections (
            account TEXT NOT NULL, host TEXT NOT NULL, facts TEXT NOT NULL, crc INTEGER NOT NULL,
            PRIMARY KEY (account, host)
        ) WITHOUT ROWID
        """,
    ),
)
"""Schema of the journal as migration steps; see `Steps`."""
STORED: Final = (*Entry.__annotations__, "crc")
_SELECT: Final = f"SELECT {', '.join(STORED)} FROM product"  # noqa: S608 - names of our own fields
_MAX_VALUES: Final = 900
"""Limit of bound values in one statement; every build of SQLite allows this many."""

Found = tuple[dict[str, Entry], int]
"""Entries by id, and the number of unreadable rows."""


def text_of(value: str | None) -> str | bytes | None:
    """Return `value` for SQLite: as bytes if it holds lone surrogates (a header that was not UTF-8)."""
    if value is None or value.isascii():
        return value
    raw = value.encode("utf-8", "surrogatepass")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw
    return value


def crc_of_bytes(values: list[Any]) -> int:
    """Return the CRC of a row whose texts are already bytes."""
    return zlib.crc32(repr(values).encode())


def _decode(row: Sequence[Any]) -> Entry:
    """Decode a row; raise `ValueError`, `TypeError` or `AttributeError` if it is damaged."""
    *row, crc = row
    if crc is not None and crc != crc_of_bytes(row):
        raise ValueError("damaged")
    (id_, phase, file, source, total, etag, modified, ranges, part, size, mtime, digests, note, kind, reason, *rest) = (
        row
    )
    id = _string(id_)  # noqa: A001
    return Entry(
        id=id,
        phase=Phase(_string(phase)),
        file=id
        if file == id_
        else _string_or_none(file),  # share one string for both, since there may be very many entries
        source=_string(source),
        total=total,
        etag=_string_or_none(etag),
        last_modified=_string_or_none(modified),
        ranges=_ranges(_string(ranges)) if ranges else (),
        part=_string_or_none(part),
        size=size,
        mtime_ns=mtime,
        digests=tuple(map(_digest, digests.split())),
        note=_string(note),
        failure_kind=None if kind is None else FailureKind(_string(kind)),
        failure_reason=_string(reason),
        attempts=rest[0],
        updated=rest[1],
    )


def _string(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")


def _string_or_none(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "surrogatepass")


def _ranges(text: str) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    before = -1
    for part in text.split(","):
        start, _, end = part.partition("-")
        pair = (int(start), int(end))
        if not before <= pair[0] < pair[1]:
            raise ValueError("ranges out of order")
        found.append(pair)
        before = pair[1]
    return tuple(found)


def _digest(value: bytes) -> Checksum:
    algorithm, _, digits = _string(value).partition(":")
    return Checksum(algorithm, digits)


def load(connection: sqlite3.Connection) -> Found:
    """Return all entries by id and the number of unreadable rows, whose products count as new."""
    return _load(connection, "", ())


def load_unfinished(connection: sqlite3.Connection) -> Found:
    """Like `load`, but without finished products, since there may be very many."""
    return _load(connection, " WHERE phase <> ?", (Phase.DONE.value,))


def load_some(connection: sqlite3.Connection, ids: Sequence[str]) -> Found:
    """Like `load`, but only for `ids`."""
    entries: dict[str, Entry] = {}
    unreadable = 0
    for at in range(0, len(ids), _MAX_VALUES):
        some = tuple(map(text_of, ids[at : at + _MAX_VALUES]))
        found, bad = _load(connection, f" WHERE id IN ({', '.join('?' * len(some))})", some)
        entries |= found
        unreadable += bad
    return entries, unreadable


def _load(connection: sqlite3.Connection, where: str, values: tuple[str | bytes | None, ...]) -> Found:
    entries: dict[str, Entry] = {}
    unreadable = 0
    connection.text_factory = bytes  # so that text that is not UTF-8 makes only its own row unreadable
    for row in connection.execute(_SELECT + where, values):
        try:
            entry = _decode(row)
        except (ValueError, TypeError, AttributeError):
            unreadable += 1
        else:
            entries[entry.id] = entry
    return entries, unreadable
