"""Pipelining on one connection: plain answers come in order, and everything behind an unusable one stays unanswered."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from bulkdl.core.models import Settings
from bulkdl.core.urls import Url
from bulkdl.http.lightweight.keepalive_pool import SmallResponse
from bulkdl.http.lightweight.pipelined_connection import PipelinedConnection
from bulkdl.http.lightweight.pipelining_policy import PipeliningConfig
from bulkdl.http.lightweight.sender import LightweightSender
from bulkdl.http.tls import trusted_context
from tests.http.lightweight.test_keepalive_pool import until
from tests.waiting import CLOSE, CUT, RESET, Asked, Respond, Site, answer, ok

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Opens = Callable[[Respond], AbstractAsyncContextManager["Client"]]

SILENCE_S = 1.0
"""So long that no machine is too busy to answer before."""


class Client:
    """Requests to one site, alone or pipelined; the site has answered one request already."""

    def __init__(self, site: Site, sender: LightweightSender) -> None:
        self.site = site
        self.sender = sender

    async def alone(self, path: str = "/alone") -> bytes:
        url = Url(self.site.url(path))
        found = await self.sender.send("GET", url, url.target, headers={}, proxy=None, allow_small=True)
        assert isinstance(found, SmallResponse)
        return found.body

    def pipeline(self) -> PipelinedConnection:
        pool = self.sender.pipelining_pool(Url(self.site.url("/")))
        assert pool is not None
        return PipelinedConnection(pool)

    def heads(self, *paths: str) -> list[bytes]:
        return self.sender.request_heads(Url(self.site.url("/")), paths, headers={}) or []


@cache
def trusting(certificate: Path) -> ssl.SSLContext:
    """Return the context of a run; cached, since loading the certificates takes longer than a test here."""
    return trusted_context(Settings(ca_file=certificate), {})


@asynccontextmanager
async def opened(respond: Respond, certificate: Path | None = None) -> AsyncIterator[Client]:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=SILENCE_S)
    connector = aiohttp.TCPConnector(ssl=certificate is None or trusting(certificate))
    async with (
        Site(echo, certificate=certificate) as site,
        aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session,
    ):
        sender = LightweightSender(
            session, response_class=aiohttp.ClientResponse, pipelining=PipeliningConfig(1, any_server=True)
        )
        made = Client(site, sender)
        try:
            await made.alone()
            site.respond = respond
            yield made
        finally:
            sender.close()


@pytest.fixture(params=["http", "https"])
def client(request: pytest.FixtureRequest) -> Opens:
    """Run each test over HTTP and over HTTPS."""
    return opened if request.param == "http" else partial(opened, certificate=request.getfixturevalue("certificate"))


def body(path: str) -> bytes:
    return f"the body of {path}".encode()


def echo(batch: list[Asked]) -> list[bytes]:
    return [ok(body(asked.path)) for asked in batch]


async def answers(pipeline: PipelinedConnection, most: int = 10) -> list[bytes]:
    """Return the bodies of the answers, up to `most`, until none is left or the pipelining is over."""
    found: list[bytes] = []
    while len(found) < most and pipeline.unanswered and (more := await pipeline.answers()):
        found += [small.body for small in more]
    return found


PATHS = ["/a", "/b", "/c", "/d"]
BODIES = [body(path) for path in PATHS]


async def test_answers_come_in_the_order_of_the_requests_and_the_connection_is_kept(client: Opens):
    async with client(echo) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads(*PATHS))
        assert await answers(pipeline) == BODIES
        pipeline.close()
        assert [asked.behind for asked in there.site.log] == [0, 0, 1, 2, 3]
        await there.alone()
        assert there.site.connections == 1


async def test_more_requests_may_go_out_before_the_earlier_ones_are_answered(client: Opens):
    held: list[Asked] = []

    def respond(batch: list[Asked]) -> list[bytes]:
        ready = [*held, *batch]
        held[:] = [asked for asked in ready if asked.path == "/b" and len(ready) < 3]
        return echo([asked for asked in ready if asked not in held])

    async with client(respond) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads("/a", "/b"))
        assert await answers(pipeline, 1) == BODIES[:1]
        await pipeline.send(there.heads("/c", "/d"))
        assert await answers(pipeline) == BODIES[1:]
        assert (pipeline.unanswered, pipeline.was_cut) == (0, False)
        pipeline.close()
        assert there.site.connections == 1


@pytest.mark.parametrize("size", [1, 65_536, 100_000, 128 * 1024])
async def test_short_bodies_of_any_length_may_follow_one_another(client: Opens, size: int):
    def respond(batch: list[Asked]) -> list[bytes]:
        return [ok(asked.path[1:].encode() * size) for asked in batch]

    async with client(respond) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads(*PATHS))
        assert await answers(pipeline) == [path[1:].encode() * size for path in PATHS]
        pipeline.close()


def one_after_the_other(pieces: Iterable[bytes]) -> Iterator[bytes | asyncio.Event]:
    """Yield each piece and then an event, so that the reader gets a turn of the event loop after each piece."""
    for piece in pieces:
        turn = asyncio.Event()
        asyncio.get_running_loop().call_soon(turn.set)
        yield from (piece, turn)


@pytest.mark.parametrize("length", [1, 13, 100, 100_000])
async def test_answers_are_told_apart_wherever_the_stream_is_cut(client: Opens, length: int):
    """With TLS, one answer then spans many records, or one record holds all answers."""

    def respond(batch: list[Asked]) -> Iterable[bytes | asyncio.Event]:
        sent = b"".join(echo(batch))
        return one_after_the_other(sent[at : at + length] for at in range(0, len(sent), length))

    async with client(respond) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads(*PATHS))
        assert await answers(pipeline) == BODIES
        pipeline.close()
        assert await there.alone() == body("/alone")
        assert there.site.connections == 1


async def test_a_body_may_arrive_after_its_head_was_read_and_together_with_further_answers(client: Opens):
    gate = asyncio.Event()

    def respond(batch: list[Asked]) -> list[bytes | asyncio.Event]:
        first, second, *others = echo(batch)
        head = second.index(b"\r\n\r\n") + 4
        return [first + second[:head], gate, b"".join([second[head:], *others])]

    async with client(respond) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads(*PATHS))
        await until(lambda: pipeline.arrived == 2)
        waiting = asyncio.create_task(answers(pipeline))
        await until(lambda: pipeline.unanswered == 3 or waiting.done())
        gate.set()
        assert await waiting == BODIES
        pipeline.close()


async def test_a_pipeline_without_requests_takes_no_connection(client: Opens):
    async with client(echo) as there:
        pipeline = there.pipeline()
        assert await pipeline.answers() == []
        pipeline.close()
        await there.alone()
        assert there.site.connections == 1


# ---- The end of the pipelining


ODD = {
    "an error": answer(404, b"no"),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "a redirect": answer(302, b"", ("Location", "/b")),
    "a part": answer(206, b"hi", ("Content-Range", "bytes 0-1/9")),
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunks and a length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "a coding": ok(b"hi", ("Content-Encoding", "gzip")),
    "a cookie": ok(b"hi", ("Set-Cookie", "a=1")),
    "an early hint": b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(b"hi"),
    "no length": b"HTTP/1.1 200 OK\r\n\r\nhi",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nhi",
    "a long body": ok(bytes(128 * 1024 + 1)),
    "no HTTP": b"\x00\x01\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
}


MUDDLED = {"no HTTP", "two lengths", "a length that is none", "chunks and a length", "an early hint"}


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("name", ODD)
async def test_an_unusable_answer_ends_the_pipelining_and_no_answer_behind_it_is_believed(
    client: Opens, name: str, place: int
):
    def respond(batch: list[Asked]) -> list[bytes]:
        return [ODD[name] if asked.path == PATHS[place] else ok(body(asked.path)) for asked in batch]

    async with client(respond) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads(*PATHS))
        found = await answers(pipeline)
        # Answers that arrive together with invalid HTTP, or with one answer too many, are lost with it and requested
        # again.
        assert found == BODIES[: len(found)]
        assert len(found) == place or (len(found) < place and name in MUDDLED)
        assert pipeline.unanswered == 4 - len(found)
        assert await pipeline.answers() == []
        pipeline.close()
        assert await there.alone("/after") == body("/after")
        assert there.site.connections == 2


@pytest.mark.parametrize("end", [CLOSE, CUT, RESET])
@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_connection_that_ends_between_answers_returns_those_before(client: Opens, end: Any, count: int):
    async with client(lambda batch: [*echo(batch)[:count], end] if len(batch) > 1 else echo(batch)) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads(*PATHS))
        found = await answers(pipeline)
        # A reset may discard bytes that were still on their way.
        assert found == BODIES[: len(found)]
        assert len(found) == count or (end is RESET and len(found) < count)
        assert (pipeline.unanswered, pipeline.was_cut) == (4 - len(found), True)
        pipeline.close()
        assert await there.alone("/after") == body("/after")
        assert there.site.connections == 2


@pytest.mark.parametrize("end", [CLOSE, CUT])
@pytest.mark.parametrize("cut", [-1, -10, -20, -50])
async def test_a_connection_that_ends_inside_an_answer_returns_nothing_of_it(client: Opens, cut: int, end: Any):
    def respond(batch: list[Asked]) -> list[Any]:
        first, second, *_ = echo(batch)
        return [first, second[:cut], end]

    async with client(respond) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads(*PATHS))
        assert await answers(pipeline) == BODIES[:1]
        assert pipeline.unanswered == 3
        pipeline.close()


@pytest.mark.parametrize("end", [CLOSE, CUT, RESET])
async def test_a_connection_that_ended_while_all_was_answered_gets_no_more_requests(client: Opens, end: Any):
    gate = asyncio.Event()
    async with client(lambda batch: [*echo(batch), gate, end]) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads("/a"))
        assert await answers(pipeline) == BODIES[:1]
        gate.set()
        await until(lambda: pipeline._transport is not None and pipeline._transport.is_closing())
        await pipeline.send(there.heads("/b"))
        assert (pipeline.unanswered, pipeline.was_cut) == (0, True)
        assert await pipeline.answers() == []
        pipeline.close()
        there.site.respond = echo
        assert await there.alone("/after") == body("/after")
        assert (there.site.count("/b"), there.site.connections) == (0, 2)


async def test_an_answer_with_connection_close_is_returned_and_its_connection_is_not_used_again(client: Opens):
    def respond(batch: list[Asked]) -> list[Any]:
        return [ok(body(batch[0].path), ("Connection", "close")), CLOSE]

    async with client(respond) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads(*PATHS))
        assert await answers(pipeline) == BODIES[:1]
        assert (pipeline.unanswered, pipeline.was_cut) == (3, True)
        pipeline.close()
        there.site.respond = echo
        await there.alone()
        assert there.site.connections == 2


async def test_a_connection_that_the_last_of_all_answers_closes_is_not_used_again(client: Opens):
    def respond(batch: list[Asked]) -> list[bytes]:
        return [*echo(batch[:-1]), ok(body(batch[-1].path), ("Connection", "close"))]

    async with client(respond) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads(*PATHS))
        assert await answers(pipeline) == BODIES
        pipeline.close()
        there.site.respond = echo
        await there.alone()
        assert there.site.connections == 2


@pytest.mark.parametrize(
    ("count", "part"),
    [(0, b""), (2, b""), (2, ok(b"late")[:20]), (2, ok(b"late")[:-1])],
    ids=["no answer", "two", "two and half a head", "two and half a body"],
)
async def test_a_timeout_ends_the_pipelining_but_does_not_count_as_a_cut(
    client: Opens, count: int, part: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bulkdl.http.lightweight.keepalive_pool._SMALL_WAIT_S", SILENCE_S)
    async with client(lambda batch: [*echo(batch)[:count], part]) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads(*PATHS))
        assert await answers(pipeline) == BODIES[:count]
        assert (pipeline.unanswered, pipeline.was_cut) == (4 - count, False)
        pipeline.close()
        there.site.respond = echo
        assert await there.alone("/after") == body("/after")
        assert there.site.connections == 2


async def test_no_answer_is_believed_if_there_are_more_answers_than_requests(client: Opens):
    def respond(batch: list[Asked]) -> list[bytes]:
        first, second = echo(batch)
        return [first + first + second]

    async with client(respond) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads("/a", "/b"))
        assert (await answers(pipeline), pipeline.was_cut) == ([], False)
        pipeline.close()
        there.site.respond = echo
        assert await there.alone("/after") == body("/after")
        assert there.site.connections == 2


async def test_an_answer_that_arrives_before_its_request_is_not_believed(client: Opens):
    gate = asyncio.Event()

    def respond(batch: list[Asked]) -> list[bytes | asyncio.Event]:
        return [*echo(batch), gate, ok(b"nobody asked for this")]

    async with client(respond) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads("/a"))
        assert await answers(pipeline) == BODIES[:1]
        gate.set()
        await until(lambda: pipeline.arrived > 0)
        await pipeline.send(there.heads("/b"))
        assert await pipeline.answers() == []
        assert there.site.count("/b") == 0
        pipeline.close()
        there.site.respond = echo
        assert await there.alone("/after") == body("/after")


async def test_a_cancelled_pipeline_leaves_no_answer_for_the_next_request(client: Opens):
    async with client(lambda batch: echo(batch)[:1]) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads(*PATHS))
        waiting = asyncio.create_task(answers(pipeline))
        await until(lambda: pipeline.unanswered == 3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        pipeline.close()
        there.site.respond = echo
        assert await there.alone("/after") == body("/after")
        assert there.site.connections == 2


async def test_an_unreachable_site_raises_the_error_of_aiohttp_and_closes_cleanly(client: Opens):
    async with client(lambda _batch: [CLOSE]) as there:
        pipeline = there.pipeline()
        await pipeline.send(there.heads("/a"))
        assert (await pipeline.answers(), pipeline.was_cut) == ([], True)
        pipeline.close()
        assert there.site._server is not None
        there.site._server.close()
        gone = there.pipeline()
        with pytest.raises(aiohttp.ClientConnectorError):
            await gone.send(there.heads("/a"))
        gone.close()


# ---- The trial


async def run_trial(there: Client) -> tuple[bool | None, list[bytes]]:
    pipeline = there.pipeline()
    first, second = there.heads("/a", "/b")
    try:
        kept, alone = await pipeline.run_trial(first, second)
    finally:
        pipeline.close()
    there.site.respond = echo
    assert await there.alone("/after") == body("/after")
    return kept, [small.body for small in alone]


async def test_a_trial_proves_a_kept_order_and_returns_both_products(client: Opens):
    async with client(echo) as there:
        assert await run_trial(there) == (True, BODIES[:2])
        assert [(asked.path, asked.behind) for asked in there.site.log[1:-1]] == [
            ("/a", 0),
            ("/b", 1),
            ("/a", 0),
            ("/b", 0),
        ]
        assert there.site.connections == 1


def twin(batch: list[Asked], *tags: str) -> list[bytes]:
    return [ok(b"the same", *([("ETag", f'"{asked.path}"')] if tags else [])) for asked in batch]


@pytest.mark.parametrize(
    ("respond", "expected"),
    [
        (lambda batch: echo(batch[::-1]), (False, [])),
        (lambda batch: [ok(b"a" if asked.behind else b"b") for asked in batch], (False, [])),
        (lambda batch: [*echo(batch), *echo(batch[1:])], (None, [])),
        (lambda batch: [b"".join([*echo(batch), *echo(batch[1:])])], (None, [])),
        (lambda batch: echo([batch[0]] * len(batch)), (False, [])),
        (twin, (None, [b"the same"] * 2)),
        (lambda batch: twin(batch, "tagged"), (True, [b"the same"] * 2)),
        (lambda batch: [ok(b"the same", ("ETag", f'"{a.path}{a.nth}"')) for a in batch], (False, [])),
        (lambda batch: echo(batch[:1]), (None, [])),
        (lambda batch: echo(batch[1:]), (None, [])),
        (lambda batch: [*echo(batch[:1]), CLOSE], (None, [])),
        (lambda batch: [*echo(batch), CLOSE], (None, [])),
        (lambda batch: [answer(404)] * len(batch), (None, [])),
        (lambda batch: [*echo(batch[:1]), *[answer(400)] * (len(batch) - 1)], (None, [])),
    ],
    ids=[
        "swapped",
        "changed",
        "one too many",
        "one too many at once",
        "the first twice",
        "alike",
        "alike with other ETags",
        "another ETag in each answer",
        "the second forgotten",
        "the first forgotten",
        "closed behind the first",
        "closed behind both",
        "not there",
        "an error behind another",
    ],
)
async def test_a_trial_returns_the_separate_answers_only_if_the_pipelined_ones_were_the_same(
    client: Opens, respond: Respond, expected: tuple[bool | None, list[bytes]]
):
    async with client(respond) as there:
        kept, alone = await run_trial(there)
        assert alone == expected[1]
        # A surplus answer may arrive early enough to be noticed, or be taken for the next answer and disagree.
        assert kept is expected[0] or (expected == (None, []) and len(there.site.log) > 4 and kept is False)
