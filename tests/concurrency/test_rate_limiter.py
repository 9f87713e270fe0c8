"""The rate limit of a run, and the back-off of hosts."""

from __future__ import annotations

import asyncio

import pytest

from bulkdl.concurrency.rate_limiter import HostBackoff, RateLimit
from tests.clocks import ImpatientClock, JustBooted


async def test_without_a_rate_nothing_waits(clock):
    for none in (None, 0):
        await RateLimit(none, clock=clock).take(10**12)
    assert clock.sleepers == 0


async def test_the_rate_holds_over_all_callers(impatient_clock):
    limit = RateLimit(1000, clock=impatient_clock)
    began = impatient_clock.monotonic()
    for count in (100, 900, 5000, 1, 3999):
        await limit.take(count)
    assert impatient_clock.monotonic() - began == pytest.approx(10.0)


async def test_several_at_once_share_the_rate(clock):
    limit = RateLimit(1000, clock=clock)
    tasks = [asyncio.create_task(limit.take(1000)) for _ in range(3)]
    await clock.until_sleeping(3)
    assert clock.waits() == pytest.approx([1.0, 2.0, 3.0])
    await clock.advance(1.0)
    assert [t.done() for t in tasks] == [True, False, False]
    await clock.advance(2.0)
    await asyncio.gather(*tasks)


async def test_after_a_pause_the_burst_is_at_most_a_quarter_of_a_second(clock):
    limit = RateLimit(1000, clock=clock)
    await clock.advance(3600)
    await limit.take(250)
    assert clock.sleepers == 0
    task = asyncio.create_task(limit.take(100))
    await clock.until_sleeping()
    assert clock.waits() == pytest.approx([0.1])
    await clock.advance(1)
    await task


async def test_the_back_off_of_a_host_lasts_until_its_longest_pause_ends(clock):
    pauses = HostBackoff(clock=clock)
    assert pauses.left("a") == 0
    pauses.pause("a", 10)
    pauses.pause("a", 3)
    assert (pauses.left("a"), pauses.left("b")) == (10, 0)
    await clock.advance(9.5)
    assert pauses.left("a") == 0.5
    pauses.pause("a", 1)
    assert pauses.left("a") == 1
    await clock.advance(2)
    assert pauses.left("a") == 0


async def test_a_rate_that_is_kept_needs_no_wait():
    clock = ImpatientClock()
    limit = RateLimit(1000, clock=clock)
    await clock.advance(1)
    await limit.take(250)
    await limit.take(100)
    assert clock.slept == pytest.approx([0.1])


async def test_a_pause_on_a_machine_that_has_just_started_is_no_longer_than_asked_for():
    pauses = HostBackoff(clock=JustBooted())
    pauses.pause("a", 0.5)
    assert pauses.left("a") == 0.5
