"""One attempt at one product: what is missing, the request for it, the decision on its head, the bytes to disk.

An attempt derives everything from what is durably on disk and in the journal, never from memory, so that a drop, a crash and
"continue tomorrow" are the same code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.core.errors import StorageStopped
from bulkdl.core.filenames import from_content_disposition, from_url
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.name_registry import name_taken
from bulkdl.planning.orphaned_partials import as_offer
from bulkdl.planning.unpack_folders import claim_folder
from bulkdl.protocol.byte_ranges import normalise
from bulkdl.protocol.headers import strong_date
from bulkdl.protocol.resume import (
    Action,
    Decision,
    DecisionReason,
    RangeRequest,
    evaluate_response,
    is_plain_full_response,
    next_request,
    validator,
)
from bulkdl.protocol.server_quirks import observations
from bulkdl.transfer.adopt_partial import adopt
from bulkdl.transfer.disk_space import require_free_space, reserve_if_plenty
from bulkdl.transfer.etag_check import capture_sample
from bulkdl.transfer.existing_file import resolve_existing_file
from bulkdl.transfer.receiver import SegmentedReceiver
from bulkdl.transfer.response_errors import error_for_response, not_the_product, objection_to
from bulkdl.transfer.state import CompletePartial, SmallProduct
from bulkdl.transfer.task import known_of

if TYPE_CHECKING:
    from bulkdl.http.response import Response
    from bulkdl.protocol.response_head import Head
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.state import ExistingFile
    from bulkdl.transfer.task import DownloadTask

__all__ = ["SMALL", "attempt", "taken_plainly"]

SMALL = 256 * 1024
"""Bytes of a product that is held in memory until all of it is here."""
SMALL_S = 1.0
"""No longer than this, though: then what has come goes to disk as that of any other product does."""


async def attempt(context: RunContext, task: DownloadTask) -> CompletePartial | SmallProduct | ExistingFile:
    """Fetch what is missing of a product.

    Raise `TryAgain` with everything that arrived durable, `ProductFailed`, `AccountStopped` or `StorageStopped`.
    """
    task.forget_digests()
    entry = await _durable_entry(context, task.product.id)
    if entry is None and (left := context.orphans.adoptable.get(task.product.id)) is not None:
        left = await _durable_entry(context, left.id)
        entry = as_offer(left) if left is not None else None
    if entry is not None and (known := context.known(task, entry)).complete and known.total:
        task.resumed = known.have if task.resumed is None else task.resumed
        return CompletePartial(entry)
    ask = RangeRequest() if entry is None else _ask(context, task, entry)
    async with (
        context.connections.slot(account=task.product.account, host=task.source.host),
        context.open(task, headers=ask.headers) as reply,
    ):
        if entry is None and (whole := await _at_once(context, task, reply)) is not None:
            return whole
        return await _receive(context, task, reply, ask=ask, entry=entry)


def _ask(context: RunContext, task: DownloadTask, entry: Entry) -> RangeRequest:
    return next_request(
        context.known(task, entry),
        source=task.source.source,
        has_checksum=bool(task.product.checksums),
        resume=task.product.resume,
    )


async def _durable_entry(context: RunContext, id: str) -> Entry | None:  # noqa: A002
    """The journal's entry, with only such ranges as the partial on disk still holds."""
    entry = await context.journal.get(id)
    if entry is None or entry.part is None or not entry.ranges:
        return entry
    facts = await context.storage.stat(context.storage.root / entry.part)
    size = facts.size if facts is not None and facts.is_file else 0
    kept = normalise((start, min(end, size)) for start, end in entry.ranges)
    if kept == entry.ranges:
        return entry
    # Recorded before anything is written: what will lie where bytes were lost is not what the journal speaks of.
    entry = replace(entry, ranges=kept)
    await context.journal.put(entry)
    return entry


async def _at_once(context: RunContext, task: DownloadTask, reply: Response) -> SmallProduct | None:
    """All of a small product that nothing is known of; None, with nothing done, where its response has to be judged."""
    size = _plain_size(task, reply.head)
    if size is None or task.product.extract or not (body := await reply.whole(size, within_s=SMALL_S)):
        return None
    whole = await _fitting(context, task, _plainly(context, task, reply.head, body, host=reply.url.host))
    await context.rate.take(size)
    return whole


async def taken_plainly(context: RunContext, task: DownloadTask, head: Head, body: bytes) -> SmallProduct | None:
    """The same of a response that is here, from the product's own host, in a run without a rate limit.

    Raise `TryAgain`, `ProductFailed` or `StorageStopped` where it is not the product, or cannot have its name, or room.
    """
    if _plain_size(task, head) != len(body):
        return None
    return await _fitting(context, task, _plainly(context, task, head, body, host=task.product.url.host))


async def _fitting(context: RunContext, task: DownloadTask, whole: SmallProduct) -> SmallProduct:
    """`whole`, which has been promised room and counts as received. Raise `StorageStopped` where there is none."""
    size = len(whole.body)
    if not reserve_if_plenty(task, size, storage=context.storage, reservations=context.reservations):
        try:
            await _require_space(context, task, whole.entry)
        except StorageStopped:
            if whole.unseen:  # the next attempt has to look whether a file has the name, as if it had not been told
                task.file = None
            raise
    context.hub.counters.received += size
    return whole


async def _require_space(context: RunContext, task: DownloadTask, entry: Entry) -> None:
    flights = context.hub.counters.flights
    await require_free_space(task, entry, storage=context.storage, reservations=context.reservations, flights=flights)


def _plain_size(task: DownloadTask, head: Head) -> int | None:
    size = is_plain_full_response(head, expected_size=task.product.size)
    return size if size is not None and size <= SMALL else None


def _plainly(context: RunContext, task: DownloadTask, head: Head, body: bytes, *, host: str) -> SmallProduct:
    """What `_receive` does for any product, without the steps that only a history or an unusual response needs."""
    _refuse_page(task, head, body)
    new = _named(context, task, head, None)
    task.resumed, task.content_type = 0, head.content_type
    if host not in task.served_by:
        task.served_by.append(host)
    return SmallProduct(_entry(context, task, head, None, total=len(body), kept=()), body, unseen=new)


async def _receive(
    context: RunContext, task: DownloadTask, reply: Response, *, ask: RangeRequest, entry: Entry | None
) -> CompletePartial | SmallProduct | ExistingFile:
    known, source = context.known(task, entry), task.source.source
    decision = evaluate_response(
        reply.head,
        ask=ask,
        known=known,
        source=source,
        expected_size=task.product.size,
        keep_coding=bool(reply.head.content_encoding) and task.keeps_coding(reply),
    )
    context.hosts.note(
        task.source.origin, *observations(reply.head, ask=ask, known=known_of(entry), decision=decision, source=source)
    )
    if entry is not None and entry.id != task.product.id:
        entry = await _taken_over(context, task, entry, decision)
        known = context.known(task, entry)
    if decision.coding:
        reply = reply.decoded(decision.coding)
    if decision.action is Action.RESTART or (decision.why is DecisionReason.WRONG_SIZE and reply.head.status == 200):
        _refuse_page(task, reply.head, await reply.peek())
    if decision.action not in (Action.APPEND, Action.RESTART):
        raise error_for_response(context, task, reply, decision)
    small, new = _is_small(task, reply, decision, entry), _named(context, task, reply.head, entry)
    if new and not small and (existing := await _existing(context, task, decision)) is not None:
        return existing
    kept = known.ranges if decision.action is Action.APPEND else ()
    if task.resumed is None or not kept:
        task.resumed = known.have if kept else 0
    current = _entry(context, task, reply.head, entry, total=decision.total, kept=kept)
    await _require_space(context, task, current)
    flight = context.hub.counters.flights[task.product.id]
    flight.file, flight.total, flight.phase = task.shown, current.total, "receiving"
    task.content_type = reply.head.content_type
    if reply.url.host not in task.served_by:
        task.served_by.append(reply.url.host)
    if known.ranges and not kept:
        await capture_sample(context, task, entry, reply.head, total=decision.total)
    if (known.ranges or reply.decoder) and not kept:
        await context.journal.put(current)  # known before bytes of another edition touch the file
    if small and (body := await reply.whole(decision.total or 0, within_s=SMALL_S)):
        context.hub.counters.received += len(body)
        await context.rate.take(len(body))
        flight.have = len(body)
        return SmallProduct(current, body, unseen=new)
    if small and new and (existing := await _existing(context, task, decision)) is not None:
        return existing
    async with context.storage.open_partial(current.part or "", anew=not kept) as partial:
        if not kept:
            task.sniffed = False
        compare = await _overlap(context, current, ask) if kept and ask.overlap else b""
        receiver = SegmentedReceiver(context, task, entry=current, partial=partial, start=decision.start + len(compare))
        splittable = _splittable(reply.head, decision, current, has_checksum=bool(task.product.checksums))
        splittable = splittable and not context.hosts.ignores_ranges(task.source.origin)
        return CompletePartial(await receiver.receive(reply, compare=compare, splittable=splittable))


async def _existing(context: RunContext, task: DownloadTask, decision: Decision) -> ExistingFile | None:
    return await resolve_existing_file(context, task, name_is_new=True, response_size=decision.total)


async def _taken_over(context: RunContext, task: DownloadTask, entry: Entry, decision: Decision) -> Entry | None:
    """What an earlier URL has left, once the archive has said that it is of this edition; None until then."""
    if decision.action not in (Action.APPEND, Action.RESTART, Action.ASK_ANEW):
        return None
    return await adopt(context, task, entry, same=decision.action is Action.APPEND)


def _is_small(task: DownloadTask, reply: Response, decision: Decision, entry: Entry | None) -> bool:
    """Whether all of a product that nothing is known of may be taken at once."""
    if decision.coding or decision.start or task.product.extract:
        return False
    new = entry is None or (entry.phase in (Phase.PARTIAL, Phase.FAILED) and entry.part is None and not entry.ranges)
    size = decision.total or 0
    return new and 0 < size <= SMALL and size == reply.head.content_length


def _refuse_page(task: DownloadTask, head: Head, beginning: bytes) -> None:
    """A page in the product's place must not cost what is on disk: look before anything is forgotten."""
    name = task.file or task.product.file or from_content_disposition(head.disposition) or task.shown
    reason = objection_to(task, beginning, name=name, content_type=head.content_type, size=head.content_length)
    if beginning and reason is not None:
        raise not_the_product(reason)


def _named(context: RunContext, task: DownloadTask, head: Head, entry: Entry | None) -> bool:
    """Give the product its file name for good; whether it had none, so that a file of that name may be there."""
    new = task.file is None
    file = task.file or (entry.file if entry is not None else None)
    if file is None:
        file = from_content_disposition(head.disposition) or from_url(task.product.url)
    other = context.claims.claim(file, task.product.index)
    if other is not None:
        raise name_taken(f"the archive gives this product the name {file}", other)
    task.file = file
    if task.product.extract:
        claim_folder(context.claims, task.product, file)
    return new


def _entry(
    context: RunContext,
    task: DownloadTask,
    head: Head,
    before: Entry | None,
    *,
    total: int | None,
    kept: tuple[tuple[int, int], ...],
) -> Entry:
    """What will be recorded of the representation that is arriving."""
    source = task.source.source
    same = before is not None and bool(kept) and before.source == source
    file = task.file or task.shown
    part = before.part if before is not None and kept else None
    if part is None:
        part = context.part_for(task, file)
    task.part, context.parts[part] = part, task.product.id
    return Entry(
        id=task.product.id,
        phase=Phase.REQUEUED if before is not None and before.phase is Phase.REQUEUED else Phase.PARTIAL,
        file=file,
        source=source,
        total=total,
        etag=(before.etag if same and before else None) or head.etag,
        last_modified=strong_date(head.last_modified, head.date) or (before.last_modified if same and before else None),
        ranges=kept,
        part=part,
        attempts=task.attempts,
    )


async def _overlap(context: RunContext, entry: Entry, ask: RangeRequest) -> bytes:
    start = ask.range[0] if ask.range else 0
    return await context.storage.read(context.storage.root / (entry.part or ""), start, ask.overlap)


def _splittable(head: Head, decision: Decision, entry: Entry, *, has_checksum: bool) -> bool:
    """Whether further connections could fetch other parts of this very edition."""
    ranges = head.status == 206 or "bytes" in head.accept_ranges.lower()
    sure = bool(validator(known_of(entry), entry.source) or has_checksum)
    return ranges and sure and entry.total is not None and decision.why is not DecisionReason.SAME_EDITION_FROM_ZERO
