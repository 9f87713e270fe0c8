"""Products that are about to have their names, many at a time: one row for all of them, until each has a row of its own.

A crash leaves the row, and the next run makes of it what `placing` entries there would have been.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bulkdl.core.models import Checksum
from bulkdl.journal.records import Entry, Phase
from bulkdl.storage.file_info import FileFacts

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

__all__ = [
    "PendingRename",
    "drop_moves",
    "load_moves",
    "moved",
    "moving",
    "not_superseded",
    "placed_entry",
    "put_moves",
]

_PUT: Final = "INSERT OR REPLACE INTO moving (batch, updated, moves, crc) VALUES (?, ?, ?, ?)"


class PendingRename(NamedTuple):
    """A product whose partial is complete, durable and right."""

    entry: Entry
    """Of the partial: the first that is known of the product in this run."""
    facts: FileFacts
    """Of the partial, or of the file that it has become."""
    verified: tuple[Checksum, ...]


def moving(move: PendingRename) -> Entry:
    """The entry that says that it is about to have its name."""
    return placed_entry(move.entry, Phase.PLACING, move.facts, move.verified)


def moved(move: PendingRename) -> Entry:
    """The entry that says that it has its name, once `facts` are those of the file there."""
    return placed_entry(move.entry, Phase.DONE, move.facts, move.verified)


def placed_entry(entry: Entry, phase: Phase, facts: FileFacts, verified: tuple[Checksum, ...]) -> Entry:
    """What is recorded of a product that is about to have its name, or has it."""
    done = phase is Phase.DONE
    return Entry(  # not by `replace`, which takes five times as long
        id=entry.id,
        phase=phase,
        file=entry.file,
        source=entry.source,
        total=facts.size,
        etag=entry.etag,
        last_modified=entry.last_modified,
        ranges=((0, facts.size),) if not done and facts.size else (),
        part=None if done else entry.part,
        size=facts.size,
        mtime_ns=facts.mtime_ns,
        digests=verified,
        note=entry.note,
        failure_kind=entry.failure_kind,
        failure_reason=entry.failure_reason,
        attempts=entry.attempts,
    )


def put_moves(connection: sqlite3.Connection, batch: int, moves: Sequence[PendingRename], *, updated: float) -> None:
    """`updated`: Unix time."""
    rows = [
        (e.id, e.file, e.source, e.etag, e.last_modified, e.part, e.attempts, f.size, f.mtime_ns, tuple(map(str, sums)))
        for e, f, sums in moves
    ]
    text = json.dumps(rows)  # ASCII: lone surrogates come back as they were
    connection.execute(_PUT, (batch, updated, text, zlib.crc32(text.encode())))


def drop_moves(connection: sqlite3.Connection, batch: int | None = None) -> None:
    """Forget one batch, or all of them where none is named."""
    connection.execute("DELETE FROM moving WHERE batch = coalesce(?, batch)", (batch,))


def load_moves(connection: sqlite3.Connection) -> tuple[dict[str, Entry], int]:
    """What a crash has left, by id, and how many batches cannot be read: their products have no history then."""
    entries: dict[str, Entry] = {}
    unreadable = 0
    connection.text_factory = bytes  # one text that is not UTF-8 shall cost its own row only
    for updated, text, crc in connection.execute("SELECT updated, moves, crc FROM moving ORDER BY batch"):
        try:
            entries |= {id_: replace(entry, updated=updated) for id_, entry in _decoded(text, crc).items()}
        except (ValueError, TypeError):
            unreadable += 1
    return entries, unreadable


def not_superseded(moves: dict[str, Entry], entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Those of `moves` of which `entries` says nothing later: a disk that was full may have kept a batch that had its end."""
    return {id_: e for id_, e in moves.items() if id_ not in entries or entries[id_].updated <= e.updated}


def _decoded(text: bytes, crc: int) -> dict[str, Entry]:
    if zlib.crc32(text) != crc:
        raise ValueError("damaged")
    found = [_read(*row) for row in json.loads(text)]
    return {entry.id: entry for entry in found}


def _read(*row: Any) -> Entry:
    id_, file, source, etag, last_modified, part, attempts, size, mtime_ns, sums = row
    entry = Entry(
        id=id_,
        phase=Phase.PARTIAL,
        file=file,
        source=source,
        etag=etag,
        last_modified=last_modified,
        part=part,
        attempts=attempts,
    )
    verified = tuple(Checksum(*text.split(":", 1)) for text in sums)
    return moving(PendingRename(entry, FileFacts(size, mtime_ns, is_file=True), verified))
