"""How a request goes out: through aiohttp's session, or, where it differs from an earlier one in little but its path, without it.

aiohttp's session prepares each request anew: headers, cookies, timers, traces. For products of a few KiB that is most of what
they cost. A request that needs none of it is written to a connection of aiohttp's own pool as it stands, and read as ever, by
aiohttp's `ClientResponse`. That is a GET or HEAD without a proxy, cookies, user information or a header that has to do with
framing; every other one goes through the session.

The interfaces that this stands on, seen by tests/test_sender.py; where they are not as known, the session sends everything:

- `TCPConnector.connect`, with a `ClientRequest` that stands for its origin; `Connection.protocol`, `.transport` and `.close`;
- `ResponseHandler.set_response_params` and `.start_timeout`; `ClientResponse`, made for a request that has been sent, and its `start`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from bulkdl.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.connector import Connection
    from multidict import CIMultiDictProxy

    from bulkdl.urls import Url

__all__ = ["FIELD_SIZE", "Brief", "Sender", "is_as_known"]

FIELD_SIZE: Final = 65536
"""Bytes of one field of a response's head, at most."""
LOOK_S: Final = 1.0
"""How often it is looked which answers are late; so long a connection that is not used is kept from aiohttp's pool."""
_BUFFER: Final = 65536
_FRAMING: Final = frozenset(
    {"connection", "content-length", "cookie", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"}
)
_BREAKS: Final = re.compile("[\r\n\0\ud800-\udfff]")
"""What cannot stand in a head as it is, or not in UTF-8: the session knows what to do with it."""


class _Sent:
    """Stands for the writer of a request that is out already."""

    output_size = 0


_SENT: Final[Any] = _Sent()


def is_as_known() -> bool:
    """Whether aiohttp has the interfaces that requests without its session need."""
    params = set(ResponseHandler.set_response_params.__code__.co_varnames)
    made = set(aiohttp.ClientResponse.__init__.__code__.co_varnames)
    connect = aiohttp.TCPConnector.connect.__code__.co_varnames[:4]
    return (
        {"skip_payload", "read_until_eof", "auto_decompress", "read_timeout", "read_bufsize"} <= params
        and {"max_line_size", "max_field_size"} <= params
        and {"writer", "continue100", "timer", "request_info", "traces", "loop", "session", "stream_writer"} <= made
        and connect == ("self", "req", "traces", "timeout")
        and hasattr(ResponseHandler, "start_timeout")
    )


@dataclass(frozen=True, slots=True)
class Brief:
    """A 200 that was here whole as soon as its head was, and has nothing in it that needs more than reading."""

    headers: CIMultiDictProxy[str]
    body: bytes
    status: int = 200


def _is_told(fields: CIMultiDictProxy[str]) -> bool:
    """Whether a body that has ended has its length from `Content-Length` alone, and nothing else is to be done for it."""
    return (
        "Content-Length" in fields
        and "Transfer-Encoding" not in fields
        and "Content-Encoding" not in fields
        and "Set-Cookie" not in fields
    )


@dataclass(slots=True, eq=False)
class _Line:
    """A connection of the pool that one brief exchange after the other goes over."""

    connection: Connection
    since: float = 0.0
    """When it was used last."""


@dataclass(frozen=True, slots=True)
class _Origin:
    """What all requests of one session to one origin share."""

    request: aiohttp.ClientRequest
    info: aiohttp.RequestInfo
    fields: str
    """The usual header fields, as they go out."""
    idle: list[_Line] = field(default_factory=list)
    """The one that was used last stands last."""


class Sender:
    """Sends the requests of one session; `session`'s own headers go with each."""

    def __init__(self, session: aiohttp.ClientSession, *, response_class: type[aiohttp.ClientResponse]) -> None:
        self._session = session
        self._response_class = response_class
        self._origins: dict[str, _Origin] = {}
        """By what stands before the path."""
        self._asked: set[_Line] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._lean = is_as_known()

    async def send(
        self, method: str, url: Url, target: str, *, headers: Mapping[str, str], proxy: str | None, brief: bool = False
    ) -> aiohttp.ClientResponse | Brief:
        """The response to a request for `target` (path and query) at `url`'s origin; its head has arrived.

        `brief`: where all of it has arrived, it may come as a `Brief`. Redirects are not followed. Raises what aiohttp raises.
        """
        beginning = url.beginning
        if not self._lean or proxy is not None or not self._is_plain(method, url, target, headers):
            whole = beginning + target
            return await self._session.request(
                method, URL(whole, encoded=whole.isascii()), headers=headers, allow_redirects=False, proxy=proxy
            )
        origin = self._origins.get(beginning) or self._origin(beginning)
        path = target if target.startswith("/") else f"/{target}"
        head = f"{method} {path} HTTP/1.1\r\n{self._fields(origin, headers)}\r\n".encode()
        sent = self._briefly if brief and method == "GET" else self._sent
        try:
            return await sent(origin, method, target, head)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            # A connection that was kept may be closed by the server at any time (RFC 9112 §9.3.1).
            return await self._sent(origin, method, target, head)

    def _is_plain(self, method: str, url: Url, target: str, headers: Mapping[str, str]) -> bool:
        if method not in ("GET", "HEAD") or len(self._session.cookie_jar) or url.has_userinfo:
            return False
        if not (target.isascii() and url.beginning.isascii()) or _BREAKS.search(target):
            return False
        if not headers:
            return True
        lines = (*headers, *headers.values())
        return not any(map(_BREAKS.search, lines)) and _FRAMING.isdisjoint(map(str.lower, headers))

    def _origin(self, beginning: str) -> _Origin:
        request = aiohttp.ClientRequest(
            "GET",
            URL(beginning, encoded=True),
            headers=self._session.headers,
            loop=asyncio.get_running_loop(),
            session=self._session,
        )
        fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        found = self._origins[beginning] = _Origin(request, request.request_info, fields)
        return found

    def _fields(self, origin: _Origin, headers: Mapping[str, str]) -> str:
        if not headers:
            return origin.fields
        merged = CIMultiDict(origin.request.headers)
        merged.update(headers)
        return "".join(f"{name}: {value}\r\n" for name, value in merged.items())

    async def _briefly(
        self, origin: _Origin, method: str, target: str, head: bytes
    ) -> aiohttp.ClientResponse | Brief:
        line = self._idle_line(origin) or _Line(await self._connected(origin))
        connection, protocol = line.connection, line.connection.protocol
        try:
            _write(connection, method, head, read_timeout=None)  # `_look` watches over it
            assert protocol is not None
            line.since = origin.request.loop.time()
            self._asked.add(line)
            if self._watch is None:
                self._look_soon()
            try:
                message, payload = await protocol.read()
            except HttpProcessingError:
                pass  # the response meets it again, and says it in aiohttp's words
            else:
                if message.code == 200 and payload.is_eof() and _is_told(message.headers):
                    body = payload.read_nowait()
                    origin.idle.append(line)
                    return Brief(message.headers, body)
                protocol.feed_data((message, payload))
            finally:
                self._asked.discard(line)
            protocol.read_timeout = self._session.timeout.sock_read
            protocol.start_timeout()
        except BaseException:
            connection.close()
            raise
        return await self._received(origin, method, target, connection)

    def _idle_line(self, origin: _Origin) -> _Line | None:
        """One that nothing has come over since: what nobody has asked for is the answer to nothing."""
        while origin.idle:
            line = origin.idle.pop()
            protocol = line.connection.protocol
            if protocol is not None and protocol.is_connected() and not protocol.should_close:
                return line
            line.connection.release()
        return None

    def _look_soon(self) -> None:
        seconds = min(LOOK_S, (self._session.timeout.sock_read or LOOK_S) / 8)
        self._watch = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """What has been silent for too long is given up, and what has not been used for a while given back to the pool."""
        now, most = asyncio.get_running_loop().time(), self._session.timeout.sock_read
        for line in self._asked:
            if most and now - line.since > most and line.connection.protocol is not None:
                line.connection.protocol.set_exception(aiohttp.SocketTimeoutError("Timeout on reading data from socket"))
        for origin in self._origins.values():
            while origin.idle and now - origin.idle[0].since > LOOK_S:
                origin.idle.pop(0).connection.release()
        if self._asked or any(origin.idle for origin in self._origins.values()):
            self._look_soon()
        else:
            self._watch = None

    def close(self) -> None:
        """Give back what is idle. To be called before the session is closed."""
        if self._watch is not None:
            self._watch.cancel()
        for origin in self._origins.values():
            while origin.idle:
                origin.idle.pop().connection.release()

    async def _connected(self, origin: _Origin) -> Connection:
        session = self._session
        assert session.connector is not None
        try:
            return await session.connector.connect(origin.request, traces=[], timeout=session.timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error

    async def _sent(self, origin: _Origin, method: str, target: str, head: bytes) -> aiohttp.ClientResponse:
        connection = await self._connected(origin)
        try:
            _write(connection, method, head, read_timeout=self._session.timeout.sock_read)
        except BaseException:
            connection.close()
            raise
        return await self._received(origin, method, target, connection)

    async def _received(
        self, origin: _Origin, method: str, target: str, connection: Connection
    ) -> aiohttp.ClientResponse:
        try:
            response = self._response(origin, method)
            try:
                await response.start(connection)
            except BaseException:
                response.close()
                raise
        except BaseException:
            connection.close()
            raise
        if "Set-Cookie" in response.headers:
            url = URL(f"{origin.request.url.origin()}{target}", encoded=True)  # the path limits where a cookie goes
            self._session.cookie_jar.update_cookies_from_headers(response.headers.getall("Set-Cookie"), url)
        return response

    def _response(self, origin: _Origin, method: str) -> aiohttp.ClientResponse:
        return self._response_class(
            method,
            origin.request.url,  # nobody asks the response for its own
            writer=None,
            continue100=None,
            timer=None,  # type: ignore[arg-type]  # nothing limits the whole
            request_info=origin.info,
            traces=[],
            loop=origin.request.loop,
            session=self._session,
            stream_writer=_SENT,
        )


def _write(connection: Connection, method: str, head: bytes, *, read_timeout: float | None) -> None:
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None or transport.is_closing() or protocol.should_close:
        raise aiohttp.ServerDisconnectedError
    protocol.set_response_params(
        skip_payload=method == "HEAD",
        read_until_eof=True,
        auto_decompress=False,
        read_timeout=read_timeout,
        read_bufsize=_BUFFER,
        max_line_size=FIELD_SIZE,
        max_field_size=FIELD_SIZE,
    )
    transport.write(head)
    if read_timeout is not None:
        protocol.start_timeout()
