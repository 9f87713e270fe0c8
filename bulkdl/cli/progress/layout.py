"""Compute the lines of the live view for a given width and height; needs no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from bulkdl.cli.text import clean, count
from bulkdl.core.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bulkdl.cli.progress.sampler import Sample
    from bulkdl.core.events import Flight

__all__ = ["Glyphs", "lines", "shorten"]

_SEPARATOR = "   "
_NARROW, _MIDDLE = 60, 96
"""Terminal widths in cells: below 60 no bar and no size, below 96 a short bar and no connection count."""


class Glyphs:
    """Characters of the bars; ASCII only if the terminal's encoding has no others."""

    def __init__(self, *, ascii_only: bool) -> None:
        self.done = "#" if ascii_only else "━"
        self.left = "-" if ascii_only else "─"
        self.ellipsis = "..." if ascii_only else "…"


def shorten(text: str, width: int, ellipsis: str = "…") -> str:
    """Shorten `text` to at most `width` cells, in the middle: product names differ at both ends."""
    if cell_len(text) <= width:
        return text
    cells = width - cell_len(ellipsis)
    if cells < 2:
        return set_cell_size(text, max(0, width)).rstrip()
    tail = ""
    for character in reversed(text):
        if cell_len(character + tail) > cells // 2:
            break
        tail = character + tail
    return set_cell_size(text, cells - cell_len(tail)).rstrip() + ellipsis + tail


def lines(
    sample: Sample,
    flights: Sequence[Flight],
    accounts: Mapping[str, str],
    *,
    width: int,
    height: int,
    glyphs: Glyphs,
) -> list[Text]:
    """Return at most `height` lines of at most `width` cells: products in flight, accounts, and last the whole run."""
    states = [(name, state) for name, state in sorted(accounts.items()) if state]
    account_rows = min(len(states), max(0, height - 2))
    rows = max(0, height - account_rows - 1)
    shown = list(flights) if len(flights) <= rows else list(flights[: max(0, rows - 1)])
    names = max((cell_len(clean(f.file)) for f in shown), default=0)
    result = [_flight(f, width, names, glyphs) for f in shown]
    if len(shown) < len(flights) and rows > 0:
        result.append(_cut(Text(f"{glyphs.ellipsis} and {len(flights) - len(shown)} more in flight", "dim"), width))
    for name, state in states[:account_rows]:
        line = Text(f"{clean(name)}: {clean(state)}", "magenta")
        result.append(_cut(line, width, glyphs.ellipsis))
    result.append(_overall(sample, width, glyphs))
    return result


def _overall(sample: Sample, width: int, glyphs: Glyphs) -> Text:
    done = f"{sample.done:,} of {count(sample.products, 'product')}"
    parts = [
        Text(f"{sample.fraction:4.0%}", "bold"),
        Text(f"{sample.done:,}/{sample.products:,}" if width < _NARROW else done, "bold"),
    ]
    optional = [Text(f"{sample.failed:,} failed", "bold red")] if sample.failed else []
    optional += [Text(format_rate(sample.rate), "green")]
    optional += [Text(f"{format_duration(sample.eta_s)} left", "cyan")] if sample.eta_s is not None else []
    received = format_bytes(sample.received)
    optional += [Text(f"{received} of {format_bytes(sample.total)}" if sample.left else received)]
    used = sum(p.cell_len for p in parts) + len(_SEPARATOR)
    for part in optional:
        if used + len(_SEPARATOR) + part.cell_len <= width:
            parts.append(part)
            used += len(_SEPARATOR) + part.cell_len
    bar_cells = min(40, width - used - len(_SEPARATOR))
    if bar_cells >= 8:
        parts.insert(1, _bar(sample.fraction, bar_cells, glyphs))
    return _cut(Text(_SEPARATOR).join(parts), width)


def _flight(flight: Flight, width: int, names: int, glyphs: Glyphs) -> Text:
    """Return name, bar, percentage, size, connections and phase; a narrow terminal gets fewer of them."""
    fraction = None if not flight.total else min(1.0, flight.have / flight.total)
    percent = "    " if fraction is None else f"{fraction:4.0%}"
    phase = f"{flight.phase:<10}"
    tail = [Text(percent), Text(phase.rstrip(), "dim")]
    bar_width = 0
    if width >= _NARROW:
        bar_width = 12 if width < _MIDDLE else 24
        size = format_bytes(flight.have if flight.total is None else flight.total)
        tail = [Text(percent), Text(f"{size:>9}"), Text(phase.rstrip(), "dim")]
    if width >= _MIDDLE:
        tail.insert(2, Text(f"{flight.connections:>2} conn"))
    fixed = bar_width + (2 if bar_width else 0) + sum(t.cell_len for t in tail[:-1]) + 10 + 2 * len(tail)
    cells = max(8, width - fixed)
    column = min(cells, max(names, 8))
    parts = [Text(set_cell_size(shorten(clean(flight.file), column, glyphs.ellipsis), column))]
    parts += [_bar(fraction or 0.0, bar_width, glyphs)] if bar_width else []
    return _cut(Text("  ").join([*parts, *tail]), width)


def _bar(fraction: float, width: int, glyphs: Glyphs) -> Text:
    full = int(fraction * width)
    return Text.assemble((glyphs.done * full, "cyan"), (glyphs.left * (width - full), "dim"))


def _cut(line: Text, width: int, ellipsis: str = "") -> Text:
    if line.cell_len <= width:
        return line
    cells = width - cell_len(ellipsis)
    line.truncate(max(0, width if cells < 0 else cells))
    return line if cells < 0 else line.append(ellipsis)
