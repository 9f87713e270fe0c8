"""The results as Markdown."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .nights import NIGHTS
from .tools import version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .nights import Night
    from .tools import Tool
    from .trial import Result

__all__ = ["report"]

_TEXT = """\
# Nights with outages

120 products of six minutes each, four at a time: a night of three hours, with an outage that begins at one hour unless the line says
otherwise. Tokens live ten minutes. Every tool runs whole, under `faketime`, with a clock that runs {speed:g} times as fast; the servers on
127.0.0.1 follow the same fast clock. After the end every file is compared with what the archive has.

A cell has the products **lost** of {products} (60 with 429), in brackets those of them that lie at their final name with wrong bytes; then the
requests that met the server in trouble (a closed port counts none); then the length of the night. `ended` marks a tool that was
still at work after {longest:g} h. A tool that cannot log in has no night with tokens.

{date}; {versions}. Repeat with `python -m benchmarks.outages --write`.

"""


def report(results: Sequence[Result], *, tools: Sequence[Tool], speed: float, longest_s: float) -> str:
    """Return the page."""
    nights = [night for night in NIGHTS if any(r.night is night for r in results)]
    versions = ", ".join(version(tool) for tool in tools)
    text = _TEXT.format(
        speed=speed,
        products=NIGHTS[0].products,
        longest=longest_s / 3600,
        date=time.strftime("%Y-%m-%d"),
        versions=versions,
    )
    lines = [
        f"| what happens | {' | '.join(tool.name for tool in tools)} |",
        f"| --- | {' | '.join('---' for _ in tools)} |",
        *(f"| {night.name} | {' | '.join(_cell(results, night, tool) for tool in tools)} |" for night in nights),
    ]
    flags = [f"- {tool.name}: `{tool.flags}`" for tool in tools]
    return text + "\n".join([*lines, "", *flags, ""])


def _cell(results: Sequence[Result], night: Night, tool: Tool) -> str:
    found = next((r for r in results if r.night is night and r.tool is tool), None)
    if found is None:
        return ""
    lost = f"**{found.lost}**{f' ({found.wrong} wrong)' if found.wrong else ''}"
    asked = f"{found.ill_requests} requests" if found.ill_requests else "-"
    logins = f", {found.logins} logins" if night.endpoint is not None else ""
    return f"{lost}; {asked}{logins}; {found.hours:.1f} h{', ended' if found.code is None else ''}"
