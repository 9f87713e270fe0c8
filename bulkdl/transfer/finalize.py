"""From a complete partial to a product in its place.

The order is: verify, `fsync`, journal `placing` (size, mtime), rename (never over an existing file unless `--overwrite`),
`fsync` of the folder, journal `done`. If a crash falls between two steps, the next run recognises it from the journal and
`stat`, without a request. If the disk is too full for the last step, a run with `--wait-for-space` repeats that step alone;
any other run leaves it to the next one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.content.verify import check_product
from bulkdl.core.errors import ProductFailed, TryAgain
from bulkdl.core.events import Level
from bulkdl.core.filenames import fold
from bulkdl.core.models import FailureKind
from bulkdl.journal.pending_moves import placed_entry
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.name_registry import name_taken
from bulkdl.planning.unpack_folders import reserve_folder
from bulkdl.storage.os_errors import storage_error
from bulkdl.transfer.etag_check import compare_sample
from bulkdl.transfer.quarantine import clear_evidence, reject_download
from bulkdl.transfer.state import VerifiedPartial

if TYPE_CHECKING:
    from collections.abc import Collection

    from bulkdl.content.verify import Verified
    from bulkdl.core.models import Product
    from bulkdl.planning.name_registry import NameRegistry
    from bulkdl.planning.plan import PlannedProduct
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.state import ExistingFile
    from bulkdl.transfer.task import DownloadTask

__all__ = ["confirm_name", "move_into_place", "record_done", "record_existing", "report_notes", "unpack", "verify"]


async def verify(context: RunContext, task: DownloadTask, entry: Entry) -> VerifiedPartial:
    """Verify the complete partial: size, checksums and content.

    Raise `TryAgain` (restart) if the bytes are wrong and another download may help, `ProductFailed` if the source itself is
    wrong, `StorageStopped` if this machine is the cause.
    """
    context.hub.counters.flights[task.product.id].phase = "verifying"
    part, name = context.storage.root / (entry.part or ""), context.storage.final(task.file or "").name
    try:
        task.expect(entry.digests)
        known = await task.hasher.finish()
        verified = await check_product(
            part,
            task.product,
            name=name,
            content_type=task.content_type,
            known=known,
            server=task.server_digest,
            record=not task.hasher.skipped,
        )
        report_notes(context, task, verified)
        await compare_sample(context, task, entry)
        return VerifiedPartial(entry, verified.digests)
    except ProductFailed as error:
        raise await _reject(context, task, entry, error) from error
    except OSError as error:
        raise storage_error(error, path=part, what="read", root=context.storage.root) from error


def report_notes(context: RunContext, task: DownloadTask, verified: Verified) -> None:
    """Report what looked wrong with a product that has its checksum."""
    for text in verified.notes:
        context.hub.note(
            Level.WARNING, f"{text}. It is accepted, because the manifest's checksum matches", task.product
        )


async def move_into_place(context: RunContext, task: DownloadTask, checked: VerifiedPartial) -> Entry:
    """Give the product its final name, durably, and return the `done` entry. Recording it is the caller's last step.

    Raise `ProductFailed` if the name is taken. Once begun, it must run to completion, even if the run is stopped.
    """
    entry = checked.entry
    context.hub.counters.flights[task.product.id].phase = "placing"
    part, final = context.storage.root / (entry.part or ""), context.storage.final(task.file or "")
    async with context.storage.open_partial(entry.part or "") as partial:
        facts = await partial.seal()
    confirm_name(context.claims, task.product, task.file or "")
    # A file that `verify --requeue` found wrong stays REQUEUED until it is replaced: the old file may survive a crash.
    moving = Phase.REQUEUED if entry.phase is Phase.REQUEUED else Phase.PLACING
    await context.journal.put(placed_entry(entry, moving, facts, checked.verified))
    facts = await context.storage.place(part, final, overwrite=task.overwrite)
    return placed_entry(entry, Phase.DONE, facts, checked.verified)


async def unpack(context: RunContext, task: DownloadTask) -> None:
    """Unpack the product beside itself if the manifest says so. This comes before `done` is recorded, so no run skips it."""
    if not task.product.extract:
        return
    from bulkdl.content.extract import extract, folder_for  # noqa: PLC0415 - modules that only unpacking needs

    reserve_folder(context.claims, task.product, task.file or "", for_good=True)
    final = context.storage.final(task.file or "")
    context.hub.counters.flights[task.product.id].phase = "extracting"
    try:
        await extract(final, final.parent / folder_for(final.name))
    except OSError as error:
        raise storage_error(error, path=final, what="extract", root=context.storage.root) from error


async def record_done(context: RunContext, items: Collection[PlannedProduct]) -> None:
    """Finish the renames that a crash interrupted after the final name existed: remove the partial's name, record `done`."""
    for item in items:
        entry = item.entry
        if item.local_status is not LocalFileStatus.IN_PLACE or entry is None or entry.part is None:
            continue
        if entry.phase in (Phase.PLACING, Phase.REQUEUED):
            await context.storage.remove(context.storage.root / entry.part)
            await context.journal.put(replace(entry, phase=Phase.DONE, ranges=(), part=None))
    if context.evidence:
        for item in items:
            if item.local_status is LocalFileStatus.IN_PLACE:
                await clear_evidence(
                    item.product.id, context.evidence, storage=context.storage, journal=context.journal
                )


async def record_existing(context: RunContext, task: DownloadTask, existing: ExistingFile) -> None:
    """Record a file that was there before as the product, unpacked if the manifest says so.

    Raise `ProductFailed` (conflict) if the file belongs to another product or has been removed meanwhile.
    """
    facts = await context.storage.stat(context.storage.final(task.file or ""))
    other = context.claims.confirm(task.file or "", task.product.index)
    if other is not None:
        raise name_taken(f"{task.file} is already there", other)
    if facts is None:
        raise ProductFailed(
            f"{task.file} was there a moment ago and has been removed since",
            kind=FailureKind.CONFLICT,
            hint="Run the same command again to download it",
        )
    await unpack(context, task)
    before = await context.journal.get(task.product.id)
    if before is not None and before.part is not None and context.parts.get(fold(before.part)) == task.product.id:
        await context.storage.remove(context.storage.root / before.part)
    await context.journal.put(
        Entry(
            id=task.product.id,
            phase=Phase.DONE,
            file=task.file,
            source=task.source.source,
            total=existing.size,
            size=facts.size,
            mtime_ns=facts.mtime_ns,
            digests=existing.digests,
            note=existing.note or (before.note if before is not None and not existing.digests else ""),
            updated=context.clock.wall(),
        )
    )


async def _reject(
    context: RunContext, task: DownloadTask, entry: Entry, error: ProductFailed
) -> TryAgain | ProductFailed:
    """Discard bytes that are not the product; return `TryAgain` unless two downloads failed for the same reason."""
    if (
        error.kind is FailureKind.CHECKSUM
        and task.product.checksums
        and (rejected := await reject_download(context, task, entry, error)) is not None
    ):
        return rejected
    await context.journal.put(replace(entry, ranges=(), total=None, etag=None, last_modified=None, digests=()))
    await context.storage.remove(context.storage.root / (entry.part or ""))
    failed_before = error.reason in task.rejections.reasons
    task.rejections.reasons.append(error.reason)
    if failed_before and len(task.rejections.reasons) >= len(task.product.sources):
        return ProductFailed(
            f"{error.reason}. Two downloads gave the same result, so the file is wrong at the source",
            kind=error.kind,
            hint=error.hint or "Check the checksum in the manifest, or report it to the archive",
        )
    return TryAgain(error.reason, kind=error.kind, hint=error.hint, restart=True, limit=3 * len(task.product.sources))


def confirm_name(claims: NameRegistry, product: Product, file: str) -> None:
    """Give `product` the name `file` for good; raise `ProductFailed` (conflict) if another product has it."""
    other = claims.confirm(file, product.index)
    if other is not None:
        raise name_taken(f"this product cannot have the name {file}", other)
    reserve_folder(claims, product, file, for_good=True)
