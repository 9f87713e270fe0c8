"""Owner of a failed attempt, and the consequence: one table of archives, each with the end of its products."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.events import OutageChanged, OutagePhase
from bulkdl.transfer.canary import Canaries
from tests.harness import Place, body_of
from tests.servers import RawRequest, RawServer, Responder, Wire, head, html, ranges, redirect, reply

if TYPE_CHECKING:
    from pathlib import Path

BODY = b"product " * 1000
GOOD = ranges(BODY)
LARGE = body_of(300_000)
"""A body of this size does not wait in memory until all of it has come."""


class Paths:
    """Responder by path: the responders of a path answer in turn, the last one for ever."""

    def __init__(self, rows: dict[str, tuple[Responder, ...]]) -> None:
        self._rows = rows
        self.asked: list[str] = []

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        name = request.path.removeprefix("/")
        row, count = self._rows[name], self.asked.count(name)
        self.asked.append(name)
        await row[min(count, len(row) - 1)](request, wire)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An archive with one worker at it. `rows`: the answers to each product, in the manifest's order."""

    rows: dict[str, tuple[Responder, ...]]
    ends: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    """The products that fail, with kind and attempts (None: any number); all others come."""
    phases: tuple[OutagePhase, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


BEGAN_AND_ENDED = (OutagePhase.BEGAN, OutagePhase.ENDED)
DEAD = redirect("http://127.0.0.1:9/x")
CASES = {
    "a product's own 500 while others come": Case(
        rows={"a": (GOOD,), "own": (reply(500),), "b": (GOOD,)}, ends={"own": ("http", 3)}
    ),
    "a 500 that passes": Case(rows={"a": (GOOD,), "own": (reply(500), GOOD)}),
    "an outage at the start": Case(
        rows={"a": (reply(503), reply(503), GOOD), "b": (GOOD,)},
        phases=BEGAN_AND_ENDED,
        settings={"give_up_after": 3600.0},
    ),
    "an outage in the middle": Case(
        rows={"a": (GOOD, *[reply(503)] * 4, GOOD), "b": (*[reply(503)] * 4, GOOD), "c": (*[reply(503)] * 4, GOOD)},
        phases=BEGAN_AND_ENDED,
        settings={"give_up_after": 3600.0},
    ),
    "a 404 to everybody": Case(
        rows={"a": (GOOD, *[reply(404)] * 3, GOOD), "b": (reply(404), GOOD), "c": (GOOD,)},
        phases=BEGAN_AND_ENDED,
        settings={"give_up_after": 3600.0},
    ),
    "a page to everybody": Case(
        rows={"a": (GOOD, *[html()] * 3, GOOD), "b": (html(), GOOD), "c": (GOOD,)},
        phases=BEGAN_AND_ENDED,
        settings={"give_up_after": 3600.0},
    ),
    "a 404 of one product": Case(rows={"a": (GOOD,), "gone": (reply(404),), "b": (GOOD,)}, ends={"gone": ("http", 2)}),
    "a 404 that the second look mends": Case(rows={"gone": (reply(404), GOOD), "b": (GOOD,)}),
    "a 429 of one product, while nobody else is served": Case(
        rows={"a": (GOOD,), "own": (reply(429),), "b": (GOOD,)}, ends={"own": ("http", None)}
    ),
    "a redirect to a dead host": Case(rows={"a": (GOOD,), "far": (DEAD,), "b": (GOOD,)}, ends={"far": ("network", 3)}),
    "an archive given up": Case(
        rows={"a": (reply(500),), "b": (reply(500),)},
        ends={"a": ("http", 2), "b": ("http", 0)},
        phases=(OutagePhase.GIVEN_UP,),
        settings={"give_up_after": 0.0},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_fault_costs_the_one_it_belongs_to(case: Case, tmp_path: Path):
    place = Place(tmp_path, workers=1, give_up_after=21_600.0)
    async with RawServer(Paths(case.rows)) as server:
        wishes = [{"url": server.url(f"/{name}"), "file": name} for name in case.rows]
        done = await place.run(*wishes, **case.settings)
    failures = {file: each.failure for file, each in done.outcomes.items() if each.failure is not None}
    wanted = {
        file: (kind, failures[file].attempts if attempts is None else attempts)
        for file, (kind, attempts) in case.ends.items()
    }
    assert {file: (each.kind.value, each.attempts) for file, each in failures.items()} == wanted
    assert {name for name in case.rows if place.file(name) == BODY} == set(case.rows) - set(case.ends)
    assert tuple(event.phase for event in done.of(OutageChanged)) == case.phases


async def test_a_mirror_serves_a_product_whose_origin_is_out_of_order(tmp_path: Path):
    async with RawServer(reply(503)) as ill, RawServer(GOOD) as mirror:
        urls = [ill.url("/a"), mirror.url("/a")]
        done = await Place(tmp_path, workers=1).run({"url": urls[0], "mirrors": urls[1:], "file": "a"})
    assert (done.code, done.outcomes["a"].sources) == (0, ("127.0.0.1",))


async def test_a_name_that_does_not_exist_is_tried_three_times(tmp_path: Path):
    place = Place(tmp_path, workers=1, retries=10, give_up_after=21_600.0, retry_for=3600.0)
    done = await place.run({"url": "http://nothing.invalid/a", "file": "a"})
    assert done.failure[:2] == ("network", 3)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_limit_of_connections_costs_no_product_an_attempt(status: int, tmp_path: Path):
    serving: set[str] = set()
    refused = asyncio.Event()

    async def respond(request: RawRequest, wire: Wire) -> None:
        """Serve one product at a time, which ends only after another has been refused, if there is one."""
        if serving:
            await reply(status)(request, wire)
            refused.set()
            return
        serving.add(request.path)
        refused.clear()
        await wire.send(head(200, ("Content-Length", len(LARGE)), ("Connection", "close")) + LARGE[:100_000])
        with suppress(TimeoutError):
            await asyncio.wait_for(refused.wait(), 0.05)
        serving.clear()
        await wire.send(LARGE[100_000:])

    async with RawServer(respond) as server:
        wishes = [{"url": server.url(f"/{n}"), "file": f"{n}"} for n in range(6)]
        done = await Place(tmp_path, workers=2, give_up_after=21_600.0).run(*wishes)
    assert (done.code, done.result.completed) == (0, 6), done.result.failures
    assert [event.phase for event in done.of(OutageChanged)] == []


async def test_a_product_that_was_refused_keeps_that_reason_when_its_origin_is_given_up(tmp_path: Path):
    rows = {"gone": (reply(404), reply(500)), "b": (reply(500),)}
    async with RawServer(Paths(rows)) as server:
        wishes = [{"url": server.url(f"/{name}"), "file": name} for name in rows]
        done = await Place(tmp_path, workers=1, give_up_after=0.0).run(*wishes)
    reasons = {file: each.failure.reason for file, each in done.outcomes.items() if each.failure is not None}
    assert "404" in reasons["gone"]
    assert "gave no good answer" in reasons["b"]


async def test_an_origin_whose_canary_cannot_be_asked_is_given_up_like_any_other(tmp_path: Path, monkeypatch):
    async def nothing(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(Canaries, "still_come", nothing)
    rows = {"a": (GOOD,), "b": (reply(500),), "c": (reply(500),)}
    async with RawServer(Paths(rows)) as server:
        wishes = [{"url": server.url(f"/{name}"), "file": name} for name in rows]
        done = await Place(tmp_path, workers=1, give_up_after=600.0).run(*wishes)
    assert {file for file, each in done.outcomes.items() if each.failure is not None} == {"b", "c"}
    assert [event.phase for event in done.of(OutageChanged)] == [OutagePhase.BEGAN, OutagePhase.GIVEN_UP]
