"""Print results to standard output and everything else to standard error."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "escape_unencodable",
    "finish",
    "one_reader",
    "open_missing_descriptors",
    "print_error",
    "remember_stalled",
    "say",
    "suggest",
    "write_out",
]

_STALLED_PATIENCE_S = 1.0
"""Wait for a reader who took nothing at the end of the run (s)."""
_stalled: set[tuple[int, int]] = set()
"""Device and inode of each terminal or pipe whose reader took nothing at the end of the run."""


def open_missing_descriptors() -> None:
    """Open the null device for each standard stream that the parent process has closed.

    Otherwise the next file that is opened, such as the journal, would get its number, and whatever prints to it by number
    would write into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest free number is the missing one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - open until the process ends


def escape_unencodable() -> None:
    """Make both streams write a character that they cannot encode as an escape, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")


def write_out(text: str, *, patience_s: float | None = None) -> None:
    """Write a result to standard output; a closed pipe, as after `head`, is not an error.

    `patience_s`: give up after as many seconds in which the reader took nothing; None: a reader may take its time.
    Raise `StorageStopped` if the text cannot be written, for instance to a full disk.
    """
    error = _write(sys.stdout, text, patience_s)
    if error is not None:
        from bulkdl.core.errors import StorageStopped  # noqa: PLC0415 - rarely needed

        raise StorageStopped(f"standard output cannot be written: {error.strerror}")


def say(text: str, *, patience_s: float | None = None) -> None:
    """Print one line to standard error; `patience_s` as for `write_out`."""
    _write(sys.stderr, f"{text}\n", patience_s)


def print_error(text: str) -> None:
    """Print one line about a problem to standard error."""
    say(f"bulkdl: {text}")


def finish() -> bool:
    """Flush both streams now, so that the interpreter's own flush at exit cannot fail.

    Return False if standard output could not be written.
    """
    error = _write(sys.stdout, "")
    if error is not None:
        print_error(f"standard output cannot be written: {error.strerror}.")
    _write(sys.stderr, "")
    return error is None


def remember_stalled(stream: TextIO) -> None:
    """Remember that nobody reads `stream`, so that the last words of the program do not wait for ever.

    Standard output is often the same terminal or pipe.
    """
    key = _file_of(stream)
    if key is not None:
        _stalled.add(key)


def _write(stream: TextIO | None, text: str, patience_s: float | None = None) -> OSError | None:
    """Write and flush; return the error that made it fail, except for a closed pipe."""
    if stream is None:  # pythonw has no streams; a parent process may have closed them
        return None
    if _stalled and _file_of(stream) in _stalled:
        patience_s = _STALLED_PATIENCE_S
    try:
        if not text:  # a write of nothing waits as well for a terminal that is stopped
            stream.flush()
        elif patience_s is None and _waits(stream):
            stream.write(text)
            stream.flush()
        else:
            _write_patiently(stream, text, patience_s)
    except BrokenPipeError:
        _redirect_to_devnull(stream)
    except OSError as error:
        _redirect_to_devnull(stream)  # the text stays in the buffer, and the flush at exit would fail again
        return error
    except ValueError:  # the stream is closed
        return None
    return None


def _waits(stream: TextIO) -> bool:
    """Tell whether a write waits for the reader; another program may have made the shared pipe non-blocking."""
    try:
        return os.get_blocking(stream.fileno())
    except (OSError, ValueError, AttributeError):  # a stream in memory, or Windows
        return True


def _write_patiently(stream: TextIO, text: str, patience_s: float | None) -> None:
    from bulkdl.cli.background_writer import BackgroundWriter, raw_of  # noqa: PLC0415 - only after an interruption

    stream.flush()
    raw = raw_of(stream)
    if raw is None:
        stream.write(text)
        stream.flush()
        return
    writer = BackgroundWriter(lambda: raw, encoding=stream.encoding)
    writer.put(text if stream.isatty() else text.replace("\n", os.linesep))
    drained = writer.close(patience_s)
    if writer.error is not None:
        raise writer.error
    if not drained:
        remember_stalled(stream)


def one_reader() -> bool:
    """Tell whether both streams go to one terminal or file, so that what one said need not be repeated on the other."""
    if sys.stdout is None or sys.stderr is None:
        return False
    return _file_of(sys.stdout) is not None and _file_of(sys.stdout) == _file_of(sys.stderr)


def _file_of(stream: TextIO) -> tuple[int, int] | None:
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


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
