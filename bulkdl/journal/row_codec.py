"""Encoding of entries as rows of the journal; `records` decodes them."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from bulkdl.journal.pending_moves import done_entry
from bulkdl.journal.records import STORED, Entry, crc_of_bytes, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bulkdl.journal.pending_moves import PendingRename

__all__ = ["PUT", "Row", "encode", "encode_done"]

PUT: Final = f"INSERT OR REPLACE INTO product ({', '.join(STORED)}) VALUES ({', '.join('?' * len(STORED))})"  # noqa: S608

Value = str | bytes | float | None
Row = tuple[Value, ...]


def encode(entry: Entry, *, updated: float) -> Row:
    """Return the values of `entry` for `PUT`; `updated` is Unix time."""
    values = _values(entry, updated=float(updated))
    return (*values, _crc(values))


def encode_done(move: PendingRename, *, updated: float) -> Row:
    """Return the same row as `encode(done_entry(move))` in a third of the time; nearly all rows are of this kind.

    This path handles ASCII texts only and leaves all others to `encode`.
    """
    entry, facts, verified = move
    id_, file, source, etag, modified = entry.id, entry.file, entry.source, entry.etag, entry.last_modified
    sums = " ".join(map(str, verified)) if verified else ""
    if not f"{id_}{file}{source}{etag}{modified}{sums}".isascii():
        return encode(done_entry(move), updated=updated)
    size, mtime_ns, updated = facts.size, facts.mtime_ns, float(updated)
    # Build the `repr` that `crc_of_bytes` would hash: for ASCII, a text and its bytes differ only in the prefix `b`.
    text = (
        f"[b{id_!r}, b'done', {_bytes_repr(file)}, b{source!r}, {size}, {_bytes_repr(etag)}, {_bytes_repr(modified)}, "
        f"b'', None, {size}, {mtime_ns}, b{sums!r}, b'', None, b'', {entry.attempts}, {updated!r}]"
    )
    crc = zlib.crc32(text.encode())
    row = (id_, "done", file, source, size, etag, modified, "", None, size, mtime_ns, sums, "", None, "")
    return (*row, entry.attempts, updated, crc)


def _bytes_repr(text: str | None) -> str:
    return "None" if text is None else f"b{text!r}"


def _crc(values: Sequence[Value]) -> int:
    """Return the CRC of one row; SQLite's own checks find damaged structure, but not changed values."""
    return crc_of_bytes([v.encode() if isinstance(v, str) else v for v in values])


def _values(entry: Entry, *, updated: float) -> Row:
    return (
        text_of(entry.id),
        entry.phase.value,
        text_of(entry.file),
        text_of(entry.source),
        entry.total,
        text_of(entry.etag),
        text_of(entry.last_modified),
        ",".join(f"{start}-{end}" for start, end in entry.ranges),
        text_of(entry.part),
        entry.size,
        entry.mtime_ns,
        " ".join(map(str, entry.digests)),
        text_of(entry.note),
        entry.failure_kind.value if entry.failure_kind else None,
        text_of(entry.failure_reason),
        entry.attempts,
        updated,
    )
