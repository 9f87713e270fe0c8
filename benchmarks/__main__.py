"""The command: `python -m benchmarks [--quick] [--only ROW ...] [--rounds N] [--out DIR]`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .machine import describe
from .match import Played, play
from .own import OWN
from .plots import draw
from .results import markdown, write
from .scene import FULL, QUICK, Row, stage
from .tools import BULKDL, bulkdl, peers
from .transfers import TRANSFERS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from .scene import Scale

ROWS: tuple[Row, ...] = (*TRANSFERS, *OWN)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if every row ran, 1 if bulkdl failed in a row or a row could not run, 2 for a wrong command line."""
    options = _parser().parse_args(argv)
    _end_on_signals()
    scale = QUICK if options.quick else FULL
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        played = _run(rows, scale, options, out)
    except RuntimeError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except _Signalled as stop:
        print(f"benchmarks: {stop.name}; the rows that ended are in {out}", file=sys.stderr)
        return 128 + stop.number
    bad = [one for one in played if one.skipped or any(s.problem for s in one.samples if s.tool == BULKDL)]
    return 1 if bad else 0


def _run(rows: Sequence[Row], scale: Scale, options: argparse.Namespace, out: Path) -> list[Played]:
    tools = (bulkdl(), *[tool for tool in peers(python=options.python_peers) if tool.name not in options.without])
    started = time.monotonic()
    played: list[Played] = []
    with stage(tools=tools, scale=scale, need=max(row.room(scale) for row in rows)) as scene:
        _say(f"everything is in {scene.folder} until the end")
        machine = describe(tools, folder=scene.folder)
        for name, text in machine.items():
            _say(f"{name}: {text}")
        for place, row in enumerate(rows):
            _say(f"{row.name}: {row.title}")
            left = started + scale.total_s - time.monotonic()
            if left < 0 and not options.rounds:
                _say("  skipped: the time is over")
                played.append(Played(row=row, skipped=f"the {scale.total_s:g} s of a {scale.name} run were over"))
                continue
            budget_s = min(scale.budget_s, left / (len(rows) - place))
            played.append(play(row, scene, number=options.rounds, budget_s=budget_s, say=_say))
            write(out, played, machine=machine, scale=scale.name)
    print(markdown(played, machine=machine, scale=scale.name))
    try:
        drawn = ", ".join(draw(out, played, machine=machine, scale=scale.name))
    except ModuleNotFoundError:
        drawn = "no plots, since matplotlib is not installed (pip install 'bulkdl[bench]')"
    _say(f"{time.monotonic() - started:.0f} s; in {out}: results.json, results.md, {drawn}")
    return played


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    names = [row.name for row in ROWS]
    parser.add_argument("--quick", action="store_true", help="small sizes, less than 3 minutes; not for publication")
    parser.add_argument("--only", action="extend", nargs="+", choices=names, metavar="ROW", help=", ".join(names))
    parser.add_argument(
        "--rounds", type=_positive, metavar="N", help="exactly so many rounds of every row, however long it takes"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark-results"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--without", action="extend", nargs="+", default=[], metavar="TOOL", help="leave a peer out")
    parser.add_argument("--python-peers", metavar="PYTHON", help="an interpreter that can import parfive or pypdl")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Signalled(BaseException):
    """Raised by a signal, so that every `finally` runs and ends servers and measured processes and removes files."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = signal.Signals(number).name


def _end_on_signals() -> None:
    """Let the first signal end the run, and ignore further ones during the clean-up.

    An ignored signal stays ignored.
    """
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]

    def end(number: int, _frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise _Signalled(number)

    for each in numbers:
        signal.signal(each, end)


if __name__ == "__main__":
    sys.exit(main())
