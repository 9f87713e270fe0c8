"""The results as Markdown."""

from __future__ import annotations

import os
import platform
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from benchmarks.hostile.cases import Case, Mode
from benchmarks.hostile.trial import LIMIT_S, Found, Result, trials_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.hostile.tools import Tool

__all__ = ["report"]

INTRO = """# Wrong files at a final name

What hostile archives leave on disk, by tool. A server on 127.0.0.1 misbehaves byte by byte; each tool fetches one product from it as
an unattended job would, and then the file at the product's final name is compared with what the archive has.

**Wrong**: a file at the final name whose bytes are not exactly one edition of the product (truncated, spliced from two editions, a
login page, an error, still compressed, empty, outside its folder; with a checksum: another edition than the checksum's). What a tool
says of it is told apart: a wrong file with exit code 0 is believed by every script; one with a failing exit code only by those that look at names.
"""

NOTES = """## How to read it

- Tools that write to the final name from the first byte (curl, wget2, aria2c, parfive) leave a truncated file there whenever a run ends
  early. That is how they work, and with the exit code in hand it is harmless; the column *wrong, and reported as success* leaves it out.
  aria2c marks such a file with `NAME.aria2` beside it: *of them marked unfinished*.
- † Without a checksum nothing in HTTP, nor in what the tools were told, gives the wrong bytes away. These are counted apart; bulkdl is not
  expected to do better than others here. They are the reason to put checksums (or sizes) into a manifest.
- *Ended at the limit*: runs that were still busy after {limit:.0f} s, for whatever reason, a busy machine included. An empty cell below: not run.
- *Went on*: of the runs after one that had been cut or killed at 60 %, those that asked for the rest instead of the whole. Starting again is
  right where a splice cannot be ruled out.
- curl and wget2 take no checksum for a URL and were run on one connection; those modes are not run with them.
- Each tool has two tries and gives a silent connection up after three seconds, so that the table is done in minutes; a run is ended after
  {limit:.0f} s. More tries would bring more right files for every tool; they do not make a wrong one right that was reported as success.
- A tool that brings nothing from an honest archive is not measured at all: zero wrong files would be no merit of it.
- Products are 200 kB (8 MiB in mode S, sent at 3.3 MB/s a connection, so that more connections are worth it), random bytes from a fixed seed in a
  file `product.bin`: nothing in a format's structure gives a wrong file away, but in the cases named *a ZIP*.
"""


def report(tools: Sequence[Tool], cases: Sequence[Case], results: Sequence[Result]) -> str:
    day = datetime.now(UTC).date().isoformat()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    parts = [
        INTRO,
        f"{day}; {machine}; {len(results)} trials of {len(cases)} behaviours. Repeat with `python -m benchmarks.hostile --write`.\n",
        _totals(tools, cases, results),
        _common(tools, results),
        _left_out(tools, cases, results),
        _ours(results),
        _kinds(tools, results),
        NOTES.format(limit=LIMIT_S),
        _legend(),
        _cases(tools, cases, results, checked=False),
        _cases([tool for tool in tools if tool.digest_modes], cases, results, checked=True),
        _versions(tools),
    ]
    return "\n".join(part for part in parts if part)


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |\n"


def _table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    return _row(header) + _row(["---"] * len(header)) + "".join(map(_row, rows))


_TOTALS = (
    "tool",
    "trials run",
    "trials",
    "**wrong, and reported as success**",
    "wrong, reported as failure",
    "of them marked unfinished",
    "right",
    "nothing at the name",
    "ended at the limit",
    "went on",
    "† trials",
    "† wrong",
)


def _totals(tools: Sequence[Tool], cases: Sequence[Case], results: Sequence[Result]) -> str:
    planned = {tool.name: sum(len(trials_of(tool, case)) for case in cases) for tool in tools}
    return "## In all\n\n" + _table(_TOTALS, (_total(tool, planned[tool.name], results) for tool in tools))


def _total(tool: Tool, planned: int, results: Sequence[Result]) -> list[object]:
    mine = [r for r in results if r.trial.tool is tool]
    fair = [r for r in mine if not r.trial.blind]
    blind = [r for r in mine if r.trial.blind]
    wrong = [r for r in fair if r.found is Found.WRONG]
    told = [r for r in wrong if not r.success]
    count = Counter(r.found for r in fair)
    again = [r for r in mine if r.trial.mode in {Mode.RESUME, Mode.KILLED}]
    return [
        tool.name,
        f"{len(mine)} of {planned}",
        len(fair),
        f"**{len(wrong) - len(told)}**",
        len(told),
        sum(r.marked for r in told),
        count[Found.RIGHT],
        count[Found.ABSENT],
        sum(r.code is None for r in mine),
        f"{sum(r.resumed for r in again)} of {len(again)}",
        len(blind),
        sum(r.found is Found.WRONG for r in blind),
    ]


def _common(tools: Sequence[Tool], results: Sequence[Result]) -> str:
    """Count only the trials that every tool has run, so that the numbers are comparable."""
    by_tool = [{_key(r): r for r in results if r.trial.tool is tool and not r.trial.blind} for tool in tools]
    shared = set.intersection(*map(set, by_tool)) if by_tool else set()
    header = (
        "tool",
        "**wrong, and reported as success**",
        "wrong, reported as failure",
        "right",
        "nothing at the name",
    )
    rows = []
    for tool, mine in zip(tools, by_tool, strict=True):
        found = Counter((mine[key].found, mine[key].found is Found.WRONG and mine[key].success) for key in shared)
        wrong, told = found[Found.WRONG, True], found[Found.WRONG, False]
        rows.append([tool.name, f"**{wrong}**", told, found[Found.RIGHT, False], found[Found.ABSENT, False]])
    return f"Of these, the {len(shared)} trials that every tool has been through († left out):\n\n" + _table(
        header, rows
    )


def _key(result: Result) -> tuple[str, Mode, bool]:
    return result.trial.case.name, result.trial.mode, result.trial.checked


def _left_out(tools: Sequence[Tool], cases: Sequence[Case], results: Sequence[Result]) -> str:
    planned = sum(len(trials_of(tool, case)) for tool in tools for case in cases)
    if len(results) == planned:
        return ""
    return (
        f"**Not complete**: {len(results)} of {planned} trials have been run; the tools differ in which ones. Compare the counts of the table above "
        "that every tool shares, or case by case.\n"
    )


def _ours(results: Sequence[Result]) -> str:
    """List every wrong file of bulkdl, and mark the undetectable ones."""
    wrong = [r for r in results if r.trial.tool.name == "bulkdl" and r.found is Found.WRONG]
    lines = (f"- {'† ' if r.trial.blind else ''}{r.trial}: {r.what}, exit code {r.code}\n" for r in wrong)
    return "bulkdl's wrong files, each of them:\n\n" + "".join(lines) if wrong else ""


def _kinds(tools: Sequence[Tool], results: Sequence[Result]) -> str:
    """Count the kinds of wrong files that were reported as success."""
    wrong = [r for r in results if r.found is Found.WRONG and r.success and not r.trial.blind]
    kinds = sorted({r.what.partition(":")[0] for r in wrong})
    if not kinds:
        return ""
    count = Counter((r.trial.tool.name, r.what.partition(":")[0]) for r in wrong)
    rows = ([tool.name, *(count[tool.name, kind] or "" for kind in kinds)] for tool in tools)
    return "Wrong and reported as success, by what the file is:\n\n" + _table(("tool", *kinds), rows)


def _legend() -> str:
    modes = "; ".join(f"**{mode.value}** {mode.says}" for mode in Mode)
    return (
        f"## Case by case\n\nModes: {modes}.\n\n"
        "✓ right · \N{EN DASH} nothing at the name · ✗ wrong, and reported as success · (✗) wrong, reported as failure · † nobody could tell\n"
    )


def _cases(tools: Sequence[Tool], cases: Sequence[Case], results: Sequence[Result], *, checked: bool) -> str:
    if not tools:
        return ""
    cell: dict[tuple[str, str], list[str]] = {}
    for result in results:
        trial = result.trial
        if trial.checked == checked:
            cell.setdefault((trial.case.name, trial.tool.name), []).append(trial.mode.value + _mark(result))
    rows = (
        [
            case.name + (" †" if case.blind and not checked else ""),
            *(" ".join(cell.get((case.name, t.name), [])) for t in tools),
        ]
        for case in cases
    )
    title = "With a checksum" if checked else "Without a checksum"
    return f"### {title}\n\n" + _table(("the archive", *(tool.name for tool in tools)), rows)


def _mark(result: Result) -> str:
    if result.found is Found.WRONG:
        return "✗" if result.success else "(✗)"
    return {Found.RIGHT: "✓", Found.ABSENT: "\N{EN DASH}"}[result.found]


def _versions(tools: Sequence[Tool]) -> str:
    rows = ((tool.name, tool.version, tool.flags) for tool in tools)
    return "## Versions and flags\n\n" + _table(("tool", "version", "called with"), rows)
