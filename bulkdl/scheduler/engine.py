"""The pool of workers: each takes a task from the queue, runs one attempt at it, and hands its end on.

The queue (`job_queue`) gives tasks out and records outcomes; the failure policy (`failure_policy`) decides what follows an
error; here are the stages of a task between the two.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.errors import AccountStopped, AccountWaiting, ProductFailed, StorageStopped, TryAgain, first_error
from bulkdl.core.events import Flight, Level, ProductStarted
from bulkdl.core.models import FailureKind, State
from bulkdl.journal.records import Entry
from bulkdl.scheduler.failure_policy import FailurePolicy
from bulkdl.scheduler.gate import account_key
from bulkdl.scheduler.job_queue import JobQueue
from bulkdl.scheduler.time_window import window_closes_in, window_opens_in
from bulkdl.transfer.adopt_partial import discard_orphans
from bulkdl.transfer.attempt import attempt
from bulkdl.transfer.batch_finalize import BatchFinalizer
from bulkdl.transfer.disk_space import known_size, require_free_space
from bulkdl.transfer.existing_file import resolve_existing_file
from bulkdl.transfer.finalize import move_into_place, record_existing, unpack, verify
from bulkdl.transfer.pipelined_fetch import PipelinedFetcher
from bulkdl.transfer.quarantine import clear_evidence, recheck_source
from bulkdl.transfer.source_probe import ask_size
from bulkdl.transfer.state import CompletePartial, ExistingFile, SmallProduct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bulkdl.http.lightweight.pipelined_requests import PipelinedRequests
    from bulkdl.planning.plan import PlannedProduct
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.state import FinalizeError, VerifiedPartial
    from bulkdl.transfer.task import DownloadTask

__all__ = ["Engine"]


MOST_WORKERS = 256
"""Limit of products in flight where the archives decide how many they bear."""


class Engine:
    """Runs the products of one run; each `Outcome` goes out as a `ProductFinished` event."""

    def __init__(
        self,
        context: RunContext,
        items: Iterable[PlannedProduct],
        *,
        has_several_hosts: bool = True,
        may_begin: Callable[[PlannedProduct], bool] = lambda _item: True,
    ) -> None:
        self._context = context
        self._batches = BatchFinalizer(context, record=self._finish_recorded, tell=self._batch_result)
        self._queue = JobQueue(
            context,
            items,
            is_blocked=lambda: self._batches.is_full,
            has_several_hosts=has_several_hosts,
            may_begin=may_begin,
        )
        self._failures = FailurePolicy(context, self._queue)
        self._outside_window = False
        self._is_ending = False
        """The workers are done, or being stopped."""
        self._most = context.settings.workers or MOST_WORKERS
        self._working = self._idle = 0
        """Workers, and those of them that wait for a task."""
        self._all_done = asyncio.Event()

    @property
    def full(self) -> StorageStopped | None:
        """Why the disk had no space for a product, where the run does not wait for space."""
        return self._failures.full

    async def run(self) -> None:
        """Return when every product has an outcome; raise `StorageStopped` when this machine stops all of them."""
        with first_error():
            async with self._batches, asyncio.TaskGroup() as group:
                watching = group.create_task(self._context.connections.watch())
                self._start_worker(group)
                try:
                    await self._all_done.wait()
                finally:
                    self._is_ending = True
                    watching.cancel()

    def leave(self) -> None:
        """Give every product without an outcome the state pending. Call it once `run` has ended."""
        for task in self._queue.unfinished():
            self._queue.finish(task, State.PENDING)

    # The workers

    def _start_worker(self, group: asyncio.TaskGroup) -> None:
        self._working += 1
        self._idle += 1
        group.create_task(self._work(group))

    async def _work(self, group: asyncio.TaskGroup) -> None:
        """Work until every product has an outcome. One worker at most waits for a task, up to the number of workers."""
        while (task := await self._queue.next()) is not None:
            self._idle -= 1
            if not self._idle and self._working < self._most:
                self._start_worker(group)
            if (requests := self._pipelined_requests(task)) is None:
                await self._process(task)
            else:
                await self._run_pipelined(task, requests)
            self._idle += 1
        self._working -= 1
        if not self._working:
            self._all_done.set()

    def _pipelined_requests(self, task: DownloadTask) -> PipelinedRequests | None:
        """Return a connection on which other products may be requested behind this one; each task is asked once."""
        new, task.is_new = task.is_new, False
        stopped = task.product.account in self._failures.account_stops
        if not new or stopped or not self._never_waits or self._closed_for(task) > 0:
            return None
        return self._context.ahead(task)

    async def _run_pipelined(self, task: DownloadTask, requests: PipelinedRequests) -> None:
        fetcher = PipelinedFetcher(self._context, more=self._next_pipelined, deliver=self._submit_pipelined)
        try:
            for left in await fetcher.run(task, requests):
                self._queue.park(left, 0.0)
        finally:
            self._queue.leave(task)

    @property
    def _never_waits(self) -> bool:
        """Whether nothing makes a worker wait between one product and the next: no window, rate limit or full disk."""
        settings = self._context.settings
        return settings.window is None and not settings.limit_rate and self.full is None

    def _next_pipelined(self, most: int, wanted: Callable[[PlannedProduct], bool]) -> list[DownloadTask]:
        return self._queue.next_new(most, wanted) if self._never_waits else []

    # One task

    async def _process(self, task: DownloadTask) -> None:
        """Take a task as far as it goes now: to its outcome, or back to those that wait."""
        try:
            await self._process_entered(task)
        finally:
            self._queue.leave(task)

    async def _process_entered(self, task: DownloadTask) -> None:
        if task.moved is None:  # a file that has its name lacks its record only: neither account nor window matters
            if task.product.account in self._failures.account_stops:
                self._queue.finish(task, State.PENDING)
                return
            if (wait := self._closed_for(task)) > 0:
                self._queue.park(task, wait)
                return
        flights = self._context.hub.counters.flights
        flights[task.product.id] = Flight(file=task.shown, total=task.product.size, have=task.budget.furthest)
        try:
            try:
                if not (task.needs_origin and await self._failures.is_settled(task)):
                    await self._attempt_in_time(task)
            except AccountStopped as stopped:
                self._failures.stop_account(task, stopped)
            except AccountWaiting as waiting:
                self._queue.hold(task, account_key(waiting.account))
            except TryAgain as fault:
                await self._failures.retry(task, fault)
            except ProductFailed as failed:
                await self._failures.try_other_source(task, failed)
            except UnicodeEncodeError as error:  # the locale's encoding cannot hold a name that only the product knew
                reason = f"a name in {task.shown} cannot be stored in {error.encoding}, the encoding of file names here"
                hint = "Run with LC_ALL=C.UTF-8 or PYTHONUTF8=1"
                await self._failures.fail(task, FailureKind.STORAGE, f"{reason}. {hint}")
        except StorageStopped as stopped:
            self._failures.wait_for_space(task, stopped, is_ending=self._is_ending)
        finally:
            flights.pop(task.product.id, None)
            if task.whole is None:
                self._context.reservations.release(task.product.id)

    async def _attempt_in_time(self, task: DownloadTask) -> None:
        """Run an attempt that ends when the daily window closes."""
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
            if self._queue.is_open(task):  # the window may have closed while the file was renamed
                self._queue.park(task, 0.0)

    async def _attempt(self, task: DownloadTask) -> None:
        if task.finalize_error is not None:
            done = await self._resume_after_batch(task, task.finalize_error)
        elif task.moved is not None:
            await self._unpack_and_record(task, task.moved)
            return
        else:
            done = await resolve_existing_file(self._context, task) or await self._download(task)
        match done:
            case CompletePartial():
                await self._deliver(task, await verify(self._context, task, done.entry))
            case SmallProduct():
                self._submit(task, done)
            case ExistingFile():
                await self._accept_existing(task, done)

    async def _download(self, task: DownloadTask) -> CompletePartial | SmallProduct | ExistingFile:
        if (kept := await recheck_source(self._context, task)) is not None:
            return CompletePartial(kept)
        entry = await self._context.journal.get(task.product.id)
        if self.full is not None and known_size(task, entry) is None:
            task.known_size = await ask_size(self._context, task)  # a body that does not fit is not requested
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
        task.attempt_began, task.is_answered = self._context.clock.monotonic(), False
        return await attempt(self._context, task)

    async def _accept_existing(self, task: DownloadTask, there: ExistingFile) -> None:
        """Record a file that was there before as the product."""
        await record_existing(self._context, task, there)
        self._queue.finish(task, State.SKIPPED, note=there.note)

    async def _deliver(self, task: DownloadTask, checked: VerifiedPartial) -> None:
        """Turn a verified partial into a completed product.

        A stop waits from the rename to the outcome. So a renamed file is reported as pending only where the disk has no
        space for its record.
        """
        if not task.product.extract:
            await run_to_completion(self._place_and_record(task, checked))
            return
        await self._unpack_and_record(task, await run_to_completion(self._move(task, checked)))

    async def _move(self, task: DownloadTask, checked: VerifiedPartial) -> Entry:
        task.moved = await move_into_place(self._context, task, checked)
        return task.moved

    async def _unpack_and_record(self, task: DownloadTask, entry: Entry) -> None:
        await unpack(self._context, task)
        await run_to_completion(self._record(task, entry))

    def _submit(self, task: DownloadTask, whole: SmallProduct) -> None:
        """Finalize a small product in a batch with others; `_batch_result` receives what becomes of it."""
        task.whole = whole
        self._context.canaries.add(task.product, task.source.origin)
        self._batches.submit(task, whole)

    def _submit_pipelined(self, task: DownloadTask, whole: SmallProduct) -> None:
        """Finalize a product that was requested behind another one: its start has not been announced yet."""
        self._context.hub.emit(ProductStarted(product=task.product, file=task.shown))
        self._submit(task, whole)

    def _batch_result(self, task: DownloadTask, error: FinalizeError | None) -> None:
        """Take a product back that the batch could not finalize; the others have their outcomes."""
        self._context.reservations.release(task.product.id)
        if error is not None:
            task.finalize_error = error
            self._queue.park(task, 0.0)
        self._queue.notify()

    async def _resume_after_batch(
        self, task: DownloadTask, error: FinalizeError
    ) -> CompletePartial | SmallProduct | ExistingFile:
        whole, task.whole, task.finalize_error = task.whole, None, None
        if not isinstance(error, Entry):
            raise error
        if error.ranges or whole is None:
            return CompletePartial(error)
        there = await resolve_existing_file(self._context, task, name_is_new=True, response_size=error.total)
        return there or replace(whole, unseen=False)

    async def _place_and_record(self, task: DownloadTask, checked: VerifiedPartial) -> None:
        await self._record(task, await self._move(task, checked))

    async def _record(self, task: DownloadTask, entry: Entry) -> None:
        await self._context.journal.put(entry)
        await self._finish_recorded(task, entry.size or 0)

    async def _finish_recorded(self, task: DownloadTask, size: int) -> None:
        """Finish a product that the journal has as done."""
        if self._context.evidence:
            await clear_evidence(
                task.product.id, self._context.evidence, storage=self._context.storage, journal=self._context.journal
            )
        if self._context.orphans.by_file:
            await discard_orphans(self._context, task.file or "")
        if size:
            self._context.canaries.add(task.product, task.source.origin)
        self._queue.finish(task, State.COMPLETED, written=size)
        self._failures.note_space(task)

    def _closed_for(self, task: DownloadTask) -> float:
        """Return the seconds until this task may go on: until the daily window opens and its host's pause is over."""
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
