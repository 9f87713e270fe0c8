"""Sends a request through aiohttp's session, or directly if it differs from an earlier request in little but the path.

aiohttp's session prepares headers, cookies, timers and traces for each request. For products of a few KiB that is most
of their cost. A direct request is written as it is to a connection of aiohttp's own pool. `KeepAlivePool` returns a
small response; aiohttp's `ClientResponse` reads any other one. A request goes out directly if it is a GET or HEAD
without a proxy, cookies, user information in the URL, or a header that concerns the framing.

This module relies on the following interfaces; tests/http/lightweight/test_sender.py checks them. If the installed
aiohttp lacks one, the session sends everything:

- `TCPConnector.connect`, with a `ClientRequest` that stands for its origin, and the interfaces that `keepalive_pool`
  names;
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
from bulkdl.http.cookies import CookieJar
from bulkdl.http.lightweight.keepalive_pool import KeepAlivePool, SmallResponse, supports_small_responses, write_request
from bulkdl.http.lightweight.pipelining_policy import PipeliningConfig, PipeliningPolicy
from bulkdl.protocol.proxy import basic_pair

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp.connector import Connection

    from bulkdl.core.urls import Url
    from bulkdl.http.cookies import ChainCookies
    from bulkdl.protocol.proxy import Proxy

__all__ = ["LightweightSender", "proxy_arguments", "supports_direct_requests"]

_FRAMING: Final = frozenset(
    {"connection", "content-length", "cookie", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"}
)
_BREAKS: Final = re.compile("[\r\n\0\ud800-\udfff]")
"""Characters that would break the head or its UTF-8 encoding; the session handles or refuses them."""


_DEFAULT_PIPELINING: Final = PipeliningConfig()


class _SentWriter:
    """Stands in for the writer of a request that has been sent already."""

    output_size = 0


_SENT_WRITER: Final[Any] = _SentWriter()


def supports_direct_requests() -> bool:
    """Return True if this version of aiohttp has the interfaces that direct requests need."""
    made = set(aiohttp.ClientResponse.__init__.__code__.co_varnames)
    connect = aiohttp.TCPConnector.connect.__code__.co_varnames[:4]
    return (
        supports_small_responses()
        and {"writer", "continue100", "timer", "request_info", "traces", "loop", "session", "stream_writer"} <= made
        and connect == ("self", "req", "traces", "timeout")
    )


@dataclass(frozen=True, slots=True)
class _Origin:
    """The parts that all requests of one session to one origin share."""

    request: aiohttp.ClientRequest
    info: aiohttp.RequestInfo
    fields: str
    """The default header fields, as they are sent."""
    pool: KeepAlivePool


class LightweightSender:
    """Sends the requests of one session, each with the default headers of `session`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        response_class: type[aiohttp.ClientResponse],
        pipelining: PipeliningConfig | None = _DEFAULT_PIPELINING,
        cookies: CookieJar | None = None,
    ) -> None:
        """`pipelining`: conditions for pipelining requests to an origin; None: never pipeline.

        `cookies`: those of the session's account; `session` itself keeps none.
        """
        self._pipelining = pipelining
        self.cookies = CookieJar() if cookies is None else cookies
        self._session = session
        self._response_class = response_class
        self._origins: dict[str, _Origin] = {}
        """By the part of the URL before the path."""
        self._may_send_directly = supports_direct_requests()

    async def send(
        self,
        method: str,
        url: Url,
        target: str,
        *,
        headers: Mapping[str, str],
        proxy: Proxy | None,
        allow_small: bool = False,
        chain: ChainCookies | None = None,
    ) -> aiohttp.ClientResponse | SmallResponse:
        """Request `target` (path and query) at `url`'s origin, and return the response when its head has arrived.

        `allow_small`: the caller accepts a `SmallResponse`, if the response is one. Redirects are not followed.
        `chain`: the cookies of the redirects so far. Raises what aiohttp raises.
        """
        cookies = chain or self.cookies
        cookie = cookies.header(url, target) if chain is not None or self.cookies else ""
        response = await self._send(
            method, url, target, headers=headers, proxy=proxy, allow_small=allow_small, cookie=cookie
        )
        if not isinstance(response, SmallResponse) and "Set-Cookie" in response.headers:
            cookies.store(response.headers.getall("Set-Cookie"), url, target)
        return response

    async def _send(
        self,
        method: str,
        url: Url,
        target: str,
        *,
        headers: Mapping[str, str],
        proxy: Proxy | None,
        allow_small: bool,
        cookie: str,
    ) -> aiohttp.ClientResponse | SmallResponse:
        beginning = url.beginning
        by_session = not self._may_send_directly or cookie or (proxy is not None and not proxy.is_socks)
        if by_session or not self._is_plain(method, url, target, headers):
            whole = beginning + target
            return await self._session.request(
                method,
                URL(whole, encoded=whole.isascii()),
                headers=_with_cookie(headers, cookie) if cookie else headers,
                allow_redirects=False,
                **proxy_arguments(proxy),
            )
        origin = self._origins.get(beginning) or self._origin(beginning)
        head = _head(method, target, self._fields(origin, headers))
        send = self._send_small if allow_small and method == "GET" else self._send_directly
        try:
            return await send(origin, method, head)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            # The server may close a kept-alive connection at any time (RFC 9112 §9.3.1), so retry once.
            return await self._send_directly(origin, method, head)

    def pipelining_pool(self, url: Url) -> KeepAlivePool | None:
        """Return the pool of `url`'s origin if requests to it may be pipelined; else None."""
        origin = self._origins.get(url.beginning)
        if origin is None or self._pipelining is None or not origin.pool.policy.may_pipeline:
            return None
        return origin.pool

    def request_heads(self, url: Url, targets: Sequence[str], *, headers: Mapping[str, str]) -> list[bytes] | None:
        """Return a complete GET for each of `targets` at `url`'s origin.

        None if the session must send one of them, or if no request went to this origin yet.
        """
        origin = self._origins.get(url.beginning)
        if origin is None or not self._is_plain("GET", url, "".join(targets), headers):
            return None
        if self.cookies and any(self.cookies.header(url, target) for target in targets):
            return None
        fields = self._fields(origin, headers)
        return [_head("GET", target, fields) for target in targets]

    def _is_plain(self, method: str, url: Url, target: str, headers: Mapping[str, str]) -> bool:
        if method not in ("GET", "HEAD") or url.has_userinfo:
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
        config = self._pipelining or _DEFAULT_PIPELINING
        policy = PipeliningPolicy(required_answers=config.required_answers, any_server=config.any_server)
        pool = KeepAlivePool(lambda: self._connect(request), timeout_s=self._session.timeout.sock_read, policy=policy)
        origin = self._origins[beginning] = _Origin(request, request.request_info, fields, pool)
        return origin

    def _fields(self, origin: _Origin, headers: Mapping[str, str]) -> str:
        if not headers:
            return origin.fields
        merged = CIMultiDict(origin.request.headers)
        merged.update(headers)
        return "".join(f"{name}: {value}\r\n" for name, value in merged.items())

    async def _send_small(self, origin: _Origin, method: str, head: bytes) -> aiohttp.ClientResponse | SmallResponse:
        found = await origin.pool.exchange(head)
        return found if isinstance(found, SmallResponse) else await self._read_response(origin, method, found)

    def close(self) -> None:
        """Give the kept connections back to aiohttp's pool. Call this before the session is closed."""
        for origin in self._origins.values():
            origin.pool.release_idle()

    async def _connect(self, request: aiohttp.ClientRequest) -> Connection:
        session = self._session
        assert session.connector is not None
        try:
            return await session.connector.connect(request, traces=[], timeout=session.timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error

    async def _send_directly(self, origin: _Origin, method: str, head: bytes) -> aiohttp.ClientResponse:
        connection = origin.pool.take_idle() or await self._connect(origin.request)
        try:
            write_request(connection, head, skip_payload=method == "HEAD", read_timeout=self._session.timeout.sock_read)
        except BaseException:
            connection.close()
            raise
        return await self._read_response(origin, method, connection)

    async def _read_response(self, origin: _Origin, method: str, connection: Connection) -> aiohttp.ClientResponse:
        try:
            response = self._make_response(origin, method)
            try:
                await response.start(connection)
            except BaseException:
                response.close()
                raise
        except BaseException:
            connection.close()
            raise
        if "Set-Cookie" in response.headers:
            origin.pool.release_idle()  # from now on the session sends the cookie, over connections of aiohttp's pool
        return response

    def _make_response(self, origin: _Origin, method: str) -> aiohttp.ClientResponse:
        return self._response_class(
            method,
            origin.request.url,  # no caller reads the response's own URL
            writer=None,
            continue100=None,
            timer=None,  # type: ignore[arg-type]  # there is no total timeout
            request_info=origin.info,
            traces=[],
            loop=origin.request.loop,
            session=self._session,
            stream_writer=_SENT_WRITER,
        )


def proxy_arguments(proxy: Proxy | None) -> dict[str, Any]:
    """Return the arguments by which a session's request takes `proxy`; a SOCKS proxy is the session's connector's."""
    if proxy is None or proxy.is_socks:
        return {}
    pair = basic_pair(proxy)
    # aiohttp would encode in Latin-1; curl sends the bytes of the variable, which are UTF-8.
    return {
        "proxy": URL(proxy.url),
        "proxy_auth": None if pair is None else aiohttp.BasicAuth(*pair, encoding="utf-8"),
    }


def _with_cookie(headers: Mapping[str, str], cookie: str) -> dict[str, str]:
    """Return `headers` with `cookie` behind the product's own `Cookie` field, if it has one."""
    own = next((value for name, value in headers.items() if name.lower() == "cookie"), "")
    kept = {name: value for name, value in headers.items() if name.lower() != "cookie"}
    return {**kept, "Cookie": f"{own}; {cookie}" if own else cookie}


def _head(method: str, target: str, fields: str) -> bytes:
    path = target if target.startswith("/") else f"/{target}"
    return f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode()
