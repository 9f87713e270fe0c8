"""End the download on a connection that is too slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.core.errors import TryAgain
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind

if TYPE_CHECKING:
    from bulkdl.concurrency.rate_limiter import RateLimit
    from bulkdl.core.clock import Clock
    from bulkdl.http.response import Response


__all__ = ["StallWatchdog"]


@dataclass(slots=True)
class StallWatchdog:
    """Watchdog of one connection: less than `min_rate` bytes a second over `timeout` seconds of waiting is a stall.

    Only time spent waiting for the network counts, so a slow disk or our own rate limit is no stall.
    """

    clock: Clock
    timeout: float
    min_rate: int
    rate: RateLimit | None = None
    """Limit of the run, which says how many bytes may be read at once."""
    waited: float = 0.0
    received: int = 0

    async def read(self, response: Response) -> bytes:
        """Return the next bytes of the body, as `Response.read` does; raise `TryAgain` on a stall."""
        began = self.clock.monotonic()
        try:
            chunk = await response.read(self.rate.piece if self.rate is not None else None)
        finally:
            self.waited += self.clock.monotonic() - began
        self.count(response, len(chunk))
        return chunk

    def count(self, response: Response, received: int, *, waited: float = 0.0) -> None:
        """Count `received` bytes that came after `waited` seconds; raise `TryAgain` on a stall."""
        self.waited += waited
        self.received += received
        if self.waited >= self.timeout and received:
            if self.received < self.min_rate * self.waited:
                rate = self.received / self.waited
                raise TryAgain(
                    f"{response.url.host} sent only {rate:.0f} bytes a second over {self.waited:.0f} s",
                    kind=FailureKind.NETWORK,
                    hint="Lower --min-rate if your connection is that slow",
                )
            self.waited, self.received = 0.0, 0
