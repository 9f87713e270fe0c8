"""Disks that are unmounted, turn read-only, fill up or restrict names: existing data stays correct and recorded."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from bulkdl.demo_server.catalog import Item, Validators
from bulkdl.demo_server.faults import Chunked
from bulkdl.demo_server.generated_files import Kind
from bulkdl.journal import space_reserve
from tests.crash.mounts import disk, exfat, without_privileges
from tests.crash.scene import ended, scene
from tests.crash.test_storage_trouble import MB, RATE, SMALL, enlarge, items, pending, until_said, until_some
from tests.storage.storage_places import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="mounts and capabilities as Linux has them"),
]

LARGE = Item(name="large.bin", size=8 * MB)


@contextmanager
def bound(source: Path, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", str(source), str(place)], check=True)
    try:
        yield place
    finally:
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def take_away(place: Path) -> None:
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_nothing_is_written_below_a_mount_point_whose_disk_was_taken_away(tmp_path: Path):
    """The run stops with a message; once the disk is back, the next run resumes."""
    with mounted(tmp_path / "disk", "size=64m") as there, bound(there, tmp_path / "products") as place_of_it:
        async with scene(tmp_path, items=items(LARGE), rate=RATE) as place:
            process = await place.start("-s", "1", "-j", "2")
            await until_some(place, MB, process)
            take_away(place_of_it)
            done = await ended(process)
            assert done.code == 4, done.err
            assert "unmounted" in done.summary["stopped"] or "mounted" in done.summary["stopped"]
            assert done.summary["products"]["failed"] == 0
            assert list(place_of_it.iterdir()) == []
            with bound(there, place_of_it):
                place.assert_right()
                place.archive.rate = None
                again = await place.run()
                assert again.code == 0, again.err
                assert again.summary["bytes"]["resumed"] > 0 or again.summary["products"]["skipped"] > 0
                place.assert_complete()


async def test_a_disk_that_turns_read_only_on_the_way_stops_the_run(tmp_path: Path):
    """Exit 4 with a reason; the data on disk is correct, and the rest follows once it is writable again."""
    with disk(tmp_path / "disk", size=64 * MB) as broken:
        async with scene(tmp_path, items=items(LARGE), rate=RATE, name="disk/products") as place:
            place.folder = tmp_path
            process = await place.start("-s", "1", "-j", "2")
            await until_some(place, MB, process)
            broken.fail()
            done = await ended(process)
            assert done.code == 4, done.err
            assert "Traceback" not in done.err
            assert done.summary["products"]["failed"] == 0
            broken.unmount()
            assert broken.mount()
            place.assert_right()
            place.archive.rate = None
            assert (await place.run()).code == 0
            place.assert_complete()


async def test_a_destination_that_may_not_be_written_any_more_stops_the_run(tmp_path: Path):
    """No product fails; once the permission is back, everything resumes."""
    async with scene(tmp_path, items=items(LARGE), rate=RATE) as place:
        place.destination.mkdir()
        process = await place.start("-s", "1", "-j", "2", preexec_fn=without_privileges)
        await until_some(place, MB, process)
        place.destination.chmod(0o555)
        try:
            done = await ended(process)
        finally:
            place.destination.chmod(0o755)
        assert done.code == 4, done.err
        assert "permission denied" in done.summary["stopped"]
        assert done.summary["products"]["failed"] == 0
        assert pending(done) > 0
        place.assert_right()
        place.archive.rate = None
        assert (await place.run()).code == 0
        place.assert_complete()


async def test_a_folder_that_may_not_be_written_any_more_fails_its_products_only(tmp_path: Path):
    """The others finish, and downloaded data is kept until the permission is back."""
    async with scene(tmp_path, items=items(Item(name="below.bin", size=14 * MB)), rate=RATE) as place:
        process = await place.start("-s", "1", "-j", "1", preexec_fn=without_privileges)
        await until_some(place, MB, process)
        folder = place.destination / "a" / "b"
        folder.chmod(0o555)
        try:
            done = await ended(process)
        finally:
            folder.chmod(0o755)
        assert done.code == 1, done.err
        (failure,) = done.summary["failures"]
        assert (failure["file"], failure["kind"]) == ("a/b/below.bin", "storage")
        assert "permission denied" in failure["reason"]
        assert place.finished() == {item.name for item in SMALL}
        place.archive.rate = None
        again = await place.run()
        assert again.code == 0, again.err
        assert again.summary["bytes"]["resumed"] >= MB
        place.assert_complete()


@contextmanager
def full(folder: Path, kind: str) -> Iterator[Path]:
    if kind == "memory":
        with mounted(folder, "size=14m") as place:
            yield place
    else:
        with disk(folder, size=16 << 20, block=1024) as made:
            yield made.place


@pytest.mark.parametrize("kind", ["memory", "blocks of 1 KiB"])
async def test_what_arrived_before_the_disk_was_full_is_recorded_to_the_last_block(kind: str, tmp_path: Path):
    """The journal has a space reserve. An index page without a disk block would kill the process."""
    item = Item(name="large.bin", size=30 * MB, validators=Validators.ETAG)
    with full(tmp_path / "disk", kind) as place_of_it:
        async with scene(tmp_path, items=[item], name="disk/products") as place:
            place.folder = tmp_path
            place.archive.faults.add(Chunked(), times=None)
            done = await place.run("-s", "1")
            assert done.code == 4, done.err
            assert "no space left" in done.summary["stopped"]
            part = place.destination / "large.bin.part"
            assert place.durable() >= part.stat().st_size - (2 << 20)
            assert place.durable() >= 8 * MB
            durable = place.durable()
            if kind == "memory":
                enlarge(place_of_it, "64m")
                again = await place.run("-s", "1")
                assert again.code == 0, again.err
                assert again.summary["bytes"]["resumed"] == durable
                assert (place.destination / ".bulkdl" / space_reserve.NAME).stat().st_size == space_reserve.SIZE
                place.assert_complete()


async def test_a_run_can_begin_on_a_disk_that_is_full(tmp_path: Path):
    """It reports a full disk instead of an unusable journal, and recognises finished products."""
    large = Item(name="large.bin", size=9 * MB)
    with mounted(tmp_path / "disk", "size=14m") as there:
        async with scene(tmp_path, items=items(large), name="disk/products") as place:
            place.folder = tmp_path
            place.items = SMALL
            assert (await place.run()).code == 0
            place.items = items(large)
            with suppress(OSError), (there / "ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(65536))
            with suppress(OSError), (there / "rest").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(512))
            done = await place.run()
            assert done.code == 4, done.err
            assert done.summary["products"]["skipped"] == len(SMALL)
            assert "not enough disk space for large.bin" in done.summary["stopped"]


async def test_too_few_open_files_stop_the_run_with_what_to_do(tmp_path: Path):
    """Nothing is lost, and the same command with fewer workers resumes."""
    import resource  # noqa: PLC0415 - not on Windows

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))

    some = tuple(Item(name=f"item-{n}.bin", size=MB // 2, seed=n) for n in range(40))
    async with scene(tmp_path, items=some, rate=RATE) as place:
        done = await place.run("-j", "40", preexec_fn=limit)
        assert done.code == 4, done.err
        assert "too many open files" in done.summary["stopped"]
        assert "ulimit -n" in done.summary["stopped"]
        assert done.summary["products"]["failed"] == 0
        place.assert_right()
        place.archive.rate = None
        again = await place.run("-j", "4", "-s", "1", preexec_fn=limit)
        assert again.code == 0, again.err
        place.assert_complete()


NAMES = (
    "x" * 251 + ".bin",
    "y" * 255,
    "z" * 250,
    "é" * 125 + ".bin",
    "日" * 85,
    unicodedata.normalize("NFD", "Ångström.bin"),
    "trailing dot.",
    "back\\slash.bin",
    "aa:bb?.bin",
)


async def test_names_up_to_the_last_byte_are_used_as_they_are_and_found_again(tmp_path: Path):
    """This includes names whose `NAME.part` is too long for the file system."""
    async with scene(
        tmp_path, items=[Item(name=f"{n}.bin", size=9000 + n, seed=n) for n in range(len(NAMES))]
    ) as place:
        place.extra = {item.name: {"file": name} for item, name in zip(place.items, NAMES, strict=True)}
        done = await place.run()
        assert done.code == 0, done.err
        place.assert_complete()
        asked = len(place.archive.log)
        assert (await place.run()).summary["products"]["skipped"] == len(NAMES)
        assert len(place.archive.log) == asked


@pytest.mark.parametrize("more", ["é" * 128, "x" * 256], ids=["256 bytes of 128 letters", "256 letters"])
async def test_a_name_that_is_a_byte_too_long_is_a_fault_of_the_manifest(more: str, tmp_path: Path):
    async with scene(tmp_path, items=SMALL[:1]) as place:
        place.extra = {SMALL[0].name: {"file": more}}
        done = await place.run()
        assert done.code == 2
        assert "more than 255 bytes" in done.err


async def test_two_spellings_of_one_name_in_unicode_are_a_fault_of_the_manifest(tmp_path: Path):
    async with scene(tmp_path, items=SMALL[:2]) as place:
        forms = [unicodedata.normalize(form, "Ångström.bin") for form in ("NFC", "NFD")]
        place.extra = {item.name: {"file": name} for item, name in zip(place.items, forms, strict=True)}
        done = await place.run()
        assert done.code == 2
        assert "two products for one file" in done.err
        assert place.archive.log == []


async def test_on_a_file_system_without_case_and_hard_links_nothing_is_confused(tmp_path: Path):
    """For two names from the archive, one product is a conflict. A `:` is refused by name. Finished files stay."""
    pair = (Item(name="named-Scene.bin", size=MB, seed=5), Item(name="named-scene.BIN", size=MB, seed=6))
    odd = Item(name="odd.bin", size=1000, seed=7)
    with exfat(tmp_path / "disk", size=64 * MB):
        async with scene(tmp_path, items=items(*pair, odd), name="disk/products") as place:
            place.folder = tmp_path
            place.extra = {odd.name: {"file": "aa:bb.bin"}}
            done = await place.run()
            assert done.code == 1, done.err
            assert {f["kind"] for f in done.summary["failures"]} == {"conflict", "storage"}
            assert any("does not accept the name" in f["reason"] for f in done.summary["failures"])
            assert sum(path.name.lower() == "named-scene.bin" for path in place.destination.iterdir()) == 1
            asked = len(place.archive.log)
            again = await place.run()
            assert again.summary["products"]["skipped"] == len(SMALL) + 1
            assert len(place.archive.log) == asked + 2


async def test_a_product_that_has_no_room_to_be_unpacked_is_unpacked_later(tmp_path: Path):
    """It is downloaded only once and counts as completed."""
    item = Item(name="scene.zip", size=6 * MB, seed=3, kind=Kind.ZIP)
    with mounted(tmp_path / "disk", "size=14m") as there:
        ballast = there / "ballast"
        ballast.write_bytes(bytes(4 * MB))
        async with scene(tmp_path, items=[item], name="disk/products") as place:
            place.folder = tmp_path
            place.extra = {item.name: {"extract": True}}
            process = await place.start("--wait-for-space")
            assert "Could not extract" in await until_said(process, "paused until space is free")
            ballast.unlink()
            done = await ended(process)
            assert done.code == 0, done.err
            assert done.summary["products"]["completed"] == 1
            assert any((place.destination / "scene").iterdir())
            assert len(place.archive.log) == 1
            place.assert_complete()
