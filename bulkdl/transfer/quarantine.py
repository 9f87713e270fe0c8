"""Products that are faulty at their source: kept apart, not fetched again while the archive has the same edition.

Two fetches that agree with each other and not with the manifest's checksum prove it, also when a night is between them. What
came is moved below `.bulkdl/faulty/`, for whoever wants to look at it or report it, and the journal keeps the evidence. From
then on a look at the archive that sends no body decides; a checksum that was corrected in the manifest needs no fetch at all.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from bulkdl.content.verify import digests
from bulkdl.core.errors import ProductFailed, StorageStopped, TryAgain
from bulkdl.core.events import Level
from bulkdl.core.filenames import STATE_FOLDER
from bulkdl.core.models import Checksum, FailureKind
from bulkdl.journal.records import Entry, Phase
from bulkdl.protocol.bad_source import BadSourceEvidence, Recheck, ValidatorSnapshot, recheck, with_new_evidence
from bulkdl.protocol.headers import strong_date, strong_etag
from bulkdl.protocol.server_quirks import ServerObservation
from bulkdl.storage.os_errors import storage_error
from bulkdl.transfer.source_probe import probe_source, raise_if_busy
from bulkdl.transfer.state import RejectedDownload

if TYPE_CHECKING:
    from bulkdl.http.response import Response
    from bulkdl.journal.journal import Journal
    from bulkdl.storage.destination import Storage
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["FOLDER", "clear_evidence", "recheck_source", "reject_download"]

FOLDER = f"{STATE_FOLDER}/faulty"
_MOST_NAME = 100
"""Bytes of a product's own name that are used here."""
_NUMBERS = {2: "two", 3: "three"}


# --- Wrong bytes have come --------------------------------------------------------------------------------------------


async def reject_download(
    context: RunContext, task: DownloadTask, entry: Entry, error: ProductFailed
) -> TryAgain | ProductFailed | None:
    """What follows from a complete partial that is not the product: another fetch, or the proof that none will help.

    None where it is not another checksum than the manifest's. Raise `StorageStopped`.
    """
    emptied = replace(entry, ranges=(), total=None, etag=None, last_modified=None)
    again = TryAgain(error.reason, kind=error.kind, hint=error.hint, restart=True, limit=3 * len(task.product.sources))
    if (entry.part or "").startswith(f"{FOLDER}/"):  # it was no fetch: what was kept is not what it was
        await context.journal.put(replace(emptied, part=None))
        await _drop(context.storage, entry.part)
        return again
    latest = await _testimony(context, task, entry)
    if set(latest.expected) <= set(latest.found):
        return None
    before = context.evidence.get(task.product.id)
    _compare_marks(context, before, task, latest)
    refusal = RejectedDownload(task.source_index, frozenset(latest.found), latest.seen[0])
    earlier = sum(1 for r in task.rejections.downloads if r.found == refusal.found)
    task.rejections.downloads.append(refusal)
    tried = {r.source_index for r in task.rejections.downloads} | task.dead_sources
    evidence = with_new_evidence(before, latest, earlier=earlier, everywhere=len(tried) >= len(task.product.sources))
    place = kept_name(task.product.id, task.shown)
    if evidence.kept not in (None, place):
        await _drop(context.storage, evidence.kept)
    # Named in a suspicion too: whatever a crash leaves there goes when the product is right.
    there = not evidence.proven or await _keep(context, task, entry, place)
    evidence = replace(evidence, kept=place if there else None)
    await context.journal.record_evidence(emptied, evidence)
    context.evidence[task.product.id] = evidence
    await context.storage.remove(context.storage.root / (entry.part or ""))
    return _failure(task.shown, evidence, known=False) if evidence.proven else again


async def _testimony(context: RunContext, task: DownloadTask, entry: Entry) -> BadSourceEvidence:
    """What this one fetch says, with the marks that the look before it, if there was one, has shown of the edition."""
    path = context.storage.root / (entry.part or "")
    try:
        found = await digests(path, {c.algorithm for c in task.product.checksums})
    except OSError as error:
        raise storage_error(error, path=path, what="read", root=context.storage.root) from error
    facts = await context.storage.stat(path)
    size = facts.size if facts is not None else 0
    own = ValidatorSnapshot(source=entry.source, size=size, etag=entry.etag, last_modified=entry.last_modified)
    looked = tuple(seen for seen in task.rejections.rechecks if seen.source == entry.source)
    return BadSourceEvidence(
        id=task.product.id,
        expected=task.product.checksums,
        found=tuple(Checksum(algorithm, found[algorithm]) for algorithm in sorted(found)),
        size=size,
        fetches=1,
        proven=False,
        at=context.clock.wall(),
        seen=(own, *looked),
    )


def _compare_marks(
    context: RunContext, before: BadSourceEvidence | None, task: DownloadTask, latest: BadSourceEvidence
) -> None:
    """The same bytes with another strong ETag: this host's ETags change without them."""
    own = latest.seen[0]
    others = [r.seen for r in task.rejections.downloads if r.found == frozenset(latest.found)]
    if before is not None and set(before.found) == set(latest.found):
        others += before.seen
    told = {tag for s in others if s.source == own.source and (tag := strong_etag(s.etag)) is not None}
    if strong_etag(own.etag) and told and own.etag not in told:
        context.hosts.note(task.source.origin, ServerObservation.ETAG_CHANGED)


async def _keep(context: RunContext, task: DownloadTask, entry: Entry, place: str) -> bool:
    """Move the partial to `place`; False where that cannot be, which is no reason to fail otherwise.

    Before the journal knows: a crash in between costs one more fetch.
    """
    part = context.storage.root / (entry.part or "")
    try:
        async with context.storage.open_partial(entry.part or "") as partial:
            await partial.seal()
        await context.storage.place(part, context.storage.root / place, overwrite=True)
    except (ProductFailed, StorageStopped) as error:
        if isinstance(error, StorageStopped) and not error.full:
            raise
        context.hub.note(Level.WARNING, f"what came of {task.shown} was not kept: {error.reason}", task.product)
        await _drop(context.storage, place)  # the bytes of a fetch before
        return False
    return True


def kept_name(id: str, shown: str) -> str:  # noqa: A002
    """Where the bytes of a faulty product are kept, relative to the destination: one place for each product."""
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    name = shown.rpartition("/")[2]
    return f"{FOLDER}/{digest}-{name}" if len(os.fsencode(name)) <= _MOST_NAME else f"{FOLDER}/{digest}"


def _failure(shown: str, evidence: BadSourceEvidence, *, known: bool) -> ProductFailed:
    """The same words whenever it is said; `known`: nothing was fetched this time."""
    wrong = [c for c in evidence.found if c not in evidence.expected]
    wanted = {c.algorithm: c for c in evidence.expected}
    said = "; ".join(f"expected {wanted[c.algorithm]}, found {c}" for c in wrong if c.algorithm in wanted)
    times = _NUMBERS.get(evidence.fetches, str(evidence.fetches))
    reason = (
        f"{shown} does not match its checksum: {said} ({times} fetches agree: the product is like that at the source)"
    )
    if known:
        day = datetime.fromtimestamp(evidence.at).astimezone().strftime("%Y-%m-%d %H:%M")
        reason += f"; not fetched again, as the archive shows no other edition than at the last fetch ({day})"
    hint = "Report it to the archive, or correct the checksum in the manifest"
    kept = f"; what came is kept as {evidence.kept}" if evidence.kept is not None else ""
    return ProductFailed(reason, kind=FailureKind.CHECKSUM, hint=hint + kept)


# --- The next run -----------------------------------------------------------------------------------------------------


async def recheck_source(context: RunContext, task: DownloadTask) -> Entry | None:
    """Find out, before a product that was found faulty is fetched again, whether there is any reason to.

    None when there is; an entry, complete and to be verified, when the bytes that were kept are what the manifest wants now.
    Raise `ProductFailed` when the archive still has the edition that is known to be wrong, `TryAgain` when it cannot say.
    """
    evidence = context.evidence.get(task.product.id)
    wanted = task.product.checksums
    if (
        evidence is None
        or task.rejections.download_again
        or context.options.overwrite
        or not (evidence.proven and wanted)
    ):
        return None
    if set(evidence.expected) != set(wanted):
        task.rejections.download_again = True
        return await _from_kept(context, task, evidence)
    if not await _has_other_edition(context, task, evidence):
        raise _failure(task.shown, await _still_kept(context.storage, evidence), known=True)
    task.rejections.download_again = True
    return None


async def _has_other_edition(context: RunContext, task: DownloadTask, evidence: BadSourceEvidence) -> bool:
    """Whether a source may have something else now; the job is left at that source."""
    fault: TryAgain | ProductFailed | None = None
    stands = False
    for index in range(len(task.product.sources)):
        task.source_index = index
        try:
            if await _look(context, task, evidence) is Recheck.ANEW:
                return True
        except (TryAgain, ProductFailed) as error:
            fault = fault or error
        else:
            stands = True
    task.source_index = 0
    if fault is not None and not stands:
        raise fault
    return False


async def _look(context: RunContext, task: DownloadTask, evidence: BadSourceEvidence) -> Recheck:
    """Ask a source for the marks of what it has, not for the body (RFC 9110 §9.3.2)."""
    context.hub.counters.flights[task.product.id].phase = "checking"
    reply = await probe_source(context, task)
    if reply.head.status == 200:
        return _judge(context, task, evidence, reply)
    raise_if_busy(reply, f"whether {task.shown} has changed", now=context.clock.wall())
    return Recheck.ANEW  # it was not like that before: the ordinary way says what it means


def _judge(context: RunContext, task: DownloadTask, evidence: BadSourceEvidence, reply: Response) -> Recheck:
    head, source = reply.head, task.source.source
    modified = strong_date(head.last_modified, head.date)
    task.rejections.rechecks.append(
        ValidatorSnapshot(source=source, size=head.content_length or None, etag=head.etag, last_modified=modified)
    )
    trust = not context.hosts.has_unstable_etags(task.source.origin)
    return recheck(evidence, source, head, now=context.clock.wall(), trust_etag=trust)


async def _from_kept(context: RunContext, task: DownloadTask, evidence: BadSourceEvidence) -> Entry | None:
    """The kept bytes as a complete partial, where they have the checksums that the manifest names now."""
    evidence = await _still_kept(context.storage, evidence)
    file = task.file or task.product.file
    if evidence.kept is None or file is None:
        return None
    found = {c.algorithm: c.hex for c in evidence.found}
    wanted = {c.algorithm: c.hex for c in task.product.checksums}
    if any(found.get(algorithm, hex_) != hex_ for algorithm, hex_ in wanted.items()):
        return None
    path = context.storage.root / evidence.kept
    try:
        found |= await digests(path, wanted.keys() - found.keys())
    except OSError as error:
        raise storage_error(error, path=path, what="read", root=context.storage.root) from error
    if any(found[algorithm] != hex_ for algorithm, hex_ in wanted.items()):
        return None
    before = await context.journal.get(task.product.id)
    task.file, task.part, task.resumed = file, evidence.kept, evidence.size
    context.hub.note(Level.INFO, f"{task.shown}: what was kept apart matches the manifest now", task.product)
    return Entry(
        id=task.product.id,
        phase=Phase.REQUEUED if before is not None and before.phase is Phase.REQUEUED else Phase.PARTIAL,
        file=file,
        source=evidence.seen[0].source if evidence.seen else "",
        total=evidence.size,
        ranges=((0, evidence.size),) if evidence.size else (),
        part=evidence.kept,
        updated=context.clock.wall(),
    )


async def _still_kept(storage: Storage, evidence: BadSourceEvidence) -> BadSourceEvidence:
    """`evidence`, naming a place only where the bytes still are."""
    if evidence.kept is None:
        return evidence
    facts = await storage.stat(storage.root / evidence.kept)
    there = facts is not None and facts.is_file and facts.size == evidence.size
    return evidence if there else replace(evidence, kept=None)


# --- The product is there ---------------------------------------------------------------------------------------------


async def clear_evidence(
    id: str,  # noqa: A002
    evidence: dict[str, BadSourceEvidence],
    *,
    storage: Storage,
    journal: Journal,
) -> None:
    """Forget the `evidence` against the product `id`, which is in its place now, and remove the kept bytes."""
    cleared = evidence.pop(id, None)
    if cleared is None:
        return
    await _drop(storage, cleared.kept)
    await journal.drop_evidence(id)


async def _drop(storage: Storage, kept: str | None) -> None:
    if kept is not None:
        with suppress(
            ProductFailed, StorageStopped
        ):  # the product is in its place; the kept bytes were only for people
            await storage.remove(storage.root / kept)
