"""`bulkdl demo`: the real engine against the embedded archive, and in words what just happened."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bulkdl.cli.commands.report import prepare
from bulkdl.cli.commands.run import RunCommand, execute, finish
from bulkdl.cli.output import say
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
  {products}, behind three accounts: password and TOTP, password, Basic; its tokens live a few seconds.
  It misbehaves as archives do: connections are cut or fall silent, requests are refused for a while.
  The engine is the one of `bulkdl run`. Products go to {destination}
"""


def demo(invocation: Invocation) -> int:
    """Run the demo; its exit code is the run's."""
    report, given = invocation.flags.get("report"), invocation.flags.get("destination")
    if report is not None:
        prepare(Path(report))
    with TemporaryDirectory(prefix="bulkdl-demo-", ignore_cleanup_errors=True) as folder:
        destination = Path(folder) / "products" if given is None else Path(given).absolute()
        return asyncio.run(_demo(invocation, Path(folder), destination, kept=given is not None))


async def _demo(invocation: Invocation, folder: Path, destination: Path, *, kept: bool) -> int:
    async with DemoArchive() as archive:
        path = archive.write_manifest(folder / "demo.yaml")
        manifest = load(str(path), stdin=None, destination=destination, environ=archive.environ)
        job = _job(invocation, manifest, archive)
        talkative = job.verbosity >= 0 and not job.json
        if talkative:
            products = count(len(manifest.products), "product")
            say(_INTRODUCTION.format(origin=archive.archive.origin, products=products, destination=destination))
        result = await execute(job)
    code = finish(job, result)
    if talkative:
        effects = (effect for record in archive.archive.log for effect in record.effects)
        say(_what_you_saw(result, effects, None if not kept else destination))
    return code


def _job(invocation: Invocation, manifest: Manifest, archive: DemoArchive) -> RunCommand:
    flags = invocation.flags
    return RunCommand(
        manifest=manifest,
        # The environment's settings belong to real work: the demo is the same everywhere.
        settings=resolve(flags=flags, environ={}, manifest=manifest.settings),
        options=RunOptions(),
        environ=archive.environ,
        mode=Mode(invocation.option("progress")),
        verbosity=invocation.verbosity,
        log_file=None if flags.get("log_file") is None else Path(flags["log_file"]),
        report=None if flags.get("report") is None else Path(flags["report"]),
        json=invocation.json,
        repeatable=False,
    )


def _what_you_saw(result: RunResult, effects: Iterable[Effect], kept: Path | None) -> str:
    logins = sum(use.logins for use in result.accounts.values())
    refreshes = sum(use.refreshes for use in result.accounts.values())
    faults = Counter(map(_name, effects))
    lines = [
        "\nWhat you saw:",
        f"  {count(logins, 'login')} and {count(refreshes, 'token refresh', 'token refreshes')}, by themselves, while the products came in",
        f"  faults met: {', '.join(f'{n} x {name}' for name, n in faults.most_common()) or 'none'}",
        f"  {count(result.completed, 'product')} complete, each compared with its checksum before it had its name",
        f"The products are in {kept}" if kept else "The products are gone again; `bulkdl demo -d DIR` keeps them.",
        "Next: write a manifest (see README), then `bulkdl check`, `bulkdl login`, `bulkdl run`.",
    ]
    return "\n".join(lines)


def _name(effect: Effect) -> str:
    match effect:
        case Cut():
            return "connection reset" if effect.reset else "connection cut"
        case Stall():
            return "connection silent"
        case Refuse():
            return f"answer {effect.status}"
        case _:
            return type(effect).__name__.lower()
