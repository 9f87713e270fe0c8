"""Where the parts that reach the network are put together: for a run, for a look at the archive, for a trial login.

Nothing else builds a session, a token endpoint or a signer.
"""

from __future__ import annotations

import urllib.request
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from bulkdl.auth.credentials import Credentials, keyring_lookup, resolve
from bulkdl.auth.factory import make_authenticator
from bulkdl.auth.oidc.endpoint import HttpTokenEndpoint
from bulkdl.core.errors import AccountStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Account, AuthKind
from bulkdl.http.client import USER_AGENT, HttpClient
from bulkdl.http.lightweight.pipelining_policy import pipelining_config
from bulkdl.http.tls import trusted_context

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

__all__ = ["NetworkClients", "Services", "state_folder"]


@dataclass(frozen=True, slots=True)
class NetworkClients:
    """The ways out: to products, and to token endpoints."""

    http: HttpClient
    endpoint: TokenEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the outside gives to everything that is put together here."""

    settings: Settings
    environ: Mapping[str, str]
    """The only environment that is looked at."""
    prompt: Prompt | None
    """None: nobody to ask."""
    hub: Hub
    clock: Clock
    rng: random.Random

    @asynccontextmanager
    async def network(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[NetworkClients]:
        """`tls`: what `trusted_context` gave, which is asked here where it is None. Raise `UsageError` where it cannot be read."""
        tls = tls or trusted_context(self.settings, self.environ)
        pipelining = pipelining_config(self.environ.get("BULKDL_ASK_AHEAD"))
        async with (
            HttpClient(
                timeout=self.settings.timeout, tls=tls, proxy_for=_proxies(), clock=self.clock, pipelining=pipelining
            ) as http,
            aiohttp.ClientSession(
                connector=http.connector,
                connector_owner=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT},
            ) as session,
        ):
            yield NetworkClients(http, HttpTokenEndpoint(session, clock=self.clock))

    def find(self, account: Account) -> Credentials:
        """The account's secrets; raise `AccountStopped` where one is missing."""
        return resolve(account, environ=self.environ, prompt=self.prompt, keyring=keyring_lookup)

    def signers(
        self, accounts: Mapping[str, Account], *, needed: Collection[str], endpoint: TokenEndpoint
    ) -> Mapping[str | None, Authenticator]:
        """A signer for each account, by name, and under None one that signs nothing.

        The secrets of the accounts that are `needed` are found now, while someone is there to be asked, not at 3 a.m.
        """
        signer = partial(
            make_authenticator,
            endpoint=endpoint,
            hub=self.hub,
            clock=self.clock,
            rng=self.rng,
            state_dir=lambda: state_folder(self.environ),
            logins={},
        )
        made: dict[str | None, Authenticator] = {None: signer(Account(name="", auth=AuthKind.NONE), Credentials())}
        for name, account in accounts.items():
            made[name] = signer(account, self._found(account) if name in needed else partial(self.find, account))
        return made

    def _found(self, account: Account) -> Credentials | Callable[[], Credentials]:
        try:
            return self.find(account)
        except AccountStopped as error:
            stopped = error

            def refuse() -> Credentials:
                raise AccountStopped(stopped.reason, account=stopped.account, hint=stopped.hint)

            return refuse


def state_folder(environ: Mapping[str, str]) -> Path:
    """Where what is shared by all runs of a user lives: the ledger of TOTP steps."""
    named = environ.get("BULKDL_STATE_DIR")
    if named:
        return Path(named)
    import platformdirs  # noqa: PLC0415 - only where someone logs in

    return Path(platformdirs.user_state_dir("bulkdl", appauthor=False))


def _proxies() -> Callable[[Url], str | None]:
    """The proxy for a URL, as the system's settings and the usual variables have it."""
    found = urllib.request.getproxies()

    def proxy_for(url: Url) -> str | None:
        if not found or urllib.request.proxy_bypass(f"{url.host}:{url.port}"):
            return None
        return found.get(url.scheme) or found.get("all")

    return proxy_for
