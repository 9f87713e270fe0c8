"""The two token servers that the sign-in scenarios run against: bulkdl's own fake, and a real Keycloak.

What a scenario asserts is counted by the server, never by the client under test. Time is the fake's to move, so that a
night there takes a second; at Keycloak it passes as it does.
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
SLOW_S = 0.1
"""A check of a token that took longer than this says nothing of the moment when it was given out."""
_numbers = itertools.count()


def new_name() -> str:
    """Of a person that no server knows yet, whichever test run it has seen before."""
    return f"person{next(_numbers)}-{os.getpid()}"


def bearer(credential: Credential) -> str:
    assert credential.header is not None
    return credential.header.reveal().removeprefix("Bearer ")


def base32(key: str) -> str:
    """The secret of a person's one-time codes, as a QR code has it."""
    return base64.b32encode(key.encode()).decode().rstrip("=")


class Hurried(SystemClock):
    """Real time, but for waits, of which a twentieth of a second is real and the rest counts as passed.

    Without any, Keycloak would now and then still be busy with the login before.
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
    """What a server counted of one person."""

    logins: int
    failed_logins: int
    refreshes: int
    logouts: int
    sessions: int
    """That are alive."""


class Server(Protocol):
    """What only the server can do or tell."""

    clock: Clock
    instant: bool
    """Time passes as soon as somebody waits for it."""

    def token_url(self, realm: str) -> Url: ...
    def add(self, realm: str, name: str, *, password: str, totp_key: str | None, enabled: bool) -> None: ...
    def counts(self, realm: str, name: str) -> Counts: ...
    def end_sessions(self, realm: str, name: str) -> None: ...
    async def valid(self, realm: str, token: str) -> bool: ...
    async def revoke(self, realm: str, token: str) -> None: ...


class Backend:
    """Accounts, signers and workers around a server. `realm`: which of the realms the scenario is about."""

    def __init__(self, server: Server, *, realm: str = REALM) -> None:
        self.server = server
        self.realm = realm
        self.clock = server.clock
        self.events: list[Event] = []
        self.hub = Hub(self.events.append)
        self.signers: list[OidcAuthenticator] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.state = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        await self._stack.enter_async_context(session)
        self.endpoint = HttpTokenEndpoint(session, clock=self.clock)
        return self

    async def __aexit__(self, *_: object) -> None:
        for signer in self.signers:
            await signer.aclose()
        await self._stack.aclose()

    def person(self, *, password: str = PASSWORD, totp_key: str | None = None, enabled: bool = True) -> str:
        """A new person that nobody has counted anything of."""
        name = new_name()
        self.server.add(self.realm, name, password=password, totp_key=totp_key, enabled=enabled)
        return name

    def account(self, name: str, **changes: Any) -> Account:
        account = Account(
            name=name, auth=AuthKind.OIDC, token_url=self.server.token_url(self.realm), client_id="public"
        )
        return replace(account, **changes)

    def signer(
        self,
        name: str,
        password: str = PASSWORD,
        *,
        totp: str | None = None,
        secret: str | None = None,
        clock: Clock | None = None,
        **changes: Any,
    ) -> OidcAuthenticator:
        """A signer with a manager of its own; `changes` are the account's."""
        service = changes.get("grant") is Grant.CLIENT_CREDENTIALS
        credentials = Credentials(
            username=None if service else name,
            password=None if service else Secret(password),
            totp_secret=None if totp is None else Secret(totp),
            client_secret=None if secret is None else Secret(secret),
        )
        made = make_authenticator(
            self.account(name, **changes), credentials, **{**self.parts(), "clock": clock or self.clock}
        )
        assert isinstance(made, OidcAuthenticator)
        self.signers.append(made)
        return made

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
        """Whether the server itself takes this access token for valid now."""
        return await self.server.valid(self.realm, token)

    async def revoke(self, token: str) -> None:
        await self.server.revoke(self.realm, token)

    def told(self, action: str) -> list[str]:
        return [e.detail for e in self.events if isinstance(e, AccountEvent) and e.action == action]

    def notes(self) -> list[str]:
        return [e.text for e in self.events if isinstance(e, Note)]

    async def pass_time(self, seconds: float) -> None:
        if not self.server.instant:
            await asyncio.sleep(seconds)
            return
        assert isinstance(self.clock, ImpatientClock)
        await self.clock.advance(seconds)
        for signer in self.signers:
            if signer.manager is not None and signer.manager._task is not None:
                await asyncio.wait({signer.manager._task})

    async def herd(self, signer: OidcAuthenticator, size: int) -> list[Any]:
        """That many workers ask at once; each has a credential or an error."""
        return await asyncio.gather(*(signer.credential() for _ in range(size)), return_exceptions=True)

    async def fetch(self, signer: OidcAuthenticator) -> bool:
        """One product as a transfer does it: a refusal is reported, and the request repeated twice at most."""
        for _ in range(3):
            credential = await signer.credential()
            if await self.valid(bearer(credential)):
                signer.accepted(credential)
                return True
            if not await signer.rejected(credential, status=401):
                return False
        return False

    async def work(self, signer: OidcAuthenticator, *, workers: int, seconds: float, every: float = 0.1) -> list[str]:
        """Workers that ask again and again for so long; the tokens that any of them saw, which were all valid then.

        The check of a token is a request of its own, which a busy machine may hold up until the token is over: one that took
        longer than the margin that servers' whole seconds leave says nothing, and the token is refused as an archive would.
        """
        seen: dict[str, None] = {}
        began = self.clock.monotonic()
        while (now := self.clock.monotonic()) - began < seconds:
            held = {bearer(c): c for c in await asyncio.gather(*(signer.credential() for _ in range(workers)))}
            for token, credential in held.items():
                seen[token] = None
                given = self.clock.monotonic()
                if await self.valid(token):
                    signer.accepted(credential)
                elif self.clock.monotonic() - given > SLOW_S:
                    await signer.rejected(credential, status=401)
                else:
                    raise AssertionError(f"an invalid token after {now - began:.1f} s")
            await self.pass_time(every)
        return list(seen)

    async def replay(self, signer: OidcAuthenticator) -> None:
        """Somebody else uses the refresh token that the signer has, twice."""
        assert signer.manager is not None
        assert signer.manager.active_token is not None
        refresh = signer.manager.active_token.token.refresh
        assert refresh is not None
        for _ in range(2):
            await self.endpoint.post(self.server.token_url(self.realm), refresh_form(Client(id="public"), refresh))


class FakeBackend:
    """bulkdl's own token server on a real socket, with time that the test moves."""

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
    """The real one. Tokens are judged by its introspection (RFC 7662), which knows of sessions and revocations."""

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
    """RFC 7662, as an archive behind a gateway asks."""
    form = {"client_id": "machine", "client_secret": CLIENT_SECRET, "token": token}
    url = f"{keycloak.issuer(realm)}/protocol/openid-connect/token/introspect"
    with _direct.open(url, data=urllib.parse.urlencode(form).encode(), timeout=30) as response:
        return bool(json.loads(response.read())["active"])


def add_person(
    keycloak: Keycloak, realm: str, name: str, *, password: str, totp_key: str | None = None, enabled: bool = True
) -> None:
    """A user as an import has one: an e-mail and names, without which Keycloak lets nobody in."""
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
