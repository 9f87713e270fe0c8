"""The products of a run that have no outcome yet: those still in the plan, those under way, and those that wait.

A product that has to wait gives its worker back and returns when its time has come, so that an archive that prepares
products for an hour does not hold up the others. Products of an origin that is out of order wait as well (`Gate`). Products
that were refused wait for a second look, until every other product has its outcome.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bulkdl.core.events import AccountEvent, ProductFinished
from bulkdl.core.models import Outcome, State
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.plan import PlannedProduct, in_place
from bulkdl.scheduler.gate import Gate
from bulkdl.transfer.pipelined_fetch import may_join
from bulkdl.transfer.retry import AttemptBudget, second_look_in
from bulkdl.transfer.task import DownloadTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bulkdl.core.events import Event
    from bulkdl.core.models import Failure
    from bulkdl.transfer.context import RunContext

__all__ = ["JobQueue"]

_LOOKED_AT = 1000
"""Products in a line among which those that have begun come first."""


@dataclass(order=True, slots=True)
class _Parked:
    ready_at: float
    number: int
    task: DownloadTask = field(compare=False)


class JobQueue:
    """Gives out tasks in the manifest's order, waiting ones first once they are due, and records their outcomes."""

    def __init__(
        self,
        context: RunContext,
        items: Iterable[PlannedProduct],
        *,
        is_blocked: Callable[[], bool],
        has_several_hosts: bool = True,
        may_begin: Callable[[PlannedProduct], bool] = lambda _item: True,
    ) -> None:
        """While `is_blocked` says so, no new product is begun; call `notify` when that has changed.

        `has_several_hosts`: the products are of several accounts or hosts, so that one without a free slot does not
        hold up those of another. A product that `may_begin` refuses is set aside: this run does not begin it.
        """
        self._context = context
        self._items = iter(items)
        self._is_blocked = is_blocked
        self._has_several_hosts = has_several_hosts
        self._may_begin = may_begin
        self._set_aside: list[PlannedProduct] = []
        self._lacks_slot: str | None = None
        """Key of the slot that the upcoming product lacked."""
        self._gate = Gate(context)
        self._began = context.clock.monotonic()
        self._upcoming: PlannedProduct | None = None
        """Taken from the plan, not begun yet."""
        self._parked: list[_Parked] = []
        self._held: dict[str, deque[DownloadTask | PlannedProduct]] = {}
        """Tasks and products that wait for an origin or an account, by the gate's key."""
        self._last: dict[int, DownloadTask] = {}
        """Refused tasks that wait for their second look, by index."""
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        """Set when a waiting worker should look again: a task was parked, a product may begin, or all tasks are done."""
        self._open: dict[int, DownloadTask] = {}
        """Tasks that have begun and have no outcome, by index."""
        context.hub.subscribe(self._observe)
        context.outages.on_change = self.notify
        context.outages.count_waiting = self._count_held
        context.connections.on_free = self._slot_is_free

    async def next(self) -> DownloadTask | None:
        """Return a task that is due, else a new one, else wait; None when every product has its outcome."""
        while True:
            task = self._next_due() or self._next_released()
            if task is None and not self._is_blocked():
                task = self._begin_admitted()
            if task is not None:
                self._gate.enter(task)
                return task
            if self._set_aside and not self._open:
                self._set_held_aside()
            if not self._open and not any(self._held.values()) and self._lacks_slot is None:
                return None
            if self._only_last_looks():
                continue
            self._changed.clear()
            await self._until_changed(self._next_change_in())

    def _observe(self, event: Event) -> None:
        if isinstance(event, AccountEvent):
            self._changed.set()

    def _slot_is_free(self) -> None:
        if self._held or self._lacks_slot is not None:
            self._changed.set()

    def leave(self, task: DownloadTask) -> None:
        """Take note that a worker has finished with a task that `next` gave out."""
        self._gate.leave(task)

    def _next_due(self) -> DownloadTask | None:
        while self._is_due():
            task = heapq.heappop(self._parked).task
            if self._admit(task):
                return task
        return None

    def _next_released(self) -> DownloadTask | None:
        """Return a task whose origin or account works again."""
        for key in list(self._held):
            waiting = self._held[key]
            while waiting and self._gate.opens_in(key) <= 0:
                first = waiting.popleft()
                self._gate.count_waiting(key, len(waiting))
                if isinstance(first, PlannedProduct) and self._sets_aside(first):
                    continue
                task = first if isinstance(first, DownloadTask) else self._open_task(first)
                if self._admit(task):
                    return task
            if not waiting:
                del self._held[key]
                self._gate.count_waiting(key, 0)
        return None

    def _begin_admitted(self) -> DownloadTask | None:
        """Begin the next product whose origin and account work and have a slot; those before it wait for theirs."""
        while (item := self._next_item()) is not None:
            if self._sets_aside(item):
                self._upcoming = None
                self._note_lack(None)
                continue
            key = None if item.product.mirrors else self._gate.closed_key(item.product)
            self._note_lack(key)
            if key is None:
                task = self._begin()
                if task is None or self._admit(task):
                    return task
                continue
            if self._lacks_slot is not None:
                return None
            self._upcoming = None
            self._hold(item, key)
        self._note_lack(None)
        return None

    def _sets_aside(self, item: PlannedProduct) -> bool:
        if self._may_begin(item):
            return False
        self._set_aside.append(item)
        return True

    def _set_held_aside(self) -> None:
        """Set aside what waits for an origin or an account and may no longer be begun: the run need not wait for it."""
        for key, held in self._held.items():
            kept = deque(each for each in held if isinstance(each, DownloadTask) or not self._sets_aside(each))
            self._held[key] = kept
            self._gate.count_waiting(key, len(kept))

    def _note_lack(self, key: str | None) -> None:
        """Record that all of the next products wait for a slot, where they are of one account and host."""
        lacks = key if key is not None and self._gate.is_slot(key) and not self._has_several_hosts else None
        if lacks != self._lacks_slot:
            if self._lacks_slot is not None:
                self._gate.count_waiting(self._lacks_slot, 0)
            self._lacks_slot = lacks
            if lacks is not None:
                self._gate.count_waiting(lacks, 1)

    def _admit(self, task: DownloadTask) -> bool:
        """Return whether the task may go now; else it waits for its origin or account."""
        key = self._gate.closed_key_of(task)
        if key is not None:
            self._hold(task, key)
        return key is None

    def hold(self, task: DownloadTask, key: str) -> None:
        """Have the task wait until its origin or account, which `key` names, works again."""
        self._hold(task, key)
        self._changed.set()

    def _hold(self, waiting: DownloadTask | PlannedProduct, key: str) -> None:
        held = self._held.setdefault(key, deque())
        if isinstance(waiting, DownloadTask) and self._gate.is_slot(key):
            held.insert(sum(isinstance(each, DownloadTask) for each in itertools.islice(held, _LOOKED_AT)), waiting)
        else:
            held.append(waiting)
        self._gate.count_waiting(key, len(held))

    def _count_held(self, key: str) -> int:
        """Return how many products wait for what `key` names, those included that have just met its outage."""
        met = sum(each.task.suspended is not None and each.task.source.origin == key for each in self._parked)
        return len(self._held.get(key, ())) + met

    def park_last(self, task: DownloadTask) -> None:
        """Have a refused task wait for its second look."""
        self._last[task.product.index] = task
        self._changed.set()

    def _only_last_looks(self) -> bool:
        """Park the refused tasks for their second look if nothing else is left; return whether there were any."""
        if not self._last or len(self._last) < len(self._open) or any(self._held.values()):
            return False
        waiting, self._last = self._last, {}
        for task in waiting.values():
            refused_at = task.refused_at or 0.0
            self.park(task, second_look_in(refused_at, began=self._began, now=self._context.clock.monotonic()))
        return True

    def _next_change_in(self) -> float | None:
        """Return the seconds until a task is due, or an origin may be asked again."""
        times = [self._gate.opens_in(key) for key, waiting in self._held.items() if waiting]
        if self._lacks_slot is not None and not self._is_blocked():
            times.append(self._gate.opens_in(self._lacks_slot))
        if self._parked:
            times.append(self._parked[0].ready_at - self._context.clock.monotonic())
        finite = [each for each in times if math.isfinite(each)]
        return max(0.0, min(finite)) if finite else None

    def next_new(self, most: int, wanted: Callable[[PlannedProduct], bool]) -> list[DownloadTask]:
        """Return up to `most` of the next products while they are `wanted`; none where a task that waited comes first."""
        found: list[DownloadTask] = []
        if self._is_blocked() or self._is_due():
            return found
        while len(found) < most and (item := self._next_item()) is not None and wanted(item):
            if not self._may_begin(item) or not self._gate.is_plain(item.product):
                break
            if (task := self._begin(is_new=False)) is None:
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
        for task in [task for task in self._last.values() if task.product.account == account]:
            self.park(self._last.pop(task.product.index), 0.0)
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
        for item in self._set_aside:
            yield self._open_task(item)
        for waiting in self._held.values():
            for each in waiting:
                if isinstance(each, PlannedProduct):
                    yield self._open_task(each)
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
                self._context.canaries.add(self._upcoming.product)
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
        task = self._open_task(item)
        task.is_new = is_new and may_join(self._context, item)
        return task

    def _open_task(self, item: PlannedProduct) -> DownloadTask:
        task = DownloadTask(
            product=item.product,
            budget=AttemptBudget(self._context.settings.retries, furthest=item.have),
            file=item.file,
            local_status=item.local_status,
            started_at=self._context.clock.monotonic(),
        )
        self._open[item.product.index] = task
        return task
