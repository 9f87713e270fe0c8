"""Decisions about the number of connections: each phase, and whole simulated hosts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkdl.concurrency.connection_control import (
    CHANGE_S,
    CHECK_S,
    FAST,
    LESS_TRIAL_S,
    LONGEST_LOOK_S,
    LOOK_S,
    MOST_DOUBLED,
    TRIAL_S,
    Control,
    Phase,
    Sample,
    WorkKind,
    after_refusal,
    after_sample,
    after_served,
    after_trial_time,
    begin,
)

MIB = 1024.0 * 1024.0


def sample(each: float, *, now: float = 10.0, kind: WorkKind = WorkKind.BYTES, is_enough: bool = True) -> Sample:
    return Sample(now=now, span_s=1.0, kind=kind, each=each, is_enough=is_enough)


def in_phase(phase: Phase, *, allowed: int, proven: int, speed: float, most: int = 128) -> Control:
    start = begin(start=8, most=most)
    return replace(start, phase=phase, allowed=allowed, proven=proven, speed=speed, kind=WorkKind.BYTES)


SETTLED = replace(in_phase(Phase.SETTLED, allowed=8, proven=8, speed=8 * MIB), look_at=1000.0)


@pytest.mark.parametrize(("start", "most", "allowed"), [(8, 128, 8), (8, 4, 4), (8, 0, 1), (0, 8, 1)])
def test_a_host_begins_with_the_number_that_is_known_within_its_bound(start, most, allowed):
    assert begin(start=start, most=most).allowed == allowed


@pytest.mark.parametrize(
    ("each", "kind", "phase", "allowed", "reason"),
    [
        (MIB, WorkKind.BYTES, Phase.MORE, 16, "trial: 8 connections bring in proportion"),
        (2.0, WorkKind.ANSWERS, Phase.MORE, 16, "trial: 8 connections bring in proportion"),
        (float(FAST), WorkKind.BYTES, Phase.SETTLED, 8, "each connection is as fast as this machine"),
    ],
)
def test_the_first_measurement_is_followed_by_a_trial_with_twice_as_many(each, kind, phase, allowed, reason):
    after = after_sample(begin(start=8, most=128), sample(each, kind=kind))
    assert (after.phase, after.allowed, after.reason) == (phase, allowed, reason)


def test_a_measurement_that_is_not_enough_decides_nothing():
    control = begin(start=8, most=128)
    assert after_sample(control, sample(MIB, is_enough=False)) is control


def test_beyond_32_a_trial_has_a_quarter_more_where_answers_are_waited_for():
    control = replace(begin(start=MOST_DOUBLED, most=128), kind=WorkKind.ANSWERS)
    assert after_sample(control, sample(2.0, kind=WorkKind.ANSWERS)).allowed == MOST_DOUBLED * 5 // 4
    assert after_sample(control, sample(MIB)).allowed == 2 * MOST_DOUBLED


@pytest.mark.parametrize(
    ("start", "most", "refused", "reason"),
    [(8, 8, None, "no more are allowed"), (8, 128, 9, "the host refuses more")],
)
def test_without_room_for_a_trial_the_number_stays(start, most, refused, reason):
    after = after_sample(begin(start=start, most=most, refused=refused), sample(MIB))
    assert (after.phase, after.allowed, after.reason) == (Phase.SETTLED, start, reason)


@pytest.mark.parametrize(
    ("rise", "phase", "allowed"),
    [
        (2.0, Phase.MORE, 32),  # in proportion: the next trial
        (1.7, Phase.MORE, 32),
        (1.5, Phase.SETTLED, 13),  # by a part: what its speed needs, and 5 % more
        (1.1, Phase.LESS, 6),  # not at all: a trial with fewer
        (0.8, Phase.LESS, 6),
    ],
)
def test_a_trial_with_twice_as_many_ends_as_their_speed_says(rise, phase, allowed):
    control = in_phase(Phase.MORE, allowed=16, proven=8, speed=8 * MIB)
    after = after_sample(control, sample(rise * 8 * MIB / 16))
    assert (after.phase, after.allowed) == (phase, allowed)
    if phase is not Phase.MORE:
        assert f"16 connections brought {rise:.2f} times what 8 did" in after.reason


def test_after_a_part_of_a_rise_the_next_trial_comes_soon():
    control = in_phase(Phase.MORE, allowed=16, proven=8, speed=8 * MIB)
    assert after_sample(control, sample(1.5 * MIB / 2)).look_at == 10.0 + CHECK_S


def test_a_number_that_is_known_to_be_needed_is_not_tried_with_fewer():
    control = replace(in_phase(Phase.MORE, allowed=16, proven=8, speed=8 * MIB), needed=8)
    after = after_sample(control, sample(MIB / 2))
    assert (after.phase, after.allowed) == (Phase.SETTLED, 8)


@pytest.mark.parametrize(
    ("share", "phase", "allowed"),
    [(1.0, Phase.LESS, 4), (0.95, Phase.LESS, 4), (0.75, Phase.SETTLED, 8)],
)
def test_a_trial_with_fewer_goes_on_while_they_bring_as_much(share, phase, allowed):
    control = in_phase(Phase.LESS, allowed=6, proven=8, speed=8 * MIB)
    after = after_sample(control, sample(share * 8 * MIB / 6))
    assert (after.phase, after.allowed) == (phase, allowed)


def test_fewer_than_two_connections_are_not_tried():
    control = in_phase(Phase.LESS, allowed=2, proven=3, speed=3 * MIB)
    after = after_sample(control, sample(1.5 * MIB))
    assert (after.phase, after.allowed) == (Phase.SETTLED, 2)


@pytest.mark.parametrize("each", [0.75 * MIB, MIB, 1.25 * MIB])
def test_a_settled_number_stays_while_its_speed_changes_little(each):
    assert after_sample(SETTLED, sample(each)) is SETTLED


@pytest.mark.parametrize("each", [0.5 * MIB, 2 * MIB])
def test_after_a_clear_change_the_next_measurement_is_what_trials_are_compared_with(each):
    changed = after_sample(SETTLED, sample(each))
    assert (changed.phase, changed.allowed, changed.needed) == (Phase.FIRST, 8, 0)
    after = after_sample(changed, sample(each, now=11.0))
    assert (after.phase, after.allowed, after.proven, after.speed) == (Phase.MORE, 16, 8, 8 * each)


def test_a_change_right_after_a_trial_waits():
    control = replace(SETTLED, change_at=10.0 + CHANGE_S)
    assert after_sample(control, sample(0.5 * MIB)) is control


def test_a_settled_number_is_looked_at_again_with_a_quarter_more_also_beyond_a_refusal():
    control = replace(SETTLED, look_at=10.0, refused=9)
    after = after_sample(control, sample(MIB))
    assert (after.phase, after.allowed, after.refused) == (Phase.MORE, 10, None)


def test_looks_that_bring_nothing_become_rarer_up_to_once_in_four_hours():
    control, pauses, now = replace(SETTLED, least=8, look_at=10.0), [], 10.0
    for _ in range(9):
        control = after_sample(control, sample(MIB, now=now))
        assert control.phase is Phase.MORE
        control = after_sample(control, sample(8 * MIB / control.allowed, now=now))
        assert (control.phase, control.allowed) == (Phase.SETTLED, 8)
        pauses.append(control.look_at - now)
        now = control.look_at
    assert pauses == [min(LONGEST_LOOK_S, LOOK_S * 2**n) for n in range(9)]


@pytest.mark.parametrize(
    ("phase", "longest"),
    [(Phase.MORE, TRIAL_S), (Phase.LESS, LESS_TRIAL_S), (Phase.FIRST, None), (Phase.SETTLED, None)],
)
def test_a_trial_that_cannot_be_measured_ends_and_nothing_else_does(phase, longest):
    control = replace(in_phase(phase, allowed=12, proven=8, speed=8 * MIB), changed_at=0.0)
    if longest is None:
        assert after_trial_time(control, 1e6) is control
        return
    assert after_trial_time(control, longest - 0.1) is control
    after = after_trial_time(control, longest)
    assert (after.phase, after.allowed, after.reason) == (Phase.SETTLED, 8, "a trial could not be measured")


@pytest.mark.parametrize(("served", "allowed"), [(4, 4), (20, 16), (0, 1)])
def test_a_refusal_tells_the_number_that_the_host_serves(served, allowed):
    control = in_phase(Phase.MORE, allowed=16, proven=8, speed=8 * MIB)
    after = after_refusal(control, 5.0, served=served)
    assert (after.allowed, after.refused, after.bound) == (allowed, allowed + 1, allowed)
    assert after.reason == f"the host refused a connection while it served {served}"


def test_more_connections_than_the_refused_number_that_are_served_raise_it():
    control = after_refusal(begin(start=8, most=128), 5.0, served=4)
    assert after_served(control, 6.0, served=4) is control
    after = after_served(control, 6.0, served=6)
    assert (after.allowed, after.refused) == (6, 7)


def test_what_a_host_serves_beyond_the_bound_does_not_raise_it():
    control = after_refusal(begin(start=4, most=4), 5.0, served=2)
    assert after_served(control, 6.0, served=9).allowed == 4


# --- Simulated hosts


@dataclass
class Host:
    """n connections bring `min(n * each, total)`; more than `limit` are refused."""

    each: float
    total: float
    limit: float = math.inf
    kind: WorkKind = WorkKind.BYTES
    refusals: int = 0
    highest: int = 0

    @property
    def best(self) -> int:
        """Smallest number of connections that brings the whole rate, or all that the host serves."""
        return max(1, min(math.ceil(self.total / self.each), int(min(self.limit, 10**6))))

    def lasts(self, control: Control, seconds: float) -> Control:
        """Measure once a second, with every allowed connection in use."""
        for second in range(1, int(seconds) + 1):
            now = float(second)
            if control.allowed > self.limit:
                self.refusals += 1
                control = after_refusal(control, now, served=int(self.limit))
            self.highest = max(self.highest, control.allowed)
            rate = min(control.allowed * self.each, self.total)
            control = after_sample(control, sample(rate / control.allowed, now=now, kind=self.kind))
        return control


def settled_of(control: Control) -> int:
    """Return the number that stays: a look at more connections is under way now and then."""
    return control.allowed if control.phase is Phase.SETTLED else control.proven


@given(
    each=st.floats(0.05, 4.0),
    knee=st.floats(1.0, 80.0),
    start=st.integers(1, 16),
    most=st.integers(1, 128),
    kind=st.sampled_from(WorkKind),
)
@example(each=0.5, knee=24.0, start=8, most=128, kind=WorkKind.BYTES)
@example(each=2.0, knee=32.0, start=8, most=128, kind=WorkKind.ANSWERS)
@example(each=1.0, knee=1.125, start=1, most=2, kind=WorkKind.BYTES)
def test_the_number_settles_at_what_the_host_rewards_and_never_exceeds_the_most(each, knee, start, most, kind):
    host = Host(each * MIB, each * knee * MIB, kind=kind)
    control = host.lasts(begin(start=start, most=most), 600)
    final = settled_of(control)
    assert host.highest <= most
    best = min(host.best, most)
    if start < most:  # at the bound nothing is tried, neither more nor fewer
        assert final <= max(2, math.ceil(1.25 * best))
    # A trial whose rise is less than 0.15 of the one in proportion counts as none.
    assert final * host.each >= min(host.total, most * host.each) / 1.16


@given(each=st.floats(0.05, 4.0), limit=st.integers(1, 40), start=st.integers(1, 16))
@example(each=1.0, limit=4, start=8)
def test_a_host_that_refuses_more_is_asked_for_more_about_once_an_hour_in_the_end(each: float, limit: int, start: int):
    host, hours = Host(each * MIB, 1000 * MIB, limit=limit), 8
    control = host.lasts(begin(start=start, most=128), hours * 3600)
    assert settled_of(control) == limit
    looks_of_the_first_hour = int(math.log2(LONGEST_LOOK_S / LOOK_S)) + 2
    assert host.refusals <= looks_of_the_first_hour + hours


@pytest.mark.parametrize(
    ("before", "after"), [(Host(MIB, 8 * MIB), Host(MIB / 4, 8 * MIB)), (Host(MIB / 4, 8 * MIB), Host(MIB, 16 * MIB))]
)
def test_the_number_follows_a_host_whose_speed_changes(before: Host, after: Host):
    control = before.lasts(begin(start=8, most=128), 120)
    assert settled_of(control) <= 1.25 * before.best
    control = after.lasts(replace(control, change_at=0.0), 300)
    assert 0.9 * after.best <= settled_of(control) <= 1.25 * after.best
