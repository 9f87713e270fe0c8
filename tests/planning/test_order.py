"""Order of the products of a run: partials, sizes, dates, priorities, and archives in turn."""

from __future__ import annotations

import random

import pytest

from bulkdl.core.models import Order, Product
from bulkdl.core.urls import Url
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.order import RUN, SMALL, acquired, ordered
from bulkdl.planning.plan import PlannedProduct

ONE, TWO = "https://one.example.org", "https://two.example.org"
BIG = 4 * SMALL


def item(
    index: int,
    size: int | None = None,
    *,
    have: int = 0,
    origin: str = ONE,
    name: str | None = None,
    account: str | None = None,
    priority: int = 0,
    status: LocalFileStatus = LocalFileStatus.ABSENT,
) -> PlannedProduct:
    file = name or f"{index}.bin"
    url = Url(f"{origin}/{index}")
    product = Product(index=index, url=url, file=file, size=size, account=account, priority=priority)
    entry = Entry(id=product.id, phase=Phase.PARTIAL, ranges=((0, have),), total=size) if have else None
    return PlannedProduct(product, entry, file, status)


def indices(items: list[PlannedProduct], order: Order = Order.AUTO) -> list[int]:
    return [each.product.index for each in ordered(items, order)]


AUTO = {
    "no size is known: the manifest's order": ([item(0), item(1), item(2)], [0, 1, 2]),
    "no size is known at two archives: the manifest's order": (
        [item(0), item(1), item(2, origin=TWO), item(3)],
        [0, 1, 2, 3],
    ),
    "equal sizes: the manifest's order": ([item(n, 7) for n in range(4)], [0, 1, 2, 3]),
    "the largest first": ([item(0, 5), item(1, 9), item(2, 7)], [1, 2, 0]),
    "partials first, although they are smaller": ([item(0, 9), item(1, 5, have=1), item(2, 7, have=6)], [1, 2, 0]),
    "a partial of unknown size is a partial": ([item(0), item(1), item(2, have=1)], [2, 0, 1]),
    "an unknown size counts as the mean": ([item(0), item(1, 10), item(2, 2), item(3)], [1, 0, 3, 2]),
    "two archives in turn": (
        [item(0, BIG), item(1, BIG), item(2, BIG), item(3, BIG, origin=TWO), item(4, BIG, origin=TWO)],
        [0, 3, 1, 4, 2],
    ),
    "two accounts of one archive in turn": (
        [item(0, BIG, account="a"), item(1, BIG, account="a"), item(2, BIG, account="b")],
        [0, 2, 1],
    ),
    "an archive without sizes has its turns too": (
        [item(0, BIG), item(1, BIG), item(2, origin=TWO), item(3, origin=TWO)],
        [0, 2, 1, 3],
    ),
    "what is in place comes first": (
        [item(0, 5), item(1, 9), item(2, 7, status=LocalFileStatus.IN_PLACE)],
        [2, 1, 0],
    ),
    "priorities come before sizes and partials": (
        [item(0, 9), item(1, 5, have=1), item(2, 1, priority=3), item(3, 99, priority=-1), item(4, 2, priority=3)],
        [4, 2, 1, 0, 3],
    ),
}


@pytest.mark.parametrize("case", AUTO)
def test_auto_makes_the_run_short(case: str):
    items, expected = AUTO[case]
    assert indices(items) == expected


SIZES = [item(0, 5), item(1), item(2, 9, have=1), item(3, 1, priority=1), item(4, 7), item(5)]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Order.MANIFEST, [3, 0, 1, 2, 4, 5]),
        (Order.LARGEST, [3, 2, 4, 0, 1, 5]),
        (Order.SMALLEST, [3, 0, 4, 2, 1, 5]),
    ],
)
def test_an_order_by_size_leaves_products_of_unknown_size_to_the_end(order: Order, expected: list[int]):
    assert indices(SIZES, order) == expected


def test_small_products_of_an_archive_stay_together_in_runs():
    items = [item(n, 1000, origin=ONE if n < 70 else TWO) for n in range(140)]
    origins = [each.product.url.origin for each in ordered(items, Order.AUTO)]
    one, two = origins[0], origins[RUN]
    assert origins == [one] * RUN + [two] * RUN + [one] * RUN + [two] * RUN + [one] * 6 + [two] * 6
    assert one != two


NAMES = [
    ("S2A_MSIL1C_20240501T103021_N0510_R108_T31UFS_20240502T000000.zip", "20240501103021"),
    ("S1A_IW_GRDH_1SDV_20240601T170000_20240601T170025_053.zip", "20240601170000"),
    ("LC08_L1TP_193024_20200101_20200113_02_T1.tar", "20200101000000"),
    ("MOD09GA.A2024122.h18v03.061.2024124.hdf", "20240501000000"),
    ("era5_2023-12-31.nc", "20231231000000"),
    ("2024-05-01T10:30:21.tif", "20240501103021"),
    ("S2B_MSIL2A_20240501T103021/B04.tif", "20240501103021"),
    ("tile_20249901.tif", ""),
    ("20240501123.tif", ""),
    ("dem.tif", ""),
]


@pytest.mark.parametrize(("name", "expected"), NAMES)
def test_the_first_date_in_a_name_is_the_acquisition(name: str, expected: str):
    assert acquired(item(0, name=name)) == expected


def test_the_newest_comes_first_and_what_has_no_date_last():
    items = [item(n, name=name) for n, (name, _) in enumerate(NAMES)]
    assert indices(items, Order.NEWEST) == [1, 0, 5, 6, 3, 4, 2, 7, 8, 9]


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("seed", range(20))
def test_every_order_is_a_stable_permutation(order: Order, seed: int):
    rng = random.Random(seed)
    items = [
        item(
            n,
            rng.choice([None, 1, 1000, SMALL, BIG, BIG + 1]),
            have=rng.choice([0, 0, 0, 1]),
            origin=rng.choice([ONE, TWO]),
            account=rng.choice([None, "a"]),
            priority=rng.choice([0, 0, 5]),
            status=rng.choice([LocalFileStatus.ABSENT, LocalFileStatus.IN_PLACE]),
        )
        for n in range(200)
    ]
    found = ordered(items, order)
    assert sorted(each.product.index for each in found) == list(range(200))
    todo = [each for each in found if each.local_status is not LocalFileStatus.IN_PLACE]
    priorities = [each.product.priority for each in todo]
    assert priorities == sorted(priorities, reverse=True)
    alike: dict[object, list[int]] = {}
    for each in found:
        product = each.product
        key = (product.size, each.have, product.url.origin, product.account, product.priority, each.local_status)
        alike.setdefault(key, []).append(product.index)
    assert all(group == sorted(group) for group in alike.values())


def test_the_items_are_not_changed():
    items = [item(0, 1), item(1, 2)]
    ordered(items, Order.AUTO)
    assert [each.product.index for each in items] == [0, 1]
