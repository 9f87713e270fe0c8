"""How a request goes out: through aiohttp's session, or, where it differs from an earlier one in little but its path, without it.

aiohttp's session prepares each request anew: headers, cookies, timers, traces. For products of a few KiB that is most of what
they cost. A request that needs none of it is written to a connection of aiohttp's own pool as it stands, and read as ever, by
aiohttp's `ClientResponse`, unless all of it is here at once (`brief`). That is a GET or HEAD without a proxy, cookies, user information or a header that has to do with
framing; every other one goes through the session.

The interfaces that this stands on, seen by tests/http/lightweight/test_sender.py; where they are not as known, the session sends everything:

- `TCPConnector.connect`, with a `ClientRequest` that stands for its origin, and what `brief` names;
- `ClientResponse`, made for a request that has been sent, and its `start`.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.http.lightweight.keepalive_pool import KeepAlivePool, SmallResponse, has_known_parts, write
from bulkdl.http.lightweight.pipelining_policy import PipeliningConfig, PipeliningPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp.connector import Connection

    from bulkdl.core.urls import Url

__all__ = ["LightweightSender", "is_as_known"]

_FRAMING: Final = frozenset(
    {"connection", "content-length", "cookie", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"}
)
_BREAKS: Final = re.compile("[\r\n\0\ud800-\udfff]")
"""What cannot stand in a head as it is, or not in UTF-8: the session knows what to do with it."""


_ROW: Final = PipeliningConfig()


class _Sent:
    """Stands for the writer of a request that is out already."""

    output_size = 0


_SENT: Final[Any] = _Sent()


def is_as_known() -> bool:
    """Whether aiohttp has the interfaces that requests without its session need."""
    made = set(aiohttp.ClientResponse.__init__.__code__.co_varnames)
    connect = aiohttp.TCPConnector.connect.__code__.co_varnames[:4]
    return (
        has_known_parts()
        and {"writer", "continue100", "timer", "request_info", "traces", "loop", "session", "stream_writer"} <= made
        and connect == ("self", "req", "traces", "timeout")
    )


@dataclass(frozen=True, slots=True)
class _Origin:
    """What all requests of one session to one origin share."""

    request: aiohttp.ClientRequest
    info: aiohttp.RequestInfo
    fields: str
    """The usual header fields, as they go out."""
    lines: KeepAlivePool


class LightweightSender:
    """Sends the requests of one session; `session`'s own headers go with each."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        response_class: type[aiohttp.ClientResponse],
        row: PipeliningConfig | None = _ROW,
    ) -> None:
        """`row`: what an origin has to show before anything is asked ahead there; None: nothing ever is."""
        self._row = row
        self._session = session
        self._response_class = response_class
        self._origins: dict[str, _Origin] = {}
        """By what stands before the path."""
        self._lean = is_as_known()

    async def send(
        self, method: str, url: Url, target: str, *, headers: Mapping[str, str], proxy: str | None, brief: bool = False
    ) -> aiohttp.ClientResponse | SmallResponse:
        """The response to a request for `target` (path and query) at `url`'s origin; its head has arrived.

        `brief`: where all of it has arrived, it may come as a `SmallResponse`. Redirects are not followed. Raises what aiohttp raises.
        """
        beginning = url.beginning
        if not self._lean or proxy is not None or not self._is_plain(method, url, target, headers):
            whole = beginning + target
            return await self._session.request(
                method, URL(whole, encoded=whole.isascii()), headers=headers, allow_redirects=False, proxy=proxy
            )
        origin = self._origins.get(beginning) or self._origin(beginning)
        head = _head(method, target, self._fields(origin, headers))
        sent = self._briefly if brief and method == "GET" else self._sent
        try:
            return await sent(origin, method, target, head)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            # A connection that was kept may be closed by the server at any time (RFC 9112 §9.3.1).
            return await self._sent(origin, method, target, head)

    def lines_ahead(self, url: Url) -> KeepAlivePool | None:
        """The connections to `url`'s origin, where requests may go out ahead of answers; None where they may not."""
        origin = self._origins.get(url.beginning)
        if origin is None or self._row is None or not origin.lines.lead.may_ask_ahead:
            return None
        return origin.lines

    def heads(self, url: Url, targets: Sequence[str], *, headers: Mapping[str, str]) -> list[bytes] | None:
        """All of a GET for each of `targets` at `url`'s origin, which has been asked before; None where the session has to send one."""
        origin = self._origins.get(url.beginning)
        if origin is None or not self._is_plain("GET", url, "".join(targets), headers):
            return None
        fields = self._fields(origin, headers)
        return [_head("GET", target, fields) for target in targets]

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
        row = self._row or _ROW
        lead = PipeliningPolicy(wanted=row.length, of_any=row.of_any)
        lines = KeepAlivePool(lambda: self._connected(request), silence_s=self._session.timeout.sock_read, lead=lead)
        found = self._origins[beginning] = _Origin(request, request.request_info, fields, lines)
        return found

    def _fields(self, origin: _Origin, headers: Mapping[str, str]) -> str:
        if not headers:
            return origin.fields
        merged = CIMultiDict(origin.request.headers)
        merged.update(headers)
        return "".join(f"{name}: {value}\r\n" for name, value in merged.items())

    async def _briefly(
        self, origin: _Origin, method: str, target: str, head: bytes
    ) -> aiohttp.ClientResponse | SmallResponse:
        found = await origin.lines.exchange(head)
        return found if isinstance(found, SmallResponse) else await self._received(origin, method, target, found)

    def close(self) -> None:
        """Give back the connections that are kept. To be called before the session is closed."""
        for origin in self._origins.values():
            origin.lines.give_back()

    async def _connected(self, request: aiohttp.ClientRequest) -> Connection:
        session = self._session
        assert session.connector is not None
        try:
            return await session.connector.connect(request, traces=[], timeout=session.timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error

    async def _sent(self, origin: _Origin, method: str, target: str, head: bytes) -> aiohttp.ClientResponse:
        connection = origin.lines.idle_connection() or await self._connected(origin.request)
        try:
            write(connection, head, skip_payload=method == "HEAD", read_timeout=self._session.timeout.sock_read)
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
            origin.lines.give_back()  # with cookies the session sends, over connections of the pool
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


def _head(method: str, target: str, fields: str) -> bytes:
    path = target if target.startswith("/") else f"/{target}"
    return f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode()
