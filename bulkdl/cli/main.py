"""The entry: parse, hand over to the command, and turn every end into an exit code, in this one place."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from bulkdl._version import __version__
from bulkdl.cli.output import complain, finish, harden, say, write_out

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

__all__ = ["explain", "main"]

_USAGE = 2
_ACCOUNT = 3
_INTERRUPTED = 130
_DEFECT = 1


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command line (without the program's name); return the exit code of the contract."""
    harden()
    argv = sys.argv[1:] if argv is None else argv
    if list(argv) == ["--version"]:  # the tree of commands costs more than all the rest of this
        write_out(f"bulkdl {__version__}\n")
        return 0
    from bulkdl.core.gc_control import disabled_at_startup  # noqa: PLC0415

    with disabled_at_startup():
        return _command(argv, os.environ if environ is None else environ)


def _command(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    from bulkdl.cli.parser import build_parser  # noqa: PLC0415

    parser = build_parser(only=argv[0] if argv else None)
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as end:  # argparse has printed the help, the version or the error
        finish()
        return end.code if isinstance(end.code, int) else _USAGE
    if arguments.command is None:
        parser.print_help(sys.stderr)
        finish()
        return _USAGE
    code = _run(arguments, environ)
    finish()
    return code


def _run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from bulkdl.cli.dispatch import run_command  # noqa: PLC0415 - `--help` and `--version` need none of it

    try:
        return run_command(arguments, environ)
    except KeyboardInterrupt:
        say("")
        return _INTERRUPTED
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: no traceback unless it was asked for
        return explain(error, traced=_wants_trace(arguments, environ))


def explain(error: BaseException, *, traced: bool = False) -> int:
    """Say on standard error what ended the command, and return its exit code."""
    from bulkdl.core.errors import AccountStopped, BulkdlError, ManifestError, RunStopped, UsageError  # noqa: PLC0415

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case ManifestError():
            for line in error.lines():
                say(line)
            number = len(error.problems)
            complain(f"{number} problem{'' if number == 1 else 's'} in {error.path}; nothing was fetched.")
            return _USAGE
        case UsageError():
            complain(_stopped(str(error)))
            return _USAGE
        case RunStopped():
            complain(_stopped(str(error)))
            return error.exit_code
        case AccountStopped():
            complain(_stopped(f"account {error.account}: {error}"))
            return _ACCOUNT
        case BulkdlError():
            complain(_stopped(str(error)))
            return _DEFECT
        case _:
            _defect(error, traced=traced)
            return _DEFECT


def _defect(error: BaseException, *, traced: bool) -> None:
    import traceback  # noqa: PLC0415 - rarely needed, and not light
    from pathlib import PurePath  # noqa: PLC0415

    # The message of a foreign exception may quote anything, a secret included, so the one line has its type and place.
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "bulkdl" in f.filename]
    place = f" at {PurePath(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    complain(
        f"internal error ({type(error).__name__}{place}). This is a defect of bulkdl: please report it with what the same"
        " command prints with -vv. Files that are finished are safe; the same command goes on."
    )
    if traced:
        say("".join(traceback.format_exception(error)).rstrip())


def _wants_trace(arguments: argparse.Namespace, environ: Mapping[str, str]) -> bool:
    from bulkdl.core.errors import UsageError  # noqa: PLC0415
    from bulkdl.manifest.settings import by_name, value_of  # noqa: PLC0415

    try:
        return bool(value_of(by_name("verbose"), flags=vars(arguments), environ=environ) >= 2)
    except UsageError:
        return False


def _stopped(text: str) -> str:
    return text if text.endswith((".", "!", "?", ")")) else f"{text}."
