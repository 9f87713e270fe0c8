"""A file that is already at a product's name: when it is kept, when the server is asked, and when it is a conflict."""

from __future__ import annotations

import hashlib
import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.errors import BulkdlError, ProductFailed
from bulkdl.core.events import Flight
from bulkdl.core.models import Checksum, FailureKind, RunOptions
from bulkdl.journal.records import Entry, Phase
from bulkdl.operations.verify import verify_products
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.transfer.existing_file import resolve_existing_file
from bulkdl.transfer.state import ExistingFile
from tests.contexts import context_at, task_for
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
    async with RawServer(ARCHIVE, reply(404), reply(404), ARCHIVE) as server:
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
    place, old, new = Place(tmp_path, retries=1, give_up_after=0.0), body_of(size, 1), body_of(size, 2)
    place.root.mkdir()
    (place.root / "a.bin").write_bytes(old)
    os.link(place.root / "a.bin", place.root / "a.bin.part")
    async with RawServer(announce(size, new[: size // 2]), reply(500), reply(500), reply(200, new)) as server:
        wanted = {"url": server.url("/a.bin"), "file": "a.bin"}
        cut = await place.run(wanted, options=OVERWRITE)
        assert (cut.code, place.file("a.bin")) == (1, old)
        done = await place.run(wanted, options=OVERWRITE)
    assert (done.code, place.file("a.bin"), place.names()) == (0, new, ["a.bin"])


# Single steps, without a run: which value comes back, and what is left in the task


@dataclass(frozen=True)
class Step:
    """A file at the name, what the plan said of it, and what comes of it."""

    status: LocalFileStatus = LocalFileStatus.UNVERIFIABLE
    there: bytes | None = BODY
    product: dict[str, Any] = field(default_factory=dict)
    options: dict[str, bool] = field(default_factory=dict)
    name_is_new: bool = False
    response_size: int | None = None
    size: int | None = None
    """Size of the file that is accepted; None if the product has to be downloaded."""
    note: str = ""
    conflict: str = ""


RIGHT = {"checksums": (Checksum("sha256", sha256(BODY).partition(":")[2]),)}
MD5 = hashlib.md5(BODY).hexdigest()
WRONG_MD5 = {"checksums": (*RIGHT["checksums"], Checksum("md5", "0" * 32))}
NEW = {"name_is_new": True, "status": LocalFileStatus.ABSENT}
STEPS = {
    "absent": Step(LocalFileStatus.ABSENT, there=None),
    "absent, although a file came since": Step(LocalFileStatus.ABSENT),
    "a new name, nothing there": Step(**NEW, there=None, response_size=50_000),
    "a new name, the response's size": Step(**NEW, response_size=50_000, size=50_000, note="existing, unverified"),
    "a new name, one byte more": Step(**NEW, response_size=50_001, conflict="has 50001 bytes"),
    "a new name, one byte less": Step(
        **NEW, response_size=49_999, conflict="exists (50000 bytes), but the archive has"
    ),
    "a new name, an empty response": Step(**NEW, response_size=0, conflict="has 0 bytes"),
    "a new name, both empty": Step(**NEW, there=b"", response_size=0, note="existing, unverified", size=0),
    "a new name, no size": Step(**NEW, conflict="exists (50000 bytes), but the archive gives no size"),
    "a new name, no size, trusted": Step(
        **NEW, options={"trust_existing": True}, size=50_000, note="existing, unverified"
    ),
    "a new name, no size, overwritten": Step(**NEW, options={"overwrite": True}),
    "a new name, overwritten and trusted": Step(
        **NEW, options={"overwrite": True, "trust_existing": True}, size=50_000, note="existing, unverified"
    ),
    "a new name, the manifest's size": Step(**NEW, product={"size": 50_000}, size=50_000),
    "a new name, not the manifest's size": Step(
        **NEW, product={"size": 50_001}, conflict="its size or content differs"
    ),
    "a new name, not the manifest's size, overwritten": Step(
        **NEW, product={"size": 50_001}, options={"overwrite": True}
    ),
    "a new name, the manifest's checksum": Step(**NEW, product=RIGHT, size=50_000),
    "a new name, a wrong checksum": Step(
        **NEW, product=WRONG_MD5, conflict=f"already exists, but its md5 is {MD5}, expected {'0' * 32}"
    ),
    "the checksum is right": Step(LocalFileStatus.NEEDS_CHECKSUM, product=RIGHT, size=50_000),
    "nothing to compare": Step(LocalFileStatus.NEEDS_CHECKSUM, size=50_000),
    "a wrong checksum": Step(LocalFileStatus.NEEDS_CHECKSUM, product=WRONG_MD5, conflict="its md5 is"),
    "a wrong checksum, overwritten": Step(
        LocalFileStatus.NEEDS_CHECKSUM, product=WRONG_MD5, options={"overwrite": True}
    ),
    "a conflict": Step(LocalFileStatus.CONFLICTS, conflict="its size or content differs"),
    "a conflict, trusted": Step(
        LocalFileStatus.CONFLICTS, options={"trust_existing": True}, conflict="its size or content differs"
    ),
    "a conflict, overwritten": Step(LocalFileStatus.CONFLICTS, options={"overwrite": True}),
    "requeued": Step(LocalFileStatus.REPLACE),
    "unverifiable, trusted": Step(options={"trust_existing": True}, size=50_000, note="existing, unverified"),
    "unverifiable, trusted, gone since": Step(
        there=None, options={"trust_existing": True}, size=0, note="existing, unverified"
    ),
    "unverifiable, overwritten": Step(options={"overwrite": True}),
}


@pytest.mark.parametrize("name", STEPS)
async def test_what_comes_of_a_file_that_is(name: str, tmp_path: Path):
    step = STEPS[name]
    async with context_at(tmp_path, **step.options) as context:
        task = task_for(context, **step.product)
        task.local_status = step.status
        if step.there is not None:
            (tmp_path / "x.bin").write_bytes(step.there)
        with pytest.raises(ProductFailed) if step.conflict else nullcontext() as failed:
            found = await resolve_existing_file(
                context, task, name_is_new=step.name_is_new, response_size=step.response_size
            )
        if step.conflict:
            assert failed.value.reason.startswith("x.bin ")
            assert step.conflict in failed.value.reason
            assert failed.value.kind is FailureKind.CONFLICT
            assert "--overwrite" in failed.value.hint
            return
        assert (found.size if found else None, found.note if found else "") == (step.size, step.note)
        wants_checksums = found is not None and not step.note and step.product.get("checksums")
        assert (found.digests if found else ()) == (wants_checksums or ())
        replaced = found is None and (step.status is not LocalFileStatus.ABSENT or "overwritten" in name)
        assert task.overwrite == replaced
        assert task.local_status == (LocalFileStatus.ABSENT if replaced else step.status)
        computed = step.status is LocalFileStatus.NEEDS_CHECKSUM or bool(wants_checksums)
        assert context.hub.counters.flights[task.product.id].phase == ("verifying" if computed else Flight("").phase)


@pytest.mark.parametrize("right", [True, False])
async def test_without_a_checksum_in_the_manifest_the_journals_is_compared(right: bool, tmp_path: Path):  # noqa: FBT001
    (tmp_path / "x.bin").write_bytes(BODY if right else SAME_SIZE)
    async with context_at(tmp_path) as context:
        task = task_for(context)
        task.local_status = LocalFileStatus.NEEDS_CHECKSUM
        done = Entry(id=task.product.id, phase=Phase.DONE, file="x.bin", size=50_000, digests=RIGHT["checksums"])
        await context.journal.put(done)
        if right:
            assert await resolve_existing_file(context, task) == ExistingFile(50_000, RIGHT["checksums"])
        else:
            with pytest.raises(ProductFailed, match="its sha256 is"):
                await resolve_existing_file(context, task)


@pytest.mark.parametrize(("owner", "conflict"), [("x.bin", False), ("another", True)])
async def test_a_new_name_that_is_another_products_partial_is_a_conflict(
    owner: str,
    conflict: bool,  # noqa: FBT001
    tmp_path: Path,
):
    async with context_at(tmp_path, overwrite=True) as context:
        task = task_for(context)
        context.parts["x.bin"] = owner if conflict else task.product.id
        assert await resolve_existing_file(context, task, name_is_new=True) is None
        (tmp_path / "x.bin").write_bytes(BODY)
        if not conflict:
            assert await resolve_existing_file(context, task, name_is_new=True) is None
            return
        with pytest.raises(ProductFailed, match=r"^x\.bin is already there as the partial of another product"):
            await resolve_existing_file(context, task, name_is_new=True)


async def test_a_file_that_cannot_be_read_is_the_machines_trouble(tmp_path: Path):
    async with context_at(tmp_path) as context:
        task = task_for(context, **RIGHT)
        task.local_status = LocalFileStatus.NEEDS_CHECKSUM
        (tmp_path / "x.bin").mkdir()
        with pytest.raises(BulkdlError, match=r"Could not read 'x\.bin'"):
            await resolve_existing_file(context, task)
