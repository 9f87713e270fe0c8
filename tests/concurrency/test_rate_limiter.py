"""The rate limit of a run, and the back-off of hosts."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from bulkdl.concurrency.rate_limiter import LEAST_PIECE, HostBackoff, RateLimit
from bulkdl.core.models import RateTimetable
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


async def test_the_bucket_is_empty_at_the_start(clock):
    limit = RateLimit(1000, clock=clock)
    await clock.advance(3600)
    task = asyncio.create_task(limit.take(100))
    await clock.until_sleeping()
    assert clock.waits() == pytest.approx([0.1])
    await clock.advance(1)
    await task


async def test_after_a_pause_the_burst_is_at_most_a_quarter_of_a_second(clock):
    limit = RateLimit(1000, clock=clock)
    await limit.take(0)
    await clock.advance(3600)
    await limit.take(250)
    assert clock.sleepers == 0
    task = asyncio.create_task(limit.take(100))
    await clock.until_sleeping()
    assert clock.waits() == pytest.approx([0.1])
    await clock.advance(1)
    await task


@pytest.mark.parametrize(
    ("rate", "piece"), [(None, None), (0, None), (1000, LEAST_PIECE), (64 * 1024, 655), (50 * 1024**2, 524_288)]
)
def test_a_connection_reads_a_hundredth_of_a_second_at_once(clock, rate: int | None, piece: int | None):
    assert RateLimit(rate, clock=clock).piece == piece


@pytest.mark.parametrize("connections", [1, 3, 16])
@pytest.mark.parametrize("rate", [64 * 1024, 512 * 1024, 5 * 1024**2])
async def test_whatever_is_taken_at_once_the_rate_is_exact_within_2_percent(clock, rate: int, connections: int):
    limit, taken = RateLimit(rate, clock=clock), 0

    async def read() -> None:
        nonlocal taken
        while True:
            taken += limit.piece or 0
            await limit.take(limit.piece or 0)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(read()) for _ in range(connections)]
        await clock.advance(10)
        for task in tasks:
            task.cancel()
    assert taken == pytest.approx(10 * rate, rel=0.02)


def timetable(clock, *changes: tuple[float, int | None]) -> RateTimetable:
    """Changes of the rate, each so many seconds from now."""
    times = [datetime.fromtimestamp(clock.wall() + seconds) for seconds, _ in changes]  # noqa: DTZ006 - local time
    starts = [((at.weekday() * 24 + at.hour) * 60 + at.minute) * 60 + at.second for at in times]
    rows = sorted(zip(starts, [rate for _, rate in changes], strict=True))
    return RateTimetable(tuple(start for start, _ in rows), tuple(rate for _, rate in rows))


async def test_a_change_of_the_rate_counts_within_half_a_second_for_callers_that_wait(clock):
    limit = RateLimit(timetable(clock, (0, 1000), (10, 100_000)), clock=clock)
    task = asyncio.create_task(limit.take(60_000))
    await clock.advance(9.9)
    assert not task.done()
    await clock.advance(1.2)
    assert task.done()


async def test_a_limit_that_ends_releases_those_that_wait(clock):
    limit = RateLimit(timetable(clock, (0, 1000), (10, None)), clock=clock)
    tasks = [asyncio.create_task(limit.take(10**9)) for _ in range(3)]
    await clock.advance(9.9)
    assert limit.piece == LEAST_PIECE
    assert not any(task.done() for task in tasks)
    await clock.advance(0.7)
    assert all(task.done() for task in tasks)
    assert limit.piece is None


async def test_what_was_taken_without_a_limit_is_not_paid_for_later(clock):
    limit = RateLimit(timetable(clock, (0, None), (10, 1000)), clock=clock)
    await limit.take(10**12)
    await clock.advance(10)
    task = asyncio.create_task(limit.take(500))
    await clock.until_sleeping()
    await clock.advance(0.6)
    assert task.done()


async def test_what_connections_read_before_a_limit_began_is_not_paid_for(clock):
    limit = RateLimit(timetable(clock, (0, None), (10, 100_000)), clock=clock)
    await limit.take(10**9)
    await clock.advance(10)
    tasks = [asyncio.create_task(limit.take(256 * 1024)) for _ in range(16)]
    await clock.advance(0.2)
    assert all(task.done() for task in tasks)


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
    await limit.take(0)
    await clock.advance(1)
    await limit.take(250)
    await limit.take(100)
    assert clock.slept == pytest.approx([0.1])


async def test_a_pause_on_a_machine_that_has_just_started_is_no_longer_than_asked_for():
    pauses = HostBackoff(clock=JustBooted())
    pauses.pause("a", 0.5)
    assert pauses.left("a") == 0.5
