"""The pool of workers: takes products in the manifest's order, and turns what becomes of each into an outcome.

A product that has to wait gives its worker up and comes back when its time has come, so that an archive that prepares
products for an hour does not hold up the others.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.errors import AccountStopped, ProductFailed, StorageStopped, TryAgain, first_error
from bulkdl.core.events import Flight, Level, ProductFinished, ProductStarted, Retrying
from bulkdl.core.models import Failure, FailureKind, Outcome, State
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.plan import in_place
from bulkdl.planning.unpack_folders import folder_of
from bulkdl.protocol.byte_ranges import cover
from bulkdl.scheduler.time_window import window_closes_in, window_opens_in
from bulkdl.transfer.adopt_partial import discard_orphans
from bulkdl.transfer.attempt import attempt
from bulkdl.transfer.batch_finalize import BatchFinalizer
from bulkdl.transfer.disk_space import known_size, require_free_space
from bulkdl.transfer.existing_file import resolve_existing_file
from bulkdl.transfer.finalize import move_into_place, record_existing, unpack, verify
from bulkdl.transfer.pipelined_fetch import PipelinedFetcher, may_join
from bulkdl.transfer.quarantine import clear_evidence, recheck_source
from bulkdl.transfer.retry import AttemptBudget, next_step
from bulkdl.transfer.source_probe import ask_size
from bulkdl.transfer.state import CompletePartial, ExistingFile, SmallProduct
from bulkdl.transfer.task import DownloadTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bulkdl.http.lightweight.pipelined_requests import PipelinedRequests
    from bulkdl.planning.plan import PlannedProduct
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.state import FinalizeError, VerifiedPartial

__all__ = ["Engine"]

SPACE_LOOK_S = 2.0
_ELSEWHERE = frozenset({FailureKind.HTTP, FailureKind.NETWORK, FailureKind.AUTH, FailureKind.SIZE, FailureKind.CONTENT})
"""Failures of a source rather than of the product: a mirror may do better."""


@dataclass(order=True, slots=True)
class _Parked:
    ready_at: float
    number: int
    task: DownloadTask = field(compare=False)


class Engine:
    """Runs the products of one run; each `Outcome` goes out as a `ProductFinished` event."""

    def __init__(self, context: RunContext, items: Iterable[PlannedProduct]) -> None:
        self._context = context
        self._together = BatchFinalizer(context, record=self._record_whole, tell=self._delivered)
        self._items = iter(items)
        self._first: PlannedProduct | None = None
        """Taken from them to be looked at."""
        self._parked: list[_Parked] = []
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        """Who waits for a job may find one: one was parked, or there is room for more, or none is left."""
        self._open: dict[int, DownloadTask] = {}
        """Jobs that have begun and have no outcome, by index."""
        self._outside_window = False
        self._is_ending = False
        """The workers are done, or being stopped."""
        self.full: StorageStopped | None = None
        """The disk had no room for a product."""
        self.account_stops: dict[str, AccountStopped] = {}

    async def run(self) -> None:
        """Until every product has an outcome; raise `StorageStopped` when this machine is in the way of all of them."""
        with first_error():
            async with self._together, asyncio.TaskGroup() as group:
                workers = [group.create_task(self._work()) for _ in range(self._context.settings.workers)]
                try:
                    await asyncio.wait(workers)
                finally:
                    self._is_ending = True

    def leave(self) -> None:
        """The run is stopping: whatever has no outcome yet is pending. Call it once `run` has ended."""
        for task in list(self._open.values()):
            self._end(task, State.PENDING)
        while (new := self._begin()) is not None:
            self._end(new, State.PENDING)

    # Taking jobs

    async def _work(self) -> None:
        while (task := await self._next()) is not None:
            if (ahead := self._ahead_with(task)) is None:
                await self._advance(task)
            else:
                await self._lead(task, ahead)

    def _ahead_with(self, task: DownloadTask) -> PipelinedRequests | None:
        """A connection on which others may be asked for behind this product; it is asked for so once."""
        new, task.is_new = task.is_new, False
        stopped = task.product.account in self.account_stops
        if not new or stopped or not self._never_waits or self._closed_for(task) > 0:
            return None
        return self._context.ahead(task)

    async def _lead(self, task: DownloadTask, ahead: PipelinedRequests) -> None:
        convoy = PipelinedFetcher(self._context, more=self._following, deliver=self._hand_over_first)
        for left in await convoy.run(task, ahead):
            self._park(left, 0.0)

    @property
    def _never_waits(self) -> bool:
        """Whether nothing has to be waited for between one product and the next: neither time nor room."""
        settings = self._context.settings
        return settings.window is None and not settings.limit_rate and self.full is None

    def _following(self, most: int, wanted: Callable[[PlannedProduct], bool]) -> list[DownloadTask]:
        """The next products, so long as they are wanted and nothing else comes first: neither one that has waited nor a pause."""
        found: list[DownloadTask] = []
        if self._together.is_full or self._is_due() or not self._never_waits:
            return found
        while len(found) < most and (item := self._upcoming()) is not None and wanted(item):
            if self._context.pauses.left(item.product.url.host) > 0 or (task := self._begin(is_new=False)) is None:
                break
            found.append(task)
        return found

    async def _next(self) -> DownloadTask | None:
        """A job whose time has come, else a new one, else wait; None when every product has its outcome."""
        while True:
            now = self._context.clock.monotonic()
            if self._is_due():
                return heapq.heappop(self._parked).task
            if not self._together.is_full and (task := self._begin()) is not None:
                return task
            if not self._open:
                return None
            self._changed.clear()
            await self._until_changed(self._parked[0].ready_at - now if self._parked else None)

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

    def _upcoming(self) -> PlannedProduct | None:
        """The next product that is not in place; those that are have their outcome."""
        while self._first is None or self._first.local_status is LocalFileStatus.IN_PLACE:
            if self._first is not None:
                self._skip(self._first)
            self._first = next(self._items, None)
            if self._first is None:
                return None
        return self._first

    def _begin(self, *, is_new: bool = True) -> DownloadTask | None:
        """`is_new`: whether others may be asked for behind it."""
        item, self._first = self._upcoming(), None
        if item is None:
            return None
        task = self._open[item.product.index] = self._task(item)
        task.is_new = is_new and may_join(self._context, item)
        return task

    def _task(self, item: PlannedProduct) -> DownloadTask:
        budget = AttemptBudget(self._context.settings.retries, furthest=item.have)
        now = self._context.clock.monotonic()
        return DownloadTask(
            product=item.product, budget=budget, file=item.file, local_status=item.local_status, started_at=now
        )

    # One job

    async def _advance(self, task: DownloadTask) -> None:
        """Take a job as far as it goes now: to its outcome, or back among the parked."""
        if task.moved is None:  # what has its name needs nobody any more
            if task.product.account in self.account_stops:
                self._end(task, State.PENDING)
                return
            if (wait := self._closed_for(task)) > 0:
                self._park(task, wait)
                return
        flights = self._context.hub.counters.flights
        flights[task.product.id] = Flight(file=task.shown, total=task.product.size, have=task.budget.furthest)
        try:
            try:
                await self._attempt_in_time(task)
            except AccountStopped as stopped:
                self.account_stops.setdefault(stopped.account, stopped)
                self._wake(stopped.account)
                self._end(task, State.PENDING)
            except TryAgain as fault:
                await self._again(task, fault)
            except ProductFailed as failed:
                await self._other_source(task, failed)
        except StorageStopped as stopped:
            self._no_room(task, stopped)
        finally:
            flights.pop(task.product.id, None)
            if task.whole is None:
                self._context.reservations.release(task.product.id)

    async def _attempt_in_time(self, task: DownloadTask) -> None:
        """An attempt that ends with the daily window."""
        window = self._context.settings.window
        if window is None:
            await self._attempt(task)
            return
        try:
            async with asyncio.timeout(window_closes_in(window, now=self._now())) as limit:
                await self._attempt(task)
        except TimeoutError:
            if not limit.expired():
                raise
            if task.product.index in self._open:  # the window may have closed in the moments of its move
                self._park(task, 0.0)

    async def _attempt(self, task: DownloadTask) -> None:
        if task.finalize_error is not None:
            done = await self._taken_up(task, task.finalize_error)
        elif task.moved is not None:
            await self._unpack_and_record(task, task.moved)
            return
        else:
            done = await resolve_existing_file(self._context, task) or await self._fetched(task)
        match done:
            case CompletePartial():
                await self._deliver(task, await verify(self._context, task, done.entry))
            case SmallProduct():
                self._hand_over(task, done)
            case ExistingFile():
                await self._leave_there(task, done)

    async def _fetched(self, task: DownloadTask) -> CompletePartial | SmallProduct | ExistingFile:
        if (kept := await recheck_source(self._context, task)) is not None:
            return CompletePartial(kept)
        entry = await self._context.journal.get(task.product.id)
        if self.full is not None and known_size(task, entry) is None:
            task.known_size = await ask_size(self._context, task)  # a body that does not fit is not even begun
        await require_free_space(
            task,
            entry,
            storage=self._context.storage,
            reservations=self._context.reservations,
            flights=self._context.hub.counters.flights,
        )
        if task.attempts == 0:
            self._context.hub.emit(ProductStarted(product=task.product, file=task.shown))
        task.attempts += 1
        return await attempt(self._context, task)

    async def _leave_there(self, task: DownloadTask, there: ExistingFile) -> None:
        """A file that was there before is the product."""
        await record_existing(self._context, task, there)
        self._end(task, State.SKIPPED, note=there.note)

    async def _deliver(self, task: DownloadTask, checked: VerifiedPartial) -> None:
        """From a partial that is right to a completed product.

        A stop waits for the moments from the move to the outcome: what has its name is reported as pending only where the disk
        has no room to record it.
        """
        if not task.product.extract:
            await run_to_completion(self._move_and_record(task, checked))
            return
        await self._unpack_and_record(task, await run_to_completion(self._move(task, checked)))

    async def _move(self, task: DownloadTask, checked: VerifiedPartial) -> Entry:
        task.moved = await move_into_place(self._context, task, checked)
        return task.moved

    async def _unpack_and_record(self, task: DownloadTask, entry: Entry) -> None:
        await unpack(self._context, task)
        await run_to_completion(self._record(task, entry))

    def _hand_over(self, task: DownloadTask, whole: SmallProduct) -> None:
        """Have it put in place with others; what comes of it, `_delivered` is told."""
        task.whole = whole
        self._together.submit(task, whole)

    def _hand_over_first(self, task: DownloadTask, whole: SmallProduct) -> None:
        """The same of one that came in a convoy: nothing has been told of it yet."""
        self._context.hub.emit(ProductStarted(product=task.product, file=task.shown))
        self._hand_over(task, whole)

    def _delivered(self, task: DownloadTask, obstacle: FinalizeError | None) -> None:
        """A product that was handed over has its outcome; or it is taken up again, where it, or its place, is not as expected."""
        self._context.reservations.release(task.product.id)
        if obstacle is not None:
            task.finalize_error = obstacle
            self._park(task, 0.0)
        self._changed.set()

    async def _taken_up(
        self, task: DownloadTask, delivered: FinalizeError
    ) -> CompletePartial | SmallProduct | ExistingFile:
        whole, task.whole, task.finalize_error = task.whole, None, None
        if not isinstance(delivered, Entry):
            raise delivered
        if delivered.ranges or whole is None:
            return CompletePartial(delivered)
        there = await resolve_existing_file(self._context, task, name_is_new=True, response_size=delivered.total)
        return there or replace(whole, unseen=False)

    async def _move_and_record(self, task: DownloadTask, checked: VerifiedPartial) -> None:
        await self._record(task, await self._move(task, checked))

    async def _record(self, task: DownloadTask, entry: Entry) -> None:
        await self._context.journal.put(entry)
        await self._record_whole(task, entry.size or 0)

    async def _record_whole(self, task: DownloadTask, size: int) -> None:
        """What is left to do once the journal has the product as done."""
        if self._context.evidence:
            await clear_evidence(
                task.product.id, self._context.evidence, storage=self._context.storage, journal=self._context.journal
            )
        if self._context.orphans.by_file:
            await discard_orphans(self._context, task.file or "")
        self._end(task, State.COMPLETED, written=size)
        self._room_again(task)

    def _closed_for(self, task: DownloadTask) -> float:
        """Seconds until this job may go on: the daily window, a host that asked for a pause."""
        paused = self._context.pauses.left(task.source.host)
        window = self._context.settings.window
        if window is None:
            return paused
        closed = window_opens_in(window, now=self._now())
        if closed > 0 and not self._outside_window:
            text = f"outside the window {window.start:%H:%M}-{window.end:%H:%M}: waiting until {window.start:%H:%M}"
            self._context.hub.note(Level.INFO, text)
        self._outside_window = closed > 0
        return max(closed, paused)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._context.clock.wall()).astimezone()

    # What an attempt's end means

    async def _again(self, task: DownloadTask, fault: TryAgain) -> None:
        entry = await self._context.journal.get(task.product.id)
        if fault.restart and entry is not None:
            entry = replace(entry, ranges=(), total=None, etag=None, last_modified=None)
            await self._context.journal.put(entry)
        task.budget.progressed(cover(entry.ranges) if entry is not None else 0)
        step = next_step(fault, task.budget, max_wait=self._context.settings.max_wait, rng=self._context.rng)
        if step.give_up:
            reason = f"{fault.reason}; {step.give_up}"
            await self._fail(task, fault.kind, f"{reason}. {fault.hint}" if fault.hint else reason)
            return
        if task.budget.attempts_without_progress:
            task.next_source()
        self._context.hub.counters.retries += 1
        self._context.hub.emit(
            Retrying(
                product=task.product,
                file=task.shown,
                reason=fault.reason,
                wait_s=step.wait,
                attempt=task.budget.attempts_without_progress,
            )
        )
        self._park(task, step.wait)

    async def _other_source(self, task: DownloadTask, failed: ProductFailed) -> None:
        """Only when every source has failed is the product a failure."""
        task.dead_sources.add(task.source_index)
        if failed.kind in _ELSEWHERE and task.next_source():
            self._context.hub.note(Level.WARNING, f"{failed.reason}; trying a mirror", task.product)
            self._park(task, 0.0)
            return
        await self._fail(task, failed.kind, str(failed))

    async def _fail(self, task: DownloadTask, kind: FailureKind, reason: str) -> None:
        entry = await self._context.journal.get(task.product.id) or Entry(
            id=task.product.id, phase=Phase.FAILED, file=task.file
        )
        if kind is not FailureKind.CONFLICT or entry.phase is not Phase.DONE:
            part = task.part or entry.part
            if kind is FailureKind.CONFLICT and part is not None and self._context.lost_name(task):
                await self._context.storage.remove(self._context.storage.root / part)
                entry = replace(entry, ranges=(), part=None)
            # What `verify` found wrong stays to be replaced, whatever became of the first try.
            phase = Phase.REQUEUED if entry.phase is Phase.REQUEUED else Phase.FAILED
            failed = replace(entry, phase=phase, failure_kind=kind, failure_reason=reason, attempts=task.attempts)
            await self._context.journal.put(replace(failed, updated=self._context.clock.wall()))
        self._give_up_name(task)
        self._end(task, State.FAILED, failure=Failure(kind=kind, reason=reason, attempts=task.attempts))

    def _give_up_name(self, task: DownloadTask) -> None:
        """What only the archive named so, and cannot have it in this run, leaves it to the next one that is named so."""
        for name in (task.file, folder_of(task.product, task.file)):
            if name is not None and task.product.file is None:
                self._context.claims.release(name, task.product.index)

    def _no_room(self, task: DownloadTask, stopped: StorageStopped) -> None:
        if not stopped.full or self._is_ending:  # then nobody is left to go on with it
            raise stopped
        if not self._context.options.wait_for_space:
            self.full = self.full or stopped
            self._end(task, State.PENDING)
            return
        if not task.waits_for_room:
            self._context.hub.note(Level.WARNING, f"{stopped.reason}; waiting for room", task.product)
        task.waits_for_room = True
        self._park(task, SPACE_LOOK_S)

    def _room_again(self, task: DownloadTask) -> None:
        if task.waits_for_room:
            self._context.hub.note(Level.INFO, f"there was room again for {task.shown}", task.product)

    def _wake(self, account: str) -> None:
        """Nothing of a stopped account is waited for, however long the archive wanted its products to wait."""
        for parked in self._parked:
            if parked.task.product.account == account:
                parked.ready_at = 0.0
        heapq.heapify(self._parked)
        self._changed.set()

    # Ends

    def _park(self, task: DownloadTask, seconds: float) -> None:
        ready_at = self._context.clock.monotonic() + seconds
        heapq.heappush(self._parked, _Parked(ready_at, next(self._numbers), task))
        self._changed.set()

    def _skip(self, item: PlannedProduct) -> None:
        """What is in place from before needs no job."""
        outcome = in_place(item, self._context.storage.root)
        self._context.hub.emit(ProductFinished(outcome=outcome))

    def _end(
        self, task: DownloadTask, state: State, *, written: int = 0, failure: Failure | None = None, note: str = ""
    ) -> None:
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
