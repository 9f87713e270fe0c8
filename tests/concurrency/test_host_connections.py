"""Places of one account at one host: the pause before each is used again, refusals, and when they are withdrawn."""

from __future__ import annotations

import math

import pytest

from bulkdl.concurrency.connection_control import begin
from bulkdl.concurrency.host_connections import HostConnections


def host_of(*, start: int = 4, most: int = 128) -> tuple[HostConnections, list[str]]:
    told: list[str] = []
    return HostConnections(begin(start=start, most=most), tell=told.append), told


def test_places_are_granted_up_to_the_number_allowed():
    host, _ = host_of(start=2)
    places = [host.take(0.0) for _ in range(2)]
    assert host.opens_in(0.0) == math.inf
    host.give_back(places[0], 1.0)
    assert (host.opens_in(1.0), host.held) == (0.0, 1)


def test_a_refused_place_that_was_free_before_begins_a_pause_and_keeps_the_number():
    host, told = host_of(start=1)
    first = host.take(0.0)
    host.answered(first, 0.1)
    host.give_back(first, 1.0)
    second = host.take(1.0)
    host.refused(second, 1.05, are_several=True)
    host.give_back(second, 1.05)
    assert (host.allowed, host.pause.pause_s) == (1, 0.15)
    assert host.opens_in(1.05) == pytest.approx(0.1), "the pause counts from the end of the connection that was served"
    assert told == ["0.15 s before a place is used again, since 0.00 s was refused and inf s accepted"]


def test_one_request_at_a_time_shows_if_a_pause_is_long_enough():
    host, _ = host_of(start=2)
    places = [host.take(0.0) for _ in range(2)]
    for place in places:
        host.answered(place, 0.1)
        host.give_back(place, 1.0)
    refused = host.take(1.0)
    host.refused(refused, 1.0, are_several=True)
    host.give_back(refused, 1.0)
    trial = host.take(1.15)
    assert host.opens_in(1.15) == math.inf
    host.answered(trial, 1.3)
    assert host.pause.is_verified
    assert host.opens_in(1.3) == 0.0


def test_a_place_that_was_not_used_lately_needs_no_pause():
    host, _ = host_of(start=1)
    first = host.take(0.0)
    host.answered(first, 0.1)
    host.give_back(first, 1.0)
    second = host.take(1.0)
    host.refused(second, 1.0, are_several=True)
    host.give_back(second, 1.0)
    assert host.opens_in(7.0) == 0.0
    assert host.take(7.0).since_s == math.inf


def test_a_new_place_that_is_refused_tells_the_limit():
    host, _ = host_of(start=4)
    places = [host.take(0.0) for _ in range(4)]
    for place in places[:3]:
        host.answered(place, 0.1)
    host.refused(places[3], 0.1, are_several=True)
    assert (host.allowed, host.control.refused, host.pause.pause_s) == (3, 4, 0.0)


def test_a_refusal_while_nobody_is_served_says_nothing_about_the_number():
    host, _ = host_of(start=4)
    host.refused(host.take(0.0), 0.1, are_several=True)
    assert (host.allowed, host.control.refused) == (4, None)


@pytest.mark.parametrize(("later", "allowed"), [(10.0, 4), (31.0, 3)])
def test_refusals_are_forgotten_when_an_outage_begins_within_half_a_minute(later: float, allowed: int):
    host, _ = host_of(start=4)
    places = [host.take(0.0) for _ in range(4)]
    for place in places[:3]:
        host.answered(place, 0.1)
    host.refused(places[3], 0.1, are_several=True)
    host.forget_refusals(0.1 + later)
    assert host.allowed == allowed


def test_a_restored_limit_never_lowers_the_present_one():
    host, _ = host_of(start=4)
    low = HostConnections(begin(start=2, most=128), tell=lambda _: None).limits
    host.restore(low, 1.0)
    assert host.allowed == 4


def test_a_place_given_back_is_no_longer_served():
    host, _ = host_of(start=2)
    place = host.take(0.0)
    host.answered(place, 0.1)
    host.answered(place, 0.2)
    assert host.served == 1
    host.give_back(place, 1.0)
    assert (host.served, host.held) == (0, 0)


def test_a_host_that_thinks_about_each_answer_gets_more_requests_unless_it_has_an_account():
    for is_patient, allowed in ((False, 16), (True, 8)):
        host = HostConnections(begin(start=8, most=128), tell=lambda _: None, is_patient=is_patient)
        host.waiting = 9
        for _ in range(8):
            host.take(0.0)
        host.look(0.0)
        host.look(0.2)
        host.look(0.4)
        assert host.allowed == allowed


def test_no_look_is_due_while_no_more_connections_are_wanted():
    host, _ = host_of(start=1)
    assert host.next_look_in(0.0) is None
    host.take(0.0)
    assert host.next_look_in(0.0) is None
    host.waiting = 1
    assert host.next_look_in(0.0) == pytest.approx(0.03)
