"""Whole runs in real processes, against an archive on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bulkdl.demo_server.server import Archive

NAMES = ("tiny.json", "product.zip", "scene.tif")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@contextlib.asynccontextmanager
async def started(folder: Path, *words: str, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BULKDL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bulkdl",
        *words,
        cwd=folder,
        env=inherited | {"PYTHONUTF8": "1", "BULKDL_STATE_DIR": str(folder / "state")} | environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def bulkdl(folder: Path, *words: str, **environ: str) -> Done:
    async with started(folder, *words, **environ) as process:
        out, err = await process.communicate()
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())


def manifest(folder: Path, archive: Archive, *names: str, more: str = "", checksum: str = "md5") -> None:
    """Write `m.yaml` with these products of the archive."""
    items = {item.name: item for item in archive.items}
    lines = [
        f"  - {{url: '{archive.url(items[n])}', file: {n}, size: {items[n].size},"
        f" checksum: '{checksum}:{items[n].digest(checksum)}'}}\n"
        for n in names
    ]
    text = f"version: 1\ndestination: products\nproducts:\n{''.join(lines)}{more}"
    (folder / "m.yaml").write_text(text, encoding="utf-8")


async def test_a_run_ends_0_with_every_file_and_the_next_makes_no_request(archive, tmp_path):
    manifest(tmp_path, archive, *NAMES)
    first = await bulkdl(tmp_path, "run", "m.yaml", "--json", "--report", "r.html", "--log-file", "run.log")
    assert first.code == 0, first.err
    assert first.json["products"] == {"total": 3, "completed": 3, "skipped": 0, "failed": 0, "pending": 0}
    assert first.json["manifest"] == "m.yaml"
    for name in NAMES:
        item = next(i for i in archive.items if i.name == name)
        assert (tmp_path / "products" / name).read_bytes() == item.read()
    assert "3 of 3 products in place" in (tmp_path / "r.html").read_text()
    assert "product.zip: complete" in (tmp_path / "run.log").read_text()

    requests = len(archive.log)
    second = await bulkdl(tmp_path, "run", "m.yaml")
    assert second.code == 0
    assert second.out.startswith("All 3 products are in place.\n")
    assert len(archive.log) == requests


async def test_a_failed_product_is_named_while_the_others_arrive_and_the_run_ends_1(archive, tmp_path):
    manifest(tmp_path, archive, *NAMES, more=f"  - {archive.origin}/files/missing.zip?sig=hushhush\n")
    done = await bulkdl(tmp_path, "run", "m.yaml")
    assert done.code == 1
    assert done.out.startswith("3 of 4 products in place, 1 failed.\n")
    assert "404" in done.out
    assert "Running again will not help with the failures above" in done.out
    assert "missing.zip: FAILED (http)" in done.err
    assert "hushhush" not in done.out + done.err

    status = await bulkdl(tmp_path, "status", "m.yaml")
    assert status.code == 1
    assert status.out.startswith("3 of 4 products done, 1 failed.\n")
    assert (await bulkdl(tmp_path, "status", "m.yaml", "--json")).json["products"]["failed"] == 1
    assert (await bulkdl(tmp_path, "report", "m.yaml", "-o", "r.html")).code == 0
    assert "404" in (tmp_path / "r.html").read_text()


async def test_json_progress_goes_to_standard_error_and_only_the_summary_to_standard_output(archive, tmp_path):
    manifest(tmp_path, archive, *NAMES)
    done = await bulkdl(tmp_path, "run", "m.yaml", BULKDL_JSON="1", BULKDL_PROGRESS="json", BULKDL_DESTINATION="other")
    events = [json.loads(line)["event"] for line in done.err.splitlines()]
    assert (events[0], events[-1]) == ("run_started", "run_finished")
    assert events.count("product_finished") == 3
    assert done.json["exit_code"] == 0
    assert (tmp_path / "other" / "product.zip").exists()


async def test_a_dry_run_prints_the_plan_and_touches_nothing(archive, tmp_path):
    manifest(tmp_path, archive, *NAMES)
    for words in (("run", "m.yaml", "--dry-run"), ("check", "m.yaml")):
        done = await bulkdl(tmp_path, *words)
        assert done.code == 0, done.err
        assert "products     3: 0 in place, 3 to download" in done.out
    plan = (await bulkdl(tmp_path, "check", "m.yaml", "--json", "--select", "*.zip")).json
    assert plan["products"]["todo"] == 1
    assert plan["bytes"]["todo"] == 300_000
    assert archive.log == []
    assert [path.name for path in tmp_path.iterdir()] == ["m.yaml"]


async def test_a_damaged_file_is_found_by_verify_and_downloaded_again_after_requeue(archive, tmp_path):
    manifest(tmp_path, archive, *NAMES)
    assert (await bulkdl(tmp_path, "run", "m.yaml")).code == 0
    assert (await bulkdl(tmp_path, "verify", "m.yaml")).code == 0
    damaged = tmp_path / "products" / "scene.tif"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    found = await bulkdl(tmp_path, "verify", "m.yaml", "--requeue")
    assert found.code == 1
    assert "wrong     scene.tif: " in found.out
    assert (await bulkdl(tmp_path, "run", "m.yaml")).code == 0
    again = await bulkdl(tmp_path, "verify", "m.yaml", "--json")
    assert (again.code, again.json["products"]["ok"]) == (0, 3)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of this kind are POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
async def test_a_signal_ends_the_run_with_its_code_and_a_summary_that_tells_how_to_resume(
    archive, tmp_path, number, code
):
    manifest(tmp_path, archive, "large.bin", *NAMES)
    archive.rate = 100_000
    async with started(tmp_path, "run", "m.yaml", "-v", "-v", "--segments", "1") as process:
        assert process.stderr is not None
        while b"large.bin: started" not in (line := await process.stderr.readline()):
            assert line, "the run ended before it began"
        process.send_signal(number)
        out, err = await process.communicate()
    assert process.returncode == code, err.decode()
    assert b"Stopping: saving progress. Run the same command to resume." in err
    assert b"Run the same command again to continue:\n" in out
    archive.rate = None
    assert (await bulkdl(tmp_path, "run", "m.yaml")).code == 0


async def test_login_prints_where_secrets_were_found_or_what_is_missing(archive, tmp_path):
    more = "accounts:\n  own: {auth: basic, username: '${OWN_USER}', password: '${OWN_PASSWORD}'}\n"
    manifest(tmp_path, archive, "tiny.json", more=more)
    good = await bulkdl(tmp_path, "login", "m.yaml", OWN_USER="jo", OWN_PASSWORD="hushhush")
    assert good.code == 0
    assert "password        from environment" in good.out
    assert "hushhush" not in good.out + good.err
    bad = await bulkdl(tmp_path, "login", "m.yaml", "own")
    assert bad.code == 3
    assert "own: could not log in" in bad.out
    assert "OWN_PASSWORD" in bad.out
    unknown = await bulkdl(tmp_path, "login", "m.yaml", "owm")
    assert (unknown.code, unknown.out) == (2, "")
    assert 'Did you mean "own"?' in unknown.err
