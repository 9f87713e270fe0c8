"""The state machine of one origin: tables of single steps, and properties of whole outages."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.concurrency.origin_health import (
    NEW_ORIGIN_S,
    Health,
    OriginHealth,
    admits_in,
    after_good,
    after_trouble,
    give_up_limit,
    is_given_up,
    is_outage,
    probe_abandoned,
    probe_begun,
    probe_now,
    probe_pause,
)
from bulkdl.core.models import Trouble

HOUR = 3600.0
NEW = OriginHealth()
SERVED = OriginHealth(ever_good=True)


def trouble(state: OriginHealth, now: float = 0.0, **details: object) -> OriginHealth:
    arguments = {"trouble": Trouble.REFUSED, "reason": "refused", "random": 0.5, "give_up_after": 6 * HOUR, **details}
    return after_trouble(state, now, **arguments)  # type: ignore[arg-type]


def down(state: OriginHealth = SERVED, now: float = 0.0) -> OriginHealth:
    return trouble(probe_begun(trouble(state, now)), now + 2, is_probe=True)


SUSPECT, DOWN = trouble(SERVED), down()
PROBING, RAMPING = probe_begun(DOWN), after_good(probe_begun(DOWN))


@pytest.mark.parametrize(
    ("before", "step", "after"),
    [
        (SERVED, trouble, Health.SUSPECT),
        (NEW, trouble, Health.SUSPECT),
        (SERVED, lambda s: trouble(s, is_confirmed=True), Health.DOWN),
        (SUSPECT, probe_begun, Health.PROBING),
        (SUSPECT, after_good, Health.UP),
        (SUSPECT, trouble, Health.SUSPECT),
        (SUSPECT, lambda s: trouble(s, is_confirmed=True), Health.DOWN),
        (probe_begun(SUSPECT), lambda s: trouble(s, is_probe=True), Health.DOWN),
        (probe_begun(SUSPECT), after_good, Health.UP),
        (probe_begun(SUSPECT), lambda s: probe_abandoned(s, 9.0), Health.SUSPECT),
        (DOWN, probe_begun, Health.PROBING),
        (DOWN, after_good, Health.RAMPING),
        (DOWN, trouble, Health.DOWN),
        (PROBING, lambda s: trouble(s, is_probe=True), Health.DOWN),
        (PROBING, trouble, Health.PROBING),
        (PROBING, after_good, Health.RAMPING),
        (PROBING, lambda s: probe_abandoned(s, 9.0), Health.DOWN),
        (RAMPING, after_good, Health.RAMPING),
        (RAMPING, trouble, Health.SUSPECT),
        (RAMPING, lambda s: trouble(s, is_confirmed=True), Health.DOWN),
        (RAMPING, lambda s: probe_abandoned(s, 9.0), Health.RAMPING),
        (SERVED, after_good, Health.UP),
    ],
)
def test_each_event_leads_to_the_documented_state(before, step, after):
    assert step(before).health is after


@pytest.mark.parametrize(
    ("state", "now", "in_flight", "seconds"),
    [
        (SERVED, 0.0, 100, 0.0),
        (SUSPECT, 0.0, 0, SUSPECT.next_probe_at),
        (SUSPECT, SUSPECT.next_probe_at, 0, 0.0),
        (DOWN, DOWN.next_probe_at - 1, 0, 1.0),
        (PROBING, 1e9, 0, math.inf),
        (RAMPING, 0.0, 1, 0.0),
        (RAMPING, 0.0, 2, math.inf),
    ],
)
def test_a_request_may_start_as_the_state_says(state, now, in_flight, seconds):
    assert admits_in(state, now, in_flight=in_flight) == pytest.approx(seconds)


def test_the_ramp_doubles_until_only_the_other_limits_apply():
    state, allowed = RAMPING, []
    while state.health is Health.RAMPING:
        allowed.append(state.allowed)
        state = after_good(state)
    assert allowed == [2, 4, 8, 16, 32]
    assert state == SERVED


@pytest.mark.parametrize("random", [0.0, 0.5, 1.0])
def test_an_origin_is_asked_about_twenty_times_in_its_first_hour_and_then_twelve_times(random):
    state, now, asked = trouble(SERVED, random=random), 0.0, []
    while now < 3 * HOUR:
        now += admits_in(state, now, in_flight=0)
        asked.append(now)
        state = trouble(probe_begun(state), now, is_probe=True, random=random)
    assert sum(at < HOUR for at in asked) <= 20
    assert 10 <= sum(2 * HOUR <= at < 3 * HOUR for at in asked) <= 14


@pytest.mark.parametrize(("count", "pause"), [(0, 1.5), (1, 3.0), (2, 6.0), (7, 192.0), (8, 300.0), (1000, 300.0)])
def test_pauses_grow_to_five_minutes_with_a_tenth_of_jitter(count, pause):
    assert probe_pause(count, random=0.5) == pytest.approx(pause)
    assert probe_pause(count, random=0.0) == pytest.approx(0.9 * pause)
    assert probe_pause(count, random=1.0) == pytest.approx(1.1 * pause)


def test_the_servers_own_wait_counts_where_it_is_longer_than_the_pause():
    assert trouble(SERVED, wait=700.0).next_probe_at == 700.0
    assert trouble(SUSPECT, 1.0, wait=700.0).next_probe_at == 701.0
    assert trouble(SERVED, wait=0.1).next_probe_at == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("state", "give_up_after", "limit"),
    [(NEW, 6 * HOUR, NEW_ORIGIN_S), (NEW, 60.0, 60.0), (SERVED, 6 * HOUR, 6 * HOUR), (SERVED, math.inf, math.inf), (NEW, math.inf, NEW_ORIGIN_S)],
)  # fmt: skip
def test_an_origin_that_never_answered_is_waited_for_an_hour_at_most(state, give_up_after, limit):
    assert give_up_limit(state, give_up_after) == limit


@given(st.floats(1.0, 24 * HOUR), st.lists(st.floats(0.0, 1.0), min_size=50, max_size=50), st.booleans())
def test_an_origin_is_given_up_when_its_time_is_over_and_not_before(give_up_after, randoms, served):
    state, now = OriginHealth(ever_good=served), 0.0
    state = trouble(state, now, give_up_after=give_up_after)
    limit = give_up_limit(state, give_up_after)
    for turn in range(2000):
        now += admits_in(state, now, in_flight=0)
        state = trouble(
            probe_begun(state), now, is_probe=True, give_up_after=give_up_after, random=randoms[turn % len(randoms)]
        )
        if is_given_up(state, give_up_after):
            break
        assert now < limit
    assert is_given_up(state, give_up_after)
    assert now == pytest.approx(limit)


def test_the_time_of_a_suspended_machine_or_a_closed_window_does_not_count_towards_giving_up():
    later = DOWN.next_probe_at + 12 * HOUR
    state = trouble(probe_begun(DOWN), later, is_probe=True)
    assert state.waited_s < 200
    assert not is_given_up(state, 6 * HOUR)


def test_a_suspect_origin_is_no_outage_yet():
    assert [is_outage(state) for state in (SERVED, SUSPECT, probe_begun(SUSPECT), DOWN, PROBING, RAMPING)] == [
        False, False, False, True, True, False,
    ]  # fmt: skip


def test_a_relapse_goes_on_with_the_pauses_of_the_outage_before():
    suspect = trouble(replace(RAMPING, failed_probes=6))
    assert suspect.pause_s == pytest.approx(probe_pause(0, random=0.5))
    relapsed = trouble(probe_begun(suspect), 2.0, is_probe=True)
    assert relapsed.pause_s == pytest.approx(probe_pause(7, random=0.5))


@pytest.mark.parametrize("state", [SUSPECT, DOWN])
def test_when_the_cause_is_gone_the_next_probe_does_not_wait(state):
    assert probe_now(replace(state, next_probe_at=300.0), 9.0) == replace(state, next_probe_at=9.0)
    assert probe_now(replace(state, next_probe_at=2.0), 9.0).next_probe_at == 2.0


@pytest.mark.parametrize("state", [PROBING, RAMPING, SERVED])
def test_a_probe_that_is_under_way_or_an_origin_that_works_is_left_alone(state):
    assert probe_now(state, 9.0) == state
