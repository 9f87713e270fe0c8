"""Collect the problems and warnings of a manifest, and describe found values in messages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bulkdl.core.errors import ManifestError, Problem

if TYPE_CHECKING:
    from bulkdl.manifest.source_position import Place

__all__ = ["SECRET_KEYS", "FatalProblem", "Findings", "describe", "describe_url", "excerpt"]

SECRET_KEYS = frozenset({"client_secret", "password", "token", "totp_secret"})
"""Keys of an account whose text is never printed."""
_MAX_PRINTED = 100
_MAX_KEPT = 5_000
"""Problems kept for sorting; further problems are only counted."""
_MAX_WARNINGS = 20
_HIDDEN = "\u2026"
_MAY_BE_SECRET = re.compile(
    r"(?i:authorization|bearer|basic|cookie|token|secret|passw(?:or)?d|passphrase|pwd|api[-_ ]?key|credential|signature|sig)"
    r"[\"']?[\s:=/]+[^\s:=/]|(?i:x-amz-|x-goog-)|eyJ[A-Za-z0-9_-]{6}|gh[a-z]_|AKIA|^[^/\s]*:[^/\s]*@"
    r"|(?=[A-Za-z0-9+=]*[a-z])(?=[A-Za-z0-9+=]*[A-Z])(?=[A-Za-z0-9+=]*[0-9])[A-Za-z0-9+=]{20}"
    r"|(?<![0-9A-Fa-f])[0-9A-Fa-f]{32}",
)
_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]{0,20}://")


class Findings:
    """Problems and warnings in any order; `raise_if_any` sorts the problems and prints the first ones."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._more = 0
        self._warnings: list[str] = []
        self._more_warnings = 0

    @property
    def is_full(self) -> bool:
        """True if further problems are only counted, so callers can skip building their messages."""
        return len(self._problems) >= _MAX_KEPT

    def add(self, place: Place, message: str) -> None:
        if place.label:
            message = f"{place.label}: {message}"
        self.add_problem(Problem(place.line, place.column, message))

    def add_problem(self, problem: Problem) -> None:
        if self.is_full:
            self._more += 1
        else:
            self._problems.append(problem)

    def count(self) -> None:
        """Count one more problem that has no message."""
        self._more += 1

    def warn(self, place: Place, message: str) -> None:
        if len(self._warnings) >= _MAX_WARNINGS:
            self._more_warnings += 1
            return
        where = place.label or (f"line {place.line}" if place.line else "")
        self._warnings.append(f"{where}: {message}" if where else message)

    def warnings(self) -> tuple[str, ...]:
        more = (f"and {self._more_warnings} more warnings",) if self._more_warnings else ()
        return (*self._warnings, *more)

    def raise_if_any(self, path: str) -> None:
        """Raise `ManifestError` with the first 100 problems by position and the number of the others."""
        if not self._problems:
            return
        problems = sorted(set(self._problems))
        first, rest = problems[:_MAX_PRINTED], problems[_MAX_PRINTED:]
        more = len(rest) + self._more
        if more:
            last = rest[0] if rest else first[-1]
            # "…" sorts this line after every other message for the same position.
            first.append(Problem(last.line, last.column, f"\u2026 and {more} more problem{'s' if more > 1 else ''}"))
        raise ManifestError(path, tuple(first))


def describe(value: object, *, secret: bool = False) -> str:
    """Describe a found value in a few words; never show a secret, or a URL's query or user."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if secret:
        return "some text" if isinstance(value, str) else "a number"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    text = re.sub(r"//[^/@]*@", "//***@", str(value))
    if _may_be_secret(text.partition("?")[0]):
        return "text that is not shown, since it may hold a secret"
    text = re.sub(r"\?.*", "?***", text, flags=re.DOTALL) if "://" in text else text
    text = "".join(c if c.isprintable() else "\ufffd" for c in text[:200])
    return f'"{text}"' if len(text) <= 80 else f'"{text[:77]}..."'


def describe_url(text: str) -> str:
    """Describe a text that should be a URL; quote it only if it begins like one.

    A line of a curl or aria2 file may be a header with a token, and any word may be a password.
    """
    if _SCHEME.match(text):
        return describe(text)
    return "text that is no URL" if text.strip() else "nothing"


def excerpt(text: str, length: int = 60) -> str:
    """Return the beginning of a name for a message; `\u2026` if it may be a secret in the wrong place."""
    return _HIDDEN if _may_be_secret(text) else text[:length]


def _may_be_secret(text: str) -> bool:
    return _MAY_BE_SECRET.search(text) is not None


class FatalProblem(Exception):  # noqa: N818 - it carries a Problem
    """A problem after which the rest of the file cannot be read."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(line, column, message)
