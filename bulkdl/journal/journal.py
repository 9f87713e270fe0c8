"""Durable record of a destination in SQLite: which products are done, partial or failed, and why.

Inside the package: `journal` is the API of a run, `reader` that of commands which only read. `records` defines an
entry and the schema, and reads rows; `row_codec` writes them. `pending_moves` records batches of renames, `learned`
records bad sources and server quirks. `writer_thread` commits in batches with `synchronous=FULL`, `sqlite_file` opens,
migrates and replaces the file, `space_reserve` keeps bytes for a full disk.

The order that the journal relies on: a byte range is recorded only after `fsync` of the partial, and before a restart
overwrites a partial, its old ranges are deleted. A crash therefore costs bytes, but the journal never claims bytes
that are gone.
"""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bulkdl.core.filenames import STATE_FOLDER
from bulkdl.journal.learned import (
    AccountStop,
    Learned,
    drop_account_stop,
    drop_evidence,
    load_learned,
    put_account_stop,
    put_connections,
    put_evidence,
    put_host,
)
from bulkdl.journal.outage_log import close_outages, load_outages, put_outage
from bulkdl.journal.pending_moves import PendingRename, drop_moves, load_moves, not_superseded, placing_entry, put_moves
from bulkdl.journal.reader import NAME
from bulkdl.journal.records import STEPS, Entry, load, load_some, load_unfinished, text_of
from bulkdl.journal.row_codec import PUT, encode, encode_done
from bulkdl.journal.space_reserve import SpaceReserve
from bulkdl.journal.sqlite_file import database_error, open_or_replace, read_only
from bulkdl.journal.writer_thread import JournalWriter
from bulkdl.storage.filesystem import state_folder
from bulkdl.storage.filesystem_type import network_filesystem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from bulkdl.concurrency.host_memory import HostMemory
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import OutageChanged
    from bulkdl.journal.learned import Learned
    from bulkdl.journal.outage_log import RecordedOutage
    from bulkdl.journal.row_codec import Row
    from bulkdl.protocol.bad_source import BadSourceEvidence
    from bulkdl.protocol.server_quirks import ServerFacts

__all__ = ["Journal", "read_learned", "read_outages"]


class Journal:
    """Open journal of one destination; create it with `Journal.open`."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self.path = path
        self.recovered = ""
        """Message for the user if the journal was damaged, "" otherwise."""
        self.network_filesystem = ""
        """Type of the network file system that holds the journal, "" for a local or unknown one."""
        self._clock = clock
        self._writer = JournalWriter(path, self._connect, reserve=SpaceReserve(path.parent))
        self._unreadable = 0
        self._batch = 0
        """Id of the last batch of renames."""
        self._known_absent: set[str] = set()
        """Ids that had no entry in an earlier `get_many`, so that `get` needs no query for each new product."""

    @classmethod
    @asynccontextmanager
    async def open(cls, destination: Path, *, clock: Clock) -> AsyncIterator[Journal]:
        """Open or create the journal; raise `StorageStopped`. The caller must hold the destination's lock."""
        journal = cls(destination / STATE_FOLDER / NAME, clock=clock)
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
        """Return all entries by id."""
        return self._report_unreadable(*await self._writer.run(load))

    async def unfinished(self) -> dict[str, Entry]:
        """Return the entries of unfinished products, by id."""
        return (await self._writer.run(load_unfinished))[0]

    async def get_many(self, ids: Sequence[str]) -> dict[str, Entry]:
        """Return the existing entries of `ids`, by id."""
        found = self._report_unreadable(*await self._writer.run(lambda connection: load_some(connection, ids)))
        self._known_absent.update(id_ for id_ in ids if id_ not in found)
        return found

    async def get(self, id: str) -> Entry | None:  # noqa: A002
        """Return the entry of `id`, including every earlier put, or None."""
        if id in self._known_absent:
            return None
        return (await self._writer.run(lambda connection: load_some(connection, (id,))))[0].get(id)

    def _report_unreadable(self, entries: dict[str, Entry], unreadable: int) -> dict[str, Entry]:
        if unreadable and (not self.recovered or self._unreadable):
            self._unreadable += unreadable
            records = "record is" if self._unreadable == 1 else "records are"
            self.recovered = f"{self._unreadable} journal {records} unreadable; those products will be checked again"
        return entries

    async def put(self, entry: Entry) -> None:
        """Put `entry` and return once it is durable; raise `StorageStopped`."""
        await self._writer.run(self._put_statement(entry))

    async def put_all(self, entries: Sequence[Entry]) -> None:
        """Put all of `entries` in one transaction and return once it is durable; raise `StorageStopped`."""
        now = self._clock.wall()
        rows = [encode(entry, updated=now) for entry in entries]
        self._known_absent.difference_update(entry.id for entry in entries)
        await self._writer.run(lambda connection: connection.executemany(PUT, rows))

    async def put_moves(self, moves: Sequence[PendingRename]) -> int:
        """Record durably that these files are about to be renamed; return the batch's id. Raise `StorageStopped`."""
        self._batch = batch = self._batch + 1
        now = float(self._clock.wall())
        await self._writer.run(lambda connection: put_moves(connection, batch, moves, updated=now))
        return batch

    async def finish_batch(
        self, batch: int, moves: Sequence[PendingRename], left: Sequence[PendingRename] = ()
    ) -> None:
        """Record durably that `moves` were renamed and `left` were not; raise `StorageStopped`.

        `moves` and `left` together are the batch that `put_moves` recorded, with the current facts of each file.
        """
        now = self._clock.wall()
        rows = [encode_done(move, updated=now) for move in moves]
        rows += [encode(placing_entry(move), updated=now) for move in left]
        self._known_absent.difference_update(move.entry.id for move in (*moves, *left))

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(PUT, rows)
            drop_moves(connection, batch)

        await self._writer.run(work)

    def put_unsynced(self, entry: Entry) -> None:
        """Put `entry` with the next commit without waiting; the next call, or the end, raises a failure."""
        self._writer.run_unsynced(self._put_statement(entry))

    async def forget(self, id: str) -> None:  # noqa: A002
        """Delete the entry durably; a missing entry is no error."""
        await self._writer.run(_statement("DELETE FROM product WHERE id = ?", (text_of(id),)))

    async def learned(self) -> Learned:
        """Return what earlier runs learned about bad sources and hosts, without unreadable rows."""
        now = self._clock.wall()
        found = await self._writer.run(lambda connection: load_learned(connection, now=now))
        if found.unreadable and not self.recovered:
            records = "record of a faulty product is" if found.unreadable == 1 else "records of faulty products are"
            self.recovered = f"{found.unreadable} journal {records} unreadable; those products will be downloaded again"
        return found

    async def record_evidence(self, entry: Entry, evidence: BadSourceEvidence) -> None:
        """Put both in one transaction and return once it is durable, so rejected bytes are never counted twice."""
        putting = self._put_statement(entry)

        def work(connection: sqlite3.Connection) -> None:
            putting(connection)
            put_evidence(connection, evidence)

        await self._writer.run(work)

    async def put_evidence(self, evidence: BadSourceEvidence) -> None:
        """Replace the evidence of that product durably."""
        await self._writer.run(lambda connection: put_evidence(connection, evidence))

    async def drop_evidence(self, id: str) -> None:  # noqa: A002
        """Delete the evidence against the product durably."""
        await self._writer.run(lambda connection: drop_evidence(connection, id))

    def put_host_unsynced(self, facts: ServerFacts) -> None:
        """Put `facts` with the next commit without waiting; the next call, or the end, raises a failure."""
        self._writer.run_unsynced(lambda connection: put_host(connection, facts))

    def put_connections_unsynced(self, memory: HostMemory) -> None:
        """Put `memory` with the next commit without waiting; the next call, or the end, raises a failure."""
        self._writer.run_unsynced(lambda connection: put_connections(connection, memory))

    def put_outage_unsynced(self, event: OutageChanged) -> None:
        """Record an outage with the next commit without waiting; the next call, or the end, raises a failure."""
        now = self._clock.wall()
        self._writer.run_unsynced(lambda connection: put_outage(connection, event, now=now))

    def close_outages_unsynced(self) -> None:
        """Give an end to the outages of a run that was killed, with the next commit."""
        now = self._clock.wall()
        self._writer.run_unsynced(lambda connection: close_outages(connection, now=now))

    def put_account_stop_unsynced(self, account: str, reason: str) -> None:
        """Record with the next commit why the account's products stay pending, for `bulkdl status`."""
        stop = AccountStop(account, reason, self._clock.wall())
        self._writer.run_unsynced(lambda connection: put_account_stop(connection, stop))

    def drop_account_stop_unsynced(self, account: str) -> None:
        """Delete the record of an account that works again, with the next commit."""
        self._writer.run_unsynced(lambda connection: drop_account_stop(connection, account))

    def _put_statement(self, entry: Entry) -> Callable[[sqlite3.Connection], None]:
        self._known_absent.discard(entry.id)
        return _statement(PUT, encode(entry, updated=self._clock.wall()))

    def _connect(self) -> sqlite3.Connection:
        folder = state_folder(self.path.parent.parent)
        self.network_filesystem = network_filesystem(folder)
        opened = open_or_replace(self.path, steps=STEPS, wal=not self.network_filesystem, now=self._clock.wall())
        if opened.set_aside:
            self.recovered = (
                f"The journal was damaged and moved to '{STATE_FOLDER}/{opened.set_aside}'; finished products are "
                "kept, partial ones may be downloaded again from the start"
            )
        self._recover_moves(opened.connection)
        return opened.connection

    def _recover_moves(self, connection: sqlite3.Connection) -> None:
        """Turn the batches of renames that a crash interrupted into one entry for each product."""
        entries, unreadable = load_moves(connection)
        if not entries and not unreadable:
            return
        entries = not_superseded(entries, load_some(connection, list(entries))[0])
        rows = [encode(entry, updated=self._clock.wall()) for entry in entries.values()]
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(PUT, rows)
            drop_moves(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            connection.close()
            raise database_error(error, self.path) from error
        self._report_unreadable(entries, unreadable)


def _statement(statement: str, values: Row) -> Callable[[sqlite3.Connection], None]:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute(statement, values)

    return work


def read_learned(destination: Path, *, now: float) -> Learned | None:
    """Return what runs learned about bad sources and hosts, or None if there is no journal.

    It works during a run too. `now` is Unix time. Raise `StorageStopped` if the journal cannot be read.
    """
    path = destination / STATE_FOLDER / NAME
    return read_only(path, STEPS, lambda connection: load_learned(connection, now=now)) if path.is_file() else None


def read_outages(destination: Path) -> tuple[RecordedOutage, ...]:
    """Return the outages of earlier runs and of a run in progress. Raise `StorageStopped` if the journal cannot be read."""
    path = destination / STATE_FOLDER / NAME
    return read_only(path, STEPS, load_outages) if path.is_file() else ()
