"""Quarantine of products that are faulty at their source: they are not downloaded again until the source changes.

Two downloads that agree with each other and not with the manifest's checksum prove the fault, from every source there is. The
first one may belong to an earlier run. The bytes are moved below `.bulkdl/faulty/`, so that the user can look at them or report
them, and the journal keeps the evidence.

From then on a request without a body decides: other validators, or a week without any, lead to another download. If the user
corrects the checksum in the manifest, the kept bytes become the product without a download.
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
"""Longest name of a product (bytes) that is part of the name of its kept bytes."""
_NUMBERS = {2: "Two", 3: "Three"}


# --- A download was wrong ---------------------------------------------------------------------------------------------


async def reject_download(
    context: RunContext, task: DownloadTask, entry: Entry, error: ProductFailed
) -> TryAgain | ProductFailed | None:
    """Record a complete partial that is not the product. Return the error: try again, or the proof that this is useless.

    Return None if the checksums are those of the manifest, so that something else is wrong. Raise `StorageStopped`.
    """
    emptied = replace(entry, ranges=(), total=None, etag=None, last_modified=None, digests=())
    again = TryAgain(error.reason, kind=error.kind, hint=error.hint, restart=True, limit=3 * len(task.product.sources))
    if (entry.part or "").startswith(f"{FOLDER}/"):  # not a download: the kept bytes have changed on disk
        await context.journal.put(replace(emptied, part=None))
        await _drop(context.storage, entry.part)
        return again
    latest = await _new_evidence(context, task, entry)
    if set(latest.expected) <= set(latest.found):
        return None
    before = context.evidence.get(task.product.id)
    _note_unstable_etags(context, before, task, latest)
    rejected = RejectedDownload(task.source_index, frozenset(latest.found), latest.seen[0])
    earlier = sum(1 for r in task.rejections.downloads if r.found == rejected.found)
    task.rejections.downloads.append(rejected)
    tried = {r.source_index for r in task.rejections.downloads} | task.dead_sources
    evidence = with_new_evidence(before, latest, earlier=earlier, everywhere=len(tried) >= len(task.product.sources))
    place = kept_name(task.product.id, task.shown)
    if evidence.kept not in (None, place):
        await _drop(context.storage, evidence.kept)
    # Also listed when unproven, so leftovers of a crash are deleted once the product verifies.
    is_kept = not evidence.proven or await _keep_bytes(context, task, entry, place)
    evidence = replace(evidence, kept=place if is_kept else None)
    await context.journal.record_evidence(emptied, evidence)
    context.evidence[task.product.id] = evidence
    await context.storage.remove(context.storage.root / (entry.part or ""))
    return _failure(task.shown, evidence, known=False) if evidence.proven else again


async def _new_evidence(context: RunContext, task: DownloadTask, entry: Entry) -> BadSourceEvidence:
    """Return the evidence of this one download, with the validators that a recheck before it has shown."""
    path = context.storage.root / (entry.part or "")
    try:
        found = await digests(path, {c.algorithm for c in task.product.checksums})
    except OSError as error:
        raise storage_error(error, path=path, what="read", root=context.storage.root) from error
    facts = await context.storage.stat(path)
    size = facts.size if facts is not None else 0
    own = ValidatorSnapshot(source=entry.source, size=size, etag=entry.etag, last_modified=entry.last_modified)
    rechecked = tuple(seen for seen in task.rejections.rechecks if seen.source == entry.source)
    return BadSourceEvidence(
        id=task.product.id,
        expected=task.product.checksums,
        found=tuple(Checksum(algorithm, found[algorithm]) for algorithm in sorted(found)),
        size=size,
        fetches=1,
        proven=False,
        at=context.clock.wall(),
        seen=(own, *rechecked),
    )


def _note_unstable_etags(
    context: RunContext, before: BadSourceEvidence | None, task: DownloadTask, latest: BadSourceEvidence
) -> None:
    """Note an unstable ETag of the host if the same bytes came with another strong ETag before."""
    own = latest.seen[0]
    others = [r.seen for r in task.rejections.downloads if r.found == frozenset(latest.found)]
    if before is not None and set(before.found) == set(latest.found):
        others += before.seen
    earlier_etags = {tag for s in others if s.source == own.source and (tag := strong_etag(s.etag)) is not None}
    if strong_etag(own.etag) and earlier_etags and own.etag not in earlier_etags:
        context.hosts.note(task.source.origin, ServerObservation.ETAG_CHANGED)


async def _keep_bytes(context: RunContext, task: DownloadTask, entry: Entry, place: str) -> bool:
    """Move the partial to `place`; return False if that fails, because the run can do without.

    The journal is written afterwards, so a crash in between costs one more download.
    """
    part = context.storage.root / (entry.part or "")
    try:
        async with context.storage.open_partial(entry.part or "") as partial:
            await partial.seal()
        await context.storage.place(part, context.storage.root / place, overwrite=True)
    except (ProductFailed, StorageStopped) as error:
        if isinstance(error, StorageStopped) and not error.full:
            raise
        context.hub.note(
            Level.WARNING, f"the downloaded bytes of {task.shown} were not kept: {error.reason}", task.product
        )
        await _drop(context.storage, place)  # the bytes of an earlier download
        return False
    return True


def kept_name(id: str, shown: str) -> str:  # noqa: A002
    """Return the path of a faulty product's kept bytes, relative to the destination: one for each product."""
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    name = shown.rpartition("/")[2]
    return f"{FOLDER}/{digest}-{name}" if len(os.fsencode(name)) <= _MOST_NAME else f"{FOLDER}/{digest}"


def _failure(shown: str, evidence: BadSourceEvidence, *, known: bool) -> ProductFailed:
    """Return the failure of a product that is faulty at its source; `known`: nothing was downloaded in this run."""
    wrong = [c for c in evidence.found if c not in evidence.expected]
    wanted = {c.algorithm: c for c in evidence.expected}
    mismatch = "; ".join(f"expected {wanted[c.algorithm]}, got {c}" for c in wrong if c.algorithm in wanted)
    count = _NUMBERS.get(evidence.fetches, str(evidence.fetches))
    reason = f"{shown}: checksum mismatch, {mismatch}. "
    reason += f"{count} downloads gave identical bytes, so the file is wrong at the source"
    if known:
        day = datetime.fromtimestamp(evidence.at).astimezone().strftime("%Y-%m-%d %H:%M")
        reason += f". Not downloaded again: unchanged at the archive since {day}"
    hint = "Report it to the archive, or correct the checksum in the manifest"
    kept = f". The downloaded bytes are kept in {evidence.kept}" if evidence.kept is not None else ""
    return ProductFailed(reason, kind=FailureKind.CHECKSUM, hint=hint + kept)


# --- The next run -----------------------------------------------------------------------------------------------------


async def recheck_source(context: RunContext, task: DownloadTask) -> Entry | None:
    """Check if there is a reason to download a product again that was found faulty.

    Return None if there is, and for all other products. Return a complete entry, still to be verified, if the kept bytes have
    the checksums that the manifest names now. Raise `ProductFailed` if the source is unchanged, `TryAgain` if it cannot tell.
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
        return await _entry_from_kept(context, task, evidence)
    if not await _has_changed(context, task, evidence):
        raise _failure(task.shown, await _still_kept(context.storage, evidence), known=True)
    task.rejections.download_again = True
    return None


async def _has_changed(context: RunContext, task: DownloadTask, evidence: BadSourceEvidence) -> bool:
    """Return whether a source may have another version now. The task stays at that source."""
    first_error: TryAgain | ProductFailed | None = None
    is_unchanged = False
    for index in range(len(task.product.sources)):
        task.source_index = index
        try:
            if await _recheck_at_source(context, task, evidence) is Recheck.DOWNLOAD_AGAIN:
                return True
        except (TryAgain, ProductFailed) as error:
            first_error = first_error or error
        else:
            is_unchanged = True
    task.source_index = 0
    if first_error is not None and not is_unchanged:
        raise first_error
    return False


async def _recheck_at_source(context: RunContext, task: DownloadTask, evidence: BadSourceEvidence) -> Recheck:
    """Ask the source for the validators of its representation, not for the body (RFC 9110 §9.3.2)."""
    context.hub.counters.flights[task.product.id].phase = "checking"
    response = await probe_source(context, task)
    if response.head.status == 200:
        return _evaluate_recheck(context, task, evidence, response)
    raise_if_busy(response, f"whether {task.shown} has changed", now=context.clock.wall())
    return Recheck.DOWNLOAD_AGAIN  # the source has changed: an ordinary attempt reports what this status means


def _evaluate_recheck(
    context: RunContext, task: DownloadTask, evidence: BadSourceEvidence, response: Response
) -> Recheck:
    head, source = response.head, task.source.source
    modified = strong_date(head.last_modified, head.date)
    task.rejections.rechecks.append(
        ValidatorSnapshot(source=source, size=head.content_length or None, etag=head.etag, last_modified=modified)
    )
    trust_etag = not context.hosts.has_unstable_etags(task.source.origin)
    return recheck(evidence, source, head, now=context.clock.wall(), trust_etag=trust_etag)


async def _entry_from_kept(context: RunContext, task: DownloadTask, evidence: BadSourceEvidence) -> Entry | None:
    """Return the kept bytes as a complete partial if they have the checksums that the manifest names now."""
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
    context.hub.note(Level.INFO, f"{task.shown}: the kept copy now matches the manifest's checksum", task.product)
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
    """Return `evidence` without its kept bytes if they are no longer on disk as they were."""
    if evidence.kept is None:
        return evidence
    facts = await storage.stat(storage.root / evidence.kept)
    still_there = facts is not None and facts.is_file and facts.size == evidence.size
    return evidence if still_there else replace(evidence, kept=None)


# --- The product is right ---------------------------------------------------------------------------------------------


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
