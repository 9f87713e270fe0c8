"""Partials of URLs that are not in the manifest any more: a presigned URL that was renewed goes on where the old one was.

A product without a `file` is known by its whole URL, of which the query changes with every signature. What an earlier query
of the same origin and path has left is offered to the archive with its validator; only what the archive says is of the
same edition is taken over (RFC 9110 §13.1.5), so that a query that names another product costs nothing.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import field, replace
from typing import TYPE_CHECKING

from bulkdl.dataclass import dataclass
from bulkdl.errors import ProductFailed
from bulkdl.store.journal import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bulkdl.bench import Bench, Job
    from bulkdl.model import Product
    from bulkdl.store.journal import Entry

__all__ = ["Estate", "bury", "estate_of", "inherit", "offered"]


@dataclass(slots=True)
class Estate:
    """What products that are gone from the manifest have left."""

    heirs: dict[str, Entry] = field(default_factory=dict)
    """By the id of the one product of the same origin and path."""
    by_file: dict[str, list[Entry]] = field(default_factory=dict)

    def drop(self, entry: Entry) -> None:
        self.heirs = {id_: left for id_, left in self.heirs.items() if left.id != entry.id}
        if entry.file in self.by_file:
            self.by_file[entry.file] = [left for left in self.by_file[entry.file] if left.id != entry.id]


def estate_of(entries: Mapping[str, Entry], products: Iterable[Product]) -> Estate:
    """Pure. Where two could be heir, or two have left something, nobody knows which is whose: they stay as they are."""
    left = [e for e in entries.values() if e.id.startswith("url:") and e.phase in (Phase.PARTIAL, Phase.FAILED)]
    left = [entry for entry in left if entry.part is not None and entry.ranges]
    if not left:
        return Estate()
    known = {product.id: product for product in products}
    left = [entry for entry in left if entry.id not in known]
    nameless = [product for product in known.values() if product.file is None]
    claims, offers = Counter(p.url.source for p in nameless), Counter(entry.source for entry in left)
    by_source = {entry.source: entry for entry in left if offers[entry.source] == claims[entry.source] == 1}
    estate = Estate(
        {p.id: by_source[p.url.source] for p in nameless if p.url.source in by_source and p.id not in entries}
    )
    for entry in left:
        if entry.file is not None:
            estate.by_file.setdefault(entry.file, []).append(entry)
    return estate


def offered(entry: Entry) -> Entry:
    """What is asked for with it: the last byte once more where all are there, so that the archive has a say."""
    if entry.total is None:
        return entry
    last = entry.total - 1
    return replace(entry, ranges=tuple((start, min(end, last)) for start, end in entry.ranges if start < last))


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
