"""One token for many workers: how often the token endpoint is asked, and what workers see meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from bulkdl.core.errors import AccountStopped
from bulkdl.demo_server.token_server import EndpointFault
from tests.auth.realm import PASSWORD, Realm

if TYPE_CHECKING:
    from bulkdl.auth.oidc.authenticator import OidcAuthenticator


def bearer(credential) -> str:
    return credential.header.reveal().removeprefix("Bearer ")


async def herd(signer: OidcAuthenticator, size: int = 50) -> list:
    return await asyncio.gather(*(signer.credential() for _ in range(size)), return_exceptions=True)


async def until(condition) -> None:
    """Let the sockets work until the condition holds; the test's own time limit ends a vain wait."""
    while not condition():  # noqa: ASYNC110 - the other end of a socket has no event to wait for
        await asyncio.sleep(0)


async def settled(signer: OidcAuthenticator) -> None:
    """Return when no renewal is under way."""
    await asyncio.wait({signer.manager._task})


async def test_a_hundred_cold_workers_cost_one_login():
    async with Realm() as realm:
        signer = realm.signer()
        tokens = {bearer(c) for c in await herd(signer, 100)}
        assert len(tokens) == 1
        assert realm.identity.check(tokens.pop())
        assert realm.identity.count("password") == signer.logins == 1


@pytest.mark.parametrize("lifetime", [1, 5, 60, 600])
async def test_a_night_of_short_tokens_with_rotation_shows_no_worker_an_expired_one(lifetime):
    async with Realm(expires_in=lifetime) as realm:
        signer = realm.signer()
        ages = 0.0
        while ages < 12 * lifetime:
            for credential in await herd(signer, 5):
                assert realm.identity.check(bearer(credential))
                signer.accepted(credential)
            await realm.clock.advance(lifetime / 20)
            ages += lifetime / 20
            await settled(signer)
        assert signer.logins == realm.identity.logins == 1
        assert 11 <= realm.identity.refreshes <= 12 / 0.8 + 1
        assert not realm.identity.failures


async def test_workers_go_on_with_the_old_token_while_one_refresh_runs():
    async with Realm(expires_in=100) as realm:
        signer = realm.signer()
        first = await signer.credential()
        await realm.clock.advance(85)
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(until=answer))
        during = await herd(signer)
        assert {c.generation for c in during} == {first.generation}
        answer.set()
        await settled(signer)
        assert (await signer.credential()).generation == first.generation + 1
        assert realm.identity.count("refresh_token") == 1
        assert realm.told("refresh") == ["most of its life is over"]


async def test_the_last_second_of_a_short_token_is_waited_out_since_servers_count_in_whole_ones():
    async with Realm(expires_in=5) as realm:
        signer = realm.signer()
        first = await signer.credential()
        await realm.clock.advance(3.95)
        assert (await signer.credential()).generation == first.generation
        await realm.clock.advance(0.1)
        assert (await signer.credential()).generation == first.generation + 1


async def test_the_rest_of_a_token_is_used_up_before_a_login_that_ends_its_session():
    async with Realm(expires_in=100, session_max=185) as realm:
        signer = realm.signer()
        await signer.credential()
        await realm.clock.advance(95)
        second = await signer.credential()
        await realm.clock.advance(82)
        for _ in range(2):
            assert (await signer.credential()).generation == second.generation
            await settled(signer)
            assert realm.identity.check(bearer(second))
        assert (realm.identity.logins, realm.identity.refreshes) == (1, 2)
        await realm.clock.advance(20)
        assert realm.identity.check(bearer(await signer.credential()))
        assert realm.identity.logins == 2


async def test_all_workers_wait_for_the_refresh_in_the_last_tenth_of_a_tokens_life():
    async with Realm(expires_in=100) as realm:
        signer = realm.signer()
        first = await signer.credential()
        await realm.clock.advance(96)
        assert {c.generation for c in await herd(signer)} == {first.generation + 1}
        assert realm.identity.count("refresh_token") == 1


async def test_a_refresh_goes_on_when_all_its_waiters_are_cancelled():
    async with Realm(expires_in=100) as realm:
        signer = realm.signer()
        await signer.credential()
        await realm.clock.advance(97)
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(until=answer))
        waiters = [asyncio.ensure_future(signer.credential()) for _ in range(20)]
        await until(lambda: realm.identity.count("refresh_token") == 1)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        answer.set()
        credential = await signer.credential()
        assert realm.identity.check(bearer(credential))
        assert (realm.identity.logins, realm.identity.count("refresh_token")) == (1, 1)


async def test_one_waiter_that_times_out_takes_nothing_from_the_others():
    async with Realm() as realm:
        signer = realm.signer()
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(until=answer))
        patient = asyncio.ensure_future(signer.credential())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await signer.credential()
        answer.set()
        assert realm.identity.check(bearer(await patient))
        assert realm.identity.count("password") == 1


@pytest.mark.parametrize("user", ["anna", "otto"])
async def test_fifty_workers_with_a_wrong_password_cost_one_attempt_or_two_with_one_time_codes(user):
    async with Realm() as realm:
        signer = realm.signer(user, "wrong")
        results = await herd(signer)
        assert all(isinstance(r, AccountStopped) for r in results)
        assert realm.identity.count("password") == {"anna": 1, "otto": 2}[user]
        assert "Invalid user credentials" in str(results[0])
        assert signer.stopped is not None
        assert not signer.worked
        assert len(realm.told("stopped")) == 1


async def test_the_right_password_works_at_once_after_fifty_workers_had_a_wrong_one():
    async with Realm() as realm:
        await herd(realm.signer("anna", "wrong"))
        assert realm.identity.check(bearer(await realm.signer("anna", PASSWORD).credential()))


async def test_an_account_whose_breaker_is_open_leaves_the_other_one_alone():
    async with Realm() as realm:
        bad, good = realm.signer("anna", "wrong"), realm.signer("otto")
        with pytest.raises(AccountStopped) as stop:
            await bad.credential()
        assert stop.value.account == "anna"
        assert realm.identity.check(bearer(await good.credential()))


@pytest.mark.parametrize(
    ("name", "happening"),
    [
        ("the session was ended by an administrator", lambda realm: realm.identity.end_sessions()),
        ("the refresh token has expired", lambda realm: None),
        ("the answer to a refresh was lost", lambda realm: realm.identity.script(EndpointFault(drop=True))),
    ],
)
async def test_a_dead_session_costs_one_login(name, happening):
    async with Realm(expires_in=100, refresh_expires_in=100 if "expired" in name else 1800) as realm:
        signer = realm.signer()
        await signer.credential()
        await realm.clock.advance(101)
        happening(realm)
        credentials = await herd(signer)
        assert all(realm.identity.check(bearer(c)) for c in credentials)
        assert signer.logins == realm.identity.logins == 2


async def test_a_passing_trouble_of_the_endpoint_is_not_seen_while_the_token_is_valid():
    async with Realm(expires_in=600) as realm:
        signer = realm.signer()
        first = await signer.credential()
        await realm.clock.advance(500)
        realm.identity.script(EndpointFault(status=503), times=3)
        assert (await signer.credential()).generation == first.generation
        await settled(signer)
        assert realm.identity.refreshes == 1
        assert len(realm.told("waiting")) == 3


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 8),
        ("Sun, 15 Jun 2025 15:10:40 GMT", 238, 241),
        ("86400", 299, 301),
        ("soon", 0.1, 2),
        ("-5", 0.1, 2),
    ],
)
async def test_the_endpoints_retry_after_is_obeyed_up_to_five_minutes(value, least, most):
    async with Realm() as realm:
        realm.identity.script(EndpointFault(status=429, headers={"Retry-After": value}))
        await realm.signer().credential()
        assert least <= sum(realm.clock.slept) <= most


async def test_an_endpoint_that_never_answers_well_is_given_up_after_four_tries_and_half_a_minute():
    async with Realm() as realm:
        realm.identity.script(EndpointFault(status=502, body=b"<html>"), times=10)
        with pytest.raises(AccountStopped, match="502"):
            await realm.signer().credential()
        assert realm.identity.count("password") == 4
        assert sum(realm.clock.slept) <= 30


async def test_an_endpoint_that_worked_is_asked_for_five_minutes_after_the_token_has_ended():
    async with Realm(expires_in=100) as realm:
        signer = realm.signer()
        await signer.credential()
        realm.identity.script(EndpointFault(status=503), times=1000)
        await realm.clock.advance(101)
        began = realm.clock.monotonic()
        with pytest.raises(AccountStopped, match="503"):
            await signer.credential()
        assert 295 <= realm.clock.monotonic() - began <= 305
        assert realm.identity.count("refresh_token") < 40


async def test_a_maintenance_page_in_the_night_is_waited_out():
    async with Realm(expires_in=100) as realm:
        signer = realm.signer()
        await signer.credential()
        await realm.clock.advance(101)
        page = {"Content-Type": "text/html"}
        realm.identity.script(EndpointFault(status=200, body=b"<html>back soon", headers=page), times=3)
        assert realm.identity.check(bearer(await signer.credential()))


async def test_near_the_end_of_the_session_there_is_one_login_and_no_storm():
    async with Realm(expires_in=300, session_max=1000) as realm:
        signer = realm.signer()
        for _ in range(400):
            credential = await signer.credential()
            assert realm.identity.check(bearer(credential))
            await realm.clock.advance(5)
            await settled(signer)
        assert 2 <= signer.logins <= 4
        assert len(realm.identity.log) <= 24
        assert realm.identity.sessions == 1


@pytest.mark.parametrize(
    "fault", [EndpointFault(without=("refresh_token",)), EndpointFault(body={"refresh_token": ""})]
)
async def test_a_refresh_without_a_new_refresh_token_keeps_the_old_one(fault):
    async with Realm(expires_in=100, rotate=False) as realm:
        signer = realm.signer()
        await signer.credential()
        for _ in range(3):
            realm.identity.script(fault)
            await realm.clock.advance(101)
            assert realm.identity.check(bearer(await signer.credential()))
        assert (signer.logins, signer.refreshes) == (1, 3)


async def test_where_there_never_was_a_refresh_token_each_token_is_a_login():
    async with Realm(expires_in=100) as realm:
        signer = realm.signer()
        realm.identity.script(EndpointFault(without=("refresh_token",)), times=3)
        for _ in range(3):
            assert realm.identity.check(bearer(await signer.credential()))
            await realm.clock.advance(101)
        assert (signer.logins, signer.refreshes) == (3, 0)


@pytest.mark.parametrize(
    "changes", [{"expires_in": "90"}, {"expires_in": 0}, {"expires_in": -3}, {"expires_in": 1e300}]
)
async def test_odd_lifetimes_lead_to_no_second_login(changes):
    async with Realm() as realm:
        signer = realm.signer()
        realm.identity.script(EndpointFault(body=changes))
        for _ in range(3):
            await herd(signer, 5)
            await realm.clock.advance(10)
        assert len(realm.identity.log) == 1


async def test_a_server_that_hands_out_one_token_until_it_ends_is_not_asked_in_a_circle():
    async with Realm(expires_in=100) as realm:
        signer = realm.machine()
        first = await signer.credential()
        same = bearer(first)
        await realm.clock.advance(85)
        realm.identity.script(EndpointFault(body={"access_token": same, "expires_in": 15}))
        for _ in range(14):
            assert (await signer.credential()).generation == first.generation
            await settled(signer)
            await realm.clock.advance(1)
        assert realm.identity.count("client_credentials") == 2
        await realm.clock.advance(2)
        assert bearer(await signer.credential()) != same


async def test_closing_logs_out_of_the_one_session_that_is_left():
    async with Realm(expires_in=100, refresh_expires_in=100) as realm:
        signer = realm.signer()
        for _ in range(20):
            await signer.credential()
            await realm.clock.advance(101)
        assert realm.identity.logins == 20
        await signer.aclose()
        await signer.aclose()
        assert realm.identity.sessions == 0
        assert realm.identity.count("logout") <= 20
        with pytest.raises(AccountStopped, match="closed"):
            await signer.credential()


async def test_a_hundred_logins_leave_at_most_one_session_open():
    async with Realm(expires_in=300, session_max=5000, refresh_expires_in=0) as realm:
        signer = realm.signer()
        await signer.credential()
        for _ in range(100):
            realm.identity.script(EndpointFault(status=400, body={"error": "invalid_request"}))
            await realm.clock.advance(301)
            await signer.credential()
            assert realm.identity.sessions == 1
        assert signer.logins == 101


async def test_a_login_that_is_under_way_at_the_end_is_logged_out_too():
    async with Realm() as realm:
        signer = realm.signer()
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(until=answer))
        worker = asyncio.ensure_future(signer.credential())
        await until(lambda: realm.identity.sessions == 1)
        worker.cancel()
        closing = asyncio.ensure_future(signer.aclose())
        await asyncio.sleep(0)
        answer.set()
        await closing
        assert realm.identity.sessions == 0


async def test_the_wall_clock_may_jump_an_hour_without_a_login_or_a_refresh():
    async with Realm() as realm:
        signer = realm.signer()
        await signer.credential()
        for jump in (3600, -7200):
            realm.clock.jump_wall(jump)
            await signer.credential()
        assert len(realm.identity.log) == 1


async def test_client_credentials_bring_a_token_and_a_new_one_when_it_ends():
    async with Realm(expires_in=100) as realm:
        signer = realm.machine()
        for _ in range(3):
            assert realm.identity.check(bearer(await signer.credential()))
            await realm.clock.advance(101)
        assert signer.logins == realm.identity.count("client_credentials") == 3
