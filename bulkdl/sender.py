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
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict
from yarl import URL

from bulkdl.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.connector import Connection

    from bulkdl.urls import Url

__all__ = ["FIELD_SIZE", "Sender", "is_as_known"]

FIELD_SIZE: Final = 65536
"""Bytes of one field of a response's head, at most."""
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
class _Origin:
    """What all requests of one session to one origin share."""

    request: aiohttp.ClientRequest
    info: aiohttp.RequestInfo
    fields: str
    """The usual header fields, as they go out."""


class Sender:
    """Sends the requests of one session; `session`'s own headers go with each."""

    def __init__(self, session: aiohttp.ClientSession, *, response_class: type[aiohttp.ClientResponse]) -> None:
        self._session = session
        self._response_class = response_class
        self._origins: dict[str, _Origin] = {}
        """By what stands before the path."""
        self._lean = is_as_known()

    async def send(
        self, method: str, url: Url, target: str, *, headers: Mapping[str, str], proxy: str | None
    ) -> aiohttp.ClientResponse:
        """The response to a request for `target` (path and query) at `url`'s origin; its head has arrived.

        Redirects are not followed. Raises what aiohttp raises.
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
        try:
            return await self._sent(origin, method, target, head)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            # A connection that was kept may be closed by the server at any time (RFC 9112 §9.3.1).
            return await self._sent(origin, method, target, head)

    def _is_plain(self, method: str, url: Url, target: str, headers: Mapping[str, str]) -> bool:
        if method not in ("GET", "HEAD") or len(self._session.cookie_jar) or url.has_userinfo:
            return False
        if not (target.isascii() and url.beginning.isascii()):
            return False
        lines = (target, *headers, *headers.values()) if headers else (target,)
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

    async def _sent(self, origin: _Origin, method: str, target: str, head: bytes) -> aiohttp.ClientResponse:
        session = self._session
        assert session.connector is not None
        try:
            connection = await session.connector.connect(origin.request, traces=[], timeout=session.timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error
        try:
            self._write(connection, method, head)
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
            session.cookie_jar.update_cookies_from_headers(response.headers.getall("Set-Cookie"), url)
        return response

    def _write(self, connection: Connection, method: str, head: bytes) -> None:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or transport.is_closing():
            raise aiohttp.ServerDisconnectedError
        protocol.set_response_params(
            skip_payload=method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=self._session.timeout.sock_read,
            read_bufsize=_BUFFER,
            max_line_size=FIELD_SIZE,
            max_field_size=FIELD_SIZE,
        )
        transport.write(head)
        protocol.start_timeout()

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
