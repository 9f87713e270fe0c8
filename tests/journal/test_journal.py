"""The journal keeps every acknowledged change, whatever happens to its process or its file."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import StorageStopped
from bulkdl.core.models import Checksum, FailureKind
from bulkdl.journal.journal import Journal
from bulkdl.journal.reader import read
from bulkdl.journal.records import Entry, Phase
from bulkdl.journal.sqlite_file import open_or_replace
from bulkdl.journal.writer_thread import JournalWriter
from bulkdl.storage.filesystem_type import network_filesystem
from tests.effort import effort
from tests.storage.storage_places import child, mounted, read_only

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.clocks import ManualClock

FULL = Entry(
    id="a/b.zip",
    phase=Phase.FAILED,
    file="a/b.zip",
    source="https://archive.example.org:443/a",
    total=2**40,
    etag='"caf\udce9"',  # a header with a byte that is not UTF-8
    last_modified="Tue, 15 Nov 1994 12:45:26 GMT",
    ranges=((0, 5), (7, 9)),
    part="a/b.zip.part",
    size=0,
    mtime_ns=1_795_300_995_405_632_700,
    digests=(Checksum("md5", "9e107d9d372bb6826bd81d3542a419d6"), Checksum("sha1", "00")),
    note="existing, unverified",
    failure_kind=FailureKind.CHECKSUM,
    failure_reason="wrong — twice",
    attempts=3,
)


def file_of(destination: Path) -> Path:
    return destination / ".bulkdl" / "journal.sqlite"


def names(destination: Path) -> set[str]:
    return {path.name for path in (destination / ".bulkdl").iterdir()}


def integrity(destination: Path) -> str:
    with sqlite3.connect(file_of(destination)) as connection:
        verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    return str(verdict)


async def fill(destination: Path, ids: Iterable[str]) -> None:
    async with Journal.open(destination, clock=SystemClock()) as journal, asyncio.TaskGroup() as group:
        for product in ids:
            group.create_task(journal.put(Entry(id=product, phase=Phase.DONE)))


# --- Entries ----------------------------------------------------------------------------------------------------------


async def test_every_field_survives_a_reopening(tmp_path: Path, clock: ManualClock) -> None:
    bare = Entry(id="url:0", phase=Phase.PARTIAL)
    async with Journal.open(tmp_path, clock=clock) as journal:
        await journal.put(FULL)
        await journal.put(bare)
    expected = {e.id: replace(e, updated=clock.wall()) for e in (FULL, bare)}
    async with Journal.open(tmp_path, clock=clock) as journal:
        assert await journal.entries() == expected
        assert journal.recovered == ""
    assert read(tmp_path) == expected


async def test_get_many_returns_the_existing_entries_of_any_number_of_ids(tmp_path: Path) -> None:
    ids = [f"{i}.zip" for i in range(2500)]
    await fill(tmp_path, ids[::2])
    async with Journal.open(tmp_path, clock=SystemClock()) as journal:
        assert list(await journal.get_many(ids[:7])) == ids[:7:2]
        assert set(await journal.get_many(ids)) == set(ids[::2])
        assert await journal.get_many([]) == {}


async def test_a_put_replaces_the_knowledge_that_there_was_no_entry(tmp_path: Path) -> None:
    async with Journal.open(tmp_path, clock=SystemClock()) as journal:
        assert await journal.get_many(["a", "b", "c"]) == {}
        assert await journal.get("a") is None
        await journal.put(Entry(id="a", phase=Phase.DONE))
        await journal.put_all([Entry(id="b", phase=Phase.DONE)])
        found = [await journal.get(id_) for id_ in ("a", "b", "c", "never asked for")]
        assert [entry and entry.id for entry in found] == ["a", "b", None, None]


async def test_the_unfinished_are_all_but_the_done(tmp_path: Path) -> None:
    async with Journal.open(tmp_path, clock=SystemClock()) as journal:
        await journal.put_all([Entry(id=phase.value, phase=phase) for phase in Phase])
        assert set(await journal.unfinished()) == {phase.value for phase in Phase} - {"done"}


texts = st.text(st.characters(exclude_categories=()), max_size=8)
ranges = st.lists(st.integers(0, 2**62), unique=True, max_size=6).map(
    lambda cuts: tuple(zip(sorted(cuts)[0::2], sorted(cuts)[1::2], strict=False))
)
entries = st.builds(
    Entry,
    id=st.sampled_from(["a", "b", "é/c", "\ud800", ""]),
    phase=st.sampled_from(Phase),
    file=st.none() | texts,
    source=texts,
    total=st.none() | st.integers(0, 2**63 - 1),
    etag=st.none() | texts,
    last_modified=st.none() | texts,
    ranges=ranges,
    part=st.none() | texts,
    size=st.none() | st.integers(0, 2**63 - 1),
    mtime_ns=st.none() | st.integers(-(2**62), 2**62),
    digests=st.lists(st.builds(Checksum, st.just("md5"), st.text("0123456789abcdef", min_size=1)), max_size=2).map(
        tuple
    ),
    note=texts,
    failure_kind=st.none() | st.sampled_from(FailureKind),
    failure_reason=texts,
    attempts=st.integers(0, 10**6),
)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), entries),
        st.tuples(st.just("put_unsynced"), entries),
        st.tuples(st.just("forget"), entries),
        st.tuples(st.just("get"), entries),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=effort(12, 80))
@given(script=operations)
def test_any_sequence_of_changes_equals_a_dict_and_survives_reopening(script: list[tuple[str, Entry | None]]) -> None:
    from tests.clocks import ManualClock  # noqa: PLC0415

    clock = ManualClock(wall=5.5)
    model: dict[str, Entry] = {}

    async def part(destination: Path, steps: list[tuple[str, Entry | None]]) -> None:
        async with Journal.open(destination, clock=clock) as journal:
            assert await journal.entries() == model
            for action, entry in steps:
                assert entry is not None
                if action == "put":
                    await journal.put(entry)
                elif action == "put_unsynced":
                    journal.put_unsynced(entry)
                elif action == "forget":
                    await journal.forget(entry.id)
                    model.pop(entry.id, None)
                if action.startswith("put"):
                    model[entry.id] = replace(entry, updated=5.5)
                assert await journal.get(entry.id) == model.get(entry.id)

    async def whole(destination: Path) -> None:
        steps: list[tuple[str, Entry | None]] = []
        for step in [*script, ("reopen", None), ("reopen", None)]:
            if step[0] == "reopen":
                await part(destination, steps)
                steps = []
            else:
                steps.append(step)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(whole(Path(folder)))
        assert read(Path(folder)) == model


async def test_a_value_that_sqlite_cannot_store_fails_only_its_own_put(tmp_path: Path, clock: ManualClock) -> None:
    async with Journal.open(tmp_path, clock=clock) as journal:
        good = Entry(id="good", phase=Phase.DONE)
        bad = Entry(id="bad", phase=Phase.DONE, total=2**64)
        first, second = await asyncio.gather(journal.put(bad), journal.put(good), return_exceptions=True)
        assert isinstance(first, OverflowError)
        assert second is None
        assert set(await journal.entries()) == {"good"}


# --- The writer -------------------------------------------------------------------------------------------------------


async def test_changes_that_arrive_during_a_commit_share_the_next_one(tmp_path: Path) -> None:
    statements: list[str] = []
    ready, go = threading.Event(), threading.Event()

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(tmp_path / "db", isolation_level=None)
        connection.execute("CREATE TABLE t (n)")
        connection.set_trace_callback(statements.append)
        return connection

    def busy(_: sqlite3.Connection) -> None:
        ready.set()
        go.wait()

    writer = JournalWriter(tmp_path / "db", connect)
    await writer.start()
    first = asyncio.ensure_future(writer.run(busy))
    await asyncio.to_thread(ready.wait)
    rest = [
        asyncio.ensure_future(writer.run(lambda c, n=n: c.execute("INSERT INTO t VALUES (?)", (n,)).rowcount))
        for n in range(500)
    ]
    await asyncio.sleep(0)  # all are submitted now
    go.set()
    await asyncio.gather(first, *rest)
    await writer.close()
    assert sum("INSERT" in s for s in statements) == 500
    assert statements.count("COMMIT") == 2


async def test_a_dead_writer_refuses_waiting_and_later_requests(tmp_path: Path, clock: ManualClock) -> None:
    def die(_: sqlite3.Connection) -> None:
        raise MemoryError("no more")

    async with Journal.open(tmp_path, clock=clock) as journal:
        waiting = asyncio.gather(
            journal._writer.run(die),
            *(journal.put(Entry(id=str(n), phase=Phase.DONE)) for n in range(9)),
            return_exceptions=True,
        )
        assert {type(result) for result in await waiting} == {StorageStopped}
        with pytest.raises(StorageStopped, match="no more"):
            await journal.get("0")
        with pytest.raises(StorageStopped):
            journal.put_unsynced(Entry(id="0", phase=Phase.DONE))


async def test_a_put_that_is_cancelled_leaves_the_journal_usable(tmp_path: Path, clock: ManualClock) -> None:
    async with Journal.open(tmp_path, clock=clock) as journal:
        task = asyncio.ensure_future(journal.put(Entry(id="a", phase=Phase.DONE)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await journal.put(Entry(id="b", phase=Phase.DONE))
        assert "b" in await journal.entries()


async def test_a_closed_journal_refuses(tmp_path: Path, clock: ManualClock) -> None:
    async with Journal.open(tmp_path, clock=clock) as journal:
        pass
    with pytest.raises(StorageStopped, match="already closed"):
        await journal.put(FULL)


async def test_a_full_database_is_reported_as_full_and_works_again_once_space_is_free(
    tmp_path: Path, clock: ManualClock
) -> None:
    big = Entry(id="big", phase=Phase.DONE, note="x" * 200_000)
    async with Journal.open(tmp_path, clock=clock) as journal:
        await journal._writer.run(lambda c: c.execute("PRAGMA max_page_count = 10").fetchall())
        with pytest.raises(StorageStopped, match="no space left") as stopped:
            await journal.put(big)
        assert stopped.value.full
        await journal._writer.run(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchall())
        await journal.put(big)
        assert await journal.get("big") is not None


async def test_the_failure_of_an_unsynced_put_is_raised_by_the_next_call_or_at_the_end(
    tmp_path: Path, clock: ManualClock
) -> None:
    big = Entry(id="big", phase=Phase.DONE, note="x" * 200_000)
    with pytest.raises(StorageStopped, match="no space left"):  # noqa: PT012 - raised at its end
        async with Journal.open(tmp_path, clock=clock) as journal:
            await journal._writer.run(lambda c: c.execute("PRAGMA max_page_count = 10").fetchall())
            journal.put_unsynced(big)


async def test_a_full_disk_stops_the_run_and_keeps_what_was_recorded(tmp_path: Path, clock: ManualClock) -> None:
    with mounted(tmp_path / "small", "size=512k") as place:
        async with Journal.open(place, clock=clock) as journal:
            await journal.put(FULL)
            with pytest.raises(StorageStopped) as stopped:  # noqa: PT012 - until it is full
                for number in range(100):
                    await journal.put(Entry(id=str(number), phase=Phase.DONE, note="x" * 50_000))
            assert stopped.value.full
        kept = read(place)
        assert kept is not None
        assert FULL.id in kept
        assert integrity(place) == "ok"


# --- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acknowledged", [1, 40, 400])
async def test_after_kill_9_every_acknowledged_put_is_there(tmp_path: Path, acknowledged: int) -> None:
    with child("write", tmp_path) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline().strip() for _ in range(acknowledged)]
        process.kill()
        seen += [line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    before = names(tmp_path)
    found = read(tmp_path)
    assert names(tmp_path) == before
    assert found is not None
    assert set(seen) <= set(found)
    async with Journal.open(tmp_path, clock=SystemClock()) as journal:
        assert journal.recovered == ""
        assert await journal.entries() == found
    assert integrity(tmp_path) == "ok"
    assert all(found[i].ranges == ((0, int(i.partition("/")[2]) + 1),) for i in seen)


# --- Readers ----------------------------------------------------------------------------------------------------------


async def test_status_reads_beside_the_writer_and_disturbs_nothing(tmp_path: Path, clock: ManualClock) -> None:
    async with Journal.open(tmp_path, clock=clock) as journal:
        counts = []
        for number in range(30):
            await journal.put(Entry(id=str(number), phase=Phase.DONE))
            counts.append(len(await asyncio.to_thread(read, tmp_path) or ()))
    assert counts == list(range(1, 31))


async def test_a_reader_in_the_middle_of_a_read_does_not_stop_the_writer(tmp_path: Path, clock: ManualClock) -> None:
    async with Journal.open(tmp_path, clock=clock) as journal:
        await journal.put(Entry(id="a", phase=Phase.DONE))
        reader = sqlite3.connect(f"{file_of(tmp_path).as_uri()}?mode=ro", uri=True)
        cursor = reader.execute("SELECT id FROM product")
        await journal.put(Entry(id="b", phase=Phase.DONE))
        assert cursor.fetchall() == [("a",)]
        reader.close()


def test_reading_where_there_is_no_journal_creates_none(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


async def test_reading_creates_nothing(tmp_path: Path) -> None:
    await fill(tmp_path, ["a"])
    before = names(tmp_path)
    assert before == {"journal.sqlite", ".gitignore", "reserve"}
    assert set(read(tmp_path) or ()) == {"a"}
    assert names(tmp_path) == before


async def test_reading_a_file_that_still_says_wal_creates_nothing_either(tmp_path: Path) -> None:
    await fill(tmp_path, ["a"])
    connection = sqlite3.connect(file_of(tmp_path))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    before = names(tmp_path)
    assert set(read(tmp_path) or ()) == {"a"}
    assert names(tmp_path) == before


# --- Damage and versions ----------------------------------------------------------------------------------------------


def garbage(content: bytes) -> bytes:
    return b"\x7fELF" + content[4:]


def torn(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + b"\xa5" * (len(content) - half)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [garbage, torn, cut])
async def test_a_damaged_journal_is_moved_away_and_reported(tmp_path: Path, clock: ManualClock, damage) -> None:
    await fill(tmp_path, (f"{number:0100}" for number in range(400)))
    file = file_of(tmp_path)
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    async with Journal.open(tmp_path, clock=clock) as journal:
        assert await journal.entries() == {}
        await journal.put(FULL)
        (aside,) = [name for name in names(tmp_path) if ".damaged-" in name and not name.endswith(("wal", "shm"))]
        assert f"moved to '.bulkdl/{aside}'" in journal.recovered
    assert (file.parent / aside).read_bytes() == damaged
    assert set(read(tmp_path) or ()) == {FULL.id}
    assert integrity(tmp_path) == "ok"


async def test_a_second_damage_in_the_same_second_gets_a_name_of_its_own(tmp_path: Path, clock: ManualClock) -> None:
    for _ in range(2):
        (tmp_path / ".bulkdl").mkdir(exist_ok=True)
        file_of(tmp_path).write_bytes(b"not a database, but long enough to be looked at" * 30)
        async with Journal.open(tmp_path, clock=clock) as journal:
            assert journal.recovered
    assert sum(".damaged-" in name for name in names(tmp_path)) == 2


async def test_a_row_that_makes_no_sense_costs_its_own_history_only(tmp_path: Path, clock: ManualClock) -> None:
    await fill(tmp_path, ["a", "b", "c", "d"])
    with sqlite3.connect(file_of(tmp_path)) as connection:
        connection.execute("UPDATE product SET phase = 'later' WHERE id = 'a'")
        connection.execute("UPDATE product SET ranges = '5-3' WHERE id = 'b'")
        connection.execute("UPDATE product SET note = CAST(x'ff' AS TEXT) WHERE id = 'c'")
    connection.close()
    async with Journal.open(tmp_path, clock=clock) as journal:
        assert set(await journal.entries()) == {"d"}
        assert "3 journal records are unreadable" in journal.recovered
        assert await journal.get("a") is None


async def test_a_journal_from_a_newer_version_stops_the_run_and_is_left_alone(
    tmp_path: Path, clock: ManualClock
) -> None:
    await fill(tmp_path, ["a"])
    with sqlite3.connect(file_of(tmp_path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = file_of(tmp_path).read_bytes()
    with pytest.raises(StorageStopped, match=r"newer bulkdl \(schema 99") as stopped:
        async with Journal.open(tmp_path, clock=clock):
            pass
    assert "Update bulkdl" in stopped.value.hint
    with pytest.raises(StorageStopped, match="newer bulkdl"):
        read(tmp_path)
    assert file_of(tmp_path).read_bytes() == before


STEP_1 = ("CREATE TABLE t (a TEXT)",)
STEP_2 = ("ALTER TABLE t ADD COLUMN b TEXT NOT NULL DEFAULT 'new'", "CREATE INDEX i ON t (b)")


def test_a_database_of_version_1_is_brought_to_version_2_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "db"
    old = open_or_replace(path, steps=(STEP_1,), wal=True, now=0).connection
    old.execute("INSERT INTO t VALUES ('kept')")
    old.close()
    new = open_or_replace(path, steps=(STEP_1, STEP_2), wal=True, now=0).connection
    assert new.execute("SELECT a, b FROM t").fetchall() == [("kept", "new")]
    assert new.execute("PRAGMA user_version").fetchone() == (2,)
    new.close()


def test_a_migration_that_fails_leaves_the_old_version_whole(tmp_path: Path) -> None:
    path = tmp_path / "db"
    open_or_replace(path, steps=(STEP_1,), wal=True, now=0).connection.close()
    with pytest.raises(StorageStopped, match="no such table"):
        open_or_replace(path, steps=(STEP_1, (*STEP_2, "DROP TABLE missing")), wal=True, now=0)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM pragma_table_info('t')").fetchall() == [("a",)]
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()


# --- Where it lies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wal", "mode"), [(True, "wal"), (False, "truncate")])
def test_commits_are_durable_in_both_journal_modes(tmp_path: Path, *, wal: bool, mode: str) -> None:
    connection = open_or_replace(tmp_path / "db", steps=(STEP_1,), wal=wal, now=0).connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == (mode,)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.close()


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/me/local rw - xfs /dev/sdb rw
32 22 0:42 / /mnt/my\\040share rw master:1 - cifs //server/share rw
33 22 0:43 / /scratch rw - lustre 10.0.0.1@tcp:/scratch rw
34 22 0:44 / /remote rw - fuse.sshfs me@host: rw
35 22 0:45 / /usb rw - fuseblk /dev/sdc1 rw
36 22 0:46 / /over rw - nfs server:/over rw
37 36 0:47 / /over rw - tmpfs tmpfs rw
38 22 0:48 / /layers rw - fuse.fuse-overlayfs overlay rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/products", ""),
        ("/home", "nfs4"),
        ("/home/me/products", "nfs4"),
        ("/homework", ""),
        ("/home/me/local/products", ""),
        ("/mnt/my share/x", "cifs"),
        ("/scratch/project/x", "lustre"),
        ("/remote/x", "fuse.sshfs"),
        ("/usb/x", ""),
        ("/over/x", ""),
        ("/layers/x", ""),
    ],
)
def test_the_longest_mount_point_tells_the_file_system(path: str, expected: str) -> None:
    assert network_filesystem(Path(path), MOUNTS) == expected


def test_unusual_lines_of_mountinfo_are_passed_over() -> None:
    assert network_filesystem(Path("/x"), "\nnonsense\n1 2 3 - nfs\n") == ""


async def test_a_read_only_destination_stops_the_run(tmp_path: Path, clock: ManualClock) -> None:
    with read_only(tmp_path / "ro") as place, pytest.raises(StorageStopped, match=r"'.bulkdl'"):
        async with Journal.open(place, clock=clock):
            pass
