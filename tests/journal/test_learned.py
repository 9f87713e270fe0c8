"""Learned facts of faulty products and hosts: stored, migrated, and damaged row by row."""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.concurrency.host_memory import HostMemory
from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import StorageStopped
from bulkdl.core.models import Checksum
from bulkdl.journal import journal as module
from bulkdl.journal.journal import Journal, read_learned
from bulkdl.journal.reader import read
from bulkdl.journal.records import Entry, Phase
from bulkdl.journal.row_codec import PUT, encode
from bulkdl.journal.sqlite_file import open_or_replace
from bulkdl.protocol.bad_source import BadSourceEvidence, ValidatorSnapshot
from bulkdl.protocol.server_quirks import EXPIRES_S, ServerFacts
from tests.clocks import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_750_000_000.0
GUILTY = BadSourceEvidence(
    id="a/é\udce9.bin",
    expected=(Checksum("md5", "00"), Checksum("sha256", "11")),
    found=(Checksum("md5", "22"), Checksum("sha256", "11")),
    size=2**40,
    fetches=2,
    proven=True,
    at=NOW,
    kept=".bulkdl/faulty/0123-a.bin",
    seen=(
        ValidatorSnapshot(source="https://a.example.org:443/a", size=5, etag='"caf\udce9"', last_modified="x"),
        ValidatorSnapshot(source="b"),
    ),
)
OTHER = BadSourceEvidence(id="b", expected=(), found=(), size=0, fetches=1, proven=False, at=0.0)
HOST = ServerFacts(origin="https://a.example.org:443", range_hits=3, ranges_at=NOW, etag_changes=1, etags_at=NOW - 1)
HOST_B = ServerFacts(origin="https://b.example.org:443", range_misses=1, ranges_at=NOW)

HERE = HostMemory(
    account=None, host="a.example.org", connections=12, rate=5.5, connections_at=NOW, refused=14, refused_at=NOW
)
OWN = HostMemory(account="ö wn", host="", pause_s=0.5, pause_refused_s=0.4, pause_accepted_s=0.5, pause_at=NOW - 1)


def file_of(destination: Path) -> Path:
    return destination / ".bulkdl" / "journal.sqlite"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(wall=NOW)


async def fill(destination: Path, clock: ManualClock) -> None:
    async with Journal.open(destination, clock=clock) as journal:
        await journal.put_evidence(GUILTY)
        await journal.record_evidence(Entry(id="b", phase=Phase.PARTIAL), OTHER)
        journal.put_host_unsynced(HOST)
        journal.put_host_unsynced(HOST_B)
        journal.put_connections_unsynced(HERE)
        journal.put_connections_unsynced(OWN)


def change(destination: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(file_of(destination))) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


async def test_all_learned_facts_survive_a_reopening(tmp_path: Path, clock: ManualClock):
    await fill(tmp_path, clock)
    async with Journal.open(tmp_path, clock=clock) as journal:
        learnt = await journal.learned()
        assert learnt.evidence == {GUILTY.id: GUILTY, "b": OTHER}
        assert learnt.hosts == {HOST.origin: HOST, HOST_B.origin: HOST_B}
        assert learnt.connections == (OWN, HERE)
        assert journal.recovered == ""
        assert set(await journal.entries()) == {"b"}
        await journal.drop_evidence(GUILTY.id)
        await journal.drop_evidence("never there")
        await journal.put_evidence(GUILTY)
        await journal.drop_evidence("b")
    found = read_learned(tmp_path, now=NOW)
    assert found is not None
    assert found.evidence == {GUILTY.id: GUILTY}


async def test_hosts_that_were_not_seen_for_a_month_are_left_out(tmp_path: Path, clock: ManualClock):
    await fill(tmp_path, clock)
    found = read_learned(tmp_path, now=NOW + EXPIRES_S)
    assert found is not None
    assert found.hosts == {}
    assert found.connections == ()
    assert set(found.evidence) == {GUILTY.id, "b"}


def test_without_a_journal_nothing_is_learned_and_no_file_is_created(tmp_path: Path):
    assert read_learned(tmp_path, now=NOW) is None
    assert list(tmp_path.iterdir()) == []


# --- A journal of the previous version --------------------------------------------------------------------------------


def old_journal(destination: Path) -> None:
    """Create a journal of schema version 2 with one product."""
    (destination / ".bulkdl").mkdir()
    old = open_or_replace(file_of(destination), steps=module.STEPS[:2], wal=True, now=0).connection
    assert old.execute("PRAGMA user_version").fetchone() == (2,)
    values = encode(Entry(id="kept", phase=Phase.DONE, file="kept", size=1, mtime_ns=2), updated=1.0)
    old.execute(PUT, values)
    old.close()


async def test_a_journal_of_the_previous_version_is_migrated_with_its_rows(tmp_path: Path, clock: ManualClock):
    old_journal(tmp_path)
    async with Journal.open(tmp_path, clock=clock) as journal:
        assert set(await journal.entries()) == {"kept"}
        learnt = await journal.learned()
        assert (learnt.evidence, learnt.hosts, journal.recovered) == ({}, {}, "")
        await journal.put_evidence(GUILTY)
    with closing(sqlite3.connect(file_of(tmp_path))) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(module.STEPS),)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert set(read(tmp_path) or {}) == {"kept"}


def test_a_reader_finds_no_learned_facts_in_a_journal_of_the_previous_version_and_does_not_change_it(tmp_path: Path):
    old_journal(tmp_path)
    learnt = read_learned(tmp_path, now=NOW)
    assert learnt is not None
    assert (learnt.evidence, learnt.hosts, set(read(tmp_path) or {})) == ({}, {}, {"kept"})
    with closing(sqlite3.connect(file_of(tmp_path))) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


# --- Damage -----------------------------------------------------------------------------------------------------------


def sealed(text: str) -> tuple[str, int]:
    return text, zlib.crc32(text.encode())


NONSENSE = [
    ("{}", 0),
    ("", 0),
    (b"\xff\xfe", 1),
    (None, 7),
    sealed("nonsense"),
    sealed("[]"),
    sealed("null"),
    sealed("{}"),
    sealed('{"origin": "x", "unknown": 1}'),
    sealed('{"origin": "x", "range_hits": "many"}'),
]


@pytest.mark.parametrize("values", NONSENSE)
@pytest.mark.parametrize(("table", "key"), [("faulty", "b"), ("host", HOST.origin)])
async def test_a_damaged_row_costs_itself_only(
    table: str, key: str, values: tuple[Any, int], tmp_path: Path, clock: ManualClock
):
    await fill(tmp_path, clock)
    column = "id" if table == "faulty" else "origin"
    text = "" if values[0] is None else values[0]
    change(tmp_path, f"UPDATE {table} SET facts = ?, crc = ? WHERE {column} = ?", text, values[1], key)
    async with Journal.open(tmp_path, clock=clock) as journal:
        learnt = await journal.learned()
        assert set(learnt.evidence) == {GUILTY.id} | ({"b"} if table == "host" else set())
        assert set(learnt.hosts) == {HOST_B.origin} | ({HOST.origin} if table == "faulty" else set())
        assert ("1 journal record of a faulty product is unreadable" in journal.recovered) == (table == "faulty")
        assert set(await journal.entries()) == {"b"}


@pytest.mark.parametrize(
    "values",
    [
        *NONSENSE,
        sealed('{"account": null, "host": "a.example.org", "pause_accepted_s": 0, "connections": 1e300, "refused": 0}'),
        sealed('{"account": null, "host": "a.example.org", "pause_accepted_s": 0, "connections": -1, "refused": 0}'),
        sealed('{"account": null, "host": 5, "pause_accepted_s": 0, "connections": 1, "refused": 0}'),
        sealed('{"account": null, "host": "a.example.org", "pause_accepted_s": NaN, "connections": 1, "refused": 0}'),
    ],
)
async def test_a_damaged_row_about_connections_leaves_the_others(
    values: tuple[Any, int], tmp_path: Path, clock: ManualClock
):
    await fill(tmp_path, clock)
    text = "" if values[0] is None else values[0]
    change(tmp_path, "UPDATE connections SET facts = ?, crc = ? WHERE account = ''", text, values[1])
    async with Journal.open(tmp_path, clock=clock) as journal:
        learnt = await journal.learned()
        assert (learnt.connections, set(learnt.hosts)) == ((OWN,), {HOST.origin, HOST_B.origin})


async def test_one_flipped_digit_of_the_evidence_is_noticed(tmp_path: Path, clock: ManualClock):
    await fill(tmp_path, clock)
    change(tmp_path, "UPDATE faulty SET facts = replace(facts, '\"fetches\": 1', '\"fetches\": 9') WHERE id = 'b'")
    found = read_learned(tmp_path, now=NOW)
    assert found is not None
    assert (set(found.evidence), found.unreadable) == ({GUILTY.id}, 1)


async def test_a_refusal_and_its_evidence_are_one_change(tmp_path: Path):
    """If only one of them were stored, the same bytes could be counted twice."""
    async with Journal.open(tmp_path, clock=SystemClock()) as journal:
        with pytest.raises(OverflowError):
            await journal.record_evidence(Entry(id="b", phase=Phase.PARTIAL, total=2**64), OTHER)
        assert (await journal.learned()).evidence == {}
        assert await journal.entries() == {}


async def test_a_schema_that_is_no_text_any_more_has_the_journal_set_aside(tmp_path: Path, clock: ManualClock):
    """Python cannot decode the SQLite message that quotes the damaged schema."""
    await fill(tmp_path, clock)
    data = file_of(tmp_path).read_bytes()
    file_of(tmp_path).write_bytes(data.replace(b"source TEXT NOT NULL", b"s'urce TEXT N\xcbT NULL"))
    with pytest.raises(StorageStopped, match="it is damaged"):
        read(tmp_path)
    async with Journal.open(tmp_path, clock=clock) as journal:
        assert "damaged and moved to" in journal.recovered
        assert await journal.entries() == {}
