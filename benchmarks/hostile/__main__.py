"""python -m benchmarks.hostile: run every case with every tool that is here; `--write` keeps the table."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.hostile.cases import CASES, Case, Mode
from benchmarks.hostile.kept import Kept
from benchmarks.hostile.table import report
from benchmarks.hostile.tools import NAMES, Tool, present
from benchmarks.hostile.trial import Found, Result, Trial, groups_of, run, trials_of

HERE = Path(__file__).parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", action="append", help="cases whose name has TEXT; may be repeated")
    parser.add_argument("--modes", metavar="LETTERS", default="FRCSKA", help="modes to run (default: %(default)s)")
    parser.add_argument(
        "--checksums", choices=("both", "with", "without"), default="both", help="(default: %(default)s)"
    )
    parser.add_argument("--tools", default=",".join(NAMES), help="comma-separated (default: %(default)s)")
    parser.add_argument("--python-peers", metavar="PYTHON", help="an interpreter that has parfive and pypdl")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md beside this program")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="add results to FILE; run only what it has not")
    parser.add_argument("--no-run", action="store_true", help="run nothing: the table of what --keep's FILE has")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each trial")
    return parser.parse_args()


def chosen(cases: tuple[Case, ...], only: list[str] | None) -> list[Case]:
    return [case for case in cases if not only or any(text.lower() in case.name.lower() for text in only)]


async def run_all(trials: list[Trial], *, jobs: int, kept: Kept, verbose: bool) -> list[Result]:
    """Run up to `jobs` groups at a time, plus as many of pypdl, which sleeps most of the time."""
    places = {True: asyncio.Semaphore(jobs), False: asyncio.Semaphore(jobs)}

    async def one(group: list[Trial]) -> list[Result]:
        results = []
        async with places[group[0].tool.name == "pypdl"]:
            with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as folder:
                async for result in run(group, Path(folder)):
                    results.append(result)
                    kept.add(result)
                    if verbose or is_find(result):
                        print(line(result), file=sys.stderr, flush=True)
        return results

    found = kept.of(trials)
    async with asyncio.TaskGroup() as tasks:
        left = [trial for trial in trials if trial not in found]
        running = [tasks.create_task(one(group)) for group in groups_of(left)]
    found |= {result.trial: result for task in running for result in task.result()}
    return [found[trial] for trial in trials]


def is_find(result: Result) -> bool:
    """Return True for a wrong file of bulkdl that could have been detected, or a crash."""
    wrong = result.found is Found.WRONG and not result.trial.blind
    return result.trial.tool.name == "bulkdl" and (wrong or result.crashed)


async def useless(tools: list[Tool]) -> list[Tool]:
    """Return the tools that download nothing even from an honest archive; their other results would mean nothing."""
    trials = [Trial(tool, CASES[0], Mode.FRESH, checked=False) for tool in tools]
    results = await run_all(trials, jobs=1, kept=Kept(None), verbose=False)
    return [r.trial.tool for r in results if not (r.found is Found.RIGHT and r.success)]


def line(result: Result) -> str:
    code = "ended at the limit" if result.code is None else f"exit {result.code}"
    crashed = "; ended by a defect of its own" if result.crashed else ""
    return f"{result.trial}: {result.found.value}{result.what and ', ' + result.what}; {code}{crashed}"


def main() -> int:
    options = arguments()
    tools: list[Tool] = present(tuple(options.tools.split(",")), python_peers=options.python_peers)
    cases = chosen(CASES, options.only)
    trials = [trial for case in cases for tool in tools for trial in trials_of(tool, case)]
    infos = {"both": {True, False}, "with": {True}, "without": {False}}[options.checksums]
    trials = [trial for trial in trials if trial.mode.value in options.modes and trial.checked in infos]
    if not trials:
        print("No such case, or none of the tools is here.", file=sys.stderr)
        return 2
    kept = Kept(options.keep)
    broken = [] if options.no_run else asyncio.run(useless(tools))
    if broken:
        names = ", ".join(tool.name for tool in broken)
        print(f"Nothing is measured: not even an honest archive's product was brought by {names}.", file=sys.stderr)
        return 2
    if options.no_run:
        results = list(kept.of(trials).values())
    else:
        results = asyncio.run(run_all(trials, jobs=options.jobs, kept=kept, verbose=options.verbose))
    text = report(tools, cases, results)
    print(text)
    if options.write:
        (HERE / "RESULTS.md").write_text(text, encoding="utf-8")
    return 1 if any(map(is_find, results)) else 0


if __name__ == "__main__":
    sys.exit(main())
