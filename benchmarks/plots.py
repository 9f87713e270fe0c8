"""Plots of a run, as SVG and PNG: one panel for each row, one bar for each contestant."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .figures import Measure, by_tool, spread
from .tools import BULKDL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .match import Played

__all__ = ["draw"]

_OURS, _OTHERS, _LINE = "#0b6e99", "#b8c4cc", "#333333"
_COLUMNS = 3
_PICTURES = {
    "wall": (Measure.WALL, 1.0, "wall time, s"),
    "cpu": (Measure.CPU, 1.0, "CPU time (user and system), s"),
    "memory": (Measure.RSS, 2.0**20, "peak memory, MiB"),
}


def draw(folder: Path, played: Sequence[Played], *, machine: Mapping[str, str], scale: str) -> list[str]:
    """Draw every plot and return the file names. Raise `ModuleNotFoundError` without matplotlib."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"  # the same figures give the same file
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    rows = [one for one in played if any(sample.problem is None for sample in one.samples)]
    written: list[str] = []
    for name, (measure, unit, label) in _PICTURES.items():
        if not rows:
            break
        lines = -(-len(rows) // _COLUMNS)
        figure, grid = pyplot.subplots(
            lines, _COLUMNS, figsize=(13, 0.6 + 2.1 * lines), layout="constrained", squeeze=False
        )
        for axes, one in zip(grid.flat, rows, strict=False):
            _panel(axes, one, measure, unit)
        for axes in list(grid.flat)[len(rows) :]:
            axes.set_visible(False)
        where = f"{machine['processor']}, {machine['memory']}, {machine['kernel']}, {machine['date']}"
        figure.suptitle(f"{label}: median, lowest and highest; less is better ({scale} run)\n{where}", fontsize=9)
        for kind in ("svg", "png"):
            metadata = {"Date": None} if kind == "svg" else {}
            figure.savefig(folder / f"{name}.{kind}", dpi=120, metadata=metadata)
            written.append(f"{name}.{kind}")
        pyplot.close(figure)
    return written


def _panel(axes: Any, played: Played, measure: Measure, unit: float) -> None:
    values = {
        tool: [value / unit for sample in samples if (value := sample.value(measure)) is not None]
        for tool, samples in by_tool(played.samples).items()
    }
    spreads = {tool: found for tool, numbers in values.items() if (found := spread(numbers))}
    order = sorted(spreads, key=lambda tool: -spreads[tool].median)
    medians = [spreads[tool].median for tool in order]
    below = [spreads[tool].median - spreads[tool].low for tool in order]
    above = [spreads[tool].high - spreads[tool].median for tool in order]
    colours = [_OURS if tool == BULKDL else _OTHERS for tool in order]
    axes.barh(order, medians, xerr=[below, above], color=colours, ecolor=_LINE, error_kw={"linewidth": 0.8}, height=0.7)
    for place, tool in enumerate(order):
        axes.text(spreads[tool].high, place, f" {spreads[tool].median:.3g}", va="center", fontsize=7)
    for place, tool in enumerate(sorted(values.keys() - spreads.keys()), start=len(order)):
        axes.barh([tool], [0])
        axes.text(0, place, " wrong", va="center", fontsize=7)
    axes.set_title(played.row.name, fontsize=9, loc="left")
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
