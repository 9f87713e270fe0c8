"""python -m benchmarks.outages: run every night with every tool that is here; `--write` keeps the table."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .nights import NIGHTS, Night
from .table import report
from .tools import NAMES, Tool, present
from .trial import LONGEST_S, Result, run

if TYPE_CHECKING:
    from collections.abc import Sequence

_HERE = Path(__file__).parent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outages", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", action="append", help="nights whose name has TEXT; may be repeated")
    parser.add_argument("--tools", default=",".join(NAMES), help="comma-separated (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=6, help="nights at a time (default: %(default)s)")
    parser.add_argument(
        "--speed", type=float, default=120.0, help="how much faster the clock is (default: %(default)g)"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep each run's output in DIR")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md beside this program")
    return parser


async def _run_all(pairs: Sequence[tuple[Night, Tool]], folder: Path, *, jobs: int, speed: float) -> list[Result]:
    places = asyncio.Semaphore(jobs)

    async def one(number: int, night: Night, tool: Tool) -> Result:
        async with places:
            result = await run(night, tool, folder / f"{number:02d}-{tool.name}", speed=speed)
        print(f"{tool.name}: {night.name}: {result.lost} lost, exit {result.code}", file=sys.stderr, flush=True)
        return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number, *pair)) for number, pair in enumerate(pairs)]
    return [task.result() for task in tasks]


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if bulkdl lost no product, 1 if it did, 2 if nothing could be run."""
    options = _parser().parse_args(argv)
    if shutil.which("faketime") is None:
        print("benchmarks.outages needs `faketime` (Debian's package faketime), which is not here.", file=sys.stderr)
        return 2
    tools = present(tuple(options.tools.split(",")))
    nights = [n for n in NIGHTS if not options.only or any(text.lower() in n.name.lower() for text in options.only)]
    pairs = [(night, tool) for night in nights for tool in tools if tool.logs_in or night.endpoint is None]
    if not pairs:
        print("No such night, or none of the tools is here.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="outages-") as scratch:
        folder = options.keep or Path(scratch)
        results = asyncio.run(_run_all(pairs, folder, jobs=options.jobs, speed=options.speed))
    page = report(results, tools=tools, speed=options.speed, longest_s=LONGEST_S)
    print(page)
    if options.write:
        (_HERE / "RESULTS.md").write_text(page, encoding="utf-8")
    return int(any(result.lost for result in results if result.tool.name == "bulkdl"))


if __name__ == "__main__":
    sys.exit(main())
