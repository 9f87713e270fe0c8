"""Runs over real sockets: checksums computed during the download, for every way that bytes arrive."""

from __future__ import annotations

import hashlib
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from bulkdl.content.incremental_hash import IncrementalHasher
from bulkdl.core.stop_request import StopReason, StopSignal
from bulkdl.transfer import segment_scaling
from tests.harness import Place, body_of, sha256
from tests.servers import Responder, announce, chunked, head, ranges, reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bulkdl.content.hashing import Digests
    from tests.servers import RawRequest, Wire

MIB = 1024 * 1024
SIZE = 8 * MIB
BODY = body_of(SIZE)
OTHER = body_of(SIZE, 1)
E1, E2 = ("ETag", '"1"'), ("ETag", '"2"')
Ends = list["Mapping[str, str] | None"]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Ends:
    """Record the result of the incremental hasher for each complete product, in order."""
    seen: Ends = []
    real: Callable[[IncrementalHasher], object] = IncrementalHasher.finish

    async def finish(self: IncrementalHasher) -> Digests | None:
        digests = await real(self)
        seen.append(None if digests is None else digests.found)
        return digests

    monkeypatch.setattr(IncrementalHasher, "finish", finish)
    return seen


def cut(at: int, *headers: tuple[str, object], body: bytes = BODY) -> Responder:
    return announce(len(body), body[:at], *headers)


def found(body: bytes) -> dict[str, str]:
    return {"sha256": hashlib.sha256(body).hexdigest()}


WHOLE = [found(BODY)]
STORIES = {
    "one connection": ((ranges(BODY),), BODY, WHOLE),
    "a body of unknown length": ((chunked(BODY, piece=256 * 1024),), BODY, WHOLE),
    "a cut": ((cut(6 * MIB, E1), ranges(BODY)), BODY, WHOLE),
    "many cuts": ((cut(5 * MIB, E1), cut(6 * MIB, E1), ranges(BODY)), BODY, WHOLE),
    "another version after a cut": ((cut(6 * MIB, E1), reply(200, OTHER, E2)), OTHER, [found(OTHER)]),
    "the same version from the start after a cut": ((cut(6 * MIB, E1), reply(200, BODY, E1)), BODY, WHOLE),
    "wrong bytes at first": ((reply(200, OTHER, E1), reply(200, BODY, E1)), BODY, [found(OTHER), found(BODY)]),
}


@pytest.mark.parametrize("name", STORIES)
async def test_the_checksum_is_known_when_the_last_byte_arrives(tmp_path: Path, raw_server, ends: Ends, name: str):
    answers, body, known = STORIES[name]
    server = await raw_server(*answers)
    place = Place(tmp_path)
    done = await place.run({"url": server.url(), "file": "x.bin", "checksum": sha256(body)})
    assert (done.code, place.file("x.bin") == body) == (0, True)
    assert ends == known


def paced(body: bytes, *, rate: float) -> Responder:
    """Like `ranges`, limited to `rate` bytes per second for each connection."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        start, stop = request.range(len(body)) or (0, len(body))
        part = () if request.range(len(body)) is None else (("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}"),)
        fields = (("Content-Length", stop - start), ("Accept-Ranges", "bytes"), E1, ("Connection", "close"), *part)
        await wire.send(head(206 if part else 200, *fields))
        for at in range(start, stop, 256 * 1024):
            await wire.send(body[at : min(stop, at + 256 * 1024)])
            if await wire.closed_within(256 * 1024 / rate):
                return

    return respond


async def test_the_checksum_of_a_product_in_segments_is_known(tmp_path: Path, raw_server, ends: Ends, monkeypatch):
    monkeypatch.setattr(segment_scaling, "MIN_SPLIT_S", 0.02)
    monkeypatch.setattr(segment_scaling, "MIN_SPLIT", MIB)
    server = await raw_server(paced(BODY, rate=15 * MIB))
    place = Place(tmp_path, segments=4)
    done = await place.run({"url": server.url(), "file": "x.bin", "checksum": sha256(BODY)})
    assert (done.code, place.file("x.bin") == BODY) == (0, True)
    assert server.connections >= 2
    assert ends == WHOLE


async def test_segments_of_a_product_with_a_checksum_are_downloaded_from_the_front(
    tmp_path: Path, raw_server, ends: Ends, monkeypatch
):
    for constant, value in (
        ("MIN_SPLIT_S", 0.02),
        ("MIN_SPLIT", MIB // 4),
        ("PIECE", MIB),
        ("PIECE_S", 0.0),
        ("REQUEST_COSTS", 0),
    ):
        monkeypatch.setattr(segment_scaling, constant, value)
    server = await raw_server(paced(BODY, rate=5 * MIB))
    done = await Place(tmp_path, segments=3).run({"url": server.url(), "file": "x.bin", "checksum": sha256(BODY)})
    assert done.code == 0
    asked = [request.range(len(BODY)) or (0, 0) for request in server.log[1:]]
    assert len(asked) >= 4
    assert max(start for start, _ in asked[:4]) < 6 * MIB
    assert max(end - start for start, end in asked) < 1.3 * MIB
    assert ends == WHOLE


async def test_several_products_with_several_checksums_are_each_known(tmp_path: Path, raw_server, ends: Ends):
    bodies = {f"{n}.bin": body_of(6 * MIB + n, n) for n in range(4)}
    servers = {name: await raw_server(ranges(body)) for name, body in bodies.items()}
    sums = {name: [sha256(body), f"blake3:{blake3(body).hexdigest()}"] for name, body in bodies.items()}
    place = Place(tmp_path)
    products = [{"url": servers[name].url(), "file": name, "checksum": sums[name]} for name in bodies]
    done = await place.run(*products)
    assert done.code == 0
    assert {name: place.file(name) == body for name, body in bodies.items()} == dict.fromkeys(bodies, True)
    known = [{**found(body), "blake3": blake3(body).hexdigest()} for body in bodies.values()]
    assert sorted(ends, key=str) == sorted(known, key=str)


async def test_a_partial_of_an_earlier_run_is_hashed_with_the_rest(tmp_path: Path, raw_server, ends: Ends):
    server = await raw_server(cut(6 * MIB, E1), reply(404), reply(404), reply(404), ranges(BODY))
    place = Place(tmp_path)
    product = {"url": server.url(), "file": "x.bin", "checksum": sha256(BODY)}
    assert (await place.run(product)).code == 1
    done = await place.run(product)
    assert (done.code, place.file("x.bin") == BODY, done.result.resumed) == (0, True, 6 * MIB)
    assert ends == WHOLE


async def test_a_partial_damaged_between_runs_is_detected(tmp_path: Path, raw_server, ends: Ends):
    server = await raw_server(cut(6 * MIB, E1), reply(404), reply(404), reply(404), ranges(BODY))
    place = Place(tmp_path)
    product = {"url": server.url(), "file": "x.bin", "checksum": sha256(BODY)}
    assert (await place.run(product)).code == 1
    part = place.root / "x.bin.part"
    harmed = bytearray(part.read_bytes())
    harmed[5 * MIB] ^= 1
    part.write_bytes(harmed)
    done = await place.run(product)
    assert (done.code, place.file("x.bin") == BODY) == (0, True)
    assert ends == [found(bytes(harmed) + BODY[6 * MIB :]), found(BODY)]


async def test_a_stop_leaves_no_reading_thread_and_the_next_run_resumes(tmp_path: Path, raw_server, ends: Ends):
    stop = StopSignal()

    async def stopped(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", SIZE), ("Accept-Ranges", "bytes"), E1))
        await wire.send(BODY[: 7 * MIB])
        stop.request(StopReason.SIGINT)
        await wire.hang()

    server = await raw_server(stopped, ranges(BODY))
    place = Place(tmp_path)
    product = {"url": server.url(), "file": "x.bin", "checksum": sha256(BODY)}
    await place.run(product, stop=stop)
    assert [turn for turn in threading.enumerate() if is_reading(turn)] == []
    done = await place.run(product)
    assert (done.code, place.file("x.bin") == BODY) == (0, True)
    assert ends == WHOLE


def is_reading(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "_turn" and "following" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


async def test_a_file_that_is_changed_after_its_end_was_hashed_is_read_again(tmp_path: Path, raw_server, monkeypatch):
    """Digests that the incremental hasher computed for another file are not used for this one."""
    real = IncrementalHasher.finish

    async def finish(self: IncrementalHasher) -> Digests | None:
        digests = await real(self)
        part = tmp_path / "products" / "x.bin.part"
        part.rename(part.with_name("other"))
        part.write_bytes(OTHER)
        monkeypatch.setattr(IncrementalHasher, "finish", real)
        return digests

    monkeypatch.setattr(IncrementalHasher, "finish", finish)
    server = await raw_server(ranges(BODY))
    place = Place(tmp_path)
    done = await place.run({"url": server.url(), "file": "x.bin", "checksum": sha256(BODY)})
    assert (done.code, place.file("x.bin") == BODY) == (0, True)
    assert len([r for r in server.log if r.method == "GET"]) == 2
