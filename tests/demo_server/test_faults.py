"""Faults over real sockets: each is applied as often as configured, with its documented effect."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from bulkdl.demo_server.catalog import Item, Validators, demo_catalogue
from bulkdl.demo_server.faults import (
    Chunked,
    Cut,
    Delay,
    Fault,
    FaultPlan,
    Flip,
    IgnoreRange,
    LoginPage,
    NewEdition,
    Preparing,
    Refuse,
    ShiftRange,
    Stall,
    Validate,
    random_faults,
)
from bulkdl.demo_server.server import Archive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.clocks import ImpatientClock, ManualClock

NAME = "large.bin"
SIZE = 3_000_000


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(autouse=True)
def _no_complaint_of_the_server(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Simulated faults never appear as errors in a log."""
    yield
    assert [r.getMessage() for r in caplog.get_records("call") if r.name.startswith(("aiohttp", "asyncio"))] == []


async def _until_it_breaks(response: aiohttp.ClientResponse) -> int:
    got = 0
    try:
        async for data in response.content.iter_any():
            got += len(data)
    except aiohttp.ClientError:
        return got
    raise AssertionError("the body ended in order")


@pytest.mark.parametrize("cut", [Cut(after=1_000_000), Cut(after=1_000_000, reset=True)], ids=["close", "reset"])
async def test_a_cut_happens_as_often_as_it_says(archive: Archive, client: aiohttp.ClientSession, cut: Cut) -> None:
    archive.faults.add(cut, times=2)
    for _ in range(2):
        async with client.get(archive.url(NAME)) as response:
            got = await _until_it_breaks(response)
            assert got <= 1_000_000 if cut.reset else got == 1_000_000
    async with client.get(archive.url(NAME)) as response:
        assert len(await response.read()) == SIZE
    assert [r.bytes_sent for r in archive.requests(NAME)] == [1_000_000, 1_000_000, SIZE]
    assert archive.faults.left == ()


async def test_a_cut_beyond_a_short_range_waits_for_a_longer_one(
    archive: Archive, client: aiohttp.ClientSession
) -> None:
    archive.faults.add(Cut(after=1000))
    async with client.get(archive.url(NAME), headers={"Range": "bytes=0-499"}) as response:
        assert len(await response.read()) == 500
    assert archive.faults.used() == 0


async def test_a_burst_of_503_covers_the_whole_archive_and_ends(
    archive: Archive, client: aiohttp.ClientSession
) -> None:
    archive.faults.add(Refuse(503, retry_after="2"), times=3)
    statuses = []
    for name in ("scene.tif", NAME, "product.zip", "scene.tif"):
        async with client.get(archive.url(name)) as response:
            statuses.append((response.status, response.headers.get("Retry-After")))
    assert statuses == [(503, "2"), (503, "2"), (503, "2"), (200, None)]


async def test_after_a_stall_nothing_comes_while_others_are_served(
    archive: Archive, client: aiohttp.ClientSession
) -> None:
    archive.faults.add(Stall(after=100_000), item="large.*")
    async with client.get(archive.url(NAME)) as response:
        await response.content.readexactly(100_000)
        assert await _get(client, archive.url("scene.tif")) == archive.items["scene.tif"].read()
        assert response.content.total_bytes == 100_000
        assert not response.content.is_eof()


async def test_a_stall_does_not_keep_the_archive_from_closing(client: aiohttp.ClientSession) -> None:
    async with Archive([Item(name=NAME, size=SIZE)], faults=[Fault(Stall(after=10))]) as archive:
        response = await client.get(archive.url(NAME))
        await response.content.readexactly(10)
    response.close()


async def test_a_client_that_leaves_in_the_middle_is_no_error(archive: Archive, client: aiohttp.ClientSession) -> None:
    for _ in range(5):
        response = await client.get(archive.url(NAME))
        await response.content.readany()
        response.close()
    assert await _get(client, archive.url("scene.tif")) == archive.items["scene.tif"].read()


async def test_an_ignored_range_is_the_whole_product(archive: Archive, client: aiohttp.ClientSession) -> None:
    archive.faults.add(IgnoreRange())
    async with client.get(archive.url(NAME), headers={"Range": "bytes=5-"}) as response:
        assert response.status == 200
        assert await response.read() == archive.items[NAME].read()


async def test_a_shifted_range_says_where_it_starts(archive: Archive, client: aiohttp.ClientSession) -> None:
    archive.faults.add(ShiftRange(by=3))
    async with client.get(archive.url(NAME), headers={"Range": "bytes=10-19"}) as response:
        assert response.headers["Content-Range"] == f"bytes 13-19/{SIZE}"
        assert await response.read() == archive.items[NAME].read(13, 20)


async def test_a_login_page_comes_in_place_of_the_product(archive: Archive, client: aiohttp.ClientSession) -> None:
    archive.faults.add(LoginPage())
    async with client.get(archive.url(NAME)) as response:
        assert (response.status, response.content_type) == (200, "text/html")


@pytest.mark.parametrize(("times", "wrong"), [(1, [True, False]), (None, [True, True])])
async def test_a_flipped_byte_is_wrong_once_or_always(
    archive: Archive, client: aiohttp.ClientSession, times: int | None, wrong: list[bool]
) -> None:
    archive.faults.add(Flip(at=70_000), times=times)
    right = archive.items[NAME].read(60_000, 80_000)
    seen = []
    for _ in wrong:
        async with client.get(archive.url(NAME), headers={"Range": "bytes=60000-79999"}) as response:
            body = await response.read()
            assert sum(a != b for a, b in zip(body, right, strict=True)) == (body != right)
            seen.append(body != right)
    assert seen == wrong


async def test_a_new_version_refuses_the_old_validator(archive: Archive, client: aiohttp.ClientSession) -> None:
    old = archive.items[NAME]
    archive.faults.add(NewEdition(), skip=1)
    for status, edition in ((206, old), (200, old.next_edition()), (200, old.next_edition())):
        headers = {"Range": "bytes=100-", "If-Range": old.etag}
        async with client.get(archive.url(NAME), headers=headers) as response:
            assert response.status == status
            assert response.headers["ETag"] == edition.etag
            assert await response.read() == edition.read(100 if status == 206 else 0)


async def test_validators_may_be_taken_away(archive: Archive, client: aiohttp.ClientSession) -> None:
    archive.faults.add(Validate(Validators.WEAK))
    archive.faults.add(Validate(Validators.NONE))
    tags = []
    for _ in range(3):
        async with client.get(archive.url(NAME)) as response:
            tags.append((response.headers.get("ETag", "")[:2], "Last-Modified" in response.headers))
    assert tags == [("W/", False), ("", False), (archive.items[NAME].etag[:2], True)]


async def test_a_chunked_body_may_be_whole_or_end_early(archive: Archive, client: aiohttp.ClientSession) -> None:
    archive.faults.add(Chunked())
    archive.faults.add(Chunked(cut_after=500))
    async with client.get(archive.url(NAME)) as response:
        assert "Content-Length" not in response.headers
        assert await response.read() == archive.items[NAME].read()
    async with client.get(archive.url(NAME)) as response:
        assert await _until_it_breaks(response) == 500


async def test_a_product_on_tape_is_202_and_then_there(archive: Archive, client: aiohttp.ClientSession) -> None:
    archive.faults.add(Preparing(retry_after="1"), times=2)
    statuses = []
    for _ in range(3):
        async with client.get(archive.url(NAME)) as response:
            statuses.append(response.status)
    assert statuses == [202, 202, 200]


async def test_a_delay_takes_the_time_of_the_clock_that_was_given(
    client: aiohttp.ClientSession, clock: ManualClock
) -> None:
    item = Item(name="a.bin", size=5)
    async with Archive([item], faults=[Fault(Delay(3600))], clock=clock) as archive, asyncio.TaskGroup() as group:
        task = group.create_task(_get(client, archive.url(item)))
        await clock.until_sleeping()
        assert clock.waits() == [3600]
        await clock.advance(3600)
        assert await task == item.read()


async def test_a_rate_spreads_a_body_over_time(client: aiohttp.ClientSession, impatient_clock: ImpatientClock) -> None:
    item = Item(name="a.bin", size=100_000)
    async with Archive([item], rate=10_000, clock=impatient_clock) as archive:
        assert await _get(client, archive.url(item)) == item.read()
    assert sum(impatient_clock.slept) == pytest.approx(10)


async def _get(client: aiohttp.ClientSession, url: str) -> bytes:
    async with client.get(url) as response:
        return await response.read()


def test_lasting_faults_come_together_with_one_counted_fault() -> None:
    plan = FaultPlan([Fault(Cut(1)), Fault(Refuse(503)), Fault(Validate(), times=None), Fault(Flip(), times=None)])
    assert plan.take("a", 10) == (Cut(1), Validate(), Flip())
    assert plan.take("a", 10) == (Refuse(503), Validate(), Flip())
    assert plan.take("a", 10) == (Validate(), Flip())


def test_a_fault_concerns_only_the_products_of_its_glob() -> None:
    plan = FaultPlan([Fault(Refuse(503), item="S2*.zip", times=None)])
    assert [bool(plan.take(name, 1)) for name in ("S2A.zip", "S2A.tif", "S5P.zip")] == [True, False, False]


def test_a_random_plan_is_the_same_for_the_same_seed() -> None:
    catalogue = demo_catalogue()
    assert random_faults(catalogue, 1) == random_faults(catalogue, 1)
    assert random_faults(catalogue, 1) != random_faults(catalogue, 2)
    assert {f.item for f in random_faults(catalogue, 1)} <= {i.name for i in catalogue}
