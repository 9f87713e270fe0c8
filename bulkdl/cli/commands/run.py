"""`bulkdl run`: the engine with a progress in front of it and the summary at its end."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.cli.output import complain, say, write_out
from bulkdl.cli.progress.factory import Mode, Progress, open_progress
from bulkdl.cli.progress.observers import LogFile
from bulkdl.cli.prompt import prompt_for
from bulkdl.cli.signals import stop_on_signals
from bulkdl.cli.summary import to_json, to_text
from bulkdl.cli.text import clean
from bulkdl.core import gc_control
from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import StorageStopped
from bulkdl.core.events import Hub, Level, RunStarted
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.stop_request import StopSignal
from bulkdl.operations.run import run as run_engine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bulkdl.cli.dispatch import Invocation
    from bulkdl.core.events import Event
    from bulkdl.core.models import Manifest, RunOptions, Settings
    from bulkdl.operations.result import RunResult

__all__ = ["RunCommand", "execute", "finish", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """All that one run needs from its command line."""

    manifest: Manifest
    settings: Settings
    options: RunOptions
    environ: Mapping[str, str]
    mode: Mode
    verbosity: int
    log_file: Path | None
    report: Path | None
    json: bool
    repeatable: bool = True
    """Whether the same command can go on; a demo's folder is gone."""


def run(invocation: Invocation) -> int:
    """Bring every product to the destination; the exit code is the contract's."""
    options = invocation.options()
    if options.dry_run:
        from bulkdl.cli.commands.check import dry_run  # noqa: PLC0415

        return dry_run(invocation)
    json_wished, verbosity = invocation.json, invocation.verbosity
    mode, log_file, report = (invocation.option(name) for name in ("progress", "log_file", "report"))
    if report is not None:
        from bulkdl.cli.commands.report import prepare  # noqa: PLC0415 - only where one is wanted

        prepare(report)
    manifest = invocation.load_manifest()
    invocation.warn(manifest)
    job = RunCommand(
        manifest=manifest,
        settings=invocation.settings(manifest),
        options=options,
        environ=invocation.environ,
        mode=Mode(mode),
        verbosity=verbosity,
        log_file=log_file,
        report=report,
        json=json_wished,
    )
    return finish(job, asyncio.run(execute(job)))


async def execute(job: RunCommand) -> RunResult:
    """Run the engine under the progress, the log file and the signal handlers."""
    hub, clock, stop = Hub(_begin_collecting), SystemClock(), StopSignal()
    with ExitStack() as stack:
        log = None if job.log_file is None else stack.enter_context(LogFile(job.log_file, clock=clock))
        more = () if log is None else (log,)
        try:
            async with open_progress(
                job.mode,
                hub=hub,
                clock=clock,
                stream=sys.stderr,
                environ=job.environ,
                verbosity=job.verbosity,
                more=more,
            ) as progress:
                return await _under_signals(job, hub, stop, progress)
        except Exception:
            if log is not None:
                log.write("error", traceback.format_exc())
            raise


def _begin_collecting(event: Event) -> None:
    if isinstance(event, RunStarted):  # the manifest has been read, and all modules have been imported
        gc_control.enable_after_startup()


async def _under_signals(job: RunCommand, hub: Hub, stop: StopSignal, progress: Progress) -> RunResult:
    with stop_on_signals(stop, say=partial(hub.note, Level.WARNING), restore=progress.close):
        return await run_engine(
            job.manifest,
            settings=job.settings,
            options=job.options,
            hub=hub,
            environ=job.environ,
            prompt=prompt_for(progress),
            stop=stop,
            alone=True,
        )


def finish(job: RunCommand, result: RunResult) -> int:
    """Print the summary, write the report, return the exit code."""
    if job.json:
        write_out(json.dumps(to_json(result, job.manifest), indent=2) + "\n")
        if result.stopped:  # the text says it in its first lines; here a person would have to look into the object
            complain(clean(result.stopped))
    else:
        write_out(to_text(result, job.manifest, repeatable=job.repeatable))
    return result.exit_code if job.report is None else _report(job, job.report, result)


def _report(job: RunCommand, path: Path, result: RunResult) -> int:
    from bulkdl.cli.commands.report import save, to_html  # noqa: PLC0415 - only where one is wanted

    try:
        save(path, to_html(result, job.manifest))
    except StorageStopped as error:
        complain(str(error))
        # The contract's order: only the signals' codes come before this one.
        return result.exit_code if result.exit_code >= 128 else error.exit_code
    if job.verbosity >= 0:
        say(f"report: {path}")
    return result.exit_code
