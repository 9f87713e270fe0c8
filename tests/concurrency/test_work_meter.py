"""What connections bring: bytes per second of receiving, answers per second, and which connection is far slower."""

from __future__ import annotations

import pytest

from bulkdl.concurrency.connection_control import WorkKind
from bulkdl.concurrency.work_meter import WorkMeter

MIB = 1024 * 1024


def test_bytes_count_by_the_time_that_each_connection_received():
    meter = WorkMeter()
    for connection in range(4):
        meter.add_body(connection, MIB, now=1.0, seconds=0.5)
    sample = meter.sample(1.0, allowed=4, added=0, least_s=0.0)
    assert (sample.kind, sample.each, sample.is_enough) == (WorkKind.BYTES, 2 * MIB, True)


def test_what_began_before_the_measurement_does_not_count():
    meter = WorkMeter()
    meter.restart(10.0)
    meter.add_body(1, MIB, now=10.2, seconds=0.5)
    meter.add_answer(now=10.2, seconds=0.5)
    assert (meter.received, meter.answers, meter.bodies) == (0, 0, set())


def test_small_products_count_by_the_time_of_their_answers():
    meter = WorkMeter()
    for _ in range(8):
        meter.add_answer(now=1.0, seconds=0.5)
    sample = meter.sample(1.0, allowed=8, added=0, least_s=0.0)
    assert (sample.kind, sample.each, sample.is_enough) == (WorkKind.ANSWERS, 2.0, True)


@pytest.mark.parametrize(("answers", "allowed", "is_enough"), [(3, 2, False), (4, 8, True), (7, 16, False)])
def test_answers_are_enough_when_half_of_the_connections_had_one(answers: int, allowed: int, *, is_enough: bool):
    meter = WorkMeter()
    for _ in range(answers):
        meter.add_answer(now=1.0, seconds=0.5)
    assert meter.sample(1.0, allowed=allowed, added=0, least_s=0.0).is_enough is is_enough


@pytest.mark.parametrize(
    ("now", "round_trip", "least", "is_enough"),
    [
        (0.1, 0.0, 0.0, False),
        (0.2, 0.0, 0.0, True),
        (0.2, 0.1, 0.0, False),
        (0.4, 0.1, 0.0, True),
        (0.4, 0.0, 1.0, False),
    ],
)
def test_a_measurement_of_bytes_lasts_for_three_round_trips(
    now: float, round_trip: float, least: float, *, is_enough: bool
):
    meter = WorkMeter(round_trip_s=round_trip)
    for connection in range(4):
        meter.add_body(connection, 4 * MIB, now=now, seconds=0.1)
    assert meter.sample(now, allowed=4, added=0, least_s=least).is_enough is is_enough


@pytest.mark.parametrize(("measured", "is_enough"), [(11, False), (12, True)])
def test_half_of_the_added_connections_have_to_take_part_in_a_trial(measured: int, *, is_enough: bool):
    meter = WorkMeter()
    for connection in range(measured):
        meter.add_body(connection, 8 * MIB, now=1.0, seconds=1.0)
    assert meter.sample(1.0, allowed=16, added=8, least_s=0.0).is_enough is is_enough


def test_without_any_work_there_is_no_measurement():
    sample = WorkMeter().sample(10.0, allowed=4, added=0, least_s=0.0)
    assert (sample.each, sample.is_enough) == (0.0, False)


def test_the_shortest_round_trip_is_kept():
    meter = WorkMeter()
    for seconds in (0.3, 0.1, 0.2):
        meter.add_round_trip(seconds)
    assert meter.round_trip_s == 0.1


@pytest.mark.parametrize(("rate", "is_slower"), [(0.01, True), (0.19, True), (0.21, False), (1.0, False)])
def test_a_connection_below_a_fifth_of_the_median_of_the_others_is_far_slower(rate: float, *, is_slower: bool):
    meter = WorkMeter(rates={1: rate, 2: 1.0, 3: 1.0, 4: 9.0})
    assert meter.is_far_slower(1) is is_slower


def test_a_single_other_connection_is_no_measure():
    assert not WorkMeter(rates={1: 0.01, 2: 1.0}).is_far_slower(1)


def test_the_last_connection_is_compared_with_those_that_have_ended():
    meter = WorkMeter(rates={1: 1.0, 2: 1.0, 3: 1.0})
    assert not meter.is_far_slower(1)
    meter.rates = {4: 0.01}
    assert meter.is_far_slower(4)


@pytest.mark.parametrize(("usual", "window"), [(0.0, 1.0), (100 * MIB, 0.5), (256 * 1024 / 4, 4.0), (1.0, 30.0)])
def test_the_window_of_a_rate_is_longer_where_less_arrives(usual: float, window: float):
    assert WorkMeter(usual_rate=usual).window_s == window
