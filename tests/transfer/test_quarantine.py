"""Quarantine: a product that two downloads prove faulty at its source is kept apart and not downloaded in every run."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import StorageStopped
from bulkdl.core.events import Note
from bulkdl.core.models import RunOptions
from bulkdl.journal.journal import Journal, read_learned
from bulkdl.journal.records import Phase
from bulkdl.operations.status import collect_status
from bulkdl.operations.verify import verify_products
from bulkdl.protocol.server_quirks import ServerFacts
from bulkdl.storage.destination import Storage
from bulkdl.transfer.quarantine import kept_name
from tests.harness import HurriedClock, Place, body_of, sha256
from tests.servers import RawRequest, RawServer, Wire, announce, head, ranges, reply

if TYPE_CHECKING:
    from pathlib import Path

    from bulkdl.journal.records import Entry
    from bulkdl.protocol.bad_source import BadSourceEvidence
    from tests.servers import Responder

SIZE = 300_000
RIGHT, WRONG, OTHER = (body_of(SIZE, seed) for seed in (1, 2, 3))
CHECKED = {"file": "x.bin", "checksum": sha256(RIGHT)}
E1, E2 = ("ETag", '"1"'), ("ETag", '"2"')
DATED = (("Last-Modified", "Tue, 15 Nov 1994 12:45:26 GMT"), ("Date", "Tue, 15 Nov 1994 12:59:26 GMT"))
DAY = 86400.0


def bare(body: bytes, *headers: tuple[str, object]) -> Responder:
    """Return a server of one product, without ranges, that supports HEAD."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", len(body)), ("Connection", "close"), *headers))
        if request.method != "HEAD":
            await wire.send(body)

    return respond


def no_head(then: Responder) -> Responder:
    async def respond(request: RawRequest, wire: Wire) -> None:
        await (reply(405) if request.method == "HEAD" else then)(request, wire)

    return respond


def by_path(**responders: Responder) -> Responder:
    async def respond(request: RawRequest, wire: Wire) -> None:
        await responders[request.path.strip("/")](request, wire)

    return respond


class LaterClock(HurriedClock):
    """Clock whose wall time is later (or earlier) by some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def wall(self) -> float:
        return super().wall() + self.seconds


def kept(place: Place) -> list[bytes]:
    folder = place.root / ".bulkdl" / "faulty"
    return [path.read_bytes() for path in folder.iterdir()] if folder.exists() else []


def evidence(place: Place) -> BadSourceEvidence | None:
    learnt = read_learned(place.root, now=SystemClock().wall())
    assert learnt is not None
    return next(iter(learnt.evidence.values()), None)


class TwoRuns:
    """Two runs, the second one at another server with the address of the first."""

    def __init__(self, place: Place, responder: Responder) -> None:
        self.place, self.responder = place, responder

    async def run(self, *later: Responder, product: dict[str, Any] | None = None, **second: Any) -> Any:
        """Run until the source is proven faulty, then once more with `later`; return that result and its requests."""
        current = [self.responder]

        async def respond(request: RawRequest, wire: Wire) -> None:
            await current[0](request, wire)

        async with RawServer(respond) as server:
            first = await self.place.run({"url": server.url(), **CHECKED})
            assert first.failure[:2] == ("checksum", 2), first.failure
            assert kept(self.place) == [WRONG]
            current[0] = later[0] if later else self.responder
            server.log.clear()
            done = await self.place.run({"url": server.url(), **CHECKED, **(product or {})}, **second)
            return done, [r.method for r in server.log]


# ---- The first run


async def test_bytes_that_two_fetches_agree_on_are_kept_apart_with_the_evidence(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(ranges(WRONG)) as server:
        product = {"url": server.url(), **CHECKED}
        done = await place.run(product)
        assert [r.method for r in server.log] == ["GET", "GET"]
    kind, attempts, reason = done.failure
    assert (done.code, kind, attempts) == (1, "checksum", 2)
    name = kept_name("x.bin", "x.bin")
    for part in ("Two downloads gave identical bytes", sha256(RIGHT), sha256(WRONG), name, "Report it to the archive"):
        assert part in reason
    assert place.names() == []
    assert (place.root / name).read_bytes() == WRONG
    found = evidence(place)
    assert found is not None
    assert [str(c) for c in (*found.expected, *found.found)] == [sha256(RIGHT), sha256(WRONG)]
    assert (found.size, found.fetches, found.proven, found.kept) == (SIZE, 2, True, name)
    assert [s.etag for s in found.seen] == ['"1"']
    assert collect_status(place.manifest([product])).products[0].reason == reason


async def test_two_fetches_that_are_wrong_in_different_ways_prove_nothing(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(reply(200, WRONG), reply(200, OTHER), reply(200, RIGHT)) as server:
        done = await place.run({"url": server.url(), **CHECKED}, retries=5)
    assert (done.code, place.file("x.bin"), kept(place), evidence(place)) == (0, RIGHT, [], None)


async def test_a_wrong_fetch_of_the_last_run_and_one_of_this_run_agree(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(reply(200, WRONG), reply(404), reply(404), reply(200, WRONG)) as server:
        first = await place.run({"url": server.url(), **CHECKED})
        assert first.failure[0] == "http"
        suspicion = evidence(place)
        assert suspicion is not None
        assert (suspicion.fetches, suspicion.proven, kept(place)) == (1, False, [])
        second = await place.run({"url": server.url(), **CHECKED})
        assert second.failure[:2] == ("checksum", 1)
        assert "Two downloads gave identical bytes" in second.failure[2]
        assert (len(server.log), kept(place), place.names()) == (4, [WRONG], [])


async def test_a_source_that_sends_wrong_bytes_is_proof_only_once_every_mirror_was_tried(tmp_path: Path):
    place = Place(tmp_path)
    served = by_path(a=reply(200, WRONG, E1), b=reply(200, WRONG, E1), c=reply(200, RIGHT))
    async with RawServer(served) as server:
        product = {"url": server.url("/a"), "mirrors": [server.url("/b"), server.url("/c")], **CHECKED}
        done = await place.run(product)
        assert [r.path for r in server.log] == ["/a", "/b", "/c"]
    assert (done.code, place.file("x.bin"), kept(place), evidence(place)) == (0, RIGHT, [], None)


async def test_of_several_checksums_each_mismatch_is_reported_and_a_match_does_not_help(tmp_path: Path):
    place = Place(tmp_path)
    sums = [sha256(RIGHT), "md5:" + "0" * 32]
    async with RawServer(reply(200, RIGHT, E1)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin", "checksum": sums})
    assert done.failure[0] == "checksum"
    assert "expected md5:000" in done.failure[2]
    assert kept(place) == [RIGHT]


async def test_a_long_name_is_kept_under_a_short_one(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(reply(200, WRONG)) as server:
        await place.run({"url": server.url(), **CHECKED, "file": "d/" + "é" * 120 + ".bin"})
    assert kept(place) == [WRONG]


async def test_a_disk_too_full_to_keep_the_bytes_changes_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = Place(tmp_path)
    original = Storage.place

    async def full(self: Storage, part: Path, final: Path, *, overwrite: bool) -> Any:
        if "faulty" in final.parts:
            raise StorageStopped("no space left on the disk", full=True)
        return await original(self, part, final, overwrite=overwrite)

    monkeypatch.setattr(Storage, "place", full)
    async with RawServer(bare(WRONG, E1)) as server:
        done = await place.run({"url": server.url(), **CHECKED})
        assert (done.code, done.failure[0], kept(place), place.names()) == (1, "checksum", [], [])
        assert "are kept in" not in done.failure[2]
        assert any("were not kept" in note.text for note in done.of(Note))
        server.log.clear()
        again = await place.run({"url": server.url(), **CHECKED})
        assert (again.failure[:2], [r.method for r in server.log]) == (("checksum", 0), ["HEAD"])


# ---- The next run


@pytest.mark.parametrize("marks", [(E1,), DATED, (("ETag", 'W/"1"'),)], ids=["ETag", "Last-Modified", "weak ETag"])
async def test_the_same_edition_is_not_fetched_again(marks: tuple[tuple[str, object], ...], tmp_path: Path):
    place = Place(tmp_path)
    done, methods = await TwoRuns(place, bare(WRONG, *marks)).run(clock=LaterClock(20 * DAY))
    kind, attempts, reason = done.failure
    assert (done.code, kind, attempts, methods, done.result.received) == (1, "checksum", 0, ["HEAD"], 0)
    for part in ("Two downloads gave identical bytes", sha256(WRONG), "Not downloaded again", ".bulkdl/faulty/"):
        assert part in reason
    assert (kept(place), place.names()) == ([WRONG], [])
    entry = place.entry()
    assert (entry.phase, entry.failure_reason, entry.attempts) == (Phase.FAILED, reason, 0)


async def test_if_head_is_refused_a_get_is_evaluated_without_reading_its_body(tmp_path: Path):
    place = Place(tmp_path)
    done, methods = await TwoRuns(place, no_head(bare(WRONG, E1))).run()
    assert (done.failure[:2], methods, done.result.received) == (("checksum", 0), ["HEAD", "GET"], 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((E1,), bare(RIGHT, E2)),
        (DATED, bare(RIGHT, ("Last-Modified", "Wed, 16 Nov 1994 12:45:26 GMT"), DATED[1])),
        ((), bare(RIGHT + b"more", E1)),
    ],
    ids=["ETag", "Last-Modified", "length"],
)
async def test_another_edition_is_fetched_and_the_kept_bytes_go_when_it_is_right(
    before: tuple[tuple[str, object], ...], after: Responder, tmp_path: Path
):
    place = Place(tmp_path)
    right = RIGHT + b"more" if not before else RIGHT
    product = {"checksum": sha256(right)} if not before else {}
    done, methods = await TwoRuns(place, bare(WRONG, *before)).run(after, product=product)
    assert (done.code, place.file("x.bin"), kept(place), evidence(place)) == (0, right, [], None)
    assert methods == (["HEAD", "GET"] if before else ["GET"])


async def test_another_edition_that_is_faulty_too_takes_the_place_of_the_first(tmp_path: Path):
    place = Place(tmp_path)
    done, methods = await TwoRuns(place, bare(WRONG, E1)).run(bare(OTHER, E2))
    assert (done.failure[:2], methods) == (("checksum", 2), ["HEAD", "GET", "GET"])
    assert kept(place) == [OTHER]
    found = evidence(place)
    assert found is not None
    assert (found.fetches, {s.etag for s in found.seen}) == (2, {'"2"'})


@pytest.mark.parametrize(("days", "attempts"), [(6.9, 0), (7.1, 1), (-2, 1)])
async def test_where_nothing_tells_an_edition_it_is_fetched_again_after_a_week(
    days: float, attempts: int, tmp_path: Path
):
    place = Place(tmp_path)
    done, methods = await TwoRuns(place, bare(WRONG)).run(clock=LaterClock(days * DAY))
    assert (done.failure[:2], methods) == (("checksum", attempts), ["HEAD"] + ["GET"] * attempts)
    assert ("Three downloads gave identical bytes" in done.failure[2]) == bool(attempts)


async def test_a_head_that_always_differs_from_its_get_costs_one_fetch_and_not_one_in_every_run(tmp_path: Path):
    place = Place(tmp_path)

    async def liar(request: RawRequest, wire: Wire) -> None:
        marks = ("ETag", '"head"') if request.method == "HEAD" else E1
        await bare(WRONG, marks)(request, wire)

    async with RawServer(liar) as server:
        counts = []
        for _ in range(4):
            server.log.clear()
            done = await place.run({"url": server.url(), **CHECKED})
            assert done.failure[0] == "checksum"
            counts.append([r.method for r in server.log])
    assert counts == [["GET", "GET"], ["HEAD", "GET"], ["HEAD"], ["HEAD"]]


async def test_an_archive_that_is_busy_is_asked_again_and_not_for_the_body(tmp_path: Path):
    place = Place(tmp_path)
    busy = iter([reply(503), reply(503)])

    async def later(request: RawRequest, wire: Wire) -> None:
        await next(busy, bare(WRONG, E1))(request, wire)

    done, methods = await TwoRuns(place, bare(WRONG, E1)).run(later)
    assert (done.failure[:2], methods) == (("checksum", 0), ["HEAD", "GET", "HEAD"])


async def test_a_product_that_was_withdrawn_is_named_as_that(tmp_path: Path):
    place = Place(tmp_path)
    done, _ = await TwoRuns(place, bare(WRONG, E1)).run(reply(410))
    assert done.failure[0] == "http"
    assert "withdrawn" in done.failure[2]
    assert kept(place) == [WRONG]


async def test_a_mirror_that_is_new_in_the_manifest_is_fetched_from(tmp_path: Path):
    place = Place(tmp_path)
    served = by_path(a=bare(WRONG, E1), b=bare(RIGHT, E1))
    async with RawServer(served) as server:
        assert (await place.run({"url": server.url("/a"), **CHECKED})).failure[0] == "checksum"
        server.log.clear()
        done = await place.run({"url": server.url("/a"), "mirrors": [server.url("/b")], **CHECKED})
        assert [(r.method, r.path) for r in server.log] == [("HEAD", "/a"), ("HEAD", "/b"), ("GET", "/b")]
    assert (done.code, place.file("x.bin"), kept(place)) == (0, RIGHT, [])


async def test_a_mirror_that_does_not_answer_brings_no_fetch_from_the_one_that_does(tmp_path: Path):
    place = Place(tmp_path)
    served = [by_path(a=bare(WRONG, E1), b=bare(WRONG, E1))]

    async def respond(request: RawRequest, wire: Wire) -> None:
        await served[0](request, wire)

    async with RawServer(respond) as server:
        product = {"url": server.url("/a"), "mirrors": [server.url("/b")], **CHECKED}
        assert (await place.run(product)).failure[0] == "checksum"
        served[0] = by_path(a=reply(500), b=bare(WRONG, E1))
        done = await place.run(product)
    assert done.failure[:2] == ("checksum", 0)


# ---- What the user changes


async def test_a_corrected_checksum_makes_the_kept_bytes_the_product_without_a_request(tmp_path: Path):
    place = Place(tmp_path)
    done, methods = await TwoRuns(place, bare(WRONG, E1)).run(product={"checksum": sha256(WRONG)})
    assert (done.code, methods, place.file("x.bin"), kept(place)) == (0, [], WRONG, [])
    assert (place.names(), evidence(place), place.entry().phase) == (["x.bin"], None, Phase.DONE)
    assert (done.result.received, done.result.completed) == (0, 1)


async def test_a_corrected_checksum_of_another_algorithm_is_computed_from_the_kept_bytes(tmp_path: Path):
    import hashlib  # noqa: PLC0415

    place = Place(tmp_path)
    digest = f"md5:{hashlib.md5(WRONG, usedforsecurity=False).hexdigest()}"
    done, methods = await TwoRuns(place, bare(WRONG, E1)).run(product={"checksum": digest})
    assert (done.code, methods, place.file("x.bin"), kept(place)) == (0, [], WRONG, [])


async def test_a_changed_checksum_that_the_kept_bytes_have_not_means_a_fetch(tmp_path: Path):
    place = Place(tmp_path)
    done, methods = await TwoRuns(place, bare(WRONG, E1)).run(bare(OTHER, E2), product={"checksum": sha256(OTHER)})
    assert (done.code, methods, place.file("x.bin"), kept(place)) == (0, ["GET"], OTHER, [])


@pytest.mark.parametrize("harm", ["changed", "shortened", "gone"])
async def test_kept_bytes_that_somebody_touched_never_become_the_product(harm: str, tmp_path: Path):
    place = Place(tmp_path)
    current = [bare(WRONG, E1)]

    async def respond(request: RawRequest, wire: Wire) -> None:
        await current[0](request, wire)

    async with RawServer(respond) as server:
        await place.run({"url": server.url(), **CHECKED})
        (path,) = (place.root / ".bulkdl" / "faulty").iterdir()
        if harm == "changed":
            path.write_bytes(bytes([WRONG[0] ^ 1]) + WRONG[1:])
        elif harm == "shortened":
            path.write_bytes(WRONG[:-1])
        else:
            path.unlink()
        server.log.clear()
        done = await place.run({"url": server.url(), **CHECKED, "checksum": sha256(WRONG)})
        assert (done.code, place.file("x.bin"), [r.method for r in server.log]) == (0, WRONG, ["GET"])
    assert kept(place) == []


async def test_overwrite_fetches_anew_and_one_fetch_that_agrees_is_enough(tmp_path: Path):
    place = Place(tmp_path)
    done, methods = await TwoRuns(place, bare(WRONG, E1)).run(options=RunOptions(overwrite=True))
    assert (done.failure[:2], methods, kept(place)) == (("checksum", 1), ["GET"], [WRONG])


async def test_a_product_that_was_requeued_is_fetched_once_and_not_in_every_run(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(bare(WRONG, E1)) as server:
        product = {"url": server.url(), **CHECKED}
        await place.run(product)
        report = await verify_products(place.manifest([product]), requeue=True)
        assert report.results[0].requeued
        counts = []
        for _ in range(2):
            server.log.clear()
            assert (await place.run(product)).failure[0] == "checksum"
            counts.append([r.method for r in server.log])
    assert (counts, kept(place)) == ([["GET"], ["HEAD"]], [WRONG])


async def test_a_manifest_that_names_no_checksum_any_more_has_the_product_fetched(tmp_path: Path):
    place = Place(tmp_path)
    done, methods = await TwoRuns(place, bare(WRONG, E1)).run(product={"checksum": []})
    assert (done.code, methods, place.file("x.bin"), kept(place), evidence(place)) == (0, ["GET"], WRONG, [], None)


async def test_a_right_file_that_the_user_puts_in_place_clears_the_evidence(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(bare(WRONG, E1)) as server:
        await place.run({"url": server.url(), **CHECKED})
        (place.root / "x.bin").write_bytes(RIGHT)
        server.log.clear()
        done = await place.run({"url": server.url(), **CHECKED})
        again = await place.run({"url": server.url(), **CHECKED})
        assert (done.code, again.code, server.log) == (0, 0, [])
    assert (place.file("x.bin"), kept(place), evidence(place)) == (RIGHT, [], None)


# ---- Crashes and damage


async def test_a_crash_between_keeping_the_bytes_and_recording_it_costs_one_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = Place(tmp_path)
    original = Journal.record_evidence

    async def dies_at_the_second(self: Journal, entry: Entry, found: BadSourceEvidence) -> None:
        if found.proven:
            raise StorageStopped("the power has gone")
        await original(self, entry, found)

    async with RawServer(bare(WRONG, E1)) as server:
        product = {"url": server.url(), **CHECKED}
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "record_evidence", dies_at_the_second)
            assert (await place.run(product)).code == 4
        assert kept(place) == [WRONG]
        server.log.clear()
        again = await place.run(product)
        assert (again.failure[:2], [r.method for r in server.log]) == (("checksum", 1), ["GET"])
        assert (kept(place), place.names()) == ([WRONG], [])


async def test_the_kept_bytes_of_such_a_crash_are_removed_once_the_product_verifies(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(reply(200, WRONG), reply(404), reply(404), reply(200, RIGHT)) as server:
        product = {"url": server.url(), **CHECKED}
        await place.run(product)
        left = place.root / kept_name("x.bin", "x.bin")
        left.parent.mkdir()
        left.write_bytes(WRONG)
        done = await place.run(product)
    assert (done.code, place.file("x.bin"), kept(place)) == (0, RIGHT, [])


async def test_a_refusal_that_was_recorded_is_not_counted_twice_after_a_crash(tmp_path: Path):
    """The journal forgets the bytes before they are removed, so no run verifies them again."""
    place = Place(tmp_path)
    async with RawServer(reply(200, WRONG), reply(404)) as server:
        await place.run({"url": server.url(), **CHECKED})
    (place.root / "x.bin.part").write_bytes(WRONG)  # as a crash before the removal leaves it
    async with RawServer(reply(200, WRONG), reply(200, RIGHT)) as server:
        done = await place.run({"url": server.url(), **CHECKED})
        assert len(server.log) == 1  # one download in this run, one in the last
    assert "Two downloads gave identical bytes" in done.failure[2]


async def test_a_crash_after_the_product_had_its_name_leaves_nothing_kept_behind(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(bare(WRONG, E1)) as server:
        await place.run({"url": server.url(), **CHECKED})
        async with Journal.open(place.root, clock=SystemClock()) as journal:
            entry = place.entry()
            (place.root / "x.bin").write_bytes(RIGHT)
            stat = (place.root / "x.bin").stat()
            done = dataclasses.replace(
                entry, phase=Phase.DONE, size=SIZE, mtime_ns=stat.st_mtime_ns, part=None, total=SIZE
            )
            await journal.put(
                dataclasses.replace(done, digests=next(iter((await journal.learned()).evidence.values())).expected)
            )
        server.log.clear()
        assert (await place.run({"url": server.url(), **CHECKED})).code == 0
        assert server.log == []
    assert (kept(place), evidence(place)) == ([], None)


async def test_a_fetch_that_was_cut_and_one_that_was_not_agree_when_their_bytes_do(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(announce(SIZE, WRONG[:100_000], E1), ranges(WRONG)) as server:
        done = await place.run({"url": server.url(), **CHECKED})
        assert [r.header("Range") for r in server.log] == [None, "bytes=100000-", None]
    assert "Two downloads gave identical bytes" in done.failure[2]
    assert kept(place) == [WRONG]


# ---- As a user has it


def program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bulkdl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_the_program_reports_it_in_every_run_and_takes_the_kept_bytes_when_the_manifest_is_corrected(
    tmp_path: Path,
):
    manifest, out = tmp_path / "m.yaml", tmp_path / "products"
    async with RawServer(bare(WRONG, E1)) as server:
        text = f"version: 1\nproducts: [{{url: '{server.url()}', file: x.bin, checksum: '{sha256(RIGHT)}'}}]\n"
        manifest.write_text(text)
        for methods in (["GET", "GET"], ["HEAD"]):
            server.log.clear()
            run = await asyncio.to_thread(program, "run", manifest, "-d", out, "--json", "-q")
            assert [r.method for r in server.log] == methods
            summary = json.loads(run.stdout)
            assert (run.returncode, summary["failures"][0]["kind"]) == (1, "checksum")
            assert summary["failures"][0]["attempts"] == methods.count("GET")
            assert ".bulkdl/faulty/" in summary["failures"][0]["reason"]
        async with Journal.open(out, clock=SystemClock()) as journal:
            journal.put_host_unsynced(ServerFacts(origin=server.origin, range_hits=1, ranges_at=SystemClock().wall()))
        status_ = await asyncio.to_thread(program, "status", manifest, "-d", out, "--json")
        (item,) = json.loads(status_.stdout)["items"]
        assert json.loads(status_.stdout)["hosts"] == {server.origin: "honours ranges"}
        assert (item["state"], item["kind"]) == ("failed", "checksum")
        assert "wrong at the source" in item["reason"]
        manifest.write_text(text.replace(sha256(RIGHT), sha256(WRONG)))
        server.log.clear()
        run = await asyncio.to_thread(program, "run", manifest, "-d", out, "--json")
        assert (run.returncode, server.log, (out / "x.bin").read_bytes() == WRONG) == (0, [], True)
    assert list((out / ".bulkdl" / "faulty").iterdir()) == []
