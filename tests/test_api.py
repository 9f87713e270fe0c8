"""The Python API with a real demo server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import bulkdl

if TYPE_CHECKING:
    from pathlib import Path

    from bulkdl.demo_server.server import Archive


def manifest_for(archive: Archive) -> dict[str, object]:
    return {
        "version": 1,
        "products": [{"url": archive.url(i), "checksum": f"sha256:{i.digest('sha256')}"} for i in archive.items],
    }


async def test_the_context_yields_an_outcome_for_every_product(archive: Archive, tmp_path: Path) -> None:
    async with bulkdl.Downloads(manifest_for(archive), destination=tmp_path, environ={}) as downloads:
        outcomes = [outcome async for outcome in downloads]
    assert {o.file for o in outcomes} == {item.name for item in archive.items}
    assert all(o.state is bulkdl.State.COMPLETED and o.path is not None for o in outcomes)
    assert downloads.result.exit_code == 0
    assert (tmp_path / "product.zip").read_bytes() == archive.items["product.zip"].read()


async def test_download_works_inside_a_running_event_loop(archive: Archive, tmp_path: Path) -> None:
    async def notebook_cell() -> bulkdl.RunResult:
        return bulkdl.download(manifest_for(archive), destination=tmp_path, environ={}, workers=2)

    result = await asyncio.to_thread(asyncio.run, notebook_cell())
    assert (result.exit_code, result.completed) == (0, len(list(archive.items)))


async def test_leaving_early_stops_the_run_and_the_next_resumes(archive: Archive, tmp_path: Path) -> None:
    async with bulkdl.Downloads(manifest_for(archive), destination=tmp_path, environ={}, workers=1) as downloads:
        async for _ in downloads:
            break
    first = downloads.result
    assert first.pending > 0
    async with bulkdl.Downloads(manifest_for(archive), destination=tmp_path, environ={}) as downloads:
        again = [outcome async for outcome in downloads]
    assert downloads.result.exit_code == 0
    assert sum(o.state is bulkdl.State.SKIPPED for o in again) >= first.completed


async def test_a_list_of_urls_is_a_manifest(archive: Archive, tmp_path: Path) -> None:
    async with bulkdl.Downloads([archive.url("scene.tif")], destination=tmp_path, environ={}) as downloads:
        names = [outcome.file async for outcome in downloads]
    assert names == ["scene.tif"]


def test_all_errors_of_a_manifest_are_raised_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(bulkdl.ManifestError) as caught:
        bulkdl.download(
            {"version": 1, "products": [{"url": "ftp://x/a"}, {"url": "https://x/a", "fiel": "b"}]},
            destination=tmp_path,
            environ={},
        )
    assert len(caught.value.problems) == 2


def test_an_unknown_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(bulkdl.UsageError, match="wrokers"):
        bulkdl.download(["https://example.org/a"], destination=tmp_path, environ={}, wrokers=3)


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(bulkdl, name) is not None for name in bulkdl.__all__)
    assert not hasattr(bulkdl, "nonsense")
