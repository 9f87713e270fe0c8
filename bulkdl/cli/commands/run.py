"""`bulkdl run`: start a run with its progress display, log file and signal handlers, then print the summary."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.cli.output import one_reader, print_error, say, write_out
from bulkdl.cli.progress.factory import Mode, Progress, open_progress
from bulkdl.cli.progress.observers import LogFile
from bulkdl.cli.prompt import prompt_for
from bulkdl.cli.signals import stop_on_signals
from bulkdl.cli.summary import to_json, to_text
from bulkdl.cli.text import clean, count
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
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Event
    from bulkdl.core.models import Manifest, RunOptions, Settings
    from bulkdl.operations.result import RunResult

__all__ = ["RunCommand", "execute", "finish", "run"]


SUMMARY_PATIENCE_S = 5.0
"""Wait after a signal for a reader of the summary who takes nothing (s)."""
_QUIT_PATIENCE_S = 0.2
"""The same after a second signal, which ends the process at once (s)."""
_SIGNALS = 128
"""Exit codes from here on tell of a signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """All settings that one run takes from the command line."""

    manifest: Manifest
    settings: Settings
    options: RunOptions
    environ: Mapping[str, str]
    mode: Mode
    verbosity: int
    log_file: Path | None
    report: Path | None
    json: bool
    again: tuple[str, ...] = ()
    """Words of this command line; empty if it cannot resume, since the folder of a demo is deleted."""


def run(invocation: Invocation) -> int:
    """Download every product to the destination folder; return the exit code."""
    options = invocation.options()
    if options.dry_run:
        from bulkdl.cli.commands.check import dry_run  # noqa: PLC0415

        return dry_run(invocation)
    wants_json, verbosity = invocation.json, invocation.verbosity
    mode, log_file, report = (invocation.option(name) for name in ("progress", "log_file", "report"))
    if report is not None:
        from bulkdl.cli.output_file import require_writable  # noqa: PLC0415 - needed only for --report

        require_writable(report, "the report")
    manifest = invocation.load_manifest()
    invocation.warn(manifest)
    command = RunCommand(
        manifest=manifest,
        settings=invocation.settings(manifest),
        options=options,
        environ=invocation.environ,
        mode=Mode(mode),
        verbosity=verbosity,
        log_file=log_file,
        report=report,
        json=wants_json,
        again=invocation.words,
    )
    return finish(command, asyncio.run(execute(command)))


async def execute(command: RunCommand, *, clock: Clock | None = None) -> RunResult:
    """Run with the progress display, the log file and the signal handlers."""
    hub, clock, stop = Hub(_enable_gc), clock or SystemClock(), StopSignal()
    with ExitStack() as stack:
        log = None if command.log_file is None else stack.enter_context(LogFile(command.log_file, clock=clock))
        more = () if log is None else (log,)
        try:
            async with open_progress(
                command.mode,
                hub=hub,
                clock=clock,
                stream=sys.stderr,
                environ=command.environ,
                verbosity=command.verbosity,
                more=more,
            ) as progress:
                return await _run_with_signals(command, hub, clock, stop, progress)
        except Exception:
            if log is not None:
                log.write("error", traceback.format_exc())
            raise


def _enable_gc(event: Event) -> None:
    if isinstance(event, RunStarted):  # start-up is over: the manifest is read and all modules are imported
        gc_control.enable_after_startup()


async def _run_with_signals(
    command: RunCommand, hub: Hub, clock: Clock, stop: StopSignal, progress: Progress
) -> RunResult:
    with stop_on_signals(stop, say=partial(hub.note, Level.WARNING), restore=partial(progress.close, _QUIT_PATIENCE_S)):
        return await run_engine(
            command.manifest,
            settings=command.settings,
            options=command.options,
            hub=hub,
            environ=command.environ,
            prompt=prompt_for(progress, manifest=command.manifest.path),
            stop=stop,
            clock=clock,
            alone=True,
        )


def finish(command: RunCommand, result: RunResult) -> int:
    """Print the summary, write the report and return the exit code."""
    codes = [result.exit_code]
    for write in (_report, _summary):  # the report first: the reader of the summary may take nothing
        try:
            write(command, result)
        except StorageStopped as error:
            in_place = result.completed + result.skipped
            print_error(
                f"{error}. {in_place:,} of {count(result.total, 'product')} in place; exit code {result.exit_code}"
            )
            codes.append(error.exit_code)
    # Where several exit codes apply, only those of signals rank above the one of this machine.
    return result.exit_code if result.exit_code >= _SIGNALS else codes[-1]


def _summary(command: RunCommand, result: RunResult) -> None:
    # A reader may take its time, but whoever stopped the run waits for its end.
    patience_s = SUMMARY_PATIENCE_S if result.exit_code >= _SIGNALS else None
    if command.json:
        write_out(json.dumps(to_json(result, command.manifest), indent=2) + "\n", patience_s=patience_s)
        if result.stopped:  # the text summary starts with it; with --json tell the user on standard error
            print_error(clean(result.stopped))
    else:
        stops_told = command.mode not in {Mode.NONE, Mode.JSON} and one_reader()
        text = to_text(result, command.manifest, again=command.again, stops_told=stops_told)
        write_out(text, patience_s=patience_s)


def _report(command: RunCommand, result: RunResult) -> None:
    if command.report is None:
        return
    from bulkdl.cli.commands.report import REPORT, to_html  # noqa: PLC0415 - needed only for --report
    from bulkdl.cli.output_file import write_file  # noqa: PLC0415

    write_file(command.report, to_html(result, command.manifest), REPORT)
    if command.verbosity >= 0:
        say(f"report: {command.report}")
