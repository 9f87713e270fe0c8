"""Resume the partial of a URL that is no longer in the manifest, such as a presigned URL that was renewed.

The id of a product without a `file` is its whole URL, and every signature changes the query. If an earlier query of the same
origin and path left a partial, the request offers its validator (`If-Range`). The product adopts the partial only if the
server answers with the same representation (RFC 9110 §13.1.5), so a query that names another product does no harm.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.core.errors import ProductFailed
from bulkdl.core.filenames import fold
from bulkdl.journal.records import Phase

if TYPE_CHECKING:
    from bulkdl.journal.records import Entry
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["adopt", "discard_orphans"]


async def adopt(context: RunContext, task: DownloadTask, entry: Entry, *, same: bool) -> Entry | None:
    """Return `entry` under the product's own id if the server has the `same` representation, else None."""
    orphan = context.orphans.adoptable.pop(task.product.id, entry)
    if not same:
        return None
    context.orphans.drop(orphan)
    own = replace(entry, id=task.product.id, phase=Phase.PARTIAL)
    await context.journal.put(own)
    await context.journal.forget(entry.id)
    context.parts[fold(own.part or "")] = task.product.id
    return own


async def discard_orphans(context: RunContext, file: str) -> None:
    """Remove the orphaned partials of `file`, which is in its place now: no product can resume them any more."""
    for entry in tuple(context.orphans.by_file.get(file, ())):
        if entry.part is not None and context.parts.get(fold(entry.part)) == entry.id:
            await context.journal.forget(entry.id)
            with suppress(ProductFailed):  # the product is in its place, so a partial that stays does not make it fail
                await context.storage.remove(context.storage.root / entry.part)
            del context.parts[fold(entry.part)]
    context.orphans.by_file.pop(file, None)
