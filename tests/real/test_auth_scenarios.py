"""Login scenarios at the fake and at a real Keycloak. Running both shows that the fake behaves like the real one."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest

from bulkdl.auth.credentials import Credentials
from bulkdl.auth.oidc.token_lifetime import RenewalReason
from bulkdl.auth.oidc.totp import code_at
from bulkdl.auth.oidc.totp_secret import normalise
from bulkdl.core.errors import AccountStopped
from bulkdl.core.models import Grant
from bulkdl.core.secret import Secret
from bulkdl.operations.try_login import rehearse

from .backends import (
    BRIEF,
    CLIENT_SECRET,
    PASSWORD,
    Backend,
    FakeBackend,
    FastForwardClock,
    KeycloakBackend,
    base32,
    bearer,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

WORKERS = 50
NIGHT_S = int(os.environ.get("BULKDL_NIGHT_S", "12"))
"""Set it for a longer test."""
ODD_PASSWORDS = ["pÄss wörd+&=%€", "  outer spaces  ", "%41%zz", "日本語のパスワード", 'quote"\\back', "a" * 200]


@pytest.fixture(params=["fake", pytest.param("keycloak", marks=[pytest.mark.real, pytest.mark.timeout(300)])])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "keycloak":
        async with Backend(KeycloakBackend(request.getfixturevalue("keycloak"))) as real:
            yield real
        return
    async with FakeBackend() as server, Backend(server) as fake:
        yield fake


@pytest.fixture
def seen(request: pytest.FixtureRequest, figure: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that records a figure, for the real server only."""
    return figure if "keycloak" in request.node.name else lambda _line: None


# Many workers


async def test_a_hundred_cold_workers_cost_one_login(backend: Backend, seen):
    name = backend.person()
    authenticator = backend.authenticator(name)
    tokens = {bearer(credential) for credential in await backend.ask_at_once(authenticator, 100)}
    assert len(tokens) == 1
    assert await backend.valid(tokens.pop())
    counts = backend.counts(name)
    assert (counts.logins, counts.refreshes, counts.failed_logins) == (1, 0, 0)
    seen(f"100 cold workers: {counts.logins} login")


async def test_many_short_tokens_give_no_worker_an_error_and_cost_one_login(backend: Backend, seen):
    name, seconds = backend.person(), NIGHT_S
    authenticator = backend.authenticator(name, client_id="short")
    tokens = await backend.work(authenticator, workers=WORKERS, seconds=seconds)
    counts = backend.counts(name)
    assert (counts.logins, counts.failed_logins) == (1, 0)
    assert seconds / 6 - 1 <= counts.refreshes <= seconds / (0.8 * 5) + 1
    assert 0 <= 1 + counts.refreshes - len(tokens) <= 1  # the last refresh may have ended after the workers
    seen(
        f"{WORKERS} workers, 5 s tokens with rotation, {seconds} s: {counts.logins} login, {counts.refreshes} refreshes"
    )


async def test_runs_that_log_in_one_user_at_once_wait_for_each_other(backend: Backend):
    """Keycloak refuses a login during another one of the same user, with the message of a wrong password."""
    name = backend.person()
    authenticators = [backend.authenticator(name) for _ in range(4)]
    assert all(await asyncio.gather(*(backend.download(authenticator) for authenticator in authenticators)))
    counts = backend.counts(name)
    assert (counts.logins, counts.failed_logins, counts.sessions) == (4, 0, 4)


async def test_a_revoked_token_costs_one_refresh_for_all_workers(backend: Backend):
    name = backend.person()
    authenticator = backend.authenticator(name)
    assert await backend.download(authenticator)
    await backend.revoke(bearer(await authenticator.credential()))
    assert all(await asyncio.gather(*(backend.download(authenticator) for _ in range(WORKERS))))
    counts = backend.counts(name)
    assert (counts.logins, counts.refreshes) == (1, 1)


async def test_a_refresh_continues_when_all_its_waiters_are_cancelled(backend: Backend):
    name = backend.person()
    authenticator = backend.authenticator(name)
    await authenticator.credential()
    authenticator.manager.reject(1)
    waiters = [asyncio.ensure_future(authenticator.credential()) for _ in range(20)]
    while not authenticator.manager._token_client.in_flight:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    assert await backend.download(authenticator)
    counts = backend.counts(name)
    assert (counts.logins, counts.refreshes) == (1, 1)


# Sessions that end


async def test_a_session_that_an_administrator_ends_costs_one_login_and_no_product(backend: Backend, seen):
    name = backend.person()
    authenticator = backend.authenticator(name)
    assert await backend.download(authenticator)
    backend.end_sessions(name)
    assert all(await asyncio.gather(*(backend.download(authenticator) for _ in range(WORKERS))))
    counts = backend.counts(name)
    assert (counts.logins, counts.failed_logins, counts.sessions) == (2, 0, 1)
    seen(f"session ended by the administrator, {WORKERS} workers: {counts.logins - 1} further login, no refusal")


async def test_a_refresh_token_that_somebody_else_used_costs_one_login(backend: Backend):
    name = backend.person()
    authenticator = backend.authenticator(name)
    assert await backend.download(authenticator)
    await backend.replay(authenticator)
    assert all(await asyncio.gather(*(backend.download(authenticator) for _ in range(WORKERS))))
    counts = backend.counts(name)
    assert (counts.logins, counts.failed_logins, counts.sessions) == (2, 0, 1)


async def test_a_refresh_token_that_has_expired_costs_one_login(backend: Backend):
    name = backend.person()
    authenticator = backend.authenticator(name, client_id="lapse")
    assert await backend.download(authenticator)
    await backend.pass_time(5)
    assert all(await asyncio.gather(*(backend.download(authenticator) for _ in range(WORKERS))))
    counts = backend.counts(name)
    assert (counts.logins, counts.refreshes) == (2, 0)


async def test_near_a_sessions_greatest_age_there_is_one_login_and_no_storm(backend: Backend, seen):
    backend.realm = BRIEF
    name = backend.person()
    authenticator = backend.authenticator(name)
    await backend.work(authenticator, workers=5, seconds=17, every=0.2)
    counts = backend.counts(name)
    assert 2 <= counts.logins <= 3
    assert counts.refreshes <= 6
    assert counts.sessions == 1
    seen(f"17 s with sessions of 12 s and tokens of 5 s: {counts.logins} logins, {counts.refreshes} refreshes")


async def test_closing_leaves_no_session(backend: Backend):
    name = backend.person()
    authenticator = backend.authenticator(name)
    await authenticator.credential()
    assert backend.counts(name).sessions == 1
    await authenticator.aclose()
    counts = backend.counts(name)
    assert (counts.sessions, counts.logouts) == (0, 1)


async def test_a_hundred_logins_leave_at_most_one_session(backend: Backend, seen):
    name = backend.person()
    authenticator = backend.authenticator(name, clock=None if backend.server.instant else FastForwardClock())
    for _ in range(100):
        await authenticator.renewed(RenewalReason.SECOND_LOGIN)
    counts = backend.counts(name)
    assert (counts.logins, counts.sessions) == (100, 1)
    seen(f"100 logins in a row leave {counts.sessions} session")
    await authenticator.aclose()
    assert backend.counts(name).sessions == 0


# Passwords and clients


async def test_a_wrong_password_costs_one_attempt_and_the_right_one_works_at_once(backend: Backend, seen):
    name = backend.person()
    results = await backend.ask_at_once(backend.authenticator(name, "wrong"), WORKERS)
    assert all(isinstance(result, AccountStopped) for result in results)
    counts = backend.counts(name)
    assert (counts.failed_logins, counts.logins) == (1, 0)
    assert "Invalid user credentials" in str(results[0])
    assert await backend.download(backend.authenticator(name))
    assert backend.counts(name).logins == 1
    seen(f"{WORKERS} workers with a wrong password: {counts.failed_logins} attempt; the right password works at once")


@pytest.mark.parametrize("password", ODD_PASSWORDS)
async def test_a_password_arrives_unchanged(backend: Backend, password: str):
    name = backend.person(password=password)
    assert await backend.download(backend.authenticator(name, password))
    assert backend.counts(name).failed_logins == 0


async def test_a_clients_secret_arrives_unchanged(backend: Backend):
    name = backend.person()
    assert await backend.download(backend.authenticator(name, client_id="machine", secret=CLIENT_SECRET))
    service = backend.authenticator(name, client_id="machine", secret=CLIENT_SECRET, grant=Grant.CLIENT_CREDENTIALS)
    assert await backend.download(service)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"client_id": "closed"}, "Ask the service to allow direct access grants"),
        ({"client_id": "nobody"}, "Check client_id and client_secret"),
        ({"client_id": "machine", "secret": "wrong"}, "Check client_id and client_secret"),
    ],
)
async def test_a_client_without_permission_is_named_with_what_to_fix(backend: Backend, changes, said):
    name = backend.person()
    results = await backend.ask_at_once(backend.authenticator(name, **changes), 10)
    assert all(said in str(result) for result in results)
    assert backend.counts(name).logins == 0


async def test_a_disabled_user_is_reported_and_tried_once(backend: Backend):
    name = backend.person(enabled=False)
    results = await backend.ask_at_once(backend.authenticator(name), 10)
    assert all("Account disabled" in str(result) for result in results)
    counts = backend.counts(name)
    assert (counts.failed_logins, counts.logins) == (1, 0)


# One-time codes


@pytest.mark.parametrize("written", ["plain", "spaces and lower case"])
async def test_a_one_time_secret_works_however_it_is_written(backend: Backend, written: str):
    key = f"as {written}".ljust(30, "x")
    name, secret = backend.person(totp_key=key), base32(key)
    if written != "plain":
        secret = " ".join(secret[i : i + 4] for i in range(0, len(secret), 4)).lower()
    assert await backend.download(backend.authenticator(name, totp=secret))
    counts = backend.counts(name)
    assert (counts.logins, counts.failed_logins) == (1, 0)


async def test_a_code_with_a_leading_zero_is_sent_whole(backend: Backend):
    step = int(backend.clock.wall() // 30)
    keys = (f"key number {number:09}" for number in range(100_000))
    key = next(k for k in keys if all(code_at(normalise(base32(k)), step + i).reveal()[0] == "0" for i in (0, 1)))
    name = backend.person(totp_key=key)
    assert await backend.download(backend.authenticator(name, totp=base32(key)))
    counts = backend.counts(name)
    assert (counts.logins, counts.failed_logins) == (1, 0)


async def test_two_managers_and_a_restart_within_one_step_never_send_a_code_twice(backend: Backend, seen):
    """The second manager waits for the very start of the next step, the worst case for clock differences."""
    key = "two managers 1 step!"
    name = backend.person(totp_key=key)
    began = time.monotonic()
    authenticators = [backend.authenticator(name, totp=base32(key)) for _ in range(2)]
    assert all(await asyncio.gather(*(backend.download(authenticator) for authenticator in authenticators)))
    counts = backend.counts(name)
    assert (counts.logins, counts.failed_logins, counts.sessions) == (2, 0, 2)
    assert any("one-time code" in text for text in backend.event_details("waiting"))
    seen(f"two managers in one step: {counts.logins} logins, no refusal, {time.monotonic() - began:.0f} s")


async def test_a_rehearsal_refreshes_and_logs_in_again_with_the_next_code(backend: Backend):
    key = "a rehearsal in short"
    name = backend.person(totp_key=key)
    given = Credentials(username=name, password=Secret(PASSWORD), totp_secret=Secret(base32(key)))
    report = await rehearse(backend.account(name), given, **backend.parts())
    assert (report.error, report.refreshed, report.rotation, report.logins) == (None, True, True, 2)
    counts = backend.counts(name)
    assert (counts.logins, counts.refreshes, counts.failed_logins, counts.sessions) == (2, 1, 0, 0)


async def test_a_wrong_one_time_secret_costs_two_attempts_and_locks_nobody_out(backend: Backend):
    name = backend.person(totp_key="the right secret....")
    (result,) = await backend.ask_at_once(backend.authenticator(name, totp=base32("a wrong secret......")), 1)
    assert isinstance(result, AccountStopped)
    assert "TOTP" in str(result)
    assert backend.counts(name).failed_logins == 2
    assert await backend.download(backend.authenticator(name, totp=base32("the right secret....")))
