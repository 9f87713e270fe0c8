"""Time as a part that can be replaced: tests inject a clock, nothing else in bulkdl reads one."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds that only go forward and count a suspend; for lifetimes and waits."""
        ...

    def wall(self) -> float:
        """Unix time in seconds; only for TOTP, time windows and what people read."""
        ...

    async def sleep(self, seconds: float) -> None: ...


_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


class SystemClock:
    """CLOCK_BOOTTIME where there is one, so that a laptop's suspend counts against a token's life."""

    def monotonic(self) -> float:
        return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
