"""The wish to stop a run, from a signal handler or another part of a program."""

from __future__ import annotations

import asyncio
from enum import Enum

__all__ = ["StopReason", "StopSignal"]


class StopReason(Enum):
    """Why a run was asked to stop; the value is the signal's number."""

    SIGINT = 2
    SIGTERM = 15


class StopSignal:
    """Asked once; the first reason counts."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._asked = asyncio.Event()

    def request(self, reason: StopReason) -> None:
        """Call it on the run's event loop."""
        self.reason = self.reason or reason
        self._asked.set()

    async def wait(self) -> None:
        await self._asked.wait()
