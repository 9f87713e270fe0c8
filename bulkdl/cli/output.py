"""Print results to standard output and everything else to standard error."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["escape_unencodable", "finish", "print_error", "say", "suggest", "write_out"]


def escape_unencodable() -> None:
    """Make both streams write a character that they cannot encode as an escape, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")


def write_out(text: str) -> None:
    """Write a result to standard output; a closed pipe, as after `head`, is not an error."""
    _write(sys.stdout, text)


def say(text: str) -> None:
    """Print one line to standard error."""
    _write(sys.stderr, f"{text}\n")


def print_error(text: str) -> None:
    """Print one line about a problem to standard error."""
    say(f"bulkdl: {text}")


def finish() -> None:
    """Flush both streams now, so that the interpreter's own flush at exit cannot fail."""
    _write(sys.stdout, "")
    _write(sys.stderr, "")


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # pythonw has no streams; a parent process may have closed them
        return
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _redirect_to_devnull(stream)
    except ValueError:  # the stream is closed
        return


def _redirect_to_devnull(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)


def suggest(name: str, known: Sequence[str], what: str) -> str:
    """Return a hint for an unknown name: the most similar known name, else all `known` ones called `what`."""
    import difflib  # noqa: PLC0415 - needed only for a misspelt name

    near = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known) or "none"
    return f'Did you mean "{near[0]}"?' if near else f"Known {what}: {listed}."
