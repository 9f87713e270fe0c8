"""The durable record of a destination in SQLite: what is done, what is partial, what failed and why."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bulkdl.core.filenames import STATE_FOLDER
from bulkdl.journal.learned import drop_evidence, load_learned, put_evidence, put_host
from bulkdl.journal.pending_moves import PendingRename, drop_moves, load_moves, moving, not_superseded, put_moves
from bulkdl.journal.reader import NAME
from bulkdl.journal.records import STEPS, Entry, load, load_some, load_unfinished, text_of
from bulkdl.journal.row_codec import PUT, encode, encode_done
from bulkdl.journal.space_reserve import SpaceReserve
from bulkdl.journal.sqlite_file import database_error, open_or_renew, read_only
from bulkdl.journal.writer_thread import JournalWriter
from bulkdl.storage.filesystem import state_folder
from bulkdl.storage.filesystem_type import network_filesystem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from bulkdl.core.clock import Clock
    from bulkdl.journal.learned import Learned
    from bulkdl.journal.row_codec import Row
    from bulkdl.protocol.bad_source import BadSourceEvidence
    from bulkdl.protocol.server_quirks import ServerFacts

__all__ = ["Journal", "read_learned"]


class Journal:
    """The open journal of one destination; `Journal.open` makes one."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self.path = path
        self.recovered = ""
        """A sentence when the journal was damaged, and what became of it."""
        self.network_filesystem = ""
        """The type of the network file system that it lies on, where that was detected."""
        self._clock = clock
        self._writer = JournalWriter(path, self._connect, reserve=SpaceReserve(path.parent))
        self._unreadable = 0
        self._batch = 0
        """Of the last that had their names together."""
        self._missing: set[str] = set()
        """Those that had no entry when many were read: there may be very many, and none of them is asked for again."""

    @classmethod
    @asynccontextmanager
    async def open(cls, destination: Path, *, clock: Clock) -> AsyncIterator[Journal]:
        """Open or create the journal; raise `StorageStopped`. Only the holder of the destination's lock may."""
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
        """All entries by id."""
        return self._readable(*await self._writer.do(load))

    async def unfinished(self) -> dict[str, Entry]:
        """The entries of products that are not done, by id."""
        return (await self._writer.do(load_unfinished))[0]

    async def of(self, ids: Sequence[str]) -> dict[str, Entry]:
        """The entries of those of `ids` that have one."""
        found = self._readable(*await self._writer.do(lambda connection: load_some(connection, ids)))
        self._missing.update(id_ for id_ in ids if id_ not in found)
        return found

    async def get(self, id: str) -> Entry | None:  # noqa: A002
        """The entry of `id`, with everything that was put before."""
        if id in self._missing:
            return None
        return (await self._writer.do(lambda connection: load_some(connection, (id,))))[0].get(id)

    def _readable(self, entries: dict[str, Entry], unreadable: int) -> dict[str, Entry]:
        if unreadable and (not self.recovered or self._unreadable):
            self._unreadable += unreadable
            self.recovered = f"The journal has {self._unreadable} unreadable records; their products are looked at anew"
        return entries

    async def put(self, entry: Entry) -> None:
        """Return once `entry` is durable; raise `StorageStopped`."""
        await self._writer.do(self._putting(entry))

    async def put_all(self, entries: Sequence[Entry]) -> None:
        """Return once all of `entries` are durable, in one transaction; raise `StorageStopped`."""
        now = self._clock.wall()
        rows = [encode(entry, updated=now) for entry in entries]
        self._missing.difference_update(entry.id for entry in entries)
        await self._writer.do(lambda connection: connection.executemany(PUT, rows))

    async def put_moves(self, moves: Sequence[PendingRename]) -> int:
        """Return once it is durable that these are about to have their names: a number for them. Raise `StorageStopped`."""
        self._batch = batch = self._batch + 1
        now = float(self._clock.wall())
        await self._writer.do(lambda connection: put_moves(connection, batch, moves, updated=now))
        return batch

    async def finish_batch(
        self, batch: int, moves: Sequence[PendingRename], left: Sequence[PendingRename] = ()
    ) -> None:
        """Return once it is durable that `moves` have their names, and `left` have not; raise `StorageStopped`.

        Together they are what `put_moves` has recorded, with what is known of each file now.
        """
        now = self._clock.wall()
        rows = [encode_done(move, updated=now) for move in moves]
        rows += [encode(moving(move), updated=now) for move in left]
        self._missing.difference_update(move.entry.id for move in (*moves, *left))

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(PUT, rows)
            drop_moves(connection, batch)

        await self._writer.do(work)

    def put_unsynced(self, entry: Entry) -> None:
        """Make `entry` durable with the next commit; a failure is raised by the next call or at the end."""
        self._writer.do_soon(self._putting(entry))

    async def forget(self, id: str) -> None:  # noqa: A002
        """Return once the entry is durably gone; one that is missing is fine."""
        await self._writer.do(_executing("DELETE FROM product WHERE id = ?", (text_of(id),)))

    async def learnt(self) -> Learned:
        """What earlier runs have learnt of faulty products and of hosts; what cannot be read of it is left out."""
        now = self._clock.wall()
        found = await self._writer.do(lambda connection: load_learned(connection, now=now))
        if found.unreadable and not self.recovered:
            self.recovered = (
                f"The journal has {found.unreadable} unreadable records of faulty products; they are fetched anew"
            )
        return found

    async def record_evidence(self, entry: Entry, evidence: BadSourceEvidence) -> None:
        """Return once both are durable, in one transaction: bytes that were refused are never counted twice."""
        putting = self._putting(entry)

        def work(connection: sqlite3.Connection) -> None:
            putting(connection)
            put_evidence(connection, evidence)

        await self._writer.do(work)

    async def put_evidence(self, evidence: BadSourceEvidence) -> None:
        """Return once it is durable, in the place of what there was of that product."""
        await self._writer.do(lambda connection: put_evidence(connection, evidence))

    async def drop_evidence(self, id: str) -> None:  # noqa: A002
        """Return once nothing speaks against the product any more."""
        await self._writer.do(lambda connection: drop_evidence(connection, id))

    def put_host_soon(self, facts: ServerFacts) -> None:
        """Keep `facts` with the next commit; nobody waits, and a failure is nobody's matter but the disk's."""
        self._writer.do_soon(lambda connection: put_host(connection, facts))

    def _putting(self, entry: Entry) -> Callable[[sqlite3.Connection], None]:
        self._missing.discard(entry.id)
        return _executing(PUT, encode(entry, updated=self._clock.wall()))

    def _connect(self) -> sqlite3.Connection:
        folder = state_folder(self.path.parent.parent)
        self.network_filesystem = network_filesystem(folder)
        opened = open_or_renew(self.path, steps=STEPS, wal=not self.network_filesystem, now=self._clock.wall())
        if opened.set_aside:
            self.recovered = (
                f"The journal was damaged and set aside as '{STATE_FOLDER}/{opened.set_aside}'; finished products "
                "keep their place, partial ones may start again"
            )
        self._settle_moves(opened.connection)
        return opened.connection

    def _settle_moves(self, connection: sqlite3.Connection) -> None:
        """What a crash has left of products that were to have their names becomes entries of each."""
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
        self._readable(entries, unreadable)


def _executing(statement: str, values: Row) -> Callable[[sqlite3.Connection], None]:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute(statement, values)

    return work


def read_learned(destination: Path, *, now: float) -> Learned | None:
    """What runs have learnt of faulty products and of hosts, also while one is going on; None where there is no journal.

    `now` is Unix time. Raise `StorageStopped` for a journal that cannot be read.
    """
    path = destination / STATE_FOLDER / NAME
    return read_only(path, STEPS, lambda connection: load_learned(connection, now=now)) if path.is_file() else None
