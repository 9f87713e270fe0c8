"""Which products are still begun: the limit of bytes, and what can end before the deadline or be resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.events import Counters, Flight
from bulkdl.core.models import Product, Settings
from bulkdl.core.urls import Url
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.plan import PlannedProduct
from bulkdl.protocol.server_quirks import ServerFacts, ServerObservation, ServerQuirks
from bulkdl.scheduler.admission import Admission, can_end, can_resume

if TYPE_CHECKING:
    from tests.clocks import ManualClock

M = 1024**2
NOW = 1_750_000_000.0


def item(
    size: int | None, *, have: int = 0, status: LocalFileStatus = LocalFileStatus.ABSENT, index: int = 0
) -> PlannedProduct:
    product = Product(index=index, url=Url(f"https://one.example.org/{index}"), file=f"{index}", size=size)
    entry = Entry(id=product.id, phase=Phase.PARTIAL, ranges=((0, have),), total=size) if have else None
    return PlannedProduct(product, entry, product.file, status)


def admission(
    clock: ManualClock, counters: Counters, *, ends_in: float | None = None, max_bytes: int | None = None, **facts: Any
) -> Admission:
    known = [ServerFacts(origin=Url("https://one.example.org/").origin, ranges_at=clock.wall(), **facts)]
    return Admission(
        Settings(max_bytes=max_bytes),
        counters=counters,
        hosts=ServerQuirks(known, clock=clock),
        clock=clock,
        ends_at=None if ends_in is None else clock.monotonic() + ends_in,
    )


@pytest.mark.parametrize(
    ("left", "rate", "products", "seconds", "ends"),
    [
        (100, 10.0, 1, 10.0, True),
        (101, 10.0, 1, 10.0, False),
        (100, 10.0, 2, 10.0, False),
        (10**15, None, 1, 1.0, True),
        (0, 10.0, 1, -5.0, False),
        (0, 10.0, 0, 0.0, True),
    ],
)
def test_a_product_ends_in_time_if_its_share_of_the_rate_brings_it(left, rate, products, seconds, ends):
    assert can_end(left, rate=rate, products=products, seconds=seconds) is ends


@pytest.mark.parametrize(
    ("facts", "have", "resumes"),
    [
        ({}, 0, False),
        ({"range_hits": 1}, 0, True),
        ({}, 5, True),
        ({"range_misses": 2}, 5, False),
        ({"range_hits": 3, "range_misses": 1}, 0, True),
        ({"range_hits": 3, "range_misses": 8}, 0, False),
    ],
)
def test_what_a_later_run_can_go_on_with(facts: dict[str, int], have: int, resumes: object):
    known = ServerFacts(origin="https://one.example.org:443", ranges_at=NOW, **facts)
    assert can_resume(item(100, have=have), known, now=NOW) is resumes


async def test_without_limits_every_product_is_begun(clock):
    counters = Counters(received=10**15)
    limits = admission(clock, counters)
    assert limits.may_begin(item(10**12))
    assert limits.reason == ""


async def test_once_the_bytes_are_received_nothing_more_is_downloaded(clock):
    counters = Counters()
    limits = admission(clock, counters, max_bytes=100)
    assert limits.may_begin(item(1000))
    counters.received = 99
    assert limits.may_begin(item(1000))
    assert limits.reason == ""
    counters.received = 100
    assert not limits.may_begin(item(1))
    assert not limits.may_begin(item(None))
    assert "100 B have been received (--max-bytes)" in limits.reason


async def test_a_file_that_needs_no_download_is_not_held_back(clock):
    limits = admission(clock, Counters(received=100), max_bytes=100)
    assert limits.may_begin(item(5, status=LocalFileStatus.NEEDS_CHECKSUM))


async def test_near_the_deadline_only_what_ends_in_time_is_begun(clock):
    counters = Counters()
    limits = admission(clock, counters, ends_in=100)
    assert limits.may_begin(item(10**12)), "the rate is unknown at first"
    await clock.advance(40)
    counters.received = 40 * M
    counters.flights["other"] = Flight(file="other")
    assert limits.may_begin(item(30 * M))
    assert not limits.may_begin(item(31 * M))
    assert limits.may_begin(item(None)), "an unknown size says nothing"
    assert "--until" in limits.reason


async def test_near_the_deadline_what_can_be_resumed_is_begun(clock):
    counters = Counters()
    limits = admission(clock, counters, ends_in=100, range_hits=1)
    await clock.advance(40)
    counters.received = 40 * M
    assert limits.may_begin(item(1000 * M))
    assert limits.reason == ""


async def test_a_partial_counts_only_what_is_left_of_it(clock):
    counters = Counters()
    limits = admission(clock, counters, ends_in=100, range_misses=2)
    await clock.advance(40)
    counters.received = 40 * M
    assert limits.may_begin(item(1000 * M, have=941 * M))
    assert not limits.may_begin(item(1000 * M, have=939 * M))


async def test_the_rate_is_that_of_the_last_half_minute(clock):
    counters = Counters()
    limits = admission(clock, counters, ends_in=10_000)
    for _ in range(100):
        await clock.advance(10)
        counters.received += 10
        limits.may_begin(item(1))
    for _ in range(5):
        await clock.advance(10)
        counters.received += 10 * M
        limits.may_begin(item(1))
    assert limits.may_begin(item(8000 * M))


async def test_a_rate_of_zero_is_unknown(clock):
    """An outage says nothing about the rate after it."""
    limits = admission(clock, Counters(), ends_in=100)
    await clock.advance(90)
    assert limits.may_begin(item(1000 * M))


def test_an_observation_of_this_run_counts(clock):
    quirks = ServerQuirks(clock=clock)
    quirks.note("https://one.example.org:443", ServerObservation.RANGE_HIT)
    assert can_resume(item(5), quirks.of("https://one.example.org:443"), now=clock.wall())
