"""Which products are in place, which are contested, which are to do. Journal and disk only, no request."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.filenames import from_url
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

    Look = Callable[[Iterable[str]], Mapping[str, FileFacts | None]]
    """From relative names to what the disk says of them."""

__all__ = ["BATCH", "PlanBuilder", "PlannedProduct", "in_place", "selected"]

BATCH = 2000
"""Products that are surveyed together."""


@dataclass(frozen=True, slots=True)
class PlannedProduct:
    """A product with what is known of it before the run."""

    product: Product
    entry: Entry | None
    """None also where the product is in place and nothing is left to say of it."""
    file: str | None
    local_status: LocalFileStatus

    @property
    def shown(self) -> str:
        return self.file or from_url(self.product.url)

    @property
    def size(self) -> int | None:
        """Bytes of the whole product, as far as known."""
        if self.product.size is not None:
            return self.product.size
        return self.entry.total if self.entry is not None else None

    @property
    def have(self) -> int:
        """Bytes of a partial that are durably on disk."""
        return cover(self.entry.ranges) if self.entry is not None else 0


def selected(products: Iterable[Product], patterns: tuple[str, ...]) -> list[Product]:
    """The products whose file name (or its last part) matches one of the globs; all of them where there is none."""
    if not patterns:
        return list(products)
    return [p for p in products if any(_matches(p.file or from_url(p.url), pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)


def in_place(item: PlannedProduct, destination: Path) -> Outcome:
    """What becomes of a product that is in place from before."""
    note = item.entry.note if item.entry is not None else ""
    return Outcome(product=item.product, state=State.SKIPPED, file=item.shown, destination=destination, note=note)


class PlanBuilder:
    """Holds products against the journal and the disk, and reserves every name that is known.

    They come in batches, in the manifest's order, so that of very many no more is held than what is still needed.
    """

    def __init__(self, look: Look, claims: NameRegistry) -> None:
        self._look = look
        self._claims = claims
        self._items: list[PlannedProduct] = []
        self._doubtful: list[PlannedProduct] = []
        self._lost: set[int] = set()

    def add(self, products: Sequence[Product], entries: Mapping[str, Entry]) -> None:
        """Look at the next `products`; `entries`, by id, are what the journal has of them. Raise what `look` raises."""
        known = [(p, entries.get(p.id)) for p in products]
        files = [p.file if p.file is not None else (e.file if e is not None else None) for p, e in known]
        facts = self._look(file for file in files if file is not None)
        items = [
            PlannedProduct(p, e, file, local_status(p, e, facts[file] if file is not None else None))
            for (p, e), file in zip(known, files, strict=True)
        ]
        for item in self._also_unpacked(items):
            if item.local_status is LocalFileStatus.IN_PLACE and _doubtful(item):
                self._doubtful.append(item)
            elif item.local_status is LocalFileStatus.IN_PLACE and not _finished(item, self._claims):
                self._lost.add(item.product.index)
            else:
                item = _trimmed(item)  # noqa: PLW2901
            self._items.append(item)

    def end(self) -> list[PlannedProduct]:
        """Every product's item, once all have been added."""
        items, claims = self._items, self._claims
        self._lost.update(item.product.index for item in self._doubtful if not _finished(item, claims))
        for item in items:
            if item.file is not None and item.local_status is not LocalFileStatus.IN_PLACE:  # those have it, or lost it
                claims.claim(item.file, item.product.index)
        if any(item.product.extract for item in items):
            _reserve_folders(items, claims)
        if not self._lost:
            return items
        return [replace(i, local_status=LocalFileStatus.ABSENT) if i.product.index in self._lost else i for i in items]

    def _also_unpacked(self, items: list[PlannedProduct]) -> list[PlannedProduct]:
        """A product in place whose unpacked folder is missing is unpacked by this run: `extract` may be a new wish."""
        folders = {
            item.product.index: folder
            for item in items
            if item.local_status is LocalFileStatus.IN_PLACE
            and (folder := folder_of(item.product, item.file)) is not None
        }
        if not folders:
            return items
        found = self._look(folders.values())
        missing = {index for index, folder in folders.items() if found[folder] is None}
        return [
            replace(item, local_status=LocalFileStatus.HASH) if item.product.index in missing else item
            for item in items
        ]


def _reserve_folders(items: list[PlannedProduct], claims: NameRegistry) -> None:
    """Those of finished products first; who comes too late is told so when its turn has come."""
    occupy_folders(claims, ((item.product, item.file) for item in items if item.file is not None))
    folders = [(item, folder) for item in items if (folder := folder_of(item.product, item.file)) is not None]
    for item, folder in folders:
        if item.local_status is LocalFileStatus.IN_PLACE:
            claims.finish(folder, item.product.index)
    for item, folder in folders:
        claims.claim(folder, item.product.index)


def _doubtful(item: PlannedProduct) -> bool:
    """Whether the file in place may be another product's; the one that was placed there comes first."""
    return item.entry is None or item.entry.phase not in (Phase.DONE, Phase.PLACING)


def _trimmed(item: PlannedProduct) -> PlannedProduct:
    entry = item.entry
    if item.local_status is not LocalFileStatus.IN_PLACE or entry is None or entry.part is not None or entry.note:
        return item
    return PlannedProduct(item.product, None, item.file, item.local_status)


def _finished(item: PlannedProduct, claims: NameRegistry) -> bool:
    return item.file is not None and claims.finish(item.file, item.product.index) is None
