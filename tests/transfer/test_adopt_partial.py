"""Orphaned partials: which product may adopt one. Each product adopts at most one, and each partial goes to one product."""

from __future__ import annotations

import pytest

from bulkdl.core.models import Product
from bulkdl.core.urls import Url
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.orphaned_partials import find_orphans, without_last_byte

HERE = "https://a.example/download"


def product(query: str, *, index: int = 0, file: str | None = None, at: str = HERE) -> Product:
    return Product(index=index, url=Url(f"{at}?{query}"), file=file)


def left(query: str, *, phase: Phase = Phase.PARTIAL, ranges: tuple[tuple[int, int], ...] = ((0, 9),)) -> Entry:
    gone = product(query)
    return Entry(
        id=gone.id, phase=phase, file="a.zip", source=gone.url.source, total=20, ranges=ranges, part="a.zip.part"
    )


NEW = product("new")
CASES = {
    "one heir, one estate": ([left("old")], [NEW], True),
    "failed in the last run": ([left("old", phase=Phase.FAILED)], [NEW], True),
    "the same URL": ([left("new")], [NEW], False),
    "two estates": ([left("old"), left("older")], [NEW], False),
    "two heirs": ([left("old")], [NEW, product("newer", index=1)], False),
    "the old one is in the manifest still": ([left("old")], [NEW, product("old", index=1)], False),
    "another path": ([left("old")], [product("new", at="https://a.example/other")], False),
    "another host": ([left("old")], [product("new", at="https://b.example/download")], False),
    "a product with a name of its own": ([left("old")], [product("new", file="b.zip")], False),
    "finished": ([left("old", phase=Phase.DONE)], [NEW], False),
    "about to be placed": ([left("old", phase=Phase.PLACING)], [NEW], False),
    "nothing on disk": ([left("old", ranges=())], [NEW], False),
}


@pytest.mark.parametrize(("entries", "products", "inherits"), CASES.values(), ids=CASES)
def test_which_product_may_adopt_a_partial(entries: list[Entry], products: list[Product], inherits) -> None:
    estate = find_orphans({entry.id: entry for entry in entries}, products)
    assert (estate.adoptable == {NEW.id: entries[0]}) is inherits
    assert inherits or not estate.adoptable


@pytest.mark.parametrize(
    ("ranges", "asked_with"),
    [(((0, 9),), ((0, 9),)), (((0, 20),), ((0, 19),)), (((0, 5), (19, 20)), ((0, 5),)), (((0, 19),), ((0, 19),))],
)
def test_the_last_byte_is_requested_again_so_that_the_server_evaluates_if_range(ranges, asked_with) -> None:
    assert without_last_byte(left("old", ranges=ranges)).ranges == asked_with
