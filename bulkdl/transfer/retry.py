"""Retries: decide if a product is attempted again, and after which back-off. Pure: the caller gives the random numbers."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind

if TYPE_CHECKING:
    import random

    from bulkdl.core.errors import TryAgain

__all__ = ["AttemptBudget", "Next", "backoff", "next_step"]

BACKOFF_BASE_S = 1.0
"""Longest wait after the first attempt without progress (s); it doubles with each further one."""
BACKOFF_CAP_S = 60.0
"""Longest wait between two attempts (s), unless the server asks for a longer one."""


def backoff(attempt: int, *, rng: random.Random) -> float:
    """Return the seconds to wait after `attempt` attempts in a row without progress. Half of the wait is random (jitter)."""
    ceiling = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(attempt - 1, 16))
    return ceiling / 2 + rng.uniform(0, ceiling / 2)


@dataclass(slots=True)
class AttemptBudget:
    """Budget of attempts in a row that got no further than the furthest byte so far. Progress refunds all of them."""

    retries: int
    """Attempts without progress before the product fails. 0 means 1."""
    attempts_without_progress: int = 0
    furthest: int = 0
    """Most bytes that have been on disk so far."""
    waited_s: float = 0.0
    """Seconds waited at the server's request (`Retry-After`, 202) since the last progress."""
    poll_count: int = 0
    """Answers 202 (the product is being prepared) since the last progress."""
    _gained: bool = field(default=False, repr=False)
    """True if the attempt that has just ended made progress, so that it costs nothing."""

    def progressed(self, have: int) -> bool:
        """Refund the whole budget and return True if more bytes are on disk than ever before."""
        self._gained = have > self.furthest
        if not self._gained:
            return False
        self.furthest, self.attempts_without_progress, self.waited_s, self.poll_count = have, 0, 0.0, 0
        return True

    def spend(self, *, limit: int | None = None) -> bool:
        """Count the attempt that has ended, unless it made progress; return True if another one is allowed."""
        if self._gained:
            self._gained = False
            return True
        self.attempts_without_progress += 1
        allowed = max(1, self.retries if limit is None else min(limit, self.retries))
        return self.attempts_without_progress < allowed


@dataclass(frozen=True, slots=True)
class Next:
    """Next step after a failed attempt: another one after `wait` seconds, or none (`give_up` says why)."""

    wait: float = 0.0
    give_up: str = ""


def next_step(fault: TryAgain, budget: AttemptBudget, *, max_wait: float, rng: random.Random) -> Next:
    """Spend the budget for `fault`, and return what follows.

    The server's own waits are respected as long as they are at most `max_wait` seconds in all without progress.
    """
    if fault.kind is FailureKind.OFFLINE:
        # 202: nothing has failed, so polling ends only after `max_wait` seconds.
        budget.poll_count += 1
        wait = max(1.0, fault.wait) if fault.wait is not None else backoff(budget.poll_count, rng=rng)
    else:
        if not budget.spend(limit=fault.limit):
            return Next(give_up=_no_progress(budget.attempts_without_progress))
        wait = (
            0.0
            if fault.restart and budget.attempts_without_progress == 1
            else backoff(max(1, budget.attempts_without_progress), rng=rng)
        )
        if fault.wait is None:
            return Next(wait=wait)
        wait = max(wait, fault.wait)
    if budget.waited_s + wait > max_wait:
        return Next(give_up=_too_long(fault, budget, wait, max_wait))
    budget.waited_s += wait
    return Next(wait=wait)


def _no_progress(attempts: int) -> str:
    return "no progress" if attempts == 1 else f"no progress in {attempts} attempts"


def _too_long(fault: TryAgain, budget: AttemptBudget, wait: float, max_wait: float) -> str:
    if fault.wait is None or budget.waited_s:
        return f"{budget.waited_s:.0f} s of waiting were not enough, and --max-wait is {max_wait:g} s"
    return f"the archive asks for a wait of {wait:.0f} s, and --max-wait is {max_wait:g} s"
