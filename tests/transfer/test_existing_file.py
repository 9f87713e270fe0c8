"""A file that is already at a product's name: when it is kept, when the server is asked, and when it is a conflict."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.models import RunOptions
from bulkdl.journal.records import Phase
from bulkdl.operations.verify import verify_products
from tests.harness import Place, body_of, sha256
from tests.servers import RawRequest, RawServer, Responder, Wire, announce, ranges, reply

if TYPE_CHECKING:
    from pathlib import Path

BODY = body_of(50_000)
SAME_SIZE = body_of(50_000, 1)
SHORTER = body_of(40_000, 2)
OVERWRITE = RunOptions(overwrite=True)
TRUST = RunOptions(trust_existing=True)
ARCHIVE = ranges(BODY)


async def no_head(request: RawRequest, wire: Wire) -> None:
    await (reply(405) if request.method == "HEAD" else ARCHIVE)(request, wire)


async def no_length(request: RawRequest, wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")


@dataclass(frozen=True)
class Case:
    there: bytes
    code: int
    methods: tuple[str, ...] = ()
    kind: str = ""
    kept: bool = True
    note: str = ""
    product: dict[str, Any] = field(default_factory=dict)
    options: RunOptions = field(default_factory=RunOptions)
    answer: Responder = ARCHIVE


CASES = {
    "the right checksum": Case(BODY, 0, product={"checksum": sha256(BODY)}),
    "a wrong checksum": Case(SAME_SIZE, 1, kind="conflict", product={"checksum": sha256(BODY)}),
    "a wrong checksum, overwritten": Case(
        SAME_SIZE, 0, ("GET",), kept=False, product={"checksum": sha256(BODY)}, options=OVERWRITE
    ),
    "the right size": Case(SAME_SIZE, 0, product={"size": 50_000}),
    "a wrong size": Case(SHORTER, 1, kind="conflict", product={"size": 50_000}),
    "a wrong size, overwritten": Case(SHORTER, 0, ("GET",), kept=False, product={"size": 50_000}, options=OVERWRITE),
    "a wrong size, trusted": Case(SHORTER, 1, kind="conflict", product={"size": 50_000}, options=TRUST),
    "nothing known, the archive's size": Case(SAME_SIZE, 0, ("HEAD",), note="existing, unverified"),
    "nothing known, another size": Case(SHORTER, 1, ("HEAD",), kind="conflict"),
    "nothing known, no HEAD": Case(SAME_SIZE, 0, ("HEAD", "GET"), note="existing, unverified", answer=no_head),
    "nothing known, no length": Case(SAME_SIZE, 1, ("HEAD", "GET"), kind="conflict", answer=no_length),
    "nothing known, not found": Case(SAME_SIZE, 1, ("HEAD", "GET"), kind="conflict", answer=reply(404)),
    "nothing known, a passing fault": Case(SAME_SIZE, 1, ("HEAD", "GET") * 3, kind="http", answer=reply(503)),
    "nothing known, withdrawn": Case(SAME_SIZE, 1, ("HEAD",), kind="conflict", answer=reply(410)),
    "nothing known, being prepared": Case(SAME_SIZE, 1, ("HEAD",) * 3, kind="http", answer=reply(202)),
    "nothing known, trusted": Case(SHORTER, 0, options=TRUST, note="existing, unverified"),
    "nothing known, overwritten": Case(SHORTER, 0, ("GET",), kept=False, options=OVERWRITE),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_file_that_is_there_before_the_first_run_with(name: str, tmp_path: Path):
    case = CASES[name]
    place = Place(tmp_path)
    place.root.mkdir()
    (place.root / "x.bin").write_bytes(case.there)
    async with RawServer(case.answer) as server:
        wish = {"url": server.url(), "file": "x.bin", **case.product}
        done = await place.run(wish, options=case.options)
        assert done.code == case.code, done.result.failures
        assert tuple(r.method for r in server.log) == case.methods
        assert place.file("x.bin") == (case.there if case.kept else BODY)
        assert place.names() == ["x.bin"]
        assert [f.failure.kind.value for f in done.result.failures if f.failure] == ([case.kind] if case.kind else [])
        assert done.result.notes == ((f"x.bin: {case.note}",) if case.note else ())
        if case.code == 0:
            again = await place.run(wish)
            assert (again.code, again.result.skipped, len(server.log)) == (0, 1, len(case.methods))


@pytest.mark.parametrize(
    ("there", "options", "code", "kept"),
    [
        (SAME_SIZE, RunOptions(), 0, True),
        (SHORTER, RunOptions(), 1, True),
        (SHORTER, TRUST, 0, True),
        (SHORTER, OVERWRITE, 0, False),
    ],
)
async def test_a_file_whose_name_only_the_server_knows_is_compared_with_the_response(
    there: bytes,
    options: RunOptions,
    code: int,
    kept: bool,  # noqa: FBT001
    tmp_path: Path,
):
    place = Place(tmp_path)
    place.root.mkdir()
    (place.root / "x.bin").write_bytes(there)
    async with RawServer(ranges(BODY, ("Content-Disposition", "attachment; filename=x.bin"))) as server:
        done = await place.run(server.url("/download/1"), options=options)
        assert (done.code, len(server.log)) == (code, 1)
    assert place.file("x.bin") == (there if kept else BODY)
    assert place.names() == ["x.bin"]


async def test_a_file_that_changed_after_its_run_is_a_conflict_and_one_that_is_gone_is_fetched(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(ARCHIVE) as server:
        wish = {"url": server.url(), "file": "x.bin"}
        assert (await place.run(wish)).code == 0
        (place.root / "x.bin").write_bytes(SHORTER)
        changed = await place.run(wish)
        assert (changed.code, changed.failure[0], len(server.log)) == (1, "conflict", 1)
        (place.root / "x.bin").unlink()
        done = await place.run(wish)
        assert (done.code, place.file("x.bin"), len(server.log)) == (0, BODY, 2)


async def test_a_file_that_was_only_touched_is_hashed_and_kept(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(ARCHIVE) as server:
        wish = {"url": server.url(), "file": "x.bin", "checksum": sha256(BODY)}
        assert (await place.run(wish)).code == 0
        (place.root / "x.bin").touch()
        again = await place.run(wish)
        assert (again.code, again.result.skipped, len(server.log)) == (0, 1, 1)


async def test_what_verify_found_wrong_is_replaced_also_when_the_first_try_failed(tmp_path: Path):
    place = Place(tmp_path, retries=1)
    async with RawServer(ARCHIVE, reply(404), ARCHIVE) as server:
        wish = {"url": server.url(), "file": "x.bin", "checksum": sha256(BODY)}
        assert (await place.run(wish)).code == 0
        (place.root / "x.bin").write_bytes(SAME_SIZE)
        report = await verify_products(place.manifest([wish]), requeue=True)
        assert [r.requeued for r in report.results] == [True]
        failed = await place.run(wish)
        assert (failed.code, failed.failure[0]) == (1, "http")
        assert place.entry().phase is Phase.REQUEUED
        done = await place.run(wish)
        assert (done.code, place.file("x.bin"), place.entry().phase) == (0, BODY, Phase.DONE)


async def test_a_folder_at_a_products_name_is_a_conflict(tmp_path: Path):
    place = Place(tmp_path)
    (place.root / "x.bin").mkdir(parents=True)
    async with RawServer(ARCHIVE) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"})
        assert (done.code, done.failure[0], len(server.log)) == (1, "conflict", 0)


@pytest.mark.parametrize("size", [4096, 400_000])
async def test_a_file_that_is_to_be_replaced_stays_whole_until_then_also_where_its_partial_is_the_same_file(
    size: int, tmp_path: Path
):
    """A rename was interrupted while both names existed, and the journal has been lost since."""
    place, old, new = Place(tmp_path, retries=1), body_of(size, 1), body_of(size, 2)
    place.root.mkdir()
    (place.root / "a.bin").write_bytes(old)
    os.link(place.root / "a.bin", place.root / "a.bin.part")
    async with RawServer(announce(size, new[: size // 2]), reply(500), reply(200, new)) as server:
        wanted = {"url": server.url("/a.bin"), "file": "a.bin"}
        cut = await place.run(wanted, options=OVERWRITE)
        assert (cut.code, place.file("a.bin")) == (1, old)
        done = await place.run(wanted, options=OVERWRITE)
    assert (done.code, place.file("a.bin"), place.names()) == (0, new, ["a.bin"])
