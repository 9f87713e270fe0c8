"""Full, missing, read-only or size-limited disks: products that fit are finished, the others resume later."""

# ruff: noqa: ASYNC110 - another process can only be observed by polling

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from bulkdl.core.clock import SystemClock
from bulkdl.demo_server.catalog import Item, Validators
from bulkdl.demo_server.faults import Chunked
from bulkdl.journal.journal import Journal
from bulkdl.journal.records import Entry, Phase
from tests.crash.scene import PATIENCE_S, Done, ended, scene
from tests.storage.storage_places import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.scene import Scene

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has other trouble"),
]

MB = 1_000_000
RATE = 4_000_000
LOOK_S = 2.0
SMALL = tuple(Item(name=f"small-{n}.bin", size=MB // 2, seed=n) for n in range(4))


def items(*large: Item) -> tuple[Item, ...]:
    return (*large, *SMALL)


def enlarge(mount: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(mount)], check=True)


async def until_said(process: asyncio.subprocess.Process, words: str) -> str:
    """Return the standard error of the process up to `words`."""
    assert process.stderr is not None
    said = ""
    async with asyncio.timeout(PATIENCE_S):
        while words not in said:
            line = await process.stderr.readline()
            assert line, f"it ended without saying '{words}', but:\n{said}"
            said += line.decode()
    return said


async def until_some(place: Scene, count: int, process: asyncio.subprocess.Process) -> None:
    """Wait until this many bytes are recorded as durable."""
    while place.durable() < count:
        assert process.returncode is None
        await asyncio.sleep(0.01)


def pending(done: Done) -> int:
    return int(done.summary["products"]["pending"])


@pytest.mark.parametrize("told", [True, False], ids=["sizes known", "sizes unknown"])
async def test_on_a_full_disk_what_fits_is_finished_and_the_rest_goes_on_later(told, tmp_path: Path):
    """Exit 4, downloaded data is kept; once space is free, the same command resumes."""
    large = (Item(name="large-1.bin", size=9 * MB), Item(name="large-2.bin", size=8 * MB, seed=1))
    with mounted(tmp_path / "disk", "size=14m") as disk:
        async with scene(tmp_path, items=items(*large), rate=RATE, name="disk/products") as place:
            place.folder = tmp_path
            if not told:
                place.archive.faults.add(Chunked(), item="large-*", times=None)
            done = await place.run()
            assert done.code == 4, done.err
            assert {item.name for item in SMALL} <= place.finished()
            assert pending(done) >= 1
            assert done.summary["products"]["failed"] == 0
            assert "disk space" in done.summary["stopped"] or "no space left" in done.summary["stopped"]
            place.assert_right()
            enlarge(disk, "64m")
            place.archive.rate = None
            again = await place.run()
            assert again.code == 0, again.err
            place.assert_complete()
            assert all(len(place.archive.requests(item.name)) == 1 for item in SMALL)


async def test_with_wait_for_space_a_run_pauses_and_goes_on_when_there_is_room(tmp_path: Path):
    """It reports the wait and the resumption, and succeeds without another command."""
    large = (Item(name="large-1.bin", size=9 * MB),)
    with mounted(tmp_path / "disk", "size=14m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(6 * MB))
        async with scene(tmp_path, items=items(*large), name="disk/products") as place:
            process = await place.start("--wait-for-space")
            said = await until_said(process, "paused until space is free")
            assert "not enough disk space for large-1.bin" in said
            while place.finished() != {item.name for item in SMALL}:
                await asyncio.sleep(0.01)
            assert process.returncode is None
            ballast.unlink()
            done = await ended(process)
            assert done.code == 0, done.err
            assert "space available again: large-1.bin resumed" in done.err
            place.assert_complete()


async def test_a_product_of_unknown_size_is_not_asked_for_while_there_is_little_room(tmp_path: Path):
    """While the disk stays full, the archive gets one request, not one every two seconds."""
    item = Item(name="large.bin", size=9 * MB, validators=Validators.NONE)
    with mounted(tmp_path / "disk", "size=6m") as disk:
        async with scene(tmp_path, items=[item], name="disk/products") as place:
            place.archive.faults.add(Chunked(), times=None)
            process = await place.start("--wait-for-space", "-v")
            await until_said(process, "paused until space is free")
            await asyncio.sleep(3 * LOOK_S)  # that nothing happens can only be seen by looking for a while
            assert len(place.archive.log) == 1
            enlarge(disk, "128m")
            done = await ended(process)
            assert done.code == 0, done.err
            place.assert_complete()
            assert len(place.archive.log) == 2


async def test_a_run_that_waits_for_room_can_be_interrupted(tmp_path: Path):
    """It ends at once, with the exit code of the signal."""
    with mounted(tmp_path / "disk", "size=8m"):
        async with scene(tmp_path, items=[Item(name="large.bin", size=9 * MB)], name="disk/products") as place:
            process = await place.start("--wait-for-space")
            await until_said(process, "paused until space is free")
            process.send_signal(signal.SIGINT)
            assert (await ended(process)).code == 130


@contextmanager
def immutable(folder: Path) -> Iterator[None]:
    """Make `folder` immutable, even for root."""
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", str(folder)], check=False).returncode:
        pytest.skip("folders cannot be made immutable here")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)


async def test_permission_that_is_lost_on_the_way_stops_the_run_or_its_products(tmp_path: Path):
    """No wrong file is left, the reason is named, and downloaded data is kept until the permission is back."""
    item = Item(name="large.bin", size=8 * MB)
    async with scene(tmp_path, items=[item], rate=RATE) as place:
        process = await place.start("-s", "1")
        await until_some(place, MB, process)
        with immutable(place.destination):
            done = await ended(process)
        assert done.code in (1, 4)
        assert "permission" in done.out
        assert "Traceback" not in done.err
        place.assert_right()
        sent = place.archive.bytes_sent
        place.archive.rate = None
        again = await place.run()
        assert again.code == 0, again.err
        place.assert_complete()
        assert place.archive.bytes_sent - sent < 2 * MB


async def test_a_destination_that_vanishes_stops_the_run_and_is_not_created_again(tmp_path: Path):
    """A new folder in its place would be on another disk; once the disk is back, the run resumes."""
    async with scene(tmp_path, items=items(Item(name="large.bin", size=8 * MB)), rate=RATE) as place:
        process = await place.start("-s", "1", "-j", "2")
        await until_some(place, MB, process)
        elsewhere = tmp_path / "elsewhere"
        place.destination.rename(elsewhere)
        done = await ended(process)
        assert done.code == 4, done.err
        assert "Traceback" not in done.err
        assert not place.destination.exists()
        elsewhere.rename(place.destination)
        place.assert_right()
        place.archive.rate = None
        again = await place.run()
        assert again.code == 0, again.err
        place.assert_complete()


async def test_a_file_where_a_folder_must_be_fails_that_product_only(tmp_path: Path):
    """The message says what to do; the file stays, and the other products finish."""
    async with scene(tmp_path, items=items(Item(name="below.bin", size=MB))) as place:
        place.destination.mkdir()
        (place.destination / "a").write_text("mine")
        done = await place.run()
        assert done.code == 1
        (failure,) = done.summary["failures"]
        assert (failure["file"], failure["kind"]) == ("a/b/below.bin", "storage")
        assert "a file is where a folder is needed" in failure["reason"]
        assert (place.destination / "a").read_text() == "mine"
        assert {item.name for item in SMALL} <= place.finished()


async def test_names_that_differ_in_case_only_never_share_a_file(tmp_path: Path):
    """This holds on every file system, because the destination may be moved to one without case."""
    pair = (Item(name="Scene.bin", size=MB, seed=1), Item(name="scene.BIN", size=MB, seed=2))
    async with scene(tmp_path, items=pair) as place:
        done = await place.run()
        assert done.code in (1, 2)
        place.assert_right()
        assert len(place.finished()) < 2


async def test_a_file_that_the_system_does_not_let_grow_fails_that_product_only(tmp_path: Path):
    """A process limit simulates a file system limited to 4 GiB: not a byte of the product is downloaded."""
    import resource  # noqa: PLC0415 - not on Windows

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MB, 4 * MB))

    async with scene(tmp_path, items=items(Item(name="large.bin", size=6 * MB))) as place:
        done = await place.run(preexec_fn=limit)
        assert done.code == 1, done.err
        (failure,) = done.summary["failures"]
        assert (failure["file"], failure["kind"]) == ("large.bin", "storage")
        assert "larger than this file system" in failure["reason"]
        assert done.summary["bytes"]["received"] == sum(item.size for item in SMALL)
        assert place.finished() == {item.name for item in SMALL}
        assert (await place.run()).code == 0
        place.assert_complete()


async def test_a_product_of_more_than_4_gib_is_continued_beyond_that_and_placed(tmp_path: Path):
    """Several connections are used; the existing part is a hole in the file and needs no disk space."""
    size, there = (4 << 30) + 12 * MB, (4 << 30) - 8 * MB
    item = Item(name="huge.bin", size=size, seed=9, validators=Validators.ETAG)
    async with scene(tmp_path, items=[item], rate=RATE) as place:
        place.destination.mkdir()
        part = place.destination / "huge.bin.part"
        part.touch()
        os.truncate(part, there)
        async with Journal.open(place.destination, clock=SystemClock()) as journal:
            await journal.put(
                Entry(
                    id=item.name,
                    phase=Phase.PARTIAL,
                    file=item.name,
                    source=place.archive.url(item),
                    total=size,
                    etag=item.etag,
                    ranges=((0, there),),
                    part=part.name,
                )
            )
        done = await place.run("-s", "4")
        assert done.code == 0, done.err
        assert done.summary["bytes"]["resumed"] == there
        assert len(place.archive.requests(item)) > 1
        with place.final(item).open("rb") as file:
            file.seek(there)
            assert file.read() == item.read(there)
        assert place.final(item).stat().st_size == size
