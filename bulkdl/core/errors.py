"""Errors by scope: retry the attempt, fail the product, stop the account, stop the run, fix the manifest.

Every message is written for a user: first what happened, then (`hint`) what to do next. No message may hold a secret:
URLs go through `bulkdl.core.urls.Url`, and text from a server is shortened and stripped of control characters.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkdl.core.models import FailureKind, Trouble

__all__ = [
    "QUOTA_USED",
    "AccountStopped",
    "AccountWaiting",
    "BulkdlError",
    "ManifestError",
    "Problem",
    "ProductFailed",
    "QuotaReached",
    "RunStopped",
    "StorageStopped",
    "TryAgain",
    "UsageError",
    "first_error",
]


class BulkdlError(Exception):
    """Base of all errors that bulkdl raises on purpose.

    `reason` says what happened; `hint` says what to do next and may be empty.
    """

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.reason}. {self.hint}" if self.hint else self.reason


class TryAgain(BulkdlError):  # noqa: N818 - named for what the caller does
    """This attempt failed; a retry may succeed.

    `wait` is the delay in seconds that the server asked for (Retry-After), or None if it named none.
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
        trouble: Trouble | None = None,
        may_be_limit: bool = False,
    ) -> None:
        super().__init__(reason, hint=hint)
        self.kind = kind
        self.wait = wait
        self.may_be_limit = may_be_limit
        """True if servers answer so where a limit of connections or requests is reached."""
        self.trouble = trouble
        """The trouble, if every request to this origin would meet it; None if it is about this product."""
        self.limit = limit
        """Limit of attempts in a row without progress, if lower than the run's `retries`."""
        self.restart = restart
        """True if the partial belongs to another version than the server has now, so the retry starts from zero."""
        self.origin: str | None = None
        """Origin that the failed request went to, which a redirect may have named; None if unknown."""


class ProductFailed(BulkdlError):  # noqa: N818
    """No retry can help this product; the others continue.

    `is_refusal`: the server refused or replaced the product, which it may do to everybody while it is out of order. Then
    the verdict is checked before it counts.
    """

    def __init__(self, reason: str, *, kind: FailureKind, hint: str = "", is_refusal: bool = False) -> None:
        super().__init__(reason, hint=hint)
        self.kind = kind
        self.is_refusal = is_refusal


class AccountWaiting(BulkdlError):  # noqa: N818
    """An account has no usable token now, and its token endpoint is out of order: its products wait."""

    def __init__(self, reason: str, *, account: str) -> None:
        super().__init__(reason)
        self.account = account


class AccountStopped(BulkdlError):  # noqa: N818
    """An account is unusable: its products stay pending, and other accounts continue."""

    def __init__(self, reason: str, *, account: str, hint: str = "") -> None:
        super().__init__(reason, hint=hint)
        self.account = account


QUOTA_USED = "no room in the quota"
"""Beginning of the reason of a `QuotaReached`, by which it is known in a journal."""


class QuotaReached(AccountStopped):
    """An account has used its share of what its provider allows: its products stay pending until there is room again."""


class RunStopped(BulkdlError):  # noqa: N818
    """The whole run ends with `exit_code`."""

    exit_code = 4


class StorageStopped(RunStopped):
    """A local problem ends the run: disk full, destination not writable, destination locked by another run."""

    def __init__(self, reason: str, *, hint: str = "", full: bool = False) -> None:
        super().__init__(reason, hint=hint)
        self.full = full
        """True if the disk or the quota is full (ENOSPC, EDQUOT), so that free space would solve it."""


class UsageError(BulkdlError):
    """The command line is wrong; exit 2."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One error in a manifest."""

    line: int
    column: int
    """Line and column count from 1; both are 0 if the problem has no position."""
    message: str
    """Expected and found value, with a suggestion if there is a likely one."""


@contextmanager
def first_error() -> Iterator[None]:
    """Raise one error of a task group's `ExceptionGroup`: the one with the widest scope.

    The order is: an unexpected exception, run, account, product, attempt.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        first = min(_leaves(group), key=_scope_rank)
        raise first from first.__cause__


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _scope_rank(error: BaseException) -> int:
    ranks = (RunStopped, AccountStopped, AccountWaiting, ProductFailed, TryAgain)
    # An exception that bulkdl did not raise on purpose is a bug; rank it first, so that no expected error hides it.
    return next((i for i, rank in enumerate(ranks, 1) if isinstance(error, rank)), 0)


class ManifestError(BulkdlError):
    """All errors of a manifest at once; exit 2."""

    def __init__(self, path: str, problems: tuple[Problem, ...], *, ended: str = "nothing was downloaded") -> None:
        self.path = path
        self.ended = ended
        """Result that the problems have prevented, in a few words."""
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """Return one `file:line:column: message` for each problem, `file: message` for one without a position."""
        return [
            f"{self.path}:{p.line}:{p.column}: {p.message}" if p.line else f"{self.path}: {p.message}"
            for p in self.problems
        ]
