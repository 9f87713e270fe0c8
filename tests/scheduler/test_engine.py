"""Which product has its worker, its name and its source: several products over real sockets, and what becomes of each."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core.events import Retrying
from bulkdl.core.stop_request import StopReason, StopSignal
from bulkdl.protocol.byte_ranges import cover
from bulkdl.transfer import segment_scaling
from tests.effort import effort
from tests.harness import Place, body_of, sha256
from tests.servers import RawRequest, RawServer, Wire, announce, head, html, ranges, reply, reset

if TYPE_CHECKING:
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
    place = Place(tmp_path, retries=1, give_up_after=0.0)
    cut = announce(len(body), body[:150_000], ("ETag", '"1"'), NAMED)
    async with RawServer(cut, reply(500), reply(500), ranges(body, NAMED)) as server:
        first = await place.run(server.url("/a"))
        assert (first.code, place.part("same.bin")) == (1, body[:150_000])
        second = await place.run(server.url("/a"))
        assert (second.code, place.file("same.bin")) == (0, body)
        assert server.log[-1].header("Range") == "bytes=150000-"
        assert second.result.resumed == 150_000
        assert place.names() == ["same.bin"]


async def test_a_partial_of_an_earlier_run_is_never_written_to_by_a_product_of_the_same_name(tmp_path: Path):
    first, second = body_of(300_000, 1), body_of(300_000, 2)
    place = Place(tmp_path, retries=1, give_up_after=0.0)
    cuts = iter([announce(300_000, second[:200_000], ("ETag", '"1"'), NAMED), reply(500), reply(500)])

    async def cut_then_down(request: RawRequest, wire: Wire) -> None:
        await next(cuts)(request, wire)

    async def half(request: RawRequest, wire: Wire) -> None:
        await announce(300_000, first[:100_000], ("ETag", '"1"'), NAMED)(request, wire)

    async with RawServer(routes(a=half, b=cut_then_down)) as server:
        assert (await place.run(server.url("/b"))).code == 1
        both = await place.run(server.url("/a"), workers=1)
        assert both.code == 1
        parts = {name: place.file(name) for name in place.names()}
        assert sorted(parts.values(), key=bytes.__len__, reverse=True) == [second[:200_000], first[:100_000]]


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


# ---- Several connections to one product

LARGE = body_of(24_000_000, 7)
NEWER = body_of(24_000_000, 8)


def paced(body: bytes, tag: str, *, rate: float = 40_000_000) -> Responder:
    """An orderly server of ranges that sends at most so many bytes a second on each connection."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        part = request.range(len(body))
        if request.header("If-Range") not in {None, tag}:
            part = None
        start, stop = part or (0, len(body))
        fields = [("Content-Length", stop - start), ("Accept-Ranges", "bytes"), ("ETag", tag)]
        if part is not None:
            fields.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}"))
        await wire.send(head(200 if part is None else 206, *fields, ("Connection", "close")))
        for at in range(start, stop, 1 << 18):
            await wire.send(body[at : min(stop, at + (1 << 18))])
            if await wire.closed_within((1 << 18) / rate):
                return

    return respond


@pytest.fixture
def keen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further connections pay off after moments rather than seconds, so that no test has to last for seconds."""
    monkeypatch.setattr(segment_scaling, "MIN_SPLIT_S", 0.02)


@pytest.mark.usefixtures("keen")
async def test_a_large_product_comes_over_several_connections(tmp_path: Path):
    place = Place(tmp_path, segments=4)
    async with RawServer(paced(LARGE, '"1"', rate=15_000_000)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"})
        assert (done.code, place.file("x.bin") == LARGE) == (0, True)
        assert server.connections >= 2
        assert [r.header("If-Range") for r in server.log[1:]] == ['"1"'] * (len(server.log) - 1)
        assert done.result.received < len(LARGE) * 1.2


@pytest.mark.usefixtures("keen")
async def test_a_slow_first_connection_is_helped_by_faster_ones(tmp_path: Path):
    place = Place(tmp_path, segments=4)
    slow, fast = paced(LARGE, '"1"', rate=4_000_000), paced(LARGE, '"1"')
    async with RawServer(slow, fast) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"})
        assert (done.code, place.file("x.bin") == LARGE) == (0, True)
        starts = [r.range(len(LARGE)) or (0, 0) for r in server.log[1:]]
        assert min(starts)[0] < len(LARGE) // 3  # what was left of the slow one's half has been split again


@pytest.mark.usefixtures("keen")
@pytest.mark.parametrize("refusal", [reply(429), reply(503), reply(403), html(), reset(5, b"")])
async def test_a_server_that_minds_a_second_connection_still_gives_the_product(refusal: Responder, tmp_path: Path):
    open_now = 0

    async def one_at_a_time(request: RawRequest, wire: Wire) -> None:
        nonlocal open_now
        if open_now:
            await refusal(request, wire)
            return
        open_now += 1
        try:
            await paced(LARGE, '"1"')(request, wire)
        finally:
            open_now -= 1

    place = Place(tmp_path, segments=4)
    async with RawServer(one_at_a_time) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"})
        assert (done.code, place.file("x.bin") == LARGE) == (0, True)
        assert len(server.log) > 1
        assert done.of(Retrying) == []


@pytest.mark.usefixtures("keen")
@pytest.mark.parametrize("checked", [False, True])
async def test_an_edition_that_changes_between_segments_is_never_spliced(checked: bool, tmp_path: Path):  # noqa: FBT001
    place = Place(tmp_path, segments=4)
    old, new = paced(LARGE, '"1"'), paced(NEWER, '"2"')

    async def old_then_cut(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", len(LARGE)), ("Accept-Ranges", "bytes"), ("ETag", '"1"')))
        for at in range(0, 6_000_000, 1 << 18):
            await wire.send(LARGE[at : at + (1 << 18)])
            if await wire.closed_within(0.03):
                return

    async with RawServer(old_then_cut, old, new) as server:
        more = {"checksum": sha256(NEWER)} if checked else {}
        done = await place.run({"url": server.url(), "file": "x.bin", **more})
        assert (done.code, place.file("x.bin") == NEWER) == (0, True)
        assert place.names() == ["x.bin"]


@pytest.mark.usefixtures("keen")
async def test_a_stop_while_segments_are_in_flight_keeps_each_of_them(tmp_path: Path):
    place, stop = Place(tmp_path, segments=4), StopSignal()
    asked = 0

    async def part_then_nothing(request: RawRequest, wire: Wire) -> None:
        nonlocal asked
        start, stop_at = request.range(len(LARGE)) or (0, len(LARGE))
        fields = [("Content-Length", stop_at - start), ("Accept-Ranges", "bytes"), ("ETag", '"1"')]
        if start:
            fields.append(("Content-Range", f"bytes {start}-{stop_at - 1}/{len(LARGE)}"))
        await wire.send(head(206 if start else 200, *fields) + LARGE[start : start + 1_500_000])
        asked += 1
        if asked == 4:
            await asyncio.sleep(0.3)
            stop.request(StopReason.SIGINT)
        await wire.hang()

    async with RawServer(*[part_then_nothing] * 4, paced(LARGE, '"1"')) as server:
        wish = {"url": server.url(), "file": "x.bin"}
        first = await place.run(wish, stop=stop)
        assert first.code == 130
        entry, part = place.entry(), place.part("x.bin") or b""
        assert len(entry.ranges) == 4
        assert cover(entry.ranges) == 6_000_000
        assert all(part[a:b] == LARGE[a:b] for a, b in entry.ranges)
        second = await place.run(wish)
        assert (second.code, place.file("x.bin") == LARGE) == (0, True)
        assert second.result.resumed == 6_000_000
        assert second.result.received <= len(LARGE) - 6_000_000 + 8_000_000


# ---- Anything may happen


class Weather:
    """A server whose every answer is the next of a random row; orderly once the row is over."""

    def __init__(self, row: list[tuple[str, int]], size: int) -> None:
        self.row = list(row)
        self.editions = [body_of(size, 100)]

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        what, number = self.row.pop(0) if self.row else ("right", 0)
        if what == "edition":
            self.editions.append(body_of(len(self.editions[0]), 100 + len(self.editions)))
        if what == "503":
            await reply(503)(request, wire)
            return
        body, tag = self.editions[-1], f'"{len(self.editions)}"'
        part = None if what == "ignore" else request.range(len(body))
        if what != "careless" and request.header("If-Range") not in {None, tag}:
            part = None
        start, stop = part or (0, len(body))
        fields = [("Content-Length", stop - start), ("ETag", tag), ("Accept-Ranges", "bytes"), ("Connection", "close")]
        if part is not None:
            fields.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}"))
        sent = body[start:stop]
        await wire.send(head(200 if part is None else 206, *fields))
        await wire.send(sent[: number % (len(sent) + 1)] if what == "cut" else sent)


answers = st.tuples(
    st.sampled_from(["right", "cut", "cut", "cut", "edition", "ignore", "503", "careless"]), st.integers(0, 3_000_000)
)


@hypothesis.settings(max_examples=effort(5, 40))
@given(row=st.lists(answers, max_size=9), size=st.sampled_from([0, 1, 70_000, 2_500_000]), retries=st.integers(1, 3))
async def test_whatever_the_server_does_the_file_is_one_edition_whole_or_not_there(
    row: list[tuple[str, int]], size: int, retries: int
):
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), retries=retries)
        weather = Weather(row, size)
        async with RawServer(weather) as server:
            for _ in range(len(row) + 1):
                done = await place.run({"url": server.url(), "file": "x.bin"})
                found = place.file("x.bin")
                assert found is None if done.code else found in weather.editions
                if done.code == 0:
                    break
                entry, part = place.entry(), place.part("x.bin") or b""
                assert any(all(part[a:b] == e[a:b] for a, b in entry.ranges) for e in weather.editions)
            assert done.code == 0
