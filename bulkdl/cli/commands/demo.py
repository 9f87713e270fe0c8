"""`bulkdl demo`: a real run against the embedded archive, followed by an explanation of what happened."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bulkdl.cli.commands.report import REPORT
from bulkdl.cli.commands.run import RunCommand, execute, finish
from bulkdl.cli.output import say
from bulkdl.cli.output_file import require_writable
from bulkdl.cli.progress.factory import Mode
from bulkdl.cli.text import count
from bulkdl.core.models import RunOptions
from bulkdl.core.units import format_duration
from bulkdl.demo_server.demo import DemoArchive, demo_outages
from bulkdl.demo_server.demo_clock import DemoClock
from bulkdl.demo_server.faults import Cut, Refuse, Stall
from bulkdl.manifest.loader import load
from bulkdl.manifest.settings import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bulkdl.cli.dispatch import Invocation
    from bulkdl.core.models import Manifest
    from bulkdl.demo_server.faults import Effect
    from bulkdl.demo_server.outages import OutageRecord, OutageRehearsal
    from bulkdl.operations.result import RunResult

__all__ = ["demo"]

_RATE = 1_000_000
"""Bytes a second for each connection."""

_INTRODUCTION = """\
bulkdl demo: an archive runs inside this program, on {origin}; nothing leaves this machine.
  {products} behind three accounts: password with TOTP, password, Basic. Tokens live for 4 s or 60 s.
  The archive misbehaves like real ones: it cuts or stalls connections and refuses requests for a while.
  Two outages come, first of the archive, then of a token endpoint: two minutes each by the demo's clock, which then runs
  {speed:g} times as fast, so that you wait for seconds.
  The download code is that of `bulkdl run`. Destination folder: {destination}
"""


def demo(invocation: Invocation) -> int:
    """Run the demo; return the exit code of its run."""
    report, chosen_destination = invocation.flags.get("report"), invocation.flags.get("destination")
    if report is not None:
        require_writable(Path(report), REPORT)
    with TemporaryDirectory(prefix="bulkdl-demo-", ignore_cleanup_errors=True) as folder:
        destination = Path(folder) / "products" if chosen_destination is None else Path(chosen_destination).absolute()
        return asyncio.run(_demo(invocation, Path(folder), destination, kept=chosen_destination is not None))


async def _demo(invocation: Invocation, folder: Path, destination: Path, *, kept: bool) -> int:
    outages = demo_outages(DemoClock())
    async with DemoArchive(rate=_RATE, outages=outages) as archive:
        path = archive.write_manifest(folder / "demo.yaml")
        manifest = load(str(path), stdin=None, destination=destination, environ=archive.environ)
        command = _run_command(invocation, manifest, archive)
        show_text = command.verbosity >= 0 and not command.json
        if show_text:
            products = count(len(manifest.products), "product")
            say(
                _INTRODUCTION.format(
                    origin=archive.archive.origin, products=products, speed=outages.speed, destination=destination
                )
            )
        began = time.monotonic()
        result = await execute(command, clock=outages.clock)
        took_s = time.monotonic() - began
    code = finish(command, result)
    if show_text:
        effects = (effect for record in archive.archive.log for effect in record.effects)
        say(_explanation(result, effects, _outages(outages, result, took_s), None if not kept else destination))
    return code


def _run_command(invocation: Invocation, manifest: Manifest, archive: DemoArchive) -> RunCommand:
    flags = invocation.flags
    return RunCommand(
        manifest=manifest,
        # Ignore BULKDL_* settings, which are meant for real runs: the demo is the same everywhere.
        settings=resolve(flags=flags, environ={}, manifest=manifest.settings),
        options=RunOptions(allow_sleep=True),
        environ=archive.environ,
        mode=Mode(invocation.option("progress")),
        verbosity=invocation.verbosity,
        log_file=None if flags.get("log_file") is None else Path(flags["log_file"]),
        report=None if flags.get("report") is None else Path(flags["report"]),
        json=invocation.json,
    )


def _outages(outages: OutageRehearsal, result: RunResult, took_s: float) -> Iterator[str]:
    """Yield what happened in the outages; `took_s`: seconds for the user."""
    waited_for = [_outage(record) for record in outages.held if record.is_noticed]
    if waited_for:
        lost = "" if result.failed or result.pending else ", no product lost"
        yield f"{count(len(waited_for), 'outage')} waited for{lost}: {', '.join(waited_for)}"
        yield "the run noticed the end of each with its next try; the pauses between its tries grow"
    for record in outages.held[len(waited_for) :]:
        yield f"the run ended before an outage was over: {_outage(record)}"
    if outages.held:
        took = f"the run took {format_duration(result.elapsed_s)} by it and {format_duration(took_s)} for you"
        yield f"the demo's clock ran {outages.speed:g} times as fast during outages: {took}"
    else:
        yield "no outage: too little was left to download"


def _outage(record: OutageRecord) -> str:
    planned = record.planned
    refused = f"{count(record.refused, 'request')} answered with {planned.part.status}"
    return f"{planned.part} ({format_duration(planned.lasts_s)}, {refused})"


def _explanation(result: RunResult, effects: Iterable[Effect], outages: Iterable[str], kept: Path | None) -> str:
    logins = sum(use.logins for use in result.accounts.values())
    refreshes = sum(use.refreshes for use in result.accounts.values())
    faults = Counter(map(_fault_name, effects))
    lines = [
        "\nWhat you saw:",
        f"  {count(logins, 'login')} and {count(refreshes, 'token refresh', 'token refreshes')}, automatic",
        f"  faults handled: {', '.join(f'{n} x {name}' for name, n in faults.most_common()) or 'none'}",
        *(f"  {line}" for line in outages),
        f"  {count(result.completed, 'product')} complete, each verified before it got its final name",
        f"The products are in {kept}" if kept else "The products were deleted; `bulkdl demo -d DIR` keeps them.",
        "Next: write a manifest (see README), then `bulkdl check`, `bulkdl login`, `bulkdl run`.",
    ]
    return "\n".join(lines)


def _fault_name(effect: Effect) -> str:
    match effect:
        case Cut():
            return "connection reset" if effect.reset else "connection cut"
        case Stall():
            return "connection stalled"
        case Refuse():
            return f"HTTP {effect.status}"
        case _:
            return type(effect).__name__.lower()
