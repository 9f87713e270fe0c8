"""Adaptive connection limit: it rises only if more connections bring more throughput."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkdl.concurrency.adaptive_limit import ConcurrencyLimit, ThroughputSample, next_limit, on_refused
from tests.effort import effort

FAST = 32 * 1024 * 1024
TRIAL_S, MAX_TRIAL_S = 2.0, 6.0
COOLDOWN_S, MAX_COOLDOWN_S = 60.0, 3600.0
BASE = ConcurrencyLimit.of(16)
TRIAL = replace(BASE, allowed=32, rate=100.0)
PROVEN = replace(BASE, proven=64, allowed=64)
NOW = 1000.0


def sample(
    *,
    duration_s: float = 0.2,
    rate: float = 100.0,
    rise: float = 1.0,
    first_rate: float | None = None,
    joined_rate: float | None = None,
    started: bool = True,
) -> ThroughputSample:
    return ThroughputSample(
        now=NOW,
        duration_s=duration_s,
        rate=rate,
        rise=rise,
        started=started,
        first_rate=first_rate,
        joined_rate=joined_rate,
    )


# limit, sample -> proven, allowed, whether a cooldown begins
TABLE = {
    "nothing is known yet": (BASE, sample(), 16, 16, False),
    "new connections start like the first": (BASE, sample(first_rate=10.0, joined_rate=10.0), 16, 64, False),
    "new connections start nearly like the first": (BASE, sample(first_rate=10.0, joined_rate=8.0), 16, 64, False),
    "they start alike while the rate still rises": (BASE, sample(first_rate=10.0, joined_rate=10.0, rise=3.0), 16, 64, False),
    "new connections have half the first rate": (BASE, sample(duration_s=0.6, first_rate=10.0, joined_rate=5.0), 16, 16, True),
    "half the first rate, measured too briefly": (BASE, sample(first_rate=10.0, joined_rate=5.0), 16, 16, False),
    "half the first rate after a long time": (BASE, sample(duration_s=9.0, first_rate=10.0, joined_rate=5.0), 16, 16, True),
    "they start alike and are fast": (BASE, sample(duration_s=9.0, first_rate=FAST, joined_rate=FAST), 16, 16, False),
    "no hint, and they are fast": (BASE, sample(duration_s=9.0, rate=16.0 * FAST), 16, 16, False),
    "between like and unlike": (BASE, sample(duration_s=0.6, first_rate=10.0, joined_rate=7.0), 16, 16, False),
    "no hint for the time of a trial": (BASE, sample(duration_s=TRIAL_S), 16, 32, False),
    "during the cooldown": (replace(BASE, no_trial_until=NOW + 1), sample(duration_s=9.0, first_rate=1.0, joined_rate=1.0), 16, 16, False),
    "after the cooldown": (replace(BASE, no_trial_until=NOW), sample(duration_s=TRIAL_S), 16, 32, False),
    "twice as many bring twice as much": (TRIAL, sample(rate=200.0), 32, 64, False),
    "twice as many bring half as much more": (TRIAL, sample(rate=150.0), 32, 64, False),
    "twice as many bring little more": (TRIAL, sample(rate=130.0), 16, 32, False),
    "little more, but each starts as well": (TRIAL, sample(rate=130.0, first_rate=1.0, joined_rate=0.9), 32, 128, False),
    "no more, though each starts as well": (TRIAL, sample(rate=105.0, first_rate=1.0, joined_rate=1.0), 16, 32, False),
    "more while they accelerate": (TRIAL, sample(rate=200.0, rise=4.0), 16, 32, False),
    "more while they accelerate, and each starts as well": (TRIAL, sample(rate=200.0, rise=4.0, first_rate=1.0, joined_rate=1.0), 32, 128, False),
    "enough in the second half, and each starts as well": (
        TRIAL, sample(rate=105.0, rise=2.0, first_rate=1.0, joined_rate=1.0), 32, 128, False,
    ),
    "more in the second half without a hint": (TRIAL, sample(rate=130.0, rise=2.0), 16, 32, False),
    "twice as much, measured too briefly": (TRIAL, sample(duration_s=0.1, rate=200.0), 16, 32, False),
    "twice as much measured briefly, and each starts as well": (
        TRIAL, sample(duration_s=0.1, rate=200.0, first_rate=1.0, joined_rate=1.0), 32, 128, False,
    ),
    "few have started after the usual time": (TRIAL, sample(duration_s=TRIAL_S, started=False), 16, 32, False),
    "few have started after the longest time": (TRIAL, sample(duration_s=MAX_TRIAL_S, started=False), 16, 16, True),
    "no more for too long": (TRIAL, sample(duration_s=TRIAL_S, rate=110.0), 16, 16, True),
    "less": (TRIAL, sample(duration_s=TRIAL_S, rate=50.0), 16, 16, True),
    "up to the cap": (PROVEN, sample(first_rate=1.0, joined_rate=1.0), 64, 128, False),
    "at the cap": (replace(PROVEN, proven=128, allowed=128), sample(duration_s=9.0, first_rate=1.0, joined_rate=1.0), 128, 128, False),
    "the cap brought no gain": (
        replace(PROVEN, allowed=128, rate=100.0), sample(duration_s=TRIAL_S), 64, 64, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_next_limit(name: str):
    limit, seen, proven, allowed, cooldowns = TABLE[name]
    found = next_limit(limit, seen)
    assert (found.proven, found.allowed, found.no_trial_until > limit.no_trial_until) == (proven, allowed, cooldowns)


def test_at_the_cap_nothing_is_learnt_any_more():
    crowd = replace(PROVEN, proven=128, allowed=128, rate=5.0)
    for seen in (
        sample(duration_s=9.0, first_rate=1.0, joined_rate=1.0),
        sample(duration_s=9.0, first_rate=1.0, joined_rate=0.1),
        sample(duration_s=9.0),
    ):
        assert next_limit(crowd, seen) == crowd


def test_nothing_is_known_at_first():
    assert ConcurrencyLimit.of(16) == ConcurrencyLimit(
        base=16, proven=16, allowed=16, rate=0.0, no_trial_until=0.0, cooldown_s=60.0
    )
    assert ThroughputSample(now=NOW, duration_s=0.2, rate=100.0, rise=1.0) == sample(
        started=True, first_rate=None, joined_rate=None
    )


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        (BASE, 16),
        (TRIAL, 16),
        (replace(PROVEN, allowed=128), 64),
        (PROVEN, 32),
        (replace(PROVEN, proven=20, allowed=20), 16),
    ],
)
def test_a_refusal_ends_a_trial_or_halves_what_was_proven(limit: ConcurrencyLimit, allowed: int):
    found = on_refused(limit, NOW)
    assert (found.proven, found.allowed, found.no_trial_until) == (allowed, allowed, NOW + COOLDOWN_S)


def test_each_failure_doubles_the_cooldown_until_a_trial_succeeds():
    limit, cooldowns = BASE, []
    for _ in range(8):
        limit = next_limit(replace(limit, allowed=32, rate=100.0), sample(duration_s=TRIAL_S))
        cooldowns.append(limit.no_trial_until - NOW)
    assert cooldowns[:3] == [COOLDOWN_S, 2 * COOLDOWN_S, 4 * COOLDOWN_S]
    assert cooldowns[-1] == MAX_COOLDOWN_S
    assert next_limit(replace(limit, allowed=32, rate=100.0), sample(rate=200.0)).cooldown_s == COOLDOWN_S


SAMPLES = st.builds(
    ThroughputSample,
    now=st.floats(0, 1e6),
    duration_s=st.floats(0, 100),
    rate=st.floats(0, 1e9),
    rise=st.floats(0, 100) | st.just(float("inf")),
    started=st.booleans(),
    first_rate=st.none() | st.floats(0, 1e9),
    joined_rate=st.none() | st.floats(0, 1e9),
)


@given(st.integers(1, 200), st.lists(st.none() | SAMPLES, max_size=30), st.integers(1, 200))
def test_any_samples_keep_the_limit_between_base_and_cap(base, samples, cap):
    limit = ConcurrencyLimit.of(base)
    for seen in samples:
        before = limit
        limit = on_refused(limit, 0.0) if seen is None else next_limit(limit, seen, cap=cap)
        assert base <= limit.proven <= limit.allowed <= max(base, cap)
        assert limit.allowed <= 4 * max(before.proven, before.allowed)


@settings(max_examples=effort(10, 60), deadline=None)
@given(st.integers(1, 32), st.floats(1, 100), st.floats(0.5, 8))
def test_a_shared_link_has_added_connections_only_briefly(base, capacity, fill):
    """The link is full with `fill` times the first number of connections."""
    own = capacity / (base * fill)  # rate of one connection on an idle link
    limit, now, excess, looks = ConcurrencyLimit.of(base), 0.0, 0, 4000
    duration_s, before = 0.0, limit.allowed
    for _ in range(looks):
        now, duration_s = now + 0.5, duration_s + 0.5
        rate = min(capacity, own * limit.allowed)
        limit = next_limit(limit, replace(sample(duration_s=duration_s, rate=rate), now=now), cap=128)
        duration_s, before = (0.0 if limit.allowed != before else duration_s), limit.allowed
        excess += limit.allowed > 2 * base * fill + 1
    assert excess < looks * 0.05


@given(st.integers(1, 64), st.floats(1, 100), st.booleans())
def test_if_each_connection_is_throttled_the_limit_reaches_the_cap(base, own, hinted):
    limit, now = ConcurrencyLimit.of(base), 0.0
    for _ in range(40):
        now += TRIAL_S
        seen = sample(duration_s=TRIAL_S, rate=own * limit.allowed, first_rate=own if hinted else None, joined_rate=own)
        limit = next_limit(limit, replace(seen, now=now), cap=128)
    assert limit.proven == 128
