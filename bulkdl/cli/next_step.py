"""The next step that is right after each end of a run; pure functions.

"Run the same command again" is wrong after a refused password, since repeated attempts lock accounts, and after nothing
but products that are gone. The command is printed as it was typed, with all its options.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING

from bulkdl.cli.text import clean
from bulkdl.core.models import FailureKind
from bulkdl.core.urls import Url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bulkdl.core.models import Outcome
    from bulkdl.operations.result import RunResult

__all__ = ["command_line", "may_pass", "next_step", "program"]

_MACHINE = 4
_PASSING = frozenset({FailureKind.NETWORK, FailureKind.OFFLINE, FailureKind.CONTENT})
"""Kinds of failures that another run may not meet; a maintenance page is a failure of the content."""
_PASSING_STATUSES = frozenset({"408", "425", "429"})
"""Client errors (RFC 9110 §15.5) that pass; server errors pass as well."""
_SECRET_OPTIONS = ("--notify",)
"""Options whose value is a URL that may be a secret as a whole."""


def next_step(result: RunResult, *, manifest: str, again: Sequence[str]) -> str:
    """Return what the user should do now; "" if nothing is left. `again`: the words of this command line."""
    if result.exit_code == 0:
        return ""
    return "\n".join(_steps(result, manifest, command_line(again)))


def _steps(result: RunResult, manifest: str, same: str) -> Iterator[str]:
    stopped = [name for name, use in result.accounts.items() if use.stopped and not use.is_out_of_quota]
    passing = sum(1 for outcome in result.failures if may_pass(outcome))
    if result.exit_code == _MACHINE:
        yield "Mend first what is in the way on this machine (see above)."
    for name in stopped:
        yield f"Before running again, check that account {clean(name)} can log in:"
        yield f"  {command_line(('bulkdl', 'login', manifest, name))}"
    if passing < result.failed:
        which = "the failures" if not passing else f"{result.failed - passing:,} of the failures"
        yield (
            f"Running again will not help with {which} above: they need a change of the manifest, of an account, "
            "of the destination folder or at the archive."
        )
    waiting = [name for name, use in result.accounts.items() if use.is_out_of_quota]
    for name in waiting:
        yield f"The quota of account {clean(name)} has no room: see above when it has."
    if passing or result.pending or result.exit_code == _MACHINE:
        yield (
            "Then run the same command again to continue:"
            if stopped or waiting
            else "Run the same command again to continue:"
        )
        yield f"  {same}"
        yield "Products in place are not downloaded again."


def may_pass(outcome: Outcome) -> bool:
    """Tell whether another run may bring a product that has failed."""
    failure = outcome.failure
    if failure is None or failure.kind in _PASSING:
        return True
    if failure.kind is not FailureKind.HTTP:
        return False
    status = re.search(r"\banswered (\d{3})\b", failure.reason)
    return status is None or not status[1].startswith("4") or status[1] in _PASSING_STATUSES


def program() -> tuple[str, ...]:
    """Return how this program was called: `bulkdl`, or `python -m bulkdl`."""
    called = PurePath(sys.argv[0]).name
    return ("bulkdl",) if called != "__main__.py" else (sys.orig_argv[0], "-m", "bulkdl")


def command_line(words: Sequence[str]) -> str:
    """Return the words as they can be pasted into a shell of this system, without secrets."""
    shown = list(_without_secrets(words))
    if os.name == "nt":
        from subprocess import list2cmdline  # noqa: PLC0415 - needed only on Windows

        return clean(list2cmdline(shown))
    from shlex import join  # noqa: PLC0415 - needed only after a run that is not complete

    return clean(join(shown))


def _without_secrets(words: Iterable[str]) -> Iterator[str]:
    before = ""
    for word in words:
        option, equals, _ = word.partition("=")
        if before in _SECRET_OPTIONS:
            yield "URL"
        elif equals and option in _SECRET_OPTIONS:
            yield f"{option}=URL"
        elif re.match(r"https?://", word, re.IGNORECASE):
            yield _masked(word)
        else:
            yield word
        before = word


def _masked(word: str) -> str:
    try:
        return str(Url(word))
    except ValueError:
        return "URL"
