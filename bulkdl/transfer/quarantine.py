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
from bulkdl.core.models import Checksum, FailureKind
from bulkdl.journal.records import Entry, Phase
from bulkdl.protocol.bad_source import Evidence, Look, Seen, accused, look
from bulkdl.protocol.headers import parse_retry_after, strong_date, strong_etag
from bulkdl.protocol.response_head import StatusClass, classify
from bulkdl.protocol.server_quirks import Sight
from bulkdl.storage.filesystem import STATE_FOLDER
from bulkdl.storage.os_errors import storage_error
from bulkdl.transfer.state import Refusal

if TYPE_CHECKING:
    from pathlib import Path

    from bulkdl.http.response import Reply
    from bulkdl.transfer.context import Bench
    from bulkdl.transfer.task import Job

__all__ = ["FOLDER", "look_again", "pardon", "refuse"]

FOLDER = f"{STATE_FOLDER}/faulty"
_MOST_NAME = 100
"""Bytes of a product's own name that are used here."""
_NUMBERS = {2: "two", 3: "three"}


# --- Wrong bytes have come --------------------------------------------------------------------------------------------


async def refuse(bench: Bench, job: Job, entry: Entry, error: ProductFailed) -> TryAgain | ProductFailed | None:
    """What follows from a complete partial that is not the product: another fetch, or the proof that none will help.

    None where it is not another checksum than the manifest's. Raise `StorageStopped`.
    """
    emptied = replace(entry, ranges=(), total=None, etag=None, last_modified=None)
    again = TryAgain(error.reason, kind=error.kind, hint=error.hint, restart=True, limit=3 * len(job.product.sources))
    if (entry.part or "").startswith(f"{FOLDER}/"):  # it was no fetch: what was kept is not what it was
        await bench.journal.put(replace(emptied, part=None))
        await _drop(bench, entry.part)
        return again
    latest = await _testimony(bench, job, entry)
    if set(latest.expected) <= set(latest.found):
        return None
    before = bench.evidence.get(job.product.id)
    _compare_marks(bench, before, job, latest)
    refusal = Refusal(job.source_index, frozenset(latest.found), latest.seen[0])
    earlier = sum(1 for r in job.wrong_bytes if r.found == refusal.found)
    job.wrong_bytes.append(refusal)
    tried = {r.source_index for r in job.wrong_bytes} | job.dead_sources
    evidence = accused(before, latest, earlier=earlier, everywhere=len(tried) >= len(job.product.sources))
    place = kept_name(job.product.id, job.shown)
    if evidence.kept not in (None, place):
        await _drop(bench, evidence.kept)
    # Named in a suspicion too: whatever a crash leaves there goes when the product is right.
    there = not evidence.proven or await _keep(bench, job, entry, place)
    evidence = replace(evidence, kept=place if there else None)
    await bench.journal.accuse(emptied, evidence)
    bench.evidence[job.product.id] = evidence
    await bench.storage.remove(bench.storage.root / (entry.part or ""))
    return _failure(job, evidence, known=False) if evidence.proven else again


async def _testimony(bench: Bench, job: Job, entry: Entry) -> Evidence:
    """What this one fetch says, with the marks that the look before it, if there was one, has shown of the edition."""
    path = bench.storage.root / (entry.part or "")
    try:
        found = await digests(path, {c.algorithm for c in job.product.checksums})
    except OSError as error:
        raise storage_error(error, path=path, what="read", root=bench.storage.root) from error
    facts = await bench.storage.stat(path)
    size = facts.size if facts is not None else 0
    own = Seen(source=entry.source, size=size, etag=entry.etag, last_modified=entry.last_modified)
    looked = tuple(seen for seen in job.looked if seen.source == entry.source)
    return Evidence(
        id=job.product.id,
        expected=job.product.checksums,
        found=tuple(Checksum(algorithm, found[algorithm]) for algorithm in sorted(found)),
        size=size,
        fetches=1,
        proven=False,
        at=bench.clock.wall(),
        seen=(own, *looked),
    )


def _compare_marks(bench: Bench, before: Evidence | None, job: Job, latest: Evidence) -> None:
    """The same bytes with another strong ETag: this host's ETags change without them."""
    own = latest.seen[0]
    others = [r.seen for r in job.wrong_bytes if r.found == frozenset(latest.found)]
    if before is not None and set(before.found) == set(latest.found):
        others += before.seen
    told = {tag for s in others if s.source == own.source and (tag := strong_etag(s.etag)) is not None}
    if strong_etag(own.etag) and told and own.etag not in told:
        bench.hosts.note(job.source.origin, Sight.ETAG_CHANGED)


async def _keep(bench: Bench, job: Job, entry: Entry, place: str) -> bool:
    """Move the partial to `place`; False where that cannot be, which is no reason to fail otherwise.

    Before the journal knows: a crash in between costs one more fetch.
    """
    part = bench.storage.root / (entry.part or "")
    try:
        async with bench.storage.open_partial(entry.part or "") as partial:
            await partial.seal()
        await bench.storage.place(part, bench.storage.root / place, overwrite=True)
    except (ProductFailed, StorageStopped) as error:
        if isinstance(error, StorageStopped) and not error.full:
            raise
        bench.hub.note(Level.WARNING, f"what came of {job.shown} was not kept: {error.reason}", job.product)
        await _drop(bench, place)  # the bytes of a fetch before
        return False
    return True


def kept_name(id: str, shown: str) -> str:  # noqa: A002
    """Where the bytes of a faulty product are kept, relative to the destination: one place for each product."""
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    name = shown.rpartition("/")[2]
    return f"{FOLDER}/{digest}-{name}" if len(os.fsencode(name)) <= _MOST_NAME else f"{FOLDER}/{digest}"


def _failure(job: Job, evidence: Evidence, *, known: bool) -> ProductFailed:
    """The same words whenever it is said; `known`: nothing was fetched this time."""
    wrong = [c for c in evidence.found if c not in evidence.expected]
    wanted = {c.algorithm: c for c in evidence.expected}
    said = "; ".join(f"expected {wanted[c.algorithm]}, found {c}" for c in wrong if c.algorithm in wanted)
    times = _NUMBERS.get(evidence.fetches, str(evidence.fetches))
    reason = f"{job.shown} does not match its checksum: {said} ({times} fetches agree: the product is like that at the source)"
    if known:
        day = datetime.fromtimestamp(evidence.at).astimezone().strftime("%Y-%m-%d %H:%M")
        reason += f"; not fetched again, as the archive shows no other edition than at the last fetch ({day})"
    hint = "Report it to the archive, or correct the checksum in the manifest"
    kept = f"; what came is kept as {evidence.kept}" if evidence.kept is not None else ""
    return ProductFailed(reason, kind=FailureKind.CHECKSUM, hint=hint + kept)


# --- The next run -----------------------------------------------------------------------------------------------------


async def look_again(bench: Bench, job: Job) -> Entry | None:
    """Find out, before a product that was found faulty is fetched again, whether there is any reason to.

    None when there is; an entry, complete and to be verified, when the bytes that were kept are what the manifest wants now.
    Raise `ProductFailed` when the archive still has the edition that is known to be wrong, `TryAgain` when it cannot say.
    """
    evidence = bench.evidence.get(job.product.id)
    wanted = job.product.checksums
    if evidence is None or job.cleared or bench.options.overwrite or not (evidence.proven and wanted):
        return None
    if set(evidence.expected) != set(wanted):
        job.cleared = True
        return await _from_kept(bench, job, evidence)
    if not await _has_other_edition(bench, job, evidence):
        raise _failure(job, await _still_kept(bench, evidence), known=True)
    job.cleared = True
    return None


async def _has_other_edition(bench: Bench, job: Job, evidence: Evidence) -> bool:
    """Whether a source may have something else now; the job is left at that source."""
    fault: TryAgain | ProductFailed | None = None
    stands = False
    for index in range(len(job.product.sources)):
        job.source_index = index
        try:
            if await _look(bench, job, evidence) is Look.ANEW:
                return True
        except (TryAgain, ProductFailed) as error:
            fault = fault or error
        else:
            stands = True
    job.source_index = 0
    if fault is not None and not stands:
        raise fault
    return False


async def _look(bench: Bench, job: Job, evidence: Evidence) -> Look:
    """Ask a source for the marks of what it has, not for the body (RFC 9110 §9.3.2)."""
    bench.hub.counters.flights[job.product.id].phase = "checking"
    async with bench.connections.permit(account=job.product.account, host=job.source.host):
        async with bench.open(job, headers={}, method="HEAD") as reply:
            if reply.head.status == 200:
                return _judge(bench, job, evidence, reply)
        async with bench.open(job, headers={}) as reply:  # HEAD is optional in practice
            reply.close()
            if reply.head.status == 200:
                return _judge(bench, job, evidence, reply)
            if classify(reply.head.status) in (StatusClass.LATER, StatusClass.PREPARING):
                raise TryAgain(
                    f"{reply.url.host} answered {reply.head.status} when asked whether {job.shown} has changed",
                    kind=FailureKind.HTTP,
                    wait=parse_retry_after(reply.head.retry_after, now=bench.clock.wall()),
                )
    return Look.ANEW  # it was not like that before: the ordinary way says what it means


def _judge(bench: Bench, job: Job, evidence: Evidence, reply: Reply) -> Look:
    head, source = reply.head, job.source.source
    modified = strong_date(head.last_modified, head.date)
    job.looked.append(Seen(source=source, size=head.content_length or None, etag=head.etag, last_modified=modified))
    trust = not bench.hosts.has_moody_etags(job.source.origin)
    return look(evidence, source, head, now=bench.clock.wall(), trust_etag=trust)


async def _from_kept(bench: Bench, job: Job, evidence: Evidence) -> Entry | None:
    """The kept bytes as a complete partial, where they have the checksums that the manifest names now."""
    evidence = await _still_kept(bench, evidence)
    file = job.file or job.product.file
    if evidence.kept is None or file is None:
        return None
    found = {c.algorithm: c.hex for c in evidence.found}
    wanted = {c.algorithm: c.hex for c in job.product.checksums}
    if any(found.get(algorithm, hex_) != hex_ for algorithm, hex_ in wanted.items()):
        return None
    path = bench.storage.root / evidence.kept
    try:
        found |= await digests(path, wanted.keys() - found.keys())
    except OSError as error:
        raise storage_error(error, path=path, what="read", root=bench.storage.root) from error
    if any(found[algorithm] != hex_ for algorithm, hex_ in wanted.items()):
        return None
    before = await bench.journal.get(job.product.id)
    job.file, job.part, job.resumed = file, evidence.kept, evidence.size
    bench.hub.note(Level.INFO, f"{job.shown}: what was kept apart matches the manifest now", job.product)
    return Entry(
        id=job.product.id,
        phase=Phase.REQUEUED if before is not None and before.phase is Phase.REQUEUED else Phase.PARTIAL,
        file=file,
        source=evidence.seen[0].source if evidence.seen else "",
        total=evidence.size,
        ranges=((0, evidence.size),) if evidence.size else (),
        part=evidence.kept,
        updated=bench.clock.wall(),
    )


async def _still_kept(bench: Bench, evidence: Evidence) -> Evidence:
    """`evidence`, naming a place only where the bytes still are."""
    if evidence.kept is None:
        return evidence
    facts = await bench.storage.stat(bench.storage.root / evidence.kept)
    there = facts is not None and facts.is_file and facts.size == evidence.size
    return evidence if there else replace(evidence, kept=None)


# --- The product is there ---------------------------------------------------------------------------------------------


async def pardon(bench: Bench, id: str) -> None:  # noqa: A002
    """Nothing speaks against the product any more: forget the evidence and remove what was kept."""
    evidence = bench.evidence.pop(id, None)
    if evidence is None:
        return
    await _drop(bench, evidence.kept)
    await bench.journal.drop_evidence(id)


async def _drop(bench: Bench, kept: str | None) -> None:
    path: Path | None = bench.storage.root / kept if kept is not None else None
    if path is not None:
        with suppress(ProductFailed, StorageStopped):  # the product is in its place; this was for people to look at
            await bench.storage.remove(path)
