"""Requests that bypass aiohttp's session are the ones that the session would have sent."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from bulkdl.core.urls import Url
from bulkdl.http.lightweight.keepalive_pool import SmallResponse
from bulkdl.http.lightweight.sender import LightweightSender, supports_direct_requests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
OK = HEAD + b"hi"
USUAL = {"User-Agent": "a program", "Accept": "*/*", "Accept-Encoding": "identity"}


@dataclass
class Site:
    """Server that records the request heads and answers them in turn.

    The last answer repeats for all further requests.
    """

    answers: list[bytes | None]
    """None: close the connection instead."""
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                self.asked.set()
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer is None:
                    return
                writer.write(answer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    def url(self, rest: str) -> Url:
        return Url(f"http://127.0.0.1:{self.port}{rest}")

    def fields(self, at: int = -1) -> tuple[bytes, set[bytes]]:
        """Return the request line and the header fields of a request."""
        first, *fields = self.heads[at].removesuffix(b"\r\n\r\n").split(b"\r\n")
        return first, set(fields)


@asynccontextmanager
async def site(*answers: bytes | None) -> AsyncIterator[Site]:
    made = Site(list(answers) or [OK])
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def sender(*, read_s: float = 30.0) -> AsyncIterator[tuple[LightweightSender, aiohttp.ClientSession]]:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=read_s)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(
        headers=USUAL, timeout=timeout, cookie_jar=jar, auto_decompress=False, requote_redirect_url=False
    ) as session:
        made = LightweightSender(session, response_class=aiohttp.ClientResponse)
        yield made, session
        made.close()


@pytest.fixture(params=[False, True], ids=["response", "small"], autouse=True)
def allow_small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with and without small responses."""
    monkeypatch.setitem(OPTIONS, "allow_small", request.param)


OPTIONS = {"allow_small": False}


async def send(sender: LightweightSender, url: Url, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await sender.send(method, url, url.target, headers=fields, proxy=None, **OPTIONS)
    if isinstance(response, SmallResponse):
        return 200, response.body
    try:
        return response.status, await response.read()
    finally:
        response.release()


async def by_session(session: aiohttp.ClientSession, url: Url, method: str = "GET", **headers: str) -> None:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.request(method, URL(url.raw, encoded=True), headers=fields, allow_redirects=False):
        pass


def test_the_interfaces_of_aiohttp_are_as_known():
    """If a new aiohttp lacks an interface, users lose only speed; so this test must find it."""
    assert supports_direct_requests()


@pytest.mark.parametrize(
    ("method", "rest", "headers"),
    [
        ("GET", "/a/b.zip", {}),
        ("HEAD", "/a/b.zip", {}),
        ("GET", "", {}),
        ("GET", "?x=1", {}),
        ("GET", "/a%2Fb%20c/;p=1?q=%C3%A9&r=a+b#part", {}),
        ("GET", "//twice//", {}),
        ("GET", "/a", {"accept": "application/zip", "X_Key": "ä, b"}),
        ("GET", "/a", {"Range": "bytes=5-", "If_Range": '"e"', "Authorization": "Bearer x"}),
        ("GET", "/a", {"If_Range": '"\udcff\udce9"'}),
        ("GET", "/a", {"user_agent": "another"}),
        ("GET", "/a", {"Host": "elsewhere"}),
        ("GET", "/a", {"Connection": "close"}),
    ],
)
async def test_a_request_is_the_one_that_the_session_would_send(method, rest, headers):
    async with site(HEAD if method == "HEAD" else OK) as there, sender() as (made, session):
        await by_session(session, there.url(rest), method, **headers)
        await send(made, there.url(rest), method, **headers)
        assert _lowered(there.fields(0)) == _lowered(there.fields(1))


def _lowered(request: tuple[bytes, set[bytes]]) -> tuple[bytes, set[bytes]]:
    """Return a request with its field names in lower case; case does not distinguish them."""
    parts = (line.partition(b":") for line in request[1])
    return request[0], {name.lower() + colon + value for name, colon, value in parts}


async def test_a_body_is_returned_and_its_connection_used_again():
    async with site() as there, sender() as (made, _):
        assert [await send(made, there.url(f"/{i}")) for i in range(5)] == [(200, b"hi")] * 5
        assert there.connections == 1


async def test_a_head_request_waits_for_no_body():
    async with site(HEAD) as there, sender() as (made, _):
        assert await send(made, there.url("/a"), "HEAD") == (200, b"")
        assert await send(made, there.url("/a"), "HEAD") == (200, b"")
        assert there.connections == 1


async def test_a_kept_connection_that_the_server_closes_is_tried_once_more():
    async with site(OK, None, OK) as there, sender() as (made, _):
        await send(made, there.url("/a"))
        assert await send(made, there.url("/b")) == (200, b"hi")
        assert there.connections == 2


async def test_a_server_that_always_closes_is_not_retried_forever():
    async with site(None) as there, sender() as (made, _):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await send(made, there.url("/a"))
        assert len(there.heads) == 2


async def test_cookies_are_sent_only_to_their_paths():
    cookie = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: s=1; Path=/in\r\n\r\nhi"
    async with site(cookie, OK) as there, sender() as (made, _):
        for rest in ("/in/a", "/in/b", "/out"):
            await send(made, there.url(rest))
        assert [b"s=1" in head for head in there.heads] == [False, True, False]


@pytest.mark.parametrize("value", ["a\r\nX-Other: 1", "a\nb", "a\0b"])
async def test_a_header_that_would_break_the_head_is_refused(value):
    async with site() as there, sender() as (made, _):
        with pytest.raises(ValueError, match=r"."):
            await send(made, there.url("/a"), Accept=value)
        assert not there.heads


async def test_interim_responses_are_passed_over():
    async with site(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK) as there, sender() as (made, _):
        assert await send(made, there.url("/a")) == (200, b"hi")


async def test_a_silent_server_times_out():
    async with site(b"") as there, sender(read_s=0.05) as (made, _):
        with pytest.raises(TimeoutError):
            await send(made, there.url("/a"))


async def test_a_response_with_invalid_http_breaks_only_its_own_connection():
    async with site(b"what?\r\n\r\n", OK) as there, sender() as (made, _):
        with pytest.raises(aiohttp.ClientResponseError):
            await send(made, there.url("/a"))
        assert await send(made, there.url("/b")) == (200, b"hi")


async def test_a_refused_connection_raises_the_same_error_as_through_the_session(unused_port: int):
    errors: list[type[BaseException]] = []
    url = Url(f"http://127.0.0.1:{unused_port}/a")
    async with sender() as (made, session):
        tries: list[Callable[[], Awaitable[object]]] = [lambda: send(made, url), lambda: by_session(session, url)]
        for attempt in tries:
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await attempt()
            errors.append(caught.type)
    assert errors[0] is errors[1]


async def test_a_cancelled_request_closes_its_connection():
    async with site(b"", OK) as there, sender() as (made, _):
        asking = asyncio.create_task(send(made, there.url("/a")))
        await there.asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        there.answers = [OK]
        assert await send(made, there.url("/b")) == (200, b"hi")
        assert there.connections == 2


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
