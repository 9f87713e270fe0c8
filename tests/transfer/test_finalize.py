"""From a complete partial to a product in its place, step by step, on a real disk with a real journal."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from bulkdl.core.errors import ProductFailed, TryAgain
from bulkdl.core.models import Checksum, FailureKind, Product
from bulkdl.core.urls import Url
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.plan import PlannedProduct
from bulkdl.protocol.bad_source import BadSourceEvidence
from bulkdl.transfer.etag_check import SAMPLE_BYTES
from bulkdl.transfer.finalize import (
    _reject,
    confirm_name,
    move_into_place,
    record_done,
    record_existing,
    unpack,
    verify,
)
from bulkdl.transfer.state import ExistingFile, OldBytesSample, VerifiedPartial
from tests.contexts import NOW, URL, context_at, task_for
from tests.harness import body_of, sha256

if TYPE_CHECKING:
    from pathlib import Path

    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

BODY, OTHER = body_of(100_000, 1), body_of(100_000, 2)
MIRRORS = (Url("https://mirror.example.org/x.bin"), Url("https://third.example.org/x.bin"))


def checksum_of(body: bytes) -> Checksum:
    return Checksum(*sha256(body).split(":"))


SUM = checksum_of(BODY)
BLAKE3_SUM = Checksum("blake3", blake3(BODY).hexdigest())


def phase_of(context: RunContext, task: DownloadTask) -> str:
    return context.hub.counters.flights[task.product.id].phase


async def partial_of(
    context: RunContext,
    task: DownloadTask,
    body: bytes = BODY,
    *,
    phase: Phase = Phase.PARTIAL,
    part: str | None = None,
) -> Entry:
    """A complete partial, recorded as such."""
    entry = Entry(
        id=task.product.id,
        phase=phase,
        file=task.file,
        source=task.source.source,
        total=len(body),
        etag='"1"',
        last_modified="Tue, 15 Nov 1994 12:45:26 GMT",
        ranges=((0, len(body)),),
        part=part or f"{task.file}.part",
        attempts=2,
    )
    (context.storage.root / (entry.part or "")).write_bytes(body)
    await context.journal.put(entry)
    return entry


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def evidence_of(id_: str, kept: str | None = None) -> BadSourceEvidence:
    return BadSourceEvidence(id=id_, expected=(SUM,), found=(), size=1, fetches=1, proven=False, at=NOW, kept=kept)


def zipped(path: Path, **members: str) -> bytes:
    with zipfile.ZipFile(path, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)
    return path.read_bytes()


# A complete partial is held against what is known of the product


@pytest.mark.parametrize("checksums", [(), (SUM,)])
async def test_a_partial_that_is_right_is_verified_against_its_checksums(
    checksums: tuple[Checksum, ...], tmp_path: Path
):
    async with context_at(tmp_path) as context:
        task = task_for(context, size=len(BODY), checksums=checksums)
        entry = await partial_of(context, task)
        assert await verify(context, task, entry) == VerifiedPartial(entry, checksums or (BLAKE3_SUM,))
        assert phase_of(context, task) == "verifying"
        assert (tmp_path / "x.bin.part").read_bytes() == BODY


async def test_equal_bytes_under_another_etag_are_remembered_of_their_host(tmp_path: Path):
    async with context_at(tmp_path) as context:
        task = task_for(context)
        entry = await partial_of(context, task)
        for etag in ('"0"', '"00"', '"000"'):
            task.old_bytes = OldBytesSample(entry.source, etag, len(BODY), 10, BODY[10 : 10 + SAMPLE_BYTES])
            await verify(context, task, entry)
        assert context.hosts.of(task.source.origin).etag_changes == 3


async def test_a_partial_that_is_gone_fails_its_product_and_says_so(tmp_path: Path):
    async with context_at(tmp_path) as context:
        task = task_for(context)
        entry = await partial_of(context, task)
        (tmp_path / "x.bin.part").unlink()
        with pytest.raises(ProductFailed, match=r"Could not read 'x\.bin\.part': it no longer exists") as failed:
            await verify(context, task, entry)
        assert failed.value.kind is FailureKind.STORAGE


@pytest.mark.parametrize("size", [99_999, 100_001])
async def test_wrong_bytes_are_forgotten_and_fetched_anew(size: int, tmp_path: Path):
    async with context_at(tmp_path) as context:
        task = task_for(context, size=size)
        entry = await partial_of(context, task)
        with pytest.raises(TryAgain, match=f"has 100000 bytes, but {size} were expected") as again:
            await verify(context, task, entry)
        assert (again.value.kind, again.value.restart, again.value.limit) == (FailureKind.SIZE, True, 3)
        assert again.value.hint.startswith("Run again to download it again")
        assert task.rejections.reasons == [again.value.reason]
        left = await context.journal.get("x.bin")
        emptied = replace(entry, ranges=(), total=None, etag=None, last_modified=None)
        assert left == replace(emptied, updated=NOW)
        assert not (tmp_path / "x.bin.part").exists()


@pytest.mark.parametrize(
    ("sources", "reasons", "agreed"),
    [
        (1, "aa", [False, True]),
        (1, "ab", [False, False]),
        (1, "aba", [False, False, True]),
        (2, "aa", [False, True]),
        (2, "aba", [False, False, True]),
        (3, "aaa", [False, False, True]),
        (3, "abc", [False, False, False]),
    ],
)
async def test_two_fetches_that_agree_fail_the_product_once_all_sources_were_tried(
    sources: int, reasons: str, agreed: list[bool], tmp_path: Path
):
    async with context_at(tmp_path) as context:
        task = task_for(context, mirrors=MIRRORS[: sources - 1])
        found = []
        for reason in reasons:
            entry = await partial_of(context, task)
            error = ProductFailed(reason, kind=FailureKind.CONTENT, hint="Look at it")
            found.append(await _reject(context, task, entry, error))
        assert [isinstance(error, ProductFailed) for error in found] == agreed
        for reason, error in zip(reasons, found, strict=True):
            assert (error.kind, error.hint) == (FailureKind.CONTENT, "Look at it")
            if isinstance(error, TryAgain):
                assert (error.reason, error.restart, error.limit) == (reason, True, 3 * sources)
            else:
                assert (
                    error.reason == f"{reason}. Two downloads gave the same result, so the file is wrong at the source"
                )


async def test_a_failure_without_a_hint_gets_one_when_two_fetches_agree(tmp_path: Path):
    async with context_at(tmp_path) as context:
        task = task_for(context)
        for _ in range(2):
            error = await _reject(
                context, task, await partial_of(context, task), ProductFailed("a", kind=FailureKind.SIZE)
            )
        assert error.hint == "Check the checksum in the manifest, or report it to the archive"


async def test_another_checksum_speaks_against_the_product(tmp_path: Path):
    async with context_at(tmp_path) as context:
        task = task_for(context, checksums=(SUM,))
        with pytest.raises(TryAgain, match="does not match its checksum"):
            await verify(context, task, await partial_of(context, task, OTHER))
        assert context.evidence["x.bin"].found == (checksum_of(OTHER),)
        assert (task.rejections.reasons, len(task.rejections.downloads)) == ([], 1)
        with pytest.raises(ProductFailed, match="Two downloads gave identical bytes"):
            await verify(context, task, await partial_of(context, task, OTHER))


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html><body>Sign in</body></html>"])
async def test_a_page_in_the_products_place_speaks_not_against_its_checksum(page: bytes, tmp_path: Path):
    async with context_at(tmp_path) as context:
        task = task_for(context, checksums=(SUM,))
        with pytest.raises(TryAgain) as again:
            await verify(context, task, await partial_of(context, task, page))
        assert again.value.kind is FailureKind.CONTENT
        assert (context.evidence, task.rejections.downloads, len(task.rejections.reasons)) == ({}, [], 1)


async def test_a_checksum_that_is_right_at_the_second_look_is_no_evidence(tmp_path: Path):
    async with context_at(tmp_path) as context:
        task = task_for(context, checksums=(SUM,))
        entry = await partial_of(context, task)
        error = await _reject(context, task, entry, ProductFailed("a", kind=FailureKind.CHECKSUM))
        assert isinstance(error, TryAgain)
        assert (context.evidence, task.rejections.reasons) == ({}, ["a"])
        assert not (tmp_path / "x.bin.part").exists()


# Its final name


@pytest.mark.parametrize(
    ("phase", "between"),
    [
        (Phase.PARTIAL, Phase.PLACING),
        (Phase.FAILED, Phase.PLACING),
        (Phase.REQUEUED, Phase.REQUEUED),
    ],
)
async def test_a_product_gets_its_name_after_the_journal_has_it(phase: Phase, between: Phase, tmp_path: Path):
    async with context_at(tmp_path) as context:
        task = task_for(context, checksums=(SUM,))
        entry = await partial_of(context, task, phase=phase)
        done = await move_into_place(context, task, VerifiedPartial(entry, (SUM,)))
        found = (tmp_path / "x.bin").stat()
        assert ((tmp_path / "x.bin").read_bytes(), (tmp_path / "x.bin.part").exists()) == (BODY, False)
        assert phase_of(context, task) == "placing"
        placed = replace(entry, digests=(SUM,), size=found.st_size, mtime_ns=found.st_mtime_ns)
        assert done == replace(placed, phase=Phase.DONE, ranges=(), part=None)
        assert await context.journal.get("x.bin") == replace(placed, phase=between, updated=NOW)


@pytest.mark.parametrize(("overwrite", "left"), [(False, OTHER), (True, BODY)])
async def test_a_file_at_the_final_name_is_replaced_only_where_that_is_wished(
    *, overwrite: bool, left: bytes, tmp_path: Path
):
    (tmp_path / "x.bin").write_bytes(OTHER)
    async with context_at(tmp_path) as context:
        task = task_for(context, overwrite=overwrite)
        checked = VerifiedPartial(await partial_of(context, task), ())
        if overwrite:
            await move_into_place(context, task, checked)
        else:
            with pytest.raises(ProductFailed) as failed:
                await move_into_place(context, task, checked)
            assert failed.value.kind is FailureKind.CONFLICT
        assert (tmp_path / "x.bin").read_bytes() == left
        assert (tmp_path / "x.bin.part").exists() is not overwrite


async def test_a_product_whose_name_another_has_taken_for_good_does_not_move(tmp_path: Path):
    async with context_at(tmp_path) as context:
        task = task_for(context)
        entry = await partial_of(context, task)
        context.claims.confirm("X.BIN", 2)
        with pytest.raises(ProductFailed, match=r"belongs to product 3 of the manifest") as failed:
            await move_into_place(context, task, VerifiedPartial(entry, ()))
        assert (failed.value.kind, failed.value.hint) == (FailureKind.CONFLICT, "Give one of them a `file` of its own")
        assert await context.journal.get("x.bin") == replace(entry, updated=NOW)
        assert names(tmp_path) == ["x.bin.part"]


@pytest.mark.parametrize(("extract", "folder"), [(True, 1), (False, None)])
async def test_a_name_that_is_taken_for_good_is_no_longer_an_earlier_products(
    *, extract: bool, folder: int | None, tmp_path: Path
):
    async with context_at(tmp_path) as context:
        task = task_for(context, "x.zip", extract=extract)
        confirm_name(context.claims, task.product, task.file or "")
        confirm_name(context.claims, task.product, task.file or "")
        assert (context.claims.reserve("x.zip", 0), context.claims.reserve("x", 0)) == (1, folder)


# Unpacking


async def test_an_archive_is_unpacked_into_a_folder_that_is_its_own_for_good(tmp_path: Path):
    (tmp_path / "a").mkdir()
    zipped(tmp_path / "a" / "x.zip", one="1", two="2")
    async with context_at(tmp_path) as context:
        task = task_for(context, "a/x.zip", extract=True)
        await unpack(context, task)
        assert {p.name: p.read_text() for p in (tmp_path / "a" / "x").iterdir()} == {"one": "1", "two": "2"}
        assert phase_of(context, task) == "extracting"
        assert context.claims.reserve("a/x", 0) == 1


async def test_an_archive_that_is_not_to_be_unpacked_is_left_alone(tmp_path: Path):
    zipped(tmp_path / "x.zip", one="1")
    async with context_at(tmp_path) as context:
        task = task_for(context, "x.zip")
        await unpack(context, task)
        assert (phase_of(context, task), (tmp_path / "x").exists()) == ("connecting", False)


async def test_an_archive_whose_folder_is_another_products_is_not_unpacked(tmp_path: Path):
    zipped(tmp_path / "x.zip", one="1")
    async with context_at(tmp_path) as context:
        task = task_for(context, "x.zip", extract=True)
        context.claims.confirm("x", 4)
        with pytest.raises(ProductFailed, match="belongs to product 5 of the manifest"):
            await unpack(context, task)
        assert not (tmp_path / "x").exists()


async def test_an_archive_that_is_gone_cannot_be_unpacked(tmp_path: Path):
    async with context_at(tmp_path) as context:
        with pytest.raises(ProductFailed, match=r"Could not extract 'x\.zip'"):
            await unpack(context, task_for(context, "x.zip", extract=True))


# What a crash cut short


def item_of(entry: Entry | None, standing: LocalFileStatus, file: str = "x.bin") -> PlannedProduct:
    return PlannedProduct(Product(index=1, url=URL, file=file), entry, file, standing)


@pytest.mark.parametrize(
    ("phase", "standing", "concluded"),
    [
        (Phase.PLACING, LocalFileStatus.IN_PLACE, True),
        (Phase.REQUEUED, LocalFileStatus.IN_PLACE, True),
        (Phase.PARTIAL, LocalFileStatus.IN_PLACE, False),
        (Phase.DONE, LocalFileStatus.IN_PLACE, False),
        (Phase.PLACING, LocalFileStatus.NEEDS_CHECKSUM, False),
        (Phase.PLACING, LocalFileStatus.ABSENT, False),
        (Phase.REQUEUED, LocalFileStatus.REPLACE, False),
    ],
)
async def test_a_move_that_a_crash_cut_short_after_the_final_name_is_finished(
    phase: Phase, standing: LocalFileStatus, *, concluded: bool, tmp_path: Path
):
    async with context_at(tmp_path) as context:
        entry = await partial_of(context, task_for(context), phase=phase)
        await record_done(context, [item_of(entry, standing)])
        left = await context.journal.get("x.bin")
        done = replace(entry, phase=Phase.DONE, ranges=(), part=None)
        assert left == replace(done if concluded else entry, updated=NOW)
        assert (tmp_path / "x.bin.part").exists() is not concluded


async def test_products_with_nothing_to_finish_hold_up_no_other(tmp_path: Path):
    async with context_at(tmp_path) as context:
        entry = await partial_of(context, task_for(context), phase=Phase.PLACING)
        whole = Entry(id="w.bin", phase=Phase.PLACING, file="w.bin", part=None)
        items = [
            item_of(None, LocalFileStatus.IN_PLACE, "n.bin"),
            item_of(None, LocalFileStatus.ABSENT, "a.bin"),
            item_of(whole, LocalFileStatus.IN_PLACE, "w.bin"),
            item_of(entry, LocalFileStatus.IN_PLACE),
        ]
        await record_done(context, items)
        assert {id_: e.phase for id_, e in (await context.journal.entries()).items()} == {"x.bin": Phase.DONE}


async def test_what_speaks_against_products_in_place_is_forgotten(tmp_path: Path):
    async with context_at(tmp_path) as context:
        for name in ("a.bin", "b.bin"):
            context.evidence[name] = evidence_of(name)
            await context.journal.put_evidence(context.evidence[name])
        items = [
            item_of(None, LocalFileStatus.IN_PLACE, "a.bin"),
            item_of(None, LocalFileStatus.NEEDS_CHECKSUM, "b.bin"),
        ]
        await record_done(context, items)
        assert set(context.evidence) == set((await context.journal.learned()).evidence) == {"b.bin"}


# A file that was there before


@pytest.mark.parametrize(
    ("before", "settled", "note"),
    [
        (None, ExistingFile(9, (SUM,), note=""), ""),
        (None, ExistingFile(9, note="existing, unverified"), "existing, unverified"),
        ("old", ExistingFile(9, (SUM,)), ""),
        ("old", ExistingFile(9), "old"),
        ("old", ExistingFile(9, note="new"), "new"),
        ("old", ExistingFile(9, (SUM,), note="new"), "new"),
        ("", ExistingFile(9), ""),
    ],
)
async def test_a_file_that_was_there_before_is_recorded_as_the_product(
    before: str | None, settled: ExistingFile, note: str, tmp_path: Path
):
    (tmp_path / "x.bin").write_bytes(BODY)
    async with context_at(tmp_path) as context:
        task = task_for(context)
        facts = await context.storage.stat(tmp_path / "x.bin")
        assert facts is not None
        if before is not None:
            await context.journal.put(Entry(id="x.bin", phase=Phase.PARTIAL, file="x.bin", note=before))
        await record_existing(context, task, settled)
        assert await context.journal.get("x.bin") == Entry(
            id="x.bin",
            phase=Phase.DONE,
            file="x.bin",
            source=task.source.source,
            total=9,
            size=len(BODY),
            mtime_ns=facts.mtime_ns,
            digests=settled.digests,
            note=note,
            updated=NOW,
        )


@pytest.mark.parametrize(
    ("owner", "has_part", "left"),
    [("x.bin", True, False), ("other", True, True), (None, True, True), (None, False, True)],
)
async def test_the_partial_of_a_product_that_is_there_goes_unless_it_may_be_anothers(
    owner: str | None, *, has_part: bool, left: bool, tmp_path: Path
):
    (tmp_path / "x.bin").write_bytes(BODY)
    async with context_at(tmp_path) as context:
        task = task_for(context)
        entry = await partial_of(context, task)
        if not has_part:
            await context.journal.put(replace(entry, part=None))
        if owner is not None:
            context.parts["x.bin.part"] = owner
        facts = await context.storage.stat(tmp_path / "x.bin")
        assert facts is not None
        await record_existing(context, task, ExistingFile(len(BODY)))
        assert (tmp_path / "x.bin.part").exists() is left
        assert ((await context.journal.get("x.bin")) or entry).phase is Phase.DONE


async def test_an_archive_that_was_there_before_is_unpacked_where_that_is_wished(tmp_path: Path):
    zipped(tmp_path / "x.zip", one="1")
    async with context_at(tmp_path) as context:
        task = task_for(context, "x.zip", extract=True)
        facts = await context.storage.stat(tmp_path / "x.zip")
        assert facts is not None
        await record_existing(context, task, ExistingFile(facts.size))
        assert (tmp_path / "x" / "one").read_text() == "1"
