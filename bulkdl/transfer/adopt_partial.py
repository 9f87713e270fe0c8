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
    from bulkdl.transfer.context import Bench
    from bulkdl.transfer.task import Job

__all__ = ["bury", "inherit"]


async def inherit(bench: Bench, job: Job, entry: Entry, *, same: bool) -> Entry | None:
    """The entry under the product's own id, when the archive says that it is of the `same` edition; else None."""
    left = bench.estate.heirs.pop(job.product.id, entry)
    if not same:
        return None
    bench.estate.drop(left)
    own = replace(entry, id=job.product.id, phase=Phase.PARTIAL)
    await bench.journal.put(own)
    await bench.journal.forget(entry.id)
    bench.parts[own.part or ""] = job.product.id
    return own


async def bury(bench: Bench, job: Job) -> None:
    """Remove the partials that were to be the file which `job` has brought: they never can be now."""
    file = job.file or ""
    for entry in tuple(bench.estate.by_file.get(file, ())):
        if entry.part is not None and bench.parts.get(entry.part) == entry.id:
            await bench.journal.forget(entry.id)
            with suppress(ProductFailed):  # what stays behind is no fault of the product, which is in its place
                await bench.storage.remove(bench.storage.root / entry.part)
            del bench.parts[entry.part]
    bench.estate.by_file.pop(file, None)
