"""Connection slots: limits, order of waiters, extra connections, and that no slot is ever lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial

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
    connections = ConnectionLimiter(most=10, accounts={"limited": 3, "free": None}, host=1, clock=ManualClock())
    workers = [Worker(connections, name) for name in ("free", None, "limited", "limited", "limited", "limited")]
    await settle()
    assert who_holds(workers) == [True, False, True, True, True, False]
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
            assert (first, second) == (True, False)
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


async def test_a_limit_is_reduced_below_the_open_connections_and_never_below_one():
    clock = ManualClock()
    connections = ConnectionLimiter(most=16, accounts={"a": 8}, clock=clock)
    workers = [Worker(connections, "a") for _ in range(4)]
    await settle()
    assert connections.reduce("a", "h") == 3
    assert connections.free_slots(account="a", host="h") == 0
    late = Worker(connections, "a")
    workers[0].leave()
    await settle()
    assert not late.has
    workers[1].leave()
    await settle()
    assert late.has
    reduced = []
    for _ in range(4):
        await clock.advance(1.0)
        reduced.append(connections.reduce("a", "h"))
    assert reduced == [2, 1, 1, 1]
    await end(*workers, late)


async def test_refusals_that_come_together_count_once():
    connections = ConnectionLimiter(most=16, accounts={"a": 8}, clock=ManualClock())
    workers = [Worker(connections, "a") for _ in range(8)]
    await settle()
    assert [connections.reduce("a", "h") for _ in range(8)] == [7] * 8
    await end(*workers)


async def test_a_reduced_limit_rises_one_by_one_without_refusals():
    clock = ManualClock()
    connections = ConnectionLimiter(most=16, accounts={"a": 3}, clock=clock)
    workers = [Worker(connections, "a") for _ in range(3)]
    await settle()
    assert connections.reduce("a", "h") == 2
    await clock.advance(1.0)
    assert connections.reduce("a", "h") == 1
    await end(*workers)
    found = []
    for _ in range(3):
        await clock.advance(60.0)
        worker = Worker(connections, "a")
        await settle()
        await end(worker)
        found.append(connections.free_slots(account="a", host="h"))
    assert found == [2, 3, 3]


async def test_without_an_account_limit_the_limit_of_the_host_is_reduced():
    connections = ConnectionLimiter(most=16, accounts={"free": None}, host=4, clock=ManualClock())
    workers = [Worker(connections, "free", host="one") for _ in range(3)]
    await settle()
    assert connections.reduce("free", "one") == 2
    assert connections.free_slots(account=None, host="one") == 0
    assert connections.free_slots(account=None, host="two") == 4
    await end(*workers)


# --- Adaptive limit


class Host:
    """A server, its connections, and products that want every free slot."""

    def __init__(self, stack: AsyncExitStack, *, most: int = 4, cap: int = 32, **accounts: int) -> None:
        self.clock = ManualClock()
        self.connections = ConnectionLimiter(most=most, accounts=accounts, clock=self.clock, host=most, cap=cap)
        self.account = next(iter(accounts), None)
        self.left: list[int] = []
        """Numbers of the extra connections that were asked to close, in order."""
        self._stack = stack
        self.held = 0

    @property
    def allowed(self) -> int:
        return self.held + self.connections.free_slots(account=self.account, host="h")

    async def fill(self) -> None:
        for _ in range(self.connections.free_slots(account=self.account, host="h")):
            leave = partial(self.left.append, self.held)
            extra = self.connections.extra(account=self.account, host="h", leave=leave)
            assert await self._stack.enter_async_context(extra)
            self.held += 1

    async def pass_time(self, seconds: float, *, own: float, link: float = float("inf")) -> None:
        """Each connection receives `own` bytes per second, and all together at most `link`."""
        for _ in range(round(seconds / 0.05)):
            await self.fill()
            rate = min(own * self.held, link)
            await self.clock.advance(0.05)
            self.connections.count_bytes(self.account, "h", round(rate * 0.05))
            self.connections.report_saturation(self.account, "h")


async def test_a_host_that_throttles_each_connection_gets_the_highest_limit():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(20, own=1000)
        assert host.allowed == 32
        assert host.connections.has_grown(None, "h")
        assert host.left == []


async def test_on_a_shared_link_a_trial_fails_and_the_added_connections_close():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(2.5, own=1000, link=4000)
        assert host.allowed == 8
        await host.pass_time(2.5, own=1000, link=4000)
        assert host.connections.free_slots(account=None, host="h") == 0
        assert host.left == [7, 6, 5, 4]
        assert not host.connections.has_grown(None, "h")


async def test_connections_that_start_like_the_first_trigger_a_trial():
    async with AsyncExitStack() as stack:
        host = Host(stack, most=8)
        await stack.enter_async_context(host.connections.slot(account=None, host="h"))
        host.held = 1
        host.connections.record_first_bytes(None, "h", count=100, rate=100.0, opened=host.clock.monotonic())
        await host.pass_time(0.1, own=100)
        for _ in range(7):
            host.connections.record_first_bytes(None, "h", count=90, rate=90.0, opened=host.clock.monotonic())
        await host.pass_time(0.3, own=100)
        assert host.allowed == 32


async def test_first_rates_of_a_distant_host_prove_nothing():
    async with AsyncExitStack() as stack:
        host = Host(stack, most=8)
        host.connections.record_first_bytes(None, "h", count=100, rate=100.0, opened=host.clock.monotonic())
        await host.pass_time(0.1, own=100)
        host.connections.record_round_trip(None, "h", 0.2)
        for _ in range(8):
            host.connections.record_first_bytes(None, "h", count=100, rate=100.0, opened=host.clock.monotonic())
        await host.pass_time(1.5, own=100)
        assert host.allowed == 8
        await host.pass_time(1, own=100)
        assert host.allowed == 16


@pytest.mark.parametrize(("count", "rate"), [(100, 500.0), (50, 1000.0)])
async def test_late_measurement_on_a_busy_machine_does_not_make_new_connections_look_slower(count, rate):
    """Measure the new connections twice as late with the same bytes, or the first ones with twice as many."""
    async with AsyncExitStack() as stack:
        host = Host(stack, most=8)
        await stack.enter_async_context(host.connections.slot(account=None, host="h"))
        host.held = 1
        host.connections.record_first_bytes(None, "h", count=100, rate=1000.0, opened=host.clock.monotonic())
        await host.pass_time(0.1, own=1000)
        for _ in range(7):
            host.connections.record_first_bytes(None, "h", count=count, rate=rate, opened=host.clock.monotonic())
        await host.pass_time(0.3, own=1000)
        assert host.allowed == 32


async def test_a_trial_starts_with_the_first_measurement_of_new_connections():
    """No further `report_saturation` is needed: the measurements are complete."""
    async with AsyncExitStack() as stack:
        host = Host(stack, most=8)
        await stack.enter_async_context(host.connections.slot(account=None, host="h"))
        host.held = 1
        host.connections.record_first_bytes(None, "h", count=100, rate=100.0, opened=host.clock.monotonic())
        await host.pass_time(0.2, own=100)
        raised, opened = host.connections.limit_raised, host.clock.monotonic()
        for _ in range(3):
            host.connections.record_first_bytes(None, "h", count=100, rate=100.0, opened=opened)
        assert (host.connections.has_grown(None, "h"), raised.is_set()) == (False, False)
        host.connections.record_first_bytes(None, "h", count=100, rate=100.0, opened=opened)
        assert (host.connections.has_grown(None, "h"), raised.is_set()) == (True, True)


async def test_a_trial_does_not_fail_before_the_added_connections_have_started():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        host.connections.record_first_bytes(None, "h", count=100, rate=1000.0, opened=host.clock.monotonic())
        await host.pass_time(2.2, own=1000, link=4000)
        assert host.allowed == 8
        await host.pass_time(3, own=1000, link=4000)
        assert (host.allowed, host.left) == (8, [])
        await host.pass_time(2, own=1000)
        assert host.allowed > 8


async def test_a_trial_whose_connections_never_start_fails_in_the_end():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        host.connections.record_first_bytes(None, "h", count=100, rate=1000.0, opened=host.clock.monotonic())
        await host.pass_time(9, own=1000, link=4000)
        assert host.left == [7, 6, 5, 4]


async def test_slots_are_divided_evenly_among_products():
    connections = ConnectionLimiter(most=16, accounts={"a": 6}, clock=ManualClock())
    assert [connections.fair_share(None, "h", among=count) for count in (0, 1, 3, 16, 99)] == [16, 16, 6, 1, 1]
    assert connections.fair_share("a", "h", among=4) == 2


async def test_connections_that_only_take_bandwidth_trigger_no_trial():
    async with AsyncExitStack() as stack:
        host = Host(stack, most=8)
        await stack.enter_async_context(host.connections.slot(account=None, host="h"))
        host.held = 1
        host.connections.record_first_bytes(None, "h", count=100, rate=100.0, opened=host.clock.monotonic())
        await host.pass_time(0.1, own=100, link=100)
        for _ in range(7):
            host.connections.record_first_bytes(None, "h", count=12, rate=12.0, opened=host.clock.monotonic())
        await host.pass_time(30, own=100, link=100)
        assert host.allowed == 8


async def test_the_limit_of_an_account_never_grows():
    async with AsyncExitStack() as stack:
        host = Host(stack, most=16, a=4)
        await host.pass_time(20, own=1000)
        assert host.allowed == 4


async def test_without_a_cap_nothing_grows():
    async with AsyncExitStack() as stack:
        host = Host(stack, cap=0)
        await host.pass_time(20, own=1000)
        assert host.allowed == 4


async def test_growth_for_one_host_leaves_the_slots_of_others():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(20, own=1000)
        assert host.connections.free_slots(account=None, host="other") == 0  # the limit of the run is reached
        await stack.aclose()
        assert host.connections.free_slots(account=None, host="other") == 4


async def test_a_refused_connection_ends_the_growth():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(2.1, own=1000)
        assert host.allowed == 8
        await host.fill()
        host.connections.connection_refused(None, "h")
        assert host.left == [7, 6, 5, 4]
        await host.pass_time(30, own=1000)
        assert host.left == [7, 6, 5, 4]


async def test_a_429_ends_the_growth_and_reduces_the_limit_by_one():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(2.1, own=1000)
        await host.fill()
        assert host.connections.reduce(None, "h") == 3
        assert sorted(host.left) == [3, 4, 5, 6, 7]
        await host.pass_time(30, own=1000)
        assert host.connections.free_slots(account=None, host="h") == 0


async def test_a_waiting_product_gets_the_slot_of_the_newest_extra():
    connections = ConnectionLimiter(most=3, accounts={"a": 1}, clock=ManualClock())
    left: list[str] = []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(connections.slot(account=None, host="h"))
        old = connections.extra(account=None, host="h", leave=lambda: left.append("old"))
        young = connections.extra(account=None, host="h", leave=lambda: left.append("young"))
        async with old as first:
            async with young as second:
                assert (first, second) == (True, True)
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


@pytest.mark.parametrize("seed", range(12))
async def test_no_slot_is_lost_or_doubled_by_random_cancellations(seed):
    rng = random.Random(seed)
    limits = {"a": 2, "b": 3, "c": None}
    most, host_limit = 6, 2
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
        by_key = Counter(w.account if w.account in ("a", "b") else f"host {w.host}" for w in holding)
        assert len(holding) <= most
        assert all(by_key[key] <= {"a": 2, "b": 3}.get(key, host_limit) for key in by_key)
    await settle()
    assert_no_waiter_fits(workers, most, host_limit)
    await end(*workers)
    for account, limit in (("a", 2), ("b", 3), ("c", host_limit), (None, host_limit)):
        assert connections.free_slots(account=account, host="x") == limit


def assert_no_waiter_fits(workers: list[Worker], most: int, host_limit: int) -> None:
    def key(worker: Worker) -> str:
        return worker.account if worker.account in ("a", "b") else f"host {worker.host}"

    held = Counter(key(w) for w in workers if w.has)
    for worker in workers:
        if not worker.has and not worker.task.done():
            full = held[key(worker)] >= {"a": 2, "b": 3}.get(key(worker), host_limit)
            assert full or held.total() >= most
