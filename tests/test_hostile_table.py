"""The hostile benchmark tells correct, wrong and missing files apart: by bytes, and with real tools and servers."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.hostile.__main__ import useless
from benchmarks.hostile.behaviours import HTML
from benchmarks.hostile.cases import CASES, Mode
from benchmarks.hostile.kept import Kept
from benchmarks.hostile.site import bytes_of
from benchmarks.hostile.table import report
from benchmarks.hostile.tools import Tool, present
from benchmarks.hostile.trial import Found, Result, Trial, classify, groups_of, run, trials_of

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = bytes_of(1000, 1), bytes_of(1000, 2)


@pytest.mark.parametrize(
    ("body", "found", "what"),
    [
        (None, Found.ABSENT, ""),
        (ONE, Found.RIGHT, ""),
        (TWO, Found.WRONG, "an edition that the checksum excludes"),
        (b"", Found.WRONG, "empty"),
        (ONE[:600], Found.WRONG, "truncated"),
        (ONE[:600] + TWO[600:], Found.WRONG, "spliced or damaged"),
        (ONE + b"x", Found.WRONG, "spliced or damaged"),
        (HTML, Found.WRONG, "a page or an error"),
        (ONE[:600] + HTML, Found.WRONG, "a page or an error"),
        (b"\x1f\x8b\x08", Found.WRONG, "still compressed"),
    ],
)
def test_a_file_is_correct_only_if_it_is_exactly_one_version(body: bytes | None, found: Found, what: str):
    assert classify(body, [ONE], [ONE, TWO]) == (found, what)


def test_an_empty_product_may_be_empty():
    assert classify(b"", [b""], [b"", b""]) == (Found.RIGHT, "")


def _tool(name: str) -> Tool:
    found = present((name,))
    if not found:
        pytest.skip(f"{name} is not installed")
    return found[0]


async def _result(tool: str, case: str, mode: Mode, root: Path) -> Result:
    (trial,) = (
        t for c in CASES if c.name == case for t in trials_of(_tool(tool), c) if (t.mode, t.checked) == (mode, False)
    )
    # None of these servers is ever silent, so a busy machine must not look like a silent server.
    (result,) = [result async for result in run([trial], root, silence_s=100, limit_s=100)]
    return result


@pytest.mark.parametrize(
    ("tool", "case", "mode", "found"),
    [
        ("bulkdl", "an honest archive", Mode.FRESH, (Found.RIGHT, True)),
        ("bulkdl", "login page with 200, always", Mode.FRESH, (Found.ABSENT, False)),
        ("curl", "an honest archive", Mode.RESUME, (Found.RIGHT, True)),
        ("curl", "an honest archive", Mode.CHANGED, (Found.WRONG, True)),
        ("curl", "login page with 200, always", Mode.FRESH, (Found.WRONG, True)),
        ("curl", "cut in the middle, every request", Mode.FRESH, (Found.WRONG, False)),
        ("curl", "416 to everything", Mode.FRESH, (Found.ABSENT, False)),
    ],
)
async def test_a_trial_checks_the_file_at_the_final_path(
    tool: str, case: str, mode: Mode, found: tuple[Found, bool], tmp_path: Path
):
    result = await _result(tool, case, mode, tmp_path)
    assert (result.found, result.success) == found
    assert result.resumed == (mode is not Mode.FRESH)


def test_every_case_has_a_unique_name_and_existing_modes():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert {letter for case in CASES for letter in case.modes} == {mode.value for mode in Mode}


def _fake(**more: object) -> Tool:
    return Tool("bulkdl", "1.0", lambda _errand: [], "", **more)  # type: ignore[arg-type]


def test_only_trials_with_the_same_first_run_share_it():
    groups = groups_of([trial for case in CASES for trial in trials_of(_fake(), case)])
    for group in groups:
        assert len({(t.mode, t.checked, t.case.marks, t.case.size, t.case.path) for t in group}) == 1
        assert len(group) == 1 or group[0].mode not in {Mode.FRESH, Mode.SEVERAL}
    assert max(map(len, groups)) > 10


def test_the_table_counts_wrong_files_and_lists_undetectable_ones_apart(tmp_path: Path):
    tool = _fake(digest_modes="")
    cases = [case for case in CASES if case.name in {"flipped bit, always", "XML error with 200"}]
    trials = [trial for case in cases for trial in trials_of(tool, case) if trial.mode is Mode.FRESH]
    results = [
        Result(t, Found.WRONG, "a page or an error", code, False, False, False)
        for t, code in zip(trials, (0, 1), strict=True)
    ]
    text = report([tool], cases, results)
    assert "| bulkdl | 2 of 5 | 1 | **1** | 0 | 0 | 0 | 0 | 0 | 0 of 0 | 1 | 1 |" in text
    assert "| XML error with 200 | F✗ |" in text
    assert "| flipped bit, always † | F(✗) |" in text


async def test_a_tool_that_fails_with_a_correct_server_is_not_measured():
    idle = Tool("idle", "1.0", lambda _errand: [sys.executable, "-c", ""], "")
    assert await useless([idle]) == [idle]


def test_results_are_reused_only_for_the_same_version_of_a_tool(tmp_path: Path):
    kept = Kept(tmp_path / "results")
    trial = Trial(_fake(), CASES[0], Mode.FRESH, checked=False)
    other = Trial(Tool("bulkdl", "2.0", lambda _errand: [], ""), CASES[0], Mode.FRESH, checked=False)
    for code in (None, 3):
        kept.add(Result(trial, Found.WRONG, "truncated", code, True, False, True))
        assert kept.of([trial, other]) == {trial: Result(trial, Found.WRONG, "truncated", code, True, False, True)}


def test_the_same_seed_gives_the_same_bytes():
    seeds = list(itertools.product((0, 1, 1000), (1, 2)))
    assert [bytes_of(*seed) for seed in seeds] == [bytes_of(*seed) for seed in seeds]
    assert [len(bytes_of(*seed)) for seed in seeds] == [size for size, _ in seeds]
