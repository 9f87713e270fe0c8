"""The journal on a nearly full disk: space reserve, no shared index, nothing lost in a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from bulkdl.core.clock import SystemClock
from bulkdl.journal.journal import Journal
from bulkdl.journal.reader import read
from bulkdl.journal.records import Entry, Phase
from bulkdl.journal.space_reserve import NAME, SIZE, STEP, SpaceReserve
from tests.storage.storage_places import mounted

if TYPE_CHECKING:
    from pathlib import Path

CUT_SHORT = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = TRUNCATE")
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
connection.execute("UPDATE product SET note = ?", ("x" * 3000,))
os.kill(os.getpid(), signal.SIGKILL)
"""


def fill(path: Path) -> None:
    """Fill the disk completely."""
    for size in (1 << 16, 1 << 12, 1):
        with suppress(OSError), path.with_name(f"{path.name}-{size}").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(size))


def test_the_reserve_is_released_step_by_step_and_refilled(tmp_path: Path) -> None:
    reserve, path = SpaceReserve(tmp_path), tmp_path / NAME
    reserve.refill()
    assert path.stat().st_size == SIZE
    assert path.stat().st_blocks * 512 >= SIZE
    given = 0
    while reserve.release_step():
        given += STEP
        assert (path.stat().st_size if path.exists() else 0) == SIZE - given
    assert given == SIZE
    assert not path.exists()
    reserve.refill()
    assert path.stat().st_size == SIZE


def test_no_reserve_is_created_if_little_space_is_free(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=2m") as place:
        SpaceReserve(place).refill()
        assert list(place.iterdir()) == []


def test_a_read_only_folder_has_no_reserve_and_no_error(tmp_path: Path) -> None:
    reserve = SpaceReserve(tmp_path / "missing")
    reserve.refill()
    assert not reserve.release_step()


async def test_on_a_disk_without_a_byte_the_journal_still_records(tmp_path: Path) -> None:
    """The reserve provides the space, and the next run finds the records."""
    with mounted(tmp_path / "disk", "size=8m") as place:
        async with Journal.open(place, clock=SystemClock()) as journal:
            await journal.put(Entry(id="first", phase=Phase.DONE))
            await journal.entries()
            fill(place / "ballast")
            for number in range(200):
                await journal.put(Entry(id=f"{number}", phase=Phase.DONE, note="x" * 500))
        found = read(place)
        assert found is not None
        assert len(found) == 201
        assert (place / ".bulkdl" / NAME).stat().st_size < SIZE


async def test_with_little_free_space_the_journal_uses_no_write_ahead_log(tmp_path: Path) -> None:
    """An index page without a disk block would kill the process by a signal; readers still work."""
    with mounted(tmp_path / "disk", "size=8m") as place:
        async with Journal.open(place, clock=SystemClock()) as journal:
            await journal.put(Entry(id="first", phase=Phase.DONE))
            assert not list((place / ".bulkdl").glob("*-shm"))
            assert not list((place / ".bulkdl").glob("*-wal"))
            assert set(read(place) or ()) == {"first"}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_a_journal_that_was_cut_short_in_a_commit_is_read_as_it_was_before(tmp_path: Path) -> None:
    """The reader must not roll it back; only the next run may."""
    async with Journal.open(tmp_path, clock=SystemClock()) as journal:
        for number in range(300):
            journal.put_unsynced(Entry(id=f"{number}", phase=Phase.DONE, note="before"))
    path = tmp_path / ".bulkdl" / "journal.sqlite"
    killed = subprocess.run([sys.executable, "-c", CUT_SHORT, str(path)], check=False)  # noqa: ASYNC221
    assert killed.returncode == -signal.SIGKILL
    hot = path.with_name(f"{path.name}-journal")
    assert hot.stat().st_size
    before = sorted(os.listdir(path.parent)), hot.read_bytes(), path.read_bytes()  # noqa: PTH208
    assert {entry.note for entry in (read(tmp_path) or {}).values()} == {"before"}
    assert (sorted(os.listdir(path.parent)), hot.read_bytes(), path.read_bytes()) == before  # noqa: PTH208
    async with Journal.open(tmp_path, clock=SystemClock()) as journal:
        assert {entry.note for entry in (await journal.entries()).values()} == {"before"}
