"""The results of a run, as JSON for programs and as a Markdown page for people."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from .figures import Kind, Measure, Sample, Spread, Verdict, by_tool, judge, per_round, spread
from .tools import BULKDL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .match import Played

__all__ = ["markdown", "verdicts", "write"]

_BARE = "python"


def write(folder: Path, played: Sequence[Played], *, machine: Mapping[str, str], scale: str) -> None:
    """Write `results.json` and `results.md`."""
    (folder / "results.json").write_text(json.dumps(_data(played, machine, scale), indent=1) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(markdown(played, machine=machine, scale=scale), encoding="utf-8")


def verdicts(played: Played) -> list[Verdict]:
    """Return each target of a row with its verdict."""
    peers = {sample.tool for sample in played.samples} - {BULKDL, _BARE}
    return [judge(limit, played.samples, peers=peers) for limit in played.row.limits]


def markdown(played: Sequence[Played], *, machine: Mapping[str, str], scale: str) -> str:
    """Return the page: first the targets, then each row's figures, then the machine and the command lines."""
    lines = ["# bulkdl and its peers", ""]
    lines += [
        "Medians over the rounds, with the lowest and highest in brackets; a ratio is taken within each round first.",
        "Every byte of every file was compared; who left a wrong or missing one has no figure in that round.",
        "",
    ]
    if scale != "full":
        lines += [f"This was a **{scale}** run: sizes and counts are too small for the targets to be judged.", ""]
    lines += _targets(played, judged=scale == "full")
    for one in played:
        lines += ["", f"## {one.row.name}: {one.row.title}", ""]
        lines += [f"Not run: {one.skipped}."] if one.skipped else [*_figures(one), *_notes(one)]
    lines += ["", "## The machine", "", *[f"- {name}: {text}" for name, text in machine.items()]]
    lines += ["", "## The command lines", "", *_commands(played)]
    return "\n".join(lines) + "\n"


def _targets(played: Sequence[Played], *, judged: bool) -> list[str]:
    lines = ["| row | target for bulkdl | found | kept |", "| --- | --- | --- | --- |"]
    for one in played:
        for verdict in verdicts(one):
            kept = {True: "yes", False: "**no**", None: "not judged"}[verdict.kept if judged else None]
            found = _shown(verdict.found, verdict) if verdict.found else "no figures"
            lines.append(f"| {one.row.name} | {_wanted(verdict)} | {found} | {kept} |")
    return lines


def _wanted(verdict: Verdict) -> str:
    limit, against = verdict.limit, verdict.against or verdict.limit.against
    what = {Measure.WALL: "wall", Measure.CPU: "CPU", Measure.RSS: "peak memory", Measure.REQUESTS: "requests"}
    match limit.kind:
        case Kind.RATIO:
            return f"{what[limit.measure]} ≤ {limit.most:g} of {against}'s"
        case Kind.DIFFERENCE:
            return f"{what[limit.measure]} ≤ {against} + {limit.most * 1000:g} ms"
        case Kind.ALONE:
            return f"{what[limit.measure]} ≤ {_number(limit.most, limit.measure)}"


def _shown(found: Spread, verdict: Verdict) -> str:
    values = (found.median, found.low, found.high)
    match verdict.limit.kind:
        case Kind.RATIO:
            texts = [f"{value:.2f}" for value in values]
        case Kind.DIFFERENCE:
            texts = [f"+{value * 1000:.0f} ms" for value in values]
        case Kind.ALONE:
            texts = [_number(value, verdict.limit.measure) for value in values]
    return (
        f"{texts[0]} ({texts[1]} to {texts[2]}; {found.rounds} rounds)" if found.rounds > 1 else f"{texts[0]} (1 round)"
    )


def _number(value: float, measure: Measure) -> str:
    match measure:
        case Measure.WALL | Measure.CPU:
            return f"{value:.3f} s" if value < 1 else f"{value:.2f} s"
        case Measure.RSS:
            return f"{value / 2**20:.0f} MiB"
        case Measure.REQUESTS:
            return f"{value:g}"


def _figures(played: Played) -> list[str]:
    reference = played.row.reference
    lines = [
        f"| | wall | wall / {reference} | CPU | CPU / {reference} | peak memory | rounds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for tool, samples in by_tool(played.samples).items():
        right = [sample for sample in samples if sample.problem is None]
        if not right:
            lines.append(f"| {tool} | wrong | | | | | 0 of {len(samples)} |")
            continue
        ratios = [_ratio(played.samples, tool, reference, measure) for measure in (Measure.WALL, Measure.CPU)]
        wall, cpu, rss = (_column(right, measure) for measure in (Measure.WALL, Measure.CPU, Measure.RSS))
        count = str(len(right)) if len(right) == len(samples) else f"{len(right)} of {len(samples)}"
        lines.append(f"| {tool} | {wall} | {ratios[0]} | {cpu} | {ratios[1]} | {rss} | {count} |")
    return lines


def _column(samples: Sequence[Sample], measure: Measure) -> str:
    found = spread(value for sample in samples if (value := sample.value(measure)) is not None)
    return _number(found.median, measure) if found else ""


def _ratio(samples: Sequence[Sample], tool: str, reference: str, measure: Measure) -> str:
    found = per_round(samples, tool=tool, against=reference, measure=measure, kind=Kind.RATIO)
    if found is None:
        return ""
    return "1" if tool == reference else f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"


def _notes(played: Played) -> list[str]:
    problems = {f"{sample.tool}: {sample.problem}": None for sample in played.samples if sample.problem}
    notes = [played.row.note] if played.row.note else []
    return [line for text in (*notes, *[f"Wrong: {problem}" for problem in problems]) for line in ("", text)]


def _commands(played: Sequence[Played]) -> list[str]:
    lines: list[str] = []
    for one in played:
        commands = {sample.tool: sample.command for sample in one.samples}
        lines += [f"- {one.row.name}", *[f"  - `{command}`" for command in commands.values()]]
    return lines


def _data(played: Sequence[Played], machine: Mapping[str, str], scale: str) -> dict[str, object]:
    return {
        "scale": scale,
        "machine": dict(machine),
        "rows": [
            {
                "name": one.row.name,
                "title": one.row.title,
                "reference": one.row.reference,
                "note": one.row.note,
                "skipped": one.skipped,
                "targets": [
                    {
                        "measure": verdict.limit.measure.value,
                        "kind": verdict.limit.kind.value,
                        "against": verdict.against,
                        "most": verdict.limit.most,
                        "found": asdict(verdict.found) if verdict.found else None,
                        "kept": verdict.kept if scale == "full" else None,
                    }
                    for verdict in verdicts(one)
                ],
                "samples": [asdict(sample) for sample in one.samples],
            }
            for one in played
        ],
    }
