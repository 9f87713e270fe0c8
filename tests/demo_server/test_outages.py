"""The rehearsal of outages: each begins with the progress of a run and ends for it with its first good answer."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from bulkdl.demo_server.demo_clock import DemoClock
from bulkdl.demo_server.outages import OutageRehearsal, Part, PlannedOutage
from tests.clocks import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.typedefs import Handler

PLANNED = (PlannedOutage(part=Part.ARCHIVE, after=1), PlannedOutage(part=Part.TOKEN_ENDPOINT, after=2))


class Server:
    """A server with an archive (`/product`) and a token endpoint (`/token`), whose clock the test moves."""

    def __init__(self) -> None:
        self.real = ManualClock()
        self.clock = DemoClock(self.real)
        self.rehearsal = OutageRehearsal(PLANNED, clock=self.clock, speed=40)
        self.sent = 0
        self.status = 200
        self.answer: Handler = self._answer
        self.url = ""
        self.client: aiohttp.ClientSession

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        app = web.Application()
        parts = {"/product": Part.ARCHIVE, "/token": Part.TOKEN_ENDPOINT}
        self.rehearsal.install(app, parts.get, lambda: self.sent)
        app.router.add_get("/{path}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with aiohttp.ClientSession() as self.client:
                yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        return web.Response(status=self.status)

    async def get(self, path: str) -> int:
        async with self.client.get(self.url + path) as response:
            return response.status


async def test_an_outage_waits_for_its_progress_and_for_a_request_to_its_part() -> None:
    async with Server().running() as server:
        assert await server.get("/product") == 200
        server.sent = 1
        assert await server.get("/token") == 200
        assert await server.get("/other") == 200
        assert (server.rehearsal.held, server.clock.speed) == ([], 1)
        assert await server.get("/product") == 503
        assert server.clock.speed == 40


async def test_only_the_part_of_an_outage_is_out_of_order() -> None:
    async with Server().running() as server:
        server.sent = 2
        assert await server.get("/product") == 503
        assert await server.get("/token") == 200
        assert await server.get("/other") == 200


async def test_an_outage_ends_by_the_fast_clock_and_its_first_good_answer_slows_the_clock_down() -> None:
    async with Server().running() as server:
        server.sent = 1
        await server.get("/product")
        await server.real.advance(2.9)
        assert await server.get("/product") == 503
        await server.real.advance(0.2)
        assert server.clock.speed == 40
        assert await server.get("/product") == 200
        assert server.clock.speed == 1
        (record,) = server.rehearsal.held
        assert (record.refused, record.is_noticed) == (2, True)


async def test_the_clock_stays_fast_while_a_fault_of_another_kind_follows_the_outage() -> None:
    async with Server().running() as server:
        server.sent = 1
        await server.get("/product")
        await server.real.advance(4)
        server.status = 429
        assert await server.get("/product") == 429
        assert (server.clock.speed, server.rehearsal.held[0].is_noticed) == (40, False)
        server.status = 200
        assert await server.get("/product") == 200
        assert (server.clock.speed, server.rehearsal.held[0].is_noticed) == (1, True)


async def test_the_second_outage_begins_after_the_first_one_was_noticed() -> None:
    async with Server().running() as server:
        server.sent = 2
        await server.get("/product")
        assert await server.get("/token") == 200
        await server.real.advance(4)
        assert await server.get("/token") == 200
        assert await server.get("/product") == 200
        assert await server.get("/token") == 502
        assert await server.get("/product") == 200
        await server.real.advance(4)
        assert await server.get("/token") == 200
        assert [(held.planned, held.is_noticed) for held in server.rehearsal.held] == [(p, True) for p in PLANNED]
        assert await server.get("/product") == await server.get("/token") == 200


async def test_an_answer_in_an_outage_has_the_date_of_the_demos_clock() -> None:
    async with Server().running() as server:
        server.sent = 1
        async with server.client.get(server.url + "/product") as response:
            assert response.headers["Date"] == "Sun, 15 Jun 2025 15:06:40 GMT"
            assert response.content_type == "text/html"
            assert "maintenance" in await response.text()


async def test_an_outage_of_the_archive_breaks_the_connections_of_products() -> None:
    server = Server()
    body = b"x" * 1000

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(2 * len(body))})
        await response.prepare(request)
        await response.write(body)
        await server.real.sleep(1e6)
        return response

    server.answer = endless
    async with server.running(), server.client.get(server.url + "/product") as response:
        assert await response.content.readexactly(len(body)) == body
        server.sent = 1
        assert await server.get("/product") == 503
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.readexactly(1)
