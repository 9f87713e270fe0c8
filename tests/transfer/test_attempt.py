"""One product over real sockets: scripted responses go in; requests, bytes on disk, journal and failure come out."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from bulkdl.core.events import Retrying
from bulkdl.core.models import State
from bulkdl.demo_server.catalog import Item
from bulkdl.demo_server.faults import Cut, NewEdition, Refuse
from bulkdl.demo_server.server import Archive, Route
from bulkdl.journal.records import Phase
from tests.harness import HurriedClock, Place, body_of, sha256
from tests.servers import (
    RawRequest,
    RawServer,
    Responder,
    Wire,
    announce,
    chunked,
    head,
    html,
    http10,
    huge_head,
    multipart,
    ranges,
    redirect,
    reply,
    reset,
    stall,
)

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 300_000
BODY = body_of(SIZE)
OTHER = body_of(SIZE, 1)
LONGER = body_of(SIZE + 1, 2)
E1 = ("ETag", '"1"')
E2 = ("ETag", '"2"')
WEAK = ("ETag", 'W/"1"')
OLD = ("Last-Modified", formatdate(1_750_000_000, usegmt=True))
LATE = ("Date", formatdate(1_750_009_000, usegmt=True))
SOON = ("Date", formatdate(1_750_000_010, usegmt=True))


def cut(at: int, *headers: tuple[str, object], body: bytes = BODY) -> Responder:
    return announce(len(body), body[:at], *headers)


def part(start: int, stop: int, *headers: tuple[str, object], body: bytes = BODY, total: object = None) -> Responder:
    """Return a 206 with this range and total, whatever the request was."""
    span = ("Content-Range", f"bytes {start}-{stop - 1}/{len(body) if total is None else total}")
    return reply(206, body[start:stop], span, *headers)


def broken_off() -> Responder:
    """Return an HTTP/1.0 response without a length that ends with a reset."""

    async def respond(_request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, version="HTTP/1.0") + BODY[:100_000])
        await asyncio.sleep(0.05)  # a reset overtakes what the system has not handed on
        wire.reset()

    return respond


# ---- One run that ends well


@dataclass(frozen=True)
class Success:
    """Scripted responses (the last one repeats) and the requests that download the product whole."""

    answers: tuple[Responder, ...]
    asked: tuple[str | None, ...]
    """`Range` of each request."""
    if_range: str | None = None
    """`If-Range` of the last request."""
    got: bytes = BODY
    product: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


CHECKED = {"checksum": sha256(BODY)}
AT_100 = "bytes=100000-"
STORIES = {
    "a whole answer": Success((reply(200, BODY),), (None,)),
    "an empty product": Success((reply(200),), (None,), got=b""),
    "an empty product that the manifest knows": Success((reply(200),), (None,), got=b"", product={"size": 0}),
    "a chunked answer without a length": Success((chunked(BODY),), (None,)),
    "an answer that ends with its connection": Success((http10(BODY),), (None,)),
    "a reset of an answer that would end with its connection": Success((broken_off(), reply(200, BODY)), (None, None)),
    "a cut and a strong ETag": Success((cut(100_000, E1), ranges(BODY)), (None, AT_100), '"1"'),
    "a reset": Success((reset(SIZE, b"", E1), ranges(BODY)), (None, None)),
    "a cut and a strong date": Success(
        (cut(100_000, OLD, LATE), part(100_000, SIZE, OLD, LATE)), (None, AT_100), str(OLD[1])
    ),
    "a cut and a date that may change within its second": Success(
        (cut(100_000, OLD, SOON), reply(200, BODY)), (None, None)
    ),
    "a cut and a weak ETag": Success((cut(100_000, WEAK), reply(200, BODY)), (None, None)),
    "a cut and no validator": Success((cut(100_000), reply(200, BODY)), (None, None)),
    "a cut and a weak ETag, with a checksum": Success(
        (cut(100_000, WEAK), part(100_000, SIZE, WEAK)), (None, AT_100), product=CHECKED
    ),
    "a cut and no validator, with a checksum": Success(
        (cut(100_000), part(100_000, SIZE)), (None, AT_100), product=CHECKED
    ),
    "a truncated chunked body, with a size": Success(
        (chunked(BODY[:100_000], E1, whole=False), ranges(BODY)), (None, AT_100), '"1"', product={"size": SIZE}
    ),
    "a body that ends early with its connection, with a size": Success(
        (http10(BODY[:100_000], E1), ranges(BODY)), (None, AT_100), '"1"', product={"size": SIZE}
    ),
    "another edition instead of the range": Success(
        (cut(100_000, E1), reply(200, OTHER, E2)), (None, AT_100), '"1"', got=OTHER
    ),
    "the same edition instead of the range": Success((cut(100_000, E1), reply(200, BODY, E1)), (None, AT_100), '"1"'),
    "the same edition instead of the range, cut earlier than before": Success(
        (cut(100_000, E1), cut(50_000, E1), ranges(BODY)), (None, AT_100, AT_100), '"1"'
    ),
    "another edition instead of the range, cut": Success(
        (cut(100_000, E1), announce(SIZE, OTHER[:50_000], E2), ranges(OTHER, etag='"2"')),
        (None, AT_100, "bytes=50000-"),
        '"2"',
        got=OTHER,
    ),
    "a range of another edition by its ETag": Success(
        (cut(100_000, E1), part(100_000, SIZE, E2, body=OTHER), reply(200, OTHER, E2)),
        (None, AT_100, None),
        got=OTHER,
    ),
    "a range of another edition by its length": Success(
        (cut(100_000, E1), part(100_000, SIZE + 1, E1, body=LONGER), reply(200, LONGER, E1)),
        (None, AT_100, None),
        got=LONGER,
    ),
    "a range that begins elsewhere": Success(
        (cut(100_000, E1), part(100_001, SIZE, E1), reply(200, BODY, E1)), (None, AT_100, None)
    ),
    "a range that is shorter than asked for": Success(
        (cut(100_000, E1), part(100_000, 200_000, E1), ranges(BODY)), (None, AT_100, "bytes=200000-299999"), '"1"'
    ),
    "several parts in one answer": Success(
        (cut(100_000, E1), multipart(BODY, (100_000, SIZE)), reply(200, BODY, E1)), (None, AT_100, None)
    ),
    "a partial answer without Content-Range": Success(
        (cut(100_000, E1), reply(206, BODY[100_000:], E1), reply(200, BODY, E1)), (None, AT_100, None)
    ),
    "no such range": Success(
        (cut(100_000, E1), reply(416, b"", ("Content-Range", "bytes */5")), reply(200, BODY, E1)), (None, AT_100, None)
    ),
    "an overlap that is the same": Success(
        (cut(100_000), ranges(BODY, etag=None)), (None, "bytes=34464-"), product={"resume": "overlap"}
    ),
    "an overlap that differs": Success(
        (cut(100_000), ranges(OTHER, etag=None)), (None, "bytes=34464-", None), got=OTHER, product={"resume": "overlap"}
    ),
    "a burst of 503": Success((reply(503), reply(503), reply(200, BODY)), (None, None, None)),
    "a page between the parts": Success((cut(100_000, E1), html(), ranges(BODY)), (None, AT_100, AT_100), '"1"'),
    "a page, with a size": Success((html(), ranges(BODY)), (None, None), product={"size": SIZE}),
    "a wrong byte on the way": Success((reply(200, OTHER, E1), reply(200, BODY, E1)), (None, None), product=CHECKED),
    "a product that is prepared first": Success((reply(202), reply(202), reply(200, BODY)), (None, None, None)),
    "a gzip that is meant as it comes": Success(
        (reply(200, gzip.compress(BODY, mtime=0), ("Content-Encoding", "gzip")),),
        (None,),
        got=gzip.compress(BODY, mtime=0),
        product={"file": "x.gz"},
    ),
}


@pytest.mark.parametrize("name", STORIES)
async def test_a_product_arrives_whole_after(name: str, tmp_path: Path):
    story = STORIES[name]
    place = Place(tmp_path, **story.settings)
    product = {"file": "x.bin", **story.product}
    async with RawServer(*story.answers) as server:
        done = await place.run({"url": server.url(), **product})
        asked = tuple(r.header("Range") for r in server.log)
        assert (done.code, asked) == (0, story.asked), done.result.failures
        assert server.log[-1].header("If-Range") == story.if_range
        assert all(r.header("Accept-Encoding") == "identity" for r in server.log)
        assert place.file(product["file"]) == story.got
        assert place.names() == [product["file"]]
        entry = place.entry()
        assert (entry.phase, entry.size, entry.ranges, entry.part) == (Phase.DONE, len(story.got), (), None)
        requests = len(server.log)
        again = await place.run({"url": server.url(), **product})
        assert (again.code, again.result.skipped, len(server.log)) == (0, 1, requests)


# ---- One run that ends without the product


@dataclass(frozen=True)
class Failing:
    answers: tuple[Responder, ...]
    kind: str
    attempts: int
    says: str
    requests: int | None = None
    part: bytes | None = None
    product: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


PATIENT = {"give_up_after": 10.0, "workers": 1}
"""An archive that never gives a good answer is asked four times in so many seconds: at 0, 1.5, 4.5 and 10 s."""
CODED_BR = reply(200, BODY, ("Content-Encoding", "br"))
ERROR_JSON = reply(200, b'{"error": "quota exceeded"}', ("Content-Type", "application/json"))
SADS = {
    "404": Failing((reply(404),), "http", 2, "answered 404"),
    "410": Failing((reply(410),), "http", 2, "withdrawn"),
    "401 without an account": Failing((reply(401),), "auth", 2, "Name an account"),
    "403 without an account": Failing((reply(403),), "auth", 2, "Name an account"),
    "500 for ever": Failing((reply(500),), "http", 4, "--give-up-after", settings=PATIENT),
    "503 for ever": Failing((reply(503),), "http", 4, "--give-up-after", settings=PATIENT),
    "202 for ever": Failing((reply(202),), "offline", 7, "--max-wait", settings={"max_wait": 60.0}),
    "202 that asks for too long": Failing((reply(202, b"", ("Retry-After", "7200")),), "offline", 1, "--max-wait"),
    "429 that asks for too long": Failing((reply(429, b"", ("Retry-After", "7200")),), "http", 1, "--max-wait"),
    "a cut at the same byte": Failing(
        (cut(100_000, E1), reset(1, b"")), "network", 6, "--give-up-after", part=BODY[:100_000], settings=PATIENT
    ),
    "silence": Failing(
        (stall(SIZE, BODY[:1000], E1),), "network", 4, "sent no data", part=BODY[:1000], settings={"timeout": 0.15}
    ),
    "a page": Failing((html(),), "content", 4, "HTML page"),
    "a page that does not say so": Failing(
        (reply(200, b"<!DOCTYPE html><html>Sign in</html>"),), "content", 4, "HTML page"
    ),
    "a page where a product of known size should be": Failing((html(),), "content", 4, "HTML", product={"size": SIZE}),
    "an error object": Failing((ERROR_JSON,), "content", 4, "JSON error"),
    "a chunked body without its end": Failing(
        (chunked(b"abc", whole=False),), "network", 4, "no progress", part=b"abc"
    ),
    "fewer bytes than promised": Failing((cut(10),), "network", 4, "ended", part=BODY[:10]),
    "a coding that was not asked for and is not known": Failing((CODED_BR,), "content", 2, "br"),
    "another size than the manifest's": Failing(
        (reply(200, BODY),), "size", 2, "expected 5 bytes", product={"size": 5}
    ),
    "more than the manifest's size, without a length": Failing(
        (chunked(BODY),), "size", 2, "expected 5 bytes", product={"size": 5}
    ),
    "another checksum twice": Failing(
        (reply(200, OTHER),), "checksum", 2, "Two downloads gave identical bytes", product=CHECKED
    ),
    "a redirect for ever": Failing((redirect("/product.bin"),), "http", 1, "redirects", requests=16),
    "a redirect to nowhere": Failing((reply(302),), "http", 2, "302"),
    "a redirect to a file": Failing((redirect("file:///etc/passwd"),), "http", 1, "not a usable URL"),
    "a redirect to a URL with a password": Failing((redirect("http://u:p@127.0.0.1/"),), "http", 1, "not a usable URL"),
    "a huge head": Failing((huge_head(),), "network", 4, "a head of more than 300 KiB", settings=PATIENT),
    "no HTTP at all": Failing(
        (lambda _r, wire: wire.send(b"SSH-2.0-x\r\n\r\n"),), "network", 4, "not valid HTTP", settings=PATIENT
    ),
    "an empty archive": Failing((reply(200),), "content", 2, "empty", product={"file": "x.zip"}),
}


@pytest.mark.parametrize("name", SADS)
async def test_a_product_fails_and_nothing_is_at_its_name_after(name: str, tmp_path: Path):
    sad = SADS[name]
    place = Place(tmp_path, **sad.settings)
    product = {"file": "x.bin", **sad.product}
    async with RawServer(*sad.answers) as server:
        done = await place.run({"url": server.url(), **product})
    kind, attempts, reason = done.failure
    assert (done.code, kind, attempts) == (1, sad.kind, sad.attempts), reason
    assert sad.says in reason
    assert len(server.log) == (sad.requests or sad.attempts)
    assert place.names() == ([] if sad.part is None else [f"{product['file']}.part"])
    assert place.part(product["file"]) == sad.part
    entry = place.entry()
    assert (entry.phase, entry.failure_kind, entry.failure_reason) == (Phase.FAILED, kind, reason)
    assert entry.ranges == (((0, len(sad.part)),) if sad.part else ())


# ---- Progress and patience


async def test_more_cuts_than_retries_are_no_failure_while_each_brings_bytes(tmp_path: Path):
    item = Item(name="large.bin", size=3_000_000)
    place = Place(tmp_path, retries=2)
    async with Archive([item]) as archive:
        archive.faults.add(Cut(after=400_000), times=None)
        done = await place.run({"url": archive.url(item), "file": "x.bin"})
        assert (done.code, place.file("x.bin")) == (0, item.read())
        assert len(archive.requests(item)) >= 7
        assert done.result.received <= item.size
        assert all(r.if_range == item.etag for r in archive.requests(item)[1:])


async def test_a_cut_always_at_the_same_byte_ends_after_the_retries_and_the_next_run_resumes_from_there(tmp_path: Path):
    place = Place(tmp_path, retries=3)

    async def nothing(request: RawRequest, wire: Wire) -> None:
        span = ("Content-Range", f"bytes 100000-{SIZE - 1}/{SIZE}")
        await wire.send(head(206, span, ("Content-Length", SIZE - 100_000), E1))

    async with RawServer(cut(100_000, E1), nothing, nothing, nothing, ranges(BODY)) as server:
        first = await place.run({"url": server.url(), "file": "x.bin"})
        assert (first.code, first.failure[:2]) == (1, ("network", 4))
        assert [e.attempt for e in first.of(Retrying)] == [0, 1, 2]
        assert place.part("x.bin") == BODY[:100_000]
        second = await place.run({"url": server.url(), "file": "x.bin"})
        assert (second.code, place.file("x.bin"), second.result.resumed) == (0, BODY, 100_000)
        assert (second.result.received, second.result.written) == (SIZE - 100_000, SIZE)
        assert server.log[-1].header("Range") == AT_100


async def test_what_a_server_sends_again_because_it_ignores_ranges_does_not_count_as_resumed(tmp_path: Path):
    place = Place(tmp_path, retries=1, give_up_after=0.0)
    async with RawServer(cut(200_000, E1), reply(500), reply(500), reply(200, BODY, E1)) as server:
        await place.run({"url": server.url(), "file": "x.bin"})
        assert place.part("x.bin") == BODY[:200_000]
        done = await place.run({"url": server.url(), "file": "x.bin"})
        assert (done.code, place.file("x.bin")) == (0, BODY)
        assert (done.result.received, done.result.resumed) == (SIZE, 0)


@pytest.mark.parametrize("size", [2**63 - 1, 2**62, 2**55])
async def test_a_length_that_no_disk_holds_is_the_products_own_failure(size: int, tmp_path: Path):
    async def respond(request: RawRequest, wire: Wire) -> None:
        await (announce(size, b"x") if request.path == "/x.bin" else ranges(BODY))(request, wire)

    async with RawServer(respond) as server:
        wishes = [{"url": server.url(f"/{name}"), "file": name} for name in ("x.bin", "y.bin")]
        done = await Place(tmp_path, workers=1).run(*wishes)
    assert (done.code, done.result.completed, done.failure[:2]) == (1, 1, ("size", 2))


async def test_a_wrong_size_is_believed_when_it_comes_twice(tmp_path: Path):
    async with RawServer(reply(200, BODY[:5]), reply(200, BODY)) as server:
        place = Place(tmp_path)
        done = await place.run({"url": server.url(), "file": "x.bin", "size": SIZE})
        assert (done.code, place.file("x.bin"), len(server.log)) == (0, BODY, 2)


async def test_a_partial_that_was_cut_short_on_disk_is_continued_from_what_it_still_has(tmp_path: Path):
    place = Place(tmp_path, retries=1, give_up_after=0.0)
    async with RawServer(cut(200_000, E1), reply(500), reply(500), reply(500), reply(500), ranges(BODY)) as server:
        await place.run({"url": server.url(), "file": "x.bin"})
        with (place.root / "x.bin.part").open("r+b") as file:
            file.truncate(50_000)
        await place.run({"url": server.url(), "file": "x.bin"})
        assert place.entry().ranges == ((0, 50_000),)
        done = await place.run({"url": server.url(), "file": "x.bin"})
        assert (done.code, place.file("x.bin"), done.result.resumed) == (0, BODY, 50_000)
        assert server.log[-1].header("Range") == "bytes=50000-"


async def test_a_partial_without_a_journal_entry_is_overwritten(tmp_path: Path):
    place = Place(tmp_path)
    place.root.mkdir()
    (place.root / "x.bin.part").write_bytes(body_of(SIZE + 5000, 9))
    async with RawServer(ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"})
        assert (done.code, place.file("x.bin"), server.log[0].header("Range")) == (0, BODY, None)


async def test_an_error_page_does_not_cost_the_bytes_on_disk(tmp_path: Path):
    place = Place(tmp_path, retries=3)
    async with RawServer(cut(100_000, E1), html()) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"})
    assert done.failure[0] == "content"
    assert (place.part("x.bin"), place.entry().ranges) == (BODY[:100_000], ((0, 100_000),))


async def test_a_retry_after_is_obeyed_and_the_host_left_alone_by_all(tmp_path: Path):
    clock = HurriedClock()
    place = Place(tmp_path, workers=1)
    async with RawServer(reply(429, b"", ("Retry-After", "120")), ranges(BODY)) as server:
        urls = [{"url": server.url(f"/{i}"), "file": f"{i}.bin"} for i in range(3)]
        done = await place.run(*urls, clock=clock)
        assert (done.code, len(server.log)) == (0, 4)
        assert [round(e.wait_s) for e in done.of(Retrying)] == [120]
        assert max(clock.slept) > 119


async def test_a_prepared_product_is_asked_for_again_when_the_archive_says(tmp_path: Path):
    clock = HurriedClock()
    place = Place(tmp_path)
    async with RawServer(reply(202, b"", ("Retry-After", "300")), ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, clock=clock)
        assert (done.code, place.file("x.bin")) == (0, BODY)
        assert {round(s) for s in clock.slept} == {300}  # of every worker that is idle


async def test_a_stream_below_the_least_rate_is_given_up_and_continued(tmp_path: Path):
    place = Place(tmp_path, timeout=0.2, min_rate=1_000_000)

    async def dribble(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", SIZE), E1))
        for at in range(100):
            await wire.send(BODY[at * 10 : at * 10 + 10])
            if await wire.closed_within(0.02):
                return

    async with RawServer(dribble, ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"})
        assert (done.code, place.file("x.bin")) == (0, BODY)
        assert "bytes a second" in done.of(Retrying)[0].reason
        assert server.log[1].header("If-Range") == '"1"'


async def closed_within(wire: Wire, seconds: float) -> bool:
    """Wait between two pieces of a slow body; return True as soon as the client has closed."""
    try:
        async with asyncio.timeout(seconds):
            return not await wire.reader.read(1)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("url", "says"),
    [("http://127.0.0.1:9/x", "no connection"), ("http://archive.invalid/x", "could not be resolved")],
)
async def test_an_archive_that_cannot_be_reached_is_named(url: str, says: str, tmp_path: Path):
    place = Place(tmp_path, retries=2, give_up_after=1.0, workers=1)
    done = await place.run({"url": url, "file": "x.bin"})
    kind, attempts, reason = done.failure
    assert (done.code, kind, attempts) == (1, "network", 2)
    assert says in reason
    assert place.names() == []


# ---- Names, checksums, archives


@pytest.mark.parametrize(
    ("path", "headers", "file"),
    [
        ("/data/a%20b.tif?x=1", (), "a b.tif"),
        ("/get/17", (("Content-Disposition", 'attachment; filename="S2A.bin"'),), "S2A.bin"),
        ("/get/17", (("Content-Disposition", "attachment; filename=../../S2A.bin"),), "S2A.bin"),
        ("/", (), "download"),
    ],
)
async def test_a_product_without_a_file_has_the_name_that_the_archive_gives(
    path: str, headers: tuple[tuple[str, object], ...], file: str, tmp_path: Path
):
    place = Place(tmp_path)
    body = b"II*\0" + BODY
    async with RawServer(reply(200, body, *headers)) as server:
        done = await place.run(server.url(path))
        assert (done.code, place.file(file), place.names()) == (0, body, [file])
        again = await place.run(server.url(path))
        assert (again.result.skipped, len(server.log)) == (1, 1)


async def test_all_checksums_of_a_product_are_computed_and_kept(tmp_path: Path):
    place = Place(tmp_path)
    sums = [f"{name}:{hashlib.new(name, BODY).hexdigest()}" for name in ("md5", "sha1", "sha256", "sha512")]
    sums.append(f"blake3:{blake3(BODY).hexdigest()}")
    async with RawServer(reply(200, BODY)) as server:
        done = await place.run({"url": server.url(), "file": "a/b/x.bin", "checksum": sums, "size": SIZE})
    assert (done.code, place.file("a/b/x.bin")) == (0, BODY)
    assert [str(c) for c in place.entry().digests] == sums


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


async def test_an_archive_is_unpacked_beside_itself(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(reply(200, zipped(one=b"1", two=b"22"))) as server:
        done = await place.run({"url": server.url(), "file": "x.zip", "extract": True})
    assert (done.code, place.names()) == (0, ["x.zip", "x/one", "x/two"])


async def test_an_archive_whose_folder_was_in_the_way_is_unpacked_by_the_next_run_without_a_request(tmp_path: Path):
    place = Place(tmp_path)
    place.root.mkdir()
    (place.root / "x").write_text("in the way")
    async with RawServer(reply(200, zipped(one=b"1"))) as server:
        product = {"url": server.url(), "file": "x.zip", "extract": True, "size": len(zipped(one=b"1"))}
        first = await place.run(product)
        assert (first.code, first.failure[0]) == (1, "conflict")
        second = await place.run(product)
        assert (second.code, second.failure[0]) == (1, "conflict")
        (place.root / "x").unlink()
        third = await place.run(product)
        assert (third.code, third.result.skipped, place.names()) == (0, 1, ["x.zip", "x/one"])
        assert len(server.log) == 1


# ---- The embedded archive's faults


@pytest.mark.parametrize("route", list(Route))
async def test_every_way_to_a_product_leads_to_its_bytes(route: Route, tmp_path: Path):
    item = Item(name="large.bin", size=1_000_000)
    place = Place(tmp_path)
    async with Archive([item]) as archive:
        done = await place.run({"url": archive.url(item, route), "checksum": f"md5:{item.digest()}"})
    (outcome,) = done.outcomes.values()
    assert (done.code, outcome.state, place.file(outcome.file)) == (0, State.COMPLETED, item.read())


async def test_a_server_with_many_faults_gives_its_product_without_a_splice(tmp_path: Path):
    item = Item(name="large.bin", size=2_000_000)
    place = Place(tmp_path, retries=5)
    async with Archive([item]) as archive:
        for effect in (Cut(700_000), Refuse(503), Cut(600_000), NewEdition()):
            archive.faults.add(effect)
        done = await place.run({"url": archive.url(item), "file": "x.bin"})
        assert (done.code, place.file("x.bin")) == (0, archive.items["large.bin"].read())
        assert archive.faults.left == ()
