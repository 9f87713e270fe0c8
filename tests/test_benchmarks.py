"""The benchmarks count only correct files, and their arithmetic is as documented."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import ROWS, main
from benchmarks.figures import BEST, Kind, Limit, Measure, Sample, Spread, best_peer, judge, per_round, rotation, spread
from benchmarks.files import KIB, FileSet, compare, make
from benchmarks.match import Played, play, rounds
from benchmarks.process import Command, run
from benchmarks.results import markdown, write
from benchmarks.scene import QUICK, stage
from benchmarks.servers import nginx_executable
from benchmarks.tools import BULKDL, bulkdl, peers

FILES = FileSet(name="some", count=3, size=10 * KIB + 1)


def sample(tool, round_, wall, cpu=1.0, problem=None):
    return Sample(tool=tool, round=round_, wall_s=wall, cpu_s=cpu, rss_bytes=int(wall * 100), problem=problem)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        ([3.0], Spread(3.0, 3.0, 3.0, 1)),
        ([4.0, 1.0], Spread(2.5, 1.0, 4.0, 2)),
        ([9.0, 1.0, 2.0], Spread(2.0, 1.0, 9.0, 3)),
    ],
)
def test_a_spread_is_the_median_with_the_extremes(values, expected):
    assert spread(values) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "kind", "expected"),
    [
        pytest.param([2, 4, 6], [1, 4, 2], Kind.RATIO, Spread(2.0, 1.0, 3.0, 3), id="the median of ratios"),
        pytest.param([2, 20], [1, 10], Kind.RATIO, Spread(2.0, 2.0, 2.0, 2), id="noise of a whole round cancels out"),
        pytest.param([3, 5], [1, 2], Kind.DIFFERENCE, Spread(2.5, 2.0, 3.0, 2), id="differences"),
        pytest.param(
            [2, None, 6], [1, 1, None], Kind.RATIO, Spread(2.0, 2.0, 2.0, 1), id="only rounds right on both sides"
        ),
        pytest.param([None], [1], Kind.RATIO, None, id="never right"),
        pytest.param([1], [0], Kind.RATIO, None, id="nothing to divide by"),
        pytest.param([1, 2], [], Kind.RATIO, None, id="not there"),
    ],
)
def test_sides_are_compared_round_by_round(ours, theirs, kind, expected):
    samples = [
        sample(tool, number, wall or 0.0, problem="wrong" if wall is None else None)
        for tool, walls in (("a", ours), ("b", theirs))
        for number, wall in enumerate(walls)
    ]
    assert per_round(samples, tool="a", against="b", measure=Measure.WALL, kind=kind) == expected


@pytest.mark.parametrize(
    ("limit", "against", "found", "kept"),
    [
        pytest.param((Measure.WALL, Kind.RATIO, 1.0, "slow"), "slow", 0.5, True, id="a named peer"),
        pytest.param(
            (Measure.WALL, Kind.RATIO, 1.9, BEST), "fast", 2.0, False, id="the best peer, not the one that is wrong"
        ),
        pytest.param(
            (Measure.CPU, Kind.RATIO, 1.0, "fast"), "fast", 1.0, True, id="a limit that is just reached is kept"
        ),
        pytest.param((Measure.WALL, Kind.DIFFERENCE, 0.5, "fast"), "fast", 1.0, False, id="a difference"),
        pytest.param((Measure.RSS, Kind.ALONE, 200, None), None, 200, True, id="alone"),
        pytest.param(
            (Measure.REQUESTS, Kind.ALONE, 0, None), None, None, None, id="what was not measured is not judged"
        ),
        pytest.param((Measure.WALL, Kind.RATIO, 1.0, "absent"), "absent", None, None, id="a peer that is not here"),
    ],
)
def test_a_limit_is_judged_by_the_median(limit, against, found, kept):
    measure, kind, most, other = limit
    samples = [
        sample(BULKDL, 0, 2.0),
        sample("fast", 0, 1.0),
        sample("slow", 0, 4.0),
        sample("wrong", 0, 0.1, problem="x"),
    ]
    verdict = judge(
        Limit(tool=BULKDL, measure=measure, kind=kind, most=most, against=other),
        samples,
        peers=("fast", "slow", "wrong"),
    )
    assert (verdict.against, verdict.found and verdict.found.median, verdict.kept) == (against, found, kept)


def test_there_is_no_best_peer_if_all_are_wrong():
    assert best_peer([sample("a", 0, 1.0, problem="x")], peers=("a", "b")) is None


def test_in_rotation_each_contestant_is_first_in_its_turn():
    assert [rotation("abc", number) for number in range(4)] == [[*"abc"], [*"bca"], [*"cab"], [*"abc"]]
    assert rotation([], 1) == []


@pytest.mark.parametrize(
    ("costs", "options", "expected"),
    [
        pytest.param({"a": 1, "b": 1}, {"budget_s": 100}, "a0 b0 b1 a1 a2 b2", id="warm-up dropped, then all rounds"),
        pytest.param(
            {"a": 1, "b": 1}, {"budget_s": 6}, "a0 b0 b1 a1", id="no round begins that would go beyond the budget"
        ),
        pytest.param({"a": 9, "b": 1}, {"budget_s": 10}, "a0 b0", id="a warm-up that used up the time is what counts"),
        pytest.param(
            {"a": 1, "b": 9}, {"budget_s": 100, "once": ["b"]}, "a0 b0 a1 a2", id="the slow ones take part once"
        ),
        pytest.param({"a": 9}, {"budget_s": 10, "warm": False}, "a0", id="without a warm-up the first round counts"),
    ],
)
def test_rounds_end_with_their_number_or_the_time(costs, options, expected):
    now = [0.0]

    def attempt(tool, number):
        now[0] += costs[tool]
        return sample(tool, number, 1.0)

    counted = rounds(list(costs), attempt, most=3, clock=lambda: now[0], **options)
    assert " ".join(f"{one.tool}{one.round}" for one in counted) == expected


def _missing(folder):
    (folder / "000001.bin").unlink()


def _longer(folder):
    with (folder / "000000.bin").open("ab") as out:
        out.write(b"x")


def _flipped(folder):
    path = folder / "000002.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def _swapped(folder):
    one, other = folder / "000000.bin", folder / "000001.bin"
    bytes_of_one = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(bytes_of_one)


def _left_over(folder):
    (folder / "000000.bin.part").touch()


def _nothing(folder):
    (folder / ".bulkdl").mkdir()
    (folder / ".bulkdl" / "journal.sqlite").touch()


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (_nothing, None),
        (_missing, "1 of 3 files missing, such as 000001.bin"),
        (_longer, "1 of 3 files have other bytes, such as 000000.bin"),
        (_flipped, "1 of 3 files have other bytes, such as 000002.bin"),
        (_swapped, "2 of 3 files have other bytes, such as 000000.bin"),
        (_left_over, "1 files too many, such as 000000.bin.part"),
    ],
)
def test_every_byte_of_every_file_is_checked(tmp_path, spoil, found):
    make(FILES, tmp_path / "root")
    make(FILES, tmp_path / "copy")
    spoil(tmp_path / "copy" / FILES.name)
    assert compare(FILES, tmp_path / "root", tmp_path / "copy" / FILES.name) == found


def test_a_process_is_measured_without_its_parent(tmp_path):
    ballast = bytearray(b"x") * (64 << 20)
    done = run(Command([sys.executable, "-I", "-S", "-c", "print(1)"]), tmp_path, timeout_s=60)
    assert done is not None
    assert (done.code, done.out, done.err) == (0, "1\n", "")
    assert done.cpu_s > 0
    assert 0 < done.rss_bytes < len(ballast)


def test_a_hanging_program_is_ended_and_a_missing_one_is_reported(tmp_path):
    assert run(Command([sys.executable, "-c", "import signal; signal.pause()"]), tmp_path, timeout_s=0.2) is None
    missing = run(Command([str(tmp_path / "no-such-tool")]), tmp_path, timeout_s=60)
    assert missing is not None
    assert missing.code == 127
    assert "no-such-tool" in missing.err


def test_one_small_row_with_all_installed_tools(tmp_path):
    """bulkdl and curl, if installed, download the same files from nginx; both are correct and have figures."""
    if nginx_executable() is None:
        pytest.skip("nginx is not installed, and it serves the files of the benchmarks")
    scale = replace(QUICK, small_count=20)
    tools = (bulkdl(), *[tool for tool in peers() if tool.name == "curl"])
    row = next(row for row in ROWS if row.name == "small-http")
    with stage(tools=tools, scale=scale, need=0) as scene:
        played = play(row, scene, number=1, budget_s=0, say=lambda _: None)
        folder = scene.folder
    assert not folder.exists()
    assert [(one.tool, one.problem) for one in played.samples] == [(tool.name, None) for tool in tools]
    assert all(one.wall_s > 0 < one.rss_bytes for one in played.samples)
    write(tmp_path, [played], machine={"kernel": "some"}, scale="quick")
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"][0]["samples"]) == len(tools)
    assert "- kernel: some" in (tmp_path / "results.md").read_text()


def test_ctrl_c_leaves_only_the_finished_rows(tmp_path):
    """After SIGINT during a row the exit code is 130 and the temporary folder, in memory or not, is deleted."""
    if nginx_executable() is None:
        pytest.skip("nginx is not installed, and it serves the files of the benchmarks")
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(tmp_path), "--rounds", "1000000"]
    with subprocess.Popen(
        [*command, "--only", "start-version"], cwd=root, stderr=subprocess.PIPE, text=True
    ) as process:
        folder = Path(process.stderr.readline().removeprefix("everything is in ").removesuffix(" until the end\n"))
        there = folder.is_dir()
        while "round 1" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert (process.returncode, there, folder.exists()) == (130, True, False)
    assert said.endswith(f"benchmarks: SIGINT; the rows that ended are in {tmp_path}\n")


def test_a_wrong_tool_has_no_figures_on_the_page():
    """A wrong tool is named with the reason, whatever its time, and a quick run checks no target."""
    row = next(row for row in ROWS if row.name == "large-http")
    samples = (
        sample(BULKDL, 0, 1.0),
        sample("curl", 0, 2.0),
        sample("wget2", 0, 0.125, problem="1 of 8 files missing"),
    )
    full = markdown([Played(row=row, samples=samples)], machine={}, scale="full")
    assert "| wget2 | wrong | | | | | 0 of 1 |" in full
    assert "Wrong: wget2: 1 of 8 files missing" in full
    assert "0.125" not in full
    assert "| 0.50 (1 round) | yes |" in full
    assert "| 0.50 (1 round) | not judged |" in markdown([Played(row=row, samples=samples)], machine={}, scale="quick")


def test_every_row_has_a_description():
    page = (Path(__file__).parent.parent / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert [row.name for row in ROWS if f"`{row.name}`" not in page] == []


@pytest.mark.parametrize("argv", [["--only", "nothing"], ["--rounds", "0"], ["--qick"]])
def test_a_wrong_command_line_is_refused(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    assert "usage:" in capsys.readouterr().err
