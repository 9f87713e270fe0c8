"""The results as Markdown, and as lines of JSON."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from .rules import ideal_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .trial import Result

__all__ = ["as_json", "cell", "median", "report"]

_TEXT = """\
# Archives with known rules

Each row is an archive on loopback that keeps to its rules: rates, limits, refusals. From the rules follows the shortest time from the first
request to the last byte, for a client that knows them. bulkdl runs without any flag, so it has to find out; its peers have the
best fixed number of connections for the archive, and try refused requests again after one second.

A cell has the **time** from the start of the tool's process to its end, relative to the shortest time (an interpreter's start is a part of it, and
the time to the first request stands in brackets); the requests that the archive refused; the most connections open at once, and the mean
number of requests open in the middle half of the transfer; and the products lost, if any (`wrong`: an incomplete file has the final name).
`ended` marks a tool that was still at work after {limit:g} times the shortest time. {repeated}

{date}. Repeat with `python -m benchmarks.adaptive --peers --write`.

"""


def report(results: Sequence[Result], *, limit: float, repeat: int) -> str:
    """Return the page: a line for each row, and a column for each tool; a sweep has one column with its best."""
    rows = list({result.row.name: result.row for result in results}.values())
    columns = list(dict.fromkeys(_column(result) for result in results))
    repeated = "One trial a cell." if repeat == 1 else f"The median of {repeat} trials; refusals are the most of them."
    text = _TEXT.format(limit=limit, date=time.strftime("%Y-%m-%d"), repeated=repeated)
    lines = [f"| archive | shortest | {' | '.join(columns)} |", f"| --- | --- | {' | '.join('---' for _ in columns)} |"]
    for row in rows:
        cells = [_best_cell([r for r in results if r.row.name == row.name and _column(r) == name]) for name in columns]
        lines.append(f"| {row.name} | {ideal_s(row):.1f} s | {' | '.join(cells)} |")
    return text + "\n".join([*lines, ""])


def _column(result: Result) -> str:
    return "bulkdl, best of the sweep" if result.tool.name.startswith("bulkdl -") else result.tool.name


def _best_cell(results: Sequence[Result]) -> str:
    """Return the cell of the tool that lost least, and of several the quickest."""
    tools = {result.tool.name: [r for r in results if r.tool.name == result.tool.name] for result in results}
    if not tools:
        return ""
    name, best = min(tools.items(), key=lambda item: (median(item[1]).lost, median(item[1]).wall_s))
    flags = f" (`{name.removeprefix('bulkdl ')}`)" if len(tools) > 1 else ""
    return f"{cell(median(best), refused=max(r.seen.refused for r in best))}{flags}"


def median(results: Sequence[Result]) -> Result:
    """Return the result in the middle by time, of an even number the slower one."""
    return sorted(results, key=lambda result: result.wall_s)[len(results) // 2]


def cell(result: Result, *, refused: int | None = None) -> str:
    """Return the figures of one result."""
    seen = result.seen
    first = "-" if result.first_request_s is None else f"{result.first_request_s:.2f} s"
    parts = [
        f"**{result.factor:.2f}** ({first})",
        f"{seen.refused if refused is None else refused} refused",
        f"{seen.peak_connections} / {seen.mean_requests:.1f}",
    ]
    if result.lost:
        parts.append(f"**{result.lost} lost**{f' ({result.wrong} wrong)' if result.wrong else ''}")
    if result.code is None:
        parts.append("ended")
    return "; ".join(parts)


def as_json(result: Result) -> str:
    """Return one line of JSON with all figures of a trial."""
    kept = {
        name: getattr(result, name) for name in ("code", "wall_s", "first_request_s", "lost", "wrong", "cpu_s", "said")
    }
    names = {"row": result.row.name, "tool": result.tool.name}
    figures = {"ideal_s": ideal_s(result.row), "factor": result.factor}
    return json.dumps(names | figures | kept | asdict(result.seen))
