"""Plan of a run: which products are in place, in conflict, or to download; from journal and disk, without requests."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bulkdl.core.errors import UsageError
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Outcome, State
from bulkdl.journal.records import Phase
from bulkdl.planning.local_status import LocalFileStatus, local_status
from bulkdl.planning.unpack_folders import folder_of, occupy_folders
from bulkdl.protocol.byte_ranges import cover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from bulkdl.core.models import Product
    from bulkdl.journal.records import Entry
    from bulkdl.planning.name_registry import NameRegistry
    from bulkdl.storage.file_info import FileFacts

    ReadFacts = Callable[[Iterable[str]], Mapping[str, FileFacts | None]]
    """From relative names to the facts about the files on disk."""

__all__ = ["BATCH", "PlanBuilder", "PlannedProduct", "in_place", "selected"]

BATCH = 2000
"""Number of products that are looked up in journal and disk together."""


@dataclass(frozen=True, slots=True)
class PlannedProduct:
    """A product with its state before the run."""

    product: Product
    entry: Entry | None
    """Journal entry; None, too, if the product is in place and the entry is no longer needed."""
    file: str | None
    local_status: LocalFileStatus

    @property
    def shown(self) -> str:
        return self.file or self.product.expected_file

    @property
    def size(self) -> int | None:
        """Bytes of the whole product; None if unknown."""
        if self.product.size is not None:
            return self.product.size
        return self.entry.total if self.entry is not None else None

    @property
    def have(self) -> int:
        """Bytes of the partial that are durably on disk."""
        return cover(self.entry.ranges) if self.entry is not None else 0


def selected(products: Iterable[Product], patterns: tuple[str, ...]) -> list[Product]:
    """Return the products whose file name, or its last part, matches one of the globs; all if there are no globs.

    Raise `UsageError` if none matches: a run of nothing would end as a success.
    """
    every = list(products)
    if not patterns or not every:
        return every
    found = [p for p in every if any(_matches(p.expected_file, pattern) for pattern in patterns)]
    if not found:
        raise UsageError(
            f"no product matches --select {' '.join(map(repr, patterns))}",
            hint=f"The manifest has {len(every):,} products, such as {every[0].expected_file!r}",
        )
    return found


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)


def in_place(item: PlannedProduct, destination: Path) -> Outcome:
    """Return the outcome of a product that was in place before the run."""
    note = item.entry.note if item.entry is not None else ""
    return Outcome(product=item.product, state=State.SKIPPED, file=item.shown, destination=destination, note=note)


class PlanBuilder:
    """Compares products with journal and disk, and reserves every known name.

    Add products in batches, in the manifest's order. Entries of products in place are dropped, which bounds the memory.
    """

    def __init__(self, read_facts: ReadFacts, names: NameRegistry) -> None:
        self._read_facts = read_facts
        self._names = names
        self._items: list[PlannedProduct] = []
        self._unproven: list[PlannedProduct] = []
        self._lost_name: set[int] = set()

    def add(self, products: Sequence[Product], entries: Mapping[str, Entry]) -> None:
        """Plan the next `products`; `entries` are their journal entries by id. Raise what `read_facts` raises."""
        known = [(p, entries.get(p.id)) for p in products]
        files = [p.file if p.file is not None else (e.file if e is not None else None) for p, e in known]
        facts = self._read_facts(file for file in files if file is not None)
        items = [
            PlannedProduct(p, e, file, local_status(p, e, facts[file] if file is not None else None))
            for (p, e), file in zip(known, files, strict=True)
        ]
        for item in self._mark_missing_folders(items):
            if item.local_status is LocalFileStatus.IN_PLACE and _unproven(item):
                self._unproven.append(item)
            elif item.local_status is LocalFileStatus.IN_PLACE and not _confirm_name(item, self._names):
                self._lost_name.add(item.product.index)
            else:
                item = _without_entry(item)  # noqa: PLW2901
            self._items.append(item)

    def build(self) -> list[PlannedProduct]:
        """Return the plan of every product, after all have been added."""
        items, names = self._items, self._names
        self._lost_name.update(item.product.index for item in self._unproven if not _confirm_name(item, names))
        for item in items:
            # Products in place have confirmed their name already, or lost it.
            if item.file is not None and item.local_status is not LocalFileStatus.IN_PLACE:
                names.reserve(item.file, item.product.index)
        if any(item.product.extract for item in items):
            _reserve_folders(items, names)
        if not self._lost_name:
            return items
        return [
            replace(i, local_status=LocalFileStatus.ABSENT) if i.product.index in self._lost_name else i for i in items
        ]

    def _mark_missing_folders(self, items: list[PlannedProduct]) -> list[PlannedProduct]:
        """Mark products in place whose unpacked folder is missing, since `extract` may be new in the manifest."""
        folders = {
            item.product.index: folder
            for item in items
            if item.local_status is LocalFileStatus.IN_PLACE
            and (folder := folder_of(item.product, item.file)) is not None
        }
        if not folders:
            return items
        found = self._read_facts(folders.values())
        missing = {index for index, folder in folders.items() if found[folder] is None}
        return [
            replace(item, local_status=LocalFileStatus.NEEDS_CHECKSUM) if item.product.index in missing else item
            for item in items
        ]


def _reserve_folders(items: list[PlannedProduct], names: NameRegistry) -> None:
    """Reserve folders, those of finished products first; other conflicts fail when their product is unpacked."""
    occupy_folders(names, ((item.product, item.file) for item in items if item.file is not None))
    folders = [(item, folder) for item in items if (folder := folder_of(item.product, item.file)) is not None]
    for item, folder in folders:
        if item.local_status is LocalFileStatus.IN_PLACE:
            names.confirm(folder, item.product.index)
    for item, folder in folders:
        names.reserve(folder, item.product.index)


def _unproven(item: PlannedProduct) -> bool:
    """Return whether the file in place may belong to another product, since this one was not moved there by a run."""
    return item.entry is None or item.entry.phase not in (Phase.DONE, Phase.PLACING)


def _without_entry(item: PlannedProduct) -> PlannedProduct:
    entry = item.entry
    if item.local_status is not LocalFileStatus.IN_PLACE or entry is None or entry.part is not None or entry.note:
        return item
    return PlannedProduct(item.product, None, item.file, item.local_status)


def _confirm_name(item: PlannedProduct, names: NameRegistry) -> bool:
    return item.file is not None and names.confirm(item.file, item.product.index) is None
