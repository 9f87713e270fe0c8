"""The fast lane over real sockets: it downloads the same bytes as aiohttp alone, whatever the server does."""

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
class Mode:
    """One way to download a body: a server and a destination for it, and the number of takeovers."""

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
def way(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mode]:
    """Run each test once per mode; afterwards no thread of the fast lane may be left."""
    ways = Mode(request.param, tmp_path, request.getfixturevalue("certificate") if request.param == "tls" else None)

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


# ---- The same results in every mode


async def test_a_large_body_arrives_completely_and_its_connection_is_not_used_again(way: Mode):
    place = way.place()
    async with way.server(ranges(BODY)) as server:
        urls = [{"url": server.url(f"/{i}"), "file": f"{i}.bin", "checksum": sha256(BODY)} for i in range(3)]
        done = await place.run(*urls, segments=1, workers=2)
        assert (done.code, [place.file(f"{i}.bin") for i in range(3)]) == (0, [BODY] * 3)
        assert way.entered == (3 if way.fast else 0)
        assert done.result.received == 3 * SIZE
        assert server.connections == 3 if way.fast else server.connections <= 3


@pytest.mark.parametrize("at", [1_000_001, 1_048_576, 2_999_999])
async def test_a_cut_anywhere_loses_no_byte_that_has_arrived(way: Mode, at: int):
    place = way.place()
    async with way.server(cut(at, E1), ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, BODY)
        assert [r.header("Range") for r in server.log] == [None, f"bytes={at}-"]
        assert server.log[-1].header("If-Range") == '"1"'
        assert done.result.received == SIZE
        assert "ended the response body early" in done.of(Retrying)[0].reason
        assert way.entered >= way.fast


async def test_a_reset_is_reported_and_the_bytes_before_it_are_kept(way: Mode):
    place = way.place()
    async with way.server(reset(SIZE, BODY[:2_000_000], E1), ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, BODY)
        retry = done.of(Retrying)[0]
        assert "reset" in retry.reason or "broke" in retry.reason or "early" in retry.reason
        assert done.result.received <= SIZE


async def test_a_silent_connection_times_out_and_the_product_is_resumed(way: Mode):
    place = way.place(timeout=0.4)
    async with way.server(stall(SIZE, BODY[:2_000_000], E1), ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, BODY)
        assert "sent no data before the timeout" in done.of(Retrying)[0].reason
        assert [r.header("Range") for r in server.log] == [None, "bytes=2000000-"]


async def test_a_body_below_the_least_rate_is_given_up_and_resumed(way: Mode):
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


async def closed_within(wire: Wire, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return not await wire.reader.read(1)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


async def test_bytes_after_the_announced_length_never_reach_the_file(way: Mode):
    place = way.place()

    async def longer(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", SIZE), E1) + BODY + b"HTTP/1.1 200 OK\r\nX: more" * 1000)

    async with way.server(longer) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, BODY)


async def test_another_version_between_two_attempts_is_never_spliced(way: Mode):
    place = way.place()
    async with way.server(cut(2_000_000, E1), cut(1_500_000, E2, body=OTHER), ranges(OTHER, etag='"2"')) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, OTHER)
        assert [r.header("Range") for r in server.log] == [None, "bytes=2000000-", "bytes=1500000-"]


async def test_the_answer_to_an_ignored_range_overwrites_the_partial(way: Mode):
    place = way.place()
    async with way.server(cut(1_500_000, E1), reply(200, BODY, E1)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin"), len(server.log)) == (0, BODY, 2)


async def test_a_shorter_range_than_asked_for_is_followed_by_the_rest(way: Mode):
    place = way.place()
    async with way.server(cut(500_000, E1), part(500_000, 2_500_000, E1), ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, BODY)
        assert [r.header("Range") for r in server.log][1:] == ["bytes=500000-", f"bytes=2500000-{SIZE - 1}"]


async def test_an_overlap_is_compared_before_the_lane_takes_over(way: Mode):
    place = way.place()
    product = {"file": "x.bin", "resume": "overlap"}
    async with way.server(cut(2_000_000), ranges(OTHER, etag=None)) as server:
        done = await place.run({"url": server.url(), **product}, segments=1)
        assert (done.code, place.file("x.bin")) == (0, OTHER)


async def test_a_large_error_page_never_reaches_the_disk(way: Mode):
    place = way.place()
    async with way.server(html(text="<!DOCTYPE html><title>Sign in</title>" + "x" * SIZE)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=1)
    assert (done.code, done.failure[0], place.names()) == (1, "content", [])
    assert way.entered == 0


async def test_a_wrong_byte_is_found_and_the_product_downloaded_again(way: Mode):
    wrong = BODY[:2_000_000] + bytes([BODY[2_000_000] ^ 1]) + BODY[2_000_001:]
    place = way.place()
    async with way.server(reply(200, wrong, E1), reply(200, BODY, E1)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin", "checksum": sha256(BODY)}, segments=1)
        assert (done.code, place.file("x.bin"), len(server.log)) == (0, BODY, 2)


def throttled(body: bytes, *, per_step: int, pause_s: float) -> Responder:
    """Return a correct range server that sends one piece at a time, so that more connections speed up a product."""

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


async def test_a_product_in_segments_is_complete(way: Mode):
    body = body_of(16 * 1024 * 1024, 5)
    place = way.place()
    async with way.server(throttled(body, per_step=256 * 1024, pause_s=0.1)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, segments=4)
        assert (done.code, len(server.log) > 1) == (0, True)
        assert hashlib.sha256(place.file("x.bin") or b"").digest() == hashlib.sha256(body).digest()
        assert way.entered >= 2 * way.fast


async def test_a_stop_within_a_body_keeps_the_written_bytes_and_the_next_run_resumes(way: Mode):
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


async def test_a_full_disk_stops_the_run_and_the_written_bytes_are_recorded(way: Mode):
    """A limit on the size of files makes the system itself refuse the write."""
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


# ---- When the fast lane does not apply


@asynccontextmanager
async def answered(responder: Responder) -> AsyncIterator[aiohttp.ClientResponse]:
    """Yield the response to one request, with its body unread."""
    async with (
        RawServer(responder) as server,
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(server.url()) as response,
    ):
        yield response


async def test_a_response_with_any_coding_is_declined():
    async with answered(reply(200, BODY, ("Content-Encoding", "x-own"))) as response:
        assert await take_over(response, given=0) == b""


async def test_the_buffered_bytes_are_returned_if_the_count_does_not_match():
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


async def test_a_run_with_a_rate_limit_does_not_use_the_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bulkdl.http.response, "take_over", None)
    place = Place(tmp_path, limit_rate=1 << 30)
    place.environ["BULKDL_FAST_LANE"] = "4K"
    async with RawServer(ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"})
        assert (done.code, place.file("x.bin")) == (0, BODY)


def test_no_slot_is_granted_when_all_are_in_use():
    with FastLane(slots=1) as lane:
        with lane.slot() as first, lane.slot() as second:
            assert (first, second) == (True, False)
        with lane.slot() as again:
            assert again


@pytest.mark.parametrize(
    ("value", "limited", "least"),
    [
        (None, False, takeover.LEAST),
        ("", False, takeover.LEAST),
        ("1", False, takeover.LEAST),
        ("64K", False, 65536),
        ("0", False, 0),
        ("00", False, 0),
        (" 0 ", False, 0),
        ("0K", False, 0),
        ("0.0", False, 0),
        (None, True, 0),
        ("64K", True, 0),
    ],
)
def test_the_variable_disables_the_lane_or_sets_its_least_body(*, value: str | None, limited: bool, least: int):
    made = fast_lane_for(value, limited=limited)
    assert (made.least if made else 0) == least


def test_a_value_that_is_no_size_is_refused_with_the_name_of_the_variable():
    with pytest.raises(UsageError, match="BULKDL_FAST_LANE"):
        fast_lane_for("quick", limited=False)


# ---- The interfaces that it relies on


def test_the_context_has_the_settings_of_the_default_one():
    usual, own = ssl.create_default_context(), TlsContext.create()
    for name in ("verify_mode", "check_hostname", "options", "verify_flags", "minimum_version", "maximum_version"):
        assert getattr(own, name) == getattr(usual, name), name
    assert own.cert_store_stats() == usual.cert_store_stats()
    assert own.get_ciphers() == usual.get_ciphers()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_aiohttp_and_asyncio_have_the_interfaces_that_the_lane_needs(*, secure: bool, certificate: Path):
    """aiohttp and asyncio have what a takeover uses, and the event loop reads nothing from the socket after it."""
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
            # This is not public and bulkdl does not use it; it proves that `set_read_buffer_limits` stops the reading.
            assert not transport._ssl_protocol._transport.is_reading()  # type: ignore[attr-defined]
        stream.close()
        assert transport.is_closing()


async def test_a_step_ends_by_itself_if_nothing_arrives(tmp_path: Path):
    async with answered(stall(SIZE, BODY[:1_000_000])) as response:
        first = await response.content.readany()
        stream = await take_over(response, given=len(first))
        assert not isinstance(stream, bytes)
        begin = at = len(first) + len(stream.ahead)
        with FastLane() as lane, opened(tmp_path / "x") as writer:
            while at < 1_000_000:
                at += (await lane.step(stream, writer, at=at, end=SIZE)).count
            last = await lane.step(stream, writer, at=at, end=SIZE)
        assert (at, last.count, last.ended, last.error) == (1_000_000, 0, False, None)
        assert 0 < last.waited_s <= stream.silence_s
        assert (tmp_path / "x").read_bytes()[begin:] == BODY[begin:1_000_000]
        stream.close()


async def test_a_failed_write_ends_the_step_with_its_error(tmp_path: Path):
    async with answered(ranges(BODY)) as response:
        first = await response.content.readany()
        stream = await take_over(response, given=len(first))
        assert not isinstance(stream, bytes)
        with FastLane() as lane, opened(tmp_path / "x", "rb") as unwritable:
            step = await lane.step(stream, unwritable, at=0, end=SIZE)
        assert step.count == 0
        assert step.error is not None
        assert not isinstance(step.error, (ProductFailed, OSError))
        stream.close()


@contextmanager
def opened(path: Path, mode: str = "r+b") -> Iterator[OffsetWriter]:
    path.touch()
    with path.open(mode) as file:
        yield OffsetWriter(file.fileno(), path, None)
