"""Run every row with bulkdl as it is without flags, and with its peers on request; `--write` keeps the table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from .nginx import is_installed
from .rows import NGINX_ROWS, ROWS, random_rows
from .rules import ideal_s
from .table import as_json, cell, report
from .tools import BULKDL, fixed, peers
from .trial import Result, run_trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .rules import Row
    from .tools import Tool

_HERE = Path(__file__).parent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptive", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", action="append", help="rows whose name has TEXT; may be repeated")
    parser.add_argument("--random", type=int, metavar="N", help="N rows with numbers drawn at random instead")
    parser.add_argument("--seed", type=int, default=1, help="seed of --random (default: %(default)s)")
    parser.add_argument("--peers", action="store_true", help="curl and aria2c too, with the best flags for each row")
    parser.add_argument("--sweep", action="store_true", help="bulkdl too with fixed -j and -s, many trials a row")
    parser.add_argument("--repeat", type=int, default=1, help="trials a cell (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=6.0, help="end a tool after so many shortest times (default: 6)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep each trial's output in DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append one line of JSON for each trial to FILE")
    parser.add_argument("--list", action="store_true", help="print the rows with their shortest times only")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md beside this program")
    return parser


def _rows(options: argparse.Namespace) -> list[Row]:
    rows = random_rows(options.random, options.seed) if options.random else ROWS
    if is_installed() and not options.random:
        rows += NGINX_ROWS
    return [row for row in rows if not options.only or any(text.lower() in row.name.lower() for text in options.only)]


def _tools(options: argparse.Namespace, row: Row) -> list[Tool]:
    return [BULKDL, *(fixed(row) if options.sweep else []), *(peers() if options.peers else [])]


def _run_all(pairs: Sequence[tuple[Row, Tool]], folder: Path, options: argparse.Namespace) -> list[Result]:
    def one(number: int, row: Row, tool: Tool) -> Result:
        result = run_trial(row, tool, folder / f"{number:03d}-{tool.name.replace(' ', '')}", limit=options.limit)
        print(f"{tool.name}: {row.name}: {cell(result)}", file=sys.stderr, flush=True)
        if options.json:
            with options.json.open("a", encoding="utf-8") as out:
                out.write(as_json(result) + "\n")
        return result

    with ThreadPoolExecutor(options.jobs) as pool:
        tasks = [pool.submit(one, number, *pair) for number, pair in enumerate(pairs)]
        try:
            return [task.result() for task in tasks]
        finally:
            pool.shutdown(cancel_futures=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if bulkdl lost no product, 1 if it did, 2 if there is no such row."""
    options = _parser().parse_args(argv)
    rows = _rows(options)
    if not rows:
        print("There is no such row.", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(f"{ideal_s(row):5.1f} s  {row.name}" for row in rows))
        return 0
    pairs = [(row, tool) for row in rows for tool in _tools(options, row) for _ in range(options.repeat)]
    with tempfile.TemporaryDirectory(prefix="adaptive-") as scratch:
        results = _run_all(pairs, options.keep or Path(scratch), options)
    page = report(results, limit=options.limit, repeat=options.repeat)
    print(page)
    if options.write:
        (_HERE / "RESULTS.md").write_text(page, encoding="utf-8")
    return int(any(result.lost for result in results if result.tool is BULKDL))


if __name__ == "__main__":
    sys.exit(main())
