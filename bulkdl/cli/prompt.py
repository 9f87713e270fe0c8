"""Ask the user for a secret on the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bulkdl.cli.progress.factory import Progress

__all__ = ["Prompt", "prompt_for"]


class Prompt(Protocol):
    """Ask a question on the terminal; `hidden` turns off the echo of the answer."""

    def __call__(self, question: str, *, hidden: bool = True) -> str: ...


def prompt_for(progress: Progress | None = None) -> Prompt | None:
    """Return a prompt function, or None if stdin or stderr is not a terminal.

    The function suspends the live view of `progress` while it asks.
    """
    # A stream is None if the parent process closed it, although its type does not say so.
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        return None

    def ask(question: str, *, hidden: bool = True) -> str:
        if progress is None:
            return _prompt(question, hidden=hidden)
        with progress.suspended():
            return _prompt(question, hidden=hidden)

    return ask


def _prompt(question: str, *, hidden: bool) -> str:
    text = question if question.endswith(" ") else f"{question.rstrip(':')}: "
    if hidden:
        import getpass  # noqa: PLC0415 - needed only for a prompt

        return getpass.getpass(text, stream=sys.stderr)
    sys.stderr.write(text)
    sys.stderr.flush()
    return sys.stdin.readline().rstrip("\n")
