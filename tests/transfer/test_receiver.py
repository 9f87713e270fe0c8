"""Number of connections that products take, over real sockets: more where each is held back, and none that another product needs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from bulkdl.core.clock import SystemClock
from bulkdl.core.events import Retrying
from bulkdl.transfer import segment_scaling
from tests.harness import Place, body_of
from tests.servers import RawRequest, RawServer, Wire, head, reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import Done
    from tests.servers import Responder

pytestmark = pytest.mark.long

KIB = 1024
BODY = body_of(8_000_000, 11)
E1 = ("ETag", '"1"')
PIECE = 32 * KIB


@pytest.fixture(autouse=True)
def keen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further connections pay off after moments and for little, so that no test has to last for long."""
    for constant, value in (("MIN_SPLIT", 256 * KIB), ("MIN_SPLIT_S", 0.05)):
        monkeypatch.setattr(segment_scaling, constant, value)


@dataclass(slots=True)
class Archive:
    """Sends ranges of `BODY`; counts the connections that are being served."""

    each: float = float("inf")
    """Bytes a second on one connection."""
    link: float = float("inf")
    """Bytes a second on all of them."""
    most: int = 1000
    """More are answered 429."""
    now: int = 0
    at_once: int = 0
    over_time: list[int] = field(default_factory=list)
    """Connections that were being served when each request came."""
    refused: int = 0

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        if self.now >= self.most:
            self.refused += 1
            await reply(429)(request, wire)
            return
        self.now += 1
        self.at_once = max(self.at_once, self.now)
        self.over_time.append(self.now)
        try:
            await self._send(request, wire)
        finally:
            self.now -= 1

    async def _send(self, request: RawRequest, wire: Wire) -> None:
        part = request.range(len(BODY))
        start, stop = part or (0, len(BODY))
        fields = [("Content-Length", stop - start), ("Accept-Ranges", "bytes"), E1, ("Connection", "close")]
        if part is not None:
            fields.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(BODY)}"))
        await wire.send(head(200 if part is None else 206, *fields))
        for at in range(start, stop, PIECE):
            await wire.send(BODY[at : min(stop, at + PIECE)])
            if await wire.closed_within(PIECE / min(self.each, self.link / self.now)):
                return


TRIES = 4
"""Tries of a run that measures rates: a busy machine may hide the gain of a connection, so each try is slower."""


async def fetch(tmp_path: Path, archive: Archive, *, products: int = 3, **settings: int) -> None:
    place = Place(tmp_path, workers=8, **settings)
    names = [f"{n}.bin" for n in range(products)]
    async with RawServer(archive) as server:
        done = await place.run(*({"url": server.url(f"/{name}"), "file": name} for name in names))
    assert done.code == 0, done.result.failures
    assert {name: place.file(name) == BODY for name in names} == dict.fromkeys(names, True)


async def test_a_host_that_holds_each_connection_back_is_asked_on_more_than_at_the_beginning(tmp_path: Path):
    for attempt in range(TRIES):
        archive = Archive(each=400_000 / 2**attempt)
        await fetch(tmp_path / str(attempt), archive)
        if archive.at_once > 16 + 2:
            return
    pytest.fail(f"no more than {archive.at_once}")


async def test_one_product_has_more_connections_where_they_pay_and_no_more_than_its_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(segment_scaling, "MIN_SPLIT", 64 * KIB)
    for attempt in range(TRIES):
        archive = Archive(each=200_000 / 2**attempt)
        await fetch(tmp_path / str(attempt), archive, products=1)
        assert archive.at_once <= segment_scaling.MANY_SEGMENTS + 2
        if archive.at_once > segment_scaling.AUTO_SEGMENTS + 2:
            return
    pytest.fail(f"no more than {archive.at_once}")


async def test_one_product_on_a_shared_link_has_no_more_connections_than_ever(tmp_path: Path):
    archive = Archive(link=8_000_000)
    await fetch(tmp_path, archive, products=1)
    assert archive.at_once <= segment_scaling.AUTO_SEGMENTS + 2


async def test_on_a_shared_link_connections_are_tried_once_and_do_not_multiply(tmp_path: Path):
    for attempt in range(TRIES):
        archive = Archive(link=12_000_000 / 2**attempt)
        await fetch(tmp_path / str(attempt), archive)
        assert archive.at_once <= 32 + 2  # the server may see the end of one after the beginning of the next
        later = archive.over_time[len(archive.over_time) // 2 :]
        if sorted(later)[len(later) // 2] <= 16 + 2:
            return
    pytest.fail(f"as many as {archive.over_time}")


async def test_a_host_that_minds_more_connections_keeps_those_that_it_bears(tmp_path: Path):
    for attempt in range(TRIES):
        archive = Archive(each=900_000 / 2**attempt, most=20)
        await fetch(tmp_path / str(attempt), archive)
        assert archive.at_once <= 20
        if archive.refused and archive.at_once == 20:
            return
    pytest.fail(f"no more than {archive.at_once}")


async def test_a_run_with_a_limited_rate_has_no_use_for_more_connections(tmp_path: Path):
    archive = Archive(each=600_000)
    await fetch(tmp_path, archive, limit_rate=9_000_000)
    assert archive.at_once <= 16 + 2


async def test_a_number_of_segments_is_never_exceeded(tmp_path: Path):
    archive = Archive(each=4_000_000)
    place = Place(tmp_path, workers=2, segments=2)
    async with RawServer(archive) as server:
        done = await place.run(*({"url": server.url(f"/{n}"), "file": f"{n}.bin"} for n in range(3)))
    assert done.code == 0
    assert archive.at_once <= 4 + 1


async def both_arrive(tmp_path: Path, respond: Responder, *, most: int) -> Done:
    """A large product and one that is asked for once more while it arrives, of an account with so many connections."""
    place = Place(tmp_path, workers=2, timeout=30.0)
    async with RawServer(respond) as server:
        host = {"hosts": [f"127.0.0.1:{server.port}"], "auth": "none", "max_connections": most}
        products = [{"url": server.url(f"/{n}"), "file": n, "account": "own"} for n in ("large", "late")]
        async with asyncio.timeout(60):
            done = await place.run(*products, accounts={"own": host}, clock=SystemClock())
    assert (done.code, place.file("large") == BODY, place.file("late")) == (0, True, b"late")
    return done


async def test_a_product_that_comes_later_is_not_kept_waiting_by_another_ones_segments(tmp_path: Path):
    """The large one comes slowly until the other has been served, which at first is told to come back."""
    asked, archive = 0, Archive(each=40_000)

    async def respond(request: RawRequest, wire: Wire) -> None:
        nonlocal asked
        if request.path == "/large":
            await archive(request, wire)
            return
        asked += 1
        if asked > 1:
            archive.each = float("inf")
        await reply(*((200, b"late") if asked > 1 else (202, b"", ("Retry-After", "1"))))(request, wire)

    await both_arrive(tmp_path, respond, most=3)
    assert archive.at_once == 3


async def test_what_the_last_guest_leaves_is_fetched_in_the_same_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first connection has nothing left to fetch when the other has to leave for a product that comes later."""
    monkeypatch.setattr(segment_scaling, "MIN_SPLIT", len(BODY) // 2 - 200 * KIB)
    asked, divided, archive = 0, asyncio.Event(), Archive(each=40_000)

    async def respond(request: RawRequest, wire: Wire) -> None:
        nonlocal asked
        if request.path == "/large":
            if request.header("Range"):
                divided.set()
                await archive(request, wire)
                return
            await wire.send(
                head(200, ("Content-Length", len(BODY)), ("Accept-Ranges", "bytes"), E1) + BODY[: 256 * KIB]
            )
            await divided.wait()
            with suppress(OSError):
                await wire.send(BODY[256 * KIB :])
            return
        asked += 1
        if asked > 1:
            archive.each = float("inf")
        await reply(*((200, b"late") if asked > 1 else (202, b"", ("Retry-After", "1"))))(request, wire)

    done = await both_arrive(tmp_path, respond, most=2)
    assert [event.file for event in done.of(Retrying)] == ["late"]
