"""Which task comes next: due ones, released ones, new ones in the manifest's order; and second looks at the very end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.errors import TryAgain
from bulkdl.core.models import FailureKind, Product, State, Trouble
from bulkdl.core.urls import Url
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.plan import PlannedProduct
from bulkdl.scheduler.job_queue import JobQueue
from tests.contexts import context_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

ONE, TWO = Url("https://one.example.org/").origin, Url("https://two.example.org/").origin


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[RunContext]:
    async with context_at(tmp_path) as running:
        yield running


def queue_of(
    context: RunContext,
    *origins: str,
    place: frozenset[int] = frozenset(),
    may_begin: Callable[[PlannedProduct], bool] = lambda _item: True,
) -> JobQueue:
    """Return the queue of products 0, 1, ... from `origins`; those in `place` are in place."""
    items = [
        PlannedProduct(
            product=Product(index=n, url=Url(f"{origin}/{n}"), file=f"{n}"),
            entry=None,
            file=f"{n}",
            local_status=LocalFileStatus.IN_PLACE if n in place else LocalFileStatus.ABSENT,
        )
        for n, origin in enumerate(origins)
    ]
    return JobQueue(context, items, is_blocked=lambda: False, may_begin=may_begin)


def break_down(context: RunContext, origin: str) -> None:
    context.outages.fault(origin, "x", trouble=Trouble.STATUS, reason="answered 500", since=0.0)


async def take(queue: JobQueue, count: int) -> list[int]:
    return [(await following(queue)).product.index for _ in range(count)]


async def following(queue: JobQueue) -> DownloadTask:
    task = await queue.next()
    assert task is not None
    return task


async def idle(queue: JobQueue) -> asyncio.Task[DownloadTask | None]:
    """Return a worker that waits for its next task."""
    waiting = asyncio.create_task(queue.next())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    return waiting


async def test_products_come_in_the_order_of_the_manifest_except_those_in_place(context: RunContext):
    queue = queue_of(context, ONE, ONE, TWO, ONE, place=frozenset({1}))
    assert await take(queue, 3) == [0, 2, 3]
    assert context.canaries.knows(ONE)
    assert not context.canaries.knows(TWO)


async def test_products_of_an_origin_out_of_order_wait_while_the_others_go_on(context: RunContext):
    queue = queue_of(context, ONE, TWO, ONE, TWO)
    break_down(context, ONE)
    assert await take(queue, 2) == [1, 3]
    assert context.hub.counters.waiting[ONE] == 2
    waiting = await idle(queue)
    clock: Any = context.clock
    await clock.advance(context.outages.admits_in(ONE))
    probe = await waiting
    assert probe is not None
    assert probe.product.index == 0
    assert context.outages.is_probe(ONE, probe.product.id)
    other = await idle(queue)
    context.outages.good(ONE, probe.product.id)
    released = await other
    assert released is not None
    assert released.product.index == 2


async def test_a_product_that_has_just_met_the_outage_of_its_origin_counts_as_waiting(context: RunContext):
    queue = queue_of(context, ONE, ONE, TWO)
    first, second = await following(queue), await following(queue)
    first.suspended = 0.0, TryAgain("answered 500", kind=FailureKind.HTTP)
    queue.park(first, 0.0)
    assert context.outages.count_waiting(ONE) == 1
    queue.hold(second, ONE)
    assert (context.outages.count_waiting(ONE), context.outages.count_waiting(TWO)) == (2, 0)


async def test_a_failed_probe_waits_behind_the_others_of_its_origin(context: RunContext):
    queue = queue_of(context, ONE, ONE)
    first = await following(queue)
    break_down(context, ONE)
    queue.leave(first)
    queue.park(first, 0.0)
    clock: Any = context.clock
    waiting = await idle(queue)
    await clock.advance(context.outages.admits_in(ONE))
    assert await waiting is first
    context.outages.fault(ONE, first.product.id, trouble=Trouble.STATUS, reason="answered 500", since=0.0)
    queue.leave(first)
    queue.park(first, 0.0)
    waiting = await idle(queue)
    await clock.advance(context.outages.admits_in(ONE))
    second = await waiting
    assert second is not None
    assert second.product.index == 1


async def test_a_second_look_comes_when_every_other_product_has_its_outcome(context: RunContext):
    queue = queue_of(context, ONE, ONE)
    refused, other = await following(queue), await following(queue)
    refused.refused_at = context.clock.monotonic()
    queue.leave(refused)
    queue.park_last(refused)
    waiting = await idle(queue)
    clock: Any = context.clock
    await clock.advance(3600)
    assert not waiting.done()
    queue.finish(other, State.COMPLETED)
    queue.notify()
    assert await waiting is refused
    queue.finish(refused, State.FAILED)
    assert await queue.next() is None


async def test_a_second_look_waits_for_held_products_too(context: RunContext):
    queue = queue_of(context, TWO, ONE)
    break_down(context, ONE)
    refused = await following(queue)
    refused.refused_at = context.clock.monotonic()
    queue.leave(refused)
    queue.park_last(refused)
    waiting = await idle(queue)
    clock: Any = context.clock
    await clock.advance(context.outages.admits_in(ONE))
    probe = await waiting
    assert probe is not None
    assert probe.product.index == 1


async def test_what_is_held_or_kept_for_a_second_look_is_unfinished(context: RunContext):
    queue = queue_of(context, ONE, TWO, TWO)
    break_down(context, ONE)
    refused = await following(queue)
    queue.park_last(refused)
    assert sorted(task.product.index for task in queue.unfinished()) == [0, 1, 2]


async def test_a_product_that_may_not_be_begun_is_set_aside_and_the_next_one_begins(context: RunContext):
    queue = queue_of(context, ONE, ONE, ONE, may_begin=lambda item: item.product.index != 1)
    first, third = await following(queue), await following(queue)
    assert [first.product.index, third.product.index] == [0, 2]
    waiting = await idle(queue)
    queue.finish(first, State.COMPLETED)
    queue.finish(third, State.COMPLETED)
    assert await waiting is None
    assert [task.product.index for task in queue.unfinished()] == [1]


async def test_no_product_is_requested_behind_another_that_may_not_be_begun(context: RunContext):
    queue = queue_of(context, ONE, ONE, ONE, may_begin=lambda item: item.product.index < 2)
    assert len(queue.next_new(5, lambda _item: True)) == 2
    assert [task.product.index for task in queue.unfinished()] == [0, 1, 2]


async def test_the_run_does_not_wait_for_an_origin_whose_products_may_no_longer_be_begun(context: RunContext):
    allowed = {0, 1, 2}
    queue = queue_of(context, ONE, TWO, ONE, TWO, may_begin=lambda item: item.product.index in allowed)
    break_down(context, ONE)
    second = await following(queue)
    assert second.product.index == 1
    allowed.clear()
    waiting = await idle(queue)
    queue.finish(second, State.COMPLETED)
    assert await waiting is None
    assert sorted(task.product.index for task in queue.unfinished()) == [0, 2, 3]
    assert context.hub.counters.waiting.get(ONE, 0) == 0
