"""Mapping of the exceptions of aiohttp, ssl and sockets to bulkdl's own. No other module does this."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import aiohttp

from bulkdl.core.errors import BulkdlError, ProductFailed, TryAgain
from bulkdl.core.models import FailureKind

if TYPE_CHECKING:
    from bulkdl.core.urls import Url

__all__ = ["map_exceptions", "network_error"]


class map_exceptions:  # noqa: N801 - used as a statement: with map_exceptions(url)
    """Context manager that replaces a network exception by the error of `network_error`."""

    def __init__(self, url: Url) -> None:
        self._url = url

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(
            error, (aiohttp.ClientError, OSError, asyncio.IncompleteReadError, ValueError)
        ) and not isinstance(error, BulkdlError):
            raise network_error(error, self._url) from error


def network_error(error: Exception, url: Url) -> BulkdlError:
    """Return bulkdl's error for a failed request.

    Its text never contains `str(error)`: aiohttp prints whole URLs there.
    """
    where = f"{url.host}:{url.port}"
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)):
        return ProductFailed(
            f"the TLS certificate of {where} could not be verified",
            kind=FailureKind.NETWORK,
            hint="Check this machine's clock and the host name; for a private CA use --ca-file",
        )
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return ProductFailed(
            f"the URL of a request to {where} is invalid",
            kind=FailureKind.HTTP,
            hint="Fix the URL in the manifest, unless the archive redirected to it",
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return TryAgain(
            f"the host name {url.host} could not be resolved",
            kind=FailureKind.NETWORK,
            hint="Check the host's spelling and this machine's network",
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error.strerror or type(error.os_error).__name__
        return TryAgain(
            f"no connection to {where} ({cause})",
            kind=FailureKind.NETWORK,
            hint="Check the host, the port and this machine's network or proxy",
        )
    for known, text in _BROKEN.items():
        if isinstance(error, known):
            return TryAgain(f"{where} {text}", kind=FailureKind.NETWORK)
    return TryAgain(f"the connection to {where} broke ({type(error).__name__})", kind=FailureKind.NETWORK)


_BROKEN: dict[type[Exception], str] = {
    TimeoutError: "sent no data before the timeout",
    aiohttp.ServerDisconnectedError: "closed the connection",
    aiohttp.ClientPayloadError: "ended the response body early",
    aiohttp.ClientResponseError: "sent a response that is not valid HTTP",
    ConnectionResetError: "reset the connection",
}
