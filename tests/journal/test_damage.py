"""Changed values in a structurally sound journal: SQLite notices nothing, the CRC of each row does."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bulkdl.core.clock import SystemClock
from bulkdl.core.models import Checksum
from bulkdl.journal.journal import Journal
from bulkdl.journal.reader import read
from bulkdl.journal.records import Entry, Phase

if TYPE_CHECKING:
    from pathlib import Path

HARMED = Entry(
    id="a.bin",
    phase=Phase.PARTIAL,
    file="a.bin",
    source="https://archive.example.org/a",
    total=900,
    etag='"x"',
    ranges=((0, 100), (400, 500)),
    part="a.bin.part",
    size=7,
    mtime_ns=8,
    digests=(Checksum("md5", "0" * 32),),
    failure_reason="café",
)
WHOLE = Entry(id="b.bin", phase=Phase.DONE, file="b.bin", size=1, mtime_ns=2)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ranges", "0-300,400-500"),
        ("total", 901),
        ("etag", '"y"'),
        ("size", 8),
        ("mtime_ns", 9),
        ("part", "b.bin.part"),
        ("phase", "done"),
        ("digests", f"md5:{'1' * 32}"),
        ("source", "https://archive.example.org/b"),
        ("file", "c.bin"),
    ],
)
async def test_a_changed_value_costs_the_history_of_its_product_and_is_said(column: str, value: object, tmp_path: Path):
    """A flipped bit in a range would make a hole count as downloaded bytes."""
    async with Journal.open(tmp_path, clock=SystemClock()) as journal:
        await journal.put(HARMED)
        await journal.put(WHOLE)
    assert set(read(tmp_path) or {}) == {"a.bin", "b.bin"}
    with closing(sqlite3.connect(tmp_path / ".bulkdl" / "journal.sqlite")) as connection, connection:
        connection.execute(f"UPDATE product SET {column} = ? WHERE id = 'a.bin'", (value,))
    async with Journal.open(tmp_path, clock=SystemClock()) as journal:
        assert set(await journal.entries()) == {"b.bin"}
        assert "1 journal record is unreadable" in journal.recovered
        await journal.put(HARMED)
        assert set(await journal.entries()) == {"a.bin", "b.bin"}


async def test_unreadable_records_of_several_batches_are_counted_together(tmp_path: Path):
    ids = [f"{i}.bin" for i in range(6)]
    async with Journal.open(tmp_path, clock=SystemClock()) as journal:
        await journal.put_all([replace(WHOLE, id=id_) for id_ in ids])
    with closing(sqlite3.connect(tmp_path / ".bulkdl" / "journal.sqlite")) as connection, connection:
        connection.execute("UPDATE product SET size = 9 WHERE id IN ('1.bin', '4.bin', '5.bin')")
    async with Journal.open(tmp_path, clock=SystemClock()) as journal:
        found = [set(await journal.get_many(ids[at : at + 3])) for at in (0, 3)]
        assert found == [{"0.bin", "2.bin"}, {"3.bin"}]
        assert "3 journal records are unreadable" in journal.recovered
