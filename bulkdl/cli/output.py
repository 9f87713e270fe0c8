"""Where words go: results to standard output, everything else to standard error."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["complain", "finish", "harden", "say", "suggest", "write_out"]


def harden() -> None:
    """No character may end the program: what a stream cannot encode is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")


def write_out(text: str) -> None:
    """A result, to standard output; a reader that has gone away, such as `head`, is no error."""
    _write(sys.stdout, text)


def say(text: str) -> None:
    """A line for the person, to standard error."""
    _write(sys.stderr, f"{text}\n")


def complain(text: str) -> None:
    """A line that something is wrong, to standard error."""
    say(f"bulkdl: {text}")


def finish() -> None:
    """Flush both streams, so that the interpreter has nothing left to fail on."""
    _write(sys.stdout, "")
    _write(sys.stderr, "")


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # pythonw, or closed by the parent
        return
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _to_nowhere(stream)
    except ValueError:  # closed
        return


def _to_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def suggest(name: str, known: Sequence[str]) -> str:
    """A hint for a name that is not known: the nearest one that is, else all of them."""
    import difflib  # noqa: PLC0415 - only where something is misspelt

    near = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known) or "none"
    return f'Did you mean "{near[0]}"?' if near else f"There is: {listed}."
