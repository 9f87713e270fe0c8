"""Places for connections: how many the run has, and how many each account has at each host (`host_connections`).

A product that waits for a place gets that of the newest extra connection, which closes within 0.3 s. Places that become
free at once are divided evenly among the products in flight.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Self

from bulkdl.concurrency.connection_control import begin
from bulkdl.concurrency.host_connections import HostConnections
from bulkdl.concurrency.host_memory import HostMemory, first_connections
from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from bulkdl.concurrency.host_connections import Limits, Place
    from bulkdl.concurrency.work_meter import WorkMeter
    from bulkdl.core.clock import Clock

__all__ = ["CAP", "FIRST_CONNECTIONS", "ConnectionLimiter", "Key", "Slot"]

CAP = 128
"""Limit of connections of one account to one host, whatever they bring."""
FIRST_CONNECTIONS = 8
"""Connections to a host that nothing is known of."""
_BURST_S = 1.0
"""Seconds within which refusals of extra connections count as one, since the requests were already under way."""

Key = str
"""Name of a control: an account with a stated limit, or an account at a host."""


@dataclass(slots=True, eq=False)
class _Waiter:
    host: HostConnections
    granted: asyncio.Future[None]
    place: Place | None = None


@dataclass(slots=True, eq=False)
class _ExtraConnection:
    """An additional connection to a product; `leave` asks it to close soon."""

    host: HostConnections
    leave: Callable[[], None]
    closing: bool = False


class Slot(AbstractAsyncContextManager["Slot"]):
    """The right to one connection; it is taken when it is entered, or before by `ConnectionLimiter.reserve`."""

    __slots__ = ("_host", "_limiter", "place")

    def __init__(self, limiter: ConnectionLimiter, host: HostConnections, place: Place | None = None) -> None:
        self._limiter = limiter
        self._host = host
        self.place = place

    async def __aenter__(self) -> Self:
        if self.place is None:
            self.place = await self._limiter.acquire(self._host)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.give_back()

    def is_of(self, host: HostConnections) -> bool:
        return self.place is not None and self._host is host

    def give_back(self) -> None:
        place, self.place = self.place, None
        if place is not None:
            self._limiter.release(self._host, place)

    def answered(self) -> None:
        """Record that the host serves this connection."""
        if self.place is not None:
            self._limiter.record_answered(self._host, self.place)

    def refused(self, *, are_several: bool) -> None:
        """Record that the host refused this connection because of their number, or, if several were, as it came too soon."""
        self._limiter.record_refused(self._host, self.place, are_several=are_several)


class ConnectionLimiter:
    """Slots for connections; the first waiter that fits is served first.

    `extra` is for additional connections to one product. It never waits, never takes a slot that a product is waiting
    for, and gives its slot up if a product needs it.
    """

    def __init__(
        self,
        *,
        most: int,
        accounts: Mapping[str, int | None],
        clock: Clock,
        host: int = FIRST_CONNECTIONS,
        cap: int = 0,
        least: int | None = None,
        memory: Iterable[HostMemory] = (),
    ) -> None:
        """`most`: first limit of the run; `host`: connections to begin with; `cap`: highest limit of one host.

        `accounts`: limits that accounts have over all their hosts. `least`: number below which only a refusal goes; by
        default `host`. `memory`: what earlier runs have learned.
        """
        self._run_limit = most
        self._run_held = 0
        self._accounts = accounts
        self._host_start = host
        self._host_cap = max(cap, host)
        self._least = host if least is None else least
        self._clock = clock
        self._memory = {each.key: each for each in memory}
        self._hosts: dict[Key, HostConnections] = {}
        self._by_name: dict[tuple[str | None, str], HostConnections] = {}
        self._waiting: deque[_Waiter] = deque()
        self._extras: list[_ExtraConnection] = []
        self._refused_at: dict[int, float] = {}
        self._stirred = asyncio.Event()
        """Set when there may be something to look at: products or ranges wait for connections."""
        self.limit_raised = asyncio.Event()
        """Set, and replaced by a new event, whenever the limit of a host has been raised."""
        self.on_free: Callable[[], None] = lambda: None
        """Called when a place has become free, or the limit of a host has risen."""
        self.on_decision: Callable[[Key, str], None] = lambda _key, _text: None
        """Called with each decision about an account at a host: a sentence with its reason."""

    # Slots

    def slot(self, *, account: str | None, host: str, reserved: Slot | None = None) -> Slot:
        """Return a slot; `reserved` is used if it is for the same account and host, else given back."""
        wanted = self._host(account, host)
        if reserved is not None:
            if reserved.is_of(wanted):
                return reserved
            reserved.give_back()
        return Slot(self, wanted)

    def reserve(self, account: str | None, host: str) -> Slot:
        """Take a slot that `opens_in` has found free."""
        wanted = self._host(account, host)
        return Slot(self, wanted, self._take(wanted))

    def opens_in(self, account: str | None, host: str) -> float:
        """Return the seconds until `reserve` may be called; 0: now, infinity: after the next change."""
        return self._opens_in(self._host(account, host))

    @asynccontextmanager
    async def extra(
        self, *, account: str | None, host: str, leave: Callable[[], None] = lambda: None
    ) -> AsyncIterator[Slot | None]:
        """Yield a slot, None if none is free; the limiter calls `leave` when the connection should close soon."""
        extra = _ExtraConnection(self._host(account, host), leave)
        if self._run_held >= self._most() or extra.host.opens_in(self._clock.monotonic(), is_extra=True) > 0:
            yield None
            return
        slot = Slot(self, extra.host, self._take(extra.host))
        self._extras.append(extra)
        extra.host.extras += 1
        try:
            yield slot
        finally:
            self._extras.remove(extra)
            extra.host.extras -= 1
            slot.give_back()

    @property
    def has_waiters(self) -> bool:
        """True if a product is waiting for a slot."""
        return bool(self._waiting)

    def free_slots(self, *, account: str | None, host: str) -> int:
        """Return the number of slots that `extra` would grant now, but for a pause."""
        found = self._host(account, host)
        if found.pause.pause_s and found.opens_in(self._clock.monotonic(), is_extra=True) > 0:
            return 0
        waiting = 0 if found.is_trial_of_extras else found.waiting
        return max(0, min(found.allowed - found.held - waiting, self._most() - self._run_held))

    def fair_share(self, account: str | None, host: str, *, among: int) -> int:
        """Return the slots of each product if the limit were divided evenly among so many products, rounded up."""
        return -(-min(self._host(account, host).allowed, self._most()) // max(1, among))

    def set_waiting(self, account: str | None, host: str, count: int) -> None:
        """Record that so many products wait for a slot, outside of `slot`."""
        self._host(account, host).waiting = count
        if count:
            self._stirred.set()
            self._close_extras()

    def has_waiting(self, account: str | None, host: str) -> bool:
        return self._host(account, host).waiting > 0

    # What a host answers and brings

    def meter(self, account: str | None, host: str) -> WorkMeter:
        """Return the meter to which everything counts that comes from the host."""
        return self._host(account, host).meter

    def record_answer(self, account: str | None, host: str, *, asked: float, is_whole: bool) -> None:
        """Record that a request of the time `asked` has been answered now; `is_whole`: by a small product."""
        now = self._clock.monotonic()
        meter = self._host(account, host).meter
        if is_whole:
            meter.add_answer(now=now, seconds=now - asked)
        meter.add_round_trip(now - asked)

    def report_saturation(self, account: str | None, host: str) -> None:
        """Report that a product could use more connections than there are slots; call this repeatedly."""
        self._host(account, host).want(self._clock.monotonic())
        self._stirred.set()

    def has_grown(self, account: str | None, host: str) -> bool:
        """Return whether more connections to `host` have been found to bring more."""
        found = self._host(account, host)
        return found.allowed > found.start

    def connection_refused(self, account: str | None, host: str) -> None:
        """Record that `host` refused an extra connection, in whatever way."""
        found, now = self._host(account, host), self._clock.monotonic()
        if now - self._refused_at.get(id(found), -math.inf) >= _BURST_S and found.served > 0:
            found.refused(None, now, are_several=False)
            self._close_extras()
        self._refused_at[id(found)] = now

    def record_answered(self, host: HostConnections, place: Place) -> None:
        before = host.allowed
        host.answered(place, self._clock.monotonic())
        if host.allowed > before or not host.pause.is_verified or host.pause.pause_s:
            self._freed()

    def record_refused(self, host: HostConnections, place: Place | None, *, are_several: bool) -> None:
        host.refused(place, self._clock.monotonic(), are_several=are_several)
        self._close_extras()

    def limits(self, account: str | None, host: str) -> Limits:
        return self._host(account, host).limits

    def restore(self, account: str | None, host: str, before: Limits) -> None:
        """Undo a refusal that turned out to be the trouble of one product."""
        self._host(account, host).restore(before, self._clock.monotonic())
        self._freed()

    def forget_refusals(self, host: str) -> None:
        """Withdraw the latest refusals of a host: they were the begin of an outage."""
        for (_account, name), found in self._by_name.items():
            if name == host:
                found.forget_refusals(self._clock.monotonic())

    def remembered(self) -> list[HostMemory]:
        """Return what a later run may begin with, of each account and host that this run has used."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        return [host.remembered(self._memory[key], now=now, wall=wall) for key, host in self._hosts.items()]

    # Looks

    async def watch(self) -> None:
        """Look at the measurements again and again; cancel this when the run has ended."""
        while True:
            self.look()
            now = self._clock.monotonic()
            pauses = [host.next_look_in(now) for host in self._hosts.values()]
            if not any(pauses):
                self._stirred.clear()
                await self._stirred.wait()
                continue
            # The loop's own time: what arrives does not follow a clock that a test moves.
            await asyncio.sleep(min(pause for pause in pauses if pause))

    def look(self) -> None:
        """Decide on every host by what has been measured."""
        now, raised, freed = self._clock.monotonic(), False, False
        for host in self._hosts.values():
            if host.held:
                before = host.allowed
                host.look(now)
                raised = raised or host.allowed > before
                freed = freed or (host.waiting > 0 and host.opens_in(now) <= 0)
                if host.allowed < before:
                    self._close_extras()
        if raised or freed:
            self._freed()
        if raised:
            self.limit_raised.set()
            self.limit_raised = asyncio.Event()

    # Inside

    def _host(self, account: str | None, host: str) -> HostConnections:
        found = self._by_name.get((account, host))
        if found is None:
            found = self._by_name[account, host] = self._make(account, host)
        return found

    def _make(self, account: str | None, host: str) -> HostConnections:
        # The limit of an account covers all of its hosts, since its provider states what it allows.
        stated = None if account is None else self._accounts.get(account)
        unknown = HostMemory(account=account, host=host if stated is None else "")
        key = unknown.key
        if key not in self._hosts:
            memory = self._memory.setdefault(key, unknown)
            most = self._host_cap if stated is None else min(stated, max(self._host_cap, self._host_start))
            least = self._least if self._host_cap > self._host_start else self._host_start
            start = first_connections(memory, otherwise=self._host_start, least=least)
            now = self._clock.monotonic()
            made = HostConnections(
                begin(start=start, most=most, least=least, now=now, refused=memory.refused or None),
                tell=lambda text: self.on_decision(key, text),
                is_patient=account is not None,
            )
            made.start = min(self._host_start, most)
            made.begin_with(memory)
            self._hosts[key] = made
        return self._hosts[key]

    def _most(self) -> int:
        return self._run_limit + sum(max(0, h.allowed - h.start) for h in self._hosts.values())

    def _opens_in(self, host: HostConnections) -> float:
        if self._run_held >= self._run_limit and self._run_held >= self._most():
            return math.inf
        return host.opens_in(self._clock.monotonic())

    def _take(self, host: HostConnections) -> Place:
        self._run_held += 1
        return host.take(self._clock.monotonic())

    async def acquire(self, host: HostConnections) -> Place:
        """Wait for a place; `Slot` calls this."""
        if self._opens_in(host) <= 0:
            return self._take(host)
        waiter = _Waiter(host, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._close_extras()
        try:
            while not waiter.granted.done():
                pause = self._opens_in(host)
                if math.isinf(pause):
                    await waiter.granted
                else:
                    await self._clock.sleep(pause)
                    self._grant_slots()
        except asyncio.CancelledError:
            if waiter.place is not None:
                self.release(host, waiter.place)  # the slot was granted in the same moment: pass it on
            else:
                self._waiting.remove(waiter)
            raise
        assert waiter.place is not None
        return waiter.place

    def release(self, host: HostConnections, place: Place) -> None:
        """Give a place back; `Slot` calls this."""
        self._run_held -= 1
        host.give_back(place, self._clock.monotonic())
        self._freed()

    def _freed(self) -> None:
        if self._waiting:
            self._grant_slots()
        self.on_free()

    def _grant_slots(self) -> None:
        for waiter in [w for w in self._waiting if not w.granted.done()]:
            if self._opens_in(waiter.host) <= 0:
                waiter.place = self._take(waiter.host)
                self._waiting.remove(waiter)
                waiter.granted.set_result(None)

    def _close_extras(self) -> None:
        """Close the newest extra connections if the limit is exceeded or a product is waiting for a slot."""
        if not self._extras:
            return
        for host in {id(extra.host): extra.host for extra in self._extras}.values():
            waiting = sum(waiter.host is host and not waiter.granted.done() for waiter in self._waiting)
            of_host = [extra for extra in self._extras if extra.host is host]
            waiting += 0 if host.is_trial_of_extras else host.waiting
            excess = host.held + waiting - host.allowed - sum(extra.closing for extra in of_host)
            self._close(of_host, excess)
        # A place of the run would not help a product that waits for its account or host.
        hosts = [waiter.host for waiter in self._waiting if not waiter.granted.done()]
        waiting = sum(host.held < host.allowed for host in hosts)
        excess = self._run_held + waiting - self._most() - sum(extra.closing for extra in self._extras)
        self._close(self._extras, excess)

    @staticmethod
    def _close(extras: list[_ExtraConnection], count: int) -> None:
        staying = [extra for extra in reversed(extras) if not extra.closing]
        for extra in staying[: max(0, count)]:
            extra.closing = True
            extra.leave()
