"""Quirks of servers: tables of observations and decisions, and the same with real sockets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core.clock import SystemClock
from bulkdl.core.models import Resume
from bulkdl.journal.journal import Journal, read_learned
from bulkdl.protocol.byte_ranges import ContentRange
from bulkdl.protocol.response_head import Head
from bulkdl.protocol.resume import PartialState, evaluate_response, next_request
from bulkdl.protocol.server_quirks import (
    EXPIRES_S,
    MAX_HOSTS,
    STEADY,
    ServerFacts,
    ServerObservation,
    ServerQuirks,
    describe,
    fresh,
    has_unstable_etags,
    ignores_ranges,
    observations,
    with_observation,
)
from bulkdl.transfer import segment_scaling
from tests.clocks import ManualClock
from tests.harness import Place, body_of, sha256
from tests.servers import RawRequest, RawServer, Wire, announce, head

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Responder

ORIGIN = "https://a.example.org:443"
SOURCE = f"{ORIGIN}/x"
NOW = 1_750_000_000.0
HIT, MISS, SAME, OTHER, CHANGED = (
    ServerObservation.RANGE_HIT,
    ServerObservation.RANGE_MISS,
    ServerObservation.ETAG_SAME,
    ServerObservation.ETAG_OTHER,
    ServerObservation.ETAG_CHANGED,
)


def after(*row: ServerObservation, at: float = NOW) -> ServerFacts:
    facts = ServerFacts(origin=ORIGIN)
    for observation in row:
        facts = with_observation(facts, observation, now=at)
    return facts


# ---- Decisions


@pytest.mark.parametrize(
    ("row", "ignores"),
    [
        ((), False),
        ((MISS,), False),
        ((MISS, MISS), True),
        ((HIT, MISS, MISS), False),
        ((MISS, MISS, HIT), False),
        ((MISS, MISS, HIT, *[MISS] * 7), False),
        ((HIT, *[MISS] * 8), True),
        ((HIT, *[MISS] * 8, HIT), False),
        ((CHANGED, CHANGED), False),
    ],
)
def test_a_host_gets_no_segments_after_it_ignored_ranges_and_honoured_none(
    *, row: tuple[ServerObservation, ...], ignores: bool
):
    assert ignores_ranges(after(*row), now=NOW) is ignores


@pytest.mark.parametrize(
    ("row", "unstable"),
    [
        ((), False),
        ((CHANGED,), False),
        ((CHANGED, CHANGED), True),
        ((CHANGED, *[SAME] * 5, CHANGED), True),
        ((CHANGED, CHANGED, *[SAME] * (STEADY - 1)), True),
        ((CHANGED, CHANGED, *[SAME] * STEADY), False),
        ((CHANGED, CHANGED, *[SAME] * (STEADY - 1), OTHER, SAME), True),
        ((CHANGED, CHANGED, *[SAME] * STEADY, CHANGED), False),
        ((*[OTHER] * 9,), False),  # the bytes may have changed
    ],
)
def test_etags_are_unstable_after_two_changes_without_other_bytes_until_they_stay_the_same(
    *, row: tuple[ServerObservation, ...], unstable: bool
):
    assert has_unstable_etags(after(*row), now=NOW) is unstable


@pytest.mark.parametrize("later", [EXPIRES_S, 3 * EXPIRES_S, -90_000.0])
def test_observations_that_are_too_old_or_in_the_future_do_not_count(later: float):
    facts = after(MISS, MISS, CHANGED, CHANGED)
    assert not ignores_ranges(facts, now=NOW + later)
    assert not has_unstable_etags(facts, now=NOW + later)
    assert with_observation(facts, MISS, now=NOW + later) == ServerFacts(
        origin=ORIGIN, range_misses=1, ranges_at=NOW + later
    )
    assert ignores_ranges(facts, now=NOW + EXPIRES_S - 1)


PART = ContentRange((5, 10), 10)
FULL_HEAD = {"status": 200, "content_length": 10}


@pytest.mark.parametrize(
    ("etag", "checked", "answer", "seen"),
    [
        ('"1"', False, {"status": 206, "content_range": PART, "etag": '"1"'}, (HIT,)),
        (None, True, {"status": 206, "content_range": PART}, (HIT,)),
        (None, True, {"status": 206, "content_range": ContentRange((0, 10), 10)}, (MISS,)),
        (None, True, {"status": 206}, (MISS,)),
        (None, True, {"status": 206, "content_range": PART, "content_type": "multipart/byteranges"}, (MISS,)),
        (None, True, {"status": 206, "content_range": PART, "content_length": 3}, (MISS,)),
        (None, True, {**FULL_HEAD}, (MISS,)),
        ('"1"', False, {**FULL_HEAD, "etag": '"1"'}, (MISS,)),
        ('"1"', False, {**FULL_HEAD, "etag": '"2"'}, ()),  # If-Range worked
        ('"1"', False, {**FULL_HEAD}, ()),
        ('W/"1"', True, {**FULL_HEAD, "etag": 'W/"1"'}, (MISS,)),
        ('"1"', False, {"status": 206, "content_range": PART, "etag": '"2"'}, ()),  # another version
        ('"1"', False, {"status": 416}, ()),
        ('"1"', False, {"status": 503}, ()),
    ],
)
def test_a_head_shows_what_its_host_does_with_ranges(
    *, etag: str | None, checked: bool, answer: dict[str, Any], seen: tuple[ServerObservation, ...]
):
    known = PartialState(ranges=((0, 5),), total=10, etag=etag, source=SOURCE)
    ask = next_request(known, source=SOURCE, has_checksum=checked, resume=Resume.STRICT)
    decision = evaluate_response(Head(**answer), ask=ask, known=known, source=SOURCE)
    assert observations(Head(**answer), ask=ask, known=known, decision=decision, source=SOURCE) == seen


def test_an_unchanged_date_shows_that_the_range_was_ignored():
    date = "Tue, 15 Nov 1994 12:45:26 GMT"
    known = PartialState(ranges=((0, 5),), total=10, last_modified=date, source=SOURCE)
    ask = next_request(known, source=SOURCE, has_checksum=False, resume=Resume.STRICT)
    answer = Head(**FULL_HEAD, last_modified=date)
    decision = evaluate_response(answer, ask=ask, known=known, source=SOURCE)
    assert MISS in observations(answer, ask=ask, known=known, decision=decision, source=SOURCE)


@pytest.mark.parametrize(("etag", "observation"), [('"1"', SAME), ('"2"', OTHER)])
def test_the_answer_to_a_request_without_an_etag_shows_whether_etags_are_stable(
    etag: str, observation: ServerObservation
):
    recorded = PartialState(ranges=((0, 5),), total=10, etag='"1"', source=SOURCE)
    stripped = replace(recorded, etag=None)
    ask = next_request(stripped, source=SOURCE, has_checksum=True, resume=Resume.STRICT)
    answer = Head(status=206, content_range=PART, etag=etag)
    decision = evaluate_response(answer, ask=ask, known=stripped, source=SOURCE)
    assert observations(answer, ask=ask, known=recorded, decision=decision, source=SOURCE) == (HIT, observation)
    assert observations(answer, ask=ask, known=recorded, decision=decision, source=f"{SOURCE}y") == (HIT,)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((), ()),
        ((HIT,), ("honours ranges",)),
        ((MISS,), ()),
        ((MISS, MISS), ("ignores ranges (seen 2 times)", "one connection")),
        ((CHANGED, CHANGED), ("change although the content does not (seen 2 times)", "checksums decide")),
    ],
)
def test_the_description_names_facts_and_consequences(row: tuple[ServerObservation, ...], words: tuple[str, ...]):
    text = describe(after(*row), now=NOW)
    assert all(word in text for word in words)
    assert bool(text) == bool(words)
    assert describe(after(*row), now=NOW + EXPIRES_S) == ""


# ---- ServerQuirks


@given(st.lists(st.tuples(st.sampled_from(ServerObservation), st.floats(0, EXPIRES_S)), max_size=60))
def test_saved_facts_lead_to_the_same_decisions(row: list[tuple[ServerObservation, float]]):
    clock, saved = ManualClock(wall=NOW), dict[str, ServerFacts]()
    quirks = ServerQuirks(clock=clock, save=lambda facts: saved.update({facts.origin: facts}))
    for observation, pause in row:
        clock.jump_wall(pause)
        quirks.note(ORIGIN, observation)
    again = ServerQuirks(saved.values(), clock=clock)
    if not any(pause > EXPIRES_S / 100 for _, pause in row):  # otherwise one could expire before the other
        assert again.ignores_ranges(ORIGIN) == quirks.ignores_ranges(ORIGIN)
        assert again.has_unstable_etags(ORIGIN) == quirks.has_unstable_etags(ORIGIN)
    assert fresh(quirks.of(ORIGIN), now=clock.wall()) == quirks.of(ORIGIN)


def test_ten_thousand_ranges_of_a_host_cost_fewer_than_sixteen_writes():
    saved: list[ServerFacts] = []
    quirks = ServerQuirks(clock=ManualClock(), save=saved.append)
    for _ in range(10_000):
        quirks.note(ORIGIN, HIT)
    assert len(saved) < 16
    assert (quirks.of(ORIGIN).range_hits, saved[-1].range_hits) == (10_000, 2**13)


def test_the_number_of_stored_hosts_is_limited():
    saved: list[ServerFacts] = []
    quirks = ServerQuirks(clock=ManualClock(), save=saved.append)
    for number in range(MAX_HOSTS + 10):
        quirks.note(f"https://{number}.example.org:443", MISS, MISS)
    assert len({facts.origin for facts in saved}) == MAX_HOSTS
    assert not quirks.ignores_ranges(f"https://{MAX_HOSTS + 5}.example.org:443")


# ---- Over real sockets

SIZE = 300_000
BODY, NEWER = body_of(SIZE, 1), body_of(SIZE, 2)
LARGE = body_of(24_000_000, 5)


async def learn(place: Place, facts: ServerFacts) -> None:
    """Write the facts to the journal before the run."""
    place.root.mkdir(exist_ok=True)
    async with Journal.open(place.root, clock=SystemClock()) as journal:
        journal.put_host_unsynced(facts)


def facts_of(place: Place, server: RawServer) -> ServerFacts:
    learnt = read_learned(place.root, now=SystemClock().wall())
    assert learnt is not None
    return learnt.hosts[server.origin]


def ignoring_server(body: bytes, *, rate: float = 40_000_000) -> Responder:
    """Claim support of ranges, and send the whole in answer to every request."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        fields = (("Content-Length", len(body)), ("Accept-Ranges", "bytes"), ("ETag", '"1"'), ("Connection", "close"))
        await wire.send(head(200, *fields))
        for at in range(0, len(body), 1 << 18):
            await wire.send(body[at : at + (1 << 18)])
            if await wire.closed_within((1 << 18) / rate):
                return

    return respond


async def test_a_host_that_ignores_ranges_gets_no_more_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segment_scaling, "MIN_SPLIT_S", 0.02)
    place = Place(tmp_path, segments=4, workers=1)
    async with RawServer(ignoring_server(LARGE)) as server:
        products = [{"url": server.url(f"/{n}"), "file": f"{n}.bin"} for n in range(3)]
        first = await place.run(*products)
        assert first.code == 0
        assert len(server.log) > 3  # ranges were tried
        assert len([r for r in server.log if r.path == "/2"]) == 1  # one connection for the last product
        assert facts_of(place, server).range_misses >= 2
        server.log.clear()
        again = await place.run({"url": server.url("/9"), "file": "9.bin"})
        assert (again.code, len(server.log), place.file("9.bin") == LARGE) == (0, 1, True)


def balanced(body: bytes, *, cut_at: int | None = None) -> Responder:
    """Behave as two servers behind one name with ETags from inodes; ranges and `If-Range` work correctly.

    With `cut_at`, close the connection after that many bytes of a response.
    """

    async def respond(request: RawRequest, wire: Wire) -> None:
        tag = f'"inode-{request.number % 2}"'
        part = request.range(len(body)) if request.header("If-Range") in {None, tag} else None
        start, stop = part or (0, len(body))
        fields: list[tuple[str, object]] = [("Content-Length", stop - start), ("ETag", tag), ("Connection", "close")]
        if part is not None:
            fields.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}"))
        await wire.send(head(200 if part is None else 206, *fields))
        await wire.send(body[start : stop if cut_at is None else min(stop, start + cut_at)])

    return respond


async def test_unstable_etags_are_detected_and_the_checksum_replaces_them(tmp_path: Path):
    place = Place(tmp_path, retries=30, workers=1)
    async with RawServer(balanced(BODY, cut_at=200_000)) as server:
        for run, tags in enumerate([(None, '"inode-0"', '"inode-1"', '"inode-0"', None), (None, None)]):
            server.log.clear()
            done = await place.run({"url": server.url(), "file": f"{run}.bin", "checksum": sha256(BODY)})
            assert (done.code, place.file(f"{run}.bin") == BODY) == (0, True)
            assert tuple(r.header("If-Range") for r in server.log) == tags
            assert server.log[-1].header("Range") == "bytes=200000-"
        assert facts_of(place, server).etag_changes >= 2


async def test_a_host_with_unstable_etags_gives_no_mix_of_two_versions(tmp_path: Path):
    """The content changes while the ETag is not trusted: the checksum detects the mix of two versions."""
    place = Place(tmp_path, retries=5)
    new = balanced(NEWER)
    async with RawServer(announce(SIZE, BODY[:200_000], ("ETag", '"1"')), new) as server:
        await learn(place, ServerFacts(origin=server.origin, etag_changes=2, etags_at=SystemClock().wall()))
        done = await place.run({"url": server.url(), "file": "x.bin", "checksum": sha256(NEWER)})
        assert (done.code, place.file("x.bin") == NEWER) == (0, True)
        assert server.log[1].header("If-Range") is None  # resumed, detected by the checksum, started again
        assert server.log[2].header("Range") is None


@pytest.mark.parametrize("resume", ["strict", "overlap"])
async def test_without_a_checksum_a_host_with_unstable_etags_is_resumed_only_if_that_is_safe(
    resume: str, tmp_path: Path
):
    place = Place(tmp_path, retries=5)
    cut = announce(SIZE, BODY[:200_000], ("ETag", '"old"'))
    async with RawServer(cut, balanced(NEWER)) as server:
        await learn(place, ServerFacts(origin=server.origin, etag_changes=9, etags_at=SystemClock().wall()))
        done = await place.run({"url": server.url(), "file": "x.bin", "resume": resume})
        assert (done.code, place.file("x.bin") == NEWER) == (0, True)
        second = server.log[1]
        if resume == "strict":
            assert second.header("If-Range") == '"old"'
        else:
            assert (second.header("Range"), second.header("If-Range")) == (f"bytes={200_000 - 65536}-", None)


async def test_expired_facts_are_learnt_again(tmp_path: Path):
    place = Place(tmp_path, retries=5)
    cut = announce(SIZE, BODY[:200_000], ("ETag", '"inode-1"'))
    async with RawServer(cut, balanced(BODY)) as server:
        long_ago = SystemClock().wall() - EXPIRES_S - 60
        await learn(place, ServerFacts(origin=server.origin, etag_changes=9, etags_at=long_ago))
        done = await place.run({"url": server.url(), "file": "x.bin", "checksum": sha256(BODY)})
        assert done.code == 0
        assert server.log[1].header("If-Range") == '"inode-1"'


@pytest.mark.parametrize("wrong", [False, True], ids=["true facts", "false facts"])
async def test_no_fact_makes_a_wrong_file(wrong: bool, tmp_path: Path):  # noqa: FBT001
    """Even with wrong facts in the journal the file at the final path is one version."""
    place = Place(tmp_path, retries=8)
    now = SystemClock().wall()
    async with RawServer(announce(SIZE, BODY[:123_456], ("ETag", '"a"')), balanced(NEWER, cut_at=150_000)) as server:
        facts = ServerFacts(origin=server.origin, range_misses=99, ranges_at=now, etag_changes=99, etags_at=now)
        await learn(place, facts if wrong else ServerFacts(origin=server.origin))
        done = await place.run(
            {"url": server.url("/1"), "file": "1.bin"},
            {"url": server.url("/2"), "file": "2.bin", "checksum": sha256(NEWER)},
            workers=1,
        )
        for outcome in done.outcomes.values():
            assert place.file(outcome.file) in (None, BODY, NEWER)
