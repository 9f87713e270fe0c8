"""Which products are in place, which are contested, which are to do. Journal and disk only, no request."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bulkdl.dataclass import dataclass
from bulkdl.names import from_url
from bulkdl.ranges import cover
from bulkdl.standing import Standing, standing
from bulkdl.store.journal import Phase
from bulkdl.unpacking import folder_of, occupy_folders

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    from bulkdl.claims import Claims
    from bulkdl.model import Product
    from bulkdl.store.journal import Entry
    from bulkdl.store.storage import Storage

__all__ = ["Item", "selected", "survey"]

_BATCH = 2000


@dataclass(frozen=True, slots=True)
class Item:
    """A product with what is known of it before the run."""

    product: Product
    entry: Entry | None
    """None also where the product is in place and nothing is left to say of it."""
    file: str | None
    standing: Standing

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


async def survey(
    products: list[Product], entries: MutableMapping[str, Entry], storage: Storage, claims: Claims
) -> list[Item]:
    """Hold every product against the journal and the disk, and reserve every name that is known.

    The products' entries are taken out of `entries`, so that of very many in place only what is still needed is held.
    """
    items: list[Item] = []
    doubtful: list[Item] = []
    lost: set[int] = set()
    for at in range(0, len(products), _BATCH):
        for item in await _survey(products[at : at + _BATCH], entries, storage):
            if item.standing is Standing.IN_PLACE and _doubtful(item):
                doubtful.append(item)
            elif item.standing is Standing.IN_PLACE and not _finished(item, claims):
                lost.add(item.product.index)
            else:
                item = _trimmed(item)  # noqa: PLW2901
            items.append(item)
    lost.update(item.product.index for item in doubtful if not _finished(item, claims))
    for item in items:
        if item.file is not None:
            claims.claim(item.file, item.product.index)
    if any(item.product.extract for item in items):
        _reserve_folders(items, claims)
    return [replace(i, standing=Standing.ABSENT) if i.product.index in lost else i for i in items]


def _reserve_folders(items: list[Item], claims: Claims) -> None:
    """Those of finished products first; who comes too late is told so when its turn has come."""
    occupy_folders(claims, ((item.product, item.file) for item in items if item.file is not None))
    folders = [(item, folder) for item in items if (folder := folder_of(item.product, item.file)) is not None]
    for item, folder in folders:
        if item.standing is Standing.IN_PLACE:
            claims.finish(folder, item.product.index)
    for item, folder in folders:
        claims.claim(folder, item.product.index)


def _doubtful(item: Item) -> bool:
    """Whether the file in place may be another product's; the one that was placed there comes first."""
    return item.entry is None or item.entry.phase not in (Phase.DONE, Phase.PLACING)


def _trimmed(item: Item) -> Item:
    entry = item.entry
    if item.standing is not Standing.IN_PLACE or entry is None or entry.part is not None or entry.note:
        return item
    return Item(item.product, None, item.file, item.standing)


def _finished(item: Item, claims: Claims) -> bool:
    return item.file is not None and claims.finish(item.file, item.product.index) is None


async def _survey(products: list[Product], entries: MutableMapping[str, Entry], storage: Storage) -> list[Item]:
    known = [(p, entries.pop(p.id, None)) for p in products]
    files = [p.file if p.file is not None else (e.file if e is not None else None) for p, e in known]
    named = [file for file in files if file is not None]
    facts = dict(zip(named, await storage.stats([storage.final(file) for file in named]), strict=True))
    items = [
        Item(p, e, file, standing(p, e, facts.get(file) if file else None))
        for (p, e), file in zip(known, files, strict=True)
    ]
    return await _also_unpacked(items, storage)


async def _also_unpacked(items: list[Item], storage: Storage) -> list[Item]:
    """A product in place whose unpacked folder is missing is unpacked by this run: `extract` may be a new wish."""
    folders = {
        item.product.index: storage.final(folder)
        for item in items
        if item.standing is Standing.IN_PLACE and (folder := folder_of(item.product, item.file)) is not None
    }
    if not folders:
        return items
    found = dict(zip(folders, await storage.stats(list(folders.values())), strict=True))
    missing = {index for index, facts in found.items() if facts is None}
    return [replace(item, standing=Standing.HASH) if item.product.index in missing else item for item in items]
