"""The way of logins: through the same proxies as products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp

from bulkdl.http.errors import proxy_trouble
from bulkdl.http.lightweight.sender import proxy_arguments
from bulkdl.protocol.proxy import ProxyTrouble, connect_failed

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from bulkdl.core.urls import Url
    from bulkdl.protocol.proxy import Proxy

__all__ = ["LoginRoute"]


class LoginRoute:
    """A `ProxyRoute` for the token endpoint. Close it before the connectors."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        proxy_for: Callable[[Url], Proxy | None],
        connector_for: Callable[[Proxy], aiohttp.TCPConnector],
    ) -> None:
        """`session`: for direct requests and HTTP proxies; `connector_for`: the connector of a SOCKS proxy."""
        self._session = session
        self._proxy_for = proxy_for
        self._connector_for = connector_for
        self._socks: dict[Proxy, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._socks.values():
            await session.close()

    def request_for(self, url: Url) -> tuple[aiohttp.ClientSession, dict[str, Any]]:
        """Return the session and the arguments of a request to `url`; raise `RunStopped` if its proxy is unusable."""
        proxy = self._proxy_for(url)
        if proxy is None or not proxy.is_socks:
            return self._session, proxy_arguments(proxy)
        if proxy not in self._socks:
            self._socks[proxy] = aiohttp.ClientSession(
                connector=self._connector_for(proxy),
                connector_owner=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._session.headers,
            )
        return self._socks[proxy], {}

    def trouble(self, url: Url, failed: Exception | aiohttp.ClientResponse) -> ProxyTrouble | None:
        """Return what the proxy has to do with a failed request to `url` or its response; None: nothing."""
        proxy = self._proxy_for(url)
        if proxy is None:
            return None
        if isinstance(failed, Exception):
            return proxy_trouble(failed, proxy, url)
        if failed.status != 407:
            return None
        challenges = failed.headers.getall("Proxy-Authenticate", [])
        return connect_failed(proxy, 407, host=url.host, port=url.port, challenges=challenges)
