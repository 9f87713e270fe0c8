"""A run waits while its token endpoint is out of order, and while a login that has worked is refused."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from bulkdl.auth.oidc.factory import login_for
from bulkdl.auth.oidc.login_lock import LoginLock
from bulkdl.auth.oidc.login_memory import LoginMemory
from bulkdl.auth.oidc.messages import EndpointFailed, TokenResponse
from bulkdl.auth.oidc.token_client import TokenClient
from bulkdl.auth.oidc.token_manager import RetryLimits, TokenManager
from bulkdl.auth.oidc.totp import UsedCodeLedger
from bulkdl.core.errors import AccountStopped, AccountWaiting
from bulkdl.core.events import Hub, OutageChanged
from bulkdl.core.models import Account, AuthKind, Trouble
from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url
from tests.auth.realm import Credentials
from tests.clocks import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

URL = Url("https://sso.example.org/token")
LIFETIME_S = 600
HTML = b"<html>back soon"


def oauth(status: int, error: str) -> tuple[int, bytes]:
    return status, json.dumps({"error": error}).encode()


REFUSED = EndpointFailed("no connection to the token endpoint", trouble=Trouble.REFUSED)
RESET = EndpointFailed("the connection was lost before the response was complete")
STALL = EndpointFailed("the token endpoint did not answer in 30 s", trouble=Trouble.TIMEOUT)
CERTIFICATE = EndpointFailed("no trusted TLS connection: it has expired", lasting=True, trouble=Trouble.TLS)
WRONG = oauth(401, "invalid_grant")

AT_ANY_TIME = {
    "refused connection": (REFUSED, Trouble.REFUSED),
    "reset": (RESET, Trouble.BROKEN),
    "stall": (STALL, Trouble.TIMEOUT),
    "502": ((502, b""), Trouble.STATUS),
    "503 with a page": ((503, HTML), Trouble.STATUS),
    "429": ((429, b""), Trouble.STATUS),
    "200 with a page": ((200, HTML), Trouble.PAGE),
    "401 with a page": ((401, HTML), Trouble.PAGE),
    "403 with a page": ((403, HTML), Trouble.PAGE),
    "temporarily unavailable": (oauth(400, "temporarily_unavailable"), Trouble.STATUS),
}
"""Answers that are an outage at the first login as in the middle of a run."""
ONCE_IT_WORKED = {
    "empty 401": ((401, b""), Trouble.PAGE),
    "empty 403": ((403, b""), Trouble.PAGE),
    "404": ((404, b""), Trouble.PAGE),
    "redirect": ((302, b""), Trouble.PAGE),
    "200 without a token": ((200, b"{}"), Trouble.PAGE),
    "certificate": (CERTIFICATE, Trouble.TLS),
}
"""Answers that are an outage only if a login has worked before."""
DEFINITE = {
    "invalid_grant": WRONG,
    "invalid_client": oauth(401, "invalid_client"),
    "unsupported_grant_type": oauth(400, "unsupported_grant_type"),
    "404": (404, b""),
    "empty 401": (401, b""),
    "certificate": CERTIFICATE,
}
"""Answers to the first login that stop the account at once."""


class Endpoint:
    """A token endpoint that gives a new token, or `answer` while there is one."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.answer: EndpointFailed | tuple[int, bytes] | None = None
        self.with_refresh = True
        self.asked: list[tuple[float, str]] = []
        """Time and kind of each request."""

    async def post(self, _url: Url, form: Secret, *, authorization: Secret | None = None) -> TokenResponse:
        assert authorization is None
        kind = "login" if "grant_type=password" in form.reveal() else "refresh"
        self.asked.append((self.clock.monotonic(), kind))
        if isinstance(self.answer, EndpointFailed):
            raise self.answer
        status, body = self.answer or (200, self._token())
        return TokenResponse(status=status, headers={}, body=body, sent_at=self.clock.monotonic())

    def _token(self) -> bytes:
        token: dict[str, object] = {"access_token": f"at.{len(self.asked)}", "expires_in": LIFETIME_S}
        return json.dumps(token | ({"refresh_token": f"rt.{len(self.asked)}"} if self.with_refresh else {})).encode()

    def count(self, kind: str) -> int:
        return sum(each == kind for _, each in self.asked)


class Night:
    """One account of one run after another, which share a state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.endpoint = Endpoint(self.clock)
        self.events: list[OutageChanged] = []
        self.hub = Hub(lambda event: self.events.append(event) if isinstance(event, OutageChanged) else None)
        self.managers: list[TokenManager] = []

    def manager(self, *, password: str = "right", give_up_after: float = 21600.0) -> TokenManager:
        account = Account(name="anna", auth=AuthKind.OIDC, token_url=URL, client_id="public")
        login = login_for(account, Credentials(username="anna", password=Secret(password)))
        client = TokenClient(
            login,
            endpoint=self.endpoint,
            ledger=UsedCodeLedger(self.folder, clock=self.clock, warn=lambda _text: None),
            login_lock=LoginLock(self.folder, clock=self.clock),
            clock=self.clock,
        )
        manager = TokenManager(
            login,
            client,
            hub=self.hub,
            clock=self.clock,
            rng=random.Random(1),
            retry_limits=RetryLimits(give_up_after, hold=True),
            memory=LoginMemory(self.folder, login, clock=self.clock),
        )
        self.managers.append(manager)
        return manager

    @property
    def phases(self) -> list[str]:
        return [event.phase.value for event in self.events]

    async def waits(self, manager: TokenManager) -> bool:
        """Ask for a token; return whether the account's products have to wait."""
        with suppress(AccountWaiting):
            await manager.access_token()
            assert not manager.waiting
            return False
        assert manager.waiting
        return True


@pytest.fixture
async def night(tmp_path: Path) -> AsyncIterator[Night]:
    night = Night(tmp_path)
    yield night
    for manager in night.managers:
        await manager.close()


@pytest.mark.parametrize("name", AT_ANY_TIME)
async def test_at_the_first_login_a_run_waits_for_an_endpoint_in_trouble(night: Night, name: str):
    night.endpoint.answer, kind = AT_ANY_TIME[name]
    manager = night.manager()
    assert await night.waits(manager)
    await night.clock.advance(1200)
    assert await night.waits(manager)
    night.endpoint.answer = None
    await night.clock.advance(331)
    assert not await night.waits(manager)
    assert (night.phases, night.events[0].outage.kind) == (["began", "ended"], kind)
    assert (night.events[0].outage.origin, night.events[0].outage.account) == (URL.origin, "anna")
    assert len(night.endpoint.asked) <= 15


@pytest.mark.parametrize("name", AT_ANY_TIME | ONCE_IT_WORKED)
async def test_once_a_login_has_worked_a_run_waits_for_whatever_is_not_oauths_word(night: Night, name: str):
    manager = night.manager()
    await manager.access_token()
    night.endpoint.answer, kind = (AT_ANY_TIME | ONCE_IT_WORKED)[name]
    await night.clock.advance(LIFETIME_S + 1)
    assert await night.waits(manager)
    await night.clock.advance(3600)
    assert await night.waits(manager)
    night.endpoint.answer = None
    await night.clock.advance(331)
    assert not await night.waits(manager)
    assert (manager.stopped, night.phases[0], night.phases[-1]) == (None, "began", "ended")
    assert night.events[0].outage.kind is kind


@pytest.mark.parametrize("name", DEFINITE)
async def test_a_definite_answer_to_the_first_login_stops_the_account_at_once(night: Night, name: str):
    night.endpoint.answer = DEFINITE[name]
    manager = night.manager()
    with pytest.raises(AccountStopped):
        await manager.access_token()
    assert (len(night.endpoint.asked), night.phases) == (1, [])


@pytest.mark.parametrize("error", ["invalid_client", "unsupported_grant_type", "invalid_scope"])
async def test_an_error_that_names_the_client_or_the_grant_is_definite_at_any_time(night: Night, error: str):
    manager = night.manager()
    await manager.access_token()
    night.endpoint.answer = oauth(400, error)
    await night.clock.advance(LIFETIME_S + 1)
    with pytest.raises(AccountStopped, match=error):
        await manager.access_token()
    assert night.endpoint.count("login") == 2


async def test_a_token_that_is_still_valid_is_used_while_the_endpoint_is_out_of_order(night: Night):
    manager = night.manager()
    first = await manager.access_token()
    night.endpoint.answer = REFUSED
    await night.clock.advance(0.95 * LIFETIME_S)
    assert night.phases == ["began"]
    assert (await manager.access_token()) is first
    await night.clock.advance(0.06 * LIFETIME_S)
    assert await night.waits(manager)


async def test_a_token_is_renewed_in_time_while_nobody_asks_for_it(night: Night):
    manager = night.manager()
    await manager.access_token()
    began = night.clock.monotonic()
    await night.clock.advance(3 * LIFETIME_S)
    assert night.endpoint.count("login") == 1
    times = [at - began for at, kind in night.endpoint.asked if kind == "refresh"]
    assert len(times) == 3
    gaps = [after - before for before, after in pairwise([0.0, *times])]
    assert all(0.7 * LIFETIME_S <= gap <= 0.9 * LIFETIME_S for gap in gaps), gaps


async def test_nobody_logs_in_for_a_token_that_nobody_asks_for(night: Night):
    night.endpoint.with_refresh = False
    manager = night.manager()
    await manager.access_token()
    await night.clock.advance(10 * LIFETIME_S)
    assert len(night.endpoint.asked) == 1


@pytest.mark.parametrize(
    ("has_worked", "give_up_after", "limit"),
    [
        (False, 21600.0, 3600.0),
        (False, 900.0, 900.0),
        (True, 21600.0, 21600.0),
        (True, 900.0, 900.0),
        (False, float("inf"), 3600.0),
    ],
)
async def test_an_endpoint_is_given_up_after_its_time(
    night: Night, give_up_after: float, limit: float, *, has_worked: bool
):
    manager = night.manager(give_up_after=give_up_after)
    if has_worked:
        await manager.access_token()
        night.endpoint.answer = REFUSED
        await night.clock.advance(LIFETIME_S)
    night.endpoint.answer = REFUSED
    assert await night.waits(manager)
    await night.clock.advance(limit - 1)
    assert await night.waits(manager)
    await night.clock.advance(2)
    with pytest.raises(AccountStopped, match=r"no connection to the token endpoint; gave up after \d+ attempts"):
        await manager.access_token()
    assert night.phases[-1] == "given up"


async def test_an_endpoint_that_worked_is_waited_for_without_an_end_if_the_user_says_never(night: Night):
    manager = night.manager(give_up_after=float("inf"))
    await manager.access_token()
    night.endpoint.answer = REFUSED
    await night.clock.advance(2 * 86400)
    assert await night.waits(manager)
    assert set(night.phases[1:]) == {"lasts"}
    assert all(event.gives_up is None for event in night.events)
    assert night.endpoint.count("refresh") <= 20 + 47 * 14


# Refused logins


async def locked_out(night: Night, manager: TokenManager) -> float:
    """Have the login refused from now on; return the time of the first refusal."""
    night.endpoint.answer = WRONG
    assert await night.waits(manager)
    return night.endpoint.asked[-1][0]


async def test_a_login_that_worked_is_tried_again_after_growing_pauses_and_then_no_more(night: Night):
    manager = night.manager()
    await manager.access_token()
    night.endpoint.answer = WRONG
    await night.clock.advance(LIFETIME_S + 1)
    began = await locked_out(night, manager)
    await night.clock.advance(began + 8399 - night.clock.monotonic())
    assert await night.waits(manager)
    await night.clock.advance(2 * 8400)
    with pytest.raises(AccountStopped, match="login refused"):
        await manager.access_token()
    logins = [at - began for at, kind in night.endpoint.asked if kind == "login" and at >= began]
    assert logins == pytest.approx([0, 1200, 3600, 8400])
    assert night.events[0].outage.kind is Trouble.LOGIN
    assert night.phases[-1] == "given up"


async def test_an_account_goes_on_when_its_lock_has_ended(night: Night):
    manager = night.manager()
    await manager.access_token()
    night.endpoint.answer = WRONG
    await night.clock.advance(LIFETIME_S + 1)
    began = await locked_out(night, manager)
    night.endpoint.answer = None
    await night.clock.advance(began + 1199 - night.clock.monotonic())
    assert await night.waits(manager)
    await night.clock.advance(3)
    assert not await night.waits(manager)
    assert night.phases == ["began", "ended"]


async def test_a_refused_login_is_tried_again_at_most_four_times_in_a_run(night: Night):
    night.endpoint.with_refresh = False
    manager = night.manager()
    for _ in range(4):
        night.endpoint.answer = None
        await night.clock.advance(1201)
        assert not await night.waits(manager)
        night.endpoint.answer = WRONG
        await night.clock.advance(LIFETIME_S + 1)
        assert await night.waits(manager)
    night.endpoint.answer = None
    await night.clock.advance(1201)
    assert not await night.waits(manager)
    night.endpoint.answer = WRONG
    await night.clock.advance(LIFETIME_S + 1)
    with pytest.raises(AccountStopped, match="login refused"):
        await manager.access_token()


async def test_the_next_run_knows_that_the_login_has_worked(night: Night):
    await night.manager().access_token()
    await night.clock.advance(1)
    later = night.manager()
    await locked_out(night, later)
    night.endpoint.answer = None
    await night.clock.advance(1201)
    assert not await night.waits(later)


async def test_another_password_has_not_worked_before(night: Night):
    await night.manager().access_token()
    await night.clock.advance(1)
    night.endpoint.answer = WRONG
    with pytest.raises(AccountStopped, match="login refused"):
        await night.manager(password="another").access_token()


async def test_a_run_that_ends_does_not_wait_for_a_lock(night: Night):
    manager = night.manager()
    await manager.access_token()
    night.endpoint.answer = WRONG
    await night.clock.advance(LIFETIME_S + 1)
    await locked_out(night, manager)
    await asyncio.wait_for(manager.close(), 60)
    with pytest.raises(AccountStopped, match="shutting down"):
        await manager.access_token()
