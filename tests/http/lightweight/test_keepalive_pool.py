"""Small responses are returned at once.

Any other one is read by `ClientResponse`, as if nothing had been read before.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from bulkdl.core.urls import Url
from bulkdl.http.aiohttp_compat import WatchedResponse
from bulkdl.http.lightweight.keepalive_pool import KeepAlivePool, SmallResponse, supports_small_responses
from bulkdl.http.lightweight.sender import LightweightSender

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.connector import Connection

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: "e"\r\n\r\nhi'


class Site:
    """Server that answers each request with its next answer, piece by piece, and counts its connections."""

    def __init__(self, *answers: list[bytes]) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.port = 0
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        """Set it to let the next piece go out."""
        self.breaks = False
        """Close the connection after each answer."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.asked.set()
                first, *more = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                writer.write(first)
                for piece in more:
                    await self.go_on.wait()
                    writer.write(piece)
                if self.breaks:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def site(
    *answers: list[bytes], response_class: type[aiohttp.ClientResponse] = aiohttp.ClientResponse
) -> AsyncIterator[tuple[Site, LightweightSender, aiohttp.ClientSession]]:
    made = Site(*answers)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=0.2)
    jar = aiohttp.CookieJar(unsafe=True)
    try:
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=jar, auto_decompress=False) as session:
            sender = LightweightSender(session, response_class=response_class)
            try:
                yield made, sender, session
            finally:
                sender.close()
    finally:
        server.close()
        await server.wait_closed()  # from Python 3.12.1 on this waits for connections too, which the session has closed


async def ask(there: Site, sender: LightweightSender, method: str = "GET") -> aiohttp.ClientResponse | SmallResponse:
    url = Url(f"http://127.0.0.1:{there.port}/a")
    return await sender.send(method, url, url.target, headers={}, proxy=None, allow_small=True)


def test_the_interfaces_of_aiohttp_are_as_known():
    """If a new aiohttp lacks an interface, users lose only speed; so this test must find it."""
    assert supports_small_responses()


async def test_a_complete_response_is_small_and_its_connection_is_used_again():
    async with site([OK]) as (there, sender, _):
        for _ in range(3):
            response = await ask(there, sender)
            assert isinstance(response, SmallResponse)
            assert (response.body, response.headers["ETag"]) == (b"hi", '"e"')
        assert there.connections == 1


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 404, b"no"),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nContent-Range: bytes 0-1/9\r\n\r\nhi", 206, b"hi"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 200, b"hi"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Encoding: gzip\r\n\r\nhi", 200, b"hi"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\n\r\nhi", 200, b"hi"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, 200, b"hi"),
        (b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n", 302, b""),
    ],
)
async def test_any_other_response_is_an_ordinary_response(answer: bytes, status: int, body: bytes):
    async with site([answer]) as (there, sender, _):
        response = await ask(there, sender)
        assert isinstance(response, aiohttp.ClientResponse)
        assert (response.status, await response.read()) == (status, body)


@pytest.mark.parametrize("size", [2, 100_000, 128 * 1024])
async def test_a_short_body_that_arrives_in_parts_is_small(size: int):
    body = bytes(size)
    head = OK.replace(b": 2", f": {size}".encode()).removesuffix(b"hi")
    async with site([head + body[:1], body[1:]]) as (there, sender, _):
        there.go_on.set()
        for _ in range(2):
            response = await ask(there, sender)
            assert isinstance(response, SmallResponse)
            assert response.body == body
        assert there.connections == 1


async def test_a_long_body_is_an_ordinary_response():
    size = 128 * 1024 + 1
    head = OK.replace(b": 2", f": {size}".encode()).removesuffix(b"hi")
    async with site([head, bytes(size)]) as (there, sender, _):
        response = await ask(there, sender)
        assert isinstance(response, aiohttp.ClientResponse)
        there.go_on.set()
        assert await response.read() == bytes(size)


async def test_a_slow_body_becomes_an_ordinary_response(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bulkdl.http.lightweight.keepalive_pool._SMALL_WAIT_S", 0.0)
    async with site([OK[:-1], OK[-1:]]) as (there, sender, _):
        response = await ask(there, sender)
        assert isinstance(response, aiohttp.ClientResponse)
        there.go_on.set()
        assert await response.read() == b"hi"


async def test_a_body_that_stops_half_way_is_given_up():
    async with site([OK[:-1]]) as (there, sender, _):
        response = await ask(there, sender)
        assert isinstance(response, aiohttp.ClientResponse)
        with pytest.raises(TimeoutError):
            await response.read()


async def test_the_response_reports_a_body_that_breaks():
    async with site([OK[:-1], b""]) as (there, sender, _):
        there.breaks = True
        there.go_on.set()
        response = await ask(there, sender)
        assert isinstance(response, aiohttp.ClientResponse)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_a_silent_connection_is_given_up_while_others_go_on():
    async with site([b""], [OK]) as (there, sender, _):
        silent = asyncio.create_task(ask(there, sender))
        await there.asked.wait()
        while not silent.done():
            assert isinstance(await ask(there, sender), SmallResponse)
        assert isinstance(silent.exception(), TimeoutError)


async def test_an_unrequested_response_answers_no_request():
    other = OK.replace(b"hi", b"no")
    async with site([OK + other], [OK]) as (there, sender, _):
        for _ in range(2):
            response = await ask(there, sender)
            assert isinstance(response, SmallResponse)
            assert response.body == b"hi"
        assert there.connections == 2


async def test_a_connection_that_is_to_be_closed_is_not_used_again():
    async with site([OK.replace(b"ETag", b"Connection: close\r\nETag")]) as (there, sender, _):
        for _ in range(2):
            assert isinstance(await ask(there, sender), SmallResponse)
        assert there.connections == 2


async def test_every_way_to_send_uses_the_connections_that_are_kept():
    cookie = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\n\r\nhi"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    async with site([OK], [head], [OK], [cookie], [OK]) as (there, sender, session):
        assert isinstance(await ask(there, sender), SmallResponse)
        by_head = await ask(there, sender, "HEAD")
        assert isinstance(by_head, aiohttp.ClientResponse)
        by_head.release()
        assert isinstance(await ask(there, sender), SmallResponse)
        for _ in range(2):  # the second has a cookie, and goes through the session
            response = await ask(there, sender)
            assert isinstance(response, aiohttp.ClientResponse)
            assert await response.read() == b"hi"
        async with session.get(URL(f"http://127.0.0.1:{there.port}/")) as last:
            await last.read()
        assert there.connections == 1


async def test_a_connection_that_is_not_used_goes_back_to_the_pool():
    async with site([OK]) as (there, sender, session):
        await ask(there, sender)
        await until(lambda: bool(session.connector and session.connector._conns))
        async with session.get(URL(f"http://127.0.0.1:{there.port}/")) as last:
            await last.read()
        assert there.connections == 1


async def test_a_body_without_a_length_counts_as_cut_if_its_connection_ended_before_the_response_started(
    monkeypatch: pytest.MonkeyPatch,
):
    """Nobody can tell any more whether the connection was closed or broke, so the body must not pass for a complete
    one.
    """
    exchange = KeepAlivePool.exchange

    async def late(pool: KeepAlivePool, head: bytes) -> SmallResponse | Connection:
        found = await exchange(pool, head)
        assert not isinstance(found, SmallResponse)
        protocol = found.protocol
        assert protocol is not None
        await until(lambda: not protocol.is_connected())
        return found

    monkeypatch.setattr(KeepAlivePool, "exchange", late)
    async with site([b"HTTP/1.0 200 OK\r\n\r\npart"], response_class=WatchedResponse) as (there, sender, _):
        there.breaks = True
        response = await ask(there, sender)
        assert isinstance(response, WatchedResponse)
        assert response.was_cut


async def until(holds: Callable[[], bool]) -> None:
    """Return when `holds` is true, by polling."""
    loop, seen = asyncio.get_running_loop(), asyncio.Event()

    def look() -> None:
        if holds():
            seen.set()
        else:
            loop.call_later(0.01, look)

    look()
    await seen.wait()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno", b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"])  # fmt: skip
async def test_no_timer_goes_on_for_a_body_that_has_arrived(answer: bytes):
    async with site([answer]) as (there, sender, session):
        response = await ask(there, sender)
        assert isinstance(response, aiohttp.ClientResponse)
        await response.read()
        ((kept,),) = session.connector._conns.values()  # type: ignore[union-attr]
        assert kept[0]._read_timeout_handle is None
