"""Decisions about a failed attempt: a retry, another source, a wait, or the product's failure.

A fault belongs to the product, its origin, its account or this machine, and only its owner pays. What every product of an
origin would meet costs no product an attempt: its products wait until the origin works again (`concurrency/outages`).
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.concurrency.outages import Blame
from bulkdl.core.errors import TryAgain
from bulkdl.core.events import Level, Retrying
from bulkdl.core.models import Failure, FailureKind, State, Trouble
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.unpack_folders import folder_of
from bulkdl.protocol.byte_ranges import cover
from bulkdl.transfer.refused_connection import may_be_limit, trouble_before_answer
from bulkdl.transfer.retry import next_step

if TYPE_CHECKING:
    from bulkdl.concurrency.outages import GivenUp
    from bulkdl.core.errors import AccountStopped, ProductFailed, StorageStopped
    from bulkdl.scheduler.job_queue import JobQueue
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["FailurePolicy"]

_REFUSALS = frozenset({Trouble.DENIED, Trouble.PAGE})
_NO_CONNECTION = frozenset({Trouble.NAME, Trouble.NO_SUCH_NAME, Trouble.REFUSED})
"""Troubles that cannot be about one product, unless a redirect led to another origin."""
_KINDS = {
    Trouble.STATUS: FailureKind.HTTP,
    Trouble.BUSY: FailureKind.HTTP,
    Trouble.PAGE: FailureKind.HTTP,
    Trouble.DENIED: FailureKind.HTTP,
    Trouble.LOGIN: FailureKind.AUTH,
}
"""Kinds of the failures of an origin that was given up; `network` for all other troubles."""
_MAINTENANCE = re.compile(
    r"maintenance|unavailable|out of (?:order|service)|temporarily|try again later|come back later|wartung",
    re.IGNORECASE,
)
"""Words of a page that an archive sends to everybody while it is out of order, unlike a login page."""
_NAME_TRIES = 3
_NAME_PAUSE_S = 20.0
"""Tries of a host name that does not exist, and the seconds between them."""
SLOT_PAUSE_S = 0.5
"""Seconds before a product that met a limit of connections asks for a slot again; they double with each refusal in a row."""
_LONGEST_SLOT_PAUSE_S = 4.0
"""Longest such pause (s), since the products that hold the slots may be large."""
_CROWDED_TRIES = 5
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

    # Whose fault it is

    async def is_settled(self, task: DownloadTask) -> bool:
        """Settle what earlier attempts left open; return whether that decided what happens to the task now."""
        outages, origin, id_ = self._context.outages, task.source.origin, task.product.id
        if (reason := outages.given_up(origin)) is not None:
            await self._fail_given_up(task, reason)
            return True
        suspended, task.suspended = task.suspended, None
        if suspended is not None and self._was_own_fault(task, since=suspended[0]):
            await self._count(task, suspended[1])
            return True
        ask_canary = task.failed_probe or outages.trouble(origin) in _REFUSALS
        if ask_canary and outages.is_probe(origin, id_) and self._context.canaries.knows(origin):
            # The product's own refusal would prove nothing, so one that came before asks in its place.
            if task.slot is not None:
                task.slot.give_back()
            came = await self._context.canaries.still_come(self._context, origin, most=1)
            if came is False:
                trouble, why = self._context.canaries.fault(origin)
                outages.confirm(origin, trouble=trouble, reason=why, is_probe=True)
                self._queue.park(task, 0.0)
                return True
            if came:
                outages.clear(origin)
        return False

    def _was_own_fault(self, task: DownloadTask, *, since: float) -> bool:
        """Return whether the origin served other products after a fault at `since`, without an outage."""
        outages, origin, id_ = self._context.outages, task.source.origin, task.product.id
        if outages.was_down_since(origin, since) or outages.is_probe(origin, id_):
            return False
        return outages.answers_others(origin, id_, since=since)

    async def retry(self, task: DownloadTask, fault: TryAgain) -> None:
        """Have the task wait for its origin or its next attempt, or fail the product when its budget is spent."""
        trouble = trouble_before_answer(task, fault)
        if trouble is None or (fault.wait or 0.0) > self._context.settings.max_wait:
            await self._count(task, fault)
        elif trouble is Trouble.NO_SUCH_NAME and not self._context.outages.ever_good(task.source.origin):
            await self._count(task, _limited(fault, attempts=_NAME_TRIES, wait=_NAME_PAUSE_S))
        elif self._is_crowded(task, fault, trouble):
            await self._wait_for_slot(task, fault)
        elif await self._is_origin_fault(task, fault, trouble):
            self._wait_for_origin(task, fault)
        elif trouble is Trouble.BUSY and task.crowded < _CROWDED_TRIES:
            task.crowded += 1
            await self._wait_for_slot(task, fault)
        else:
            await self._count(task, fault)

    def _is_crowded(self, task: DownloadTask, fault: TryAgain, trouble: Trouble) -> bool:
        """Return whether the origin probably serves as many products as it wants to, this one not among them.

        nginx answers 503 by default where a limit of connections is reached. A product's own 503 looks the same, so it
        counts from the sixth one in a row. If nobody is admitted while the others are still coming, the origin is asked no
        more than twenty times.
        """
        outages, origin = self._context.outages, task.source.origin
        if not may_be_limit(self._context, task, fault):
            return False
        outages.count_refusal(origin, began=task.attempt_began)
        task.crowded = 0 if task.is_answered else task.crowded + 1
        is_few = task.crowded <= _CROWDED_TRIES and not outages.admits_nobody(origin)
        return trouble is Trouble.BUSY or is_few

    async def _is_origin_fault(self, task: DownloadTask, fault: TryAgain, trouble: Trouble) -> bool:
        if trouble is Trouble.PAGE and not _MAINTENANCE.search(fault.reason):
            return await self._is_origin_ill(task, trouble, fault.reason)
        outages, origin, id_ = self._context.outages, task.source.origin, task.product.id
        was_probe, was_ill = outages.is_probe(origin, id_), outages.is_ill(origin)
        task.failed_probe = task.failed_probe or was_probe
        blame = outages.fault(
            origin, id_, trouble=trouble, reason=fault.reason, since=task.attempt_began, wait=fault.wait
        )
        if blame is Blame.PRODUCT:
            return False
        is_unreachable = trouble in _NO_CONNECTION and fault.origin in (None, origin)
        if was_ill or is_unreachable or not self._context.canaries.knows(origin):
            return True
        outages.begin_check(origin)
        try:
            came = await self._context.canaries.still_come(self._context, origin)
            if came is False and (outages.admits_nobody(origin) or not outages.serves_others(origin, id_)):
                outages.confirm(origin, trouble=trouble, reason=fault.reason)
            elif came is not None:
                outages.clear(origin)
                return False
        finally:
            outages.abandon_check(origin)
        return True

    async def _is_origin_ill(self, task: DownloadTask, trouble: Trouble, reason: str) -> bool:
        """Return whether a refusal says nothing about the product, since one that came before is refused as well."""
        outages, origin, id_ = self._context.outages, task.source.origin, task.product.id
        was_probe, was_ill = outages.is_probe(origin, id_), outages.is_ill(origin)
        if not was_ill and outages.answers_others(origin, id_, since=task.attempt_began):
            return False
        came = await self._context.canaries.still_come(self._context, origin)
        if came is False:
            task.failed_probe = task.failed_probe or was_probe
            outages.confirm(origin, trouble=trouble, reason=reason, is_probe=was_probe)
            return True
        if came is None and was_ill and not was_probe:
            return True
        if was_ill or came:
            outages.clear(origin)
        return False

    def _wait_for_origin(self, task: DownloadTask, fault: TryAgain) -> None:
        task.suspended = self._context.clock.monotonic(), fault
        self._queue.park(task, 0.0)

    async def _wait_for_slot(self, task: DownloadTask, fault: TryAgain) -> None:
        """Have a product that met a limit of connections wait for the next free slot; it costs no attempt."""
        self._context.hub.counters.retries += 1
        task.waits_for_slot += 1
        opens = self._context.connections.opens_in(task.product.account, task.source.host)
        wait = fault.wait or opens
        if not wait:  # the limit that the host has is not known
            wait = min(_LONGEST_SLOT_PAUSE_S, SLOT_PAUSE_S * 2.0 ** min(max(0, task.crowded - 1), 8))
        wait = wait if math.isfinite(wait) else 0.0
        self._announce(task, fault, wait=wait)
        self._queue.park(task, wait)

    async def _fail_given_up(self, task: DownloadTask, given_up: GivenUp) -> None:
        task.dead_sources.add(task.source_index)
        if task.next_source():
            self._queue.park(task, 0.0)
            return
        if task.refusal is not None:
            await self.fail(task, *task.refusal)
            return
        hint = "" if task.suspended is None else task.suspended[1].hint
        reason = f"{given_up.reason}. {hint}" if hint else given_up.reason
        await self.fail(task, _KINDS.get(given_up.trouble, FailureKind.NETWORK), reason)

    # The next step

    async def _count(self, task: DownloadTask, fault: TryAgain) -> None:
        """Count an attempt that failed by the product's own trouble."""
        entry = await self._context.journal.get(task.product.id)
        if fault.restart and entry is not None:
            entry = replace(entry, ranges=(), total=None, etag=None, last_modified=None)
            await self._context.journal.put(entry)
        task.budget.progressed(cover(entry.ranges) if entry is not None else 0)
        settings = self._context.settings
        step = next_step(
            fault,
            task.budget,
            now=self._context.clock.monotonic(),
            retry_for=settings.retry_for,
            max_wait=settings.max_wait,
            rng=self._context.rng,
        )
        if step.give_up:
            if fault.trouble is Trouble.PAGE and task.refused_at is None:
                self._look_again_later(task, fault.kind, fault.reason, str(fault))
                return
            reason = f"{fault.reason}; {step.give_up}"
            await self.fail(task, fault.kind, f"{reason}. {fault.hint}" if fault.hint else reason)
            return
        if task.budget.attempts_without_progress:
            task.next_source()
        self._context.hub.counters.retries += 1
        self._announce(task, fault, wait=step.wait)
        self._queue.park(task, step.wait)

    def _announce(self, task: DownloadTask, fault: TryAgain, *, wait: float) -> None:
        self._context.hub.emit(
            Retrying(
                product=task.product,
                file=task.shown,
                reason=fault.reason,
                wait_s=wait,
                attempt=task.budget.attempts_without_progress,
            )
        )

    async def try_other_source(self, task: DownloadTask, failed: ProductFailed) -> None:
        """Turn to a mirror; only when every source has failed, twice if it was refused, is the product a failure."""
        if failed.is_refusal and await self._is_origin_ill(task, Trouble.DENIED, failed.reason):
            self._queue.park(task, 0.0)
            return
        task.dead_sources.add(task.source_index)
        if failed.kind in _MIRROR_MAY_HELP and task.next_source():
            self._context.hub.note(Level.WARNING, f"{failed.reason}; trying a mirror", task.product)
            self._queue.park(task, 0.0)
            return
        if failed.is_refusal and failed.kind is not FailureKind.SIZE and task.refused_at is None:
            self._look_again_later(task, failed.kind, failed.reason, str(failed))
            return
        await self.fail(task, failed.kind, str(failed))

    def _look_again_later(self, task: DownloadTask, kind: FailureKind, reason: str, whole: str) -> None:
        """Keep a refusal that seems final for a second look, once the other products are done."""
        task.refused_at = self._context.clock.monotonic()
        task.refusal = kind, whole
        task.dead_sources.clear()
        task.source_index = 0
        text = f"{task.shown}: {reason}; it is asked for once more before the run ends"
        self._context.hub.note(Level.DEBUG, text, task.product)
        self._queue.park_last(task)

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
            failed = replace(entry, phase=phase, failure_kind=kind, failure_reason=reason, attempts=task.own_attempts)
            await self._context.journal.put(replace(failed, updated=self._context.clock.wall()))
        self._release_names(task)
        self._queue.finish(task, State.FAILED, failure=Failure(kind=kind, reason=reason, attempts=task.own_attempts))

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


def _limited(fault: TryAgain, *, attempts: int, wait: float) -> TryAgain:
    return TryAgain(fault.reason, kind=fault.kind, hint=fault.hint, limit=attempts, wait=wait)
