"""Build the parts that use the network, for a run, for `check --remote` and for a trial login.

Only this module builds a session, a token endpoint or an authenticator.
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING

import aiohttp

from bulkdl.auth.credentials import Credentials, keyring_lookup, resolve
from bulkdl.auth.factory import make_authenticator
from bulkdl.auth.oidc.endpoint import HttpTokenEndpoint
from bulkdl.core.errors import AccountStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Account, AuthKind
from bulkdl.http.client import USER_AGENT, HttpClient
from bulkdl.http.framed_protocol import new_connector
from bulkdl.http.lightweight.pipelining_policy import pipelining_config
from bulkdl.http.login_route import LoginRoute
from bulkdl.http.tls import trusted_context
from bulkdl.operations.state_folder import state_folder
from bulkdl.protocol.proxy import ProxyRules

if TYPE_CHECKING:
    import random
    import ssl
    from collections.abc import AsyncIterator, Callable, Collection, Mapping

    from bulkdl.auth.base import Authenticator
    from bulkdl.auth.credentials import Prompt
    from bulkdl.auth.oidc.messages import TokenEndpoint
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.models import Settings
    from bulkdl.core.urls import Url

__all__ = ["NetworkClients", "Services"]


@dataclass(frozen=True, slots=True)
class NetworkClients:
    """Clients for products and for token endpoints."""

    http: HttpClient
    endpoint: TokenEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Arguments of the caller that the network parts need."""

    settings: Settings
    environ: Mapping[str, str]
    """The only environment that is read."""
    prompt: Prompt | None
    """Prompt for secrets; None: no terminal."""
    hub: Hub
    clock: Clock
    rng: random.Random
    usernames: dict[str, str | None] = field(default_factory=dict)
    """User names by account, once its secrets have been found: the ledger of quotas tells users apart."""

    @asynccontextmanager
    async def network(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[NetworkClients]:
        """Open the clients; `tls` None: load the certificates here. Raise `UsageError` if they cannot be read."""
        tls = tls or trusted_context(self.settings, self.environ)
        pipelining = pipelining_config(self.environ.get("BULKDL_ASK_AHEAD"))
        proxies = ProxyRules(self.environ, system=_system_proxy if sys.platform in ("win32", "darwin") else None)
        async with (
            HttpClient(
                timeout=self.settings.timeout,
                tls=tls,
                proxy_for=proxies.proxy_for,
                clock=self.clock,
                pipelining=pipelining,
            ) as http,
            # Logins have their own pool: what happens to products' connections must never end a login, which may already
            # have used up a one-time code or a refresh token.
            aiohttp.ClientSession(
                connector=new_connector(tls),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT},
            ) as session,
            LoginRoute(session, proxy_for=proxies.proxy_for, connector_for=http.connector_for) as route,
        ):
            yield NetworkClients(http, HttpTokenEndpoint(session, clock=self.clock, route=route))

    def find(self, account: Account) -> Credentials:
        """Return the account's secrets; raise `AccountStopped` if one is missing."""
        found = resolve(account, environ=self.environ, prompt=self.prompt, keyring=keyring_lookup)
        self.usernames[account.name] = found.username
        return found

    def authenticators(
        self,
        accounts: Mapping[str, Account],
        *,
        needed: Collection[str],
        endpoint: TokenEndpoint,
        give_up_after: float | None = None,
    ) -> Mapping[str | None, Authenticator]:
        """Return an authenticator for each account by name, and one without credentials under None.

        `give_up_after`: see `make_authenticator`. Resolve the secrets of accounts in `needed` now, while a user is there to answer a prompt, not hours later.
        """
        make = partial(
            make_authenticator,
            endpoint=endpoint,
            hub=self.hub,
            clock=self.clock,
            rng=self.rng,
            state_dir=lambda: state_folder(self.environ),
            logins={},
            give_up_after=give_up_after,
        )
        made: dict[str | None, Authenticator] = {None: make(Account(name="", auth=AuthKind.NONE), Credentials())}
        for name, account in accounts.items():
            made[name] = make(account, self._try_find(account) if name in needed else partial(self.find, account))
        return made

    def _try_find(self, account: Account) -> Credentials | Callable[[], Credentials]:
        try:
            return self.find(account)
        except AccountStopped as error:
            stopped = error

            def refuse() -> Credentials:
                raise AccountStopped(stopped.reason, account=stopped.account, hint=stopped.hint)

            return refuse


def _system_proxy(url: Url) -> str | None:
    """Return the proxy for `url` by the settings of Windows or macOS."""
    import urllib.request  # noqa: PLC0415 - slow to import, and needed on these systems only

    found = urllib.request.getproxies()
    if not found or urllib.request.proxy_bypass(f"{url.host}:{url.port}"):
        return None
    return found.get(url.scheme) or found.get("all")
