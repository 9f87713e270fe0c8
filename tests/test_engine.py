"""Which product has its worker, its name and its source: several products over real sockets, and what becomes of each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.harness import Place, body_of, sha256
from tests.servers import RawRequest, RawServer, Wire, announce, head, ranges, reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Responder

NAMED = ("Content-Disposition", 'attachment; filename="same.bin"')


def routes(**responders: Responder) -> Responder:
    """Answer by the first path segment."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await responders[request.path.strip("/").partition(".")[0]](request, wire)

    return respond


def held(
    body: bytes, until: asyncio.Event, *headers: tuple[str, object], sent: int = 0, begun: asyncio.Event | None = None
):
    """Send `sent` bytes, and the rest once `until` is set."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", len(body)), ("Connection", "close"), *headers))
        await wire.send(body[:sent])
        if begun is not None:
            begun.set()
        await until.wait()
        await wire.send(body[sent:])

    return respond


async def test_of_two_products_with_one_name_the_first_in_the_manifest_has_it_also_when_it_answers_last(tmp_path: Path):
    first, second = body_of(3_000_000, 1), body_of(2_500_000, 2)
    second_runs, second_may_end, first_runs = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def late(request: RawRequest, wire: Wire) -> None:
        await second_runs.wait()
        await held(first, second_may_end, NAMED, sent=2_000_000, begun=first_runs)(request, wire)

    async def early(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", len(second)), ("Connection", "close"), NAMED))
        await wire.send(second[:1_500_000])
        second_runs.set()
        await first_runs.wait()
        await wire.send(second[1_500_000:])
        await asyncio.sleep(0)
        second_may_end.set()

    place = Place(tmp_path)
    async with RawServer(routes(a=late, b=early)) as server:
        done = await place.run(server.url("/a"), server.url("/b"))
    assert done.code == 1
    assert place.file("same.bin") == first
    assert place.names() == ["same.bin"]
    kind, _, reason = done.failure
    assert kind == "conflict"
    assert "product 1 of the manifest" in reason


async def test_a_finished_product_keeps_its_name_when_an_earlier_one_comes_by_the_same(tmp_path: Path):
    first, second = body_of(5000, 1), body_of(4000, 2)
    placed = asyncio.Event()

    async def late(request: RawRequest, wire: Wire) -> None:
        await placed.wait()
        await reply(200, first, NAMED)(request, wire)

    place = Place(tmp_path)
    async with RawServer(routes(a=late, b=reply(200, second, NAMED))) as server:
        done = await place.run(
            server.url("/a"), server.url("/b"), watch=lambda e: placed.set() if "Finished" in type(e).__name__ else None
        )
        again = await place.run(server.url("/a"), server.url("/b"))
    assert (done.code, done.failure[0], place.file("same.bin")) == (1, "conflict", second)
    assert (again.code, again.failure[0], place.file("same.bin")) == (1, "conflict", second)
    assert place.names() == ["same.bin"]


async def test_a_product_that_the_archive_names_is_continued_by_the_next_run(tmp_path: Path):
    body = body_of(400_000)
    place = Place(tmp_path, retries=1)
    cut = announce(len(body), body[:150_000], ("ETag", '"1"'), NAMED)
    async with RawServer(cut, reply(500), ranges(body, NAMED)) as server:
        first = await place.run(server.url("/a"))
        assert (first.code, place.part("same.bin")) == (1, body[:150_000])
        second = await place.run(server.url("/a"))
        assert (second.code, place.file("same.bin")) == (0, body)
        assert server.log[-1].header("Range") == "bytes=150000-"
        assert second.result.resumed == 150_000
        assert place.names() == ["same.bin"]


async def test_a_mirror_gives_what_the_first_source_has_not(tmp_path: Path):
    body = body_of(50_000)
    place = Place(tmp_path)
    async with RawServer(routes(a=reply(404), b=reply(200, body))) as server:
        done = await place.run({"url": server.url("/a"), "file": "x.bin", "mirrors": [server.url("/b")]})
    assert (done.code, place.file("x.bin"), [r.path for r in server.log]) == (0, body, ["/a", "/b"])


async def test_a_mirror_that_stumbles_is_asked_again_and_the_dead_source_is_not(tmp_path: Path):
    body = body_of(50_000)
    place = Place(tmp_path)
    stumbles = iter([reply(503), reply(503), reply(200, body)])

    async def flaky(request: RawRequest, wire: Wire) -> None:
        await next(stumbles)(request, wire)

    async with RawServer(routes(a=reply(404), b=flaky)) as server:
        done = await place.run({"url": server.url("/a"), "file": "x.bin", "mirrors": [server.url("/b")]}, retries=5)
    assert (done.code, place.file("x.bin"), [r.path for r in server.log]) == (0, body, ["/a", "/b", "/b", "/b"])


async def test_a_wrong_checksum_at_the_first_source_turns_to_the_mirror(tmp_path: Path):
    body = body_of(50_000)
    place = Place(tmp_path)
    async with RawServer(routes(a=reply(200, body_of(50_000, 1)), b=reply(200, body))) as server:
        done = await place.run(
            {"url": server.url("/a"), "file": "x.bin", "mirrors": [server.url("/b")], "checksum": sha256(body)}
        )
    assert (done.code, place.file("x.bin"), [r.path for r in server.log]) == (0, body, ["/a", "/b"])
