"""Ask the user for a user name or a secret on the terminal.

A plain read does not serve: the event loop's signal handlers only leave a note, so Ctrl-C would wait for Enter.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import NoReturn

    from bulkdl.cli.progress.factory import Progress

__all__ = ["Prompt", "prompt_for"]

_SIGTERM_CODE = 143
_MAX_ANSWER = 64 * 1024


class Prompt(Protocol):
    """Ask a question on the terminal; `hidden` turns off the echo of the answer. None: the user ended the input."""

    def __call__(self, question: str, *, hidden: bool = True) -> str | None: ...


def prompt_for(progress: Progress | None = None, *, manifest: str = "") -> Prompt | None:
    """Return a prompt function, or None if there is no terminal to ask on.

    `manifest`: as the command line names it. If it is `-`, standard input is taken, so the terminal itself is asked, as
    curl does. The function suspends the live view of `progress` while it asks.
    """
    # A stream is None if the parent process closed it, although its type does not say so.
    on_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
    if not on_terminal and (manifest != "-" or not _has_terminal()):
        return None

    def ask(question: str, *, hidden: bool = True) -> str | None:
        if progress is None:
            return _prompt(question, hidden=hidden, on_streams=on_terminal)
        with progress.suspended():
            return _prompt(question, hidden=hidden, on_streams=on_terminal)

    return ask


def _prompt(question: str, *, hidden: bool, on_streams: bool) -> str | None:
    text = question if question.endswith(" ") else f"{question.rstrip(':')}: "
    with _ending_at_signals():
        if os.name == "nt":
            return _ask_console(text, hidden=hidden)
        if on_streams:
            return _ask(text, sys.stdin.fileno(), sys.stderr.fileno(), hidden=hidden)
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        try:
            return _ask(text, terminal, terminal, hidden=hidden)
        finally:
            os.close(terminal)


def _has_terminal() -> bool:
    """Tell whether the process has a terminal and may read from it, which a job in the background may not."""
    if os.name == "nt":
        try:
            with open("CONIN$", encoding="utf-8"):  # noqa: PTH123 - a device, not a path
                return True
        except OSError:
            return False
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _ask(text: str, source: int, screen: int, *, hidden: bool) -> str | None:
    """Ask on a POSIX terminal. The terminal itself edits the line and turns Ctrl-C into a signal."""
    if sys.platform == "win32":
        raise NotImplementedError
    import termios  # noqa: PLC0415 - needed only for a prompt

    before = termios.tcgetattr(source)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    try:
        if hidden:
            termios.tcsetattr(source, termios.TCSAFLUSH, quiet)
        os.write(screen, text.encode(errors="replace"))
        answer = _read_line(source)
    finally:
        if hidden:
            with suppress(termios.error):
                termios.tcsetattr(source, termios.TCSAFLUSH, before)
    if hidden or answer is None:
        os.write(screen, b"\n")
    return answer


def _read_line(source: int) -> str | None:
    """Return the next line without its end; None if the input ended before it, as Ctrl-D does."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < _MAX_ANSWER:
        piece = os.read(source, 1024)
        if not piece:
            break
        line += piece
    else:
        return _decoded(bytes(line).rstrip(b"\r\n"))
    return _decoded(bytes(line)) if line else None


def _decoded(line: bytes) -> str:
    try:
        return line.decode(getattr(sys.stdin, "encoding", None) or "utf-8")
    except (UnicodeDecodeError, LookupError):
        return line.decode("latin-1")


def _ask_console(text: str, *, hidden: bool) -> str | None:
    """Ask on the console of Windows, whatever the standard streams are. Ctrl-Z and Enter end the input."""
    if hidden:
        import getpass  # noqa: PLC0415 - needed only for a prompt

        return getpass.getpass(text)
    with open("CONOUT$", "w", encoding="utf-8") as screen:  # noqa: PTH123 - a device, not a path
        screen.write(text)
    with open("CONIN$", encoding="utf-8") as source:  # noqa: PTH123
        line = source.readline()
    return line.rstrip("\r\n") if line else None


@contextmanager
def _ending_at_signals() -> Iterator[None]:
    """Let Ctrl-C and a termination signal end the program inside the block, after its clean-up."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(_SIGTERM_CODE)

    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminate}
    before = {number: signal.getsignal(number) for number in handlers}
    wakeup = signal.set_wakeup_fd(-1)  # else the event loop would handle the signal once more
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield
    finally:
        for number, previous in before.items():
            if previous is not None:
                signal.signal(number, previous)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
