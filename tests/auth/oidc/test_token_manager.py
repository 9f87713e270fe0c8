"""One token for many workers: the number of token requests, and the tokens that workers get meanwhile."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from bulkdl.auth.oidc.token_lifetime import RenewalReason, TokenPhase
from bulkdl.auth.oidc.token_manager import RetryLimits
from bulkdl.core.errors import AccountStopped
from bulkdl.core.events import OutageChanged
from bulkdl.demo_server.token_server import EndpointFault
from tests.auth.realm import PASSWORD, Realm
from tests.clocks import ImpatientClock, ManualClock

if TYPE_CHECKING:
    from bulkdl.auth.oidc.authenticator import OidcAuthenticator
    from bulkdl.auth.oidc.token_manager import TokenManager
    from bulkdl.core.events import Event


def bearer(credential) -> str:
    return credential.header.reveal().removeprefix("Bearer ")


async def ask_at_once(authenticator: OidcAuthenticator, size: int = 50) -> list:
    return await asyncio.gather(*(authenticator.credential() for _ in range(size)), return_exceptions=True)


async def until(condition) -> None:
    """Run the event loop until the condition holds, or the test's time limit ends."""
    while not condition():  # noqa: ASYNC110 - the other end of a socket has no event to wait for
        await asyncio.sleep(0)


async def renewal_done(authenticator: OidcAuthenticator) -> None:
    """Return when no renewal is in progress."""
    await asyncio.wait({authenticator.manager._task})


def manager_of(authenticator: OidcAuthenticator, *, draw: float = 0.0, **limits: float) -> TokenManager:
    """Return the token manager; its random waits are `draw` times the longest possible wait."""
    manager = authenticator._get_manager()
    manager._rng = manager._retries._rng = Drawn(draw)
    manager._retry_limits = manager._retries._limits = RetryLimits(**limits)
    return manager


class Drawn(random.Random):
    """A random source that always returns the same share of the range."""

    def __init__(self, share: float) -> None:
        super().__init__(0)
        self.share = share

    def random(self) -> float:
        return self.share


class ShiftedClock(ImpatientClock):
    """The clock of a server that is `by` seconds ahead of `clock`."""

    def __init__(self, clock: ManualClock, by: float) -> None:
        super().__init__()
        self.clock = clock
        self.by = by

    def monotonic(self) -> float:
        return self.clock.monotonic()

    def wall(self) -> float:
        return self.clock.wall() + self.by


async def test_a_hundred_cold_workers_cost_one_login():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        tokens = {bearer(c) for c in await ask_at_once(authenticator, 100)}
        assert len(tokens) == 1
        assert realm.identity.check(tokens.pop())
        assert realm.identity.count("password") == authenticator.logins == 1


@pytest.mark.parametrize("lifetime", [1, 5, 60, 600])
async def test_short_tokens_with_rotation_never_give_a_worker_an_expired_one(lifetime):
    async with Realm(expires_in=lifetime) as realm:
        authenticator = realm.authenticator()
        ages = 0.0
        while ages < 12 * lifetime:
            for credential in await ask_at_once(authenticator, 5):
                assert realm.identity.check(bearer(credential))
                authenticator.accepted(credential)
            await realm.clock.advance(lifetime / 20)
            ages += lifetime / 20
            await renewal_done(authenticator)
        assert authenticator.logins == realm.identity.logins == 1
        assert 11 <= realm.identity.refreshes <= 12 / 0.8 + 1
        assert not realm.identity.failures


async def test_workers_use_the_old_token_while_one_refresh_runs():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        first = await authenticator.credential()
        await realm.clock.advance(85)
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(until=answer))
        during = await ask_at_once(authenticator)
        assert {c.generation for c in during} == {first.generation}
        answer.set()
        await renewal_done(authenticator)
        assert (await authenticator.credential()).generation == first.generation + 1
        assert realm.identity.count("refresh_token") == 1
        assert realm.event_details("refresh") == ["token about to expire"]


async def test_a_short_token_is_not_used_in_its_last_second():
    async with Realm(expires_in=5) as realm:
        authenticator = realm.authenticator()
        first = await authenticator.credential()
        await realm.clock.advance(3.95)
        assert (await authenticator.credential()).generation == first.generation
        await realm.clock.advance(0.1)
        assert (await authenticator.credential()).generation == first.generation + 1


async def test_the_rest_of_a_token_is_used_up_before_a_login_that_ends_its_session():
    async with Realm(expires_in=100, session_max=185) as realm:
        authenticator = realm.authenticator()
        await authenticator.credential()
        await realm.clock.advance(95)
        second = await authenticator.credential()
        await realm.clock.advance(82)
        for _ in range(2):
            assert (await authenticator.credential()).generation == second.generation
            await renewal_done(authenticator)
            assert realm.identity.check(bearer(second))
        assert (realm.identity.logins, realm.identity.refreshes) == (1, 2)
        await realm.clock.advance(20)
        assert realm.identity.check(bearer(await authenticator.credential()))
        assert realm.identity.logins == 2


async def test_all_workers_wait_for_the_refresh_in_the_last_tenth_of_a_tokens_life():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        first = await authenticator.credential()
        await realm.clock.advance(96)
        assert {c.generation for c in await ask_at_once(authenticator)} == {first.generation + 1}
        assert realm.identity.count("refresh_token") == 1


async def test_a_refresh_continues_when_all_its_waiters_are_cancelled():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        await authenticator.credential()
        await realm.clock.advance(97)
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(until=answer))
        waiters = [asyncio.ensure_future(authenticator.credential()) for _ in range(20)]
        await until(lambda: realm.identity.count("refresh_token") == 1)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        answer.set()
        credential = await authenticator.credential()
        assert realm.identity.check(bearer(credential))
        assert (realm.identity.logins, realm.identity.count("refresh_token")) == (1, 1)


async def test_a_waiter_that_times_out_does_not_affect_the_others():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(until=answer))
        patient = asyncio.ensure_future(authenticator.credential())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await authenticator.credential()
        answer.set()
        assert realm.identity.check(bearer(await patient))
        assert realm.identity.count("password") == 1


@pytest.mark.parametrize("user", ["anna", "otto"])
async def test_fifty_workers_with_a_wrong_password_cost_one_attempt_or_two_with_one_time_codes(user):
    async with Realm() as realm:
        authenticator = realm.authenticator(user, "wrong")
        results = await ask_at_once(authenticator)
        assert all(isinstance(r, AccountStopped) for r in results)
        assert realm.identity.count("password") == {"anna": 1, "otto": 2}[user]
        assert "Invalid user credentials" in str(results[0])
        assert authenticator.stopped is not None
        assert not authenticator.worked
        assert len(realm.event_details("stopped")) == 1


async def test_the_right_password_works_at_once_after_fifty_workers_had_a_wrong_one():
    async with Realm() as realm:
        await ask_at_once(realm.authenticator("anna", "wrong"))
        assert realm.identity.check(bearer(await realm.authenticator("anna", PASSWORD).credential()))


async def test_a_stopped_account_does_not_affect_another_one():
    async with Realm() as realm:
        bad, good = realm.authenticator("anna", "wrong"), realm.authenticator("otto")
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
        authenticator = realm.authenticator()
        await authenticator.credential()
        await realm.clock.advance(101)
        happening(realm)
        credentials = await ask_at_once(authenticator)
        assert all(realm.identity.check(bearer(c)) for c in credentials)
        assert authenticator.logins == realm.identity.logins == 2


async def test_a_temporary_failure_of_the_endpoint_is_not_seen_while_the_token_is_valid():
    async with Realm(expires_in=600) as realm:
        authenticator = realm.authenticator()
        first = await authenticator.credential()
        await realm.clock.advance(500)
        realm.identity.script(EndpointFault(status=503), times=3)
        assert (await authenticator.credential()).generation == first.generation
        await renewal_done(authenticator)
        assert realm.identity.refreshes == 1
        assert (realm.identity.count("refresh_token"), len(realm.event_details("waiting"))) == (4, 1)


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
        await manager_of(realm.authenticator(), give_up_after=3600.0).access_token()
        assert least <= sum(realm.clock.slept) <= most


async def test_a_command_with_a_user_who_waits_gives_up_a_failing_endpoint_after_half_a_minute():
    async with Realm() as realm:
        realm.identity.script(EndpointFault(status=502, body=b"<html>"), times=10)
        with pytest.raises(AccountStopped, match="502"):
            await realm.authenticator().credential()
        assert realm.identity.count("password") == 6
        assert sum(realm.clock.slept) == pytest.approx(30)


async def test_an_endpoint_that_worked_is_retried_after_the_token_expired_until_it_is_given_up():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        manager_of(authenticator, give_up_after=300.0)
        await authenticator.credential()
        realm.identity.script(EndpointFault(status=503), times=1000)
        await realm.clock.advance(101)
        began = realm.clock.monotonic()
        with pytest.raises(AccountStopped, match="503"):
            await authenticator.credential()
        assert 295 <= realm.clock.monotonic() - began <= 305
        assert realm.identity.count("refresh_token") < 40


async def test_a_maintenance_page_after_a_login_is_retried():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        await authenticator.credential()
        await realm.clock.advance(101)
        page = {"Content-Type": "text/html"}
        realm.identity.script(EndpointFault(status=200, body=b"<html>back soon", headers=page), times=3)
        assert realm.identity.check(bearer(await authenticator.credential()))


async def test_near_the_end_of_the_session_there_is_one_login_and_no_storm():
    async with Realm(expires_in=300, session_max=1000) as realm:
        authenticator = realm.authenticator()
        for _ in range(400):
            credential = await authenticator.credential()
            assert realm.identity.check(bearer(credential))
            await realm.clock.advance(5)
            await renewal_done(authenticator)
        assert 2 <= authenticator.logins <= 4
        assert len(realm.identity.log) <= 24
        assert realm.identity.sessions == 1


@pytest.mark.parametrize(
    "fault", [EndpointFault(without=("refresh_token",)), EndpointFault(body={"refresh_token": ""})]
)
async def test_a_refresh_without_a_new_refresh_token_keeps_the_old_one(fault):
    async with Realm(expires_in=100, rotate=False) as realm:
        authenticator = realm.authenticator()
        await authenticator.credential()
        for _ in range(3):
            realm.identity.script(fault)
            await realm.clock.advance(101)
            assert realm.identity.check(bearer(await authenticator.credential()))
        assert (authenticator.logins, authenticator.refreshes) == (1, 3)


async def test_without_refresh_tokens_each_token_needs_a_login():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        realm.identity.script(EndpointFault(without=("refresh_token",)), times=3)
        for _ in range(3):
            assert realm.identity.check(bearer(await authenticator.credential()))
            await realm.clock.advance(101)
        assert (authenticator.logins, authenticator.refreshes) == (3, 0)


@pytest.mark.parametrize(
    "changes", [{"expires_in": "90"}, {"expires_in": 0}, {"expires_in": -3}, {"expires_in": 1e300}]
)
async def test_odd_lifetimes_lead_to_no_second_login(changes):
    async with Realm() as realm:
        authenticator = realm.authenticator()
        realm.identity.script(EndpointFault(body=changes))
        for _ in range(3):
            await ask_at_once(authenticator, 5)
            await realm.clock.advance(10)
        assert len(realm.identity.log) == 1


async def test_a_server_that_returns_one_token_until_it_expires_is_not_asked_repeatedly():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.machine()
        first = await authenticator.credential()
        same = bearer(first)
        await realm.clock.advance(85)
        realm.identity.script(EndpointFault(body={"access_token": same, "expires_in": 15}))
        for _ in range(14):
            assert (await authenticator.credential()).generation == first.generation
            await renewal_done(authenticator)
            await realm.clock.advance(1)
        assert realm.identity.count("client_credentials") == 2
        await realm.clock.advance(2)
        assert bearer(await authenticator.credential()) != same


async def test_closing_logs_out_of_the_last_session():
    async with Realm(expires_in=100, refresh_expires_in=100) as realm:
        authenticator = realm.authenticator()
        for _ in range(20):
            await authenticator.credential()
            await realm.clock.advance(101)
        assert realm.identity.logins == 20
        await authenticator.aclose()
        await authenticator.aclose()
        assert realm.identity.sessions == 0
        assert realm.identity.count("logout") <= 20
        with pytest.raises(AccountStopped, match="shutting down"):
            await authenticator.credential()


async def test_a_hundred_logins_leave_at_most_one_session_open():
    async with Realm(expires_in=300, session_max=5000, refresh_expires_in=0) as realm:
        authenticator = realm.authenticator()
        await authenticator.credential()
        for _ in range(100):
            realm.identity.script(EndpointFault(status=400, body={"error": "invalid_request"}))
            await realm.clock.advance(301)
            await authenticator.credential()
            assert realm.identity.sessions == 1
        assert authenticator.logins == 101


async def test_a_login_in_progress_at_the_end_is_logged_out_too():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(until=answer))
        worker = asyncio.ensure_future(authenticator.credential())
        await until(lambda: realm.identity.sessions == 1)
        worker.cancel()
        closing = asyncio.ensure_future(authenticator.aclose())
        await asyncio.sleep(0)
        answer.set()
        await closing
        assert realm.identity.sessions == 0


async def test_the_wall_clock_may_jump_an_hour_without_a_login_or_a_refresh():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        await authenticator.credential()
        for jump in (3600, -7200):
            realm.clock.jump_wall(jump)
            await authenticator.credential()
        assert len(realm.identity.log) == 1


async def test_client_credentials_give_a_token_and_a_new_one_when_it_expires():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.machine()
        for _ in range(3):
            assert realm.identity.check(bearer(await authenticator.credential()))
            await realm.clock.advance(101)
        assert authenticator.logins == realm.identity.count("client_credentials") == 3


# Properties, notes and events


@pytest.mark.parametrize(("user", "totp"), [("anna", False), ("otto", True)])
async def test_a_manager_shows_its_account_its_token_and_the_servers_clock(user: str, *, totp: bool):
    async with Realm() as realm:
        manager = manager_of(realm.authenticator(user))
        assert (manager.active_token, manager.skew, manager.stopped) == (None, None, None)
        token = await manager.access_token()
        assert manager.active_token is token
        assert (token.generation, token.reason) == (1, RenewalReason.FIRST)
        assert (manager.account, manager.uses_totp, manager.skew) == (user, totp, 0.5)
        assert realm.hub.counters.accounts == {user: "token valid 300 s"}


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        (14.4, None),
        (14.5, "15 s behind"),
        (600.0, "600 s behind"),
        (-14.5, None),
        (-15.5, "15 s ahead of"),
        (-16.5, "16 s ahead of"),
    ],
)
async def test_a_clock_that_is_off_by_fifteen_seconds_is_noted_once(ahead: float, said: str | None):
    clock = ImpatientClock(wall=1_750_000_000.5)
    async with Realm(clock=clock, server_clock=ShiftedClock(clock, ahead)) as realm:
        manager = manager_of(realm.authenticator())
        for _ in range(2):
            await manager.renew(RenewalReason.REHEARSAL)
        text = f"anna: this machine's clock is {said} the token endpoint's; one-time codes are corrected for it"
        assert realm.notes() == ([] if said is None else [text])


async def test_a_wait_for_a_one_time_code_is_shown():
    async with Realm() as realm:
        manager, shown = manager_of(realm.authenticator("otto")), []
        realm.hub.subscribe(lambda _event: shown.append(realm.hub.counters.accounts["otto"]))
        await manager.access_token()
        await manager.renew(RenewalReason.SECOND_LOGIN)
        (told,) = realm.event_details("waiting")
        seconds, _, rest = told.partition(" ")
        assert rest == "s for the next one-time code (each code works for one login)"
        assert f"waiting {seconds} s for a one-time code" in shown


# Refused tokens and forced renewals


async def test_a_refused_generation_is_expired_and_costs_one_refresh():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        manager = manager_of(authenticator)
        manager.reject(1)  # nothing is token yet
        first = await manager.access_token()
        manager.reject(first.generation + 1)
        assert manager.active_token is first
        manager.reject(first.generation)
        assert manager.active_token is not None
        assert manager.active_token.phase(realm.clock.monotonic()) is TokenPhase.EXPIRED
        second = await manager.access_token()
        manager.reject(first.generation)
        assert (second.generation, second.reason, manager.active_token) == (2, RenewalReason.REJECTED, second)
        assert (manager.logins, manager.refreshes, realm.identity.refreshes) == (1, 1, 1)


async def test_a_refused_generation_of_an_ended_session_costs_a_login():
    async with Realm() as realm:
        manager = manager_of(realm.authenticator())
        first = await manager.access_token()
        manager.reject(first.generation, session_over=True)
        second = await manager.access_token()
        assert (second.generation, second.reason) == (2, RenewalReason.REJECTED)
        assert (manager.logins, realm.identity.count("refresh_token")) == (2, 0)


@pytest.mark.parametrize(
    ("reason", "logins", "refreshes"),
    [(RenewalReason.REHEARSAL, 1, 1), (RenewalReason.SECOND_LOGIN, 2, 0), (RenewalReason.EXPIRES_SOON, 1, 1)],
)
async def test_a_forced_renewal_happens_in_every_phase(reason: RenewalReason, logins: int, refreshes: int):
    async with Realm() as realm:
        manager = manager_of(realm.authenticator())
        first = await manager.access_token()
        token = await manager.renew(reason)
        assert (token.generation, token.reason) == (first.generation + 1, reason)
        assert (manager.logins, manager.refreshes) == (logins, refreshes)
        assert (realm.identity.logins, realm.identity.count("refresh_token")) == (logins, refreshes)


@pytest.mark.parametrize(("later", "waits"), [(0.0, [0.5]), (0.125, [0.375]), (0.5, []), (9.0, [])])
async def test_requests_to_the_endpoint_are_half_a_second_apart(later: float, waits: list[float]):
    async with Realm() as realm:
        manager = manager_of(realm.authenticator())
        await manager.access_token()
        before = len(realm.clock.slept)
        await realm.clock.advance(later)
        await manager.renew(RenewalReason.REHEARSAL)
        assert realm.clock.slept[before:] == waits


async def test_the_last_authenticator_that_detaches_closes_the_manager():
    async with Realm() as realm:
        manager = manager_of(realm.authenticator())  # the authenticator is the first
        manager.attach()
        await manager.access_token()
        await manager.detach()
        assert realm.identity.sessions == 1
        await manager.detach()
        assert realm.identity.sessions == 0
        before = len(realm.identity.log)
        for use in (manager.access_token(), manager.renew(RenewalReason.REHEARSAL)):
            with pytest.raises(AccountStopped, match="shutting down") as stop:
                await use
            assert stop.value.account == "anna"
        assert len(realm.identity.log) == before


# A failing token endpoint

ENDLESS = 40


def waited(realm: Realm) -> list[float]:
    """Return the seconds of each wait for the endpoint; not the delays of scripted responses."""
    return [round(slept, 2) for slept in realm.clock.slept if slept not in (14, 30.5)]


@pytest.mark.parametrize(
    ("draw", "faults", "waits"),
    [
        (1.0, [EndpointFault(status=502)] * ENDLESS, [1.65, 3.3, 6.6, 13.2, 5.25]),
        (0.5, [EndpointFault(status=502)] * ENDLESS, [1.5, 3, 6, 12, 7.5]),
        (0.0, [EndpointFault(status=502)] * ENDLESS, [1.35, 2.7, 5.4, 10.8, 9.75]),
        # The limit of half a minute; each response takes fourteen seconds
        (0.5, [EndpointFault(status=502, delay=14)] * ENDLESS, [1.5, 0.5]),
        (0.5, [EndpointFault(status=502, delay=30.5)] * ENDLESS, []),
        # The server asks for a wait
        (0.5, [EndpointFault(status=429, headers={"Retry-After": "5"})] * ENDLESS, [5, 5, 6, 12, 2]),
        (0.5, [EndpointFault(status=429, headers={"Retry-After": "200"})] * ENDLESS, [30]),
        (0.5, [EndpointFault(status=429, headers={"Retry-After": "0"})] * 3, [1.5, 3, 6]),
    ],
)
async def test_a_new_account_retries_with_doubling_waits(draw: float, faults: list[EndpointFault], waits: list[float]):
    async with Realm() as realm:
        manager = manager_of(realm.authenticator(), draw=draw)
        realm.identity.script(*faults)
        if len(faults) < ENDLESS:
            assert (await manager.access_token()).generation == 1
        else:
            with pytest.raises(
                AccountStopped, match=f"{faults[0].status}; gave up after {len(waits) + 1} attempts\\. "
            ) as stop:
                await manager.access_token()
            assert (stop.value.account, stop.value.hint[:9]) == ("anna", "Run again")
            assert realm.hub.counters.accounts["anna"] == "stopped"
        assert waited(realm) == waits


@pytest.mark.parametrize(
    ("age", "rejected", "limit"),
    [
        (87, False, 313),  # from the end of the token, which others use until then
        (95, False, 305),
        (101, False, 300),
        (10, True, 300),
        (87, True, 300),
    ],
)
async def test_an_account_that_worked_is_given_up_after_its_time_without_a_token(
    age: float, limit: float, *, rejected: bool
):
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        manager = manager_of(authenticator, draw=0.5, give_up_after=300.0)
        token = await manager.access_token()
        await realm.clock.advance(age)
        if rejected:
            manager.reject(token.generation)
        realm.identity.script(EndpointFault(status=503), times=ENDLESS)
        asking = asyncio.ensure_future(authenticator.credential())
        await asyncio.wait({asking})
        await renewal_done(authenticator)
        assert manager.stopped is not None
        waits = [1.5, 3, 6, 12, 24, 48, 96, 192]
        whole = [wait for n, wait in enumerate(waits) if sum(waits[: n + 1]) <= limit]
        assert waited(realm) == [*whole, limit - sum(whole)]
        assert f"gave up after {len(whole) + 2} attempts" in manager.stopped.reason
        assert asking.exception() is None or isinstance(asking.exception(), AccountStopped)


async def test_a_wait_for_the_endpoint_is_shown_once_and_then_as_an_outage():
    async with Realm() as realm:
        manager, shown = manager_of(realm.authenticator(), draw=0.6), []
        realm.hub.subscribe(lambda _event: shown.append(realm.hub.counters.accounts["anna"]))
        realm.identity.script(EndpointFault(status=503), times=3)
        await manager.access_token()
        said = f"the token endpoint {realm.url.host} answered 503"
        assert realm.event_details("waiting") == [f"{said}; retrying in 1.5 s"]
        assert shown[0] == "token endpoint unavailable, retrying in 2 s"
        outages = [event for event in realm.events if isinstance(event, OutageChanged)]
        assert [event.phase.value for event in outages] == ["began", "ended"]
        assert {event.outage.reason for event in outages} == {said}


@pytest.mark.parametrize(("age", "served"), [(96, True), (101, False)])
async def test_while_the_endpoint_fails_a_token_near_its_end_is_used_and_an_expired_one_is_not(
    age: float, *, served: bool
):
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        first = await authenticator.credential()
        await realm.clock.advance(age)
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(status=503), EndpointFault(until=answer))
        waiting = asyncio.ensure_future(authenticator.credential())
        await until(lambda: realm.identity.count("refresh_token") == 2)
        second = asyncio.ensure_future(authenticator.credential())
        await asyncio.sleep(0)
        assert (second.done(), waiting.done()) == (served, False)
        answer.set()
        assert (await second).generation == first.generation + (not served)
        assert (await waiting).generation == first.generation + 1


async def test_after_a_failure_workers_wait_for_the_renewal_again():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        realm.identity.script(EndpointFault(status=503))
        first = await authenticator.credential()
        await realm.clock.advance(96)
        assert (await authenticator.credential()).generation == first.generation + 1


@pytest.mark.parametrize(
    ("before", "fault", "requests"),
    [
        (False, EndpointFault(status=200, body=b"<html>"), 1),  # a page where no login has worked yet
        (True, EndpointFault(status=401, body={"error": "invalid_client"}), 3),  # after a refresh that was refused
    ],
)
async def test_a_wrong_setting_is_not_retried(fault: EndpointFault, requests: int, *, before: bool):
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        if before:
            await authenticator.credential()
            await realm.clock.advance(101)
        realm.identity.script(fault, times=3)
        with pytest.raises(AccountStopped, match="cannot log in"):
            await authenticator.credential()
        assert sum(call.kind != "logout" for call in realm.identity.log) == requests
        assert sum(realm.clock.slept) == 0


# Renewals and logins


@pytest.mark.parametrize(
    ("happening", "fault", "reason", "requests", "logouts"),
    [
        ("expired", EndpointFault(status=400, body={"error": "invalid_request"}), RenewalReason.REFRESH_REFUSED, 1, 1),
        ("expired", EndpointFault(status=400, body={"error": "invalid_client"}), RenewalReason.REFRESH_REFUSED, 1, 1),
        (
            "expired",
            EndpointFault(status=400, body={"error": "invalid_grant", "error_description": "Session not active"}),
            RenewalReason.REFRESH_REFUSED,
            1,
            0,
        ),
        ("session over", EndpointFault(), RenewalReason.REFRESH_EXPIRED, 0, 1),
        ("refused", EndpointFault(status=400, body={"error": "invalid_grant"}), RenewalReason.REFRESH_REFUSED, 1, 1),
        ("refused", EndpointFault(body={"access_token": "at.1"}), RenewalReason.REJECTED, 1, 1),
    ],
)
async def test_a_failed_refresh_leads_to_a_login_with_its_reason(
    happening: str, fault: EndpointFault, reason: RenewalReason, requests: int, logouts: int
):
    async with Realm(expires_in=100, refresh_expires_in=500) as realm:
        manager = manager_of(realm.authenticator())
        realm.identity.script(EndpointFault(body={"access_token": "at.1"}))
        first = await manager.access_token()
        if happening == "refused":
            manager.reject(first.generation)
        await realm.clock.advance({"expired": 101, "session over": 500, "refused": 1}[happening])
        if requests:
            realm.identity.script(fault)
        second = await manager.access_token()
        assert (second.generation, second.reason) == (2, reason)
        assert realm.event_details("login") == [RenewalReason.FIRST, reason]
        assert realm.event_details("refresh") == []
        counts = [realm.identity.count(kind) for kind in ("password", "refresh_token", "logout")]
        assert counts == [2, requests, logouts]
        assert (manager.logins, manager.refreshes) == (2, 0)


@pytest.mark.parametrize(
    ("happening", "reason"),
    [
        ("nothing", RenewalReason.NO_REFRESH_TOKEN),
        ("refused", RenewalReason.REJECTED),
    ],
)
async def test_a_login_instead_of_a_refresh_has_a_reason(happening: str, reason: RenewalReason):
    async with Realm(expires_in=100) as realm:
        manager = manager_of(realm.machine())
        first = await manager.access_token()
        if happening == "refused":
            manager.reject(first.generation)
        await realm.clock.advance(101)
        second = await manager.access_token()
        assert (second.generation, second.reason, manager.logins) == (2, reason, 2)
        assert [e.lifetime_s for e in realm.events] == [100, 100]


async def test_a_refused_token_that_is_issued_again_is_a_new_generation():
    async with Realm(expires_in=100) as realm:
        manager = manager_of(realm.machine())
        first = await manager.access_token()
        manager.reject(first.generation)
        realm.identity.script(EndpointFault(body={"access_token": first.token.access.reveal()}))
        second = await manager.access_token()
        assert (second.generation, second.reason, second.rejected) == (2, RenewalReason.REJECTED, False)
        assert second.token.access == first.token.access


async def test_a_refresh_that_returns_the_same_token_keeps_its_generation():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        manager = manager_of(authenticator)
        first = await manager.access_token()
        await realm.clock.advance(85)
        realm.identity.script(EndpointFault(body={"access_token": first.token.access.reveal(), "expires_in": 15}))
        await manager.access_token()
        await renewal_done(authenticator)
        token = await manager.access_token()
        assert (token.generation, token.reason, token.refresh_soon_at) == (1, RenewalReason.FIRST, token.token.expires)
        assert (manager.logins, manager.refreshes) == (1, 1)


@pytest.mark.parametrize(
    ("later", "refreshes", "login"),
    [(82, 2, RenewalReason.NO_REFRESH_TOKEN), (84.5, 1, RenewalReason.SESSION_ENDING)],
)
async def test_a_session_about_to_end_is_shown_and_followed_by_a_login(
    later: float, refreshes: int, login: RenewalReason
):
    async with Realm(expires_in=100, session_max=185) as realm:
        authenticator = realm.authenticator()
        manager = manager_of(authenticator)
        await manager.access_token()
        await realm.clock.advance(95)
        await manager.access_token()
        await realm.clock.advance(later)
        await manager.access_token()
        await renewal_done(authenticator)
        await realm.clock.advance(2)
        assert (await manager.access_token()).reason is login
        told = [(e.action, e.detail, e.lifetime_s) for e in realm.events]
        assert told == [
            ("login", RenewalReason.FIRST, 100),
            ("refresh", RenewalReason.EXPIRES_SOON, 90),
            *([("refresh", RenewalReason.SESSION_ENDING, 8)] if refreshes == 2 else []),
            ("login", login, 100),
        ]
        assert (manager.refreshes, manager.logins) == (refreshes, 2)


@pytest.mark.parametrize(("age", "refreshes", "logins"), [(999.5, 2, 1), (1000.0, 1, 2), (1200.0, 1, 2)])
async def test_a_kept_refresh_token_keeps_its_expiry(age: float, refreshes: int, logins: int):
    async with Realm(expires_in=100, refresh_expires_in=1000, rotate=False) as realm:
        manager = manager_of(realm.authenticator())
        await manager.access_token()
        await realm.clock.advance(101)
        realm.identity.script(EndpointFault(without=("refresh_token", "refresh_expires_in")))
        await manager.access_token()
        await realm.clock.advance(age - 101)
        token = await manager.access_token()
        assert (manager.refreshes, manager.logins) == (refreshes, logins)
        assert token.reason is (RenewalReason.EXPIRED if logins == 1 else RenewalReason.REFRESH_EXPIRED)


PASSWORD_REFUSED = EndpointFault(status=401, body={"error": "invalid_grant"})
LOCKED = EndpointFault(status=401, body={"error": "invalid_grant", "error_description": "Account temporarily disabled"})
NO_CLIENT = EndpointFault(status=401, body={"error": "invalid_client"})


@pytest.mark.parametrize(
    ("user", "fault", "tries", "said", "hint"),
    [
        (
            "anna",
            PASSWORD_REFUSED,
            1,
            "login refused: ",
            "Servers give the same answer for a wrong user, a wrong password and",
        ),
        (
            "otto",
            PASSWORD_REFUSED,
            2,
            "login refused: ",
            "Servers give the same answer for a wrong user, a wrong password, a w",
        ),
        ("machine", PASSWORD_REFUSED, 1, "login refused: ", "Check client_id and client_secret"),
        ("anna", LOCKED, 1, "login refused: ", "The user is locked"),
        ("otto", LOCKED, 1, "login refused: ", "The user is locked"),
        ("anna", NO_CLIENT, 1, "cannot log in: ", "Check client_id and client_secret"),
        ("otto", NO_CLIENT, 1, "cannot log in: ", "Check client_id and client_secret"),
    ],
)
async def test_a_login_that_fails_stops_its_account_and_says_what_to_do(
    user: str, fault: EndpointFault, tries: int, said: str, hint: str
):
    async with Realm() as realm:
        manager = manager_of(realm.machine() if user == "machine" else realm.authenticator(user))
        realm.identity.script(fault, times=5)
        stops = []
        for _ in range(2):
            with pytest.raises(AccountStopped) as caught:
                await manager.access_token()
            stops.append(caught.value)
            assert caught.value.reason.startswith(said)
            assert caught.value.hint.startswith(hint)
            assert caught.value.account == user
        assert manager.stopped not in stops
        assert len(realm.identity.log) == tries
        assert realm.event_details("stopped") == [str(manager.stopped)]
        assert [told.partition("; ")[2] for told in realm.event_details("waiting") if "one more" in told] == (
            ["one more attempt with the next one-time code"] if tries == 2 else []
        )


async def test_the_account_state_shows_what_the_manager_does():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        manager = manager_of(authenticator)
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(until=answer))
        asking = asyncio.ensure_future(manager.access_token())
        await until(lambda: realm.identity.sessions == 1)
        states = [realm.hub.counters.accounts["anna"]]
        answer.set()
        await asking
        states.append(realm.hub.counters.accounts["anna"])
        await authenticator.aclose()
        states.append(realm.hub.counters.accounts["anna"])
        assert states == ["logging in", "token valid 300 s", "logged out"]


def defective(_event: Event) -> None:
    raise RuntimeError("defect")


async def test_a_bug_in_a_renewal_reaches_the_worker_that_asked():
    async with Realm() as realm:
        manager = manager_of(realm.authenticator())
        await manager.access_token()
        realm.hub.subscribe(defective)
        with pytest.raises(RuntimeError, match="defect"):
            await manager.renew(RenewalReason.REHEARSAL)
        realm.hub._observers.remove(defective)


async def test_a_bug_in_a_renewal_without_waiters_reaches_the_next_worker():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        manager = manager_of(authenticator)
        first = await manager.access_token()
        await realm.clock.advance(85)
        realm.hub.subscribe(defective)
        realm.identity.script(EndpointFault(status=503))
        assert await manager.access_token() is first
        await renewal_done(authenticator)
        with pytest.raises(RuntimeError, match="defect"):
            await manager.access_token()
        realm.hub._observers.remove(defective)


async def test_no_worker_gets_a_token_whose_session_is_being_closed():
    async with Realm(expires_in=100) as realm:
        authenticator = realm.authenticator()
        first = await authenticator.credential()
        await realm.clock.advance(87)
        realm.identity.script(EndpointFault(status=400, body={"error": "invalid_request"}))
        closed = asyncio.Event()
        realm.identity.script_logout(EndpointFault(until=closed))
        assert (await authenticator.credential()).generation == first.generation
        await until(lambda: not realm.identity._logout_faults)
        asking = asyncio.ensure_future(authenticator.credential())
        await asyncio.sleep(0)
        assert not asking.done()
        closed.set()
        assert (await asking).generation == first.generation + 1


# The end


async def test_a_manager_that_was_never_used_closes_without_a_request():
    async with Realm() as realm:
        manager = manager_of(realm.authenticator())
        await manager.close()
        assert (realm.identity.log, realm.events) == ([], [])


async def test_a_manager_without_a_session_closes_without_a_request():
    async with Realm() as realm:
        manager = manager_of(realm.machine())
        await manager.access_token()
        await manager.close()
        assert (realm.identity.count("logout"), realm.event_details("logout")) == (0, [])


@pytest.mark.parametrize(
    ("logins", "lost", "told"),
    [
        (1, [], ""),
        (2, [], ""),
        (1, [True], ""),
        (2, [True], "2 of 2 sessions ended"),
        (2, [True, True], "1 of 2 sessions ended"),
        (3, [True, True], "3 of 3 sessions ended"),
        (25, [True] * 24, "21 of 21 sessions ended"),  # servers end what is older themselves
    ],
)
async def test_a_session_whose_logout_failed_is_logged_out_again_at_the_end(logins: int, lost: list[bool], told: str):
    async with Realm() as realm:
        authenticator = realm.authenticator()
        manager = manager_of(authenticator, logout_s=60.0)
        realm.identity.script_logout(*(EndpointFault(drop=drop) for drop in lost))
        for _ in range(logins):
            await manager.renew(RenewalReason.SECOND_LOGIN)
        for _ in range(2):
            await manager.close()
        assert realm.event_details("logout") == [told]
        assert (realm.identity.sessions, realm.notes()) == (0, [])


async def test_a_wait_for_the_endpoint_ends_with_the_manager():
    clock = ManualClock()
    async with Realm(clock=clock) as realm:
        authenticator = realm.authenticator()
        manager = manager_of(authenticator, draw=1.0)
        realm.identity.script(EndpointFault(status=503))
        asking = asyncio.ensure_future(manager.access_token())
        await clock.until_sleeping()
        await manager.close()
        with pytest.raises(AccountStopped, match="shutting down"):
            await asking
        assert (manager._task.cancelled(), realm.notes()) == (True, [])
        assert len(realm.identity.log) == 1


async def test_a_failing_login_in_progress_at_the_end_is_not_retried():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        manager = manager_of(authenticator)
        answer = asyncio.Event()
        realm.identity.script(EndpointFault(status=503, until=answer), times=3)
        asking = asyncio.ensure_future(manager.access_token())
        await until(lambda: realm.identity.count("password") == 1)
        closing = asyncio.ensure_future(manager.close())
        await asyncio.sleep(0)
        answer.set()
        await closing
        with pytest.raises(AccountStopped, match="shutting down"):
            await asking
        assert (realm.identity.count("password"), realm.event_details("stopped"), manager.stopped) == (1, [], None)


async def test_an_endpoint_that_never_answers_a_login_delays_the_end_by_the_limit_only():
    async with Realm() as realm:
        authenticator = realm.authenticator()
        manager = manager_of(authenticator, logout_s=0.01)
        never = asyncio.Event()
        realm.identity.script(EndpointFault(until=never))
        asking = asyncio.ensure_future(manager.access_token())
        await until(lambda: realm.identity.count("password") == 1)
        await manager.close()
        with pytest.raises(AccountStopped, match="shutting down"):
            await asking
        assert manager._task.cancelled()
        assert realm.notes() == ["anna: the token endpoint did not answer the logout in time"]
        never.set()


def test_the_retry_limits_are_as_documented():
    limits = RetryLimits()
    assert (limits.give_up_after, limits.hold, limits.logout_s) == (30.0, False, 3.0)
