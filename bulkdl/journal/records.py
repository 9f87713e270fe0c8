"""What the journal knows of one product, and how that is read from its rows: for runs, and for those who only look."""

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
    """The file in place was found wrong: the next run replaces it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of one product; nothing in it is secret (`source` has no query)."""

    id: str
    """`Product.id`."""
    phase: Phase
    file: str | None = None
    """Relative, with `/`; known once the name is."""
    source: str = ""
    """`Url.source` (origin and path) that the representation came from."""
    total: int | None = None
    """Bytes of the representation, where known."""
    etag: str | None = None
    """As the server sent it."""
    last_modified: str | None = None
    """As the server sent it; only if usable as a strong validator (RFC 9110 §8.8.2.2)."""
    ranges: tuple[tuple[int, int], ...] = ()
    """Durable bytes: half-open, sorted, disjoint."""
    part: str | None = None
    """The partial's path relative to the destination."""
    size: int | None = None
    """Bytes of the placed file."""
    mtime_ns: int | None = None
    digests: tuple[Checksum, ...] = ()
    """Computed and found right."""
    note: str = ""
    """Such as `existing, unverified`."""
    failure_kind: FailureKind | None = None
    failure_reason: str = ""
    attempts: int = 0
    updated: float = 0.0
    """Unix time of the last put, which the journal sets."""


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
)
"""The journal's schema; see `Steps`."""
STORED: Final = (*Entry.__annotations__, "crc")
_SELECT: Final = f"SELECT {', '.join(STORED)} FROM product"  # noqa: S608 - names of our own fields
_MOST_VALUES: Final = 900
"""Of one statement, whatever limits SQLite was built with."""

Found = tuple[dict[str, Entry], int]
"""Entries by id, and how many rows could not be read."""


def text_of(value: str | None) -> str | bytes | None:
    """SQLite text is UTF-8; a header may hold bytes that are not, which Python shows as lone surrogates."""
    if value is None or value.isascii():
        return value
    raw = value.encode("utf-8", "surrogatepass")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw
    return value


def crc_of_bytes(values: list[Any]) -> int:
    """Of a row whose texts are bytes already."""
    return zlib.crc32(repr(values).encode())


def _decode(row: Sequence[Any]) -> Entry:
    """Raise `ValueError`, `TypeError` or `AttributeError` for a row that no journal wrote."""
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
        file=id if file == id_ else _string_or_none(file),  # one text for both: there may be very many
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
    """All entries by id, and how many rows cannot be read: those products have no history then."""
    return _load(connection, "", ())


def load_unfinished(connection: sqlite3.Connection) -> Found:
    """Like `load`, those of finished products left out: there may be very many."""
    return _load(connection, " WHERE phase <> ?", (Phase.DONE.value,))


def load_some(connection: sqlite3.Connection, ids: Sequence[str]) -> Found:
    """Like `load`, those of `ids` only."""
    entries: dict[str, Entry] = {}
    unreadable = 0
    for at in range(0, len(ids), _MOST_VALUES):
        some = tuple(map(text_of, ids[at : at + _MOST_VALUES]))
        found, bad = _load(connection, f" WHERE id IN ({', '.join('?' * len(some))})", some)
        entries |= found
        unreadable += bad
    return entries, unreadable


def _load(connection: sqlite3.Connection, where: str, values: tuple[str | bytes | None, ...]) -> Found:
    entries: dict[str, Entry] = {}
    unreadable = 0
    connection.text_factory = bytes  # one text that is not UTF-8 shall cost its own row only
    for row in connection.execute(_SELECT + where, values):
        try:
            entry = _decode(row)
        except (ValueError, TypeError, AttributeError):
            unreadable += 1
        else:
            entries[entry.id] = entry
    return entries, unreadable
