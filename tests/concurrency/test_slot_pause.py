"""The pause before a place is used again: learned from refusals, and close to what the host needs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.concurrency.slot_pause import LONGEST_S, SlotPause, after_accepted, after_refused


def test_the_first_refusal_after_a_place_was_freed_begins_a_pause():
    assert after_refused(SlotPause(), 0.0, serves_others=True) == SlotPause(0.15, 0.0, math.inf)


@pytest.mark.parametrize(
    ("pause", "since", "expected"),
    [
        (SlotPause(0.15, 0.0), 0.15, 0.3),
        (SlotPause(0.3, 0.15), 0.3, 0.6),
        (SlotPause(2.0, 1.0), 2.0, 4.0),
        (SlotPause(4.0, 2.0), 4.0, LONGEST_S),
    ],
)
def test_a_pause_that_is_refused_doubles_up_to_the_longest(pause, since, expected):
    longer = after_refused(pause, since, serves_others=False)
    assert longer is not None
    assert (longer.pause_s, longer.refused_s, longer.is_verified) == (expected, since, False)


@pytest.mark.parametrize(("since", "serves_others"), [(0.6, True), (LONGEST_S, False), (math.inf, False)])
def test_no_pause_helps_where_the_longest_was_refused(since, serves_others):
    assert after_refused(SlotPause(), since, serves_others=serves_others) is None


def test_an_accepted_pause_is_shortened_towards_the_refused_one():
    pause = after_accepted(SlotPause(0.6, 0.3), 0.6)
    assert (pause.refused_s, pause.accepted_s) == (0.3, 0.6)
    assert pause.pause_s == pytest.approx(0.45)
    assert not pause.is_verified


def test_an_accepted_pause_close_to_the_refused_one_is_kept_with_a_tenth_more():
    pause = after_accepted(SlotPause(0.39, 0.3), 0.39)
    assert (pause.pause_s, pause.is_verified) == (pytest.approx(0.429), True)


@pytest.mark.parametrize("since", [0.0, 0.3, 0.7])
def test_an_acceptance_that_teaches_nothing_changes_nothing(since):
    pause = SlotPause(0.45, 0.3, 0.6)
    assert after_accepted(pause, since) is pause
    assert after_accepted(SlotPause(), since) == SlotPause()


def test_a_verified_pause_that_is_refused_grows_by_half():
    pause = after_refused(SlotPause(0.4, 0.35, 0.4), 0.4, serves_others=True)
    assert pause is not None
    assert (pause.pause_s, pause.accepted_s) == (pytest.approx(0.6), math.inf)


@given(linger=st.floats(0.16, 4.9))
def test_the_pause_ends_between_the_time_that_a_place_lingers_and_1_4_times_it(linger: float):
    pause, refused = SlotPause(), 0
    for _ in range(40):
        if pause.pause_s >= linger:
            pause = after_accepted(pause, pause.pause_s)
            continue
        refused += 1
        longer = after_refused(pause, pause.pause_s, serves_others=False)
        assert longer is not None
        pause = longer
    assert pause.is_verified
    assert linger <= pause.pause_s <= 1.4 * linger
    assert refused <= 9


@given(linger=st.floats(0.16, 0.59))
def test_a_short_pause_is_learned_just_so_beside_connections_that_the_host_serves(linger: float):
    pause, refused = SlotPause(), 0
    for _ in range(40):
        if pause.pause_s >= linger:
            pause = after_accepted(pause, pause.pause_s)
            continue
        refused += 1
        longer = after_refused(pause, pause.pause_s, serves_others=True)
        assert longer is not None
        pause = longer
    assert linger <= pause.pause_s <= 1.4 * linger
    assert refused <= 6
