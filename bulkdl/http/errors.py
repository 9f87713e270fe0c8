"""Mapping of the exceptions of aiohttp, ssl and sockets to bulkdl's own. No other module does this."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
from typing import TYPE_CHECKING

import aiohttp

from bulkdl.core.errors import BulkdlError, ProductFailed, TryAgain
from bulkdl.core.models import FailureKind, Trouble
from bulkdl.http.framed_protocol import BrokenChunksError, UnusableHeadError
from bulkdl.protocol.proxy import ProxyTrouble, connect_failed, is_socks_error, proxy_unreachable, socks_failed
from bulkdl.protocol.socket_errors import connection_words
from bulkdl.protocol.tls_errors import tls_trouble

if TYPE_CHECKING:
    from bulkdl.core.urls import Url
    from bulkdl.protocol.certificate import Certificate
    from bulkdl.protocol.proxy import Proxy

__all__ = ["map_exceptions", "network_error", "proxy_error", "proxy_trouble", "trouble_of"]


class map_exceptions:  # noqa: N801 - used as a statement: with map_exceptions(url)
    """Context manager that replaces a network exception by the error of `network_error`."""

    def __init__(
        self, url: Url, proxy: Proxy | None = None, refused_by: dict[Proxy, ProxyTrouble] | None = None
    ) -> None:
        """`proxy`: the one that the request takes; `refused_by` notes if it will never take another one."""
        self._url = url
        self._proxy = proxy
        self._refused_by = refused_by

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BulkdlError) or not isinstance(error, Exception):
            return
        known = isinstance(error, (aiohttp.ClientError, OSError, asyncio.IncompleteReadError, ValueError))
        if not known and not is_socks_error(error):
            return
        if self._proxy is not None and (trouble := proxy_trouble(error, self._proxy, self._url)) is not None:
            refused = isinstance(error, aiohttp.ClientHttpProxyError) and error.status == 407
            if refused and self._refused_by is not None:
                self._refused_by[self._proxy] = trouble
            raise proxy_error(trouble) from error
        failed = network_error(error, self._url, proxy=self._proxy)
        if isinstance(failed, TryAgain):
            failed.origin = self._url.origin
        raise failed from error


def proxy_trouble(error: Exception, proxy: Proxy, url: Url) -> ProxyTrouble | None:
    """Return what failed between this machine and `proxy`, or at the proxy itself; None: something behind it."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        challenges = [] if error.headers is None else [v for k, v in error.headers.items() if k.lower() == _CHALLENGE]
        return connect_failed(proxy, error.status, host=url.host, port=url.port, challenges=challenges)
    if is_socks_error(error):
        return socks_failed(proxy, error, host=url.host, port=url.port)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return proxy_unreachable(proxy, "its name could not be resolved")
    if isinstance(error, aiohttp.ClientSSLError):
        if proxy.scheme != "https" or (error.host, error.port) != (proxy.host, proxy.port):
            return None
        tls = tls_trouble(_tls_cause(error), host=proxy.host, port=proxy.port)
        return ProxyTrouble(f"the proxy {proxy.shown}: {tls.reason}", tls.hint, tls.lasting)
    if isinstance(error, aiohttp.ClientConnectorError):
        return proxy_unreachable(proxy, connection_words(error.os_error))
    return None


_CHALLENGE = "proxy-authenticate"


def _tls_cause(error: Exception) -> Exception:
    """Return the error of the `ssl` module that aiohttp wrapped."""
    cause: Exception | None = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    return error if cause is None else cause


def proxy_error(trouble: ProxyTrouble) -> BulkdlError:
    """Return bulkdl's error for a proxy's trouble: this machine's surroundings failed, not the archive."""
    kind = ProductFailed if trouble.lasting else TryAgain
    return kind(trouble.reason, kind=FailureKind.NETWORK, hint=trouble.hint)


def network_error(
    error: Exception, url: Url, *, proxy: Proxy | None = None, certificate: Certificate | None = None
) -> BulkdlError:
    """Return bulkdl's error for a failed request.

    Its text never contains `str(error)`: aiohttp prints whole URLs there.
    """
    where = f"{url.host}:{url.port}"
    through = f" through the proxy {proxy.shown}" if proxy is not None else ""
    below = error.__cause__
    if isinstance(error, aiohttp.ClientOSError) and isinstance(below, ConnectionResetError):
        error = below
    if isinstance(below, ssl.SSLError) and "CERTIFICATE_REQUIRED" in str(below):  # TLS 1.3 says so after the handshake
        tls = tls_trouble(below, host=url.host, port=url.port)
        return ProductFailed(tls.reason + through, kind=FailureKind.NETWORK, hint=tls.hint)
    # Another `ssl.SSLError` comes from the middle of a body, except behind SOCKS, where the handshake is not aiohttp's.
    handshake = (aiohttp.ClientSSLError, ssl.SSLError if proxy is not None else ssl.SSLCertVerificationError)
    if isinstance(error, handshake):
        tls = tls_trouble(_tls_cause(error), host=url.host, port=url.port, certificate=certificate)
        if tls.lasting:
            return ProductFailed(tls.reason + through, kind=FailureKind.NETWORK, hint=tls.hint, is_refusal=True)
        return TryAgain(tls.reason + through, kind=FailureKind.NETWORK, hint=tls.hint)
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return ProductFailed(
            f"the URL of a request to {where} is invalid",
            kind=FailureKind.HTTP,
            hint="Fix the URL in the manifest, unless the archive redirected to it",
        )
    if isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        return TryAgain(
            f"the host name {url.host} could not be resolved",
            kind=FailureKind.NETWORK,
            hint="Check the host's spelling and this machine's network",
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return TryAgain(
            f"no connection to {where} ({connection_words(error.os_error)})",
            kind=FailureKind.NETWORK,
            hint="Check the host, the port and this machine's network or proxy",
        )
    if isinstance(error, UnusableHeadError):
        return TryAgain(f"{where} sent {error.reason}{through}", kind=FailureKind.NETWORK)
    if isinstance(error, aiohttp.ClientResponseError) and (cause := _parser_words(error.message)):
        return TryAgain(f"{where} sent a response that is not valid HTTP{through} ({cause})", kind=FailureKind.NETWORK)
    for known, text in _BROKEN.items():
        if isinstance(error, known):
            return TryAgain(f"{where} {text}{through}", kind=FailureKind.NETWORK, hint=_scheme_hint(error, url))
    return TryAgain(f"the connection to {where}{through} broke ({type(error).__name__})", kind=FailureKind.NETWORK)


def _scheme_hint(error: Exception, url: Url) -> str:
    """Return a hint where a server hangs up on a request in http, as a port for https does."""
    hung_up = isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionResetError))
    return (
        "If that port speaks https, write https:// in the URL"
        if hung_up and url.scheme == "http" and url.port != 80
        else ""
    )


def _parser_words(message: str) -> str:
    """Return the parser's own words for what is wrong. Behind them it quotes the server, which is left out."""
    found = _PARSER_WORDS.match(message)
    return "" if found is None else found[1].lower()


_PARSER_WORDS = re.compile(r"(?:400, message:\s*)?(?:Bad status line:\s*)?([A-Z][A-Za-z ,/0-9-]{3,60}):?\s*(?:\n|$)")


_BROKEN: dict[type[Exception], str] = {
    TimeoutError: "sent no data before the timeout",
    aiohttp.ServerDisconnectedError: "closed the connection",
    BrokenChunksError: "sent a body whose chunks are not valid HTTP",
    aiohttp.ClientPayloadError: "ended the response body early",
    aiohttp.ClientResponseError: "sent a response that is not valid HTTP",
    ConnectionResetError: "reset the connection",
}


def trouble_of(error: BaseException | None) -> Trouble:
    """Return which trouble of an origin a network exception is, if no response head came."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            gone = error.os_error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
            return Trouble.NO_SUCH_NAME if gone else Trouble.NAME
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return Trouble.TLS
        case TimeoutError():
            return Trouble.TIMEOUT
        case aiohttp.ClientConnectorError():
            return Trouble.TIMEOUT if error.os_error.errno == errno.ETIMEDOUT else Trouble.REFUSED
        case _:
            return Trouble.BROKEN
