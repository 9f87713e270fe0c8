"""A request to stop a run, from a signal handler or another part of a program."""

from __future__ import annotations

import asyncio
from enum import Enum

__all__ = ["StopReason", "StopSignal"]


class StopReason(Enum):
    """Signal that asked the run to stop; the value is its number."""

    SIGINT = 2
    SIGTERM = 15


class StopSignal:
    """A stop request that workers can await; only the first reason counts."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._requested = asyncio.Event()

    def request(self, reason: StopReason) -> None:
        """Request the stop; call this on the run's event loop only."""
        self.reason = self.reason or reason
        self._requested.set()

    async def wait(self) -> None:
        await self._requested.wait()
