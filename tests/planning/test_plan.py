"""Products held against journal and disk: the same result however they come, and no name with two owners."""

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
    named(2, None),  # the journal has it as other.zip
    named(3, "other.zip", 3),  # and this one would have that name too
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
    begun = Entry(id="partial.zip", phase=Phase.PARTIAL, file="partial.zip", ranges=((0, 4),), part="partial.zip.part")
    return {entry.id: entry for entry in (*done, begun)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    for name in ("here.zip", "other.zip", "folder/deep.zip"):
        (tmp_path / name).write_bytes(b"123")
    return tmp_path


def surveyed(root: Path, size: int) -> list[PlannedProduct]:
    survey, entries = PlanBuilder(partial(look_at, root), NameRegistry()), known(root)
    for at in range(0, len(PRODUCTS), size):
        survey.add(PRODUCTS[at : at + size], entries)
    return survey.end()


@pytest.mark.parametrize("size", range(1, len(PRODUCTS) + 1))
def test_batches_of_any_size_give_the_same_plan(root: Path, size: int):
    items = surveyed(root, size)
    assert [item.product for item in items] == PRODUCTS
    assert [item.local_status for item in items] == [
        LocalFileStatus.IN_PLACE,
        LocalFileStatus.ABSENT,
        LocalFileStatus.IN_PLACE,
        LocalFileStatus.ABSENT,  # its name is that of a product that has finished
        LocalFileStatus.ABSENT,
        LocalFileStatus.IN_PLACE,
        LocalFileStatus.ABSENT,
    ]
    assert [item.have for item in items] == [0, 0, 0, 0, 4, 0, 0]


def test_of_what_is_in_place_nothing_is_kept_that_nobody_asks_for(root: Path):
    kept = [item.file for item in surveyed(root, 3) if item.entry is not None]
    assert kept == ["gone.zip", "partial.zip"]


def test_each_name_is_looked_at_once(root: Path):
    seen: Counter[str] = Counter()

    def look(files: Iterable[str]) -> dict[str, FileFacts | None]:
        names = list(files)
        seen.update(names)
        return look_at(root, names)

    survey, entries = PlanBuilder(look, NameRegistry()), known(root)
    for at in range(0, len(PRODUCTS), 2):
        survey.add(PRODUCTS[at : at + 2], entries)
    survey.end()
    assert seen == {p.file: 1 for p in PRODUCTS if p.file} | {"other.zip": 2}


def test_a_product_in_place_is_skipped_with_its_path_and_note(root: Path):
    item = surveyed(root, 7)[0]
    outcome = in_place(item, root)
    assert (outcome.state.value, outcome.file, outcome.path) == ("skipped", "here.zip", root / "here.zip")
    assert (outcome.note, outcome.written, outcome.failure) == ("", 0, None)
