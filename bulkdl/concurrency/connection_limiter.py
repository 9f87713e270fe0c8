"""Limits of connections for each account, each host and the whole run.

A product that waits for a slot gets that of the newest extra connection, which closes within 0.3 s. Slots that become
free at once are divided evenly among the products in flight.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from bulkdl.concurrency.adaptive_limit import ConcurrencyLimit, on_refused
from bulkdl.concurrency.throughput import LAPSE_S, FirstBytes, HostThroughput
from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from bulkdl.core.clock import Clock

__all__ = ["ConnectionLimiter"]

HOST_CONNECTIONS = 16
"""Limit of connections to one host without an account limit, before a trial has raised it."""
BURST_S = 1.0
"""Seconds within which refusals count as one, since the requests were already under way."""
QUIET_S = 60.0
"""Seconds without a refusal after which a reduced limit rises by one connection."""


@dataclass(slots=True, eq=False)
class _Waiter:
    keys: tuple[str, ...]
    granted: asyncio.Future[None]


@dataclass(slots=True)
class _Reduced:
    """A limit that a server's refusal has reduced, until it is restored."""

    original: int
    at: float
    """Time of the latest refusal."""
    reduced_at: float = -BURST_S
    """Time of the latest reduction: refusals that go on reduce the limit once in `BURST_S`."""


@dataclass(slots=True, eq=False)
class _ExtraConnection:
    """An additional connection to a product; `leave` asks it to close soon."""

    keys: tuple[str, ...]
    leave: Callable[[], None]
    closing: bool = False


class ConnectionLimiter:
    """Slots for connections, counted by account and by host; the first waiter that fits is served first.

    `extra` is for additional connections to one product. It never waits, never takes a slot that a product is waiting
    for, and gives its slot up if a product needs it.

    No waiter ever fits: a slot that becomes free goes to the first waiter it fits, before any new caller can ask. A
    caller that fits immediately therefore never skips ahead of a waiter.

    Without an account limit, the limit of a host may grow up to `cap` (`adaptive_limit`), and the run's limit with it.
    """

    def __init__(
        self,
        *,
        most: int,
        accounts: Mapping[str, int | None],
        clock: Clock,
        host: int = HOST_CONNECTIONS,
        cap: int = 0,
    ) -> None:
        """`most` and `host` are the first limits of the run and of one host; `cap` is the highest limit of one host."""
        self._limits: dict[str, int] = {}
        self._limits |= {f"account {name}": limit for name, limit in accounts.items() if limit is not None}
        self._run_limit = most
        self._host_limit = host
        self._host_cap = cap
        self._held: Counter[str] = Counter()
        self._waiting: deque[_Waiter] = deque()
        self._extras: list[_ExtraConnection] = []
        self._clock = clock
        self._reduced: dict[str, _Reduced] = {}
        self._throughputs: dict[str, HostThroughput] = {}
        self._known_keys: dict[tuple[str | None, str], tuple[str, ...]] = {}
        self.limit_raised = asyncio.Event()
        """Set, and replaced by a new event, whenever the limit of a host has been raised."""

    def slot(self, *, account: str | None, host: str) -> AbstractAsyncContextManager[None]:
        return _Slot(self, self._keys(account, host))

    @asynccontextmanager
    async def extra(
        self, *, account: str | None, host: str, leave: Callable[[], None] = lambda: None
    ) -> AsyncIterator[bool]:
        """Yield whether a slot was free; the limiter calls `leave` when the connection should close soon."""
        extra = _ExtraConnection(self._keys(account, host), leave)
        granted = self._fits(extra.keys)
        if granted:
            self._hold_extra(extra)
        try:
            yield granted
        finally:
            if granted:
                self._extras.remove(extra)
                self._release(extra.keys)

    @property
    def has_waiters(self) -> bool:
        """True if a product is waiting for a slot."""
        return bool(self._waiting)

    def free_slots(self, *, account: str | None, host: str) -> int:
        """Return the number of slots that `extra` would grant now."""
        keys = self._keys(account, host)
        return max(0, min(self._limit(key) - self._held[key] for key in keys))

    def fair_share(self, account: str | None, host: str, *, among: int) -> int:
        """Return the slots of each product if the limit were divided evenly among so many products, rounded up."""
        return -(-min(map(self._limit, self._keys(account, host))) // max(1, among))

    def reduce(self, account: str | None, host: str) -> int:
        """Reduce the limit to one less than are open after a refusal (such as a 429); return the new limit.

        The limit rises again after `QUIET_S` without a refusal.
        """
        key, now = self._keys(account, host)[1], self._clock.monotonic()
        self.connection_refused(account, host)
        reduced = self._reduced.setdefault(key, _Reduced(self._limit(key), now, now - BURST_S))
        if now - reduced.reduced_at >= BURST_S:
            self._limits[key] = max(1, min(self._limit(key), self._held[key]) - 1)
            reduced.reduced_at = now
        reduced.at = now
        self._close_extras()
        return self._limits[key]

    # Measurements of a host

    def count_bytes(self, account: str | None, host: str, count: int) -> None:
        """Count bytes received from `host`."""
        self._throughput(self._keys(account, host)[1]).received += count

    def record_round_trip(self, account: str | None, host: str, seconds: float) -> None:
        """Record the duration of a round trip to `host`, which may include the response time of a request."""
        throughput = self._throughput(self._keys(account, host)[1])
        throughput.round_trip_s = seconds if throughput.round_trip_s is None else min(throughput.round_trip_s, seconds)

    def record_first_bytes(self, account: str | None, host: str, *, count: int, rate: float, opened: float) -> None:
        """Record the first measurement of a connection: bytes, and bytes per second; `opened`: time of opening."""
        key, now = self._keys(account, host)[1], self._clock.monotonic()
        throughput = self._throughput(key)
        throughput.record_first_bytes(FirstBytes(count, rate), opened=opened, now=now, held=self._held[key])
        if now - throughput.saturated_at <= LAPSE_S:
            self._update_limit(key, now)

    def report_saturation(self, account: str | None, host: str) -> None:
        """Report that a product could use more connections than there are slots; call this repeatedly."""
        key, now = self._keys(account, host)[1], self._clock.monotonic()
        if self._may_grow(key):
            self._throughput(key).report_saturation(now)
            self._update_limit(key, now)

    def _may_grow(self, key: str) -> bool:
        """Return whether the limit `key` is reached and may grow: no account limit, not reduced, below the cap."""
        return key not in self._limits and self._host_cap > self._host_limit and self._held[key] >= self._limit(key)

    def _update_limit(self, key: str, now: float) -> None:
        if self._may_grow(key) and self._throughput(key).update_limit(now, cap=self._host_cap):
            self._close_extras()
            self._grant_slots()
            self.limit_raised.set()
            self.limit_raised = asyncio.Event()

    def has_grown(self, account: str | None, host: str) -> bool:
        """Return whether more connections to `host` are allowed than at the beginning."""
        throughput = self._throughputs.get(self._keys(account, host)[1])
        return throughput is not None and throughput.limit.allowed > throughput.limit.base

    def connection_refused(self, account: str | None, host: str) -> None:
        """Record that `host` refused a connection; reduce its limit to the proven one, or halve that."""
        key, now = self._keys(account, host)[1], self._clock.monotonic()
        throughput = self._throughputs.get(key)
        if (
            throughput is not None
            and throughput.limit.allowed > throughput.limit.base
            and now - throughput.refused_at >= BURST_S
        ):
            throughput.limit = on_refused(throughput.limit, now)
            self._close_extras()
        if throughput is not None:
            throughput.refused_at = now

    def _throughput(self, key: str) -> HostThroughput:
        if key not in self._throughputs:
            self._throughputs[key] = HostThroughput(ConcurrencyLimit.of(self._host_limit))
        return self._throughputs[key]

    # Slots

    def _recover(self) -> None:
        now = self._clock.monotonic()
        for key, reduced in list(self._reduced.items()):
            if now - reduced.at >= QUIET_S:
                self._limits[key] += 1
                reduced.at = now
            if self._limits[key] >= reduced.original:
                del self._reduced[key]
                if key.startswith("host "):
                    del self._limits[key]

    def _keys(self, account: str | None, host: str) -> tuple[str, ...]:
        known = self._known_keys.get((account, host))
        if known is None:
            known = self._known_keys[account, host] = self._make_keys(account, host)
        return known

    def _make_keys(self, account: str | None, host: str) -> tuple[str, ...]:
        # The limit of an account replaces that of the host, since its provider states what it allows.
        own = f"account {account}" if account and f"account {account}" in self._limits else None
        return ("run", own) if own else ("run", f"host {host}")

    def _limit(self, key: str) -> int:
        if key == "run":
            return self._run_limit + sum(t.limit.allowed - t.limit.base for t in self._throughputs.values())
        if key in self._limits:
            return self._limits[key]
        return self._throughputs[key].limit.allowed if key in self._throughputs else self._host_limit

    def _fits(self, keys: tuple[str, ...]) -> bool:
        for key in keys:  # noqa: SIM110 - runs for every request, and `any` is slower
            if self._held[key] >= self._limit(key):
                return False
        return True

    def _hold(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            self._held[key] += 1

    def _hold_extra(self, extra: _ExtraConnection) -> None:
        throughput = self._throughput(extra.keys[1])
        if throughput.joined_at is None:
            throughput.held_before, throughput.joined_at = self._held[extra.keys[1]], self._clock.monotonic()
        self._hold(extra.keys)
        self._extras.append(extra)

    async def _acquire(self, keys: tuple[str, ...]) -> None:
        if self._fits(keys):
            self._hold(keys)
            return
        waiter = _Waiter(keys, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._close_extras()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():
                self._release(keys)  # the slot was granted in the same moment: pass it on
            else:
                self._waiting.remove(waiter)
            raise

    def _release(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            self._held[key] -= 1
        if self._reduced:
            self._recover()
        if self._waiting:
            self._grant_slots()

    def _grant_slots(self) -> None:
        for waiter in [w for w in self._waiting if not w.granted.done()]:
            if self._fits(waiter.keys):
                self._hold(waiter.keys)
                self._waiting.remove(waiter)
                waiter.granted.set_result(None)

    def _close_extras(self) -> None:
        """Close the newest extra connections if the limit is exceeded or a product is waiting for a slot."""
        for key in [key for key, held in self._held.items() if held >= self._limit(key)]:
            waiting = sum(self._waits_only_for(key, waiter) for waiter in self._waiting)
            of_key = [extra for extra in self._extras if key in extra.keys]
            excess = self._held[key] + waiting - self._limit(key) - sum(extra.closing for extra in of_key)
            staying = [extra for extra in reversed(of_key) if not extra.closing]
            for extra in staying[: max(0, excess)]:
                extra.closing = True
                extra.leave()

    def _waits_only_for(self, key: str, waiter: _Waiter) -> bool:
        """Return whether `key` is the only limit that the waiter is waiting for."""
        others = (other for other in waiter.keys if other != key)
        return key in waiter.keys and not waiter.granted.done() and self._fits(tuple(others))


class _Slot(AbstractAsyncContextManager[None]):
    def __init__(self, connections: ConnectionLimiter, keys: tuple[str, ...]) -> None:
        self._connections = connections
        self._keys = keys

    async def __aenter__(self) -> None:
        await self._connections._acquire(self._keys)  # noqa: SLF001 - a part of the limiter

    async def __aexit__(self, *_: object) -> None:
        self._connections._release(self._keys)  # noqa: SLF001
