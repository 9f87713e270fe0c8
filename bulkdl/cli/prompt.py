"""Asking the person for a secret, where there is one to ask."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bulkdl.cli.progress.factory import Progress

__all__ = ["Ask", "prompt_for"]


class Ask(Protocol):
    """Puts a question on the terminal; with `hidden` what is typed is not shown."""

    def __call__(self, question: str, *, hidden: bool = True) -> str: ...


def prompt_for(progress: Progress | None = None) -> Ask | None:
    """A way to ask that has the terminal for itself meanwhile; None where nobody sits there."""
    # A stream is None where the parent closed it, whatever its type says.
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        return None

    def ask(question: str, *, hidden: bool = True) -> str:
        if progress is None:
            return _ask(question, hidden=hidden)
        with progress.suspended():
            return _ask(question, hidden=hidden)

    return ask


def _ask(question: str, *, hidden: bool) -> str:
    text = question if question.endswith(" ") else f"{question.rstrip(':')}: "
    if hidden:
        import getpass  # noqa: PLC0415 - only where someone is asked

        return getpass.getpass(text, stream=sys.stderr)
    sys.stderr.write(text)
    sys.stderr.flush()
    return sys.stdin.readline().rstrip("\n")
