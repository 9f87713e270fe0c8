"""A file that is already at the final name: accept it, report a conflict, or replace it. It is replaced only on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.content.verify import digests
from bulkdl.core.errors import ProductFailed
from bulkdl.core.filenames import fold
from bulkdl.core.models import FailureKind
from bulkdl.planning.local_status import LocalFileStatus, local_status
from bulkdl.storage.file_info import check_name
from bulkdl.storage.os_errors import storage_error
from bulkdl.transfer.source_probe import ask_size
from bulkdl.transfer.state import ExistingFile

if TYPE_CHECKING:
    from bulkdl.core.models import Checksum
    from bulkdl.storage.destination import Storage
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["resolve_existing_file"]

UNVERIFIED = "existing, unverified"
"""Note on a product of whose file nothing but the size could be compared, or nothing at all (`--trust-existing`)."""


async def resolve_existing_file(
    context: RunContext, task: DownloadTask, *, name_is_new: bool = False, response_size: int | None = None
) -> ExistingFile | None:
    """Return the file at the final name if it is the product; None if the product has to be downloaded.

    `name_is_new`: only the server's response gave the name, so the plan could not check the file, and `response_size` is the
    size in that response (None if it has none). Otherwise the plan's status holds, and the archive is asked if need be.

    Raise `ProductFailed` (conflict) for a file that differs, unless it may be overwritten.
    """
    if task.file is not None:
        check_name(task.file)
    options, status, facts = context.options, task.local_status, None
    if name_is_new:
        facts = await context.storage.stat(context.storage.final(task.file or ""))
        if facts is not None and context.parts.get(fold(task.file or ""), task.product.id) != task.product.id:
            # Its size does not matter: the other product will move it away.
            raise _conflict(task.file, "is already there as the partial of another product")
        status = local_status(task.product, None, facts)
    match status:
        case LocalFileStatus.ABSENT:
            return None
        case LocalFileStatus.IN_PLACE if facts is not None:
            return ExistingFile(facts.size)
        case LocalFileStatus.NEEDS_CHECKSUM:
            entry = await context.journal.get(task.product.id)
            wanted = task.product.checksums or (entry.digests if entry is not None and entry.size is not None else ())
            context.hub.counters.flights[task.product.id].phase = "verifying"
            try:
                return await _compare_digests(context.storage, task.file or "", wanted)
            except ProductFailed:
                if not options.overwrite:
                    raise
        case LocalFileStatus.CONFLICTS if not options.overwrite:
            raise _conflict(
                task.file, "already exists, but its size or content differs from the manifest or the journal"
            )
        case LocalFileStatus.UNVERIFIABLE if options.trust_existing or not options.overwrite:
            return await _accept_unverified(context, task, name_is_new=name_is_new, response_size=response_size)
    task.overwrite, task.local_status = True, LocalFileStatus.ABSENT
    return None


async def _accept_unverified(
    context: RunContext, task: DownloadTask, *, name_is_new: bool, response_size: int | None
) -> ExistingFile:
    """Accept a file of which only the size can be compared; raise `ProductFailed` (conflict) if the archive's differs."""
    facts = await context.storage.stat(context.storage.final(task.file or ""))
    here = facts.size if facts is not None else 0
    if not context.options.trust_existing:
        remote = (
            response_size if name_is_new else await ask_size(context, task, question=f"for the size of {task.file}")
        )
        if remote is None:
            raise _conflict(
                task.file, f"exists ({here} bytes), but the archive gives no size, so it cannot be verified"
            )
        if remote != here:
            raise _conflict(task.file, f"exists ({here} bytes), but the archive has {remote} bytes")
    return ExistingFile(here, note=UNVERIFIED)


async def _compare_digests(storage: Storage, file: str, wanted: tuple[Checksum, ...]) -> ExistingFile:
    """Return the existing file if it has the `wanted` checksums; raise `ProductFailed` (conflict) otherwise."""
    path = storage.final(file)
    try:
        found = await digests(path, {c.algorithm for c in wanted}) if wanted else {}
    except OSError as error:
        raise storage_error(error, path=path, what="read", root=storage.root) from error
    wrong = [c for c in wanted if found[c.algorithm] != c.hex]
    if wrong:
        algorithm = wrong[0].algorithm
        raise _conflict(file, f"already exists, but its {algorithm} is {found[algorithm]}, expected {wrong[0].hex}")
    facts = await storage.stat(path)
    return ExistingFile(facts.size if facts else 0, wanted)


def _conflict(file: str | None, problem: str) -> ProductFailed:
    """Return the conflict of a file that must not be overwritten. `problem` follows its name."""
    return ProductFailed(
        f"{file} {problem}",
        kind=FailureKind.CONFLICT,
        hint="Move it away, or replace it with --overwrite",
    )
