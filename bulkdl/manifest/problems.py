"""What is wrong with a manifest, gathered from all its checks; and how a found value is shown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bulkdl.core.errors import ManifestError, Problem

if TYPE_CHECKING:
    from bulkdl.manifest.source_position import Place

__all__ = ["SECRET_KEYS", "Fault", "Findings", "shown"]

SECRET_KEYS = frozenset({"client_secret", "password", "token", "totp_secret"})
"""Keys of an account whose text is never printed."""
_PRINTED = 100
_KEPT = 5_000
"""Problems kept for sorting; a file with more is sorted among these."""
_WARNED = 20


class Findings:
    """Problems and warnings, in any order; `raise_if_any` sorts and cuts them."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._more = 0
        self._warnings: list[str] = []
        self._more_warnings = 0

    @property
    def is_full(self) -> bool:
        """Further problems are only counted, so their sentences need not be made."""
        return len(self._problems) >= _KEPT

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
        """One more problem, without its sentence."""
        self._more += 1

    def warn(self, place: Place, message: str) -> None:
        if len(self._warnings) >= _WARNED:
            self._more_warnings += 1
            return
        where = place.label or (f"line {place.line}" if place.line else "")
        self._warnings.append(f"{where}: {message}" if where else message)

    def warnings(self) -> tuple[str, ...]:
        more = (f"and {self._more_warnings} more warnings",) if self._more_warnings else ()
        return (*self._warnings, *more)

    def raise_if_any(self, path: str) -> None:
        """Raise `ManifestError` with the first hundred problems by position, and how many more there are."""
        if not self._problems:
            return
        problems = sorted(set(self._problems))
        first, rest = problems[:_PRINTED], problems[_PRINTED:]
        more = len(rest) + self._more
        if more:
            last = rest[0] if rest else first[-1]
            # The ellipsis sorts this behind any other sentence about the same place.
            first.append(Problem(last.line, last.column, f"\u2026 and {more} more problem{'s' if more > 1 else ''}"))
        raise ManifestError(path, tuple(first))


def shown(value: object, *, secret: bool = False) -> str:
    """A found value in a few words; of a secret, and of a URL's query and user, nothing."""
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
    text = re.sub(r"\?.*", "?***", text, flags=re.DOTALL) if "://" in text else text
    text = "".join(c if c.isprintable() else "\ufffd" for c in text[:200])
    return f'"{text}"' if len(text) <= 80 else f'"{text[:77]}..."'


class Fault(Exception):  # noqa: N818 - it carries a Problem; whoever reads ends with it
    """The rest of the file cannot be read."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(line, column, message)
