"""How many connections a host is worth: more only for what more have brought, and back at the first doubt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkdl.concurrency.adaptive_limit import ConcurrencyLimit, ThroughputSample, next_limit, on_refused
from tests.effort import effort

FAST = 32 * 1024 * 1024
PATIENCE_S, LONGEST_TRIAL_S = 2.0, 6.0
REST_S, LONGEST_REST_S = 60.0, 3600.0
BASE = ConcurrencyLimit.of(16)
TRIAL = replace(BASE, allowed=32, rate=100.0)
PROVEN = replace(BASE, proven=64, allowed=64)
NOW = 1000.0


def sight(
    *,
    lasted: float = 0.2,
    rate: float = 100.0,
    rising: float = 1.0,
    alone: float | None = None,
    among: float | None = None,
    begun: bool = True,
) -> ThroughputSample:
    return ThroughputSample(now=NOW, lasted=lasted, rate=rate, rising=rising, begun=begun, alone=alone, among=among)


# crowd, what is seen -> proven, allowed, whether it rests from now on
TABLE = {
    "nothing is known yet": (BASE, sight(), 16, 16, False),
    "who joined begins like the first": (BASE, sight(alone=10.0, among=10.0), 16, 64, False),
    "who joined begins nearly like the first": (BASE, sight(alone=10.0, among=8.0), 16, 64, False),
    "they begin alike, and more and more comes": (BASE, sight(alone=10.0, among=10.0, rising=3.0), 16, 64, False),
    "who joined has half of what the first had": (BASE, sight(lasted=0.6, alone=10.0, among=5.0), 16, 16, True),
    "it has half, at the first glance": (BASE, sight(alone=10.0, among=5.0), 16, 16, False),
    "it has half, and patience is over": (BASE, sight(lasted=9.0, alone=10.0, among=5.0), 16, 16, True),
    "they begin alike, and fast": (BASE, sight(lasted=9.0, alone=FAST, among=FAST), 16, 16, False),
    "nothing was learnt, and they are fast": (BASE, sight(lasted=9.0, rate=16.0 * FAST), 16, 16, False),
    "it has little more than half": (BASE, sight(lasted=0.6, alone=20.0, among=13.0), 16, 16, True),
    "it has half, once that is sure": (BASE, sight(lasted=0.5, alone=10.0, among=5.0), 16, 16, True),
    "nothing was learnt, and they are half as fast": (BASE, sight(lasted=9.0, rate=8.0 * FAST), 16, 32, False),
    "between the two": (BASE, sight(lasted=0.6, alone=10.0, among=7.0), 16, 16, False),
    "nothing was learnt in all the time": (BASE, sight(lasted=PATIENCE_S), 16, 32, False),
    "it rests": (replace(BASE, quiet_until=NOW + 1), sight(lasted=9.0, alone=1.0, among=1.0), 16, 16, False),
    "it has rested": (replace(BASE, quiet_until=NOW), sight(lasted=PATIENCE_S), 16, 32, False),
    "twice as many bring twice as much": (TRIAL, sight(rate=200.0), 32, 64, False),
    "twice as many bring half as much more": (TRIAL, sight(rate=150.0), 32, 64, False),
    "twice as many bring little more": (TRIAL, sight(rate=130.0), 16, 32, False),
    "little more, but each begins as well": (TRIAL, sight(rate=130.0, alone=1.0, among=0.9), 32, 128, False),
    "no more, though each begins as well": (TRIAL, sight(rate=105.0, alone=1.0, among=1.0), 16, 32, False),
    "more, while they hardly gather speed": (TRIAL, sight(rate=200.0, rising=2.5), 32, 64, False),
    "more, while they gather some speed": (TRIAL, sight(rate=200.0, rising=2.6), 16, 32, False),
    "more, while they gather speed": (TRIAL, sight(rate=200.0, rising=4.0), 16, 32, False),
    "more and more, and each begins as well": (TRIAL, sight(rate=200.0, rising=4.0, alone=1.0, among=1.0), 32, 128, False),
    "as much more at last, and each begins as well": (
        TRIAL, sight(rate=105.0, rising=2.0, alone=1.0, among=1.0), 32, 128, False,
    ),
    "more at last, and nothing else is known": (TRIAL, sight(rate=130.0, rising=2.0), 16, 32, False),
    "twice as much, at the first glance": (TRIAL, sight(lasted=0.1, rate=200.0), 16, 32, False),
    "twice as much, after the first glance": (TRIAL, sight(lasted=0.15, rate=200.0), 32, 64, False),
    "twice as much at the first glance, and each begins as well": (
        TRIAL, sight(lasted=0.1, rate=200.0, alone=1.0, among=1.0), 32, 128, False,
    ),
    "few of them have begun when patience is over": (TRIAL, sight(lasted=PATIENCE_S, begun=False), 16, 32, False),
    "few of them have begun in all the time": (TRIAL, sight(lasted=LONGEST_TRIAL_S, begun=False), 16, 16, True),
    "no more for too long": (TRIAL, sight(lasted=PATIENCE_S, rate=110.0), 16, 16, True),
    "less": (TRIAL, sight(lasted=PATIENCE_S, rate=50.0), 16, 16, True),
    "up to the cap": (PROVEN, sight(alone=1.0, among=1.0), 64, 128, False),
    "at the cap": (replace(PROVEN, proven=128, allowed=128), sight(lasted=9.0, alone=1.0, among=1.0), 128, 128, False),
    "the cap itself did not pay": (
        replace(PROVEN, allowed=128, rate=100.0), sight(lasted=PATIENCE_S), 64, 64, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_what_is_allowed_when(name: str):
    crowd, seen, proven, allowed, rests = TABLE[name]
    found = next_limit(crowd, seen)
    assert (found.proven, found.allowed, found.quiet_until > crowd.quiet_until) == (proven, allowed, rests)


def test_at_the_cap_nothing_is_learnt_any_more():
    crowd = replace(PROVEN, proven=128, allowed=128, rate=5.0)
    for seen in (sight(lasted=9.0, alone=1.0, among=1.0), sight(lasted=9.0, alone=1.0, among=0.1), sight(lasted=9.0)):
        assert next_limit(crowd, seen) == crowd


def test_nothing_is_known_at_first():
    assert ConcurrencyLimit.of(16) == ConcurrencyLimit(
        base=16, proven=16, allowed=16, rate=0.0, quiet_until=0.0, rest_s=60.0
    )
    assert ThroughputSample(now=NOW, lasted=0.2, rate=100.0, rising=1.0) == sight(begun=True, alone=None, among=None)


@pytest.mark.parametrize(
    ("crowd", "allowed"),
    [
        (BASE, 16),
        (TRIAL, 16),
        (replace(PROVEN, allowed=128), 64),
        (PROVEN, 32),
        (replace(PROVEN, proven=20, allowed=20), 16),
    ],
)
def test_a_refusal_ends_a_trial_or_halves_what_was_proven(crowd: ConcurrencyLimit, allowed: int):
    found = on_refused(crowd, NOW)
    assert (found.proven, found.allowed, found.quiet_until) == (allowed, allowed, NOW + REST_S)


def test_each_failure_makes_it_rest_for_longer_until_something_has_paid():
    crowd, rests = BASE, []
    for _ in range(8):
        crowd = next_limit(replace(crowd, allowed=32, rate=100.0), sight(lasted=PATIENCE_S))
        rests.append(crowd.quiet_until - NOW)
    assert rests[:3] == [REST_S, 2 * REST_S, 4 * REST_S]
    assert rests[-1] == LONGEST_REST_S
    assert next_limit(replace(crowd, allowed=32, rate=100.0), sight(rate=200.0)).rest_s == REST_S


SIGHTS = st.builds(
    ThroughputSample,
    now=st.floats(0, 1e6),
    lasted=st.floats(0, 100),
    rate=st.floats(0, 1e9),
    rising=st.floats(0, 100) | st.just(float("inf")),
    begun=st.booleans(),
    alone=st.none() | st.floats(0, 1e9),
    among=st.none() | st.floats(0, 1e9),
)


@given(st.integers(1, 200), st.lists(st.none() | SIGHTS, max_size=30), st.integers(1, 200))
def test_whatever_is_seen_the_limit_stays_between_the_beginning_and_the_cap(base, sights, cap):
    crowd = ConcurrencyLimit.of(base)
    for seen in sights:
        before = crowd
        crowd = on_refused(crowd, 0.0) if seen is None else next_limit(crowd, seen, cap=cap)
        assert base <= crowd.proven <= crowd.allowed <= max(base, cap)
        assert crowd.allowed <= 4 * max(before.proven, before.allowed)


@settings(max_examples=effort(10, 60), deadline=None)
@given(st.integers(1, 32), st.floats(1, 100), st.floats(0.5, 8))
def test_a_shared_link_has_more_than_at_the_beginning_in_moments_only(base, capacity, fill):
    """The link is full with the connections of the beginning, or with `fill` times as many."""
    own = capacity / (base * fill)  # what one connection brings when there is room
    crowd, now, excess, looks = ConcurrencyLimit.of(base), 0.0, 0, 4000
    lasted, before = 0.0, crowd.allowed
    for _ in range(looks):
        now, lasted = now + 0.5, lasted + 0.5
        rate = min(capacity, own * crowd.allowed)
        crowd = next_limit(crowd, replace(sight(lasted=lasted, rate=rate), now=now), cap=128)
        lasted, before = (0.0 if crowd.allowed != before else lasted), crowd.allowed
        excess += crowd.allowed > 2 * base * fill + 1
    assert excess < looks * 0.05


@given(st.integers(1, 64), st.floats(1, 100), st.booleans())
def test_where_each_connection_is_held_back_the_cap_is_reached(base, own, told):
    crowd, now = ConcurrencyLimit.of(base), 0.0
    for _ in range(40):
        now += PATIENCE_S
        seen = sight(lasted=PATIENCE_S, rate=own * crowd.allowed, alone=own if told else None, among=own)
        crowd = next_limit(crowd, replace(seen, now=now), cap=128)
    assert crowd.proven == 128
