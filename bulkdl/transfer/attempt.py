"""One attempt at one product: find what is missing, request it, evaluate the response's head, write the bytes to disk.

An attempt derives everything from what is durably on disk and in the journal, never from memory. So a dropped connection, a
crash and a run that is resumed tomorrow take the same code.

A product of which nothing is known, and whose response is a plain 200, needs no decision (`is_plain_full_response`; a property
test compares it with `evaluate_response`). If it is small, its body stays in memory and goes to `batch_finalize`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.content.error_pages import html_or_json_error
from bulkdl.content.signatures import fitting_name
from bulkdl.content.verify import matches
from bulkdl.core.errors import BulkdlError, ProductFailed, StorageStopped, TryAgain
from bulkdl.core.filenames import fold
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.name_registry import name_taken
from bulkdl.planning.orphaned_partials import without_last_byte
from bulkdl.planning.unpack_folders import reserve_folder
from bulkdl.protocol.byte_ranges import normalise
from bulkdl.protocol.content_disposition import file_name
from bulkdl.protocol.digest_fields import sent_digest
from bulkdl.protocol.headers import strong_date, strong_etag
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
from bulkdl.transfer.coding_labels import keeps_coding, without_label
from bulkdl.transfer.disk_space import require_free_space, reserve_if_plenty
from bulkdl.transfer.etag_check import capture_sample
from bulkdl.transfer.existing_file import resolve_existing_file
from bulkdl.transfer.receiver import SegmentedReceiver
from bulkdl.transfer.refused_connection import note_refusal
from bulkdl.transfer.response_errors import SNIFF, error_for_response, not_the_product, objection_to
from bulkdl.transfer.state import CompletePartial, SmallProduct
from bulkdl.transfer.task import known_of

if TYPE_CHECKING:
    from bulkdl.http.response import Response
    from bulkdl.protocol.response_head import Head
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.state import ExistingFile
    from bulkdl.transfer.task import DownloadTask

__all__ = ["SMALL", "accept_small_response", "attempt"]

SMALL = 256 * 1024
"""Largest product (bytes) that is held in memory until all of it has arrived."""
SMALL_S = 1.0
"""Longest time (s) to wait for such a body; after that, it goes to disk like any other product's."""


async def attempt(context: RunContext, task: DownloadTask) -> CompletePartial | SmallProduct | ExistingFile:
    """Download what is missing of a product.

    Raise `TryAgain`, after everything that arrived is durable, `ProductFailed`, `AccountStopped` or `StorageStopped`.
    """
    task.forget_digests()
    entry = await _durable_entry(context, task.product.id)
    if entry is None and (orphan := context.orphans.adoptable.get(task.product.id)) is not None:
        orphan = await _durable_entry(context, orphan.id)
        entry = without_last_byte(orphan) if orphan is not None else None
    if entry is not None and (known := context.known(task, entry)).complete and known.total:
        task.resumed = known.have if task.resumed is None else task.resumed
        return CompletePartial(entry)
    ask = RangeRequest() if entry is None else _request_for(context, task, entry)
    places, account, host = context.connections, task.product.account, task.source.host
    async with places.slot(account=account, host=host, reserved=task.slot) as task.slot:
        try:
            while True:
                asked = context.clock.monotonic()
                async with context.open(task, headers=ask.headers) as response:
                    if entry is None and (small := await _receive_at_once(context, task, response)) is not None:
                        places.record_answer(account, host, asked=asked, is_whole=True)
                        return small
                    places.record_answer(account, host, asked=asked, is_whole=False)
                    if (done := await _receive(context, task, response, ask=ask, entry=entry)) is not None:
                        return done
                ask = RangeRequest()
        except TryAgain as fault:
            note_refusal(context, task, task.slot, fault)
            raise


def _request_for(context: RunContext, task: DownloadTask, entry: Entry) -> RangeRequest:
    return next_request(
        context.known(task, entry),
        source=task.source.source,
        has_checksum=bool(task.product.checksums),
        resume=task.product.resume,
    )


async def _durable_entry(context: RunContext, id: str) -> Entry | None:  # noqa: A002
    """Return the journal's entry, limited to the ranges that the partial on disk still holds."""
    entry = await context.journal.get(id)
    if entry is None or entry.part is None or not entry.ranges:
        return entry
    facts = await context.storage.stat(context.storage.root / entry.part)
    size = facts.size if facts is not None and facts.is_file else 0
    kept = normalise((start, min(end, size)) for start, end in entry.ranges)
    if kept == entry.ranges:
        return entry
    # Record the shorter ranges first. If we crash after writing, the journal must not claim bytes that are gone.
    entry = replace(entry, ranges=kept)
    await context.journal.put(entry)
    return entry


async def _receive_at_once(context: RunContext, task: DownloadTask, response: Response) -> SmallProduct | None:
    """Return the whole of a small, unknown product; None, with nothing done, if its response needs a decision."""
    size = _plain_size(task, response.head)
    if size is None or task.product.extract or not (body := await response.whole(size, within_s=SMALL_S)):
        return None
    small = await _with_space(context, task, _small_product(context, task, response.head, body, host=response.url.host))
    _note_good(context, task)
    await context.rate.take(size)
    return small


async def accept_small_response(
    context: RunContext, task: DownloadTask, head: Head, body: bytes
) -> SmallProduct | None:
    """Return the product from a complete response of its own host; None if the response needs a decision.

    The run has no rate limit. Raise `TryAgain` if the body is not the product, `ProductFailed` if another product has its
    name, `StorageStopped` if it does not fit on the disk.
    """
    if _plain_size(task, head) != len(body):
        return None
    small = await _with_space(context, task, _small_product(context, task, head, body, host=task.product.url.host))
    _note_good(context, task)
    return small


def _note_good(context: RunContext, task: DownloadTask) -> None:
    """Report that the product's origin works: it sent the head of a representation that the product can use.

    A new product's body must have begun and must not be a page. A head alone proves nothing: an archive under maintenance may
    send its page with status 200, and the type and the length of a page are no more certain than its status.
    """
    task.is_answered, task.limits_before = True, None
    if task.slot is not None:
        task.slot.answered()
    context.outages.good(task.source.origin, task.product.id)


async def _with_space(context: RunContext, task: DownloadTask, small: SmallProduct) -> SmallProduct:
    """Reserve disk space for `small`, count its bytes as received and return it. Raise `StorageStopped` if it does not fit."""
    size = len(small.body)
    if not reserve_if_plenty(task, size, storage=context.storage, reservations=context.reservations):
        try:
            await _require_space(context, task, small.entry)
        except StorageStopped:
            if small.unseen:  # forget the name, so the next attempt checks if a file with it exists
                task.file = None
            raise
    context.count_received(task, size)
    return small


async def _require_space(context: RunContext, task: DownloadTask, entry: Entry) -> None:
    flights = context.hub.counters.flights
    await require_free_space(task, entry, storage=context.storage, reservations=context.reservations, flights=flights)


def _plain_size(task: DownloadTask, head: Head) -> int | None:
    size = is_plain_full_response(head, expected_size=task.product.size)
    return size if size is not None and size <= SMALL else None


def _small_product(context: RunContext, task: DownloadTask, head: Head, body: bytes, *, host: str) -> SmallProduct:
    """Do what `_receive` does, without the steps that only a partial or an unusual response needs."""
    reason = _objection(task, head, body)
    if reason is not None and not _has_checksum(task, body):
        raise not_the_product(reason)
    new = _reserve_name(context, task, head, None, body)
    task.resumed = 0
    task.note_response(head.content_type, host=host)
    return SmallProduct(_entry(context, task, head, None, total=len(body), kept=()), body, unseen=new)


async def _receive(
    context: RunContext, task: DownloadTask, response: Response, *, ask: RangeRequest, entry: Entry | None
) -> CompletePartial | SmallProduct | ExistingFile | None:
    """Receive what the response brings; None: the range was requested in vain, so the whole has to be requested."""
    known, source = context.known(task, entry), task.source.source
    response = await without_label(task, response)
    decision = evaluate_response(
        response.head,
        ask=ask,
        known=known,
        source=source,
        expected_size=task.product.size,
        keep_coding=keeps_coding(task, response),
    )
    context.hosts.note(
        task.source.origin,
        *observations(response.head, ask=ask, known=known_of(entry), decision=decision, source=source),
    )
    if decision.action is Action.REQUEST_WHOLE and response.head.status == 200:
        # The partial stays until a response is known to be the whole. A page says nothing about the server's ranges.
        if html_or_json_error((await response.peek())[:SNIFF], response.head.content_type):
            await _reject_error_page(task, response, whole=False)
        return None
    if entry is not None and entry.id != task.product.id:
        entry = await _adopt_orphan(context, task, entry, decision)
        known = context.known(task, entry)
    if decision.coding:
        response = response.decoded(decision.coding)
    if decision.action is Action.RESTART or (decision.why is DecisionReason.WRONG_SIZE and response.head.status == 200):
        await _reject_error_page(task, response, whole=decision.action is Action.RESTART)
    if decision.action not in (Action.APPEND, Action.RESTART):
        raise error_for_response(context, task, response, decision)
    _note_good(context, task)
    beginning = await response.peek() if task.product.hint is not None and decision.action is Action.RESTART else b""
    new = _reserve_name(context, task, response.head, entry, beginning)
    small = _is_small(task, response, decision, entry)
    if new and not small and (existing := await _existing(context, task, decision)) is not None:
        return existing
    kept = known.ranges if decision.action is Action.APPEND else ()
    task.was_decoded = response.decoder is not None
    task.note_resumed(known.have if kept and decision.why is not DecisionReason.SAME_VERSION_FROM_ZERO else 0)
    current = _entry(context, task, response.head, entry, total=decision.total, kept=kept)
    await _require_space(context, task, current)
    flight = context.hub.counters.flights[task.product.id]
    flight.file, flight.total, flight.phase = task.shown, current.total, "receiving"
    task.note_response(response.head.content_type, host=response.url.host)
    if known.ranges and not kept:
        await capture_sample(context, task, entry, response.head, total=decision.total)
    if (known.ranges or response.decoder) and not kept:
        # The journal must forget the old ranges before bytes of another version touch the file.
        await context.journal.put(current)
    if small and (body := await response.whole(decision.total or 0, within_s=SMALL_S)):
        context.count_received(task, len(body))
        await context.rate.take(len(body))
        flight.have = len(body)
        return SmallProduct(current, body, unseen=new)
    if small and new and (existing := await _existing(context, task, decision)) is not None:
        return existing
    return await _receive_into_partial(context, task, response, ask=ask, decision=decision, entry=current)


async def _receive_into_partial(
    context: RunContext, task: DownloadTask, response: Response, *, ask: RangeRequest, decision: Decision, entry: Entry
) -> CompletePartial:
    kept = entry.ranges
    try:
        async with context.storage.open_partial(entry.part or "", truncate=not kept) as partial:
            if not kept:
                task.sniffed = False
            compare = await _overlap(context, entry, ask) if kept and ask.overlap else b""
            receiver = SegmentedReceiver(
                context, task, entry=entry, partial=partial, start=decision.start + len(compare)
            )
            splittable = _splittable(response.head, decision, entry, has_checksum=bool(task.product.checksums))
            splittable = splittable and not context.hosts.ignores_ranges(task.source.origin)
            return CompletePartial(await receiver.receive(response, compare=compare, splittable=splittable))
    except BulkdlError:
        await _remove_if_empty(context, entry)
        raise


async def _remove_if_empty(context: RunContext, entry: Entry) -> None:
    """Remove a partial that no byte has reached, for example because a page came instead of the product."""
    path = context.storage.root / (entry.part or "")
    with suppress(ProductFailed, StorageStopped):  # the error of the attempt is the more useful one
        facts = await context.storage.stat(path)
        if facts is not None and facts.is_file and not facts.size:
            await context.storage.remove(path)


async def _existing(context: RunContext, task: DownloadTask, decision: Decision) -> ExistingFile | None:
    return await resolve_existing_file(context, task, name_is_new=True, response_size=decision.total)


async def _adopt_orphan(context: RunContext, task: DownloadTask, entry: Entry, decision: Decision) -> Entry | None:
    """Return the partial of an earlier URL if the server says that it is the same representation; else None."""
    if decision.action not in (Action.APPEND, Action.RESTART, Action.REQUEST_WHOLE):
        return None
    return await adopt(context, task, entry, same=decision.action is Action.APPEND)


def _is_small(task: DownloadTask, response: Response, decision: Decision, entry: Entry | None) -> bool:
    """Return whether the product has no history and is small enough to be received in memory."""
    if decision.coding or decision.start or task.product.extract:
        return False
    new = entry is None or (entry.phase in (Phase.PARTIAL, Phase.FAILED) and entry.part is None and not entry.ranges)
    size = decision.total or 0
    return new and 0 < size <= SMALL and size == response.head.content_length


async def _reject_error_page(task: DownloadTask, response: Response, *, whole: bool) -> None:
    """Raise `TryAgain` for a page in the product's place. Check before the bytes on disk are given up for it.

    `whole`: the body may be the whole product. Then a checksum of the manifest decides: here if the body is small, and
    when all of it has arrived if it is large.
    """
    reason = _objection(task, response.head, await response.peek())
    if reason is None:
        return
    if whole and task.product.checksums:
        body, ended = await response.peek_up_to(SMALL)
        if not ended or _has_checksum(task, body):
            return
    raise not_the_product(reason)


def _objection(task: DownloadTask, head: Head, beginning: bytes) -> str | None:
    name = task.file or task.product.file or _suggested_name(task, head, beginning)
    reason = objection_to(task, beginning, name=name, content_type=head.content_type, size=head.content_length)
    return reason if beginning else None


def _has_checksum(task: DownloadTask, body: bytes) -> bool:
    return bool(task.product.checksums) and matches(body, task.product.checksums)


def _suggested_name(task: DownloadTask, head: Head, beginning: bytes) -> str:
    """Return the name that the archive, the manifest or the URL suggests. That of a catalogue has to fit the bytes."""
    name = file_name(head.disposition) or task.product.expected_file
    return name if task.product.hint is None else fitting_name(name, beginning)


def _reserve_name(
    context: RunContext, task: DownloadTask, head: Head, entry: Entry | None, beginning: bytes = b""
) -> bool:
    """Decide and reserve the product's file name; return whether it had none, so that a file with it may exist.

    Raise `ProductFailed` (conflict) if another product has the name.
    """
    new = task.file is None
    file = task.file or (entry.file if entry is not None else None)
    if file is None:
        file = _suggested_name(task, head, beginning)
    other = context.claims.reserve(file, task.product.index)
    if other is not None:
        raise name_taken(f"the archive gives this product the name {file}", other)
    task.file = file
    if task.product.extract:
        reserve_folder(context.claims, task.product, file)
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
    """Return the entry for the representation that is arriving."""
    source = task.source.source
    same = before is not None and bool(kept) and before.source == source
    file = task.file or task.shown
    part = before.part if before is not None and kept else None
    if part is None:
        part = context.part_for(task, file)
    task.part, context.parts[fold(part)] = part, task.product.id
    if (sent := sent_digest(head.digests, status=head.status)) is not None:
        task.expect((sent.checksum,), field=sent.field, etag=head.etag)
    elif same and before:
        task.expect(before.digests, etag=before.etag)
    elif strong_etag(head.etag) is None or head.etag != task.server_digest.etag:
        task.expect(())
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
        digests=task.server_digest.checksums,
        attempts=task.attempts,
    )


async def _overlap(context: RunContext, entry: Entry, ask: RangeRequest) -> bytes:
    start = ask.range[0] if ask.range else 0
    return await context.storage.read(context.storage.root / (entry.part or ""), start, ask.overlap)


def _splittable(head: Head, decision: Decision, entry: Entry, *, has_checksum: bool) -> bool:
    """Return whether further connections could request other parts of this very representation."""
    ranges = head.status == 206 or "bytes" in head.accept_ranges.lower()
    verifiable = bool(validator(known_of(entry), entry.source) or has_checksum)
    return (
        ranges and verifiable and entry.total is not None and decision.why is not DecisionReason.SAME_VERSION_FROM_ZERO
    )
