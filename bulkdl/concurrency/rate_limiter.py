"""Rate limit of the run, and back-off of hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulkdl.core.clock import Clock


__all__ = ["HostBackoff", "RateLimit"]


class RateLimit:
    """A token bucket for the whole run, in bytes per second; None or 0: no limit. It holds the bytes of 0.25 s."""

    def __init__(self, rate: int | None, *, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._free_at = clock.monotonic()

    async def take(self, count: int) -> None:
        if not self._rate:
            return
        now = self._clock.monotonic()
        self._free_at = max(self._free_at, now - 0.25) + count / self._rate
        if self._free_at > now:
            await self._clock.sleep(self._free_at - now)


class HostBackoff:
    """Back-off for each host: after a Retry-After all workers wait, not only the one that got it."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def pause(self, host: str, seconds: float) -> None:
        self._until[host] = max(self._until.get(host, 0.0), self._clock.monotonic() + seconds)

    def left(self, host: str) -> float:
        """Return the seconds until the next request to the host is allowed; 0: now."""
        until = self._until.get(host)
        return 0.0 if until is None else max(0.0, until - self._clock.monotonic())
