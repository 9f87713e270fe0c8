"""The archives of the adaptive benchmark keep to their rules, and the shortest times follow from the rules."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.adaptive.archive import Site, archives_from_json, archives_to_json
from benchmarks.adaptive.content import names_of, part, problem
from benchmarks.adaptive.log import Seen, mean_of_middle, over_time
from benchmarks.adaptive.rows import ROWS, random_rows
from benchmarks.adaptive.rules import CLOSE, MB, Archive, Row, Rules, allocate, best_connections, ideal_s
from benchmarks.adaptive.table import report
from benchmarks.adaptive.tools import BULKDL, Tool, fixed, peers
from benchmarks.adaptive.trial import Result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Connect = Callable[[], Awaitable["Client"]]

SIZE = 100_000
CRAWLING = Rules(each=1.0)
"""A response does not end during a test: after its first bytes it sends one byte per second."""


def row_of(rules: Rules, *sizes: int, account_limit: int | None = None) -> Row:
    return Row(name="some", archives=(Archive(rules=rules, sizes=sizes or (SIZE,)),), account_limit=account_limit)


@contextlib.asynccontextmanager
async def archive(rules: Rules, *sizes: int) -> AsyncIterator[tuple[Site, Connect]]:
    """Run an archive, and give a function that connects to it; the connections are closed at the end."""
    row = row_of(rules, *sizes)
    async with Site(row.archives, names_of(row)) as site, contextlib.AsyncExitStack() as stack:

        async def connect() -> Client:
            client = Client(*await asyncio.open_connection("127.0.0.1", site.ports[0]))
            stack.push_async_callback(client.close)
            return client

        yield site, connect


class Client:
    """One connection to an archive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.fields: dict[str, str] = {}

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def ask(self, name: str = "p0000.bin", **fields: str) -> tuple[int, dict[str, str]]:
        """Send a request, and return the status and the fields of the response."""
        lines = "".join(f"{key.replace('_', '-')}: {value}\r\n" for key, value in fields.items())
        self.writer.write(f"GET /{name} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), self.fields

    async def body(self) -> bytes:
        return await self.reader.readexactly(int(self.fields["content-length"]))


async def test_a_product_and_its_ranges_have_repeatable_bytes() -> None:
    async with archive(Rules(), SIZE, SIZE) as (_, connect):
        client = await connect()
        assert (await client.ask("p0001.bin"))[0] == 200
        whole = await client.body()
        tag = client.fields["etag"]
        assert (await client.ask("p0001.bin", Range="bytes=500-", If_Range=tag))[0] == 206
        assert client.fields["content-range"] == f"bytes 500-{SIZE - 1}/{SIZE}"
        assert await client.body() == whole[500:] == part("p0001.bin", 500, SIZE)
        assert (await client.ask("p0001.bin", Range="bytes=10-19"))[0] == 206
        assert await client.body() == whole[10:20]
        assert (await client.ask("p0001.bin", Range="bytes=500-", If_Range='"other"'))[0] == 200
        assert (await client.body(), (await client.ask("other.bin"))[0]) == (whole, 404)
        assert whole != part("p0000.bin", 0, SIZE)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_limit_of_four_refuses_the_fifth_request_without_retry_after(status: int) -> None:
    async with archive(replace(CRAWLING, limit=4, refusal=status)) as (site, connect):
        clients = [await connect() for _ in range(5)]
        answers = [await client.ask() for client in clients]
        assert [answer[0] for answer in answers] == [200] * 4 + [status]
        assert "retry-after" not in answers[-1][1]
        assert (site.log.requests, site.log.refused, site.log.summary()["peak_requests"]) == (5, 1, 4)


async def test_a_limit_of_one_admits_the_next_request_after_the_response() -> None:
    async with archive(Rules(limit=1)) as (site, connect):
        one, other = await connect(), await connect()
        for client in (one, other, one):
            assert (await client.ask())[0] == 200
            await client.body()
        assert site.log.refused == 0


async def test_a_place_that_lingers_is_free_for_its_own_connection_only() -> None:
    async with archive(Rules(limit=1, linger_s=1000)) as (_, connect):
        one, other = await connect(), await connect()
        assert (await one.ask())[0] == 200
        await one.body()
        assert (await other.ask())[0] == 429
        assert (await one.ask())[0] == 200


async def test_a_connection_above_the_limit_is_closed_at_once() -> None:
    async with archive(Rules(limit=1, refusal=CLOSE)) as (site, connect):
        one = await connect()
        assert (await one.ask())[0] == 200
        other = await connect()
        assert await other.reader.read() == b""
        assert (site.log.refused, site.log.peak_connections) == (1, 1)


async def test_the_limit_may_fall_later() -> None:
    async with archive(replace(CRAWLING, limit=2, later_s=0.0, later_limit=1)) as (_, connect):
        answers = [await (await connect()).ask() for _ in range(2)]
        assert [status for status, _ in answers] == [200, 429]


async def test_requests_above_the_burst_are_refused() -> None:
    async with archive(Rules(request_rate=1e-6, burst=2, refusal=503), 10) as (_, connect):
        client = await connect()
        statuses = []
        for _ in range(5):
            statuses.append((await client.ask())[0])
            await client.body()
        assert statuses == [200, 200, 200, 503, 503]


async def test_requests_above_the_number_served_at_once_wait() -> None:
    async with archive(replace(CRAWLING, served_at_once=1)) as (site, connect):
        one, other = await connect(), await connect()
        assert (await one.ask())[0] == 200
        waiting = asyncio.create_task(other.ask())
        while site.log.open_requests < 2:  # noqa: ASYNC110 - the archive has no event for it
            await asyncio.sleep(0)
        assert not waiting.done()
        await one.close()
        assert (await waiting)[0] == 200
        assert site.log.refused == 0


async def test_one_response_in_ten_slows_whatever_the_client_does() -> None:
    async with archive(Rules(slow_share=0.1)) as (site, _):
        (service,) = site._services
        slow = [service.slows_after(1000) for _ in range(100)]
    async with archive(Rules(slow_share=0.1)) as (site, _):
        assert slow == [site._services[0].slows_after(1000) for _ in range(100)]
    assert [sum(after is not None for after in slow[i : i + 10]) for i in range(0, 100, 10)] == [1] * 10
    assert all(50 <= after <= 500 for after in slow if after is not None)


@pytest.mark.parametrize(
    ("caps", "total", "expected"),
    [
        ([], 10.0, []),
        ([1.0, 1.0], 10.0, [1.0, 1.0]),
        ([9.0, 9.0], 10.0, [5.0, 5.0]),
        ([9.0, 1.0, 9.0], 10.0, [4.5, 1.0, 4.5]),
    ],
)
def test_a_total_rate_is_shared_fairly(caps: list[float], total: float, expected: list[float]) -> None:
    assert allocate(caps, total) == expected


SIZES = (10 * MB,) * 8


@pytest.mark.parametrize(
    ("rules", "best", "ideal"),
    [
        pytest.param(Rules(each=1 * MB, total=8 * MB), 8, 10.0, id="each connection is held"),
        pytest.param(Rules(each=1 * MB, total=8 * MB, first_byte_s=2), 128, 12.0, id="a late first byte"),
        pytest.param(Rules(total=8 * MB), 1, 10.0, id="one connection is enough"),
        pytest.param(Rules(each=1 * MB, limit=2), 2, 40.0, id="a limit"),
        pytest.param(Rules(total=1000 * MB, first_byte_s=3, served_at_once=4), 4, 6.02, id="served at once"),
        pytest.param(Rules(each=2 * MB, total=8 * MB, suffers_above=4), 4, 10.0, id="suffers above"),
        pytest.param(
            Rules(each=1 * MB, total=8 * MB, later_s=5, later_each=0.25 * MB), 8, 10.0, id="more connections later"
        ),
        pytest.param(Rules(each=1 * MB, limit=4, later_s=10, later_limit=2), 4, 30.0, id="fewer connections later"),
        pytest.param(Rules(total=1000 * MB, request_rate=0.5, burst=1), 1, 12.0, id="a rate of requests"),
    ],
)
def test_the_shortest_time_follows_from_the_rules(rules: Rules, best: int, ideal: float) -> None:
    assert best_connections(rules) == best
    assert ideal_s(row_of(rules, *SIZES)) == pytest.approx(ideal, rel=0.01)


def test_an_account_limits_the_shortest_time() -> None:
    assert ideal_s(row_of(Rules(each=1 * MB), *SIZES, account_limit=2)) == 40.0


@pytest.mark.parametrize("row", [*ROWS, *random_rows(40, 7)], ids=lambda row: row.name)
def test_every_row_takes_about_ten_seconds_and_reaches_the_archive_unchanged(row: Row) -> None:
    assert 5 < ideal_s(row) < 25
    assert archives_from_json(archives_to_json(row.archives, names_of(row))) == (list(row.archives), names_of(row))


def test_rows_at_random_depend_on_the_seed_alone() -> None:
    assert random_rows(30, 1) == random_rows(30, 1) != random_rows(30, 2)


def test_a_file_is_right_only_with_all_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "p0003.bin"
    assert problem(path, SIZE) == "missing"
    path.write_bytes(part(path.name, 0, SIZE))
    assert problem(path, SIZE) is None
    assert problem(path, SIZE + 1) == "wrong"
    path.write_bytes(part("p0004.bin", 0, SIZE))
    assert problem(path, SIZE) == "wrong"


def test_the_mean_counts_the_middle_half_only() -> None:
    assert mean_of_middle([(0.0, 100), (2.0, 4), (4.0, 8), (6.0, 100), (8.0, 0)]) == 6.0
    assert mean_of_middle([]) == 0.0


def test_the_number_of_requests_over_time_has_a_mean_for_each_part() -> None:
    assert over_time([(0.0, 2), (1.0, 4), (2.0, 8), (4.0, 0)], parts=2) == (3.0, 8.0)


def test_every_tool_names_every_product_of_a_row(tmp_path: Path) -> None:
    row = next(row for row in ROWS if len(row.archives) == 2)
    for tool in (BULKDL, *fixed(row), *peers()):
        folder = tmp_path / tool.name
        folder.mkdir()
        tool.command(row, ["http://127.0.0.1:1", "http://localhost:2"], folder)
        text = "".join(path.read_text() for path in folder.iterdir())
        urls = [
            f"http://{host}/{name}"
            for host, of in zip(("127.0.0.1:1", "localhost:2"), names_of(row), strict=True)
            for name in of
        ]
        assert [url for url in urls if url not in text] == []


def test_the_table_shows_the_best_of_a_sweep_and_lost_products() -> None:
    row = row_of(Rules(each=1 * MB), 10 * MB)
    few, many = fixed(row)[:2]

    def result(tool: Tool, wall_s: float, lost: int) -> Result:
        seen = Seen(refused=3)
        facts = {"code": 0, "first_request_s": 0.5, "wrong": 0, "cpu_s": 0.0, "said": ""}
        return Result(row=row, tool=tool, wall_s=wall_s, lost=lost, seen=seen, **facts)  # type: ignore[arg-type]

    text = report([result(BULKDL, 0.5, 2), result(few, 0.4, 0), result(many, 0.2, 0)], limit=6, repeat=1)
    assert "| archive | shortest | bulkdl | bulkdl, best of the sweep |" in text
    assert "(0.50 s); 3 refused; 0 / 0.0; **2 lost** |" in text
    assert f"(`{many.name.removeprefix('bulkdl ')}`)" in text
