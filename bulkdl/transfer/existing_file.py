"""A file that is already at the final name: does it agree with what is known of it? Never overwritten unasked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.content.verify import digests
from bulkdl.core.errors import ProductFailed, TryAgain
from bulkdl.core.models import FailureKind
from bulkdl.planning.local_status import LocalFileStatus, local_status
from bulkdl.protocol.content_coding import parse_codings
from bulkdl.protocol.headers import parse_retry_after
from bulkdl.protocol.response_head import StatusClass, classify
from bulkdl.storage.os_errors import storage_error
from bulkdl.transfer.state import ExistingFile

if TYPE_CHECKING:
    from bulkdl.http.response import Response
    from bulkdl.journal.records import Entry
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["ask_archive", "ask_size", "compare_digests", "conflict", "resolve_existing_file", "resolve_named_file"]

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
        case LocalFileStatus.NEEDS_CHECKSUM:
            try:
                return await compare_digests(context, task, await context.journal.get(task.product.id))
            except ProductFailed:
                if not options.overwrite:
                    raise
        case LocalFileStatus.CONFLICTS if not options.overwrite:
            raise conflict(task, "does not agree with what is known of it")
        case LocalFileStatus.UNVERIFIABLE if options.trust_existing:
            facts = await context.storage.stat(context.storage.final(task.file or ""))
            return ExistingFile(facts.size if facts else 0, note=TRUSTED)
        case LocalFileStatus.UNVERIFIABLE if not options.overwrite:
            return await ask_archive(context, task)
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
        case LocalFileStatus.NEEDS_CHECKSUM:
            try:
                return await compare_digests(context, task, None)
            except ProductFailed:
                if not context.options.overwrite:
                    raise
        case LocalFileStatus.UNVERIFIABLE if facts is not None and not context.options.overwrite:
            if context.options.trust_existing or facts.size == remote_size:
                return ExistingFile(facts.size, note=UNVERIFIED)
            raise conflict(task, _sizes(facts.size, remote_size))
        case LocalFileStatus.CONFLICTS if not context.options.overwrite:
            raise conflict(task, "it is not what the manifest describes")
    task.overwrite = True
    return None


async def ask_archive(context: RunContext, task: DownloadTask) -> ExistingFile:
    """Ask for the size of a product whose name is taken by a file of which nothing is known.

    Raise `ProductFailed` (conflict) when the archive names another size or none.
    """
    facts = await context.storage.stat(context.storage.final(task.file or ""))
    here = facts.size if facts is not None else 0
    async with context.connections.slot(account=task.product.account, host=task.source.host):
        async with context.open(task, headers={}, method="HEAD") as reply:
            remote = _size(task, reply)
        if remote is None:  # HEAD is optional in practice, and archives that make zips on the fly know no length before
            async with context.open(task, headers={}) as reply:
                remote = _size(task, reply)
                reply.close()
                if classify(reply.head.status) in (StatusClass.LATER, StatusClass.PREPARING):
                    raise TryAgain(
                        f"{reply.url.host} answered {reply.head.status} when asked for the size of {task.file}",
                        kind=FailureKind.HTTP,
                        wait=parse_retry_after(reply.head.retry_after, now=context.clock.wall()),
                    )
    if remote != here:
        raise conflict(task, _sizes(here, remote))
    return ExistingFile(here, note=UNVERIFIED)


async def ask_size(context: RunContext, task: DownloadTask) -> int | None:
    """The size that the archive names without sending anything, None where it does not."""
    async with (
        context.connections.slot(account=task.product.account, host=task.source.host),
        context.open(task, headers={}, method="HEAD") as reply,
    ):
        return _size(task, reply)


def _size(task: DownloadTask, reply: Response) -> int | None:
    coded = parse_codings((reply.head.content_encoding,)) and not task.keeps_coding(reply)
    return reply.head.content_length if reply.head.status == 200 and not coded else None


def conflict(task: DownloadTask, why: str) -> ProductFailed:
    return ProductFailed(
        f"{task.file} is already there and {why}",
        kind=FailureKind.CONFLICT,
        hint="Move it away, or let it be replaced with --overwrite",
    )


def _sizes(here: int, remote: int | None) -> str:
    return f"has {here} bytes, and the archive names {'no size' if remote is None else f'{remote} bytes'}"
