"""Requests for products: one session, our own redirect loop, the credential put on hop by hop.

aiohttp makes every request; nothing of it, its exceptions included, goes past this module.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import field, replace
from typing import TYPE_CHECKING, Self

import aiohttp

from bulkdl._version import __version__
from bulkdl.ahead import Ahead
from bulkdl.brief import FIELD_SIZE, Brief
from bulkdl.broken import mapped, network_error
from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import BulkdlError, ProductFailed, TryAgain
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind
from bulkdl.heads import brief_head, head_of
from bulkdl.hops import generic, redirected, scrubbed, signed_headers, signed_target, without_secret
from bulkdl.lane import take_over
from bulkdl.lead import Row
from bulkdl.protocol.content_coding import Decoder
from bulkdl.protocol.provider_errors import MOST_BODY, Action, Answer, interpret
from bulkdl.protocol.response_head import Head, StatusClass, classify, uncoded
from bulkdl.sender import Sender

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from aiohttp.connector import Connection

    from bulkdl.auth.factory import Credential, Signer
    from bulkdl.core.clock import Clock
    from bulkdl.core.urls import HostList, Url
    from bulkdl.lane import Stream
    from bulkdl.protocol.provider_errors import Ruling

__all__ = ["Http", "Reply"]

MOST_HOPS = 15
MOST_RENEWALS = 2
USER_AGENT = f"bulkdl/{__version__}"
_ROW = Row()
_DRAIN = 64 * 1024
_ERROR_S = 5.0
_ERRORS = 400
"""The first status of an error (RFC 9110 §15)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response whose head has arrived; `url` is the last hop, without credential."""

    url: Url
    head: Head
    challenge: str
    signed: bool
    """Whether a credential went with the last hop."""
    _response: aiohttp.ClientResponse | None
    """None: all of the body is among `_peeked`."""
    ruling: Ruling | None = None
    """What an error means in the dialect of the account's provider; None where only the status tells."""
    _peeked: list[bytes] = field(default_factory=list)
    decoder: Decoder | None = None
    """Takes off a coding that was not asked for; None where the bytes are the product's."""
    direct: bool = False
    """No proxy is between."""

    def decoded(self, coding: str) -> Reply:
        """This response as one whose body comes without `coding`. To be called before the body is read."""
        return replace(self, head=uncoded(self.head), decoder=Decoder(coding))

    async def read(self) -> bytes:
        """The next bytes of the body, b"" at its end; raise `TryAgain` when connection, framing or coding break."""
        if self._peeked:
            return self._peeked.pop()
        if self.decoder is None:
            return await self._arrival()
        while not (piece := self.decoder.step()):
            if not (coded := await self._arrival()):
                self.decoder.finish()
                break
            self.decoder.feed(coded)
        return piece

    async def _arrival(self) -> bytes:
        if self._response is None:
            return b""
        with mapped(self.url):
            try:
                return await _next(self._response)
            except (aiohttp.ClientError, OSError):
                if rest := _arrived(self._response.content):
                    return rest
                raise

    async def peek(self) -> bytes:
        """The first bytes of the body, b"" where it has none; `read` gives them again."""
        first = await self.read()
        if first:
            self._peeked.append(first)
        return first

    async def whole(self, length: int, *, within_s: float) -> bytes | None:
        """The body, when all of its `length` bytes come within so many seconds; else None, and `read` gives what has come."""
        pieces = [self._peeked.pop()] if self._peeked else []
        left = length - sum(map(len, pieces))
        try:
            # What is here already needs no timer.
            if left > 0:
                async with nullcontext() if self._is_here else asyncio.timeout(within_s):
                    while left > 0 and (piece := await self.read()):
                        pieces.append(piece)
                        left -= len(piece)
        except (TimeoutError, TryAgain):
            pass  # whoever reads on meets it again
        body = b"".join(pieces)
        if left == 0:
            return body
        if body:
            self._peeked.append(body)
        return None

    async def hand_over(self, *, given: int) -> Stream | None:
        """The connection, from which the fast lane receives the rest of the body; None where `read` goes on giving it.

        `given`: bytes of the body that `read` has given so far.
        """
        if self._response is None or self._peeked or self.decoder is not None or not self.direct:
            return None
        with mapped(self.url):
            taken = await take_over(self._response, given=given)
        if isinstance(taken, bytes):
            self._peeked.extend([taken] if taken else ())
            return None
        return taken

    def broken(self, error: Exception | None) -> Exception:
        """Ours for what ended the body in the fast lane; None: the server closed the connection early."""
        if isinstance(error, BulkdlError):
            return error
        return network_error(error or aiohttp.ClientPayloadError(), self.url)

    @property
    def _is_here(self) -> bool:
        """Whether nothing of the body has to be waited for."""
        return self._response is None or self._response.content.is_eof()

    def close(self) -> None:
        """Give up the rest of the body, and the connection with it."""
        if self._response is not None:
            self._response.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    method: str
    headers: Mapping[str, str]
    signer: Signer
    allowed: HostList
    origin: str


class _Opened(AbstractAsyncContextManager["Reply"]):
    """A response for as long as the block lasts."""

    def __init__(self, http: Http, url: Url, request: _Request) -> None:
        self._http = http
        self._url = url
        self._request = request

    async def __aenter__(self) -> Reply:
        self._reply = await self._http.answered(self._url, self._request)
        return self._reply

    async def __aexit__(self, *_: object) -> None:
        if self._reply._response is not None:  # noqa: SLF001 - the reply is this module's own
            await _finish(self._reply._response)  # noqa: SLF001


class _Response(aiohttp.ClientResponse):
    """One that knows how its connection ended.

    Where the end of the connection is that of the body, aiohttp takes a reset for it, too (RFC 9112 §8 does not).
    """

    _lost: asyncio.Future[None] | None = None
    """None too where it had ended before the response was taken."""

    async def start(self, connection: Connection) -> _Response:
        protocol = connection.protocol
        self._lost = protocol.closed if protocol is not None else None
        if self._lost is not None and id(self._lost) not in _watched:
            _watched.add(id(self._lost))
            self._lost.add_done_callback(_seen)
        await super().start(connection)
        return self

    @property
    def was_cut(self) -> bool:
        """Whether the connection broke before it was closed, in a body that has no other end; or nobody can tell any more."""
        lost = self._lost
        if "Content-Length" in self.headers or "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return False
        return lost is None or (lost.done() and not lost.cancelled() and lost.exception() is not None)


_watched: set[int] = set()
"""The connections that are open, by the identity of the future of their end."""


def _seen(lost: asyncio.Future[None]) -> None:
    _watched.discard(id(lost))
    if not lost.cancelled():
        lost.exception()  # whoever waits for a body hears of it otherwise


class Http:
    """Sends requests for products. One cookie jar an account, one connection pool for all."""

    def __init__(
        self,
        *,
        timeout: float,
        tls: ssl.SSLContext,
        proxy_for: Callable[[Url], str | None] = lambda _url: None,
        clock: Clock | None = None,
        row: Row | None = _ROW,
    ) -> None:
        """`timeout`: seconds without a byte before a connection is given up; `row`: of `Sender`."""
        self._row = row
        self._clock = clock or SystemClock()
        self.connector = aiohttp.TCPConnector(limit=0, ssl=tls, ttl_dns_cache=60)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(30.0, timeout), sock_read=timeout)
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._senders: dict[str, Sender] = {}
        self._proxy_for = proxy_for

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for sender in self._senders.values():
            sender.close()
        for session in self._sessions.values():
            await session.close()
        await self.connector.close()

    def _sender(self, account: str) -> Sender:
        """The sender of one account: cookies of one account never go with another's requests."""
        sender = self._senders.get(account)
        if sender is None:
            session = self._sessions[account] = aiohttp.ClientSession(
                connector=self.connector,
                connector_owner=False,
                response_class=_Response,
                timeout=self._timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.CookieJar(),
                headers={"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
                max_line_size=FIELD_SIZE,
                max_field_size=FIELD_SIZE,
                requote_redirect_url=False,
            )
            sender = self._senders[account] = Sender(session, response_class=_Response, row=self._row)
        return sender

    def open(
        self,
        url: Url,
        *,
        signer: Signer,
        allowed: HostList,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
    ) -> AbstractAsyncContextManager[Reply]:
        """The response to a request for `url`, redirects followed, credentials renewed when they are refused.

        `headers` go to `url`'s own origin and to allowed hosts only. Raise `TryAgain` for what may pass, `ProductFailed`
        for what will not, `AccountStopped` when the account can do nothing.
        """
        request = _Request(method=method, headers=headers or {}, signer=signer, allowed=allowed, origin=url.origin)
        return _Opened(self, url, request)

    def ahead(self, url: Url, *, signer: Signer, allowed: HostList) -> Ahead | None:
        """A connection for many small products of `url`'s origin, where that has shown that it bears it."""
        sender = self._senders.get(signer.name)
        if sender is None or self._proxy_for(url) is not None:
            return None
        lines = sender.lines_ahead(url)
        return None if lines is None else Ahead(sender, lines, url, signer=signer, allowed=allowed)

    async def answered(self, url: Url, request: _Request) -> Reply:
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

    async def _renewed(self, reply: Reply, response: aiohttp.ClientResponse, used: Credential, signer: Signer) -> bool:
        """Tell the signer what became of its credential; True when the request is worth another try with a new one."""
        asks = None if reply.ruling is None else reply.ruling.action
        at_fault = asks in (Action.REFRESH, Action.LOGIN)
        if classify(reply.head.status) is not StatusClass.CREDENTIAL and not at_fault:
            signer.accepted(used)
            return False
        if not reply.signed:
            return False  # refused at a host that never saw the credential
        # An archive that says what is wrong is believed: 401 blames the token, 403 the product.
        status = reply.head.status if asks is None else 401 if at_fault else 403
        try:
            again = await signer.rejected(
                used, status=status, challenge=reply.challenge, session_over=asks is Action.LOGIN
            )
        except BaseException:
            response.close()
            raise
        if again:
            await _finish(response)
        return again

    async def _ruling(self, response: aiohttp.ClientResponse, dialect: str | None) -> Ruling | None:
        """Read the beginning of an error's body for what its archive means by it."""
        body = bytearray()
        try:
            async with asyncio.timeout(_ERROR_S):
                while len(body) < MOST_BODY and (piece := await _some(response, MOST_BODY - len(body))):
                    body += piece
        except (aiohttp.ClientError, OSError):  # TimeoutError is one; what has come may say enough
            pass
        answer = Answer(status=response.status, headers=response.headers, body=bytes(body))
        return interpret(dialect, answer, now=self._clock.wall())

    async def _follow(self, url: Url, request: _Request) -> tuple[Reply, Credential | None]:
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
            if isinstance(response, Brief):
                body = [response.body]
                return Reply(url, brief_head(response), "", signed, None, _peeked=body, direct=proxy is None), used
            if not _redirects(response):
                challenge = response.headers.get("WWW-Authenticate", "")
                return Reply(url, head_of(response), challenge, signed, response, direct=proxy is None), used
            location = response.headers["Location"]
            await _finish(response)
            url = redirected(url, location, used, first=first)
            if used is not None and not request.allowed.allows(url):
                url = scrubbed(url, used, first=first)
        raise ProductFailed(  # of the last hop nothing is said: its path may hold what the server echoed
            f"{first} redirects more than {MOST_HOPS} times",
            kind=FailureKind.HTTP,
            hint="Open the URL in a browser: it may want you to sign in or to accept a licence there",
        )

    async def _send(
        self, url: Url, request: _Request, credential: Credential | None, *, own: bool, proxy: str | None
    ) -> aiohttp.ClientResponse | Brief:
        """`own`: the hop may have the product's own headers, which may be keys."""
        headers = request.headers if own else generic(request.headers)
        target, headers = signed_target(url, credential), signed_headers(headers, credential)
        with mapped(url):
            return await self._sender(request.signer.name).send(
                request.method, url, target, headers=headers, proxy=proxy, brief=request.method == "GET"
            )


def _redirects(response: aiohttp.ClientResponse) -> bool:
    return classify(response.status) is StatusClass.REDIRECT and "Location" in response.headers


async def _next(response: aiohttp.ClientResponse) -> bytes:
    try:
        piece = await response.content.readany()
    except RuntimeError as error:
        raise _unframed(error) from error
    if not piece and isinstance(response, _Response) and response.was_cut:
        raise aiohttp.ClientPayloadError("the connection broke")
    return piece


async def _some(response: aiohttp.ClientResponse, most: int) -> bytes:
    try:
        return await response.content.read(most)
    except RuntimeError as error:
        raise _unframed(error) from error


def _unframed(error: RuntimeError) -> Exception:
    """What aiohttp says by a bare `RuntimeError`: the framing of a body is no HTTP. It is a broken body like the others."""
    return aiohttp.ClientPayloadError("the framing is broken") if error.args == ("Connection closed.",) else error


def _arrived(content: aiohttp.StreamReader) -> bytes:
    """What came before the connection broke: aiohttp reports the break first, and would drop bytes that are here."""
    error = content.exception()
    if error is None:
        return b""
    content.set_exception(None)  # type: ignore[arg-type]  # the only public way to what is buffered
    try:
        return content.read_nowait()
    finally:
        content.set_exception(error)


async def _finish(response: aiohttp.ClientResponse) -> None:
    """Give the connection back where its body is over or short, else close it."""
    if response.closed:
        return
    length = response.content_length
    try:
        if not response.content.at_eof() and length is not None and length <= _DRAIN:
            async with asyncio.timeout(2):
                await response.read()
    except (aiohttp.ClientError, OSError):  # TimeoutError is one
        response.close()
    except RuntimeError as error:
        response.close()
        if _unframed(error) is error:
            raise
    finally:
        response.release()
