"""Tables of a token's phases: when it is used, renewed in the background, or waited for."""

from __future__ import annotations

import dataclasses
import random

import pytest

from bulkdl.auth.oidc.messages import Token
from bulkdl.auth.oidc.token_lifetime import (
    ActiveToken,
    RenewalReason,
    TokenPhase,
    schedule_renewal,
    session_is_ending,
    use_until_expiry,
    use_up,
)
from bulkdl.core.secret import Secret

ISSUED = 1000.0


class Always(random.Random):
    """A random source that always returns the same number."""

    def __init__(self, number: float) -> None:
        super().__init__(0)
        self.number = number

    def random(self) -> float:
        return self.number


def token(lifetime: float) -> Token:
    return Token(access=Secret("access"), refresh=Secret("refresh"), issued=ISSUED, lifetime=lifetime)


def active(
    lifetime: float, *, age: float = 0.0, draw: float = 0.0, rejected: bool = False, **options: float
) -> ActiveToken:
    """Return an active token that arrived at the given age."""
    plan = schedule_renewal(
        token(lifetime), generation=7, reason=RenewalReason.FIRST, now=ISSUED + age, rng=Always(draw), **options
    )
    return dataclasses.replace(plan, rejected=True) if rejected else plan


def ages(plan: ActiveToken) -> tuple[float, float, float]:
    """Return the token's age at which each phase begins."""
    return plan.refresh_soon_at - ISSUED, plan.refresh_now_at - ISSUED, plan.expires_at - ISSUED


@pytest.mark.parametrize(
    ("age", "rejected", "phase"),
    [
        (0.0, False, TokenPhase.FRESH),
        (79.9, False, TokenPhase.FRESH),
        (80.0, False, TokenPhase.REFRESH_SOON),
        (94.9, False, TokenPhase.REFRESH_SOON),
        (95.0, False, TokenPhase.REFRESH_NOW),
        (99.9, False, TokenPhase.REFRESH_NOW),
        (100.0, False, TokenPhase.EXPIRED),
        (500.0, False, TokenPhase.EXPIRED),
        (0.0, True, TokenPhase.EXPIRED),
        (85.0, True, TokenPhase.EXPIRED),
        (100.0, True, TokenPhase.EXPIRED),
    ],
)
def test_each_phase_begins_at_its_time_and_a_refused_token_is_expired(age: float, *, rejected: bool, phase: TokenPhase):
    assert active(100.0, rejected=rejected).phase(ISSUED + age) is phase


@pytest.mark.parametrize(
    ("lifetime", "draw", "soon"),
    [(100.0, 0.0, 80.0), (100.0, 0.5, 83.0), (100.0, 1.0, 86.0), (10.0, 1.0, 8.6), (1.0, 0.0, 0.8)],
)
def test_a_token_is_renewed_in_the_background_at_80_to_86_percent_of_its_life(
    lifetime: float, draw: float, soon: float
):
    assert ages(active(lifetime, draw=draw))[0] == pytest.approx(soon)


@pytest.mark.parametrize(
    ("lifetime", "login_lifetime", "margin"),
    [
        (1.0, {}, 0.2),  # the last second would begin before the renewal is due
        (4.0, {}, 0.8),
        (5.0, {}, 1.0),
        (9.0, {}, 1.0),
        (20.0, {}, 2.0),
        (49.0, {}, 4.9),
        (50.0, {}, 5.0),
        (51.0, {}, 5.0),
        (600.0, {}, 5.0),
        # The last token of its session
        (2.0, {"login_lifetime": 100.0}, 0.4),
        (2.5, {"login_lifetime": 100.0}, 1.0),
        (2.5, {"login_lifetime": 2.6}, 1.0),
        (2.5, {"login_lifetime": 2.5}, 0.5),
        (2.5, {"login_lifetime": 1.0}, 0.5),
        (2.5, {}, 0.5),
        (60.0, {"login_lifetime": 100.0}, 5.0),
    ],
)
def test_a_token_is_waited_for_in_the_last_tenth_of_its_life(
    lifetime: float, login_lifetime: dict[str, float], margin: float
):
    _, now, over = ages(active(lifetime, **login_lifetime))
    assert (now, over) == (pytest.approx(lifetime - margin), lifetime)


@pytest.mark.parametrize(
    ("age", "phases"),
    [
        (94.9, (80.0, 95.0, 100.0)),
        (95.0, (100.0, 100.0, 100.0)),
        (99.0, (100.0, 100.0, 100.0)),
        (99.5, (100.5, 100.5, 100.5)),
        (300.0, (301.0, 301.0, 301.0)),
    ],
)
def test_a_token_that_arrives_near_its_end_is_used_until_then_and_at_least_one_second(
    age: float, phases: tuple[float, float, float]
):
    plan = active(100.0, age=age)
    assert ages(plan) == pytest.approx(phases)
    assert (plan.generation, plan.token, plan.reason, plan.rejected) == (7, token(100.0), RenewalReason.FIRST, False)


@pytest.mark.parametrize(("age", "end"), [(0.0, 100.0), (99.0, 100.0), (99.5, 100.5)])
def test_a_token_that_a_server_returns_again_is_used_until_its_end(age: float, end: float):
    plan = use_until_expiry(token(100.0), generation=3, reason=RenewalReason.EXPIRES_SOON, now=ISSUED + age)
    assert (plan.generation, plan.reason, ages(plan)) == (3, RenewalReason.EXPIRES_SOON, (end, end, end))


@pytest.mark.parametrize(
    ("lifetime", "age", "end"),
    [
        (100.0, 0.0, 94.0),
        (100.0, 93.9, 94.0),
        (100.0, 94.0, None),
        (100.0, 99.0, None),
        (20.0, 10.0, 17.0),
        (5.0, 2.5, 3.0),
        (5.0, 3.5, None),
    ],
)
def test_a_token_is_used_up_until_a_second_before_workers_would_wait(lifetime: float, age: float, end: float | None):
    rest = use_up(active(lifetime), now=ISSUED + age)
    assert (None if rest is None else ages(rest)) == (None if end is None else pytest.approx((end, end, end)))


def test_a_token_that_is_used_up_is_not_refreshed():
    rest = use_up(active(100.0), now=ISSUED)
    assert rest is not None
    assert (rest.token.refresh, rest.token.access.reveal(), rest.generation) == (None, "access", 7)


def test_a_refused_token_is_not_used_up():
    assert use_up(active(100.0, rejected=True), now=ISSUED) is None


@pytest.mark.parametrize(
    ("lifetime", "login_lifetime", "ending"),
    [
        (9.9, 100.0, True),
        (10.0, 100.0, False),
        (1.9, 10.0, True),
        (2.0, 10.0, False),
        (2.5, 10.0, False),
        (0.9, 1.0, True),
        (1.0, 1.0, False),  # every token lives one second, so the session is not ending
        (0.0, 0.0, False),
    ],
)
def test_a_session_is_ending_if_a_token_lives_below_two_seconds_or_a_tenth_of_a_logins(
    lifetime: float, login_lifetime: float, *, ending: bool
):
    assert session_is_ending(lifetime, login_lifetime=login_lifetime) is ending
