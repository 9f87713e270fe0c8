"""The HTTP client: requests for products, followed through redirects, with the account's credential added hop by hop.

aiohttp makes every request. Neither its objects nor its exceptions leave this package.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import aiohttp

from bulkdl._version import __version__
from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import ProductFailed, TryAgain
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind
from bulkdl.http.aiohttp_compat import WatchedResponse, read_some, release_connection
from bulkdl.http.cookies import ChainCookies, CookieJar
from bulkdl.http.errors import map_exceptions, network_error, proxy_error
from bulkdl.http.framed_protocol import new_connector
from bulkdl.http.head_parser import parse_head, parse_small_head
from bulkdl.http.lightweight.keepalive_pool import FIELD_SIZE, SmallResponse
from bulkdl.http.lightweight.pipelined_requests import PipelinedRequests
from bulkdl.http.lightweight.pipelining_policy import PipeliningConfig
from bulkdl.http.lightweight.sender import LightweightSender
from bulkdl.http.login_gate import Login, LoginGate
from bulkdl.http.peer_certificate import peer_certificate
from bulkdl.http.redirects import (
    generic_headers,
    redirect_target,
    sent_secrets,
    signed_headers,
    strip_credentials,
    target_with_credential,
    without_secret,
)
from bulkdl.http.response import Response
from bulkdl.http.socks import socks_connector
from bulkdl.protocol.error_text import error_text, request_id
from bulkdl.protocol.known_refusals import is_bot_check, known_refusal
from bulkdl.protocol.provider_errors import MAX_BODY, Answer, ErrorAction, interpret
from bulkdl.protocol.proxy import connect_failed
from bulkdl.protocol.response_head import StatusClass, classify

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from bulkdl.auth.base import Authenticator, Credential
    from bulkdl.core.clock import Clock
    from bulkdl.core.urls import HostList, Url
    from bulkdl.protocol.certificate import Certificate
    from bulkdl.protocol.proxy import Proxy, ProxyTrouble

__all__ = ["HttpClient"]

MAX_REDIRECTS = 15
MAX_RENEWALS = 2
MAX_LOGINS = 4
"""Most times that a request is sent whose login by cookies another one's has disturbed."""
USER_AGENT = f"bulkdl/{__version__}"
_DEFAULT_PIPELINING = PipeliningConfig()
_ERROR_BODY_S = 5.0
"""Longest wait for the body of an error response (s)."""
_FIRST_ERROR = 400
"""Lowest status code of an error (RFC 9110 §15)."""
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    method: str
    headers: Mapping[str, str]
    signer: Authenticator
    allowed: HostList
    origin: str


class _ResponseContext(AbstractAsyncContextManager["Response"]):
    """Sends the request on entry, and releases the response's connection on exit."""

    def __init__(self, http: HttpClient, url: Url, request: _Request) -> None:
        self._http = http
        self._url = url
        self._request = request

    async def __aenter__(self) -> Response:
        self._reply = await self._http.send(self._url, self._request)
        return self._reply

    async def __aexit__(self, *_: object) -> None:
        if self._reply._response is not None:  # noqa: SLF001 - `Response` belongs to this package
            await release_connection(self._reply._response)  # noqa: SLF001


class HttpClient:
    """Sends requests for products. Each account has its own cookie jar; all share one connection pool."""

    def __init__(
        self,
        *,
        timeout: float,
        tls: ssl.SSLContext,
        proxy_for: Callable[[Url], Proxy | None] = lambda _url: None,
        clock: Clock | None = None,
        pipelining: PipeliningConfig | None = _DEFAULT_PIPELINING,
    ) -> None:
        """`timeout`: seconds without a byte before a connection is given up; `pipelining`: see `LightweightSender`."""
        self._pipelining = pipelining
        self._clock = clock or SystemClock()
        self.connector = new_connector(tls)
        self._tls = tls
        self._socks: dict[Proxy, aiohttp.TCPConnector] = {}
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(30.0, timeout), sock_read=timeout)
        self._sessions: list[aiohttp.ClientSession] = []
        self._senders: dict[tuple[str, Proxy | None], LightweightSender] = {}
        """By account and SOCKS proxy."""
        self._cookies: dict[str, CookieJar] = {}
        """By account, so that its cookies never go out with another account's requests."""
        self._gates: dict[tuple[str, str], LoginGate] = {}
        """By account and origin."""
        self._certificates: dict[str, Certificate | None] = {}
        """Those that failed verification, by origin."""
        self._proxy_for = proxy_for
        self._refused_by: dict[Proxy, ProxyTrouble] = {}
        """Proxies that refused their credentials. More attempts could lock the user's account there."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for sender in self._senders.values():
            sender.close()
        for session in self._sessions:
            await session.close()
        for connector in (self.connector, *self._socks.values()):
            await connector.close()

    def connector_for(self, proxy: Proxy | None) -> aiohttp.TCPConnector:
        """Return the connection pool of requests that take `proxy`; raise `RunStopped` if SOCKS is not installed."""
        if proxy is None or not proxy.is_socks:
            return self.connector
        if proxy not in self._socks:
            self._socks[proxy] = socks_connector(proxy, tls=self._tls)
        return self._socks[proxy]

    def _sender(self, account: str, proxy: Proxy | None) -> LightweightSender:
        """Return the account's own sender for requests that take `proxy`."""
        key = account, proxy if proxy is not None and proxy.is_socks else None
        sender = self._senders.get(key)
        if sender is None:
            session = aiohttp.ClientSession(
                connector=self.connector_for(proxy),
                connector_owner=False,
                response_class=WatchedResponse,
                timeout=self._timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
                max_line_size=FIELD_SIZE,
                max_field_size=FIELD_SIZE,
                requote_redirect_url=False,
            )
            self._sessions.append(session)
            sender = self._senders[key] = LightweightSender(
                session,
                response_class=WatchedResponse,
                pipelining=self._pipelining,
                cookies=self._cookies.setdefault(account, CookieJar()),
            )
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
        """Request `url`, follow redirects, and renew a credential that is refused.

        Return the response as a context manager.

        `headers` go only to `url`'s own origin and to allowed hosts. Raise `TryAgain` for a transient error,
        `ProductFailed` for a permanent one, and `AccountStopped` if the account cannot get any product.

        """
        request = _Request(method=method, headers=headers or {}, signer=signer, allowed=allowed, origin=url.origin)
        return _ResponseContext(self, url, request)

    def ahead(self, url: Url, *, signer: Authenticator, allowed: HostList) -> PipelinedRequests | None:
        """Return a way to pipeline requests to `url`'s origin.

        None if that is not allowed (see `pipelining_policy`).
        """
        sender = self._senders.get((signer.name, None))
        if sender is None or self._proxy_for(url) is not None:
            return None
        pool = sender.pipelining_pool(url)
        return None if pool is None else PipelinedRequests(sender, pool, url, signer=signer, allowed=allowed)

    async def send(self, url: Url, request: _Request) -> Response:
        """Send the request; renew a refused credential and repeat the request, at most `MAX_RENEWALS` times."""
        signer = request.signer
        for _ in range(MAX_RENEWALS + 1):
            reply, used = await self._follow(url, request)
            response = reply._response  # noqa: SLF001
            if response is None or (
                response.status < _FIRST_ERROR and not (response.status == 202 and is_bot_check(response.headers))
            ):
                if used is not None:
                    signer.accepted(used)
                break
            reply = await self._explained(reply, response, url, request, used)
            if used is None or not await self._renew(reply, response, used, signer):
                break
        return reply

    async def _renew(
        self, reply: Response, response: aiohttp.ClientResponse, used: Credential, signer: Authenticator
    ) -> bool:
        """Report the result of the request to the signer.

        Return True if a new credential makes a repetition worthwhile.
        """
        action = None if reply.interpretation is None else reply.interpretation.action
        token_refused = action in (ErrorAction.REFRESH, ErrorAction.LOGIN)
        if classify(reply.head.status) is not StatusClass.CREDENTIAL and not token_refused:
            signer.accepted(used)
            return False
        if not reply.signed:
            # The host that refused never received the credential; the one that did answered with a redirect.
            signer.accepted(used)
            return False
        # A known error text overrides the status: the signer takes 401 as a refused token and 403 as a refused product.
        status = reply.head.status if action is None else 401 if token_refused else 403
        try:
            again = await signer.rejected(
                used, status=status, challenge=reply.challenge, session_over=action is ErrorAction.LOGIN
            )
        except BaseException:
            response.close()
            raise
        if again:
            await release_connection(response)
        return again

    async def _explained(
        self, reply: Response, response: aiohttp.ClientResponse, url: Url, request: _Request, used: Credential | None
    ) -> Response:
        """Read the first bytes of an error's body; add what the provider's rules and the archive itself say."""
        body = bytearray()
        try:
            async with asyncio.timeout(_ERROR_BODY_S):
                while len(body) < MAX_BODY and (piece := await read_some(response, MAX_BODY - len(body))):
                    body += piece
        except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError; the bytes so far may suffice
            pass
        answer = Answer(status=response.status, headers=response.headers, body=bytes(body))
        secrets = sent_secrets(request.headers, used, reply.url)
        now = self._clock.wall()
        return replace(
            reply,
            interpretation=known_refusal(reply.url, answer, asked=url, now=now)
            or interpret(request.signer.dialect, answer, now=now),
            error_text=error_text(answer.body, response.headers.get("Content-Type", ""), secrets=secrets),
            request_id=request_id(response.headers),
        )

    async def _follow(self, url: Url, request: _Request) -> tuple[Response, Credential | None]:
        """Send the request and follow its redirects; repeat it if parallel logins by cookies refused each other."""
        gate = self._gates.get((request.signer.name, url.origin))
        if gate is None:
            # With a credential for this origin the authenticator lets one request go first.
            gate = LoginGate(is_open=request.signer.worked or request.allowed.allows(url))
            self._gates[request.signer.name, url.origin] = gate
        for _ in range(MAX_LOGINS):
            is_alone = not gate.is_open and await gate.enter()
            login = Login()
            try:
                reply, used, logged_in = await self._follow_hops(url, request, gate, login)
                refused = _FIRST_ERROR <= reply.head.status < _SERVER_ERROR
                if reply.head.status < _FIRST_ERROR or (refused and not logged_in):
                    gate.open()
            finally:
                gate.end_login(login)
                if is_alone:
                    gate.leave()
            if not refused or not login.was_disturbed:
                return reply, used
            gate.close()
            if reply._response is not None:  # noqa: SLF001
                await release_connection(reply._response)  # noqa: SLF001
        raise TryAgain(f"parallel logins at {url.host} disturbed each other", kind=FailureKind.AUTH)

    async def _follow_hops(
        self, url: Url, request: _Request, gate: LoginGate, login: Login
    ) -> tuple[Response, Credential | None, bool]:
        """Send the request and follow its redirects (RFC 9110 §15.4).

        Return the response, the credential used last, and whether a redirect gave a cookie, as in a login.

        aiohttp does not follow redirects for us, since each hop must be checked before the credential or a header goes
        there.
        """
        logged_in = False
        first, seen_https = url, False
        used: Credential | None = None
        chain: ChainCookies | None = None
        for _ in range(MAX_REDIRECTS + 1):
            downgraded = seen_https and url.scheme == "http"
            seen_https = seen_https or url.scheme == "https"
            may = request.allowed.allows(url) and not downgraded
            credential = await request.signer.credential() if may else None
            if credential is not None and credential.bind is not None:
                credential = credential.bind(request.method, url)
            used = credential or used
            if credential is not None and url.query:
                url = without_secret(url, credential)
            own = (url.origin == request.origin or may) and not downgraded
            proxy = self._proxy_for(url)
            response = await self._send_hop(url, request, credential, own=own, proxy=proxy, chain=chain)
            signed = credential is not None and bool(credential.header or credential.query or credential.origin)
            if isinstance(response, SmallResponse):
                body = [response.body]
                return (
                    Response(url, parse_small_head(response), "", signed, None, _peeked=body, direct=proxy is None),
                    used,
                    logged_in,
                )
            if not _is_redirect(response):
                challenge = ", ".join(response.headers.getall("WWW-Authenticate", ()))
                head = parse_head(response)
                reply = Response(
                    url,
                    head,
                    challenge,
                    signed,
                    response,
                    direct=proxy is None,
                    proxy="" if proxy is None or proxy.is_socks or url.scheme == "https" else proxy.shown,
                    signed_in_at=gate.signed_in_at,
                )
                return reply, used, logged_in
            if chain is None:
                chain = self._start_chain(response, request, url, proxy)
            if "Set-Cookie" in response.headers:
                logged_in = True
                gate.begin_login(login)
            gate.signed_in_at = url.host if signed else gate.signed_in_at
            location = response.headers["Location"]
            await release_connection(response)
            url = redirect_target(url, location, used, first=first)
            if used is not None and not request.allowed.allows(url):
                url = strip_credentials(url, used, first=first)
        raise ProductFailed(  # the text omits the last hop's URL: the server may have echoed a credential into its path
            f"{first} redirects more than {MAX_REDIRECTS} times",
            kind=FailureKind.HTTP,
            hint="Open the URL in a browser: it may need a login or the acceptance of a licence",
        )

    async def _send_hop(
        self,
        url: Url,
        request: _Request,
        credential: Credential | None,
        *,
        own: bool,
        proxy: Proxy | None,
        chain: ChainCookies | None,
    ) -> aiohttp.ClientResponse | SmallResponse:
        """Send one hop. `own`: the hop may receive the product's own headers, which may contain keys."""
        headers = request.headers if own else generic_headers(request.headers)
        target, headers = target_with_credential(url, credential), signed_headers(headers, credential)
        if proxy is not None and (trouble := self._refused_by.get(proxy)) is not None:
            raise proxy_error(trouble)
        with map_exceptions(url, proxy, self._refused_by):
            try:
                response = await self._sender(request.signer.name, proxy).send(
                    request.method,
                    url,
                    target,
                    headers=headers,
                    proxy=proxy,
                    allow_small=request.method == "GET",
                    chain=chain,
                )
            except aiohttp.ClientConnectorCertificateError as error:
                if proxy is not None:
                    raise
                raise network_error(error, url, certificate=await self._certificate(url)) from error
        if proxy is not None and not isinstance(response, SmallResponse) and response.status == 407:
            challenges = response.headers.getall("Proxy-Authenticate", [])
            response.close()
            trouble = connect_failed(proxy, 407, host=url.host, port=url.port, challenges=challenges)
            self._refused_by[proxy] = trouble
            raise proxy_error(trouble)
        return response

    async def _certificate(self, url: Url) -> Certificate | None:
        """Return the certificate of `url`'s server that failed verification; ask for it once in a run."""
        if url.origin not in self._certificates:
            self._certificates[url.origin] = None
            self._certificates[url.origin] = await peer_certificate(url.host, url.port)
        return self._certificates[url.origin]

    def _start_chain(
        self, response: aiohttp.ClientResponse, request: _Request, url: Url, proxy: Proxy | None
    ) -> ChainCookies:
        """Return the cookies for the rest of a redirect chain, with those of its first response."""
        chain = ChainCookies(self._sender(request.signer.name, proxy).cookies)
        if "Set-Cookie" in response.headers:
            chain.store(response.headers.getall("Set-Cookie"), url, url.target)
        return chain


def _is_redirect(response: aiohttp.ClientResponse) -> bool:
    return classify(response.status) is StatusClass.REDIRECT and bool(response.headers.get("Location", "").strip())
