"""`bulkdl demo`: a real run against the embedded archive, followed by an explanation of what happened."""

from __future__ import annotations

import asyncio
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
from bulkdl.demo_server.demo import DemoArchive
from bulkdl.demo_server.faults import Cut, Refuse, Stall
from bulkdl.manifest.loader import load
from bulkdl.manifest.settings import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bulkdl.cli.dispatch import Invocation
    from bulkdl.core.models import Manifest
    from bulkdl.demo_server.faults import Effect
    from bulkdl.operations.result import RunResult

__all__ = ["demo"]

_INTRODUCTION = """\
bulkdl demo: an archive runs inside this program, on {origin}; nothing leaves this machine.
  {products} behind three accounts: password with TOTP, password, Basic. Tokens expire after a few seconds.
  The archive misbehaves like real ones: it cuts or stalls connections and refuses requests for a while.
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
    async with DemoArchive() as archive:
        path = archive.write_manifest(folder / "demo.yaml")
        manifest = load(str(path), stdin=None, destination=destination, environ=archive.environ)
        command = _run_command(invocation, manifest, archive)
        show_text = command.verbosity >= 0 and not command.json
        if show_text:
            products = count(len(manifest.products), "product")
            say(_INTRODUCTION.format(origin=archive.archive.origin, products=products, destination=destination))
        result = await execute(command)
    code = finish(command, result)
    if show_text:
        effects = (effect for record in archive.archive.log for effect in record.effects)
        say(_explanation(result, effects, None if not kept else destination))
    return code


def _run_command(invocation: Invocation, manifest: Manifest, archive: DemoArchive) -> RunCommand:
    flags = invocation.flags
    return RunCommand(
        manifest=manifest,
        # Ignore BULKDL_* settings, which are meant for real runs: the demo is the same everywhere.
        settings=resolve(flags=flags, environ={}, manifest=manifest.settings),
        options=RunOptions(),
        environ=archive.environ,
        mode=Mode(invocation.option("progress")),
        verbosity=invocation.verbosity,
        log_file=None if flags.get("log_file") is None else Path(flags["log_file"]),
        report=None if flags.get("report") is None else Path(flags["report"]),
        json=invocation.json,
    )


def _explanation(result: RunResult, effects: Iterable[Effect], kept: Path | None) -> str:
    logins = sum(use.logins for use in result.accounts.values())
    refreshes = sum(use.refreshes for use in result.accounts.values())
    faults = Counter(map(_fault_name, effects))
    lines = [
        "\nWhat you saw:",
        f"  {count(logins, 'login')} and {count(refreshes, 'token refresh', 'token refreshes')}, automatic",
        f"  faults handled: {', '.join(f'{n} x {name}' for name, n in faults.most_common()) or 'none'}",
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
