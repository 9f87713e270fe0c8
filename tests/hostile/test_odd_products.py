"""Products that are right although their declared type, their name or their structure is odd."""

from __future__ import annotations

import gzip
import io
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Place, body_of
from tests.servers import RawServer, chunked, reply

if TYPE_CHECKING:
    from pathlib import Path


def zip_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


LARGE = zip_of(data=body_of(400_000))
PAGE = b"<!DOCTYPE html><html><title>Sign in</title>Please log in</html>"
RIGHT: dict[str, tuple[str, bytes, str]] = {
    "CSV as HTML": ("/a.csv", b"time,value\n1,2\n", "text/html"),
    "text as HTML": ("/a.txt", b"hello\n", "text/html; charset=UTF-8"),
    "large CSV as HTML": ("/a.csv", b"1,2,3\n" * 60_000, "text/html"),
    "text without a suffix as HTML": ("/readme", b"hello\n", "text/html"),
    "works": ("/works", b'{"status":"ok","message":{"total-results":0,"items":[]}}', "application/json"),
    "JSON lines": ("/a.ndjson", b'{"code": "B04", "x": 1}\n{"code": "B08", "x": 2}\n', "application/json"),
    "JSON lines without a suffix": ("/export", b'{"code": "B04"}\n{"code": "B08"}\n', "application/json"),
    "a zip archive behind a guessed name": ("/S5P_L2.nc", zip_of(a=b"x"), "application/zip"),
    "a large one": ("/S5P_L2.nc", LARGE, "application/octet-stream"),
    "NetCDF behind a guessed name": ("/a.zip", b"CDF\x01" + bytes(5000), "application/x-netcdf"),
    "a byte in front": ("/a.zip", b"\n" + zip_of(a=b"x"), "application/zip"),
    "a byte in front of a large one": ("/a.zip", b"\n" + LARGE, "application/zip"),
    "no members": ("/a.zip", b"PK\x05\x06" + bytes(18), "application/zip"),
}
WRONG: dict[str, tuple[str, bytes, str]] = {
    "a page as zip": ("/a.zip", PAGE, "text/html"),
    "a page as zip, called zip": ("/a.zip", PAGE, "application/zip"),
    "a page as CSV": ("/a.csv", PAGE, "text/html"),
    "a page under no suffix": ("/download", PAGE, "text/html"),
    "a part of a page": ("/download", b"<div>Please log in</div>", "text/html"),
    "JSON as zip": ("/a.zip", b'{"code": 401, "message": "Unauthorized"}', "application/json"),
    "a JSON error": ("/download", b'{"error": "invalid_token"}', "application/json"),
    "text as NetCDF": ("/a.nc", b"not found", "text/plain"),
}


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("name", RIGHT)
async def test_an_odd_product_is_placed(name: str, framing: str, tmp_path: Path):
    path, body, declared = RIGHT[name]
    place, field = Place(tmp_path), ("Content-Type", declared)
    async with RawServer(reply(200, body, field) if framing == "length" else chunked(body, field)) as server:
        done = await place.run({"url": f"{server.origin}{path}"})
    assert (done.code, place.file(path[1:]), place.names()) == (0, body, [path[1:]])


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("name", WRONG)
async def test_a_page_in_place_of_a_product_is_refused(name: str, framing: str, tmp_path: Path):
    path, body, declared = WRONG[name]
    place, field = Place(tmp_path), ("Content-Type", declared)
    async with RawServer(reply(200, body, field) if framing == "length" else chunked(body, field)) as server:
        done = await place.run({"url": f"{server.origin}{path}"})
    assert (done.failure[0], place.names()) == ("content", [])


async def test_a_name_that_the_manifest_gives_is_no_guess(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(reply(200, zip_of(a=b"x"))) as server:
        done = await place.run({"url": f"{server.origin}/x", "file": "S5P_L2.nc"})
    assert (done.failure[0], place.names()) == ("content", [])


@pytest.mark.parametrize("known", [{}, {"size": len(gzip.compress(b"data", mtime=0))}])
async def test_a_single_compressed_file_is_unpacked_beside_itself_once(known: dict[str, Any], tmp_path: Path):
    place, body = Place(tmp_path), gzip.compress(b"data", mtime=0)
    product = {"file": "sub/a.nc.gz", "extract": True, **known}
    async with RawServer(reply(200, body)) as server:
        done = await place.run({"url": f"{server.origin}/a", **product})
        again = await place.run({"url": f"{server.origin}/a", **product})
        (place.root / "sub/a.nc").unlink()
        third = await place.run({"url": f"{server.origin}/a", **product})
        assert len(server.log) == 1
    assert (done.code, again.result.skipped, third.result.skipped) == (0, 1, 1)
    assert (place.file("sub/a.nc"), place.file("sub/a.nc.gz")) == (b"data", body)


async def test_a_product_with_the_name_of_an_unpacked_file_is_a_conflict(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(reply(200, gzip.compress(b"data"))) as server:
        first = {"url": f"{server.origin}/a", "file": "a.dat.gz", "extract": True}
        done = await place.run(first, {"url": f"{server.origin}/b", "file": "a.dat"})
    assert done.failure[0] == "conflict"
