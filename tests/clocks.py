"""Clocks for tests: time moves when the test says so, or as soon as code sleeps."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

__all__ = ["ImpatientClock", "JustBooted", "ManualClock"]

_TURNS = 20
"""Rounds of the event loop after each step, so that a woken task can act and sleep again before time moves on."""


class ManualClock:
    """Stands still until `advance`; sleepers wake in the order of their deadlines, each at its own time."""

    def __init__(self, *, wall: float = 1_750_000_000.0) -> None:
        self._now = 1000.0
        self._wall = wall
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._changed = asyncio.Event()

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        self._changed.set()
        await future

    @property
    def sleepers(self) -> int:
        return sum(not future.done() for _, _, future in self._sleepers)

    def waits(self) -> list[float]:
        """Return the remaining seconds of each sleeper, shortest first."""
        return sorted(due - self._now for due, _, future in self._sleepers if not future.done())

    async def until_sleeping(self, number: int = 1) -> None:
        """Wait until `number` tasks are sleeping."""
        while self.sleepers < number:
            self._changed.clear()
            await self._changed.wait()

    async def advance(self, seconds: float) -> None:
        """Advance the time by `seconds`; each sleeper wakes at its own time, and may sleep again."""
        end = self._now + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._move(due)
            if not future.done():
                future.set_result(None)
                await _settle()
        self._move(end)
        await _settle()

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as a correction of the system's time does."""
        self._wall += seconds

    def _move(self, now: float) -> None:
        self._wall += now - self._now
        self._now = now


class ImpatientClock(ManualClock):
    """Ends every sleep at once and advances the time by its length; `slept` lists the sleeps."""

    def __init__(self, *, wall: float = 1_750_000_000.0) -> None:
        super().__init__(wall=wall)
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._move(self._now + max(0.0, seconds))
        await asyncio.sleep(0)


async def _settle() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class JustBooted(ManualClock):
    """The clock of a machine that has just started: its monotonic time begins near zero."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
