"""Signals, a concurrent second run, and recovery after a killed run."""

# ruff: noqa: ASYNC110 - another process can only be observed by polling

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import statistics
import sys
import time
from typing import TYPE_CHECKING

import pytest

from bulkdl.demo_server.catalog import Item
from bulkdl.demo_server.faults import Stall
from tests.crash.scene import ended, scene
from tests.effort import effort

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.scene import Scene

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals"),
]

RATE = 1_500_000
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


async def until_bytes(place: Scene, process: asyncio.subprocess.Process, count: int) -> None:
    """Wait until the archive has sent this many more bytes, or the process has ended."""
    goal = place.archive.bytes_sent + count
    while place.archive.bytes_sent < goal and process.returncode is None:
        await asyncio.sleep(0.002)


LANES = effort(1, 4)
"""Destinations, with two signals in each."""


@pytest.mark.thorough
async def test_a_signal_at_any_moment_saves_everything_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The first signal ends the run with its exit code and a summary; downloaded data is not downloaded again."""
    rng, took, again = random.Random(5), [], []
    for lane in range(LANES):
        async with scene(tmp_path, rate=RATE, name=f"products-{lane}") as place:
            while place.finished() != {item.name for item in place.items} and len(took) < 2 * (lane + 1):
                which = list(CODES)[len(took) % 2]
                sent, known = place.archive.bytes_sent, place.durable()
                process = await place.start()
                await until_bytes(place, process, rng.randrange(1, 6_000_000))
                if process.returncode is None:
                    process.send_signal(which)
                began = time.monotonic()
                done = await ended(process)
                place.assert_right()
                if done.code == 0:  # it was faster than the signal
                    continue
                took.append(time.monotonic() - began)
                again.append(place.archive.bytes_sent - sent - (place.durable() - known))
                assert done.code == CODES[which], done.err
                assert done.summary["exit_code"] == CODES[which]
                assert done.summary["stopped"] == f"interrupted by {which.name}; run the same command to resume"
                assert done.summary["products"]["failed"] == 0
                assert "Traceback" not in done.err
            place.archive.rate = None
            done = await place.run()
            assert done.code == 0, done.err
            place.assert_complete()
    with capsys.disabled():
        print(  # noqa: T201 - measured figures
            f"\n{len(took)} signals: left after {statistics.median(took):.2f} s (median), {max(took):.2f} s (worst); sent "
            f"again {statistics.median(again) / 1e6:.2f} MB (median), {max(again) / 1e6:.2f} MB (worst)"
        )
    # Only bytes in sockets and buffers at the time of the signal are lost; all others were on disk.
    assert statistics.median(again) < 8_000_000


async def test_a_second_signal_leaves_at_once_and_loses_only_what_was_not_durable(tmp_path: Path):
    """This works even if the process is blocked and cannot obey the first signal."""
    async with scene(tmp_path, rate=RATE) as place:
        process = await place.start()
        await until_bytes(place, process, 2_000_000)
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        done = await ended(process)
        assert done.code in CODES.values()
        assert "Stopping" in done.err
        place.assert_right()
        place.archive.rate = None
        assert (await place.run()).code == 0
        place.assert_complete()


async def test_a_signal_ends_a_run_whose_archive_says_nothing_more(tmp_path: Path):
    """A stalled connection does not delay the end, and its bytes are kept."""
    item = Item(name="stalled.bin", size=3_000_000)
    async with scene(tmp_path, items=[item]) as place:
        place.archive.faults.add(Stall(after=2_000_000), times=None)
        process = await place.start("-s", "1")
        await until_bytes(place, process, 2_000_000)
        while place.durable() < 2_000_000:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        done = await ended(process)
        assert done.code == 130
        assert done.summary["products"]["pending"] == 1
        entry = place.entry(item)
        assert entry is not None
        assert entry.ranges == ((0, 2_000_000),)


async def test_a_second_run_on_the_destination_is_refused_by_name(tmp_path: Path):
    """It names the process, host and start time of the owner, and changes nothing."""
    async with scene(tmp_path, rate=RATE) as place:
        first = await place.start()
        await until_bytes(place, first, 100_000)
        second = await place.run()
        assert second.code == 4
        owner = json.loads((place.destination / ".bulkdl" / "owner.json").read_text())
        assert f"process {first.pid} on {socket.gethostname()}, since {owner['since']}" in second.summary["stopped"]
        place.archive.rate = None
        assert (await ended(first)).code == 0
        place.assert_complete()


async def test_the_lock_of_a_killed_run_is_taken_over_and_that_is_said(tmp_path: Path):
    """The next run names the interrupted process."""
    async with scene(tmp_path, rate=RATE) as place:
        first = await place.start()
        await until_bytes(place, first, 1_000_000)
        first.kill()
        await ended(first)
        place.archive.rate = None
        done = await place.run()
        assert done.code == 0
        assert f"the previous run (process {first.pid} on {socket.gethostname()}" in done.err
        place.assert_complete()
        assert "was interrupted" not in (await place.run()).err


# --- A damaged journal ------------------------------------------------------------------------------------------------


def flip(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    for _ in range(200):
        raw[rng.randrange(len(raw))] ^= 1 + rng.randrange(255)
    path.write_bytes(raw)


def cut(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(1, path.stat().st_size))


def overwrite(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(path.stat().st_size))


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def without_log(path: Path, rng: random.Random) -> None:
    path.with_name(f"{path.name}-wal").unlink(missing_ok=True)


@pytest.mark.parametrize("harm", [flip, cut, overwrite, delete, empty, without_log])
async def test_a_damaged_journal_costs_history_and_no_finished_product(harm, tmp_path: Path):
    """Products with a size or checksum in the manifest are recognised; for others, the archive gives the size."""
    items = [
        Item(name="sized.bin", size=400_000, seed=1),
        Item(name="summed.bin", size=400_000, seed=2),
        Item(name="unknown.bin", size=400_000, seed=3),
        Item(name="later.bin", size=6_000_000, seed=4),
    ]
    async with scene(tmp_path, items=items) as place:
        place.extra = {
            "sized.bin": {"size": 400_000},
            "summed.bin": {"checksum": f"md5:{items[1].digest()}"},
        }
        place.archive.faults.add(Stall(after=3_000_000), item="later.bin", times=None)
        process = await place.start("-s", "1")
        while len(place.finished()) < 3 or place.durable() < 1_200_000 + 2_000_000:
            await asyncio.sleep(0.01)
        process.kill()
        await ended(process)
        harm(place.destination / ".bulkdl" / "journal.sqlite", random.Random(1))
        place.archive.faults = type(place.archive.faults)()
        before = place.archive.bytes_sent
        done = await place.run("-s", "1")
        assert done.code == 0, done.err
        place.assert_complete()
        assert place.archive.bytes_sent - before <= 6_100_000
        for name in ("sized.bin", "summed.bin", "unknown.bin"):
            assert all(r.method == "HEAD" or r.bytes_sent == 400_000 for r in place.archive.requests(name))
            assert len(place.archive.requests(name)) == 1
        if harm in (overwrite, cut):
            assert "The journal was damaged and moved to" in done.err
