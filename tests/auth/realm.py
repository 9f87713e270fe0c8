"""A token endpoint on a real socket, with everything that an authenticator needs."""

from __future__ import annotations

import random
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp import web

from bulkdl.auth.credentials import Credentials
from bulkdl.auth.factory import make_authenticator
from bulkdl.auth.oidc.authenticator import OidcAuthenticator
from bulkdl.auth.oidc.endpoint import HttpTokenEndpoint
from bulkdl.core.events import AccountEvent, Hub, Note
from bulkdl.core.models import Account, AuthKind, Grant
from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url
from bulkdl.demo_server.token_server import ClientApp, Identity, Policy, User
from tests.clocks import ImpatientClock

if TYPE_CHECKING:
    from bulkdl.core.events import Event
    from tests.clocks import ManualClock

PATH = "/auth/realms/demo/protocol/openid-connect"
PASSWORD = "pÄss wörd+&=%€ "
TOTP = "gezd gnbv gy3t qojq gezd gnbv gy3t qojq"
CLIENT_SECRET = "s3cr:et +%"
CLIENTS = (
    ClientApp(id="public"),
    ClientApp(id="closed", direct_grant=False),
    ClientApp(id="machine", secret=CLIENT_SECRET),
)
USERS = (
    User(name="anna", password=PASSWORD),
    User(name="otto", password=PASSWORD, totp_secret=TOTP),
    User(name="gone", password=PASSWORD, enabled=False),
)


class Realm:
    """An identity server, a clock, a hub that records events, and authenticators: `async with Realm() as realm:`."""

    def __init__(
        self, *, clock: ManualClock | None = None, server_clock: ManualClock | None = None, **policy: Any
    ) -> None:
        self.clock = clock or ImpatientClock()
        self.identity = Identity(USERS, CLIENTS, policy=Policy(**policy), clock=server_clock or self.clock)
        self.events: list[Event] = []
        self.hub = Hub(self.events.append)
        self.authenticators: list[OidcAuthenticator] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.state = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        app = web.Application()
        app.add_subapp(PATH, self.identity.app())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = Url(f"http://127.0.0.1:{runner.addresses[0][1]}{PATH}/token")
        session = await self._stack.enter_async_context(aiohttp.ClientSession())
        self.endpoint = HttpTokenEndpoint(session, clock=self.clock)
        return self

    async def __aexit__(self, *_: object) -> None:
        for authenticator in self.authenticators:
            await authenticator.aclose()
        await self._stack.aclose()

    def account(self, user: str = "anna", **changes: Any) -> Account:
        return Account(**{"name": user, "auth": AuthKind.OIDC, "token_url": self.url, "client_id": "public", **changes})

    def credentials(self, user: str = "anna", password: str = PASSWORD, **more: Any) -> Credentials:
        totp = Secret(TOTP) if user == "otto" else None
        return Credentials(**{"username": user, "password": Secret(password), "totp_secret": totp, **more})

    def authenticator(self, user: str = "anna", password: str = PASSWORD, **changes: Any) -> OidcAuthenticator:
        authenticator = make_authenticator(
            self.account(user, **changes), self.credentials(user, password), **self.parts()
        )
        assert isinstance(authenticator, OidcAuthenticator)
        self.authenticators.append(authenticator)
        return authenticator

    def machine(self) -> OidcAuthenticator:
        account = self.account("machine", client_id="machine", grant=Grant.CLIENT_CREDENTIALS)
        authenticator = make_authenticator(account, Credentials(client_secret=Secret(CLIENT_SECRET)), **self.parts())
        assert isinstance(authenticator, OidcAuthenticator)
        self.authenticators.append(authenticator)
        return authenticator

    def parts(self) -> dict[str, Any]:
        return {
            "endpoint": self.endpoint,
            "hub": self.hub,
            "clock": self.clock,
            "rng": random.Random(1),
            "state_dir": self.state,
        }

    def event_details(self, action: str) -> list[str]:
        return [e.detail for e in self.events if isinstance(e, AccountEvent) and e.action == action]

    def notes(self) -> list[str]:
        return [e.text for e in self.events if isinstance(e, Note)]
