"""A file that is already at the final name: does it agree with what is known of it? Never overwritten unasked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.content.verify import digests
from bulkdl.core.errors import ProductFailed
from bulkdl.core.models import FailureKind
from bulkdl.planning.local_status import LocalFileStatus, local_status
from bulkdl.storage.os_errors import storage_error
from bulkdl.transfer.source_probe import ask_size
from bulkdl.transfer.state import ExistingFile

if TYPE_CHECKING:
    from bulkdl.journal.records import Entry
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["compare_digests", "conflict", "resolve_existing_file", "resolve_named_file"]

UNVERIFIED = "existing, unverified"
TRUSTED = "existing, trusted unseen"


async def resolve_existing_file(context: RunContext, task: DownloadTask) -> ExistingFile | None:
    """What a file that is already at a known final name makes of the job; None when there is something to fetch.

    Raise `ProductFailed` (conflict) for one that disagrees, unless it may be overwritten.
    """
    options = context.options
    match task.local_status:
        case LocalFileStatus.ABSENT:
            return None
        case LocalFileStatus.HASH:
            try:
                return await compare_digests(context, task, await context.journal.get(task.product.id))
            except ProductFailed:
                if not options.overwrite:
                    raise
        case LocalFileStatus.DISAGREES if not options.overwrite:
            raise conflict(task, "does not agree with what is known of it")
        case LocalFileStatus.UNKNOWN if options.trust_existing:
            facts = await context.storage.stat(context.storage.final(task.file or ""))
            return ExistingFile(facts.size if facts else 0, note=TRUSTED)
        case LocalFileStatus.UNKNOWN if not options.overwrite:
            return await _ask_archive(context, task)
    task.overwrite, task.local_status = True, LocalFileStatus.ABSENT
    return None


async def compare_digests(context: RunContext, task: DownloadTask, entry: Entry | None) -> ExistingFile:
    """Read the file that is there; raise `ProductFailed` (conflict) when a checksum is another."""
    path = context.storage.final(task.file or "")
    wanted = task.product.checksums or (entry.digests if entry is not None else ())
    flight = context.hub.counters.flights[task.product.id]
    flight.phase = "verifying"
    try:
        found = await digests(path, {c.algorithm for c in wanted}) if wanted else {}
    except OSError as error:
        raise storage_error(error, path=path, what="read", root=context.storage.root) from error
    wrong = [c for c in wanted if found[c.algorithm] != c.hex]
    if wrong:
        raise conflict(task, f"its {wrong[0].algorithm} is {found[wrong[0].algorithm]}, expected {wrong[0].hex}")
    facts = await context.storage.stat(path)
    return ExistingFile(facts.size if facts else 0, tuple(wanted))


async def resolve_named_file(
    context: RunContext, task: DownloadTask, *, remote_size: int | None
) -> ExistingFile | None:
    """What a name that only the server knew leads to: None when nothing is there (or it may be replaced)."""
    facts = await context.storage.stat(context.storage.final(task.file or ""))
    if facts is not None and context.parts.get(task.file or "", task.product.id) != task.product.id:
        raise conflict(task, "is the partial of another product")  # whatever its size: it will move away
    match local_status(task.product, None, facts):
        case LocalFileStatus.ABSENT:
            return None
        case LocalFileStatus.IN_PLACE if facts is not None:
            return ExistingFile(facts.size)
        case LocalFileStatus.HASH:
            try:
                return await compare_digests(context, task, None)
            except ProductFailed:
                if not context.options.overwrite:
                    raise
        case LocalFileStatus.UNKNOWN if facts is not None and not context.options.overwrite:
            if context.options.trust_existing or facts.size == remote_size:
                return ExistingFile(facts.size, note=UNVERIFIED)
            raise conflict(task, _sizes(facts.size, remote_size))
        case LocalFileStatus.DISAGREES if not context.options.overwrite:
            raise conflict(task, "it is not what the manifest describes")
    task.overwrite = True
    return None


async def _ask_archive(context: RunContext, task: DownloadTask) -> ExistingFile:
    """Ask for the size of a product whose name is taken by a file of which nothing is known.

    Raise `ProductFailed` (conflict) when the archive names another size or none.
    """
    facts = await context.storage.stat(context.storage.final(task.file or ""))
    here = facts.size if facts is not None else 0
    remote = await ask_size(context, task, question=f"for the size of {task.file}")
    if remote != here:
        raise conflict(task, _sizes(here, remote))
    return ExistingFile(here, note=UNVERIFIED)


def conflict(task: DownloadTask, why: str) -> ProductFailed:
    return ProductFailed(
        f"{task.file} is already there and {why}",
        kind=FailureKind.CONFLICT,
        hint="Move it away, or let it be replaced with --overwrite",
    )


def _sizes(here: int, remote: int | None) -> str:
    return f"has {here} bytes, and the archive names {'no size' if remote is None else f'{remote} bytes'}"
