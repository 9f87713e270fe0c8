"""A batch of renames is one row until each product has its own; after a crash it counts as one entry per product."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from bulkdl.core.clock import SystemClock
from bulkdl.core.models import Checksum
from bulkdl.journal.journal import Journal
from bulkdl.journal.pending_moves import PendingRename, done_entry, placing_entry
from bulkdl.journal.reader import read
from bulkdl.journal.records import Entry, Phase
from bulkdl.journal.row_codec import encode, encode_done
from bulkdl.storage.file_info import FileFacts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clocks import ManualClock

FACTS = FileFacts(size=4096, mtime_ns=1_795_300_995_405_632_700, is_file=True)


def move(id_: str, *, size: int = 4096, etag: str | None = '"e"') -> PendingRename:
    entry = Entry(
        id=id_,
        phase=Phase.PARTIAL,
        file=id_,
        source="https://archive.example.org:443/a",
        total=size,
        etag=etag,
        last_modified="Tue, 15 Nov 1994 12:45:26 GMT",
        part=f"{id_}.part",
        attempts=1,
    )
    return PendingRename(entry, FileFacts(size, FACTS.mtime_ns, is_file=True), (Checksum("md5", "00"),))


def done(id_: str) -> Entry:
    return Entry(id=id_, phase=Phase.DONE, file=id_, size=4096, mtime_ns=FACTS.mtime_ns)


def batches(destination: Path) -> list[int]:
    with closing(sqlite3.connect(destination / ".bulkdl" / "journal.sqlite")) as connection:
        return [batch for (batch,) in connection.execute("SELECT batch FROM moving")]


async def left(destination: Path, *moves: PendingRename) -> None:
    """Create the journal of a run that crashed right after recording `moves`."""
    async with Journal.open(destination, clock=SystemClock()) as journal:
        await journal.put_moves(moves)


def without_time(entries: dict[str, Entry]) -> dict[str, dict[str, object]]:
    told: Callable[[Entry], dict[str, object]] = lambda e: {  # noqa: E731
        name: getattr(e, name) for name in Entry.__annotations__ if name != "updated"
    }
    return {id_: told(entry) for id_, entry in entries.items()}


async def test_the_next_run_finds_an_entry_before_the_rename_for_each_product(tmp_path: Path):
    moves = [move("a.bin"), move("b/c.bin"), move("empty", size=0, etag=None)]
    await left(tmp_path, *moves)
    async with Journal.open(tmp_path, clock=SystemClock()) as journal:
        found = await journal.entries()
        unfinished = await journal.unfinished()
    assert (
        without_time(found) == without_time({m.entry.id: placing_entry(m) for m in moves}) == without_time(unfinished)
    )
    assert batches(tmp_path) == []


async def test_a_pending_rename_replaces_an_older_entry(tmp_path: Path, clock: ManualClock):
    async with Journal.open(tmp_path, clock=clock) as journal:
        await journal.put(Entry(id="a.bin", phase=Phase.FAILED, failure_reason="last night"))
        await journal.put_moves([move("a.bin")])
    async with Journal.open(tmp_path, clock=clock) as journal:
        assert (await journal.entries())["a.bin"].phase is Phase.PLACING


async def test_a_newer_entry_outranks_a_pending_rename(tmp_path: Path, clock: ManualClock):
    async with Journal.open(tmp_path, clock=clock) as journal:
        await journal.put_moves([move("a.bin"), move("b.bin")])  # and a full disk prevented the record of its end
        clock.jump_wall(1)
        await journal.put(done("a.bin"))
    assert {id_: e.phase for id_, e in (read(tmp_path) or {}).items()} == {"a.bin": Phase.DONE, "b.bin": Phase.PLACING}
    async with Journal.open(tmp_path, clock=clock) as journal:
        phases = {id_: entry.phase for id_, entry in (await journal.entries()).items()}
    assert phases == {"a.bin": Phase.DONE, "b.bin": Phase.PLACING}


async def test_a_reader_sees_pending_renames_and_changes_nothing(tmp_path: Path, clock: ManualClock):
    async with Journal.open(tmp_path, clock=clock) as journal:
        await journal.put(done("old.bin"))
        await journal.put_moves([move("a.bin")])
        found = read(tmp_path) or {}
        assert {id_: entry.phase for id_, entry in found.items()} == {"old.bin": Phase.DONE, "a.bin": Phase.PLACING}
    assert batches(tmp_path) == [1]


async def test_after_the_renames_only_the_row_of_each_product_is_left(tmp_path: Path, clock: ManualClock):
    async with Journal.open(tmp_path, clock=clock) as journal:
        first = await journal.put_moves([move("a.bin"), move("b.bin")])
        second = await journal.put_moves([move("c.bin")])
        await journal.finish_batch(first, [move("a.bin")], [move("b.bin")])
        phases = {id_: entry.phase for id_, entry in (await journal.entries()).items()}
        assert phases == {"a.bin": Phase.DONE, "b.bin": Phase.PLACING}
        assert batches(tmp_path) == [second]
        assert (await journal.get("a.bin") or done("")).phase is Phase.DONE


async def test_an_unreadable_row_is_reported_and_affects_only_its_own_products(tmp_path: Path, clock: ManualClock):
    async with Journal.open(tmp_path, clock=clock) as journal:
        await journal.put(done("old.bin"))
        await journal.put_moves([move("a.bin")])
        await journal.put_moves([move("b.bin")])
        await journal.put_moves([move("c.bin"), move("d.bin")])
    with closing(sqlite3.connect(tmp_path / ".bulkdl" / "journal.sqlite")) as connection, connection:
        connection.execute("UPDATE moving SET moves = replace(moves, '.bin', '.xyz') WHERE batch <> 2")
    async with Journal.open(tmp_path, clock=clock) as journal:
        assert set(await journal.entries()) == {"old.bin", "b.bin"}
        assert journal.recovered.startswith("2 journal records are unreadable")
    assert batches(tmp_path) == []


@given(
    st.text(min_size=1),
    st.one_of(st.none(), st.text()),
    st.integers(0, 2**62),
    st.lists(st.sampled_from(["md5", "sha256"]), unique=True),
)
@settings(max_examples=30, deadline=None)
def test_any_name_and_header_survives_the_round_trip(text: str, etag: str | None, size: int, sums: list[str]):
    import asyncio  # noqa: PLC0415

    made = move(text, size=size, etag=etag)._replace(verified=tuple(Checksum(name, "0f") for name in sums))

    async def back(destination: Path) -> dict[str, Entry]:
        await left(destination, made)
        async with Journal.open(destination, clock=SystemClock()) as journal:
            return await journal.entries()

    with tempfile.TemporaryDirectory() as folder:
        assert without_time(asyncio.run(back(Path(folder)))) == without_time({text: placing_entry(made)})


TEXTS = st.text(st.characters(max_codepoint=0x2FF) | st.sampled_from("\u2028\udce9\U0001f6f0'\"\\"), max_size=6)
ASCII = st.text(st.characters(max_codepoint=127) | st.sampled_from("'\"\\"), max_size=6)


@given(
    texts=st.lists(TEXTS, min_size=2, max_size=2) | st.lists(ASCII, min_size=2, max_size=2),
    others=st.lists(st.none() | TEXTS, min_size=3, max_size=3) | st.lists(st.none() | ASCII, min_size=3, max_size=3),
    size=st.integers(0, 2**62),
    sums=st.lists(st.builds(Checksum, ASCII, ASCII), max_size=2),
    updated=st.integers(0, 2**40) | st.floats(0, 1e12),
)
def test_the_row_of_a_product_in_its_place_is_the_same_however_it_is_encoded(
    texts: list[str], others: list[str | None], size: int, sums: list[Checksum], updated: float
):
    (id_, source), (file, etag, modified) = texts, others
    entry = Entry(
        id=id_, phase=Phase.PARTIAL, file=file, source=source, total=1, etag=etag, last_modified=modified, attempts=3
    )
    there = PendingRename(entry, FileFacts(size, size, is_file=True), tuple(sums))
    assert encode_done(there, updated=updated) == encode(done_entry(there), updated=updated)
