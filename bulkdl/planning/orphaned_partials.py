"""Partials of URLs that are no longer in the manifest, and the products that may adopt them.

A product without a `file` is identified by its whole URL, which a new signature of a presigned URL changes. Its partial
is offered to the archive with the recorded validator. It is adopted only if the response is of the same version.
"""

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


__all__ = ["OrphanedPartials", "find_orphans", "without_last_byte"]


@dataclass(slots=True)
class OrphanedPartials:
    """Partials of products that are no longer in the manifest."""

    adoptable: dict[str, Entry] = field(default_factory=dict)
    """Journal entries by id of the only product with the same origin and path."""
    by_file: dict[str, list[Entry]] = field(default_factory=dict)
    """Journal entries by the file name that they had."""

    def drop(self, entry: Entry) -> None:
        self.adoptable = {id_: left for id_, left in self.adoptable.items() if left.id != entry.id}
        if entry.file in self.by_file:
            self.by_file[entry.file] = [left for left in self.by_file[entry.file] if left.id != entry.id]


def find_orphans(entries: Mapping[str, Entry], products: Iterable[Product]) -> OrphanedPartials:
    """Find the orphaned partials. Pure.

    If two products could adopt a partial, or two partials match one product, none is adopted and all stay on disk.
    """
    left = [e for e in entries.values() if e.id.startswith("url:") and e.phase in (Phase.PARTIAL, Phase.FAILED)]
    left = [entry for entry in left if entry.part is not None and entry.ranges]
    if not left:
        return OrphanedPartials()
    known = {product.id: product for product in products}
    left = [entry for entry in left if entry.id not in known]
    nameless = [product for product in known.values() if product.file is None]
    wanted, offered = Counter(p.url.source for p in nameless), Counter(entry.source for entry in left)
    by_source = {entry.source: entry for entry in left if offered[entry.source] == wanted[entry.source] == 1}
    orphans = OrphanedPartials(
        {p.id: by_source[p.url.source] for p in nameless if p.url.source in by_source and p.id not in entries}
    )
    for entry in left:
        if entry.file is not None:
            orphans.by_file.setdefault(entry.file, []).append(entry)
    return orphans


def without_last_byte(entry: Entry) -> Entry:
    """Return `entry` without its last byte, so that even for a complete partial a request checks its validator."""
    if entry.total is None:
        return entry
    last = entry.total - 1
    return replace(entry, ranges=tuple((start, min(end, last)) for start, end in entry.ranges if start < last))
