"""Batch finalizing of small products: each product gets the same result as it would alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bulkdl.core.models import RunOptions
from bulkdl.core.stop_request import StopReason, StopSignal
from bulkdl.journal.records import Phase
from bulkdl.transfer import attempt
from tests.harness import Place, body_of, sha256
from tests.servers import RawRequest, RawServer, Wire, head, ranges, reply

if TYPE_CHECKING:
    from pathlib import Path

BODIES = {f"{number:02d}.bin": body_of(100 + 997 * number, number) for number in range(40)}


async def serve(request: RawRequest, wire: Wire) -> None:
    await reply(200, BODIES[request.path.rpartition("/")[2]])(request, wire)


def wanted(server: RawServer, names: list[str]) -> list[dict[str, object]]:
    return [{"url": server.url(f"/{n}"), "file": n, "checksum": sha256(BODIES[n])} for n in names]


async def test_many_small_products_are_each_right_and_recorded_and_leave_no_partial(tmp_path: Path):
    place = Place(tmp_path, workers=20)
    async with RawServer(serve) as server:
        done = await place.run(*wanted(server, list(BODIES)))
    assert done.code == 0
    assert {name: place.file(name) for name in BODIES} == BODIES
    assert place.names() == sorted(BODIES)
    entries = place.journal()
    assert {entry.phase for entry in entries.values()} == {Phase.DONE}
    assert all(entries[name].size == len(body) and entries[name].digests for name, body in BODIES.items())


async def test_the_wrong_one_of_many_fails_and_the_others_are_in_place(tmp_path: Path):
    place = Place(tmp_path, workers=20)
    names = list(BODIES)[:12]
    async with RawServer(serve) as server:
        products = wanted(server, names)
        products[5]["checksum"] = f"sha256:{'0' * 64}"
        done = await place.run(*products)
    assert done.code == 1
    assert done.failure[0] == "checksum"
    assert place.names() == sorted(set(names) - {names[5]})


async def test_a_folder_that_cannot_be_made_fails_its_own_product_only(tmp_path: Path):
    place = Place(tmp_path, workers=20)
    place.root.mkdir()
    (place.root / "a-file").write_bytes(b"in the way")
    names = list(BODIES)[:6]
    async with RawServer(serve) as server:
        products = wanted(server, names)
        products[2]["file"] = "a-file/inside.bin"
        done = await place.run(*products)
    assert done.code == 1
    assert done.failure[0] == "storage"
    assert place.names() == sorted({"a-file", *names} - {names[2]})


async def test_a_file_that_has_the_name_which_only_the_archive_knew_is_taken_for_the_product_by_its_size(
    tmp_path: Path,
):
    place = Place(tmp_path)
    place.root.mkdir()
    (place.root / "00.bin").write_bytes(BODIES["00.bin"])
    (place.root / "01.bin").write_bytes(b"of another size")
    async with RawServer(serve) as server:
        done = await place.run(server.url("/00.bin"), server.url("/01.bin"), server.url("/02.bin"))
    assert done.outcomes["00.bin"].note == "existing, unverified"
    assert done.failure[0] == "conflict"
    assert place.file("01.bin") == b"of another size"
    assert place.names() == ["00.bin", "01.bin", "02.bin"]


async def test_an_existing_file_is_replaced_with_overwrite(tmp_path: Path):
    place = Place(tmp_path)
    place.root.mkdir()
    (place.root / "01.bin").write_bytes(b"of another size")
    async with RawServer(serve) as server:
        done = await place.run(server.url("/01.bin"), options=RunOptions(overwrite=True))
    assert done.code == 0
    assert place.file("01.bin") == BODIES["01.bin"]
    assert place.names() == ["01.bin"]


async def test_a_small_product_that_arrives_slowly_is_written_to_disk_soon(tmp_path: Path, monkeypatch):
    """Like a large product: the next run requests the missing bytes only."""
    monkeypatch.setattr(attempt, "SMALL_S", 0.05)
    body, stop = body_of(50_000, 3), StopSignal()
    asked: list[str | None] = []

    async def slow(request: RawRequest, wire: Wire) -> None:
        asked.append(request.header("range"))
        if len(asked) > 1:
            await ranges(body)(request, wire)
            return
        await wire.send(head(200, ("Content-Length", len(body)), ("ETag", '"1"'), ("Accept-Ranges", "bytes")))
        await wire.send(body[:30_000])
        while not (place.part("slow.bin") or b""):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.01)
        stop.request(StopReason.SIGINT)
        await wire.hang()

    place = Place(tmp_path)
    async with RawServer(slow) as server:
        await place.run({"url": server.url("/slow.bin")}, stop=stop)
        assert place.part("slow.bin") == body[:30_000]
        done = await place.run({"url": server.url("/slow.bin")})
    assert done.code == 0
    assert asked[1] == "bytes=30000-"
    assert place.file("slow.bin") == body
