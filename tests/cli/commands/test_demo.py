"""The demo as a user sees it: a whole run in a real process, with two outages that lose no product."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.long


async def demo(folder: Path, *words: str) -> tuple[int | None, str, str]:
    """Return the exit code, standard output and standard error of `bulkdl demo`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BULKDL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bulkdl", "demo", *words,
        cwd=folder,
        env=inherited | {"PYTHONUTF8": "1", "BULKDL_STATE_DIR": str(folder / "state")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def lasted_s(outage: dict[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(outage[name]) for name in ("began", "ended"))
    return (ended - began).total_seconds()


async def test_the_demo_waits_for_an_outage_of_the_archive_and_one_of_a_token_endpoint_and_loses_nothing(
    tmp_path: Path,
) -> None:
    code, out, err = await demo(tmp_path, "--json", "--progress", "plain", "--report", "report.html")
    assert (code, err.count("Traceback")) == (0, 0), err
    summary = json.loads(out)
    assert summary["products"] == {"total": 36, "completed": 36, "skipped": 0, "failed": 0, "pending": 0}
    archive, endpoint = summary["outages"]
    assert (archive.get("account"), archive["kind"], endpoint["account"]) == (None, "server error", "creodias-like")
    assert archive["waiting"] > 0
    assert endpoint["waiting"] > 0
    # A run on a busy machine notices the beginning late, by the fast clock, and may ask again just after the end.
    assert lasted_s(archive) > 60
    assert lasted_s(endpoint) > 60
    assert archive["ended"] <= endpoint["began"]
    host = re.escape(archive["origin"].removeprefix("http://"))
    for pattern in (
        rf"^\d\d:\d\d:\d\d {host} answers with server errors since .* \d+ products wait; next try at ",
        rf"^\d\d:\d\d:\d\d {host} is back after \dm\d\ds$",
        rf"^\d\d:\d\d:\d\d the token endpoint {host} of account creodias-like answers with server errors since ",
        rf"^\d\d:\d\d:\d\d the token endpoint {host} of account creodias-like is back after \dm\d\ds$",
    ):
        assert len(re.findall(pattern, err, re.MULTILINE)) == 1, (pattern, err)
    assert "clock is" not in err  # the servers' dates agree with the clock of the run
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert report.count("answers with server errors") == 2


async def test_the_demo_says_that_outages_come_and_afterwards_what_they_were(tmp_path: Path) -> None:
    code, out, err = await demo(tmp_path, "-d", "kept")
    assert code == 0, err
    told = f"{out}\n{err}"
    assert "Two outages come, first of the archive, then of a token endpoint: two minutes each" in told
    pattern = (
        r"2 outages waited for, no product lost: archive \(2m00s, \d+ requests answered with 503\), "
        r"token endpoint \(2m00s, \d+ requests? answered with 502\)"
    )
    assert re.search(pattern, told), told
    assert re.search(r"ran 40 times as fast during outages: the run took \d+m\d\ds by it and \S+s for you", told), told

    code, out, err = await demo(tmp_path, "-d", "kept")
    assert code == 0, err
    assert "no outage: too little was left to download" in f"{out}\n{err}"
