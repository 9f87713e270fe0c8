"""Read-only access to the journal, also during a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bulkdl.core.filenames import STATE_FOLDER
from bulkdl.journal.pending_moves import load_moves, not_superseded
from bulkdl.journal.records import STEPS, load

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from bulkdl.journal.records import Entry

__all__ = ["NAME", "read"]

NAME: Final = "journal.sqlite"


def read(destination: Path) -> dict[str, Entry] | None:
    """Return all entries by id, or None if there is no journal.

    It works during a run and creates no file. Raise `StorageStopped` if the journal cannot be read.
    """
    path = destination / STATE_FOLDER / NAME
    if not path.is_file():
        return None
    from bulkdl.journal.sqlite_file import read_only  # noqa: PLC0415 - do not load SQLite if there is no journal yet

    return read_only(path, STEPS, _all)


def _all(connection: sqlite3.Connection) -> dict[str, Entry]:
    entries = load(connection)[0]
    return entries | not_superseded(load_moves(connection)[0], entries)
