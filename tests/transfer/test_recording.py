"""A product has its final name, but the disk is too full for the journal to record it: it is in its place all the same."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.clock import SystemClock
from bulkdl.core.models import RunOptions, Window
from bulkdl.core.stop_request import StopReason, StopSignal
from bulkdl.journal.journal import Journal
from bulkdl.journal.records import Entry, Phase
from bulkdl.storage import batch_files
from bulkdl.transfer import batch_finalize
from tests.harness import Done, HurriedClock, Place, body_of, sha256
from tests.servers import RawRequest, RawServer, Wire, head, ranges, reply
from tests.storage.storage_places import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a disk of its own is mounted")

SMALL, LARGER = 4096, 400_000
WAIT, STOP = RunOptions(wait_for_space=True), RunOptions()


class TightDisk(HurriedClock):
    """Disk in memory that is full as soon as a product has its name, until somebody waits for space."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.fills = True
        self.moves: Callable[[str], object] = lambda _file: None
        self.may_empty: Callable[[], object] = lambda: True
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        (self.folder / "products" / ".bulkdl" / "reserve").unlink(missing_ok=True)
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def empty(self) -> None:
        self.fills = False
        self._ballast.unlink(missing_ok=True)

    async def sleep(self, seconds: float) -> None:
        if seconds > 1 and self.may_empty():
            self.empty()
        await super().sleep(seconds)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TightDisk]:
    with mounted(tmp_path / "disk", "size=16m") as folder:
        found, moved = TightDisk(folder), batch_files._move_one

        def filling(root: Path, part: str, final: str, *arguments: Any, **named: Any) -> Any:
            found.moves(final)
            facts = moved(root, part, final, *arguments, **named)
            if found.fills:
                found.fill()
            return facts

        monkeypatch.setattr(batch_files, "_move_one", filling)
        yield found


class Scene:
    """Products `0.bin`, `1.bin` and so on, all of one size, and runs for them on the disk."""

    def __init__(self, disk: TightDisk, *, size: int, told: str = "file", count: int = 3) -> None:
        self.disk = disk
        self.place = Place(disk.folder)
        self.bodies = {f"{number}.bin": body_of(size, number) for number in range(count)}
        self.server = RawServer(self._serve)
        self._told = told

    async def _serve(self, request: RawRequest, wire: Wire) -> None:
        await ranges(self.bodies[request.path.rpartition("/")[2]])(request, wire)

    def _wanted(self, name: str) -> dict[str, object]:
        body = self.bodies[name]
        told: dict[str, dict[str, object]] = {
            "nothing": {},
            "file": {"file": name},
            "size": {"size": len(body)},
            "checksum": {"file": name, "checksum": sha256(body)},
        }
        return {"url": self.server.url(f"/{name}"), **told[self._told]}

    async def run(self, options: RunOptions, **settings: Any) -> Done:
        return await self.place.run(*map(self._wanted, self.bodies), options=options, clock=self.disk, **settings)

    def fetched(self) -> list[str]:
        return sorted(request.path.rpartition("/")[2] for request in self.server.log)

    def assert_in_place(self) -> None:
        assert {name: self.place.file(name) for name in self.bodies} == self.bodies
        assert self.place.names() == sorted(self.bodies)
        assert {entry.phase for entry in self.place.journal().values()} == {Phase.DONE}


@pytest.mark.parametrize("told", ["nothing", "file", "size", "checksum"])
@pytest.mark.parametrize(("size", "count"), [(SMALL, 3), (LARGER, 1)])
async def test_a_product_whose_end_found_no_room_in_the_journal_is_completed_once_there_is_some(
    disk: TightDisk, size: int, count: int, told: str
):
    scene = Scene(disk, size=size, told=told, count=count)
    async with scene.server:
        done = await scene.run(WAIT)
        assert (done.code, done.result.completed, done.result.written) == (0, count, count * size)
        assert disk.slept
        scene.assert_in_place()
        again = await scene.run(WAIT)
        assert (again.code, again.result.skipped) == (0, count)
        assert scene.fetched() == sorted(scene.bodies)


@pytest.mark.parametrize("told", ["nothing", "file", "size", "checksum"])
@pytest.mark.parametrize(("size", "count"), [(SMALL, 3), (LARGER, 1)])
async def test_a_run_that_does_not_wait_for_room_stops_and_the_next_one_finds_the_product_in_its_place(
    disk: TightDisk, size: int, count: int, told: str
):
    scene = Scene(disk, size=size, told=told, count=count)
    async with scene.server:
        done = await scene.run(STOP)
        assert (done.code, done.result.failed, done.result.pending) == (4, 0, count)
        assert {name: scene.place.file(name) for name in scene.bodies} == scene.bodies
        disk.empty()
        again = await scene.run(STOP)
        assert (again.code, again.result.skipped) == (0, count)
        assert scene.fetched() == sorted(scene.bodies)
        scene.assert_in_place()


@pytest.mark.parametrize("size", [SMALL, LARGER])
async def test_beside_a_product_that_waits_to_be_recorded_a_foreign_file_is_in_the_way_as_ever(
    disk: TightDisk, size: int
):
    scene = Scene(disk, size=size, count=2)
    foreign = scene.place.root / "1.bin"
    disk.moves = lambda file: foreign.touch() if file == "1.bin" else None
    async with scene.server:
        done = await scene.run(WAIT)
    assert (done.failure[0], scene.place.file("1.bin")) == ("conflict", b"")
    assert (done.code, done.result.completed, scene.place.file("0.bin")) == (1, 1, scene.bodies["0.bin"])


async def test_a_file_that_came_while_there_was_no_room_to_record_the_move_is_in_the_way(
    disk: TightDisk, monkeypatch: pytest.MonkeyPatch
):
    scene, write = Scene(disk, size=SMALL, count=1), batch_finalize.write_whole

    def filling(*arguments: Any, **named: Any) -> Any:
        facts = write(*arguments, **named)
        if disk.fills:
            disk.fill()
        return facts

    def comes() -> bool:
        (scene.place.root / "0.bin").touch()
        return True

    monkeypatch.setattr(batch_finalize, "write_whole", filling)
    disk.may_empty = comes
    async with scene.server:
        done = await scene.run(WAIT)
    assert (done.code, done.failure[0], scene.place.file("0.bin")) == (1, "conflict", b"")


async def test_what_has_its_name_is_recorded_as_soon_as_there_is_room_also_outside_the_daily_window(disk: TightDisk):
    scene, now = Scene(disk, size=LARGER, count=1), datetime.now().astimezone()
    window = Window((now - timedelta(minutes=1)).time(), (now + timedelta(minutes=1)).time())
    disk.may_empty = lambda: len(disk.slept) >= 60
    async with scene.server:
        done = await scene.run(WAIT, window=window)
    assert (done.code, done.result.completed) == (0, 1)
    assert 60 < done.result.elapsed_s < 3600


async def leave_behind(place: Place, file: str, *, folder: bool = False) -> None:
    """Leave a partial of a product that is no longer in the manifest; `folder`: one that cannot be removed."""
    place.root.mkdir()
    left = place.root / f"{file}.part"
    left.mkdir() if folder else left.write_bytes(bytes(10))
    async with Journal.open(place.root, clock=SystemClock()) as journal:
        entry = Entry(id="url:gone", phase=Phase.PARTIAL, file=file, ranges=((0, 10),), part=left.name)
        await journal.put(entry)


@pytest.mark.parametrize("size", [SMALL, LARGER])
async def test_what_a_renewed_url_left_is_removed_once_there_is_room_and_the_products_stay_completed(
    disk: TightDisk, size: int, monkeypatch: pytest.MonkeyPatch
):
    scene, disk.fills, forget = Scene(disk, size=size), False, Journal.forget
    await leave_behind(scene.place, "0.bin")

    async def filling(self: Journal, id: str) -> None:  # noqa: A002
        if not disk.slept:
            disk.fill()
        await forget(self, id)

    monkeypatch.setattr(Journal, "forget", filling)
    async with scene.server:
        done = await scene.run(WAIT)
    assert (done.code, done.result.completed) == (0, 3)
    assert disk.slept
    scene.assert_in_place()


@pytest.mark.parametrize("size", [SMALL, LARGER])
async def test_what_a_renewed_url_left_and_cannot_be_removed_is_no_failure_of_the_products(disk: TightDisk, size: int):
    scene, disk.fills = Scene(disk, size=size), False
    await leave_behind(scene.place, "0.bin", folder=True)
    async with scene.server:
        done = await scene.run(STOP)
    assert (done.code, done.result.completed) == (0, 3)
    scene.assert_in_place()


@pytest.mark.parametrize("size", [SMALL, LARGER])
async def test_a_partial_that_a_full_disk_keeps_beside_its_final_name_is_removed_once_there_is_room(
    disk: TightDisk, size: int, monkeypatch: pytest.MonkeyPatch
):
    """Some file systems need space to remove a name."""
    scene, unlink = Scene(disk, size=size, count=1), os.unlink

    def without_room(path: Any, *arguments: Any, **named: Any) -> None:
        if str(path).endswith("0.bin.part") and not disk.slept:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        unlink(path, *arguments, **named)

    disk.fills = False
    monkeypatch.setattr(os, "unlink", without_room)
    async with scene.server:
        done = await scene.run(WAIT)
    assert (done.code, done.result.completed) == (0, 1)
    assert disk.slept
    assert scene.fetched() == ["0.bin"]
    scene.assert_in_place()


async def test_a_failure_for_which_the_journal_has_no_room_is_recorded_once_there_is_some(disk: TightDisk):
    scene, disk.fills = Scene(disk, size=SMALL, told="size", count=2), False

    async def missing(request: RawRequest, wire: Wire) -> None:
        if not disk.slept:
            disk.fill()
        await reply(404)(request, wire)

    scene.server = RawServer(missing, missing, missing, ranges(scene.bodies["1.bin"]))
    async with scene.server:
        done = await scene.run(WAIT, workers=1)
    assert (done.code, done.failure[0], done.result.completed) == (1, "http", 1)
    assert disk.slept
    assert {entry.phase for entry in scene.place.journal().values()} == {Phase.FAILED, Phase.DONE}


@pytest.mark.parametrize("options", [WAIT, STOP], ids=["waiting for room", "not waiting"])
async def test_a_run_that_is_stopped_ends_also_when_there_is_no_room_to_record_what_has_come(
    disk: TightDisk, options: RunOptions
):
    """Any worker may find the disk full: the others have ended by then, and nobody would wake it."""
    scene, stop, waiting = Scene(disk, size=LARGER, count=2), StopSignal(), 0

    async def half(request: RawRequest, wire: Wire) -> None:
        nonlocal waiting
        body = scene.bodies[request.path.rpartition("/")[2]]
        await wire.send(head(200, ("Content-Length", len(body)), ("ETag", '"1"'), ("Accept-Ranges", "bytes")))
        await wire.send(body[: LARGER // 2])
        while not (scene.place.part(request.path.rpartition("/")[2]) or b""):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.01)
        waiting += 1
        if waiting == len(scene.bodies):
            disk.fill()
            stop.request(StopReason.SIGINT)
        await wire.hang()

    scene.server, disk.may_empty = RawServer(half), lambda: False
    async with scene.server:
        done = await scene.run(options, stop=stop)
    assert (done.code, done.result.pending) == (130, 2)
