"""The two token servers of the login scenarios: bulkdl's own fake, and a real Keycloak.

Scenarios assert only what the server counted, never counts of the client under test. The test moves the fake's clock,
so that ten hours take a second; at Keycloak real time passes.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import random
import tempfile
import urllib.parse
import urllib.request
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import aiohttp
from aiohttp import web

from bulkdl.auth.credentials import Credentials
from bulkdl.auth.factory import make_authenticator
from bulkdl.auth.oidc.authenticator import OidcAuthenticator
from bulkdl.auth.oidc.endpoint import HttpTokenEndpoint
from bulkdl.auth.oidc.messages import Client, refresh_form
from bulkdl.core.clock import SystemClock
from bulkdl.core.events import AccountEvent, Event, Hub, Note
from bulkdl.core.models import Account, AuthKind, Grant
from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url
from bulkdl.demo_server.token_server import ClientApp, Identity, Policy, User
from tests.clocks import ImpatientClock

from .keycloak import _ADMIN, Keycloak

if TYPE_CHECKING:
    from bulkdl.auth.base import Credential
    from bulkdl.core.clock import Clock

__all__ = ["CLIENT_SECRET", "PASSWORD", "Backend", "FakeBackend", "KeycloakBackend", "base32", "bearer", "new_name"]

PASSWORD = "correct horse 6"
CLIENT_SECRET = "s3cr:et +%"
REALM, BRIEF = "eo-auth", "eo-brief"
_PATH = "/auth/realms/demo/protocol/openid-connect"
_CLIENTS = (
    ClientApp(id="public"),
    ClientApp(id="short", expires_in=5),
    ClientApp(id="lapse", expires_in=2, refresh_expires_in=4),
    ClientApp(id="closed", direct_grant=False),
    ClientApp(id="machine", secret=CLIENT_SECRET),
)
_POLICIES = {REALM: Policy(failure_factor=3), BRIEF: Policy(expires_in=5, session_max=12, failure_factor=3)}
SLOW_CHECK_S = 0.1
"""Seconds; if a token check took longer, the token may have expired during the check."""
_numbers = itertools.count()


def new_name() -> str:
    """Return the name of a user that no server knows yet, not even from an earlier test run."""
    return f"person{next(_numbers)}-{os.getpid()}"


def bearer(credential: Credential) -> str:
    assert credential.header is not None
    return credential.header.reveal().removeprefix("Bearer ")


def base32(key: str) -> str:
    """Return a user's TOTP secret as in a QR code."""
    return base64.b32encode(key.encode()).decode().rstrip("=")


class FastForwardClock(SystemClock):
    """Real time, but a wait takes at most 0.05 s; the rest of it is added to the clock.

    Without any wait, Keycloak would sometimes still be busy with the previous login.
    """

    def __init__(self) -> None:
        self._skipped = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self._skipped

    async def sleep(self, seconds: float) -> None:
        waited = min(max(0.0, seconds), 0.05)
        self._skipped += max(0.0, seconds - waited)
        await super().sleep(waited)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a server counted for one user."""

    logins: int
    failed_logins: int
    refreshes: int
    logouts: int
    sessions: int
    """Open sessions."""


class Server(Protocol):
    """Actions and counts that only the server offers."""

    clock: Clock
    instant: bool
    """True if a wait ends at once because the clock jumps."""

    def token_url(self, realm: str) -> Url: ...
    def add(self, realm: str, name: str, *, password: str, totp_key: str | None, enabled: bool) -> None: ...
    def counts(self, realm: str, name: str) -> Counts: ...
    def end_sessions(self, realm: str, name: str) -> None: ...
    async def valid(self, realm: str, token: str) -> bool: ...
    async def revoke(self, realm: str, token: str) -> None: ...


class Backend:
    """Accounts, authenticators and workers for a server. `realm`: the realm of the scenario."""

    def __init__(self, server: Server, *, realm: str = REALM) -> None:
        self.server = server
        self.realm = realm
        self.clock = server.clock
        self.events: list[Event] = []
        self.hub = Hub(self.events.append)
        self.authenticators: list[OidcAuthenticator] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.state = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        await self._stack.enter_async_context(session)
        self.endpoint = HttpTokenEndpoint(session, clock=self.clock)
        return self

    async def __aexit__(self, *_: object) -> None:
        for authenticator in self.authenticators:
            await authenticator.aclose()
        await self._stack.aclose()

    def person(self, *, password: str = PASSWORD, totp_key: str | None = None, enabled: bool = True) -> str:
        """Add a new user and return its name."""
        name = new_name()
        self.server.add(self.realm, name, password=password, totp_key=totp_key, enabled=enabled)
        return name

    def account(self, name: str, **changes: Any) -> Account:
        account = Account(
            name=name, auth=AuthKind.OIDC, token_url=self.server.token_url(self.realm), client_id="public"
        )
        return replace(account, **changes)

    def authenticator(
        self,
        name: str,
        password: str = PASSWORD,
        *,
        totp: str | None = None,
        secret: str | None = None,
        clock: Clock | None = None,
        **changes: Any,
    ) -> OidcAuthenticator:
        """Return an authenticator with its own token manager; `changes`: settings of the account."""
        service = changes.get("grant") is Grant.CLIENT_CREDENTIALS
        credentials = Credentials(
            username=None if service else name,
            password=None if service else Secret(password),
            totp_secret=None if totp is None else Secret(totp),
            client_secret=None if secret is None else Secret(secret),
        )
        authenticator = make_authenticator(
            self.account(name, **changes), credentials, **{**self.parts(), "clock": clock or self.clock}
        )
        assert isinstance(authenticator, OidcAuthenticator)
        self.authenticators.append(authenticator)
        return authenticator

    def parts(self) -> dict[str, Any]:
        rng = random.Random(1)
        return {
            "endpoint": self.endpoint,
            "hub": self.hub,
            "clock": self.clock,
            "rng": rng,
            "state_dir": self.state,
        }

    def counts(self, name: str) -> Counts:
        return self.server.counts(self.realm, name)

    def end_sessions(self, name: str) -> None:
        self.server.end_sessions(self.realm, name)

    async def valid(self, token: str) -> bool:
        """Tell whether the server itself accepts this access token now."""
        return await self.server.valid(self.realm, token)

    async def revoke(self, token: str) -> None:
        await self.server.revoke(self.realm, token)

    def event_details(self, action: str) -> list[str]:
        return [e.detail for e in self.events if isinstance(e, AccountEvent) and e.action == action]

    def notes(self) -> list[str]:
        return [e.text for e in self.events if isinstance(e, Note)]

    async def pass_time(self, seconds: float) -> None:
        if not self.server.instant:
            await asyncio.sleep(seconds)
            return
        assert isinstance(self.clock, ImpatientClock)
        await self.clock.advance(seconds)
        for authenticator in self.authenticators:
            if authenticator.manager is not None and authenticator.manager._task is not None:
                await asyncio.wait({authenticator.manager._task})

    async def ask_at_once(self, authenticator: OidcAuthenticator, size: int) -> list[Any]:
        """Let `size` workers ask at once; return the credential or error of each."""
        return await asyncio.gather(*(authenticator.credential() for _ in range(size)), return_exceptions=True)

    async def download(self, authenticator: OidcAuthenticator) -> bool:
        """Request one product as a transfer does: report a refusal, and repeat the request at most twice."""
        for _ in range(3):
            credential = await authenticator.credential()
            if await self.valid(bearer(credential)):
                authenticator.accepted(credential)
                return True
            if not await authenticator.rejected(credential, status=401):
                return False
        return False

    async def work(
        self, authenticator: OidcAuthenticator, *, workers: int, seconds: float, every: float = 0.1
    ) -> list[str]:
        """Let workers ask repeatedly for `seconds`; return the tokens that they got, all checked as valid.

        Each check is a request, and on a busy machine the token may expire during it. If a check was slow, an invalid
        token proves nothing, so it is only rejected as an archive would do.
        """
        seen: dict[str, None] = {}
        began = self.clock.monotonic()
        while (now := self.clock.monotonic()) - began < seconds:
            held = {bearer(c): c for c in await asyncio.gather(*(authenticator.credential() for _ in range(workers)))}
            for token, credential in held.items():
                seen[token] = None
                given = self.clock.monotonic()
                if await self.valid(token):
                    authenticator.accepted(credential)
                elif self.clock.monotonic() - given > SLOW_CHECK_S:
                    await authenticator.rejected(credential, status=401)
                else:
                    raise AssertionError(f"an invalid token after {now - began:.1f} s")
            await self.pass_time(every)
        return list(seen)

    async def replay(self, authenticator: OidcAuthenticator) -> None:
        """Use the authenticator's refresh token twice from outside, as a thief would."""
        assert authenticator.manager is not None
        assert authenticator.manager.active_token is not None
        refresh = authenticator.manager.active_token.token.refresh
        assert refresh is not None
        for _ in range(2):
            await self.endpoint.post(self.server.token_url(self.realm), refresh_form(Client(id="public"), refresh))


class FakeBackend:
    """bulkdl's own token server on a real socket, with a clock that the test moves."""

    instant = True

    def __init__(self) -> None:
        self.clock: Clock = ImpatientClock()
        self.identities = {
            realm: Identity((), _CLIENTS, policy=policy, clock=self.clock) for realm, policy in _POLICIES.items()
        }
        self._urls: dict[str, Url] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for realm, identity in self.identities.items():
            app = web.Application()
            app.add_subapp(_PATH, identity.app())
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            self._stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._urls[realm] = Url(f"http://127.0.0.1:{runner.addresses[0][1]}{_PATH}/token")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def token_url(self, realm: str) -> Url:
        return self._urls[realm]

    def add(self, realm: str, name: str, *, password: str, totp_key: str | None, enabled: bool) -> None:
        secret = None if totp_key is None else base32(totp_key)
        self.identities[realm].users[name] = User(name=name, password=password, totp_secret=secret, enabled=enabled)

    def counts(self, realm: str, name: str) -> Counts:
        identity = self.identities[realm]
        logins = identity.count("password", user=name, status=200)
        return Counts(
            logins=logins,
            failed_logins=identity.count("password", user=name) - logins,
            refreshes=identity.count("refresh_token", user=name, status=200),
            logouts=identity.count("logout", user=name, status=204),
            sessions=identity.sessions,
        )

    def end_sessions(self, realm: str, name: str) -> None:
        self.identities[realm].end_sessions(name)

    async def valid(self, realm: str, token: str) -> bool:
        return self.identities[realm].check(token)

    async def revoke(self, realm: str, token: str) -> None:
        self.identities[realm].revoke_access()


class KeycloakBackend:
    """A real Keycloak. Its introspection (RFC 7662), which knows sessions and revocations, checks tokens."""

    instant = False

    def __init__(self, keycloak: Keycloak) -> None:
        self.clock: Clock = SystemClock()
        self._keycloak = keycloak

    def token_url(self, realm: str) -> Url:
        return Url(self._keycloak.token_url(realm))

    def add(self, realm: str, name: str, *, password: str, totp_key: str | None, enabled: bool) -> None:
        add_person(self._keycloak, realm, name, password=password, totp_key=totp_key, enabled=enabled)

    def counts(self, realm: str, name: str) -> Counts:
        def events(kind: str) -> int:
            return self._keycloak.events(realm, kind, user=name)

        return Counts(
            logins=events("LOGIN"),
            failed_logins=events("LOGIN_ERROR"),
            refreshes=events("REFRESH_TOKEN"),
            logouts=events("LOGOUT"),
            sessions=self._keycloak.sessions(realm, name),
        )

    def end_sessions(self, realm: str, name: str) -> None:
        self._keycloak.end_sessions(realm, name)

    async def valid(self, realm: str, token: str) -> bool:
        return await asyncio.to_thread(introspect, self._keycloak, realm, token)

    async def revoke(self, realm: str, token: str) -> None:
        form = {"client_id": "public", "token": token, "token_type_hint": "access_token"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self._keycloak.issuer(realm)}/protocol/openid-connect/revoke", data=form) as response,
        ):
            assert response.status == 200, await response.text()


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def introspect(keycloak: Keycloak, realm: str, token: str) -> bool:
    """Ask the introspection endpoint (RFC 7662), as an archive behind a gateway does."""
    form = {"client_id": "machine", "client_secret": CLIENT_SECRET, "token": token}
    url = f"{keycloak.issuer(realm)}/protocol/openid-connect/token/introspect"
    with _direct.open(url, data=urllib.parse.urlencode(form).encode(), timeout=30) as response:
        return bool(json.loads(response.read())["active"])


def add_person(
    keycloak: Keycloak, realm: str, name: str, *, password: str, totp_key: str | None = None, enabled: bool = True
) -> None:
    """Add a user as an import does, with an e-mail and names, without which Keycloak refuses a login."""
    credentials: list[dict[str, object]] = [{"type": "password", "value": password}]
    if totp_key is not None:
        kind = {"subType": "totp", "digits": 6, "counter": 0, "period": 30, "algorithm": "HmacSHA1"}
        key = {"secretData": json.dumps({"value": totp_key}), "credentialData": json.dumps(kind)}
        credentials.append({"type": "otp", **key})
    person = {
        "username": name,
        "enabled": enabled,
        "email": f"{name}@example.org",
        "emailVerified": True,
        "firstName": name.title(),
        "lastName": "Observer",
        "credentials": credentials,
    }
    _administer(keycloak, f"{realm}/users", person)


def _administer(keycloak: Keycloak, path: str, body: object) -> None:
    form = {"grant_type": "password", "client_id": "admin-cli", "username": _ADMIN[0], "password": _ADMIN[1]}
    with _direct.open(keycloak.token_url("master"), data=urllib.parse.urlencode(form).encode(), timeout=30) as response:
        token = json.loads(response.read())["access_token"]
    request = urllib.request.Request(f"{keycloak.url}/admin/realms/{path}", data=json.dumps(body).encode())
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", "application/json")
    with _direct.open(request, timeout=30) as response:
        response.read()
