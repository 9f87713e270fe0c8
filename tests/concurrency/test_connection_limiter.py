"""Connections, rate and pauses: who may go, in what order, and that no permit is ever lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial

import pytest

from bulkdl.concurrency.connection_limiter import ConnectionLimiter
from tests.clocks import JustBooted, ManualClock


class Worker:
    """A task that holds a permit from when it gets it until it is told to leave."""

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


def having(workers: list[Worker]) -> list[bool]:
    return [w.has for w in workers]


async def test_permits_are_given_in_the_order_of_asking():
    connections = ConnectionLimiter(most=2, accounts={}, clock=ManualClock())
    workers = [Worker(connections) for _ in range(5)]
    await settle()
    assert having(workers) == [True, True, False, False, False]
    workers[1].leave()
    await settle()
    assert having(workers) == [True, False, True, False, False]
    workers[0].leave()
    await settle()
    assert having(workers) == [False, False, True, True, False]
    await end(*workers)


async def test_one_account_at_its_limit_does_not_hold_up_another():
    connections = ConnectionLimiter(most=10, accounts={"a": 1, "b": 2}, clock=ManualClock())
    workers = [Worker(connections, name) for name in ("a", "a", "b", "a", "b", "b")]
    await settle()
    assert having(workers) == [True, False, True, False, True, False]
    workers[0].leave()
    await settle()
    assert having(workers) == [False, True, True, False, True, False]
    await end(*workers)


async def test_a_host_has_its_limit_unless_an_account_brings_one():
    connections = ConnectionLimiter(most=10, accounts={"limited": 3, "free": None}, host=1, clock=ManualClock())
    workers = [Worker(connections, name) for name in ("free", None, "limited", "limited", "limited", "limited")]
    await settle()
    assert having(workers) == [True, False, True, True, True, False]
    other = Worker(connections, "free", host="another")
    await settle()
    assert other.has
    await end(*workers, other)


async def test_the_run_has_a_limit_over_all_accounts_and_hosts():
    connections = ConnectionLimiter(most=3, accounts={"a": 5, "b": 5}, clock=ManualClock())
    workers = [Worker(connections, name, host=name) for name in ("a", "b", "a", "b")]
    await settle()
    assert having(workers) == [True, True, True, False]
    await end(*workers)


async def test_whoever_stops_waiting_is_passed_over():
    connections = ConnectionLimiter(most=1, accounts={}, clock=ManualClock())
    workers = [Worker(connections) for _ in range(3)]
    await settle()
    await end(workers[1])
    workers[0].leave()
    await settle()
    assert having(workers) == [False, False, True]
    await end(*workers)


async def test_a_permit_that_comes_in_the_moment_of_a_cancellation_goes_to_the_next():
    connections = ConnectionLimiter(most=1, accounts={}, clock=ManualClock())
    workers = [Worker(connections) for _ in range(3)]
    await settle()
    workers[0].leave()
    await asyncio.sleep(0)  # the first hands its place to the second, which has not run since
    workers[1].cancel()
    await settle()
    assert having(workers) == [False, False, True]
    await end(*workers)
    assert connections.free_slots(account=None, host="h") == 1


async def test_an_arrival_between_a_cancellation_and_its_end_does_not_wait_for_ever():
    connections = ConnectionLimiter(most=1, accounts={}, clock=ManualClock())
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(connections.slot(account=None, host="h"))
        waiting = Worker(connections)
        await settle()
        waiting.cancel()  # it still stands in the queue until it runs
        await stack.aclose()
        async with asyncio.timeout(60), connections.slot(account=None, host="h"):
            pass
    await end(waiting)


async def test_a_host_has_sixteen_connections_where_nothing_else_is_said():
    connections = ConnectionLimiter(most=99, accounts={}, clock=ManualClock())
    assert connections.free_slots(account=None, host="h") == 16


async def test_places_are_wanted_as_long_as_someone_waits():
    connections = ConnectionLimiter(most=1, accounts={}, clock=ManualClock())
    wanted = [connections.are_wanted]
    workers = [Worker(connections) for _ in range(3)]
    await settle()
    wanted.append(connections.are_wanted)
    await end(workers[1])
    wanted.append(connections.are_wanted)
    workers[0].leave()
    await settle()
    wanted.append(connections.are_wanted)
    assert wanted == [False, True, True, False]
    last = Worker(connections)
    await settle()
    assert connections.are_wanted
    await end(last)
    assert not connections.are_wanted
    await end(*workers)


async def test_an_extra_connection_that_has_gone_is_not_asked_to_leave():
    connections = ConnectionLimiter(most=1, accounts={}, clock=ManualClock())
    left: list[str] = []
    async with connections.extra(account=None, host="h", leave=lambda: left.append("x")) as granted:
        assert granted
    workers = [Worker(connections) for _ in range(2)]
    await settle()
    assert (having(workers), left) == ([True, False], [])
    await end(*workers)


async def test_an_extra_connection_takes_only_what_is_free():
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


async def test_an_extra_connection_never_takes_the_place_that_a_product_waits_for():
    connections = ConnectionLimiter(most=2, accounts={}, clock=ManualClock())
    workers = [Worker(connections) for _ in range(3)]
    await settle()
    workers[0].leave()
    # Whenever the extra asks, before or after the place is free, the product has it first.
    for _ in range(10):
        async with connections.extra(account=None, host="h") as granted:
            assert not granted
        await asyncio.sleep(0)
    assert having(workers) == [False, True, True]
    await end(*workers)


async def test_products_that_wait_for_one_account_keep_no_extra_from_another():
    connections = ConnectionLimiter(most=8, accounts={"a": 1, "b": 4}, clock=ManualClock())
    workers = [Worker(connections, "a") for _ in range(3)]
    await settle()
    assert connections.free_slots(account="b", host="h") == 4
    async with connections.extra(account="b", host="h") as granted:
        assert granted
    await end(*workers)


async def test_a_limit_is_lowered_below_what_is_held_and_never_below_one():
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
    lowered = []
    for _ in range(4):
        await clock.advance(1.0)
        lowered.append(connections.reduce("a", "h"))
    assert lowered == [2, 1, 1, 1]
    await end(*workers, late)


async def test_refusals_that_come_together_count_once():
    connections = ConnectionLimiter(most=16, accounts={"a": 8}, clock=ManualClock())
    workers = [Worker(connections, "a") for _ in range(8)]
    await settle()
    assert [connections.reduce("a", "h") for _ in range(8)] == [7] * 8
    await end(*workers)


async def test_a_lowered_limit_comes_back_one_by_one_while_it_is_quiet():
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


async def test_the_first_refusal_lowers_the_limit_also_on_a_machine_that_has_just_started():
    connections = ConnectionLimiter(most=16, accounts={}, host=4, clock=JustBooted())
    workers = [Worker(connections) for _ in range(3)]
    await settle()
    assert connections.reduce(None, "h") == 2
    await end(*workers)


async def test_without_an_account_of_its_own_the_hosts_limit_is_lowered():
    connections = ConnectionLimiter(most=16, accounts={"free": None}, host=4, clock=ManualClock())
    workers = [Worker(connections, "free", host="one") for _ in range(3)]
    await settle()
    assert connections.reduce("free", "one") == 2
    assert connections.free_slots(account=None, host="one") == 0
    assert connections.free_slots(account=None, host="two") == 4
    await end(*workers)


# --- More than at the beginning


class Host:
    """A server, its connections, and products that want as many as there are places."""

    def __init__(self, stack: AsyncExitStack, *, most: int = 4, cap: int = 32, **accounts: int) -> None:
        self.clock = ManualClock()
        self.connections = ConnectionLimiter(most=most, accounts=accounts, clock=self.clock, host=most, cap=cap)
        self.account = next(iter(accounts), None)
        self.left: list[int] = []
        """The numbers of those who were asked to leave, in that order."""
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
        """Each connection brings `own` bytes a second, and all together not more than `link`."""
        for _ in range(round(seconds / 0.05)):
            await self.fill()
            rate = min(own * self.held, link)
            await self.clock.advance(0.05)
            self.connections.brought(self.account, "h", round(rate * 0.05))
            self.connections.report_saturation(self.account, "h")


async def test_a_host_that_holds_each_connection_back_gets_as_many_as_there_may_be():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(20, own=1000)
        assert host.allowed == 32
        assert host.connections.grows(None, "h")
        assert host.left == []


async def test_on_a_shared_link_a_trial_ends_and_those_who_came_for_it_leave():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(2.5, own=1000, link=4000)
        assert host.allowed == 8
        await host.pass_time(2.5, own=1000, link=4000)
        assert host.connections.free_slots(account=None, host="h") == 0
        assert host.left == [7, 6, 5, 4]
        assert not host.connections.grows(None, "h")


async def test_connections_that_begin_like_the_first_are_reason_enough_for_a_trial():
    async with AsyncExitStack() as stack:
        host = Host(stack, most=8)
        await stack.enter_async_context(host.connections.slot(account=None, host="h"))
        host.held = 1
        host.connections.measured(None, "h", count=100, rate=100.0, opened=host.clock.monotonic())
        await host.pass_time(0.1, own=100)
        for _ in range(7):
            host.connections.measured(None, "h", count=90, rate=90.0, opened=host.clock.monotonic())
        await host.pass_time(0.3, own=100)
        assert host.allowed == 32


async def test_how_connections_to_a_far_host_begin_tells_nothing():
    async with AsyncExitStack() as stack:
        host = Host(stack, most=8)
        host.connections.measured(None, "h", count=100, rate=100.0, opened=host.clock.monotonic())
        await host.pass_time(0.1, own=100)
        host.connections.took(None, "h", 0.2)
        for _ in range(8):
            host.connections.measured(None, "h", count=100, rate=100.0, opened=host.clock.monotonic())
        await host.pass_time(1.5, own=100)
        assert host.allowed == 8
        await host.pass_time(1, own=100)
        assert host.allowed == 16


@pytest.mark.parametrize(("count", "rate"), [(100, 500.0), (50, 1000.0)])
async def test_how_late_a_busy_machine_looks_at_connections_does_not_make_those_that_joined_slower(count, rate):
    """Twice as late at those that joined, of which the same bytes had come; or at the first, of which twice as many had."""
    async with AsyncExitStack() as stack:
        host = Host(stack, most=8)
        await stack.enter_async_context(host.connections.slot(account=None, host="h"))
        host.held = 1
        host.connections.measured(None, "h", count=100, rate=1000.0, opened=host.clock.monotonic())
        await host.pass_time(0.1, own=1000)
        for _ in range(7):
            host.connections.measured(None, "h", count=count, rate=rate, opened=host.clock.monotonic())
        await host.pass_time(0.3, own=1000)
        assert host.allowed == 32


async def test_a_trial_begins_with_the_look_at_those_who_joined():
    """Nobody has to press again: what is needed to judge is here."""
    async with AsyncExitStack() as stack:
        host = Host(stack, most=8)
        await stack.enter_async_context(host.connections.slot(account=None, host="h"))
        host.held = 1
        host.connections.measured(None, "h", count=100, rate=100.0, opened=host.clock.monotonic())
        await host.pass_time(0.2, own=100)
        grown, opened = host.connections.grown, host.clock.monotonic()
        for _ in range(3):
            host.connections.measured(None, "h", count=100, rate=100.0, opened=opened)
        assert (host.connections.grows(None, "h"), grown.is_set()) == (False, False)
        host.connections.measured(None, "h", count=100, rate=100.0, opened=opened)
        assert (host.connections.grows(None, "h"), grown.is_set()) == (True, True)


@pytest.mark.parametrize(("idle", "grows"), [(0.5, True), (0.51, False)])
async def test_no_trial_begins_once_nobody_has_wanted_more_for_half_a_second(idle, grows):
    async with AsyncExitStack() as stack:
        host = Host(stack, most=8)
        await stack.enter_async_context(host.connections.slot(account=None, host="h"))
        host.held = 1
        host.connections.measured(None, "h", count=100, rate=100.0, opened=host.clock.monotonic())
        await host.pass_time(0.2, own=100)
        opened = host.clock.monotonic()
        await host.clock.advance(idle)
        for _ in range(4):
            host.connections.measured(None, "h", count=100, rate=100.0, opened=opened)
        assert host.connections.grows(None, "h") is grows


async def test_a_host_that_refused_one_of_its_first_connections_may_still_grow():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(1, own=1000)
        host.connections.connection_refused(None, "h")
        assert host.allowed == 4
        await host.pass_time(1.2, own=1000)
        assert host.allowed == 8


async def test_a_trial_is_not_over_before_those_who_came_for_it_have_begun():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        host.connections.measured(None, "h", count=100, rate=1000.0, opened=host.clock.monotonic())
        await host.pass_time(2.2, own=1000, link=4000)
        assert host.allowed == 8
        await host.pass_time(3, own=1000, link=4000)
        assert (host.allowed, host.left) == (8, [])
        await host.pass_time(2, own=1000)
        assert host.allowed > 8


async def test_what_those_who_never_begin_were_tried_for_is_over_some_time():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        host.connections.measured(None, "h", count=100, rate=1000.0, opened=host.clock.monotonic())
        await host.pass_time(9, own=1000, link=4000)
        assert host.left == [7, 6, 5, 4]


async def test_each_of_several_products_may_have_its_share_at_once():
    connections = ConnectionLimiter(most=16, accounts={"a": 6}, clock=ManualClock())
    assert [connections.share(None, "h", among=count) for count in (0, 1, 3, 16, 99)] == [16, 16, 6, 1, 1]
    assert connections.share("a", "h", among=4) == 2


async def test_connections_that_took_from_the_first_are_reason_enough_for_none():
    async with AsyncExitStack() as stack:
        host = Host(stack, most=8)
        await stack.enter_async_context(host.connections.slot(account=None, host="h"))
        host.held = 1
        host.connections.measured(None, "h", count=100, rate=100.0, opened=host.clock.monotonic())
        await host.pass_time(0.1, own=100, link=100)
        for _ in range(7):
            host.connections.measured(None, "h", count=12, rate=12.0, opened=host.clock.monotonic())
        await host.pass_time(30, own=100, link=100)
        assert host.allowed == 8


async def test_a_host_that_is_not_full_does_not_grow():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        for _ in range(3):
            extra = host.connections.extra(account=None, host="h")
            assert await stack.enter_async_context(extra)
        for _ in range(60):
            await host.clock.advance(0.05)
            host.connections.brought(None, "h", 150)
            host.connections.report_saturation(None, "h")
        assert host.connections.free_slots(account=None, host="h") == 1


async def test_a_product_that_waits_is_given_a_place_that_a_host_has_grown_by():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        workers = [Worker(host.connections) for _ in range(6)]
        await settle()
        host.held = 4
        await host.pass_time(1.9, own=1000)
        assert having(workers) == [True] * 4 + [False] * 2
        await host.pass_time(0.3, own=1000)
        assert having(workers) == [True] * 6
        await end(*workers)


@pytest.mark.parametrize(("apart", "refusals"), [(0.5, 1), (0.99, 1), (1.0, 2), (5.0, 2)])
async def test_refusals_that_come_within_a_second_are_one(apart, refusals):
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(20, own=1000)
        host.connections.connection_refused(None, "h")
        await host.clock.advance(apart)
        host.connections.connection_refused(None, "h")
        assert host.held - len(host.left) == 32 // 2**refusals


async def test_what_an_account_may_hold_never_grows():
    async with AsyncExitStack() as stack:
        host = Host(stack, most=16, a=4)
        await host.pass_time(20, own=1000)
        assert host.allowed == 4


async def test_without_a_cap_nothing_grows():
    async with AsyncExitStack() as stack:
        host = Host(stack, cap=0)
        await host.pass_time(20, own=1000)
        assert host.allowed == 4


async def test_one_host_that_pays_leaves_the_others_theirs():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(20, own=1000)
        assert host.connections.free_slots(account=None, host="other") == 0  # of the run's places there is none
        await stack.aclose()
        assert host.connections.free_slots(account=None, host="other") == 4


async def test_a_connection_that_is_minded_ends_the_growth():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(2.1, own=1000)
        assert host.allowed == 8
        await host.fill()
        host.connections.connection_refused(None, "h")
        assert host.left == [7, 6, 5, 4]
        await host.pass_time(30, own=1000)
        assert host.left == [7, 6, 5, 4]


async def test_too_many_requests_end_the_growth_and_take_one_more():
    async with AsyncExitStack() as stack:
        host = Host(stack)
        await host.pass_time(2.1, own=1000)
        await host.fill()
        assert host.connections.reduce(None, "h") == 3
        assert sorted(host.left) == [3, 4, 5, 6, 7]
        await host.pass_time(30, own=1000)
        assert host.connections.free_slots(account=None, host="h") == 0


async def test_a_product_that_has_to_wait_is_given_the_place_of_the_youngest_extra():
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


async def test_nobody_leaves_for_a_product_that_waits_for_its_account():
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
async def test_no_permit_is_lost_or_doubled_whatever_is_cancelled_when(seed):
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
    assert_nobody_waits_in_vain(workers, most, host_limit)
    await end(*workers)
    for account, limit in (("a", 2), ("b", 3), ("c", host_limit), (None, host_limit)):
        assert connections.free_slots(account=account, host="x") == limit


def assert_nobody_waits_in_vain(workers: list[Worker], most: int, host_limit: int) -> None:
    def key(worker: Worker) -> str:
        return worker.account if worker.account in ("a", "b") else f"host {worker.host}"

    held = Counter(key(w) for w in workers if w.has)
    for worker in workers:
        if not worker.has and not worker.task.done():
            full = held[key(worker)] >= {"a": 2, "b": 3}.get(key(worker), host_limit)
            assert full or held.total() >= most
