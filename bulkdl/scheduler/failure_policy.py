"""Decisions about a failed attempt: a retry, another source, a wait for disk space, or the product's failure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.core.events import Level, Retrying
from bulkdl.core.models import Failure, FailureKind, State
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.unpack_folders import folder_of
from bulkdl.protocol.byte_ranges import cover
from bulkdl.transfer.retry import next_step

if TYPE_CHECKING:
    from bulkdl.core.errors import AccountStopped, ProductFailed, StorageStopped, TryAgain
    from bulkdl.scheduler.job_queue import JobQueue
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["FailurePolicy"]

SPACE_LOOK_S = 2.0
"""Seconds between two looks whether a full disk has space again."""
_MIRROR_MAY_HELP = frozenset(
    {FailureKind.HTTP, FailureKind.NETWORK, FailureKind.AUTH, FailureKind.SIZE, FailureKind.CONTENT}
)
"""Failures of a source rather than of the product."""


class FailurePolicy:
    """Turns the error that ended an attempt into the task's next step or its outcome."""

    def __init__(self, context: RunContext, queue: JobQueue) -> None:
        self._context = context
        self._queue = queue
        self.full: StorageStopped | None = None
        """The error of the first product that the disk had no space for, where the run does not wait for space."""
        self.account_stops: dict[str, AccountStopped] = {}
        """Accounts that nobody may use any more in this run, by name."""

    async def retry(self, task: DownloadTask, fault: TryAgain) -> None:
        """Park the task for its next attempt, or fail the product when its budget is spent."""
        entry = await self._context.journal.get(task.product.id)
        if fault.restart and entry is not None:
            entry = replace(entry, ranges=(), total=None, etag=None, last_modified=None)
            await self._context.journal.put(entry)
        task.budget.progressed(cover(entry.ranges) if entry is not None else 0)
        step = next_step(fault, task.budget, max_wait=self._context.settings.max_wait, rng=self._context.rng)
        if step.give_up:
            reason = f"{fault.reason}; {step.give_up}"
            await self.fail(task, fault.kind, f"{reason}. {fault.hint}" if fault.hint else reason)
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
        self._queue.park(task, step.wait)

    async def try_other_source(self, task: DownloadTask, failed: ProductFailed) -> None:
        """Turn to a mirror; only when every source has failed is the product a failure."""
        task.dead_sources.add(task.source_index)
        if failed.kind in _MIRROR_MAY_HELP and task.next_source():
            self._context.hub.note(Level.WARNING, f"{failed.reason}; trying a mirror", task.product)
            self._queue.park(task, 0.0)
            return
        await self.fail(task, failed.kind, str(failed))

    async def fail(self, task: DownloadTask, kind: FailureKind, reason: str) -> None:
        """Record the failure, then give the product its outcome."""
        entry = await self._context.journal.get(task.product.id) or Entry(
            id=task.product.id, phase=Phase.FAILED, file=task.file
        )
        if kind is not FailureKind.CONFLICT or entry.phase is not Phase.DONE:
            part = task.part or entry.part
            if kind is FailureKind.CONFLICT and part is not None and self._context.lost_name(task):
                await self._context.storage.remove(self._context.storage.root / part)
                entry = replace(entry, ranges=(), part=None)
            # A file that `verify` found wrong has to be replaced, whatever becomes of this attempt.
            phase = Phase.REQUEUED if entry.phase is Phase.REQUEUED else Phase.FAILED
            failed = replace(entry, phase=phase, failure_kind=kind, failure_reason=reason, attempts=task.attempts)
            await self._context.journal.put(replace(failed, updated=self._context.clock.wall()))
        self._release_names(task)
        self._queue.finish(task, State.FAILED, failure=Failure(kind=kind, reason=reason, attempts=task.attempts))

    def stop_account(self, task: DownloadTask, stopped: AccountStopped) -> None:
        """Leave every product of the account pending: this one now, the others as they come up."""
        if stopped.account not in self.account_stops:
            self.account_stops[stopped.account] = stopped
            self._context.journal.put_account_stop_unsynced(stopped.account, str(stopped))
        self._queue.release_account(stopped.account)
        self._queue.finish(task, State.PENDING)

    def wait_for_space(self, task: DownloadTask, stopped: StorageStopped, *, is_ending: bool) -> None:
        """Have the task wait until the disk has space; without --wait-for-space it stays pending.

        Raise `stopped` when it is not about space, or the run `is_ending`: then no worker is left to go on.
        """
        if not stopped.full or is_ending:
            raise stopped
        if not self._context.options.wait_for_space:
            self.full = self.full or stopped
            self._queue.finish(task, State.PENDING)
            return
        if not task.waits_for_room:
            text = f"disk full: {task.shown} paused until space is free ({stopped.reason})"
            self._context.hub.note(Level.WARNING, text, task.product)
        task.waits_for_room = True
        self._queue.park(task, SPACE_LOOK_S)

    def note_space(self, task: DownloadTask) -> None:
        """Say that a task which waited for disk space has found it."""
        if task.waits_for_room:
            self._context.hub.note(Level.INFO, f"space available again: {task.shown} resumed", task.product)

    def _release_names(self, task: DownloadTask) -> None:
        """Give up a name that only the archive chose, so that the next product which is named so may have it."""
        for name in (task.file, folder_of(task.product, task.file)):
            if name is not None and task.product.file is None:
                self._context.claims.release(name, task.product.index)
