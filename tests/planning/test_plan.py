"""The plan from journal and disk: the same for batches of any size, and no name with two owners."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from bulkdl.core.models import Product
from bulkdl.core.urls import Url
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.name_registry import NameRegistry
from bulkdl.planning.plan import PlanBuilder, in_place
from bulkdl.storage.file_info import look_at

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bulkdl.planning.plan import PlannedProduct
    from bulkdl.storage.file_info import FileFacts


def named(index: int, file: str | None, size: int | None = None) -> Product:
    return Product(index=index, url=Url(f"https://a.example.org/{index}"), file=file, size=size)


PRODUCTS = [
    named(0, "here.zip", 3),
    named(1, "gone.zip", 3),
    named(2, None),  # named other.zip in the journal
    named(3, "other.zip", 3),  # has the same name
    named(4, "partial.zip", 9),
    named(5, "folder/deep.zip", 3),
    named(6, "never seen.zip"),
]


def known(root: Path) -> dict[str, Entry]:
    times = {path.name: path.stat().st_mtime_ns for path in root.rglob("*.zip")}
    done = [
        Entry(id=id_, phase=Phase.DONE, file=file, size=3, mtime_ns=times.get(file.rpartition("/")[2]))
        for id_, file in (
            ("here.zip", "here.zip"),
            ("gone.zip", "gone.zip"),
            (PRODUCTS[2].id, "other.zip"),
            ("folder/deep.zip", "folder/deep.zip"),
        )
    ]
    partly = Entry(id="partial.zip", phase=Phase.PARTIAL, file="partial.zip", ranges=((0, 4),), part="partial.zip.part")
    return {entry.id: entry for entry in (*done, partly)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    for name in ("here.zip", "other.zip", "folder/deep.zip"):
        (tmp_path / name).write_bytes(b"123")
    return tmp_path


def plan(root: Path, size: int) -> list[PlannedProduct]:
    builder, entries = PlanBuilder(partial(look_at, root), NameRegistry()), known(root)
    for at in range(0, len(PRODUCTS), size):
        builder.add(PRODUCTS[at : at + size], entries)
    return builder.build()


@pytest.mark.parametrize("size", range(1, len(PRODUCTS) + 1))
def test_batches_of_any_size_give_the_same_plan(root: Path, size: int):
    items = plan(root, size)
    assert [item.product for item in items] == PRODUCTS
    assert [item.local_status for item in items] == [
        LocalFileStatus.IN_PLACE,
        LocalFileStatus.ABSENT,
        LocalFileStatus.IN_PLACE,
        LocalFileStatus.ABSENT,  # its name belongs to a finished product
        LocalFileStatus.ABSENT,
        LocalFileStatus.IN_PLACE,
        LocalFileStatus.ABSENT,
    ]
    assert [item.have for item in items] == [0, 0, 0, 0, 4, 0, 0]


def test_journal_entries_of_products_in_place_are_dropped(root: Path):
    kept = [item.file for item in plan(root, 3) if item.entry is not None]
    assert kept == ["gone.zip", "partial.zip"]


def test_each_file_is_read_once_while_planning(root: Path):
    seen: Counter[str] = Counter()

    def look(files: Iterable[str]) -> dict[str, FileFacts | None]:
        names = list(files)
        seen.update(names)
        return look_at(root, names)

    builder, entries = PlanBuilder(look, NameRegistry()), known(root)
    for at in range(0, len(PRODUCTS), 2):
        builder.add(PRODUCTS[at : at + 2], entries)
    builder.build()
    assert seen == {p.file: 1 for p in PRODUCTS if p.file} | {"other.zip": 2}


def test_a_product_in_place_is_skipped_with_its_path_and_note(root: Path):
    item = plan(root, 7)[0]
    outcome = in_place(item, root)
    assert (outcome.state.value, outcome.file, outcome.path) == ("skipped", "here.zip", root / "here.zip")
    assert (outcome.note, outcome.written, outcome.failure) == ("", 0, None)
