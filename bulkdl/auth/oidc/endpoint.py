"""Send one POST to a token endpoint over aiohttp, with bounded time and size, without following redirects."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import aiohttp

from bulkdl.auth.oidc.messages import EndpointFailed, TokenResponse

if TYPE_CHECKING:
    from bulkdl.core.clock import Clock
    from bulkdl.core.secret import Secret
    from bulkdl.core.urls import Url

__all__ = ["HttpTokenEndpoint"]

_MAX_BODY_BYTES = 1 << 20
_HEADERS = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}


class HttpTokenEndpoint:
    """A `TokenEndpoint` on the caller's aiohttp session, which must keep no cookies (use a `DummyCookieJar`)."""

    def __init__(self, session: aiohttp.ClientSession, *, clock: Clock, timeout: float = 30.0) -> None:
        """`timeout`: seconds from the DNS lookup to the last byte of the response."""
        self._session = session
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def post(self, url: Url, form: Secret) -> TokenResponse:
        """Send the encoded form. Raise `EndpointFailed`, which names the host and never quotes the form."""
        try:
            return await self._post(url, form)
        except aiohttp.ClientSSLError as error:
            lasting = isinstance(error, aiohttp.ClientConnectorCertificateError)
            raise EndpointFailed(_tls_text(url, error), lasting=lasting) from None
        except TimeoutError:
            seconds = self._timeout.total
            raise EndpointFailed(f"the token endpoint {url.host} did not answer in {seconds:g} s") from None
        except aiohttp.InvalidURL:
            raise EndpointFailed(f"the token URL {url} is not valid", lasting=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise EndpointFailed(_connection_text(url, error)) from None
        except RuntimeError as error:  # aiohttp raises it for a malformed chunked body
            if error.args != ("Connection closed.",):
                raise
            raise EndpointFailed(_connection_text(url, error)) from None

    async def _post(self, url: Url, form: Secret) -> TokenResponse:
        sent_at = self._clock.monotonic()
        async with self._session.post(
            url.raw,
            data=form.reveal().encode(),
            headers=_HEADERS,
            allow_redirects=False,
            timeout=self._timeout,
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_chunked(65536):
                body += chunk
                if len(body) > _MAX_BODY_BYTES:
                    raise EndpointFailed(f"the token endpoint {url.host} sent more than 1 MiB")
            return TokenResponse(status=response.status, headers=response.headers, body=bytes(body), sent_at=sent_at)


def _connection_text(url: Url, error: Exception) -> str:
    """Describe the failure. aiohttp's own text can contain a whole URL, so quote only the operating system's text."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    words = cause.strerror if isinstance(cause, OSError) and cause.strerror else ""
    at = f"{url.host}:{url.port}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name of the token endpoint {url.host} could not be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection to the token endpoint {at}" + (f": {words}" if words else "")
    return f"the connection to the token endpoint {at} was lost before the response was complete"


def _tls_text(url: Url, error: aiohttp.ClientSSLError) -> str:
    cause: object = getattr(error, "certificate_error", None) or error.os_error
    words = getattr(cause, "verify_message", "") if isinstance(cause, ssl.SSLCertVerificationError) else ""
    detail = f" ({words})" if words else ""
    return f"no trusted TLS connection to the token endpoint {url.host}{detail}; `ca_file` adds a CA"
