"""The clock as a replaceable part: tests inject their own, and no other module of bulkdl reads the time."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    def monotonic(self) -> float:
        """Return seconds that only increase and include system suspend; for lifetimes and waits."""
        ...

    def wall(self) -> float:
        """Return Unix time in seconds; only for TOTP, dates from servers and the journal, time windows and display."""
        ...

    async def sleep(self, seconds: float) -> None: ...


_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


class SystemClock:
    """The system's clock; uses CLOCK_BOOTTIME if available, so that a suspend counts against a token's lifetime."""

    def monotonic(self) -> float:
        return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
