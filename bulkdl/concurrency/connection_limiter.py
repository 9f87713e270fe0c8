"""How many connections an account, a host and the run may hold, how fast bytes may come, and when a host asks for a pause."""

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
"""Most connections to one host that no account limits, before it has shown that more bring more."""
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


@dataclass(slots=True, eq=False)
class _ExtraConnection:
    """An extra connection."""

    keys: tuple[str, ...]
    leave: Callable[[], None]
    leaving: bool = False


class ConnectionLimiter:
    """Permits for connections, counted by account and by host, first come first served among those that can go.

    `extra` is for additional connections to one product: it never waits, never takes a place for which a product is
    waiting, and gives its place up when one has to.

    At any moment no one who waits could go: a place that comes free is given to the first that it fits before anyone
    else can ask. So who fits on arrival overtakes nobody.

    What no account limits may grow up to `cap` for each host while that pays (`growth.py`), and the run's limit with it.
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
        """`most`: of the run, `host`: to one host, before anything has grown; `cap`: to one host at last."""
        self._limits: dict[str, int] = {}
        self._limits |= {f"account {name}": limit for name, limit in accounts.items() if limit is not None}
        self._most = most
        self._host = host
        self._cap = cap
        self._held: Counter[str] = Counter()
        self._waiting: deque[_Waiter] = deque()
        self._guests: list[_ExtraConnection] = []
        self._clock = clock
        self._lowered: dict[str, _Lowered] = {}
        self._watched: dict[str, HostThroughput] = {}
        self._known_keys: dict[tuple[str | None, str], tuple[str, ...]] = {}
        self.grown = asyncio.Event()
        """Set, and another one in its place, when a host may have more."""

    def slot(self, *, account: str | None, host: str) -> AbstractAsyncContextManager[None]:
        return _Permit(self, self._keys(account, host))

    @asynccontextmanager
    async def extra(
        self, *, account: str | None, host: str, leave: Callable[[], None] = lambda: None
    ) -> AsyncIterator[bool]:
        """Yields whether a place was free and nobody waits for it; `leave` is called when it should be given up soon."""
        guest = _ExtraConnection(self._keys(account, host), leave)
        granted = self._fits(guest.keys)
        if granted:
            self._join(guest)
        try:
            yield granted
        finally:
            if granted:
                self._guests.remove(guest)
                self._release(guest.keys)

    @property
    def are_wanted(self) -> bool:
        """Whether someone waits for a place."""
        return bool(self._waiting)

    def free_slots(self, *, account: str | None, host: str) -> int:
        """Places that `extra` would give right now."""
        keys = self._keys(account, host)
        return max(0, min(self._limit(key) - self._held[key] for key in keys))

    def share(self, account: str | None, host: str, *, among: int) -> int:
        """How many places each of so many products would have, were they divided evenly."""
        return -(-min(map(self._limit, self._keys(account, host))) // max(1, among))

    def reduce(self, account: str | None, host: str) -> int:
        """The server finds us too many: one connection fewer than are held, until it has been quiet; the new limit."""
        key, now = self._keys(account, host)[1], self._clock.monotonic()
        self.connection_refused(account, host)
        lowered = self._lowered.setdefault(key, _Lowered(self._limit(key), -BURST_S))
        if now - lowered.at >= BURST_S:
            self._limits[key] = max(1, min(self._limit(key), self._held[key]) - 1)
        lowered.at = now
        self._recall()
        return self._limits[key]

    # What a host is worth

    def brought(self, account: str | None, host: str, count: int) -> None:
        """So many bytes have come from `host`."""
        self._watch(self._keys(account, host)[1]).brought += count

    def took(self, account: str | None, host: str, seconds: float) -> None:
        """A round trip to `host`, or one and a request's answer, has taken so long."""
        watch = self._watch(self._keys(account, host)[1])
        watch.round_trip_s = seconds if watch.round_trip_s is None else min(watch.round_trip_s, seconds)

    def measured(self, account: str | None, host: str, *, count: int, rate: float, opened: float) -> None:
        """What a connection that was opened then had brought at the first look: bytes, and bytes a second."""
        key, now = self._keys(account, host)[1], self._clock.monotonic()
        watch = self._watch(key)
        watch.first_look(FirstBytes(count, rate), opened=opened, now=now, held=self._held[key])
        if now - watch.pressed <= LAPSE_S:
            self._judge(key, now)

    def report_saturation(self, account: str | None, host: str) -> None:
        """A product would make use of more connections than there are places. To be said often."""
        key, now = self._keys(account, host)[1], self._clock.monotonic()
        if self._may_grow(key):
            self._watch(key).report_saturation(now)
            self._judge(key, now)

    def _may_grow(self, key: str) -> bool:
        """Whether it is full, and neither an account's own nor a lowered one, nor one that never grows."""
        return key not in self._limits and self._cap > self._host and self._held[key] >= self._limit(key)

    def _judge(self, key: str, now: float) -> None:
        if self._may_grow(key) and self._watch(key).judge(now, cap=self._cap):
            self._recall()
            self._serve()
            self.grown.set()
            self.grown = asyncio.Event()

    def grows(self, account: str | None, host: str) -> bool:
        """Whether more connections to `host` are allowed than at the beginning."""
        watch = self._watched.get(self._keys(account, host)[1])
        return watch is not None and watch.crowd.allowed > watch.crowd.base

    def connection_refused(self, account: str | None, host: str) -> None:
        """`host` has refused a connection: it is given no more than it is known to bear."""
        key, now = self._keys(account, host)[1], self._clock.monotonic()
        watch = self._watched.get(key)
        if watch is not None and watch.crowd.allowed > watch.crowd.base and now - watch.connection_refused >= BURST_S:
            watch.crowd = on_refused(watch.crowd, now)
            self._recall()
        if watch is not None:
            watch.connection_refused = now

    def _watch(self, key: str) -> HostThroughput:
        if key not in self._watched:
            self._watched[key] = HostThroughput(ConcurrencyLimit.of(self._host))
        return self._watched[key]

    # Places

    def _recover(self) -> None:
        now = self._clock.monotonic()
        for key, lowered in list(self._lowered.items()):
            if now - lowered.at >= QUIET_S:
                self._limits[key] += 1
                lowered.at = now
            if self._limits[key] >= lowered.original:
                del self._lowered[key]
                if key.startswith("host "):
                    del self._limits[key]

    def _keys(self, account: str | None, host: str) -> tuple[str, ...]:
        known = self._known_keys.get((account, host))
        if known is None:
            known = self._known_keys[account, host] = self._named(account, host)
        return known

    def _named(self, account: str | None, host: str) -> tuple[str, ...]:
        # An account's own limit replaces the host's: its provider has said what it allows.
        named = f"account {account}" if account and f"account {account}" in self._limits else None
        return ("run", named) if named else ("run", f"host {host}")

    def _limit(self, key: str) -> int:
        if key == "run":
            return self._most + sum(w.crowd.allowed - w.crowd.base for w in self._watched.values())
        if key in self._limits:
            return self._limits[key]
        return self._watched[key].crowd.allowed if key in self._watched else self._host

    def _fits(self, keys: tuple[str, ...]) -> bool:
        for key in keys:  # noqa: SIM110 - of every request
            if self._held[key] >= self._limit(key):
                return False
        return True

    def _take(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            self._held[key] += 1

    def _join(self, guest: _ExtraConnection) -> None:
        watch = self._watch(guest.keys[1])
        if watch.joined is None:
            watch.fewer, watch.joined = self._held[guest.keys[1]], self._clock.monotonic()
        self._take(guest.keys)
        self._guests.append(guest)

    async def _acquire(self, keys: tuple[str, ...]) -> None:
        if self._fits(keys):
            self._take(keys)
            return
        waiter = _Waiter(keys, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._recall()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self._release(keys)  # the turn came in the same moment: hand it on
            else:
                self._waiting.remove(waiter)
            raise

    def _release(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            self._held[key] -= 1
        if self._lowered:
            self._recover()
        if self._waiting:
            self._serve()

    def _serve(self) -> None:
        for waiter in [w for w in self._waiting if not w.turn.done()]:
            if self._fits(waiter.keys):
                self._take(waiter.keys)
                self._waiting.remove(waiter)
                waiter.turn.set_result(None)

    def _recall(self) -> None:
        """Have the youngest guests go where more are held than may be, or a product waits for a place."""
        for key in [key for key, held in self._held.items() if held >= self._limit(key)]:
            waiting = sum(self._only_for(key, waiter) for waiter in self._waiting)
            here = [guest for guest in self._guests if key in guest.keys]
            excess = self._held[key] + waiting - self._limit(key) - sum(guest.leaving for guest in here)
            staying = [guest for guest in reversed(here) if not guest.leaving]
            for guest in staying[: max(0, excess)]:
                guest.leaving = True
                guest.leave()

    def _only_for(self, key: str, waiter: _Waiter) -> bool:
        """Whether the waiter waits for a place of `key` and could have those of its other keys."""
        others = (other for other in waiter.keys if other != key)
        return key in waiter.keys and not waiter.turn.done() and self._fits(tuple(others))


class _Permit(AbstractAsyncContextManager[None]):
    def __init__(self, connections: ConnectionLimiter, keys: tuple[str, ...]) -> None:
        self._connections = connections
        self._keys = keys

    async def __aenter__(self) -> None:
        await self._connections._acquire(self._keys)  # noqa: SLF001 - a part of it

    async def __aexit__(self, *_: object) -> None:
        self._connections._release(self._keys)  # noqa: SLF001
