"""Requests for products: one session, our own redirect loop, the credential put on hop by hop.

aiohttp makes every request; nothing of it, its exceptions included, goes past this module.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import aiohttp

from bulkdl._version import __version__
from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import ProductFailed
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind
from bulkdl.http.aiohttp_compat import WatchedResponse, read_some, release_connection
from bulkdl.http.errors import map_exceptions
from bulkdl.http.head_parser import parse_head, parse_small_head
from bulkdl.http.lightweight.keepalive_pool import FIELD_SIZE, SmallResponse
from bulkdl.http.lightweight.pipelined_requests import PipelinedRequests
from bulkdl.http.lightweight.pipelining_policy import PipeliningConfig
from bulkdl.http.lightweight.sender import LightweightSender
from bulkdl.http.redirects import (
    generic,
    redirected,
    signed_headers,
    strip_credentials,
    target_with_credential,
    without_secret,
)
from bulkdl.http.response import Response
from bulkdl.protocol.provider_errors import MAX_BODY, Answer, ErrorAction, interpret
from bulkdl.protocol.response_head import StatusClass, classify

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from bulkdl.auth.base import Authenticator, Credential
    from bulkdl.core.clock import Clock
    from bulkdl.core.urls import HostList, Url
    from bulkdl.protocol.provider_errors import ErrorInterpretation

__all__ = ["HttpClient"]

MOST_HOPS = 15
MOST_RENEWALS = 2
USER_AGENT = f"bulkdl/{__version__}"
_ROW = PipeliningConfig()
_ERROR_S = 5.0
_ERRORS = 400
"""The first status of an error (RFC 9110 §15)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    method: str
    headers: Mapping[str, str]
    signer: Authenticator
    allowed: HostList
    origin: str


class _Opened(AbstractAsyncContextManager["Response"]):
    """A response for as long as the block lasts."""

    def __init__(self, http: HttpClient, url: Url, request: _Request) -> None:
        self._http = http
        self._url = url
        self._request = request

    async def __aenter__(self) -> Response:
        self._reply = await self._http.answered(self._url, self._request)
        return self._reply

    async def __aexit__(self, *_: object) -> None:
        if self._reply._response is not None:  # noqa: SLF001 - the reply is this module's own
            await release_connection(self._reply._response)  # noqa: SLF001


class HttpClient:
    """Sends requests for products. One cookie jar an account, one connection pool for all."""

    def __init__(
        self,
        *,
        timeout: float,
        tls: ssl.SSLContext,
        proxy_for: Callable[[Url], str | None] = lambda _url: None,
        clock: Clock | None = None,
        row: PipeliningConfig | None = _ROW,
    ) -> None:
        """`timeout`: seconds without a byte before a connection is given up; `row`: of `LightweightSender`."""
        self._row = row
        self._clock = clock or SystemClock()
        self.connector = aiohttp.TCPConnector(limit=0, ssl=tls, ttl_dns_cache=60)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(30.0, timeout), sock_read=timeout)
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._senders: dict[str, LightweightSender] = {}
        self._proxy_for = proxy_for

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for sender in self._senders.values():
            sender.close()
        for session in self._sessions.values():
            await session.close()
        await self.connector.close()

    def _sender(self, account: str) -> LightweightSender:
        """The sender of one account: cookies of one account never go with another's requests."""
        sender = self._senders.get(account)
        if sender is None:
            session = self._sessions[account] = aiohttp.ClientSession(
                connector=self.connector,
                connector_owner=False,
                response_class=WatchedResponse,
                timeout=self._timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.CookieJar(),
                headers={"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
                max_line_size=FIELD_SIZE,
                max_field_size=FIELD_SIZE,
                requote_redirect_url=False,
            )
            sender = self._senders[account] = LightweightSender(session, response_class=WatchedResponse, row=self._row)
        return sender

    def open(
        self,
        url: Url,
        *,
        signer: Authenticator,
        allowed: HostList,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
    ) -> AbstractAsyncContextManager[Response]:
        """The response to a request for `url`, redirects followed, credentials renewed when they are refused.

        `headers` go to `url`'s own origin and to allowed hosts only. Raise `TryAgain` for what may pass, `ProductFailed`
        for what will not, `AccountStopped` when the account can do nothing.
        """
        request = _Request(method=method, headers=headers or {}, signer=signer, allowed=allowed, origin=url.origin)
        return _Opened(self, url, request)

    def ahead(self, url: Url, *, signer: Authenticator, allowed: HostList) -> PipelinedRequests | None:
        """A connection for many small products of `url`'s origin, where that has shown that it bears it."""
        sender = self._senders.get(signer.name)
        if sender is None or self._proxy_for(url) is not None:
            return None
        lines = sender.lines_ahead(url)
        return None if lines is None else PipelinedRequests(sender, lines, url, signer=signer, allowed=allowed)

    async def answered(self, url: Url, request: _Request) -> Response:
        """What `open` gives."""
        signer = request.signer
        for _ in range(MOST_RENEWALS + 1):
            reply, used = await self._follow(url, request)
            response = reply._response  # noqa: SLF001
            if response is None or response.status < _ERRORS:
                if used is not None:
                    signer.accepted(used)
                break
            reply = replace(reply, ruling=await self._ruling(response, signer.dialect))
            if used is None or not await self._renewed(reply, response, used, signer):
                break
        return reply

    async def _renewed(
        self, reply: Response, response: aiohttp.ClientResponse, used: Credential, signer: Authenticator
    ) -> bool:
        """Tell the signer what became of its credential; True when the request is worth another try with a new one."""
        asks = None if reply.ruling is None else reply.ruling.action
        at_fault = asks in (ErrorAction.REFRESH, ErrorAction.LOGIN)
        if classify(reply.head.status) is not StatusClass.CREDENTIAL and not at_fault:
            signer.accepted(used)
            return False
        if not reply.signed:
            return False  # refused at a host that never saw the credential
        # An archive that says what is wrong is believed: 401 blames the token, 403 the product.
        status = reply.head.status if asks is None else 401 if at_fault else 403
        try:
            again = await signer.rejected(
                used, status=status, challenge=reply.challenge, session_over=asks is ErrorAction.LOGIN
            )
        except BaseException:
            response.close()
            raise
        if again:
            await release_connection(response)
        return again

    async def _ruling(self, response: aiohttp.ClientResponse, dialect: str | None) -> ErrorInterpretation | None:
        """Read the beginning of an error's body for what its archive means by it."""
        body = bytearray()
        try:
            async with asyncio.timeout(_ERROR_S):
                while len(body) < MAX_BODY and (piece := await read_some(response, MAX_BODY - len(body))):
                    body += piece
        except (aiohttp.ClientError, OSError):  # TimeoutError is one; what has come may say enough
            pass
        answer = Answer(status=response.status, headers=response.headers, body=bytes(body))
        return interpret(dialect, answer, now=self._clock.wall())

    async def _follow(self, url: Url, request: _Request) -> tuple[Response, Credential | None]:
        """Our own redirect loop (RFC 9110 §15.4), so that each hop is judged before anything is sent to it.

        With the reply comes the credential that was used last, at whichever hop.
        """
        first, seen_https = url, False
        used: Credential | None = None
        for _ in range(MOST_HOPS):
            downgraded = seen_https and url.scheme == "http"
            seen_https = seen_https or url.scheme == "https"
            may = request.allowed.allows(url) and not downgraded
            credential = await request.signer.credential() if may else None
            used = credential or used
            if credential is not None and url.query:
                url = without_secret(url, credential)
            own = (url.origin == request.origin or may) and not downgraded
            proxy = self._proxy_for(url)
            response = await self._send(url, request, credential, own=own, proxy=proxy)
            signed = credential is not None and (credential.header is not None or credential.query is not None)
            if isinstance(response, SmallResponse):
                body = [response.body]
                return Response(
                    url, parse_small_head(response), "", signed, None, _peeked=body, direct=proxy is None
                ), used
            if not _redirects(response):
                challenge = response.headers.get("WWW-Authenticate", "")
                return Response(url, parse_head(response), challenge, signed, response, direct=proxy is None), used
            location = response.headers["Location"]
            await release_connection(response)
            url = redirected(url, location, used, first=first)
            if used is not None and not request.allowed.allows(url):
                url = strip_credentials(url, used, first=first)
        raise ProductFailed(  # of the last hop nothing is said: its path may hold what the server echoed
            f"{first} redirects more than {MOST_HOPS} times",
            kind=FailureKind.HTTP,
            hint="Open the URL in a browser: it may want you to sign in or to accept a licence there",
        )

    async def _send(
        self, url: Url, request: _Request, credential: Credential | None, *, own: bool, proxy: str | None
    ) -> aiohttp.ClientResponse | SmallResponse:
        """`own`: the hop may have the product's own headers, which may be keys."""
        headers = request.headers if own else generic(request.headers)
        target, headers = target_with_credential(url, credential), signed_headers(headers, credential)
        with map_exceptions(url):
            return await self._sender(request.signer.name).send(
                request.method, url, target, headers=headers, proxy=proxy, brief=request.method == "GET"
            )


def _redirects(response: aiohttp.ClientResponse) -> bool:
    return classify(response.status) is StatusClass.REDIRECT and "Location" in response.headers
