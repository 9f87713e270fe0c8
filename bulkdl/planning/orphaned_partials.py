"""Partials of URLs that are not in the manifest any more, and the products that may take them over."""

from __future__ import annotations

from collections import Counter
from dataclasses import field, replace
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.journal.records import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bulkdl.core.models import Product
    from bulkdl.journal.records import Entry


__all__ = ["OrphanedPartials", "as_offer", "find_orphans"]


@dataclass(slots=True)
class OrphanedPartials:
    """What products that are gone from the manifest have left."""

    adoptable: dict[str, Entry] = field(default_factory=dict)
    """By the id of the one product of the same origin and path."""
    by_file: dict[str, list[Entry]] = field(default_factory=dict)

    def drop(self, entry: Entry) -> None:
        self.adoptable = {id_: left for id_, left in self.adoptable.items() if left.id != entry.id}
        if entry.file in self.by_file:
            self.by_file[entry.file] = [left for left in self.by_file[entry.file] if left.id != entry.id]


def find_orphans(entries: Mapping[str, Entry], products: Iterable[Product]) -> OrphanedPartials:
    """Pure. Where two could be heir, or two have left something, nobody knows which is whose: they stay as they are."""
    left = [e for e in entries.values() if e.id.startswith("url:") and e.phase in (Phase.PARTIAL, Phase.FAILED)]
    left = [entry for entry in left if entry.part is not None and entry.ranges]
    if not left:
        return OrphanedPartials()
    known = {product.id: product for product in products}
    left = [entry for entry in left if entry.id not in known]
    nameless = [product for product in known.values() if product.file is None]
    claims, offers = Counter(p.url.source for p in nameless), Counter(entry.source for entry in left)
    by_source = {entry.source: entry for entry in left if offers[entry.source] == claims[entry.source] == 1}
    estate = OrphanedPartials(
        {p.id: by_source[p.url.source] for p in nameless if p.url.source in by_source and p.id not in entries}
    )
    for entry in left:
        if entry.file is not None:
            estate.by_file.setdefault(entry.file, []).append(entry)
    return estate


def as_offer(entry: Entry) -> Entry:
    """What is asked for with it: the last byte once more where all are there, so that the archive has a say."""
    if entry.total is None:
        return entry
    last = entry.total - 1
    return replace(entry, ranges=tuple((start, min(end, last)) for start, end in entry.ranges if start < last))
