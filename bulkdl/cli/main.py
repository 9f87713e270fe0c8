"""Entry of the command line: parse it, run the command, and turn its result or error into the exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from bulkdl._version import __version__
from bulkdl.cli.output import (
    escape_unencodable,
    finish,
    open_missing_descriptors,
    print_error,
    say,
    write_out,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

__all__ = ["explain", "main"]

_USAGE = 2
_ACCOUNT = 3
_MACHINE = 4
_SIGNALS = 128
"""Exit codes from here on tell of a signal; no other cause replaces them."""
_INTERRUPTED = 130
_LAST_PATIENCE_S = 1.0
_INTERNAL_ERROR = 1


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command line (without the program's name); return its exit code."""
    open_missing_descriptors()
    escape_unencodable()
    argv = sys.argv[1:] if argv is None else argv
    if list(argv) == ["--version"]:  # skip building the parser, which takes longer than everything else here
        return _print_version()
    from bulkdl.core.gc_control import disabled_at_startup  # noqa: PLC0415

    with disabled_at_startup():
        return _command(argv, os.environ if environ is None else environ)


def _print_version() -> int:
    try:
        write_out(f"bulkdl {__version__}\n")
    except Exception as error:  # noqa: BLE001 - loading the error classes takes longer than everything else here
        return explain(error)
    return 0


def _command(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    from bulkdl.cli.parser import build_parser  # noqa: PLC0415

    parser = build_parser(only=argv[0] if argv else None)
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as end:  # argparse has already printed the help, the version or the error
        written = finish()
        return _MACHINE if not written else end.code if isinstance(end.code, int) else _USAGE
    arguments.words = tuple(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        finish()
        return _USAGE
    code = _run(arguments, environ)
    written = finish()
    return code if written or code >= _SIGNALS else _MACHINE


def _run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from bulkdl.cli.dispatch import run_command  # noqa: PLC0415 - `--help` and `--version` do not need it

    try:
        return run_command(arguments, environ)
    except KeyboardInterrupt:
        say("", patience_s=_LAST_PATIENCE_S)  # the terminal may be the very thing that was interrupted
        return _INTERRUPTED
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001 - last resort: print a traceback only with -vv
        return explain(error, with_traceback=_wants_trace(arguments, environ))


def explain(error: BaseException, *, with_traceback: bool = False) -> int:
    """Print on standard error why the command ended; return its exit code."""
    from bulkdl.core.errors import AccountStopped, BulkdlError, ManifestError, RunStopped, UsageError  # noqa: PLC0415

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case ManifestError():
            for line in error.lines():
                say(line)
            number = len(error.problems)
            print_error(f"{number} problem{'' if number == 1 else 's'} in {error.path}; {error.ended}.")
            return _USAGE
        case UsageError():
            print_error(_with_full_stop(str(error)))
            return _USAGE
        case RunStopped():
            print_error(_with_full_stop(str(error)))
            return error.exit_code
        case AccountStopped():
            print_error(_with_full_stop(f"account {error.account}: {error}"))
            return _ACCOUNT
        case BulkdlError():
            print_error(_with_full_stop(str(error)))
            return _INTERNAL_ERROR
        case _:
            _report_bug(error, with_traceback=with_traceback)
            return _INTERNAL_ERROR


def _report_bug(error: BaseException, *, with_traceback: bool) -> None:
    import traceback  # noqa: PLC0415 - rarely needed, and slow to import
    from pathlib import PurePath  # noqa: PLC0415

    # The message of a foreign exception may contain a secret, so print only its type and its place in the code.
    frames = traceback.extract_tb(error.__traceback__)
    own_frames = [f for f in frames if "bulkdl" in f.filename]
    place = f" at {PurePath(own_frames[-1].filename).name}:{own_frames[-1].lineno}" if own_frames else ""
    print_error(
        f"internal error ({type(error).__name__}{place}). This is a bug in bulkdl. Please report it with the output of"
        " the same command plus -vv. Finished files are safe; run the same command again to resume."
    )
    if with_traceback:
        say("".join(traceback.format_exception(error)).rstrip())


def _wants_trace(arguments: argparse.Namespace, environ: Mapping[str, str]) -> bool:
    from bulkdl.core.errors import UsageError  # noqa: PLC0415
    from bulkdl.manifest.settings import by_name, value_of  # noqa: PLC0415

    try:
        return bool(value_of(by_name("verbose"), flags=vars(arguments), environ=environ) >= 2)
    except UsageError:
        return False


def _with_full_stop(text: str) -> str:
    return text if text.endswith((".", "!", "?", ")")) else f"{text}."
