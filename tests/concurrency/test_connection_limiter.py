"""Connection slots: limits, order of waiters, extra connections, and that no slot is ever lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from itertools import count

import pytest

from bulkdl.concurrency.connection_limiter import ConnectionLimiter
from tests.clocks import ManualClock


class Worker:
    """A task that holds a slot until the test lets it leave."""

    def __init__(self, connections: ConnectionLimiter, account: str | None = None, host: str = "h") -> None:
        self.has = False
        self.account, self.host = account, host
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold(connections))

    async def _hold(self, connections: ConnectionLimiter) -> None:
        async with connections.slot(account=self.account, host=self.host):
            self.has = True
            try:
                await self._leave.wait()
            finally:
                self.has = False

    def leave(self) -> None:
        self._leave.set()

    def cancel(self) -> None:
        self.task.cancel()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def end(*workers: Worker) -> None:
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*(w.task for w in workers), return_exceptions=True)


def who_holds(workers: list[Worker]) -> list[bool]:
    return [w.has for w in workers]


async def test_slots_are_granted_in_the_order_of_arrival():
    connections = ConnectionLimiter(most=2, accounts={}, clock=ManualClock())
    workers = [Worker(connections) for _ in range(5)]
    await settle()
    assert who_holds(workers) == [True, True, False, False, False]
    workers[1].leave()
    await settle()
    assert who_holds(workers) == [True, False, True, False, False]
    workers[0].leave()
    await settle()
    assert who_holds(workers) == [False, False, True, True, False]
    await end(*workers)


async def test_one_account_at_its_limit_does_not_hold_up_another():
    connections = ConnectionLimiter(most=10, accounts={"a": 1, "b": 2}, clock=ManualClock())
    workers = [Worker(connections, name) for name in ("a", "a", "b", "a", "b", "b")]
    await settle()
    assert who_holds(workers) == [True, False, True, False, True, False]
    workers[0].leave()
    await settle()
    assert who_holds(workers) == [False, True, True, False, True, False]
    await end(*workers)


async def test_a_host_has_its_limit_unless_the_account_has_one():
    connections = ConnectionLimiter(most=10, accounts={"limited": 3, "free": None}, host=2, cap=3, clock=ManualClock())
    workers = [Worker(connections, name) for name in ("free", "free", "free", "limited", "limited", "limited")]
    await settle()
    assert who_holds(workers) == [True, True, False, True, True, False]
    other = Worker(connections, "free", host="another")
    await settle()
    assert other.has
    await end(*workers, other)


async def test_the_run_has_a_limit_over_all_accounts_and_hosts():
    connections = ConnectionLimiter(most=3, accounts={"a": 5, "b": 5}, clock=ManualClock())
    workers = [Worker(connections, name, host=name) for name in ("a", "b", "a", "b")]
    await settle()
    assert who_holds(workers) == [True, True, True, False]
    await end(*workers)


async def test_a_cancelled_waiter_is_skipped():
    connections = ConnectionLimiter(most=1, accounts={}, clock=ManualClock())
    workers = [Worker(connections) for _ in range(3)]
    await settle()
    await end(workers[1])
    workers[0].leave()
    await settle()
    assert who_holds(workers) == [False, False, True]
    await end(*workers)


async def test_a_slot_granted_during_a_cancellation_goes_to_the_next_waiter():
    connections = ConnectionLimiter(most=1, accounts={}, clock=ManualClock())
    workers = [Worker(connections) for _ in range(3)]
    await settle()
    workers[0].leave()
    await asyncio.sleep(0)  # the first passes its slot to the second, which has not run since
    workers[1].cancel()
    await settle()
    assert who_holds(workers) == [False, False, True]
    await end(*workers)
    assert connections.free_slots(account=None, host="h") == 1


async def test_a_caller_during_a_cancellation_does_not_wait_for_ever():
    connections = ConnectionLimiter(most=1, accounts={}, clock=ManualClock())
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(connections.slot(account=None, host="h"))
        waiting = Worker(connections)
        await settle()
        waiting.cancel()  # it stays in the queue until it runs
        await stack.aclose()
        async with asyncio.timeout(60), connections.slot(account=None, host="h"):
            pass
    await end(waiting)


async def test_an_extra_connection_takes_only_a_free_slot():
    connections = ConnectionLimiter(most=3, accounts={"a": 2}, clock=ManualClock())
    async with connections.slot(account="a", host="h"):
        assert connections.free_slots(account="a", host="h") == 1
        async with (
            connections.extra(account="a", host="h") as first,
            connections.extra(account="a", host="h") as second,
        ):
            assert first is not None
            assert second is None
            assert connections.free_slots(account="a", host="h") == 0
            assert connections.free_slots(account=None, host="h") == 1
        assert connections.free_slots(account="a", host="h") == 1


async def test_an_extra_connection_never_takes_a_slot_that_a_product_waits_for():
    connections = ConnectionLimiter(most=2, accounts={}, clock=ManualClock())
    workers = [Worker(connections) for _ in range(3)]
    await settle()
    workers[0].leave()
    # The product gets the slot first, whether the extra asks before or after it becomes free.
    for _ in range(10):
        async with connections.extra(account=None, host="h") as granted:
            assert not granted
        await asyncio.sleep(0)
    assert who_holds(workers) == [False, True, True]
    await end(*workers)


async def test_products_that_wait_for_one_account_do_not_block_extras_of_another():
    connections = ConnectionLimiter(most=8, accounts={"a": 1, "b": 4}, clock=ManualClock())
    workers = [Worker(connections, "a") for _ in range(3)]
    await settle()
    assert connections.free_slots(account="b", host="h") == 4
    async with connections.extra(account="b", host="h") as granted:
        assert granted
    await end(*workers)


# --- Refusals and measurements


class Host:
    """A server, its connections, and products that want every free slot."""

    def __init__(
        self, stack: AsyncExitStack, *, start: int = 8, cap: int = 32, most: int = 1000, **accounts: int
    ) -> None:
        """`most`: connections that the server bears; it refuses more."""
        self.clock = ManualClock()
        self.connections = ConnectionLimiter(
            most=start, accounts=accounts, clock=self.clock, host=start, cap=cap, least=2
        )
        self.account = next(iter(accounts), None)
        self.open: dict[int, AsyncExitStack] = {}
        self.left: list[int] = []
        """Numbers of the extra connections that were asked to close, in order."""
        self.refused = 0
        self._most = most
        self._stack = stack
        self._names = count()

    @property
    def allowed(self) -> int:
        return self.connections.limits(self.account, "h").control.allowed

    async def fill(self) -> None:
        while self.connections.free_slots(account=self.account, host="h"):
            name = next(self._names)
            own = AsyncExitStack()
            extra = self.connections.extra(account=self.account, host="h", leave=partial(self.left.append, name))
            slot = await own.enter_async_context(extra)
            if slot is None:
                return
            if len(self.open) >= self._most:
                self.refused += 1
                slot.refused(are_several=True)
                await own.aclose()
                continue
            slot.answered()
            asked = self.clock.monotonic() - 0.01
            self.connections.record_answer(self.account, "h", asked=asked, is_whole=False)
            self.open[name] = own
            self._stack.push_async_callback(own.aclose)

    async def pass_time(self, seconds: float, *, own: float, link: float = float("inf")) -> None:
        """Each connection receives `own` bytes per second, and all together at most `link`."""
        meter = self.connections.meter(self.account, "h")
        for _ in range(round(seconds / 0.05)):
            for name in set(self.left) & set(self.open):
                await self.open.pop(name).aclose()
            await self.fill()
            await self.clock.advance(0.05)
            rate = min(own, link / len(self.open))
            for name in self.open:
                meter.add_body(name, round(rate * 0.05), now=self.clock.monotonic(), seconds=0.05)
            self.connections.report_saturation(self.account, "h")
            self.connections.look()


MB = 1_000_000


async def test_a_host_that_throttles_each_connection_gets_the_highest_limit():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(20, own=MB)
        assert (host.allowed, host.left) == (32, [])
        assert host.connections.has_grown(None, "h")


async def test_on_a_shared_link_the_added_connections_close_the_newest_first():
    async with AsyncExitStack() as stack:
        host = Host(stack, start=4)
        await host.pass_time(20, own=4 * MB, link=16 * MB)
        assert host.left[:4] == [7, 6, 5, 4]
        assert host.allowed <= 5


async def test_few_connections_stay_where_one_takes_the_whole_link():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(30, own=8 * MB, link=8 * MB)
        assert host.allowed == 2


async def test_a_host_that_refuses_connections_keeps_those_that_it_serves():
    async with AsyncExitStack() as stack:
        host = Host(stack, most=12)
        await host.pass_time(30, own=MB)
        assert (host.allowed, len(host.open)) == (12, 12)
        assert host.refused <= 12


async def test_a_refusal_below_the_start_is_believed():
    async with AsyncExitStack() as stack:
        host = Host(stack, most=3, own=8)
        await host.pass_time(30, own=MB)
        assert (host.allowed, host.refused <= 9) == (3, True)


async def test_refusals_of_extra_connections_that_come_together_count_once():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.fill()
        before = host.allowed
        host.connections.connection_refused(None, "h")
        once = host.allowed
        for _ in range(5):
            host.connections.connection_refused(None, "h")
        assert (before, once, host.allowed) == (8, 8, 8)
        assert host.connections.limits(None, "h").control.refused == 9


async def test_a_limit_that_falls_below_the_open_connections_ends_none_that_was_not_extra():
    connections = ConnectionLimiter(most=8, accounts={}, host=8, clock=ManualClock())
    workers = [Worker(connections) for _ in range(4)]
    await settle()
    slots = [connections.slot(account=None, host="h") for _ in range(2)]
    async with slots[0], slots[1]:
        slots[0].answered()
        slots[1].refused(are_several=True)
        assert connections.limits(None, "h").control.allowed == 1
        await settle()
        assert who_holds(workers) == [True] * 4
        late = Worker(connections)
        await settle()
        assert not late.has
    await end(*workers)
    await settle()
    assert late.has
    await end(late)


async def test_a_refusal_of_one_host_leaves_the_limits_of_others():
    connections = ConnectionLimiter(most=16, accounts={"free": None}, host=4, clock=ManualClock())
    async with (
        connections.slot(account="free", host="one") as good,
        connections.slot(account="free", host="one") as bad,
    ):
        good.answered()
        bad.refused(are_several=True)
    assert connections.limits("free", "one").control.allowed == 1
    assert connections.limits("free", "two").control.allowed == 4
    assert connections.limits(None, "one").control.allowed == 4


async def test_what_turned_out_to_be_one_products_trouble_is_restored():
    connections = ConnectionLimiter(most=16, accounts={}, host=4, clock=ManualClock())
    freed: list[None] = []
    connections.on_free = lambda: freed.append(None)
    before = connections.limits(None, "h")
    async with connections.slot(account=None, host="h") as good, connections.slot(account=None, host="h") as bad:
        good.answered()
        bad.refused(are_several=True)
        freed.clear()
        connections.restore(None, "h", before)
        assert connections.limits(None, "h").control.allowed == 4
        assert freed


async def test_refusals_at_the_begin_of_an_outage_are_forgotten_for_each_account_of_the_host():
    connections = ConnectionLimiter(most=16, accounts={"a": None}, host=4, clock=ManualClock())
    for account in (None, "a"):
        async with (
            connections.slot(account=account, host="h") as good,
            connections.slot(account=account, host="h") as bad,
        ):
            good.answered()
            bad.refused(are_several=True)
            assert connections.limits(account, "h").control.allowed == 1
    connections.forget_refusals("h")
    assert [connections.limits(account, "h").control.allowed for account in (None, "a")] == [4, 4]


async def test_a_reserved_slot_is_used_for_its_host_and_given_back_for_another():
    connections = ConnectionLimiter(most=16, accounts={}, host=2, clock=ManualClock())
    reserved = connections.reserve(None, "h")
    assert connections.free_slots(account=None, host="h") == 1
    assert connections.slot(account=None, host="h", reserved=reserved) is reserved
    async with connections.slot(account=None, host="other", reserved=reserved):
        assert connections.free_slots(account=None, host="h") == 2
        assert connections.free_slots(account=None, host="other") == 1


async def test_products_that_wait_outside_take_free_slots_from_extras():
    connections = ConnectionLimiter(most=16, accounts={}, host=4, clock=ManualClock())
    connections.set_waiting(None, "h", 3)
    assert connections.has_waiting(None, "h")
    assert connections.free_slots(account=None, host="h") == 1


async def test_slots_are_divided_evenly_among_products():
    connections = ConnectionLimiter(most=16, accounts={"a": 6}, host=16, clock=ManualClock())
    assert [connections.fair_share(None, "h", among=count) for count in (0, 1, 3, 16, 99)] == [16, 16, 6, 1, 1]
    assert connections.fair_share("a", "h", among=4) == 2


async def test_the_limit_of_an_account_never_grows():
    async with AsyncExitStack() as stack:
        host = Host(stack, a=4)
        await host.pass_time(20, own=MB)
        assert host.allowed == 4


async def test_without_a_cap_nothing_grows():
    async with AsyncExitStack() as stack:
        host = Host(stack, start=4, cap=0)
        await host.pass_time(20, own=MB)
        assert host.allowed == 4


async def test_growth_for_one_host_leaves_the_slots_of_others():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(20, own=MB)
        assert host.connections.free_slots(account=None, host="other") == 0  # the limit of the run is reached
        await stack.aclose()
        assert host.connections.free_slots(account=None, host="other") == 8


async def test_a_waiting_product_gets_the_slot_of_the_newest_extra():
    connections = ConnectionLimiter(most=3, accounts={"a": 1}, clock=ManualClock())
    left: list[str] = []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(connections.slot(account=None, host="h"))
        old = connections.extra(account=None, host="h", leave=lambda: left.append("old"))
        young = connections.extra(account=None, host="h", leave=lambda: left.append("young"))
        async with old as first:
            async with young as second:
                assert None not in (first, second)
                worker = Worker(connections)
                await settle()
                assert (left, worker.has) == (["young"], False)
            await settle()
            assert worker.has
            assert left == ["young"]
        await end(worker)


async def test_no_extra_closes_for_a_product_that_waits_for_its_account():
    connections = ConnectionLimiter(most=3, accounts={"a": 1}, clock=ManualClock())
    left: list[str] = []
    workers = [Worker(connections, "a")]
    await settle()
    async with (
        connections.extra(account=None, host="h", leave=lambda: left.append("x")),
        connections.extra(account=None, host="h", leave=lambda: left.append("y")),
    ):
        workers.append(Worker(connections, "a"))
        await settle()
        assert left == []
        await end(*workers)


def limited_by(worker: Worker) -> str:
    """Return the account with a limit, or the account at a host."""
    return worker.account if worker.account in ("a", "b") else f"{worker.account} at {worker.host}"


@pytest.mark.parametrize("seed", range(12))
async def test_no_slot_is_lost_or_doubled_by_random_cancellations(seed):
    rng = random.Random(seed)
    limits = {"a": 2, "b": 3, "c": None}
    most, host_limit = 6, 3
    connections = ConnectionLimiter(most=most, accounts=limits, host=host_limit, clock=ManualClock())
    workers: list[Worker] = []
    for _ in range(300):
        match rng.randrange(8):
            case 0 | 1 | 2:
                workers.append(Worker(connections, rng.choice([*limits, None]), rng.choice(["x", "y"])))
            case 3 | 4 if workers:
                rng.choice(workers).leave()
            case 5 if workers:
                rng.choice(workers).cancel()
            case 6:
                async with connections.extra(account=rng.choice([*limits, None]), host="x"):
                    await asyncio.sleep(0)
            case _:
                await asyncio.sleep(0)
        holding = [w for w in workers if w.has]
        by_key = Counter(limited_by(w) for w in holding)
        assert len(holding) <= most
        assert all(by_key[key] <= {"a": 2, "b": 3}.get(key, host_limit) for key in by_key)
    await settle()
    assert_no_waiter_fits(workers, most, host_limit)
    await end(*workers)
    for account, limit in (("a", 2), ("b", 3), ("c", host_limit), (None, host_limit)):
        assert connections.free_slots(account=account, host="x") == limit


def assert_no_waiter_fits(workers: list[Worker], most: int, host_limit: int) -> None:
    held = Counter(limited_by(w) for w in workers if w.has)
    for worker in workers:
        if not worker.has and not worker.task.done():
            full = held[limited_by(worker)] >= {"a": 2, "b": 3}.get(limited_by(worker), host_limit)
            assert full or held.total() >= most
