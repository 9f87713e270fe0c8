"""The durable record of a destination in SQLite: what is done, what is partial, what failed and why."""

from __future__ import annotations

import zlib
from contextlib import asynccontextmanager
from dataclasses import fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from bulkdl.dataclass import dataclass
from bulkdl.model import Checksum, FailureKind
from bulkdl.store.database import Steps, Writer, open_or_renew, read_only
from bulkdl.store.disk import STATE_FOLDER, network_filesystem, state_folder
from bulkdl.store.learnt import LEARNT_STEP, drop_evidence, load_learnt, put_evidence, put_host
from bulkdl.store.reserve import Reserve

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from bulkdl.clock import Clock
    from bulkdl.faulty import Evidence
    from bulkdl.hostfacts import HostFacts
    from bulkdl.store.learnt import Learnt

__all__ = ["Entry", "Journal", "Phase", "read", "read_learnt"]

_NAME: Final = "journal.sqlite"


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


# --- Entries as rows --------------------------------------------------------------------------------------------------

_COLUMNS: Final = tuple(f.name for f in fields(Entry))
_STEPS: Final[Steps] = (
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
    LEARNT_STEP,
)
_STORED: Final = (*_COLUMNS, "crc")
_PUT: Final = f"INSERT OR REPLACE INTO product ({', '.join(_STORED)}) VALUES ({', '.join('?' * len(_STORED))})"  # noqa: S608
_SELECT: Final = f"SELECT {', '.join(_STORED)} FROM product"  # noqa: S608 - names of our own fields

Value = str | bytes | float | None


def _text(value: str | None) -> str | bytes | None:
    """SQLite text is UTF-8; a header may hold bytes that are not, which Python shows as lone surrogates."""
    if value is None or value.isascii():
        return value
    raw = value.encode("utf-8", "surrogatepass")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw
    return value


def _crc(values: Sequence[Value]) -> int:
    """Of one row: SQLite's own checks see damage to its structure, not to what stands in it."""
    return _crc_of_bytes([v.encode() if isinstance(v, str) else v for v in values])


def _crc_of_bytes(values: list[Any]) -> int:
    """Of a row whose texts are bytes already."""
    return zlib.crc32(repr(values).encode())


def _encode(entry: Entry, *, updated: float) -> tuple[Value, ...]:
    values = _values(entry, updated=float(updated))
    return (*values, _crc(values))


def _values(entry: Entry, *, updated: float) -> tuple[Value, ...]:
    return (
        _text(entry.id),
        entry.phase.value,
        _text(entry.file),
        _text(entry.source),
        entry.total,
        _text(entry.etag),
        _text(entry.last_modified),
        ",".join(f"{start}-{end}" for start, end in entry.ranges),
        _text(entry.part),
        entry.size,
        entry.mtime_ns,
        " ".join(map(str, entry.digests)),
        _text(entry.note),
        entry.failure_kind.value if entry.failure_kind else None,
        _text(entry.failure_reason),
        entry.attempts,
        updated,
    )


def _decode(row: Sequence[Any]) -> Entry:
    """Raise `ValueError`, `TypeError` or `AttributeError` for a row that no journal wrote."""
    *row, crc = row
    if crc is not None and crc != _crc_of_bytes(row):
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


def _load(connection: sqlite3.Connection, id: str | None = None) -> tuple[dict[str, Entry], int]:  # noqa: A002
    """All entries, or that of `id`, and how many rows cannot be read: those products have no history then."""
    entries: dict[str, Entry] = {}
    unreadable = 0
    connection.text_factory = bytes  # one text that is not UTF-8 shall cost its own row only
    only = ("", ()) if id is None else (" WHERE id = ?", (_text(id),))
    for row in connection.execute(_SELECT + only[0], only[1]):
        try:
            entry = _decode(row)
        except (ValueError, TypeError, AttributeError):
            unreadable += 1
        else:
            entries[entry.id] = entry
    return entries, unreadable


# --- The journal ------------------------------------------------------------------------------------------------------


class Journal:
    """The open journal of one destination; `Journal.open` makes one."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self.path = path
        self.recovered = ""
        """A sentence when the journal was damaged, and what became of it."""
        self.network_filesystem = ""
        """The type of the network file system that it lies on, where that was detected."""
        self._clock = clock
        self._writer = Writer(path, self._connect, reserve=Reserve(path.parent))
        self._found: set[str] | None = None
        """Those that had an entry when all were read: nothing is asked for the many that have none."""
        self._put: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, destination: Path, *, clock: Clock) -> AsyncIterator[Journal]:
        """Open or create the journal; raise `StorageStopped`. Only the holder of the destination's lock may."""
        journal = cls(destination / STATE_FOLDER / _NAME, clock=clock)
        writer = journal._writer
        try:
            await writer.start()
            yield journal
        except BaseException:
            await writer.close()
            raise
        await writer.close()
        writer.raise_unseen()

    async def entries(self) -> dict[str, Entry]:
        """All entries by id."""
        entries, unreadable = await self._writer.do(_load)
        if unreadable and not self.recovered:
            self.recovered = f"The journal has {unreadable} unreadable records; their products are looked at anew"
        self._found = set(entries)
        return entries

    async def get(self, id: str) -> Entry | None:  # noqa: A002
        """The entry of `id`, with everything that was put before."""
        if self._found is not None and id not in self._found and id not in self._put:
            return None
        return await self._writer.do(lambda connection: _load(connection, id)[0].get(id))

    async def put(self, entry: Entry) -> None:
        """Return once `entry` is durable; raise `StorageStopped`."""
        await self._writer.do(self._putting(entry))

    async def put_all(self, entries: Sequence[Entry]) -> None:
        """Return once all of `entries` are durable, in one transaction; raise `StorageStopped`."""
        rows = [_encode(entry, updated=self._clock.wall()) for entry in entries]
        self._put.update(entry.id for entry in entries)

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(_PUT, rows)

        await self._writer.do(work)

    def put_soon(self, entry: Entry) -> None:
        """Make `entry` durable with the next commit; a failure is raised by the next call or at the end."""
        self._writer.do_soon(self._putting(entry))

    async def forget(self, id: str) -> None:  # noqa: A002
        """Return once the entry is durably gone; one that is missing is fine."""
        await self._writer.do(_executing("DELETE FROM product WHERE id = ?", (_text(id),)))

    async def learnt(self) -> Learnt:
        """What earlier runs have learnt of faulty products and of hosts; what cannot be read of it is left out."""
        now = self._clock.wall()
        found = await self._writer.do(lambda connection: load_learnt(connection, now=now))
        if found.unreadable and not self.recovered:
            self.recovered = (
                f"The journal has {found.unreadable} unreadable records of faulty products; they are fetched anew"
            )
        return found

    async def accuse(self, entry: Entry, evidence: Evidence) -> None:
        """Return once both are durable, in one transaction: bytes that were refused are never counted twice."""
        putting = self._putting(entry)

        def work(connection: sqlite3.Connection) -> None:
            putting(connection)
            put_evidence(connection, evidence)

        await self._writer.do(work)

    async def put_evidence(self, evidence: Evidence) -> None:
        """Return once it is durable, in the place of what there was of that product."""
        await self._writer.do(lambda connection: put_evidence(connection, evidence))

    async def drop_evidence(self, id: str) -> None:  # noqa: A002
        """Return once nothing speaks against the product any more."""
        await self._writer.do(lambda connection: drop_evidence(connection, id))

    def put_host_soon(self, facts: HostFacts) -> None:
        """Keep `facts` with the next commit; nobody waits, and a failure is nobody's matter but the disk's."""
        self._writer.do_soon(lambda connection: put_host(connection, facts))

    def _putting(self, entry: Entry) -> Callable[[sqlite3.Connection], None]:
        self._put.add(entry.id)
        return _executing(_PUT, _encode(entry, updated=self._clock.wall()))

    def _connect(self) -> sqlite3.Connection:
        folder = state_folder(self.path.parent.parent)
        self.network_filesystem = network_filesystem(folder)
        opened = open_or_renew(self.path, steps=_STEPS, wal=not self.network_filesystem, now=self._clock.wall())
        if opened.set_aside:
            self.recovered = (
                f"The journal was damaged and set aside as '{STATE_FOLDER}/{opened.set_aside}'; finished products "
                "keep their place, partial ones may start again"
            )
        return opened.connection


def _executing(statement: str, values: tuple[Value, ...]) -> Callable[[sqlite3.Connection], None]:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute(statement, values)

    return work


def read(destination: Path) -> dict[str, Entry] | None:
    """All entries by id, also while a run is going on; None where there is no journal.

    Creates nothing. Raise `StorageStopped` for a journal that cannot be read.
    """
    path = destination / STATE_FOLDER / _NAME
    return read_only(path, _STEPS, _load)[0] if path.is_file() else None


def read_learnt(destination: Path, *, now: float) -> Learnt | None:
    """What runs have learnt of faulty products and of hosts, also while one is going on; None where there is no journal.

    `now` is Unix time. Raise `StorageStopped` for a journal that cannot be read.
    """
    path = destination / STATE_FOLDER / _NAME
    return read_only(path, _STEPS, lambda connection: load_learnt(connection, now=now)) if path.is_file() else None
