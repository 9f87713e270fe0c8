"""The smallest products in every framing, with all facts or none in the manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Place, sha256
from tests.servers import RawServer, Responder, announce, chunked, http10, ranges, reply

if TYPE_CHECKING:
    from pathlib import Path

BODIES = {"no byte": b"", "one byte": b"x", "two bytes": b"\r\n"}
FRAMINGS = {"length": reply, "chunks": chunked, "HTTP/1.0": http10, "ranges": ranges}


def framed(framing: str, body: bytes) -> Responder:
    return reply(200, body) if framing == "length" else FRAMINGS[framing](body)


@pytest.mark.parametrize("known", ["nothing", "size", "checksum", "both"])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_tiny_product_is_downloaded_and_recognised_by_the_next_run(
    body: bytes, framing: str, known: str, tmp_path: Path
):
    wish: dict[str, Any] = {"file": "x.bin"}
    if known in {"size", "both"}:
        wish["size"] = len(body)
    if known in {"checksum", "both"}:
        wish["checksum"] = sha256(body)
    place = Place(tmp_path)
    async with RawServer(framed(framing, body)) as server:
        done = await place.run({"url": server.url(), **wish})
        again = await place.run({"url": server.url(), **wish})
        assert len(server.log) == 1
    assert (done.code, place.names(), place.file("x.bin")) == (0, ["x.bin"], body)
    assert (again.code, again.result.skipped) == (0, 1)


@pytest.mark.parametrize("first", [announce(1, b""), announce(2, b"x", ("ETag", '"1"'))])
async def test_a_tiny_product_is_completed_after_a_cut(first: Responder, tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(first, ranges(b"xy")) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"})
    assert (done.code, place.file("x.bin")) == (0, b"xy")


@pytest.mark.parametrize("known", ["size", "checksum", "both"])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("name", ["x.json", "x.nc", "x.zip", "x.gz"])
async def test_an_empty_product_is_right_under_any_name_if_the_manifest_says_so(
    name: str, framing: str, known: str, tmp_path: Path
):
    facts = {"size": {"size": 0}, "checksum": {"checksum": sha256(b"")}}
    wish = facts.get(known) or facts["size"] | facts["checksum"]
    place = Place(tmp_path)
    async with RawServer(framed(framing, b"")) as server:
        done = await place.run({"url": server.url(), "file": name, **wish})
    assert (done.code, place.names(), place.file(name)) == (0, [name], b"")


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_an_empty_body_in_place_of_a_product_leaves_no_partial(framing: str, tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(framed(framing, b"")) as server:
        done = await place.run({"url": server.url(), "file": "x.json"})
    assert (done.failure[0], place.names()) == ("content", [])
