"""The products of a run that have no outcome yet: those still in the plan, those under way, and those that wait.

A product that has to wait gives its worker back and returns when its time has come, so that an archive that prepares
products for an hour does not hold up the others.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bulkdl.core.events import ProductFinished
from bulkdl.core.models import Outcome, State
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.plan import in_place
from bulkdl.transfer.pipelined_fetch import may_join
from bulkdl.transfer.retry import AttemptBudget
from bulkdl.transfer.task import DownloadTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bulkdl.core.models import Failure
    from bulkdl.planning.plan import PlannedProduct
    from bulkdl.transfer.context import RunContext

__all__ = ["JobQueue"]


@dataclass(order=True, slots=True)
class _Parked:
    ready_at: float
    number: int
    task: DownloadTask = field(compare=False)


class JobQueue:
    """Gives out tasks in the manifest's order, waiting ones first once they are due, and records their outcomes."""

    def __init__(self, context: RunContext, items: Iterable[PlannedProduct], *, is_blocked: Callable[[], bool]) -> None:
        """While `is_blocked` says so, no new product is begun; call `notify` when that has changed."""
        self._context = context
        self._items = iter(items)
        self._is_blocked = is_blocked
        self._upcoming: PlannedProduct | None = None
        """Taken from the plan, not begun yet."""
        self._parked: list[_Parked] = []
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        """Set when a waiting worker should look again: a task was parked, a product may begin, or all tasks are done."""
        self._open: dict[int, DownloadTask] = {}
        """Tasks that have begun and have no outcome, by index."""

    async def next(self) -> DownloadTask | None:
        """Return a task that is due, else a new one, else wait; None when every product has its outcome."""
        while True:
            now = self._context.clock.monotonic()
            if self._is_due():
                return heapq.heappop(self._parked).task
            if not self._is_blocked() and (task := self._begin()) is not None:
                return task
            if not self._open:
                return None
            self._changed.clear()
            await self._until_changed(self._parked[0].ready_at - now if self._parked else None)

    def next_new(self, most: int, wanted: Callable[[PlannedProduct], bool]) -> list[DownloadTask]:
        """Return up to `most` of the next products while they are `wanted`; none where a task that waited comes first."""
        found: list[DownloadTask] = []
        if self._is_blocked() or self._is_due():
            return found
        while len(found) < most and (item := self._next_item()) is not None and wanted(item):
            if self._context.pauses.left(item.product.url.host) > 0 or (task := self._begin(is_new=False)) is None:
                break
            found.append(task)
        return found

    def park(self, task: DownloadTask, seconds: float) -> None:
        """Have the task wait so long before a worker takes it again."""
        ready_at = self._context.clock.monotonic() + seconds
        heapq.heappush(self._parked, _Parked(ready_at, next(self._numbers), task))
        self._changed.set()

    def release_account(self, account: str) -> None:
        """End the waits of an account that was stopped, however long the archive wanted its products to wait."""
        for parked in self._parked:
            if parked.task.product.account == account:
                parked.ready_at = 0.0
        heapq.heapify(self._parked)
        self._changed.set()

    def notify(self) -> None:
        """Have waiting workers look again: a new product may begin."""
        self._changed.set()

    def is_open(self, task: DownloadTask) -> bool:
        """Return whether the task has no outcome yet."""
        return task.product.index in self._open

    def finish(
        self, task: DownloadTask, state: State, *, written: int = 0, failure: Failure | None = None, note: str = ""
    ) -> None:
        """Give the task its outcome, as a `ProductFinished` event."""
        self._open.pop(task.product.index, None)
        if not self._open:
            self._changed.set()
        here = state in (State.COMPLETED, State.SKIPPED)
        outcome = Outcome(
            product=task.product,
            state=state,
            file=task.shown,
            destination=self._context.storage.root if here and task.file else None,
            written=written,
            resumed=task.resumed or 0,
            failure=failure,
            note=note,
            elapsed_s=self._context.clock.monotonic() - task.started_at,
            sources=tuple(task.served_by),
        )
        self._context.hub.emit(ProductFinished(outcome=outcome))

    def unfinished(self) -> Iterator[DownloadTask]:
        """Yield every task without an outcome: those that have begun, then the rest of the plan."""
        yield from list(self._open.values())
        while (task := self._begin()) is not None:
            yield task

    async def _until_changed(self, seconds: float | None) -> None:
        if seconds is None:
            await self._changed.wait()
            return
        async with asyncio.TaskGroup() as group:
            waits: list[asyncio.Task[Any]] = [
                group.create_task(self._changed.wait()),
                group.create_task(self._context.clock.sleep(seconds)),
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    def _is_due(self) -> bool:
        return bool(self._parked) and self._parked[0].ready_at <= self._context.clock.monotonic()

    def _next_item(self) -> PlannedProduct | None:
        """Return the next product that is not in place; those that are get their outcome."""
        while self._upcoming is None or self._upcoming.local_status is LocalFileStatus.IN_PLACE:
            if self._upcoming is not None:
                outcome = in_place(self._upcoming, self._context.storage.root)
                self._context.hub.emit(ProductFinished(outcome=outcome))
            self._upcoming = next(self._items, None)
            if self._upcoming is None:
                return None
        return self._upcoming

    def _begin(self, *, is_new: bool = True) -> DownloadTask | None:
        """Begin the next product; `is_new`: others may be requested behind it on its connection."""
        item, self._upcoming = self._next_item(), None
        if item is None:
            return None
        task = DownloadTask(
            product=item.product,
            budget=AttemptBudget(self._context.settings.retries, furthest=item.have),
            file=item.file,
            local_status=item.local_status,
            started_at=self._context.clock.monotonic(),
        )
        task.is_new = is_new and may_join(self._context, item)
        self._open[item.product.index] = task
        return task
