"""The test helpers themselves: a byte-level server and a clock that tests advance by hand."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

import aiohttp
import pytest

from bulkdl.demo_server.catalog import Item, demo_catalogue
from bulkdl.demo_server.generated_files import Kind
from tests.servers import (
    RawRequest,
    RawServer,
    Wire,
    announce,
    chunked,
    head,
    http10,
    huge_head,
    multipart,
    ranges,
    redirect,
    reply,
    reset,
    slow_head,
    stall,
)

if TYPE_CHECKING:
    from tests.canary import Canary
    from tests.clocks import ImpatientClock, ManualClock


async def _body(url: str, **headers: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
        return response.status, await response.read()


async def test_responders_answer_in_turn_and_the_last_one_stays() -> None:
    async with RawServer(reply(503), reply(200, b"abc")) as server:
        seen = [await _body(server.url("/a?x=1"), Range="bytes=1-") for _ in range(3)]
        assert seen == [(503, b""), (200, b"abc"), (200, b"abc")]
        assert [r.number for r in server.log] == [0, 1, 2]
        assert server.log[0].path == "/a"
        assert server.log[0].query == "x=1"
        assert server.log[0].header("range") == "bytes=1-"
        assert server.log[0].range(10) == (1, 10)


async def test_a_fixture_starts_servers_that_end_with_the_test(raw_server) -> None:
    server = await raw_server(reply(200, b"abc"))
    assert await _body(server.url()) == (200, b"abc")


@pytest.mark.parametrize(
    "responder", [announce(10, b"abc"), reset(10, b"abc"), chunked(b"abc", whole=False)], ids=["cut", "reset", "chunk"]
)
async def test_a_body_that_ends_early_is_an_error_for_the_client(responder) -> None:
    async with RawServer(responder) as server:
        with pytest.raises(aiohttp.ClientError):
            await _body(server.url())


async def test_an_endless_head_or_body_ends_with_the_client() -> None:
    for responder in (stall(10, b"abc"), slow_head()):
        async with RawServer(responder) as server:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await _body(server.url())


async def test_an_orderly_server_serves_ranges_on_one_connection() -> None:
    async with RawServer(ranges(b"0123456789", etag='"e"')) as server, aiohttp.ClientSession() as client:
        for headers, status, body in (
            ({}, 200, b"0123456789"),
            ({"Range": "bytes=7-"}, 206, b"789"),
            ({"Range": "bytes=7-", "If-Range": '"e"'}, 206, b"789"),
            ({"Range": "bytes=7-", "If-Range": '"f"'}, 200, b"0123456789"),
            ({"Range": "bytes=10-"}, 416, b""),
        ):
            async with client.get(server.url(), headers=headers) as response:
                assert (response.status, await response.read()) == (status, body)
        assert server.connections == 1


async def test_unusual_answers_go_out_byte_for_byte() -> None:
    async with RawServer(http10(b"old"), chunked(b"x" * 20_000), multipart(b"0123456789", (0, 2), (5, 7))) as server:
        assert await _body(server.url()) == (200, b"old")
        assert await _body(server.url()) == (200, b"x" * 20_000)
        status, body = await _body(server.url())
        assert status == 206
        assert b"Content-Range: bytes 5-6/10\r\n\r\n56" in body
    async with RawServer(huge_head()) as server:
        with pytest.raises(aiohttp.ClientError):
            await _body(server.url())
    async with RawServer(redirect("/b"), reply(200, b"there")) as server:
        assert await _body(server.url()) == (200, b"there")
    assert head(200, ("A", 1), ("A", 2)) == b"HTTP/1.1 200 OK\r\nA: 1\r\nA: 2\r\n\r\n"


async def test_a_defect_in_a_responder_reaches_the_test() -> None:
    async def broken(request: RawRequest, wire: Wire) -> None:
        raise LookupError("a defect")

    async def ask() -> None:
        async with RawServer(broken) as server:
            with pytest.raises(aiohttp.ClientError):
                await _body(server.url())

    with pytest.raises(LookupError, match="a defect"):
        await ask()


async def test_sleepers_wake_in_order_each_at_its_own_time(clock: ManualClock) -> None:
    woke: list[tuple[str, float]] = []
    began = clock.monotonic()

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woke.append((name, clock.monotonic() - began))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("a", 3, 3))
        group.create_task(sleeper("b", 5))
        await clock.until_sleeping(2)
        await clock.advance(5.5)
        assert woke == [("a", 3), ("b", 5)]
        assert clock.waits() == [0.5]
        await clock.advance(1)
    assert woke[-1] == ("a", 6)


async def test_a_jump_of_the_wall_clock_leaves_the_monotonic_one(clock: ManualClock) -> None:
    before = clock.monotonic(), clock.wall()
    clock.jump_wall(-3600)
    await clock.advance(10)
    assert (clock.monotonic(), clock.wall()) == (before[0] + 10, before[1] - 3590)


async def test_an_impatient_clock_never_waits(impatient_clock: ImpatientClock) -> None:
    began = impatient_clock.monotonic()
    await impatient_clock.sleep(3600)
    assert impatient_clock.monotonic() - began == 3600
    assert impatient_clock.slept == [3600]


def test_a_canary_is_found_in_each_form_in_which_it_leaks(canary: Canary, tmp_path) -> None:
    for leak in (
        canary.value,
        quote_plus(canary.value),
        repr({"a": canary.value}),
        base64.b64encode(f"jo:{canary.value}".encode()).decode(),
        base64.b64encode(f"user:{canary.value}".encode()).decode(),
    ):
        (tmp_path / "log").write_text(f"GET /?token={leak}&x", encoding="utf-8")
        with pytest.raises(AssertionError, match="leaked"):
            canary.assert_absent(tmp_path)
    (tmp_path / "log").write_text("GET /?***")
    canary.assert_absent(tmp_path, "nothing here", b"nor here")


def test_the_demo_catalogue_is_the_same_each_time_and_has_every_kind() -> None:
    first, second = list(demo_catalogue()), list(demo_catalogue())
    assert first == second
    assert len({item.name for item in first}) == 36
    assert {item.kind for item in first} == set(Kind)
    assert 40_000_000 < sum(item.size for item in first) < 60_000_000
    assert any(item.size == 0 for item in first)
    assert all(isinstance(item, Item) and len(item.read(0, 100)) == min(100, item.size) for item in first)
