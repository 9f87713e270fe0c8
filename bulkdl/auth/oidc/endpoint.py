"""Send one POST to a token endpoint over aiohttp, with bounded time and size, without following redirects."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

from bulkdl.auth.oidc.messages import EndpointFailed, TokenResponse
from bulkdl.core.models import Trouble
from bulkdl.protocol.proxy import is_socks_error
from bulkdl.protocol.socket_errors import connection_words
from bulkdl.protocol.tls_errors import tls_trouble

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkdl.core.clock import Clock
    from bulkdl.core.secret import Secret
    from bulkdl.core.urls import Url
    from bulkdl.protocol.proxy import ProxyTrouble

__all__ = ["HttpTokenEndpoint", "ProxyRoute"]

_MAX_BODY_BYTES = 1 << 20
_HEADERS = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}


class ProxyRoute(Protocol):
    """Decides which proxy a request takes, and says what a proxy has to do with its failure."""

    def request_for(self, url: Url) -> tuple[aiohttp.ClientSession, dict[str, Any]]: ...
    def trouble(self, url: Url, failed: Exception | aiohttp.ClientResponse) -> ProxyTrouble | None: ...


class HttpTokenEndpoint:
    """A `TokenEndpoint` on the caller's aiohttp session, which must keep no cookies (use a `DummyCookieJar`)."""

    def __init__(
        self, session: aiohttp.ClientSession, *, clock: Clock, timeout: float = 30.0, route: ProxyRoute | None = None
    ) -> None:
        """`timeout`: seconds from the DNS lookup to the last byte of the response; `route` None: no proxies."""
        self._session = session
        self._route = route
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def post(self, url: Url, form: Secret, *, authorization: Secret | None = None) -> TokenResponse:
        """Send the encoded form. Raise `EndpointFailed`, which names the host and never quotes the form."""
        headers = _HEADERS if authorization is None else {**_HEADERS, "Authorization": authorization.reveal()}
        try:
            return await self._post(url, form, headers)
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure(url, error) from None
        except Exception as error:
            broken_chunk = isinstance(error, RuntimeError) and error.args == ("Connection closed.",)  # aiohttp's
            if not broken_chunk and not is_socks_error(error):
                raise
            raise self._failure(url, error) from None

    def _failure(self, url: Url, error: Exception) -> EndpointFailed:
        self._blame_proxy(url, error)
        if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
            cause: Exception = getattr(error, "certificate_error", None) or getattr(error, "os_error", error) or error
            tls = tls_trouble(cause, host=url.host, port=url.port)
            lasting = isinstance(cause, ssl.SSLCertVerificationError)
            return EndpointFailed(
                f"no trusted TLS connection to the token endpoint: {tls.reason}",
                lasting=lasting,
                hint=tls.hint,
                trouble=Trouble.TLS,
            )
        if isinstance(error, TimeoutError):
            text = f"the token endpoint {url.host} did not answer in {self._timeout.total:g} s"
            return EndpointFailed(text, trouble=Trouble.TIMEOUT)
        if isinstance(error, aiohttp.InvalidURL):
            return EndpointFailed(f"the token URL {url} is not valid", lasting=True)
        return EndpointFailed(_connection_text(url, error), trouble=_trouble(error))

    def _blame_proxy(self, url: Url, failed: Exception | aiohttp.ClientResponse) -> None:
        """Raise `EndpointFailed` if the proxy is the cause."""
        trouble = None if self._route is None else self._route.trouble(url, failed)
        if trouble is not None:
            raise EndpointFailed(trouble.reason, lasting=trouble.lasting, hint=trouble.hint) from None

    async def _post(self, url: Url, form: Secret, headers: Mapping[str, str]) -> TokenResponse:
        session, arguments = (self._session, {}) if self._route is None else self._route.request_for(url)
        sent_at = self._clock.monotonic()
        async with session.post(
            url.raw,
            data=form.reveal().encode(),
            headers=headers,
            allow_redirects=False,
            timeout=self._timeout,
            **arguments,
        ) as response:
            self._blame_proxy(url, response)
            body = bytearray()
            async for chunk in response.content.iter_chunked(65536):
                body += chunk
                if len(body) > _MAX_BODY_BYTES:
                    raise EndpointFailed(f"the token endpoint {url.host} sent more than 1 MiB")
            return TokenResponse(status=response.status, headers=response.headers, body=bytes(body), sent_at=sent_at)


def _trouble(error: Exception) -> Trouble:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Trouble.NAME
    return Trouble.REFUSED if isinstance(error, aiohttp.ClientConnectorError) else Trouble.BROKEN


def _connection_text(url: Url, error: Exception) -> str:
    """Describe the failure. aiohttp's own text can contain a whole URL, so quote only the operating system's text."""
    at = f"{url.host}:{url.port}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name of the token endpoint {url.host} could not be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection to the token endpoint {at}: {connection_words(error.os_error)}"
    return f"the connection to the token endpoint {at} was lost before the response was complete"
