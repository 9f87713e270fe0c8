"""The watchdog of one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.core.errors import TryAgain
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind

if TYPE_CHECKING:
    from bulkdl.core.clock import Clock
    from bulkdl.http.response import Response


__all__ = ["StallWatchdog"]


@dataclass(slots=True)
class StallWatchdog:
    """The watchdog of one connection: less than `min_rate` bytes a second over `timeout` seconds of waiting ends it.

    Only time spent waiting for the network counts, so that a slow disk or a rate limit of our own is no stall.
    """

    clock: Clock
    timeout: float
    min_rate: int
    waited: float = 0.0
    received: int = 0

    async def read(self, reply: Response) -> bytes:
        began = self.clock.monotonic()
        try:
            chunk = await reply.read()
        finally:
            self.waited += self.clock.monotonic() - began
        self.count(reply, len(chunk))
        return chunk

    def count(self, reply: Response, received: int, *, waited: float = 0.0) -> None:
        """Note what has come after how long; raise `TryAgain` when that is too slow."""
        self.waited += waited
        self.received += received
        if self.waited >= self.timeout and received:
            if self.received < self.min_rate * self.waited:
                rate = self.received / self.waited
                raise TryAgain(
                    f"only {rate:.0f} bytes a second over {self.waited:.0f} s from {reply.url.host}",
                    kind=FailureKind.NETWORK,
                    hint="Lower --min-rate if that is what the link gives",
                )
            self.waited, self.received = 0.0, 0
