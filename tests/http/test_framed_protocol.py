"""Heads that reach aiohttp's parser, by a real connection; and the interfaces of aiohttp that this relies on."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest

from bulkdl.http.framed_protocol import FramedProtocol, UnusableHeadError, new_connector
from tests.harness import Place
from tests.servers import RawRequest, RawServer, Wire, head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=new_connector(ssl.create_default_context())) as session:
        yield session


def sends(*pieces: bytes, keep: bool = False):
    async def respond(request: RawRequest, wire: Wire) -> None:
        for piece in pieces:
            await wire.send(piece)
            await asyncio.sleep(0)  # let the client read each piece alone, as a slow network would
        if keep:
            wire.keep()

    return respond


async def fetch(session: aiohttp.ClientSession, server: RawServer, method: str = "GET") -> bytes:
    async with session.request(method, server.url()) as response:
        return await response.read()


async def test_connections_of_the_pool_are_framed(session: aiohttp.ClientSession):
    made = session.connector._factory()  # type: ignore[union-attr]
    assert isinstance(made, FramedProtocol)
    assert made._parser is None, "bytes before the first request are kept until there is a parser"


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_head_in_pieces_is_read_as_a_whole(session: aiohttp.ClientSession, size: int):
    raw = head(200, ("Content-Length", "5, 5"), ("X", "y")) + b"hello"
    async with RawServer(sends(*(raw[at : at + size] for at in range(0, len(raw), size)))) as server:
        assert await fetch(session, server) == b"hello"


@pytest.mark.parametrize("length", [5, 200_000, 2_000_000])
@pytest.mark.parametrize("rest", [b"rubbish", b"\r\n", b"\0"])
async def test_bytes_behind_the_body_are_dropped_at_every_size(
    session: aiohttp.ClientSession, length: int, rest: bytes
):
    body = b"x" * length
    async with RawServer(sends(head(200, ("Content-Length", length)) + body + rest, keep=True)) as server:
        assert await fetch(session, server) == body
        assert await fetch(session, server) == body
        assert server.connections == (1 if rest == b"\r\n" else 2), "rubbish ends the use of its connection"


async def test_a_length_beside_chunks_ends_the_use_of_the_connection(session: aiohttp.ClientSession):
    both = head(200, ("Content-Length", 3), ("Transfer-Encoding", "chunked")) + b"5\r\nhello\r\n0\r\n\r\n"
    async with RawServer(sends(both, keep=True)) as server:
        assert [await fetch(session, server), await fetch(session, server)] == [b"hello", b"hello"]
        assert server.connections == 2


async def test_a_head_that_is_answered_with_a_body_is_read_without_it(session: aiohttp.ClientSession):
    async with RawServer(sends(head(200, ("Content-Length", 5)) + b"hello", keep=True)) as server:
        assert await fetch(session, server, "HEAD") == b""
        assert await fetch(session, server) == b"hello"


async def test_interim_responses_come_before_the_final_one(session: aiohttp.ClientSession):
    raw = head(100) + head(103, ("Link", "x")) + head(200, ("Content-Length", 5), ("Content-Length", 5)) + b"hello"
    async with RawServer(sends(raw)) as server:
        assert await fetch(session, server) == b"hello"


@pytest.mark.parametrize(
    "raw",
    [
        head(200, ("Content-Length", 5), ("Content-Length", 6)) + b"hello",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 60_000 + b"\r\n" + (b"Z: " + b"y" * 60_000 + b"\r\n") * 5,
    ],
    ids=["two lengths", "a head without an end"],
)
async def test_a_head_without_a_certain_meaning_is_an_error_of_its_own(session: aiohttp.ClientSession, raw: bytes):
    async with RawServer(sends(raw)) as server:
        with pytest.raises(UnusableHeadError):
            await fetch(session, server)


async def test_a_reader_learns_of_chunks_that_break_later(session: aiohttp.ClientSession):
    async with RawServer(sends(head(200, ("Transfer-Encoding", "chunked")) + b"5\r\nhello\r\n", b"zz\r\n")) as server:
        with pytest.raises((aiohttp.ClientPayloadError, RuntimeError)):
            await asyncio.wait_for(fetch(session, server), 10)


async def test_the_timer_of_an_earlier_use_is_stopped(session: aiohttp.ClientSession):
    made = session.connector._factory()  # type: ignore[union-attr]
    made.read_timeout = 1000.0
    made.start_timeout()
    made.set_response_params(read_until_eof=True)
    assert made._read_timeout_handle is None


CAUSES = {
    "two lengths": (head(200, ("Content-Length", 5), ("Content-Length", 6)) + b"hello", "(Content-Length: 5, 6)"),
    "no number": (head(200, ("Content-Length", "-5")) + b"hello", "a Content-Length that is not a number"),
    "broken chunks": (head(200, ("Transfer-Encoding", "chunked")) + b"zz\r\n", "chunks are not valid HTTP"),
    "a bad field": (b"HTTP/1.1 200 OK\r\nFoo bar\r\nContent-Length: 5\r\n\r\nhello", "invalid header token"),
}


@pytest.mark.parametrize("cause", CAUSES)
async def test_the_failure_names_what_is_wrong_with_the_framing(cause: str, tmp_path: Path):
    raw, words = CAUSES[cause]
    async with RawServer(sends(raw)) as server:
        done = await Place(tmp_path, retries=2).run({"url": server.url(), "file": "a.bin"})
    assert words in done.failure[2]
