"""A response that is here whole is taken at once; any other is an ordinary response, as if nobody had looked."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from bulkdl.core.urls import Url
from bulkdl.http.aiohttp_compat import WatchedResponse
from bulkdl.http.lightweight.keepalive_pool import KeepAlivePool, SmallResponse, has_known_parts
from bulkdl.http.lightweight.sender import LightweightSender

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.connector import Connection

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: "e"\r\n\r\nhi'


class Site:
    """Answers each request with the next of its answers, in the pieces that it has; counts its connections."""

    def __init__(self, *answers: list[bytes]) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.port = 0
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        """Set: the next piece may follow."""
        self.breaks = False
        """Whether the connection ends after an answer."""

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
        await server.wait_closed()  # of connections too, from Python 3.12.1 on: the session has closed its own


async def ask(there: Site, sender: LightweightSender, method: str = "GET") -> aiohttp.ClientResponse | SmallResponse:
    url = Url(f"http://127.0.0.1:{there.port}/a")
    return await sender.send(method, url, url.target, headers={}, proxy=None, brief=True)


def test_the_interfaces_of_aiohttp_are_as_known():
    """A change in aiohttp costs speed where a user installs it, and is seen here."""
    assert has_known_parts()


async def test_what_is_here_whole_is_brief_and_its_connection_is_used_again():
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
async def test_any_other_response_is_an_ordinary_one(answer: bytes, status: int, body: bytes):
    async with site([answer]) as (there, sender, _):
        response = await ask(there, sender)
        assert isinstance(response, aiohttp.ClientResponse)
        assert (response.status, await response.read()) == (status, body)


@pytest.mark.parametrize("size", [2, 100_000, 128 * 1024])
async def test_a_short_body_that_comes_in_parts_is_brief(size: int):
    body = bytes(size)
    head = OK.replace(b": 2", f": {size}".encode()).removesuffix(b"hi")
    async with site([head + body[:1], body[1:]]) as (there, sender, _):
        there.go_on.set()
        for _ in range(2):
            response = await ask(there, sender)
            assert isinstance(response, SmallResponse)
            assert response.body == body
        assert there.connections == 1


async def test_a_body_that_is_not_short_is_an_ordinary_one():
    size = 128 * 1024 + 1
    head = OK.replace(b": 2", f": {size}".encode()).removesuffix(b"hi")
    async with site([head, bytes(size)]) as (there, sender, _):
        response = await ask(there, sender)
        assert isinstance(response, aiohttp.ClientResponse)
        there.go_on.set()
        assert await response.read() == bytes(size)


async def test_a_body_that_takes_its_time_goes_on_as_an_ordinary_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bulkdl.http.lightweight.keepalive_pool._SOON_S", 0.0)
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


async def test_a_body_that_breaks_is_told_by_the_response():
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


async def test_a_response_that_nobody_asked_for_answers_nothing():
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


async def test_a_body_without_a_length_is_cut_where_its_connection_was_lost_before_anyone_looked(
    monkeypatch: pytest.MonkeyPatch,
):
    """Whether it was closed or broken cannot be told any more, so that it must not pass for a whole one."""
    exchange = KeepAlivePool.exchange

    async def late(lines: KeepAlivePool, head: bytes) -> SmallResponse | Connection:
        found = await exchange(lines, head)
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
    """Until it holds; nobody tells of it."""
    loop, seen = asyncio.get_running_loop(), asyncio.Event()

    def look() -> None:
        if holds():
            seen.set()
        else:
            loop.call_later(0.01, look)

    look()
    await seen.wait()
