"""Partials have the right path, and become files by an atomic move that replaces nothing without permission."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.models import FailureKind
from bulkdl.storage.destination import Storage
from bulkdl.storage.file_info import FileFacts, look_at
from tests.storage.storage_places import make_link, mounted, names, read_only

# --- Partials ---------------------------------------------------------------------------------------------------------


async def test_a_file_where_a_folder_must_be_fails_the_product(tmp_path: Path) -> None:
    (tmp_path / "sub").write_text("a file")
    async with Storage(tmp_path) as storage:
        with pytest.raises(ProductFailed, match=r"'sub/deep/x.part': a file is"):
            async with storage.open_partial("sub/deep/x.part"):
                pass


async def test_a_destination_that_is_gone_is_not_made_again_in_the_middle_of_a_run(tmp_path: Path) -> None:
    async with Storage(tmp_path / "usb") as storage:
        await storage.prepare()
        (tmp_path / "usb").rmdir()
        with pytest.raises(StorageStopped, match="it no longer exists"):
            async with storage.open_partial("a/x.part"):
                pass
    assert not (tmp_path / "usb").exists()


# --- Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "taken", "beside"),
    [
        ("a/b.zip", "", True),
        ("a/b.zip", "a/b.zip.part", False),
        ("n" * 250, "", True),
        ("n" * 251, "", False),
        ("é" * 125, "", True),
        ("é" * 126, "", False),
        (f"{'d' * 250}/{'e' * 250}/f", "", True),
    ],
)
def test_the_partial_is_beside_its_file_unless_that_name_cannot_be(
    tmp_path: Path,
    file: str,
    taken: str,
    beside: bool,  # noqa: FBT001
) -> None:
    name = Storage(tmp_path).partial(file, "the-id", taken=lambda other: other == taken)
    assert (name == f"{file}.part") == beside
    if not beside:
        assert name.startswith(".bulkdl/partials/")
        assert name != Storage(tmp_path).partial(file, "another-id", taken=lambda other: other == taken)
        assert name == Storage(tmp_path).partial(file, "the-id", taken=lambda other: other == taken)


@pytest.mark.parametrize(
    "file", ["", "/etc/passwd", "../x", "a/../../x", ".bulkdl/journal.sqlite", ".BULKDL/x", "a\0b", "."]
)
def test_no_product_gets_a_name_outside_the_destination_or_among_our_own_files(tmp_path: Path, file: str) -> None:
    with pytest.raises(ProductFailed, match="cannot be the file name of a product"):
        Storage(tmp_path).final(file)


def test_a_file_goes_under_the_destination(tmp_path: Path) -> None:
    assert Storage(tmp_path).final("a/b c.zip") == tmp_path / "a" / "b c.zip"


# --- The destination --------------------------------------------------------------------------------------------------


async def test_preparing_creates_the_destination_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    async with Storage(root) as storage:
        await storage.prepare()
        await storage.prepare()
    assert names(root) == []


async def test_a_file_in_the_place_of_the_destination_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "dest").write_text("a file")
    async with Storage(tmp_path / "dest") as storage:
        with pytest.raises(StorageStopped, match="Could not write to the destination"):
            await storage.prepare()


async def test_a_read_only_destination_stops_the_run(tmp_path: Path) -> None:
    with read_only(tmp_path / "ro") as place:
        async with Storage(place) as storage:
            with pytest.raises(StorageStopped, match=r"the destination .* (read-only|permission denied)"):
                await storage.prepare()


async def test_stat_tells_files_from_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    names = ["file", "folder", "link", "dangling", "missing", "file/below", "n" * 300]
    found = list(look_at(tmp_path, names).values())
    async with Storage(tmp_path) as storage:
        assert [await storage.stat(tmp_path / name) for name in names] == found
    assert [None if facts is None else facts.is_file for facts in found] == [True, False, True, False, None, None, None]
    assert found[0] == found[2] == FileFacts(3, (tmp_path / "file").stat().st_mtime_ns, is_file=True)


async def test_removing_what_is_missing_is_fine(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    async with Storage(tmp_path) as storage:
        await storage.remove(tmp_path / "x")
        await storage.remove(tmp_path / "x")
        await storage.sync_folder(tmp_path)
    assert names(tmp_path) == []


# --- Placing ----------------------------------------------------------------------------------------------------------


def partial_file(root: Path, content: bytes = b"new", name: str = "x.part") -> Path:
    path = root / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("overwrite", [False, True])
async def test_placing_moves_the_partial_and_tells_its_facts(tmp_path: Path, overwrite: bool) -> None:  # noqa: FBT001
    part = partial_file(tmp_path)
    before = part.stat()
    async with Storage(tmp_path) as storage:
        facts = await storage.place(part, tmp_path / "a/b/x", overwrite=overwrite)
    assert facts == FileFacts(3, before.st_mtime_ns, is_file=True)
    assert (tmp_path / "a/b/x").read_bytes() == b"new"
    assert (tmp_path / "a/b/x").stat().st_nlink == 1
    assert not part.exists()


def old_file(path: Path) -> None:
    path.write_bytes(b"old")


@pytest.mark.parametrize("make", [old_file, Path.mkdir, make_link], ids=["file", "folder", "dangling-link"])
async def test_placing_never_replaces_what_is_there(tmp_path: Path, make) -> None:
    make(tmp_path / "x")
    before = (tmp_path / "x").lstat()
    async with Storage(tmp_path) as storage:
        with pytest.raises(ProductFailed, match="'x' already exists") as failed:
            await storage.place(partial_file(tmp_path), tmp_path / "x", overwrite=False)
    assert failed.value.kind is FailureKind.CONFLICT
    assert "--overwrite" in failed.value.hint
    assert (tmp_path / "x").lstat() == before
    assert (tmp_path / "x.part").read_bytes() == b"new"


@pytest.mark.parametrize("make", [old_file, make_link], ids=["file", "dangling-link"])
async def test_placing_replaces_a_file_or_a_link_when_asked_to(tmp_path: Path, make) -> None:
    make(tmp_path / "x")
    async with Storage(tmp_path) as storage:
        await storage.place(partial_file(tmp_path), tmp_path / "x", overwrite=True)
    assert not (tmp_path / "x").is_symlink()
    assert (tmp_path / "x").read_bytes() == b"new"
    assert not (tmp_path / "target").exists()


async def test_a_folder_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    async with Storage(tmp_path) as storage:
        with pytest.raises(ProductFailed, match="a folder with this name is in the way"):
            await storage.place(partial_file(tmp_path), tmp_path / "x", overwrite=True)
    assert (tmp_path / "x.part").exists()


async def test_of_concurrent_moves_to_one_name_exactly_one_succeeds(tmp_path: Path) -> None:
    parts = [partial_file(tmp_path, bytes([n]), f"{n}.part") for n in range(16)]
    async with Storage(tmp_path) as storage:
        results = await asyncio.gather(
            *(storage.place(part, tmp_path / "x", overwrite=False) for part in parts), return_exceptions=True
        )
    won = [n for n, result in enumerate(results) if isinstance(result, FileFacts)]
    assert len(won) == 1
    assert (tmp_path / "x").read_bytes() == bytes(won)
    assert all(part.exists() for n, part in enumerate(parts) if n not in won)


async def test_a_move_that_a_crash_cut_in_two_is_finished(tmp_path: Path) -> None:
    part = partial_file(tmp_path)
    os.link(part, tmp_path / "x")
    async with Storage(tmp_path) as storage:
        assert (await storage.place(part, tmp_path / "x", overwrite=False)).size == 3
    assert names(tmp_path) == ["x"]


async def test_a_partial_that_vanished_is_named(tmp_path: Path) -> None:
    async with Storage(tmp_path) as storage:
        with pytest.raises(ProductFailed, match=r"Could not move 'x.part': it no longer exists"):
            await storage.place(tmp_path / "x.part", tmp_path / "x", overwrite=False)


async def test_a_linked_folder_may_not_lead_out_of_the_destination(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "out").symlink_to(outside)
    part = partial_file(root)
    async with Storage(root) as storage:
        with pytest.raises(ProductFailed, match="'out/deep' is a link that leads out") as failed:
            await storage.place(part, root / "out/deep/x", overwrite=False)
        with pytest.raises(ProductFailed, match="'out' is a link that leads out"):
            async with storage.open_partial("out/x.part"):
                pass
    assert failed.value.kind is FailureKind.STORAGE
    assert names(outside) == []


async def test_a_linked_folder_within_the_destination_and_a_linked_destination_are_fine(tmp_path: Path) -> None:
    (tmp_path / "root/real").mkdir(parents=True)
    (tmp_path / "root/alias").symlink_to("real")
    (tmp_path / "linked").symlink_to("root")
    async with Storage(tmp_path / "linked") as storage:
        async with storage.open_partial("alias/x.part") as partial:
            await partial.write(0, b"new")
        await storage.place(tmp_path / "linked/alias/x.part", tmp_path / "linked/alias/x", overwrite=False)
    assert (tmp_path / "root/real/x").read_bytes() == b"new"


async def test_only_a_partial_beside_its_file_can_be_moved_on_another_file_system(tmp_path: Path) -> None:
    with mounted(tmp_path / "mount", "size=256k") as place:
        async with Storage(tmp_path) as storage:
            with pytest.raises(ProductFailed, match="another file system"):
                await storage.place(partial_file(tmp_path), place / "x", overwrite=False)
            await storage.place(partial_file(place), place / "x", overwrite=False)
    assert (tmp_path / "x.part").exists()


async def test_nothing_is_made_in_a_destination_that_is_on_another_device_than_before(tmp_path: Path) -> None:
    """No folder, partial or finished file is created, not even by a move."""
    folder = tmp_path / "products"
    folder.mkdir()
    async with Storage(folder) as storage:
        await storage.prepare()
        folder.rmdir()
        with mounted(folder, "size=1m"):
            with pytest.raises(StorageStopped, match="another file system"):
                async with storage.open_partial("a/b.part"):
                    pass
            (folder / "x.part").touch()
            with pytest.raises(StorageStopped, match="another file system"):
                await storage.place(folder / "x.part", folder / "x", overwrite=True)
            assert names(folder) == ["x.part"]


# --- Short work that blocks the event loop ----------------------------------------------------------------------------


async def test_short_work_blocks_the_event_loop_until_it_is_done(tmp_path: Path) -> None:
    turns: list[str] = []
    async with Storage(tmp_path) as storage:
        asyncio.get_running_loop().call_soon(turns.append, "the loop went round")
        assert await storage.work_blocking(lambda what: (what, list(turns)), "done", within_s=60) == ("done", [])


async def test_longer_work_continues_beside_the_event_loop(tmp_path: Path) -> None:
    gone_round = threading.Event()
    async with Storage(tmp_path) as storage:
        asyncio.get_running_loop().call_soon(gone_round.set)
        assert await storage.work_blocking(gone_round.wait, 60, within_s=0.001)


async def test_blocking_work_ends_before_a_cancellation_and_its_error_is_raised(tmp_path: Path) -> None:
    go, over = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(60)
        over.set()
        raise StorageStopped("the disk is gone")

    async with Storage(tmp_path) as storage:
        task = asyncio.ensure_future(storage.work_blocking(work, within_s=0.001))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert over.is_set()
        with pytest.raises(StorageStopped):
            await storage.work_blocking(work, within_s=60)
