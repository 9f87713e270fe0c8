"""How many connections an account, a host and the run may hold, how fast bytes may come, and when a host asks for a pause."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from bulkdl.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from bulkdl.clock import Clock

__all__ = ["Connections", "HostPauses", "RateLimit"]

HOST_CONNECTIONS = 16
"""Most connections to one host that no account limits."""
BURST_S = 1.0
"""Refusals that come this close together are one: they were under way when the first came."""
QUIET_S = 60.0
"""After so long without a refusal one connection more is tried."""


@dataclass(slots=True, eq=False)
class _Waiter:
    keys: tuple[str, ...]
    turn: asyncio.Future[None]


@dataclass(slots=True)
class _Lowered:
    """A limit that a server has lowered, until it is back."""

    original: int
    at: float


class Connections:
    """Permits for connections, counted by account and by host, first come first served among those that can go.

    `extra` is for additional connections to one product: it never waits, and never takes a place for which a product is waiting.

    At any moment no one who waits could go: a place that comes free is given to the first that it fits before anyone
    else can ask. So who fits on arrival overtakes nobody.
    """

    def __init__(
        self, *, most: int, accounts: Mapping[str, int | None], clock: Clock, host: int = HOST_CONNECTIONS
    ) -> None:
        self._limits: dict[str, int] = {"run": most}
        self._limits |= {f"account {name}": limit for name, limit in accounts.items() if limit is not None}
        self._host = host
        self._held: Counter[str] = Counter()
        self._waiting: deque[_Waiter] = deque()
        self._clock = clock
        self._lowered: dict[str, _Lowered] = {}

    def permit(self, *, account: str | None, host: str) -> AbstractAsyncContextManager[None]:
        return _Permit(self, self._keys(account, host))

    @asynccontextmanager
    async def extra(self, *, account: str | None, host: str) -> AsyncIterator[bool]:
        """Yields whether a place was free and nobody waits for it."""
        keys = self._keys(account, host)
        granted = self._fits(keys)
        if granted:
            self._take(keys)
        try:
            yield granted
        finally:
            if granted:
                self._release(keys)

    def spare(self, *, account: str | None, host: str) -> int:
        """Places that `extra` would give right now."""
        keys = self._keys(account, host)
        return max(0, min(self._limit(key) - self._held[key] for key in keys))

    def lower(self, account: str | None, host: str) -> int:
        """The server finds us too many: one connection fewer than are held, until it has been quiet; the new limit."""
        key, now = self._keys(account, host)[1], self._clock.monotonic()
        lowered = self._lowered.setdefault(key, _Lowered(self._limit(key), -BURST_S))
        if now - lowered.at >= BURST_S:
            self._limits[key] = max(1, min(self._limit(key), self._held[key]) - 1)
        lowered.at = now
        return self._limits[key]

    def _recover(self) -> None:
        now = self._clock.monotonic()
        for key, lowered in list(self._lowered.items()):
            if now - lowered.at >= QUIET_S:
                self._limits[key] += 1
                lowered.at = now
            if self._limits[key] >= lowered.original:
                del self._lowered[key]

    def _keys(self, account: str | None, host: str) -> tuple[str, ...]:
        # An account's own limit replaces the host's: its provider has said what it allows.
        named = f"account {account}" if account and f"account {account}" in self._limits else None
        return ("run", named) if named else ("run", f"host {host}")

    def _limit(self, key: str) -> int:
        return self._limits.get(key, self._host)

    def _fits(self, keys: tuple[str, ...]) -> bool:
        return all(self._held[key] < self._limit(key) for key in keys)

    def _take(self, keys: tuple[str, ...]) -> None:
        self._held.update(keys)

    async def _acquire(self, keys: tuple[str, ...]) -> None:
        if self._fits(keys):
            self._take(keys)
            return
        waiter = _Waiter(keys, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self._release(keys)  # the turn came in the same moment: hand it on
            else:
                self._waiting.remove(waiter)
            raise

    def _release(self, keys: tuple[str, ...]) -> None:
        self._held.subtract(keys)
        self._recover()
        for waiter in [w for w in self._waiting if not w.turn.done()]:
            if self._fits(waiter.keys):
                self._take(waiter.keys)
                self._waiting.remove(waiter)
                waiter.turn.set_result(None)


class _Permit(AbstractAsyncContextManager[None]):
    def __init__(self, connections: Connections, keys: tuple[str, ...]) -> None:
        self._connections = connections
        self._keys = keys

    async def __aenter__(self) -> None:
        await self._connections._acquire(self._keys)  # noqa: SLF001 - a part of it

    async def __aexit__(self, *_: object) -> None:
        self._connections._release(self._keys)  # noqa: SLF001


class RateLimit:
    """A token bucket over the whole run, in bytes a second; None or 0: no limit. Holds a quarter of a second's worth."""

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


class HostPauses:
    """A host that said Retry-After is left alone by every worker until then, not only by the one that was told."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def pause(self, host: str, seconds: float) -> None:
        self._until[host] = max(self._until.get(host, 0.0), self._clock.monotonic() + seconds)

    def left(self, host: str) -> float:
        """Seconds until the host may be asked again; 0 for now."""
        until = self._until.get(host)
        return 0.0 if until is None else max(0.0, until - self._clock.monotonic())
