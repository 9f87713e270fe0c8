"""Partials of URLs that are not in the manifest any more: a presigned URL that was renewed goes on where the old one was.

A product without a `file` is known by its whole URL, of which the query changes with every signature. What an earlier query
of the same origin and path has left is offered to the archive with its validator; only what the archive says is of the
same edition is taken over (RFC 9110 §13.1.5), so that a query that names another product costs nothing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.core.errors import ProductFailed
from bulkdl.journal.records import Phase

if TYPE_CHECKING:
    from bulkdl.journal.records import Entry
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["adopt", "discard_orphans"]


async def adopt(context: RunContext, task: DownloadTask, entry: Entry, *, same: bool) -> Entry | None:
    """The entry under the product's own id, when the archive says that it is of the `same` edition; else None."""
    left = context.orphans.adoptable.pop(task.product.id, entry)
    if not same:
        return None
    context.orphans.drop(left)
    own = replace(entry, id=task.product.id, phase=Phase.PARTIAL)
    await context.journal.put(own)
    await context.journal.forget(entry.id)
    context.parts[own.part or ""] = task.product.id
    return own


async def discard_orphans(context: RunContext, file: str) -> None:
    """Remove the orphaned partials of `file`, which is in its place now: no product can resume them any more."""
    for entry in tuple(context.orphans.by_file.get(file, ())):
        if entry.part is not None and context.parts.get(entry.part) == entry.id:
            await context.journal.forget(entry.id)
            with suppress(ProductFailed):  # what stays behind is no fault of the product, which is in its place
                await context.storage.remove(context.storage.root / entry.part)
            del context.parts[entry.part]
    context.orphans.by_file.pop(file, None)
