"""A file that is already at a product's name: when it is kept, when the server is asked, and when it is a conflict."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.errors import ProductFailed
from bulkdl.core.models import Checksum, FailureKind, RunOptions
from bulkdl.core.urls import Url
from bulkdl.http.client import HttpClient
from bulkdl.journal.records import Entry, Phase
from bulkdl.operations.verify import verify_products
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.transfer.existing_file import (
    ask_archive,
    ask_size,
    compare_digests,
    resolve_existing_file,
    resolve_named_file,
)
from bulkdl.transfer.state import ExistingFile
from tests.contexts import context_at, task_for
from tests.harness import Place, body_of, sha256
from tests.servers import RawRequest, RawServer, Responder, Wire, announce, head, ranges, reply

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


# Step by step

SUM, OTHER_SUM = (Checksum(*sha256(body).split(":")) for body in (BODY, SAME_SIZE))


def there(folder: Path, body: bytes | None = BODY) -> None:
    if body is not None:
        (folder / "x.bin").write_bytes(body)


@pytest.mark.parametrize(("body", "size"), [(BODY, 50_000), (SHORTER, 40_000), (None, 0)])
async def test_a_file_that_is_trusted_unseen_is_recorded_with_the_size_that_it_has(
    body: bytes | None, size: int, tmp_path: Path
):
    there(tmp_path, body)
    async with context_at(tmp_path, trust_existing=True) as context:
        task = task_for(context)
        task.local_status = LocalFileStatus.UNKNOWN
        assert await resolve_existing_file(context, task) == ExistingFile(size, note="existing, trusted unseen")


@pytest.mark.parametrize(
    ("standing", "overwrite", "settled"),
    [
        (LocalFileStatus.ABSENT, False, None),
        (LocalFileStatus.REPLACE, False, None),
        (LocalFileStatus.DISAGREES, True, None),
        (LocalFileStatus.UNKNOWN, True, None),
        (LocalFileStatus.HASH, True, None),
        (LocalFileStatus.DISAGREES, False, FailureKind.CONFLICT),
        (LocalFileStatus.HASH, False, FailureKind.CONFLICT),
    ],
)
async def test_a_file_that_is_not_the_product_is_replaced_only_where_that_is_wished(
    standing: LocalFileStatus, settled: FailureKind | None, *, overwrite: bool, tmp_path: Path
):
    there(tmp_path, SAME_SIZE)
    async with context_at(tmp_path, overwrite=overwrite) as context:
        task = task_for(context, checksums=(SUM,))
        task.local_status = standing
        if settled is not None:
            with pytest.raises(ProductFailed) as failed:
                await resolve_existing_file(context, task)
            assert (failed.value.kind, task.overwrite, task.local_status) == (settled, False, standing)
        else:
            assert await resolve_existing_file(context, task) is None
            assert (task.overwrite, task.local_status) == (
                standing is not LocalFileStatus.ABSENT,
                LocalFileStatus.ABSENT,
            )


@pytest.mark.parametrize(
    ("checksums", "digests", "wanted"),
    [
        ((), None, ()),
        ((), (), ()),
        ((), (SUM,), (SUM,)),
        ((SUM,), None, (SUM,)),
        ((SUM,), (OTHER_SUM,), (SUM,)),  # the manifest goes before what an earlier run found
        ((), (OTHER_SUM,), None),
        ((OTHER_SUM,), (SUM,), None),
        ((SUM, Checksum("md5", "00")), None, None),
    ],
)
async def test_a_file_is_held_against_the_manifests_checksums_or_those_of_an_earlier_run(
    checksums: tuple[Checksum, ...],
    digests: tuple[Checksum, ...] | None,
    wanted: tuple[Checksum, ...] | None,
    tmp_path: Path,
):
    there(tmp_path)
    async with context_at(tmp_path) as context:
        task = task_for(context, checksums=checksums)
        entry = None if digests is None else Entry(id="x.bin", phase=Phase.DONE, file="x.bin", digests=digests)
        if wanted is None:
            with pytest.raises(ProductFailed, match=r"is already there and its (sha256|md5) is .*, expected"):
                await compare_digests(context, task, entry)
        else:
            assert await compare_digests(context, task, entry) == ExistingFile(50_000, wanted)
        assert context.hub.counters.flights["x.bin"].phase == "verifying"


async def test_a_file_that_is_gone_meanwhile_cannot_be_compared(tmp_path: Path):
    async with context_at(tmp_path) as context:
        assert await compare_digests(context, task_for(context), None) == ExistingFile(0)
        with pytest.raises(ProductFailed, match="Could not read"):
            await compare_digests(context, task_for(context, checksums=(SUM,)), None)


CONFLICT = "conflict"


@pytest.mark.parametrize(
    ("body", "product", "remote", "options", "expected"),
    [
        (None, {}, 50_000, {}, None),
        (BODY, {"size": 50_000}, None, {}, ExistingFile(50_000)),
        (BODY, {"size": 50_000}, None, {"overwrite": True}, ExistingFile(50_000)),
        (BODY, {"size": 40_000}, None, {}, CONFLICT),
        (BODY, {"size": 40_000}, None, {"overwrite": True}, "replaced"),
        (BODY, {"checksums": (SUM,)}, None, {}, ExistingFile(50_000, (SUM,))),
        (BODY, {"checksums": (OTHER_SUM,)}, None, {}, CONFLICT),
        (BODY, {"checksums": (OTHER_SUM,)}, None, {"overwrite": True}, "replaced"),
        (BODY, {}, 50_000, {}, ExistingFile(50_000, note="existing, unverified")),
        (BODY, {}, 40_000, {}, CONFLICT),
        (BODY, {}, None, {}, CONFLICT),
        (BODY, {}, None, {"trust_existing": True}, ExistingFile(50_000, note="existing, unverified")),
        (BODY, {}, 50_000, {"overwrite": True}, "replaced"),
    ],
)
async def test_a_file_at_a_name_that_only_the_archive_knew(
    body: bytes | None,
    product: dict[str, Any],
    remote: int | None,
    options: dict[str, bool],
    expected: ExistingFile | str | None,
    tmp_path: Path,
):
    there(tmp_path, body)
    async with context_at(tmp_path, **options) as context:
        task = task_for(context, **product)
        if expected == CONFLICT:
            with pytest.raises(ProductFailed) as failed:
                await resolve_named_file(context, task, remote_size=remote)
            assert (failed.value.kind, task.overwrite) == (FailureKind.CONFLICT, False)
        else:
            found = await resolve_named_file(context, task, remote_size=remote)
            assert found == (expected if isinstance(expected, ExistingFile) else None)
            assert task.overwrite == (expected == "replaced")


@pytest.mark.parametrize(
    ("parts", "body", "conflicts"),
    [
        ({"x.bin": "other"}, BODY, True),
        ({"x.bin": "other"}, None, False),
        ({"x.bin": "x.bin"}, BODY, False),
        ({"y.bin": "other", "": "other"}, BODY, False),
    ],
)
async def test_the_partial_of_another_product_is_never_taken_for_the_product(
    parts: dict[str, str], body: bytes | None, *, conflicts: bool, tmp_path: Path
):
    there(tmp_path, body)
    async with context_at(tmp_path, overwrite=True) as context:
        context.parts.update(parts)
        task = task_for(context, size=50_000)
        if conflicts:
            with pytest.raises(ProductFailed, match="is already there and is the partial of another product"):
                await resolve_named_file(context, task, remote_size=None)
        else:
            await resolve_named_file(context, task, remote_size=None)


GZIP = ("Content-Encoding", "gzip")


def named(size: int, *headers: tuple[str, object], status: int = 200) -> Responder:
    """A head that names a size, without a body."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(status, ("Content-Length", size), ("Connection", "close"), *headers))

    return respond


@pytest.mark.parametrize(
    ("answer", "file", "size"),
    [
        (named(50_000), "x.bin", 50_000),
        (named(0), "x.bin", 0),
        (named(50_000, status=404), "x.bin", None),
        (no_length, "x.bin", None),
        (named(50_000, GZIP), "x.bin", None),  # that of what is sent, not of the product
        (named(50_000, GZIP), "x.csv.gz", 50_000),
    ],
)
async def test_the_archive_is_asked_for_the_size_of_what_it_sends(
    answer: Responder, file: str, size: int | None, tmp_path: Path
):
    async with (
        RawServer(answer) as server,
        HttpClient(timeout=10.0, tls=ssl.create_default_context()) as http,
        context_at(tmp_path, http=http) as context,
    ):
        assert await ask_size(context, task_for(context, file, url=Url(server.url()))) == size
        assert [request.method for request in server.log] == ["HEAD"]


async def test_a_conflict_says_that_the_archive_names_no_size(tmp_path: Path):
    there(tmp_path)
    async with context_at(tmp_path) as context:
        with pytest.raises(ProductFailed, match="has 50000 bytes, and the archive names no size"):
            await resolve_named_file(context, task_for(context), remote_size=None)


async def test_a_file_that_is_gone_meanwhile_is_as_an_empty_one_to_the_archive(tmp_path: Path):
    async with (
        RawServer(named(0), named(1)) as server,
        HttpClient(timeout=10.0, tls=ssl.create_default_context()) as http,
        context_at(tmp_path, http=http) as context,
    ):
        task = task_for(context, url=Url(server.url()))
        assert await ask_archive(context, task) == ExistingFile(0, note="existing, unverified")
        with pytest.raises(ProductFailed, match="has 0 bytes, and the archive names 1 bytes"):
            await ask_archive(context, task)
