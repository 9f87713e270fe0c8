"""From a complete partial to a product in its place: verify, make durable, record the intent, rename, record the end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.content.verify import check_product
from bulkdl.core.errors import ProductFailed, TryAgain
from bulkdl.core.models import FailureKind
from bulkdl.journal.pending_moves import placed_entry
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.local_status import Standing
from bulkdl.planning.unpack_folders import claim_folder
from bulkdl.storage.os_errors import storage_error
from bulkdl.transfer.etag_check import hear
from bulkdl.transfer.quarantine import pardon, refuse
from bulkdl.transfer.state import Checked

if TYPE_CHECKING:
    from collections.abc import Collection

    from bulkdl.planning.plan import Item
    from bulkdl.storage.file_info import FileFacts
    from bulkdl.transfer.context import Bench
    from bulkdl.transfer.state import Settled
    from bulkdl.transfer.task import Job

__all__ = ["check", "conclude", "confirm_name", "move", "record_settled", "unpack"]


async def check(bench: Bench, job: Job, entry: Entry) -> Checked:
    """Hold the complete partial against everything that is known of the product.

    Raise `TryAgain` (restart) when the bytes are wrong and another fetch may mend that, `ProductFailed` when the source
    itself is wrong, `StorageStopped` when this machine is in the way.
    """
    bench.hub.counters.flights[job.product.id].phase = "verifying"
    part, name = bench.storage.root / (entry.part or ""), bench.storage.final(job.file or "").name
    try:
        known = await job.follower.finish()
        verified = await check_product(part, job.product, name=name, content_type=job.content_type, known=known)
        await hear(bench, job, entry)
        return Checked(entry, verified)
    except ProductFailed as error:
        raise await _wrong(bench, job, entry, error) from error
    except OSError as error:
        raise storage_error(error, path=part, what="read", root=bench.storage.root) from error


async def move(bench: Bench, job: Job, checked: Checked) -> Entry:
    """Give the product its final name, durably; the entry that says so. `record` is the last step.

    Raise `ProductFailed` when the name is taken. To be run to its end once it has begun, also when the run is stopped.
    """
    entry = checked.entry
    bench.hub.counters.flights[job.product.id].phase = "placing"
    part, final = bench.storage.root / (entry.part or ""), bench.storage.final(job.file or "")
    async with bench.storage.open_partial(entry.part or "") as partial:
        facts = await partial.seal()
    confirm_name(bench, job)
    # What `verify` found wrong stays to be replaced until that has happened: the old file may survive a crash.
    moving = Phase.REQUEUED if entry.phase is Phase.REQUEUED else Phase.PLACING
    await bench.journal.put(placed_entry(entry, moving, facts, checked.verified))
    facts = await bench.storage.place(part, final, overwrite=job.overwrite)
    return placed_entry(entry, Phase.DONE, facts, checked.verified)


async def unpack(bench: Bench, job: Job) -> None:
    """Unpack the product beside itself where that is wished: before it is recorded as done, so that no run skips it."""
    if not job.product.extract:
        return
    from bulkdl.content.extract import extract, folder_for  # noqa: PLC0415 - all that unpacks, only where that is wished

    claim_folder(bench.claims, job.product, job.file or "", for_good=True)
    final = bench.storage.final(job.file or "")
    bench.hub.counters.flights[job.product.id].phase = "extracting"
    try:
        await extract(final, final.parent / folder_for(final.name))
    except OSError as error:
        raise storage_error(error, path=final, what="extract", root=bench.storage.root) from error


async def conclude(bench: Bench, items: Collection[Item]) -> None:
    """Finish the moves that a crash cut short after the final name was given: drop the partial's name, record the end."""
    for item in items:
        entry = item.entry
        if item.standing is not Standing.IN_PLACE or entry is None or entry.part is None:
            continue
        if entry.phase in (Phase.PLACING, Phase.REQUEUED):
            await bench.storage.remove(bench.storage.root / entry.part)
            await bench.journal.put(replace(entry, phase=Phase.DONE, ranges=(), part=None))
    if bench.evidence:
        for item in items:
            if item.standing is Standing.IN_PLACE:
                await pardon(bench, item.product.id)


async def record_settled(bench: Bench, job: Job, settled: Settled, facts: FileFacts) -> None:
    """Remember a file that was there before as the product that it is, unpacked where that is wished."""
    await unpack(bench, job)
    before = await bench.journal.get(job.product.id)
    if before is not None and before.part is not None and bench.parts.get(before.part) == job.product.id:
        await bench.storage.remove(bench.storage.root / before.part)
    await bench.journal.put(
        Entry(
            id=job.product.id,
            phase=Phase.DONE,
            file=job.file,
            source=job.source.source,
            total=settled.size,
            size=facts.size,
            mtime_ns=facts.mtime_ns,
            digests=settled.digests,
            note=settled.note or (before.note if before is not None and not settled.digests else ""),
            updated=bench.clock.wall(),
        )
    )


async def _wrong(bench: Bench, job: Job, entry: Entry, error: ProductFailed) -> TryAgain | ProductFailed:
    """The bytes are not the product: forget them; once more if they may have been harmed on the way."""
    if error.kind is FailureKind.CHECKSUM and (refused := await refuse(bench, job, entry, error)) is not None:
        return refused
    await bench.journal.put(replace(entry, ranges=(), total=None, etag=None, last_modified=None))
    await bench.storage.remove(bench.storage.root / (entry.part or ""))
    agreed = error.reason in job.refusals
    job.refusals.append(error.reason)
    if agreed and len(job.refusals) >= len(job.product.sources):
        return ProductFailed(
            f"{error.reason} (two fetches agree: the product is like that at the source)",
            kind=error.kind,
            hint=error.hint or "Check the checksum in the manifest, or report it to the archive",
        )
    return TryAgain(error.reason, kind=error.kind, hint=error.hint, restart=True, limit=3 * len(job.product.sources))


def confirm_name(bench: Bench, job: Job) -> None:
    """Take the name for good; raise `ProductFailed` (conflict) where another product has it."""
    other = bench.claims.finish(job.file or "", job.product.index)
    if other is not None:
        raise ProductFailed(
            f"product {other + 1} of the manifest has the name {job.file}",
            kind=FailureKind.CONFLICT,
            hint="Give one of them a `file` of its own",
        )
    claim_folder(bench.claims, job.product, job.file or "", for_good=True)
