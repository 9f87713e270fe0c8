"""Errors that name who acts: try again, fail the product, stop the account, stop the run, mend the manifest.

Every message is written for the person in the morning: what happened, then (`hint`) what to do next. None may hold a
secret: URLs go through `bulkdl.core.urls.Url`, and text from a server is cut and stripped of control characters.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkdl.core.models import FailureKind

__all__ = [
    "AccountStopped",
    "BulkdlError",
    "ManifestError",
    "Problem",
    "ProductFailed",
    "RunStopped",
    "StorageStopped",
    "TryAgain",
    "UsageError",
    "first_error",
]


class BulkdlError(Exception):
    """Base of all errors that bulkdl raises on purpose.

    `reason` says what happened, `hint` what to do next (may be empty).
    """

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.reason}. {self.hint}" if self.hint else self.reason


class TryAgain(BulkdlError):  # noqa: N818 - named for what the caller does
    """This attempt ended; the product may be tried again.

    `wait` is the server's own wish in seconds (Retry-After), None where it named none.
    """

    def __init__(
        self,
        reason: str,
        *,
        kind: FailureKind,
        hint: str = "",
        wait: float | None = None,
        restart: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__(reason, hint=hint)
        self.kind = kind
        self.wait = wait
        self.limit = limit
        """So many vain attempts in a row at most, where that is fewer than the run's `retries`."""
        self.restart = restart
        """The partial does not belong to what the server has now: begin again from zero."""


class ProductFailed(BulkdlError):  # noqa: N818
    """No attempt can mend this product; the others go on."""

    def __init__(self, reason: str, *, kind: FailureKind, hint: str = "") -> None:
        super().__init__(reason, hint=hint)
        self.kind = kind


class AccountStopped(BulkdlError):  # noqa: N818
    """An account can do nothing more; its products stay pending, other accounts go on."""

    def __init__(self, reason: str, *, account: str, hint: str = "") -> None:
        super().__init__(reason, hint=hint)
        self.account = account


class RunStopped(BulkdlError):  # noqa: N818
    """The whole run ends; `exit_code` is the contract's."""

    exit_code = 4


class StorageStopped(RunStopped):
    """This machine is in the way: disk full, destination not writable, another run holds the destination."""

    def __init__(self, reason: str, *, hint: str = "", full: bool = False) -> None:
        super().__init__(reason, hint=hint)
        self.full = full
        """No space left (ENOSPC, EDQUOT): room would mend it."""


class UsageError(BulkdlError):
    """The command line is wrong; exit 2."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong with a manifest."""

    line: int
    column: int
    """Both from 1; 0 where the fault has no place."""
    message: str
    """What was expected and what was found, with a suggestion where there is a likely one."""


@contextmanager
def first_error() -> Iterator[None]:
    """Out of a task group's `ExceptionGroup` raise the one error that says most: who acts for the widest."""
    try:
        yield
    except BaseExceptionGroup as group:
        first = min(_leaves(group), key=_width)
        raise first from first.__cause__


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _width(error: BaseException) -> int:
    ranks = (RunStopped, AccountStopped, ProductFailed, TryAgain)
    # What bulkdl did not raise on purpose is a defect, and must not hide behind an error that is expected.
    return next((i for i, rank in enumerate(ranks, 1) if isinstance(error, rank)), 0)


class ManifestError(BulkdlError):
    """Everything that is wrong with a manifest, in one go; exit 2."""

    def __init__(self, path: str, problems: tuple[Problem, ...]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """`file:line:column: message`, one a problem; `file: message` where the fault has no place."""
        return [
            f"{self.path}:{p.line}:{p.column}: {p.message}" if p.line else f"{self.path}: {p.message}"
            for p in self.problems
        ]
