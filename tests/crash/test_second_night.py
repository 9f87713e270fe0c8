"""Changes between two runs: `extract` added, a renewed URL, products that compete for one folder or name."""

from __future__ import annotations

import json
import signal
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.demo_server.catalog import Item
from bulkdl.demo_server.generated_files import Kind
from bulkdl.demo_server.server import Route
from tests.crash.scene import ended, program, scene
from tests.crash.test_storage_trouble import MB, RATE, until_some

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.scene import Done, Scene

pytestmark = pytest.mark.long

ZIP = Item(name="scene.zip", size=MB // 4, seed=3, kind=Kind.ZIP)


def members(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        return {info.filename for info in opened.infolist() if not info.is_dir()}


async def run(place: Scene, products: list[dict[str, Any]]) -> Done:
    """Run a manifest given as text."""
    path = place.folder / "by-hand.json"
    path.write_text(json.dumps({"version": 1, "destination": str(place.destination), "products": products}))
    return await ended(await program("run", str(path), "--json", "--progress", "none", "-j", "1"))


@pytest.mark.parametrize("summed", [False, True], ids=["without checksum", "with checksum"])
async def test_a_finished_product_is_unpacked_when_that_is_wished_later(summed, tmp_path: Path):
    """This needs no request, and a further run has nothing to do."""
    async with scene(tmp_path, items=[ZIP]) as place:
        known = {"checksum": f"sha256:{ZIP.digest('sha256')}"} if summed else {}
        place.extra = {ZIP.name: known}
        assert (await place.run()).code == 0
        folder = place.destination / "scene"
        assert not folder.exists()
        asked = len(place.archive.log)
        place.extra = {ZIP.name: {"extract": True, **known}}
        for _ in range(2):
            done = await place.run()
            assert done.code == 0, done.err
            assert done.summary["products"]["skipped"] == 1
            found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
            assert found
            assert len(found) == len(members(place.final(ZIP)))
        assert len(place.archive.log) == asked
        place.assert_complete()


async def test_two_archives_that_would_be_unpacked_into_one_folder_are_a_named_conflict(tmp_path: Path):
    """The first product gets it in every run; the other is not downloaded."""
    other = Item(name="scene.kmz", size=MB // 4, seed=4, kind=Kind.ZIP)
    async with scene(tmp_path, items=[ZIP, other]) as place:
        place.extra = {item.name: {"extract": True} for item in place.items}
        for _ in range(2):
            done = await place.run()
            assert done.code == 1, done.err
            (failure,) = done.summary["failures"]
            assert (failure["file"], failure["kind"]) == ("scene.kmz", "conflict")
            assert "unpacked into the folder scene; it belongs to product 1" in failure["reason"]
            assert place.finished() == {"scene.zip"}
            assert (place.destination / "scene").is_dir()


async def test_an_archive_is_not_unpacked_into_a_folder_that_other_products_are_in(tmp_path: Path):
    """Otherwise it would count as unpacked. The released name goes to the next product."""
    inner, named = Item(name="inner.bin", size=1000), Item(name="named.zip", size=MB // 4, seed=5, kind=Kind.ZIP)
    async with scene(tmp_path, items=[inner, named]) as place:
        url = place.archive.url(named, Route.DOWNLOAD)
        done = await run(
            place,
            [
                {"url": place.archive.url(inner), "file": "named/inner.bin"},
                {"url": f"{url}?first", "extract": True},
                {"url": f"{url}?second"},
            ],
        )
        assert done.code == 1, done.err
        (failure,) = done.summary["failures"]
        assert failure["kind"] == "conflict"
        assert "unpacked into the folder named; it belongs to product 1" in failure["reason"]
        assert done.summary["products"]["completed"] == 2
        assert (place.destination / "named.zip").read_bytes() == named.read()


async def begun(place: Scene, query: str, item: Item) -> None:
    """A run that is interrupted after some bytes."""
    place.extra = {item.name: {"url": f"{place.archive.url(item, Route.DOWNLOAD)}?{query}"}}
    process = await place.start("-s", "1")
    await until_some(place, MB, process)
    process.send_signal(signal.SIGINT)
    assert (await ended(process)).code == 130


async def test_a_renewed_url_goes_on_where_the_old_one_was(tmp_path: Path):
    """Only the query differs, the version is the same: no byte is downloaded twice, and no old partial stays."""
    item = Item(name="named-large.bin", size=14 * MB)
    async with scene(tmp_path, items=[item], rate=RATE) as place:
        await begun(place, "signature=old", item)
        place.extra = {item.name: {"url": f"{place.archive.url(item, Route.DOWNLOAD)}?signature=new"}}
        place.archive.rate = None
        done = await place.run()
        assert done.code == 0, done.err
        assert done.summary["bytes"]["resumed"] >= MB
        assert done.summary["bytes"]["received"] <= item.size - MB
        place.assert_complete()
        assert (await place.run()).summary["products"]["skipped"] == 1


async def test_the_partial_of_an_old_url_goes_when_another_has_brought_its_file(tmp_path: Path):
    """For example after the archive moved: the old partial can never be finished."""
    item = Item(name="named-large.bin", size=16 * MB)
    async with scene(tmp_path, items=[item], rate=RATE) as place:
        await begun(place, "old", item)
    async with scene(tmp_path, items=[item]) as place:  # another port means another origin
        place.extra = {item.name: {"url": f"{place.archive.url(item, Route.DOWNLOAD)}?new"}}
        done = await place.run()
        assert done.code == 0, done.err
        place.assert_complete()
