"""A clock that can run faster than the system's, so that the demo shows minutes of waiting within seconds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bulkdl.core.clock import SystemClock

if TYPE_CHECKING:
    from bulkdl.core.clock import Clock

__all__ = ["DemoClock"]

_SHORTEST_SLEEP_S = 0.02
"""Shortest real sleep while the clock runs fast, so that what is paced or drawn many times a second costs no more."""


class DemoClock:
    """A clock whose `speed` may change while others sleep by it; each of them wakes at its time all the same.

    It starts with the time of `real`, and its date is ahead of the real one by what it has gained. Time-outs of the
    network library follow real time. So none of them ends early, however fast this clock runs.
    """

    def __init__(self, real: Clock | None = None) -> None:
        self._real = real or SystemClock()
        self._speed = 1.0
        self._set_at = self._real.monotonic()
        """Real monotonic time of the latest change of speed, and what this clock had gained until then (s)."""
        self._gained = 0.0
        self._sleeping: set[asyncio.Task[None]] = set()

    @property
    def speed(self) -> float:
        """Seconds of this clock in a real second, at least 1."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        if speed == self._speed:
            return
        self._gained, self._set_at = self.gained, self._real.monotonic()
        self._speed = speed
        for task in self._sleeping:  # what is left of each sleep is another real time now
            task.cancel()

    @property
    def gained(self) -> float:
        """Seconds by which this clock is ahead of the real time."""
        return self._gained + (self._real.monotonic() - self._set_at) * (self._speed - 1)

    def monotonic(self) -> float:
        return self._real.monotonic() + self.gained

    def wall(self) -> float:
        return self._real.wall() + self.gained

    async def sleep(self, seconds: float) -> None:
        due = self.monotonic() + seconds
        while (left := due - self.monotonic()) > 0:
            await self._sleep_at_this_speed(left)
        await asyncio.sleep(0)

    async def _sleep_at_this_speed(self, seconds: float) -> None:
        """Sleep until `seconds` have passed or the speed changes."""
        real_s = seconds if self._speed == 1 else max(_SHORTEST_SLEEP_S, seconds / self._speed)
        task = asyncio.ensure_future(self._real.sleep(real_s))
        self._sleeping.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self._sleeping.discard(task)
            task.cancel()
