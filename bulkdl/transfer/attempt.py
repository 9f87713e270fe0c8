"""One attempt at one product: what is missing, the request for it, the decision on its head, the bytes to disk.

An attempt derives everything from what is durably on disk and in the journal, never from memory, so that a drop, a crash and
"continue tomorrow" are the same code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.filenames import from_content_disposition, from_url
from bulkdl.core.models import FailureKind
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.orphaned_partials import offered
from bulkdl.planning.unpack_folders import claim_folder
from bulkdl.protocol.byte_ranges import normalise
from bulkdl.protocol.headers import strong_date
from bulkdl.protocol.resume import Action, Ask, Decision, Why, ask_for, judge, plainly_whole, validator
from bulkdl.protocol.server_quirks import first_sight, sights
from bulkdl.transfer.adopt_partial import inherit
from bulkdl.transfer.disk_space import check_room, promised_easily
from bulkdl.transfer.etag_check import summon
from bulkdl.transfer.existing_file import settle_named
from bulkdl.transfer.receiver import Reception
from bulkdl.transfer.response_errors import error_for_response, not_the_product, objection_to
from bulkdl.transfer.state import Complete, Whole
from bulkdl.transfer.task import known_of

if TYPE_CHECKING:
    from bulkdl.http.response import Reply
    from bulkdl.protocol.response_head import Head
    from bulkdl.transfer.context import Bench
    from bulkdl.transfer.state import Settled
    from bulkdl.transfer.task import Job

__all__ = ["SMALL", "attempt", "taken_plainly"]

SMALL = 256 * 1024
"""Bytes of a product that is held in memory until all of it is here."""
SMALL_S = 1.0
"""No longer than this, though: then what has come goes to disk as that of any other product does."""


async def attempt(bench: Bench, job: Job) -> Complete | Whole | Settled:
    """Fetch what is missing of a product.

    Raise `TryAgain` with everything that arrived durable, `ProductFailed`, `AccountStopped` or `StorageStopped`.
    """
    job.forget_digests()
    entry = await _durable_entry(bench, job.product.id)
    if entry is None and (left := bench.estate.heirs.get(job.product.id)) is not None:
        left = await _durable_entry(bench, left.id)
        entry = offered(left) if left is not None else None
    if entry is not None and (known := bench.known(job, entry)).complete and known.total:
        job.resumed = known.have if job.resumed is None else job.resumed
        return Complete(entry)
    ask = Ask() if entry is None else _ask(bench, job, entry)
    async with (
        bench.connections.permit(account=job.product.account, host=job.source.host),
        bench.open(job, headers=ask.headers) as reply,
    ):
        if entry is None and (whole := await _at_once(bench, job, reply)) is not None:
            return whole
        return await _receive(bench, job, reply, ask=ask, entry=entry)


def _ask(bench: Bench, job: Job, entry: Entry) -> Ask:
    return ask_for(
        bench.known(job, entry),
        source=job.source.source,
        has_checksum=bool(job.product.checksums),
        resume=job.product.resume,
    )


async def _durable_entry(bench: Bench, id: str) -> Entry | None:  # noqa: A002
    """The journal's entry, with only such ranges as the partial on disk still holds."""
    entry = await bench.journal.get(id)
    if entry is None or entry.part is None or not entry.ranges:
        return entry
    facts = await bench.storage.stat(bench.storage.root / entry.part)
    size = facts.size if facts is not None and facts.is_file else 0
    kept = normalise((start, min(end, size)) for start, end in entry.ranges)
    if kept == entry.ranges:
        return entry
    # Recorded before anything is written: what will lie where bytes were lost is not what the journal speaks of.
    entry = replace(entry, ranges=kept)
    await bench.journal.put(entry)
    return entry


async def _at_once(bench: Bench, job: Job, reply: Reply) -> Whole | None:
    """All of a small product that nothing is known of; None, with nothing done, where its response has to be judged."""
    size = _plain_size(job, reply.head)
    if size is None or job.product.extract or not (body := await reply.whole(size, within_s=SMALL_S)):
        return None
    whole = await _fitting(bench, job, _plainly(bench, job, reply.head, body, host=reply.url.host))
    await bench.rate.take(size)
    return whole


async def taken_plainly(bench: Bench, job: Job, head: Head, body: bytes) -> Whole | None:
    """The same of a response that is here, from the product's own host, in a run without a rate limit.

    Raise `TryAgain`, `ProductFailed` or `StorageStopped` where it is not the product, or cannot have its name, or room.
    """
    if _plain_size(job, head) != len(body):
        return None
    return await _fitting(bench, job, _plainly(bench, job, head, body, host=job.product.url.host))


async def _fitting(bench: Bench, job: Job, whole: Whole) -> Whole:
    """`whole`, which has been promised room and counts as received. Raise `StorageStopped` where there is none."""
    size = len(whole.body)
    if not promised_easily(bench, job, size):
        try:
            await check_room(bench, job, whole.entry)
        except StorageStopped:
            if whole.unseen:  # the next attempt has to look whether a file has the name, as if it had not been told
                job.file = None
            raise
    bench.hub.counters.received += size
    return whole


def _plain_size(job: Job, head: Head) -> int | None:
    size = plainly_whole(head, expected_size=job.product.size)
    return size if size is not None and size <= SMALL else None


def _plainly(bench: Bench, job: Job, head: Head, body: bytes, *, host: str) -> Whole:
    """What `_receive` does for any product, without the steps that only a history or an unusual response needs."""
    bench.hosts.note(job.source.origin, first_sight(head))
    _refuse_page(job, head, body)
    new = _named(bench, job, head, None)
    job.resumed, job.content_type = 0, head.content_type
    if host not in job.served_by:
        job.served_by.append(host)
    return Whole(_entry(bench, job, head, None, total=len(body), kept=()), body, unseen=new)


async def _receive(
    bench: Bench, job: Job, reply: Reply, *, ask: Ask, entry: Entry | None
) -> Complete | Whole | Settled:
    known, source = bench.known(job, entry), job.source.source
    decision = judge(
        reply.head,
        ask=ask,
        known=known,
        source=source,
        expected_size=job.product.size,
        keep_coding=bool(reply.head.content_encoding) and job.keeps_coding(reply),
    )
    bench.hosts.note(
        job.source.origin, *sights(reply.head, ask=ask, known=known_of(entry), decision=decision, source=source)
    )
    if entry is not None and entry.id != job.product.id:
        entry = await _taken_over(bench, job, entry, decision)
        known = bench.known(job, entry)
    if decision.coding:
        reply = reply.decoded(decision.coding)
    if decision.action is Action.RESTART or (decision.why is Why.WRONG_SIZE and reply.head.status == 200):
        _refuse_page(job, reply.head, await reply.peek())
    if decision.action not in (Action.APPEND, Action.RESTART):
        raise error_for_response(bench, job, reply, decision)
    small, new = _is_small(job, reply, decision, entry), _named(bench, job, reply.head, entry)
    if new and not small and (settled := await settle_named(bench, job, remote_size=decision.total)) is not None:
        return settled
    kept = known.ranges if decision.action is Action.APPEND else ()
    if job.resumed is None or not kept:
        job.resumed = known.have if kept else 0
    current = _entry(bench, job, reply.head, entry, total=decision.total, kept=kept)
    await check_room(bench, job, current)
    flight = bench.hub.counters.flights[job.product.id]
    flight.file, flight.total, flight.phase = job.shown, current.total, "receiving"
    job.content_type = reply.head.content_type
    if reply.url.host not in job.served_by:
        job.served_by.append(reply.url.host)
    if known.ranges and not kept:
        await summon(bench, job, entry, reply.head, total=decision.total)
    if (known.ranges or reply.decoder) and not kept:
        await bench.journal.put(current)  # known before bytes of another edition touch the file
    if small and (body := await reply.whole(decision.total or 0, within_s=SMALL_S)):
        bench.hub.counters.received += len(body)
        await bench.rate.take(len(body))
        flight.have = len(body)
        return Whole(current, body, unseen=new)
    if small and new and (settled := await settle_named(bench, job, remote_size=decision.total)) is not None:
        return settled
    async with bench.storage.open_partial(current.part or "", anew=not kept) as partial:
        if not kept:
            job.sniffed = False
        compare = await _overlap(bench, current, ask) if kept and ask.overlap else b""
        reception = Reception(bench, job, entry=current, partial=partial, start=decision.start + len(compare))
        splittable = _splittable(reply.head, decision, current, has_checksum=bool(job.product.checksums))
        splittable = splittable and not bench.hosts.shuns_ranges(job.source.origin)
        return Complete(await reception.receive(reply, compare=compare, splittable=splittable))


async def _taken_over(bench: Bench, job: Job, entry: Entry, decision: Decision) -> Entry | None:
    """What an earlier URL has left, once the archive has said that it is of this edition; None until then."""
    if decision.action not in (Action.APPEND, Action.RESTART, Action.ASK_ANEW):
        return None
    return await inherit(bench, job, entry, same=decision.action is Action.APPEND)


def _is_small(job: Job, reply: Reply, decision: Decision, entry: Entry | None) -> bool:
    """Whether all of a product that nothing is known of may be taken at once."""
    if decision.coding or decision.start or job.product.extract:
        return False
    new = entry is None or (entry.phase in (Phase.PARTIAL, Phase.FAILED) and entry.part is None and not entry.ranges)
    size = decision.total or 0
    return new and 0 < size <= SMALL and size == reply.head.content_length


def _refuse_page(job: Job, head: Head, beginning: bytes) -> None:
    """A page in the product's place must not cost what is on disk: look before anything is forgotten."""
    name = job.file or job.product.file or from_content_disposition(head.disposition) or job.shown
    reason = objection_to(job, beginning, name=name, content_type=head.content_type, size=head.content_length)
    if beginning and reason is not None:
        raise not_the_product(reason)


def _named(bench: Bench, job: Job, head: Head, entry: Entry | None) -> bool:
    """Give the product its file name for good; whether it had none, so that a file of that name may be there."""
    new = job.file is None
    file = job.file or (entry.file if entry is not None else None)
    if file is None:
        file = from_content_disposition(head.disposition) or from_url(job.product.url)
    other = bench.claims.claim(file, job.product.index)
    if other is not None:
        raise ProductFailed(
            f"the archive names this product {file}, and product {other + 1} of the manifest has that name",
            kind=FailureKind.CONFLICT,
            hint="Give one of them a `file` of its own",
        )
    job.file = file
    if job.product.extract:
        claim_folder(bench.claims, job.product, file)
    return new


def _entry(
    bench: Bench,
    job: Job,
    head: Head,
    before: Entry | None,
    *,
    total: int | None,
    kept: tuple[tuple[int, int], ...],
) -> Entry:
    """What will be recorded of the representation that is arriving."""
    source = job.source.source
    same = before is not None and bool(kept) and before.source == source
    file = job.file or job.shown
    part = before.part if before is not None and kept else None
    if part is None:
        part = bench.part_for(job, file)
    job.part, bench.parts[part] = part, job.product.id
    return Entry(
        id=job.product.id,
        phase=Phase.REQUEUED if before is not None and before.phase is Phase.REQUEUED else Phase.PARTIAL,
        file=file,
        source=source,
        total=total,
        etag=(before.etag if same and before else None) or head.etag,
        last_modified=strong_date(head.last_modified, head.date) or (before.last_modified if same and before else None),
        ranges=kept,
        part=part,
        attempts=job.attempts,
    )


async def _overlap(bench: Bench, entry: Entry, ask: Ask) -> bytes:
    start = ask.range[0] if ask.range else 0
    return await bench.storage.read(bench.storage.root / (entry.part or ""), start, ask.overlap)


def _splittable(head: Head, decision: Decision, entry: Entry, *, has_checksum: bool) -> bool:
    """Whether further connections could fetch other parts of this very edition."""
    ranges = head.status == 206 or "bytes" in head.accept_ranges.lower()
    sure = bool(validator(known_of(entry), entry.source) or has_checksum)
    return ranges and sure and entry.total is not None and decision.why is not Why.SAME_EDITION_FROM_ZERO
