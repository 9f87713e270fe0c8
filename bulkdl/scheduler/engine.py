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

from bulkdl.core.async_utils import settled
from bulkdl.core.errors import AccountStopped, ProductFailed, StorageStopped, TryAgain, first_error
from bulkdl.core.events import Flight, Level, ProductFinished, ProductStarted, Retrying
from bulkdl.core.models import Failure, FailureKind, Outcome, State
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.local_status import Standing
from bulkdl.planning.plan import in_place
from bulkdl.planning.unpack_folders import folder_of
from bulkdl.protocol.byte_ranges import cover
from bulkdl.scheduler.time_window import window_closes_in, window_opens_in
from bulkdl.transfer.adopt_partial import bury
from bulkdl.transfer.attempt import attempt
from bulkdl.transfer.batch_finalize import Together
from bulkdl.transfer.disk_space import check_room, known_size
from bulkdl.transfer.existing_file import ask_size, conflict, settle, settle_named
from bulkdl.transfer.finalize import check, move, record_settled, unpack
from bulkdl.transfer.pipelined_fetch import Convoy, may_join
from bulkdl.transfer.quarantine import look_again, pardon
from bulkdl.transfer.retry import Budget, next_step
from bulkdl.transfer.state import Complete, Settled, Whole
from bulkdl.transfer.task import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bulkdl.http.lightweight.pipelined_requests import Ahead
    from bulkdl.planning.plan import Item
    from bulkdl.transfer.context import Bench
    from bulkdl.transfer.state import Checked, Obstacle

__all__ = ["Engine"]

SPACE_LOOK_S = 2.0
_ELSEWHERE = frozenset({FailureKind.HTTP, FailureKind.NETWORK, FailureKind.AUTH, FailureKind.SIZE, FailureKind.CONTENT})
"""Failures of a source rather than of the product: a mirror may do better."""


@dataclass(order=True, slots=True)
class _Parked:
    ready_at: float
    number: int
    job: Job = field(compare=False)


class Engine:
    """Runs the products of one run; each `Outcome` goes out as a `ProductFinished` event."""

    def __init__(self, bench: Bench, items: Iterable[Item]) -> None:
        self._bench = bench
        self._together = Together(bench, record=self._record_whole, tell=self._delivered)
        self._items = iter(items)
        self._first: Item | None = None
        """Taken from them to be looked at."""
        self._parked: list[_Parked] = []
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        """Who waits for a job may find one: one was parked, or there is room for more, or none is left."""
        self._open: dict[int, Job] = {}
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
                workers = [group.create_task(self._work()) for _ in range(self._bench.settings.workers)]
                try:
                    await asyncio.wait(workers)
                finally:
                    self._is_ending = True

    def leave(self) -> None:
        """The run is stopping: whatever has no outcome yet is pending. Call it once `run` has ended."""
        for job in list(self._open.values()):
            self._end(job, State.PENDING)
        while (new := self._begin()) is not None:
            self._end(new, State.PENDING)

    # Taking jobs

    async def _work(self) -> None:
        while (job := await self._next()) is not None:
            if (ahead := self._ahead_with(job)) is None:
                await self._advance(job)
            else:
                await self._lead(job, ahead)

    def _ahead_with(self, job: Job) -> Ahead | None:
        """A connection on which others may be asked for behind this product; it is asked for so once."""
        new, job.is_new = job.is_new, False
        stopped = job.product.account in self.account_stops
        if not new or stopped or not self._never_waits or self._closed_for(job) > 0:
            return None
        return self._bench.ahead(job)

    async def _lead(self, job: Job, ahead: Ahead) -> None:
        convoy = Convoy(self._bench, more=self._following, deliver=self._hand_over_first)
        for left in await convoy.run(job, ahead):
            self._park(left, 0.0)

    @property
    def _never_waits(self) -> bool:
        """Whether nothing has to be waited for between one product and the next: neither time nor room."""
        settings = self._bench.settings
        return settings.window is None and not settings.limit_rate and self.full is None

    def _following(self, most: int, wanted: Callable[[Item], bool]) -> list[Job]:
        """The next products, so long as they are wanted and nothing else comes first: neither one that has waited nor a pause."""
        found: list[Job] = []
        if self._together.is_full or self._is_due() or not self._never_waits:
            return found
        while len(found) < most and (item := self._upcoming()) is not None and wanted(item):
            if self._bench.pauses.left(item.product.url.host) > 0 or (job := self._begin(is_new=False)) is None:
                break
            found.append(job)
        return found

    async def _next(self) -> Job | None:
        """A job whose time has come, else a new one, else wait; None when every product has its outcome."""
        while True:
            now = self._bench.clock.monotonic()
            if self._is_due():
                return heapq.heappop(self._parked).job
            if not self._together.is_full and (job := self._begin()) is not None:
                return job
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
                group.create_task(self._bench.clock.sleep(seconds)),
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    def _is_due(self) -> bool:
        return bool(self._parked) and self._parked[0].ready_at <= self._bench.clock.monotonic()

    def _upcoming(self) -> Item | None:
        """The next product that is not in place; those that are have their outcome."""
        while self._first is None or self._first.standing is Standing.IN_PLACE:
            if self._first is not None:
                self._skip(self._first)
            self._first = next(self._items, None)
            if self._first is None:
                return None
        return self._first

    def _begin(self, *, is_new: bool = True) -> Job | None:
        """`is_new`: whether others may be asked for behind it."""
        item, self._first = self._upcoming(), None
        if item is None:
            return None
        job = self._open[item.product.index] = self._job(item)
        job.is_new = is_new and may_join(self._bench, item)
        return job

    def _job(self, item: Item) -> Job:
        budget = Budget(self._bench.settings.retries, furthest=item.have)
        now = self._bench.clock.monotonic()
        return Job(product=item.product, budget=budget, file=item.file, standing=item.standing, started_at=now)

    # One job

    async def _advance(self, job: Job) -> None:
        """Take a job as far as it goes now: to its outcome, or back among the parked."""
        if job.moved is None:  # what has its name needs nobody any more
            if job.product.account in self.account_stops:
                self._end(job, State.PENDING)
                return
            if (wait := self._closed_for(job)) > 0:
                self._park(job, wait)
                return
        flights = self._bench.hub.counters.flights
        flights[job.product.id] = Flight(file=job.shown, total=job.product.size, have=job.budget.furthest)
        try:
            try:
                await self._attempt_in_time(job)
            except AccountStopped as stopped:
                self.account_stops.setdefault(stopped.account, stopped)
                self._wake(stopped.account)
                self._end(job, State.PENDING)
            except TryAgain as fault:
                await self._again(job, fault)
            except ProductFailed as failed:
                await self._other_source(job, failed)
        except StorageStopped as stopped:
            self._no_room(job, stopped)
        finally:
            flights.pop(job.product.id, None)
            if job.whole is None:
                self._bench.promises.take_back(job.product.id)

    async def _attempt_in_time(self, job: Job) -> None:
        """An attempt that ends with the daily window."""
        window = self._bench.settings.window
        if window is None:
            await self._attempt(job)
            return
        try:
            async with asyncio.timeout(window_closes_in(window, now=self._now())) as limit:
                await self._attempt(job)
        except TimeoutError:
            if not limit.expired():
                raise
            if job.product.index in self._open:  # the window may have closed in the moments of its move
                self._park(job, 0.0)

    async def _attempt(self, job: Job) -> None:
        if job.delivered is not None:
            done = await self._taken_up(job, job.delivered)
        elif job.moved is not None:
            await self._unpack_and_record(job, job.moved)
            return
        else:
            done = await settle(self._bench, job) or await self._fetched(job)
        match done:
            case Complete():
                await self._deliver(job, await check(self._bench, job, done.entry))
            case Whole():
                self._hand_over(job, done)
            case Settled():
                await self._leave_there(job, done)

    async def _fetched(self, job: Job) -> Complete | Whole | Settled:
        if (kept := await look_again(self._bench, job)) is not None:
            return Complete(kept)
        entry = await self._bench.journal.get(job.product.id)
        if self.full is not None and known_size(job, entry) is None:
            job.told_size = await ask_size(self._bench, job)  # a body that does not fit is not even begun
        await check_room(self._bench, job, entry)
        if job.attempts == 0:
            self._bench.hub.emit(ProductStarted(product=job.product, file=job.shown))
        job.attempts += 1
        return await attempt(self._bench, job)

    async def _leave_there(self, job: Job, there: Settled) -> None:
        """A file that was there before is the product."""
        facts = await self._bench.storage.stat(self._bench.storage.final(job.file or ""))
        other = self._bench.claims.finish(job.file or "", job.product.index)
        if other is not None or facts is None:
            raise conflict(job, "is another product's")
        await record_settled(self._bench, job, there, facts)
        self._end(job, State.SKIPPED, note=there.note)

    async def _deliver(self, job: Job, checked: Checked) -> None:
        """From a partial that is right to a completed product.

        A stop waits for the moments from the move to the outcome: what has its name is reported as pending only where the disk
        has no room to record it.
        """
        if not job.product.extract:
            await settled(self._move_and_record(job, checked))
            return
        await self._unpack_and_record(job, await settled(self._move(job, checked)))

    async def _move(self, job: Job, checked: Checked) -> Entry:
        job.moved = await move(self._bench, job, checked)
        return job.moved

    async def _unpack_and_record(self, job: Job, entry: Entry) -> None:
        await unpack(self._bench, job)
        await settled(self._record(job, entry))

    def _hand_over(self, job: Job, whole: Whole) -> None:
        """Have it put in place with others; what comes of it, `_delivered` is told."""
        job.whole = whole
        self._together.hand_over(job, whole)

    def _hand_over_first(self, job: Job, whole: Whole) -> None:
        """The same of one that came in a convoy: nothing has been told of it yet."""
        self._bench.hub.emit(ProductStarted(product=job.product, file=job.shown))
        self._hand_over(job, whole)

    def _delivered(self, job: Job, obstacle: Obstacle | None) -> None:
        """A product that was handed over has its outcome; or it is taken up again, where it, or its place, is not as expected."""
        self._bench.promises.take_back(job.product.id)
        if obstacle is not None:
            job.delivered = obstacle
            self._park(job, 0.0)
        self._changed.set()

    async def _taken_up(self, job: Job, delivered: Obstacle) -> Complete | Whole | Settled:
        whole, job.whole, job.delivered = job.whole, None, None
        if not isinstance(delivered, Entry):
            raise delivered
        if delivered.ranges or whole is None:
            return Complete(delivered)
        there = await settle_named(self._bench, job, remote_size=delivered.total)
        return there or replace(whole, unseen=False)

    async def _move_and_record(self, job: Job, checked: Checked) -> None:
        await self._record(job, await self._move(job, checked))

    async def _record(self, job: Job, entry: Entry) -> None:
        await self._bench.journal.put(entry)
        await self._record_whole(job, entry.size or 0)

    async def _record_whole(self, job: Job, size: int) -> None:
        """What is left to do once the journal has the product as done."""
        if self._bench.evidence:
            await pardon(self._bench, job.product.id)
        if self._bench.estate.by_file:
            await bury(self._bench, job)
        self._end(job, State.COMPLETED, written=size)
        self._room_again(job)

    def _closed_for(self, job: Job) -> float:
        """Seconds until this job may go on: the daily window, a host that asked for a pause."""
        paused = self._bench.pauses.left(job.source.host)
        window = self._bench.settings.window
        if window is None:
            return paused
        closed = window_opens_in(window, now=self._now())
        if closed > 0 and not self._outside_window:
            text = f"outside the window {window.start:%H:%M}-{window.end:%H:%M}: waiting until {window.start:%H:%M}"
            self._bench.hub.note(Level.INFO, text)
        self._outside_window = closed > 0
        return max(closed, paused)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._bench.clock.wall()).astimezone()

    # What an attempt's end means

    async def _again(self, job: Job, fault: TryAgain) -> None:
        entry = await self._bench.journal.get(job.product.id)
        if fault.restart and entry is not None:
            entry = replace(entry, ranges=(), total=None, etag=None, last_modified=None)
            await self._bench.journal.put(entry)
        job.budget.progressed(cover(entry.ranges) if entry is not None else 0)
        step = next_step(fault, job.budget, max_wait=self._bench.settings.max_wait, rng=self._bench.rng)
        if step.give_up:
            reason = f"{fault.reason}; {step.give_up}"
            await self._fail(job, fault.kind, f"{reason}. {fault.hint}" if fault.hint else reason)
            return
        if job.budget.fruitless:
            job.next_source()
        self._bench.hub.counters.retries += 1
        self._bench.hub.emit(
            Retrying(
                product=job.product, file=job.shown, reason=fault.reason, wait_s=step.wait, attempt=job.budget.fruitless
            )
        )
        self._park(job, step.wait)

    async def _other_source(self, job: Job, failed: ProductFailed) -> None:
        """Only when every source has failed is the product a failure."""
        job.dead_sources.add(job.source_index)
        if failed.kind in _ELSEWHERE and job.next_source():
            self._bench.hub.note(Level.WARNING, f"{failed.reason}; trying a mirror", job.product)
            self._park(job, 0.0)
            return
        await self._fail(job, failed.kind, str(failed))

    async def _fail(self, job: Job, kind: FailureKind, reason: str) -> None:
        entry = await self._bench.journal.get(job.product.id) or Entry(
            id=job.product.id, phase=Phase.FAILED, file=job.file
        )
        if kind is not FailureKind.CONFLICT or entry.phase is not Phase.DONE:
            part = job.part or entry.part
            if kind is FailureKind.CONFLICT and part is not None and self._bench.lost_name(job):
                await self._bench.storage.remove(self._bench.storage.root / part)
                entry = replace(entry, ranges=(), part=None)
            # What `verify` found wrong stays to be replaced, whatever became of the first try.
            phase = Phase.REQUEUED if entry.phase is Phase.REQUEUED else Phase.FAILED
            failed = replace(entry, phase=phase, failure_kind=kind, failure_reason=reason, attempts=job.attempts)
            await self._bench.journal.put(replace(failed, updated=self._bench.clock.wall()))
        self._give_up_name(job)
        self._end(job, State.FAILED, failure=Failure(kind=kind, reason=reason, attempts=job.attempts))

    def _give_up_name(self, job: Job) -> None:
        """What only the archive named so, and cannot have it in this run, leaves it to the next one that is named so."""
        for name in (job.file, folder_of(job.product, job.file)):
            if name is not None and job.product.file is None:
                self._bench.claims.release(name, job.product.index)

    def _no_room(self, job: Job, stopped: StorageStopped) -> None:
        if not stopped.full or self._is_ending:  # then nobody is left to go on with it
            raise stopped
        if not self._bench.options.wait_for_space:
            self.full = self.full or stopped
            self._end(job, State.PENDING)
            return
        if not job.waits_for_room:
            self._bench.hub.note(Level.WARNING, f"{stopped.reason}; waiting for room", job.product)
        job.waits_for_room = True
        self._park(job, SPACE_LOOK_S)

    def _room_again(self, job: Job) -> None:
        if job.waits_for_room:
            self._bench.hub.note(Level.INFO, f"there was room again for {job.shown}", job.product)

    def _wake(self, account: str) -> None:
        """Nothing of a stopped account is waited for, however long the archive wanted its products to wait."""
        for parked in self._parked:
            if parked.job.product.account == account:
                parked.ready_at = 0.0
        heapq.heapify(self._parked)
        self._changed.set()

    # Ends

    def _park(self, job: Job, seconds: float) -> None:
        ready_at = self._bench.clock.monotonic() + seconds
        heapq.heappush(self._parked, _Parked(ready_at, next(self._numbers), job))
        self._changed.set()

    def _skip(self, item: Item) -> None:
        """What is in place from before needs no job."""
        outcome = in_place(item, self._bench.storage.root)
        self._bench.hub.emit(ProductFinished(outcome=outcome))

    def _end(self, job: Job, state: State, *, written: int = 0, failure: Failure | None = None, note: str = "") -> None:
        self._open.pop(job.product.index, None)
        if not self._open:
            self._changed.set()
        here = state in (State.COMPLETED, State.SKIPPED)
        outcome = Outcome(
            product=job.product,
            state=state,
            file=job.shown,
            destination=self._bench.storage.root if here and job.file else None,
            written=written,
            resumed=job.resumed or 0,
            failure=failure,
            note=note,
            elapsed_s=self._bench.clock.monotonic() - job.started_at,
            sources=tuple(job.served_by),
        )
        self._bench.hub.emit(ProductFinished(outcome=outcome))
