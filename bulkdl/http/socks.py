"""Connections through a SOCKS proxy, made by the optional package aiohttp-socks (`pip install 'bulkdl[socks]'`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from bulkdl.core.errors import RunStopped
from bulkdl.http.framed_protocol import framed

if TYPE_CHECKING:
    import ssl

    import aiohttp

    from bulkdl.protocol.proxy import Proxy

__all__ = ["socks_connector"]


def socks_connector(proxy: Proxy, *, tls: ssl.SSLContext) -> aiohttp.TCPConnector:
    """Return a connector whose connections all go through `proxy`; raise `RunStopped` without the package.

    TLS ends at the archive: the proxy sees only the archive's name or address.
    """
    try:
        from aiohttp_socks import ProxyConnector, ProxyType  # noqa: PLC0415 - optional, and only for SOCKS
    except ImportError:
        raise RunStopped(
            f"{proxy.source} names a SOCKS proxy ({proxy.shown}), and the package for it is not installed",
            hint="Install it with `pip install 'bulkdl[socks]'`, or name an HTTP proxy",
        ) from None
    kind = ProxyType.SOCKS4 if proxy.scheme in {"socks4", "socks4a"} else ProxyType.SOCKS5
    connector = ProxyConnector(
        host=proxy.host,
        port=proxy.port,
        proxy_type=kind,
        username=proxy.user,
        password=None if proxy.password is None else proxy.password.reveal(),
        rdns=proxy.resolves_names,
        limit=0,
        ssl=tls,
    )
    return framed(cast("aiohttp.TCPConnector", connector))
