"""Order in which a run begins its products. Pure.

A higher `priority` always comes first. Among products of one priority, `auto` makes the run short: partials first, then
the largest, so that no large product is left over at the end, and accounts and archives in turn, so that none idles
behind another. A product of unknown size counts as the mean of the known sizes of its account and archive, else of all.
Where no size is known and nothing is partial, the manifest's order stays. Every sort is stable: equal products keep the
manifest's order.

The order decides who comes first, not who has a contested name: `name_registry` compares positions in the manifest.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import TYPE_CHECKING

from bulkdl.core.models import Order
from bulkdl.planning.local_status import LocalFileStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bulkdl.planning.plan import PlannedProduct

    Items = list[PlannedProduct]

__all__ = ["DESCRIPTIONS", "acquired", "ordered"]

SMALL = 256 * 1024
"""Largest size (bytes) of products that are kept together in runs, since they may share a connection by pipelining."""
RUN = 32
"""Small products of one account and archive that come in a row before the next archive has its turn."""
_FIRST = 2**64
"""More bytes than any product has: what is subtracted from the key of a partial, so that it comes first."""
DESCRIPTIONS = {
    Order.AUTO: "partials first, then the largest; accounts and archives in turn",
    Order.MANIFEST: "as in the manifest",
    Order.LARGEST: "the largest first",
    Order.SMALLEST: "the smallest first",
    Order.NEWEST: "the newest first, by the dates in the names",
}
"""What each order means, for the plan that `check` prints."""

_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])"
    r"(?:[T_]([01]\d|2[0-3]):?([0-5]\d):?([0-5]\d))?(?!\d)",
    re.ASCII,
)
"""20240501, 20240501T103021, 2024-05-01T10:30:21: the first in the names of Sentinel and Landsat is the acquisition."""
_DAY_OF_YEAR = re.compile(r"(?<![A-Za-z0-9])A((?:19|20)\d\d)(\d{3})(?!\d)", re.ASCII)
"""A2024122, as in the names of MODIS and VIIRS."""


def ordered(items: Sequence[PlannedProduct], order: Order) -> list[PlannedProduct]:
    """Return all items in the order in which the run begins them; those that are in place come first."""
    here: Items = []
    levels: dict[int, Items] = {}
    for item in items:
        if item.local_status is LocalFileStatus.IN_PLACE:
            here.append(item)
        else:
            levels.setdefault(item.product.priority, []).append(item)
    for priority in sorted(levels, reverse=True):
        here += _arranged(levels[priority], order)
    return here


def _arranged(items: Items, order: Order) -> Items:
    match order:
        case Order.AUTO:
            return _automatic(items)
        case Order.LARGEST:
            return sorted(items, key=lambda item: -1 if (size := item.size) is None else size, reverse=True)
        case Order.SMALLEST:
            return sorted(items, key=_smallest)
        case Order.NEWEST:
            return sorted(items, key=acquired, reverse=True)
        case Order.MANIFEST:
            return items


def _smallest(item: PlannedProduct) -> tuple[bool, int]:
    size = item.size
    return size is None, size or 0


def acquired(item: PlannedProduct) -> str:
    """Return the first date in the product's name, else in its folders, else in the path of its URL; "" if there is none.

    The form is YYYYMMDDhhmmss, which sorts by time.
    """
    for text in (item.shown.rpartition("/")[2], item.shown, item.product.url.path):
        if (found := _DATE.search(text)) is not None:
            year, month, day, hour, minute, second = found.groups("00")
            return f"{year}{month}{day}{hour}{minute}{second}"
        if (found := _DAY_OF_YEAR.search(text)) is not None and 1 <= int(found[2]) <= 366:
            shown = date(int(found[1]), 1, 1) + timedelta(days=int(found[2]) - 1)
            return f"{shown:%Y%m%d}000000"
    return ""


def _automatic(items: Items) -> Items:
    sizes = [item.size for item in items]
    have = [0 if item.entry is None else item.have for item in items]
    known = [size for size in sizes if size is not None]
    if not known and not any(have):
        return items
    everywhere = sum(known) / len(known) if known else 0.0
    groups: dict[tuple[str | None, str], list[int]] = {}
    for at, item in enumerate(items):
        groups.setdefault((item.product.account, item.product.url.origin), []).append(at)
    arranged = [_largest_first(group, sizes, have, everywhere) for group in groups.values()]
    places = arranged[0][0] if len(arranged) == 1 else _in_turn(arranged)
    return [items[at] for at in places]


def _largest_first(
    group: list[int], sizes: list[int | None], have: list[int], everywhere: float
) -> tuple[list[int], int]:
    """Return the places of one account and archive in order: partials, large ones, small ones; and where the last begin."""
    known = [size for at in group if (size := sizes[at]) is not None]
    mean = sum(known) / len(known) if known else everywhere
    left = [(mean if (size := sizes[at]) is None else size) - have[at] for at in group]
    keys = [-bytes_left - _FIRST if have[at] else -bytes_left for at, bytes_left in zip(group, left, strict=True)]
    order = sorted(range(len(group)), key=lambda n: keys[n])
    return [group[n] for n in order], sum(key < -SMALL for key in keys)


def _in_turn(groups: list[tuple[list[int], int]]) -> Iterator[int]:
    """Yield the places of each group in turn, one at a time, or up to `RUN` small ones."""
    waiting = [(places, first_small, 0) for places, first_small in groups]
    while waiting:
        left = []
        for places, first_small, first in waiting:
            last = first + (1 if first < first_small else RUN)
            yield from places[first:last]
            if last < len(places):
                left.append((places, first_small, last))
        waiting = left
