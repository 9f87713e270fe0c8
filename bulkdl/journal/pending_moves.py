"""Batches of files that are about to be renamed: one row for the whole batch, until each product has its own row.

One row instead of many makes small products cheap. After a crash the next run turns a leftover row into `placing`
entries, as if each product had been recorded separately.
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
    "done_entry",
    "drop_moves",
    "load_moves",
    "not_superseded",
    "placed_entry",
    "placing_entry",
    "put_moves",
]

_PUT: Final = "INSERT OR REPLACE INTO moving (batch, updated, moves, crc) VALUES (?, ?, ?, ?)"


class PendingRename(NamedTuple):
    """Product whose partial is complete, durable and verified."""

    entry: Entry
    """Entry of the partial, the first one of the product in this run."""
    facts: FileFacts
    """Facts of the partial, or of the final file after the rename."""
    verified: tuple[Checksum, ...]


def placing_entry(move: PendingRename) -> Entry:
    """Return the entry for a file that is about to be renamed."""
    return placed_entry(move.entry, Phase.PLACING, move.facts, move.verified)


def done_entry(move: PendingRename) -> Entry:
    """Return the entry for a renamed file; `facts` must be those of the final file."""
    return placed_entry(move.entry, Phase.DONE, move.facts, move.verified)


def placed_entry(entry: Entry, phase: Phase, facts: FileFacts, verified: tuple[Checksum, ...]) -> Entry:
    """Return the entry to record before the rename (`PLACING`) or after it (`DONE`)."""
    done = phase is Phase.DONE
    return Entry(  # spelled out because `replace` takes five times as long
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
    """Store the batch as one row; `updated` is Unix time."""
    rows = [
        (e.id, e.file, e.source, e.etag, e.last_modified, e.part, e.attempts, f.size, f.mtime_ns, tuple(map(str, sums)))
        for e, f, sums in moves
    ]
    text = json.dumps(rows)  # ASCII output: lone surrogates survive the round trip
    connection.execute(_PUT, (batch, updated, text, zlib.crc32(text.encode())))


def drop_moves(connection: sqlite3.Connection, batch: int | None = None) -> None:
    """Delete one batch, or all batches if `batch` is None."""
    connection.execute("DELETE FROM moving WHERE batch = coalesce(?, batch)", (batch,))


def load_moves(connection: sqlite3.Connection) -> tuple[dict[str, Entry], int]:
    """Return the entries of leftover batches by id, and the number of unreadable batches, whose entries are lost."""
    entries: dict[str, Entry] = {}
    unreadable = 0
    connection.text_factory = bytes  # so that text that is not UTF-8 makes only its own row unreadable
    for updated, text, crc in connection.execute("SELECT updated, moves, crc FROM moving ORDER BY batch"):
        try:
            entries |= {id_: replace(entry, updated=updated) for id_, entry in _decoded(text, crc).items()}
        except (ValueError, TypeError):
            unreadable += 1
    return entries, unreadable


def not_superseded(moves: dict[str, Entry], entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return those of `moves` without a newer entry; after a full disk, a finished batch may still be stored."""
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
    return placing_entry(PendingRename(entry, FileFacts(size, mtime_ns, is_file=True), verified))
