"""The demo's clock runs faster than the real one while it is told to, and whoever sleeps by it wakes in time."""

from __future__ import annotations

import asyncio

import pytest

from bulkdl.demo_server.demo_clock import DemoClock
from tests.clocks import ManualClock


async def test_the_clock_follows_the_real_one_until_it_is_told_to_run_faster() -> None:
    real = ManualClock()
    clock = DemoClock(real)
    await real.advance(10)
    assert (clock.monotonic(), clock.wall(), clock.gained) == (real.monotonic(), real.wall(), 0)


async def test_a_fast_clock_gains_time_and_keeps_it_when_it_slows_down() -> None:
    real = ManualClock()
    clock = DemoClock(real)
    clock.speed = 40
    await real.advance(3)
    assert clock.gained == 3 * 39
    clock.speed = 1
    await real.advance(100)
    assert clock.gained == 3 * 39
    assert clock.monotonic() == real.monotonic() + 117
    assert clock.wall() == real.wall() + 117


async def test_a_sleeper_wakes_at_its_time_although_the_speed_changes_twice() -> None:
    real = ManualClock()
    clock = DemoClock(real)
    sleeper = asyncio.create_task(clock.sleep(100))
    await real.advance(10)
    clock.speed = 40
    await real.advance(1)
    clock.speed = 1
    await real.advance(49)
    assert not sleeper.done()
    await real.advance(1)
    assert sleeper.done()
    await sleeper


async def test_a_short_sleep_by_a_fast_clock_is_not_shorter_than_20_real_milliseconds() -> None:
    real = ManualClock()
    clock = DemoClock(real)
    clock.speed = 40
    sleeper = asyncio.create_task(clock.sleep(0.2))
    await real.until_sleeping()
    assert real.waits() == [pytest.approx(0.02)]
    await real.advance(0.03)
    await sleeper


async def test_a_sleeper_that_is_cancelled_leaves_no_timer() -> None:
    real = ManualClock()
    clock = DemoClock(real)
    sleeper = asyncio.create_task(clock.sleep(5))
    await real.until_sleeping()
    sleeper.cancel()
    await asyncio.wait({sleeper})
    assert sleeper.cancelled()
    await real.advance(0)
    assert real.sleepers == 0


async def test_a_sleep_of_no_length_ends_at_once() -> None:
    await DemoClock(ManualClock()).sleep(0)
