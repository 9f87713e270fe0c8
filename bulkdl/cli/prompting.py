"""Asking the person for a secret, where there is one to ask."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkdl.cli.progress import Progress

__all__ = ["prompt_for"]


def prompt_for(progress: Progress | None = None) -> Callable[[str], str] | None:
    """A function that asks on the terminal without echo; None where nobody sits there."""
    if sys.stdin is None or sys.stderr is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(question: str) -> str:
        text = question if question.endswith(" ") else f"{question.rstrip(':')}: "
        if progress is None:
            return getpass.getpass(text, stream=sys.stderr)
        with progress.suspended():
            return getpass.getpass(text, stream=sys.stderr)

    return ask
