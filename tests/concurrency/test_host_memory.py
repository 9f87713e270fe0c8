"""What is remembered of a host: what counts, for how long, and where the next run begins."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bulkdl.concurrency.connection_control import Phase, WorkKind, begin
from bulkdl.concurrency.connection_limiter import ConnectionLimiter
from bulkdl.concurrency.host_connections import HostConnections
from bulkdl.concurrency.host_memory import EXPIRES_S, HostMemory, describe, first_connections, fresh
from tests.clocks import ManualClock

WALL = 1_750_000_000.0
NOBODY = HostMemory(account=None, host="h")
KNOWN = HostMemory(
    account=None,
    host="h",
    connections=12,
    rate=14.2 * 2**20,
    connections_at=WALL,
    refused=14,
    refused_at=WALL - 100,
    pause_s=0.3,
    pause_refused_s=0.25,
    pause_accepted_s=0.3,
    pause_at=WALL - 200,
)


def connections(start: int = 8, most: int = 128) -> HostConnections:
    return HostConnections(begin(start=start, most=most), tell=lambda _text: None)


def test_a_number_with_which_the_run_only_began_is_not_remembered():
    assert connections().remembered(NOBODY, now=5.0, wall=WALL) == NOBODY


def test_a_number_that_could_be_no_other_is_not_remembered():
    host = connections(start=4, most=4)
    host.control = replace(host.control, phase=Phase.SETTLED, kind=WorkKind.BYTES, speed=5.0)
    assert host.remembered(NOBODY, now=5.0, wall=WALL) == NOBODY


@pytest.mark.parametrize("phase", [Phase.MORE, Phase.LESS, Phase.SETTLED])
def test_a_measured_number_is_remembered_with_its_rate(phase: Phase):
    host = connections()
    host.control = replace(host.control, phase=phase, kind=WorkKind.BYTES, speed=5.0, proven=12, allowed=24)
    expected = replace(NOBODY, connections=12, rate=5.0, connections_at=WALL)
    assert host.remembered(NOBODY, now=5.0, wall=WALL) == expected


def test_a_refusal_is_remembered_with_its_time():
    host = connections()
    for place in [host.take(0.0) for _ in range(3)]:
        host.answered(place, 1.0)
    host.refused(host.take(1.0), 2.0, are_several=True)
    memory = host.remembered(NOBODY, now=12.0, wall=WALL)
    assert (memory.connections, memory.refused, memory.refused_at) == (3, 4, WALL - 10.0)


def test_what_a_run_does_not_observe_keeps_its_age():
    host = connections()
    host.begin_with(KNOWN)
    host.control = replace(host.control, refused=14)
    assert host.remembered(KNOWN, now=5.0, wall=WALL + 1000) == KNOWN


def test_a_refused_number_that_has_been_allowed_since_is_forgotten():
    host = connections()
    host.begin_with(KNOWN)
    host.control = replace(host.control, refused=None, phase=Phase.SETTLED, kind=WorkKind.BYTES, speed=1.0, proven=16)
    memory = host.remembered(KNOWN, now=5.0, wall=WALL)
    assert (memory.connections, memory.refused, memory.refused_at) == (16, 0, 0.0)


def test_an_outage_leaves_the_memory_as_it_was():
    host = connections()
    for place in [host.take(0.0) for _ in range(3)]:
        host.answered(place, 1.0)
    host.refused(host.take(1.0), 2.0, are_several=True)
    host.forget_refusals(3.0)
    assert host.remembered(NOBODY, now=4.0, wall=WALL) == NOBODY


@pytest.mark.parametrize(
    ("age", "left"),
    [
        (0.0, (12, 14, 0.3)),
        (EXPIRES_S - 150, (12, 14, 0.0)),
        (EXPIRES_S - 50, (12, 0, 0.0)),
        (EXPIRES_S, (0, 0, 0.0)),
        (-2 * 86400.0, (0, 0, 0.0)),
    ],
)
def test_each_part_expires_after_30_days_by_its_own_age(age: float, left: tuple[int, int, float]):
    memory = fresh(KNOWN, now=WALL + age)
    assert (memory.connections, memory.refused, memory.pause_s) == left
    assert (describe(KNOWN, now=WALL + age) == "") == (memory.at == 0)


@pytest.mark.parametrize(
    ("known", "refused", "least", "first"),
    [
        (0, 0, 2, 8),
        (12, 0, 2, 12),
        (1, 0, 2, 2),
        (12, 14, 2, 12),
        (3, 4, 8, 3),
        (0, 4, 2, 3),
        (4, 1, 2, 1),
        (12, 5, 2, 4),
    ],
)
def test_a_run_begins_at_what_paid_and_below_what_was_refused(known: int, refused: int, least: int, first: int):
    memory = replace(NOBODY, connections=known, refused=refused)
    assert first_connections(memory, otherwise=8, least=least) == first


def test_what_is_remembered_is_said_in_a_line():
    text = describe(KNOWN, now=WALL + 3 * 3600)
    assert text == ("12 connections paid, 14 were refused, 0.3 s between two uses of a place; 14.2 MiB/s; 3h00m ago")
    alone = HostMemory(
        account="own", host="", refused=2, refused_at=WALL, pause_s=1.25, pause_accepted_s=1.25, pause_at=WALL
    )
    assert describe(alone, now=WALL) == ("2 connections were refused, 1.2 s between two uses of a place; 0s ago")
    answers = replace(NOBODY, connections=1, rate=3.25, is_rate_of_answers=True, connections_at=WALL)
    assert describe(answers, now=WALL + 60) == "1 connection paid; 3.2 answers/s; 1m00s ago"


async def test_the_limiter_begins_with_its_memory_within_what_the_account_allows():
    memory = [KNOWN, HostMemory(account="own", host="", connections=40, connections_at=WALL)]
    limiter = ConnectionLimiter(
        most=128, accounts={"own": 5}, clock=ManualClock(wall=WALL), cap=128, least=2, memory=memory
    )
    assert limiter.limits(None, "h").control.allowed == 12
    assert limiter.limits(None, "h").control.bound == 13
    assert limiter.limits(None, "h").pause.pause_s == 0.3
    assert limiter.limits("own", "any").control.allowed == 5
    assert limiter.limits(None, "other").control.allowed == 8
    assert math.isinf(limiter.limits(None, "other").pause.accepted_s)
    assert [each.key for each in limiter.remembered()] == ["h", "account own", "other"]
    assert limiter.remembered()[:2] == memory
