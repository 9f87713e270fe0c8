"""The fast lane over real sockets: what it brings is what the ordinary way brings, whatever the server does."""

from __future__ import annotations

import asyncio
import hashlib
import resource
import signal
import ssl
import threading
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import pytest

import bulkdl.http.response
from bulkdl.core.errors import ProductFailed, UsageError
from bulkdl.core.events import Retrying
from bulkdl.core.stop_request import StopReason, StopSignal
from bulkdl.http.fast_lane import streams, takeover
from bulkdl.http.fast_lane.streams import TlsContext
from bulkdl.http.fast_lane.takeover import FastLane, fast_lane_for, take_over
from bulkdl.storage.offset_writer import OffsetWriter
from tests.harness import Place, body_of, sha256
from tests.servers import RawRequest, RawServer, Responder, Wire, announce, head, html, ranges, reply, reset, stall
from tests.tls import TlsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

SIZE = 3_000_000
"""More than aiohttp buffers, so that a connection always has something left to take over."""
BODY = body_of(SIZE)
OTHER = body_of(SIZE, 1)
E1, E2 = ("ETag", '"1"'), ("ETag", '"2"')
MODES = ("off", "spliced", "buffered", "tls")


@dataclass
class Ways:
    """One way of a body to the disk: a server and a destination for it, and how often the lane was entered."""

    mode: str
    base: Path
    certificate: Path | None
    entered: int = 0
    declined: int = 0

    def server(self, *responders: Responder) -> RawServer:
        return RawServer(*responders) if self.certificate is None else TlsServer(self.certificate, *responders)

    def place(self, **settings: object) -> Place:
        place = Place(self.base, **{"ca_file": self.certificate, **settings})
        place.environ["BULKDL_FAST_LANE"] = "4K" if self.fast else "0"
        return place

    @property
    def fast(self) -> bool:
        return self.mode != "off"


@pytest.fixture(params=MODES)
def way(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ways]:
    """Each way in turn; whatever happened, no thread of the lane is left and its places are free."""
    ways = Ways(request.param, tmp_path, request.getfixturevalue("certificate") if request.param == "tls" else None)

    async def watched(response: aiohttp.ClientResponse, *, given: int) -> takeover.Stream | bytes:
        taken = await take_over(response, given=given)
        ways.entered += not isinstance(taken, bytes)
        ways.declined += isinstance(taken, bytes)
        return taken

    monkeypatch.setattr(bulkdl.http.response, "take_over", watched)
    if request.param == "buffered":
        monkeypatch.setattr(streams, "_SPLICES", False)
    if request.param == "spliced" and not streams._SPLICES:
        pytest.skip("this system does not splice")
    yield ways
    assert [t.name for t in threading.enumerate() if t.name.startswith("bulkdl-lane")] == []


def cut(at: int, *headers: tuple[str, object], body: bytes = BODY) -> Responder:
    return announce(len(body), body[:at], *headers)


def part(start: int, stop: int, *headers: tuple[str, object], body: bytes = BODY) -> Responder:
    span = ("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}")
    return reply(206, body[start:stop], span, *headers)


# ---- The same ends on every way


async def test_a_large_body_arrives_whole_and_its_connection_is_not_used_again(way: Ways):
    place = way.place()
    async with way.server(ranges(BODY)) as server:
        urls = [{"url": server.url(f"/{i}"), "file": f"{i}.bin", "checksum": sha256(BODY)} for i in range(3)]
        done = await place.run(*urls, segments=1, workers=2)
        assert (done.code, [place.file(f"{i}.bin") for i in range(3)]) == (0, [BODY] * 3)
        assert way.entered == (3 if way.fast else 0)
        assert done.result.received == 3 * SIZE
        assert server.connections == 3 if way.fast else server.connections <= 3


@pytest.mark.parametrize("at", [1_000_001, 1_048_576, 2_999_999])
async def test_a_cut_anywhere_costs_nothing_of_what_has_come(way: Ways, at: int):
    place = way.place()
    async with way.server(cut(at, E1), ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, BODY)
        assert [r.header("Range") for r in server.log] == [None, f"bytes={at}-"]
        assert server.log[-1].header("If-Range") == '"1"'
        assert done.result.received == SIZE
        assert "ended the body early" in done.of(Retrying)[0].reason
        assert way.entered >= way.fast


async def test_a_reset_is_named_and_what_came_before_is_kept(way: Ways):
    place = way.place()
    async with way.server(reset(SIZE, BODY[:2_000_000], E1), ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, BODY)
        retry = done.of(Retrying)[0]
        assert "reset" in retry.reason or "broke" in retry.reason or "early" in retry.reason
        assert done.result.received <= SIZE


async def test_a_silence_ends_after_the_time_out_and_is_resumed(way: Ways):
    place = way.place(timeout=0.4)
    async with way.server(stall(SIZE, BODY[:2_000_000], E1), ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, BODY)
        assert "sent nothing for too long" in done.of(Retrying)[0].reason
        assert [r.header("Range") for r in server.log] == [None, "bytes=2000000-"]


async def test_a_body_below_the_least_rate_is_given_up_and_resumed(way: Ways):
    place = way.place(timeout=0.3, min_rate=1 << 40)
    answers = [ranges(BODY)]

    async def dribble(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", SIZE), E1) + BODY[:2_000_000])
        for at in range(2_000_000, SIZE, 20):
            await wire.send(BODY[at : at + 20])
            if await wire.closed_within(0.02):
                return

    async with way.server(dribble, *answers) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, BODY)
        assert "bytes a second" in done.of(Retrying)[0].reason


async def test_bytes_after_the_announced_length_never_reach_the_file(way: Ways):
    place = way.place()

    async def longer(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", SIZE), E1) + BODY + b"HTTP/1.1 200 OK\r\nX: more" * 1000)

    async with way.server(longer) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, BODY)


async def test_another_edition_between_two_attempts_is_never_spliced(way: Ways):
    place = way.place()
    async with way.server(cut(2_000_000, E1), cut(1_500_000, E2, body=OTHER), ranges(OTHER, etag='"2"')) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, OTHER)
        assert [r.header("Range") for r in server.log] == [None, "bytes=2000000-", "bytes=1500000-"]


async def test_a_range_that_is_ignored_is_written_over_what_is_there(way: Ways):
    place = way.place()
    async with way.server(cut(1_500_000, E1), reply(200, BODY, E1)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin"), len(server.log)) == (0, BODY, 2)


async def test_a_shorter_range_than_asked_for_is_followed_by_the_rest(way: Ways):
    place = way.place()
    async with way.server(cut(500_000, E1), part(500_000, 2_500_000, E1), ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, BODY)
        assert [r.header("Range") for r in server.log][1:] == ["bytes=500000-", f"bytes=2500000-{SIZE - 1}"]


async def test_an_overlap_is_compared_before_anything_goes_by_the_lane(way: Ways):
    place = way.place()
    product = {"file": "x.bin", "resume": "overlap"}
    async with way.server(cut(2_000_000), ranges(OTHER, etag=None)) as server:
        done = await place.run({"url": server.url(), **product}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, OTHER)


async def test_a_large_page_in_the_place_of_a_product_never_reaches_the_disk(way: Ways):
    place = way.place()
    async with way.server(html(text="<!DOCTYPE html><title>Sign in</title>" + "x" * SIZE)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
    assert (done.code, done.failure[0], place.names()) == (1, "content", [])
    assert way.entered == 0


async def test_a_wrong_byte_is_found_and_fetched_anew(way: Ways):
    wrong = BODY[:2_000_000] + bytes([BODY[2_000_000] ^ 1]) + BODY[2_000_001:]
    place = way.place()
    async with way.server(reply(200, wrong, E1), reply(200, BODY, E1)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin", "checksum": sha256(BODY)}, segments=1)
        assert (done.code, place.file("x.bin"), len(server.log)) == (0, BODY, 2)


def throttled(body: bytes, *, per_step: int, pause_s: float) -> Responder:
    """An orderly server of ranges that sends a piece at a time, so that a product is worth more connections."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        asked = request.range(len(body))
        start, stop = asked or (0, len(body))
        span = () if asked is None else (("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}"),)
        fields = (("Content-Length", stop - start), ("Accept-Ranges", "bytes"), E1, *span)
        await wire.send(head(200 if asked is None else 206, *fields))
        for at in range(start, stop, per_step):
            await wire.send(body[at : min(stop, at + per_step)])
            if await wire.closed_within(pause_s):
                return

    return respond


async def test_a_product_in_stretches_is_the_product(way: Ways):
    body = body_of(16 * 1024 * 1024, 5)
    place = way.place()
    async with way.server(throttled(body, per_step=256 * 1024, pause_s=0.1)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=4)
        assert (done.code, len(server.log) > 1) == (0, True)
        assert hashlib.sha256(place.file("x.bin") or b"").digest() == hashlib.sha256(body).digest()
        assert way.entered >= 2 * way.fast


async def test_a_stop_in_mid_body_keeps_what_is_written_and_the_next_run_goes_on(way: Ways):
    place, stop = way.place(), StopSignal()

    async def half(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", SIZE), E1) + BODY[:2_000_000])
        while (place.part("x.bin") or b"") != BODY[:2_000_000]:  # noqa: ASYNC110 - what is looked at is on disk
            await asyncio.sleep(0.01)
        stop.request(StopReason.SIGINT)
        await wire.hang()

    async with way.server(half, ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1, stop=stop)
        assert done.code == 130
        assert place.entry().ranges == ((0, 2_000_000),)
        again = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (again.code, again.result.resumed, place.file("x.bin")) == (0, 2_000_000, BODY)


async def test_a_full_disk_stops_the_run_with_what_was_written_known(way: Ways):
    """The write that fails is the system's own: a limit on the size of files."""
    place = way.place()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with way.server(ranges(BODY)) as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
        try:
            done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, kept)
    assert done.code == 1
    assert done.failure[0] == "storage"
    assert all(place.part("x.bin")[a:b] == BODY[a:b] for a, b in place.entry().ranges)  # type: ignore[index]


# ---- When it does not apply


@asynccontextmanager
async def answered(responder: Responder) -> AsyncIterator[aiohttp.ClientResponse]:
    """The response to one request, its body not read."""
    async with (
        RawServer(responder) as server,
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(server.url()) as response,
    ):
        yield response


async def test_a_response_with_any_coding_is_declined():
    async with answered(reply(200, BODY, ("Content-Encoding", "x-own"))) as response:
        assert await take_over(response, given=0) == b""


async def test_what_aiohttp_held_is_given_back_when_the_count_does_not_agree():
    async with answered(ranges(BODY)) as response:
        first = await response.content.read(1000)
        rest = await take_over(response, given=999)
        assert isinstance(rest, bytes)
        assert first + rest + await response.content.read() == BODY


async def test_a_response_on_another_kind_of_loop_is_declined(monkeypatch: pytest.MonkeyPatch):
    async with answered(ranges(BODY)) as response:
        monkeypatch.setattr(asyncio, "SelectorEventLoop", type("Other", (), {}))
        assert await take_over(response, given=0) == b""
        assert await response.content.read() == BODY


async def test_a_rate_limit_keeps_to_the_ordinary_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bulkdl.http.response, "take_over", None)
    place = Place(tmp_path, limit_rate=1 << 30)
    place.environ["BULKDL_FAST_LANE"] = "4K"
    async with RawServer(ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"})
        assert (done.code, place.file("x.bin")) == (0, BODY)


def test_no_place_is_left_when_all_are_taken():
    with FastLane(places=1) as one:
        with one.place() as first, one.place() as second:
            assert (first, second) == (True, False)
        with one.place() as again:
            assert again


@pytest.mark.parametrize(
    ("value", "limited", "least"),
    [
        (None, False, takeover.LEAST),
        ("", False, takeover.LEAST),
        ("1", False, takeover.LEAST),
        ("64K", False, 65536),
        ("0", False, 0),
        (None, True, 0),
        ("64K", True, 0),
    ],
)
def test_the_variable_turns_it_off_or_says_the_least_body(*, value: str | None, limited: bool, least: int):
    made = fast_lane_for(value, limited=limited)
    assert (made.least if made else 0) == least


def test_a_variable_that_is_no_size_is_named():
    with pytest.raises(UsageError, match="BULKDL_FAST_LANE"):
        fast_lane_for("quick", limited=False)


# ---- What it stands on


@pytest.mark.usefixtures("system_certificates")
def test_the_context_trusts_and_refuses_what_the_usual_one_does():
    usual, own = ssl.create_default_context(), TlsContext.create()
    for name in ("verify_mode", "check_hostname", "options", "verify_flags", "minimum_version", "maximum_version"):
        assert getattr(own, name) == getattr(usual, name), name
    assert own.cert_store_stats() == usual.cert_store_stats()
    assert own.get_ciphers() == usual.get_ciphers()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_the_public_interfaces_are_as_the_lane_needs_them(*, secure: bool, certificate: Path):
    """What a takeover uses of aiohttp and asyncio is there, and after it the loop takes nothing off the socket."""
    context = TlsContext.create()
    context.load_verify_locations(certificate)
    async with (
        TlsServer(certificate, ranges(BODY)) if secure else RawServer(ranges(BODY)) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.get(server.url()) as response,
    ):
        assert isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
        assert response.connection is not None
        transport = response.connection.transport
        assert transport is not None
        assert (transport.is_closing(), transport.get_write_buffer_size()) == (False, 0)
        assert (transport.get_extra_info("ssl_object") is not None) == secure
        first = await response.content.readany()
        assert response.content.total_bytes >= len(first)
        stream = await take_over(response, given=len(first))
        assert not isinstance(stream, bytes)
        assert len(first) + len(stream.ahead) + stream.left == SIZE
        held = response.content.total_bytes
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert response.content.total_bytes == held
        assert not transport.is_reading()
        if secure:
            # Not public, and not used: it shows that the limit does what the lane takes it to do.
            assert not transport._ssl_protocol._transport.is_reading()  # type: ignore[attr-defined]
        stream.close()
        assert transport.is_closing()


async def test_a_step_ends_by_itself_when_nothing_comes(tmp_path: Path):
    async with answered(stall(SIZE, BODY[:1_000_000])) as response:
        first = await response.content.readany()
        stream = await take_over(response, given=len(first))
        assert not isinstance(stream, bytes)
        begin = at = len(first) + len(stream.ahead)
        with FastLane() as own, opened(tmp_path / "x") as pen:
            while at < 1_000_000:
                at += (await own.step(stream, pen, at=at, end=SIZE)).count
            last = await own.step(stream, pen, at=at, end=SIZE)
        assert (at, last.count, last.ended, last.error) == (1_000_000, 0, False, None)
        assert 0 < last.waited_s <= stream.silence_s
        assert (tmp_path / "x").read_bytes()[begin:] == BODY[begin:1_000_000]
        stream.close()


async def test_a_write_that_fails_ends_the_step_with_what_was_written(tmp_path: Path):
    async with answered(ranges(BODY)) as response:
        first = await response.content.readany()
        stream = await take_over(response, given=len(first))
        assert not isinstance(stream, bytes)
        with FastLane() as own, opened(tmp_path / "x", "rb") as unwritable:
            step = await own.step(stream, unwritable, at=0, end=SIZE)
        assert step.count == 0
        assert step.error is not None
        assert not isinstance(step.error, (ProductFailed, OSError))
        stream.close()


@contextmanager
def opened(path: Path, mode: str = "r+b") -> Iterator[OffsetWriter]:
    path.touch()
    with path.open(mode) as file:
        yield OffsetWriter(file.fileno(), path, None)
