"""What is tried again, and when. Pure: the clock's reading and the random numbers are given."""

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
BACKOFF_CAP_S = 60.0


def backoff(attempt: int, *, rng: random.Random) -> float:
    """Seconds before the next try after `attempt` vain ones in a row: doubling, half of it random, at most 60 s."""
    ceiling = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(attempt - 1, 16))
    return ceiling / 2 + rng.uniform(0, ceiling / 2)


@dataclass(slots=True)
class AttemptBudget:
    """Attempts in a row that got no further than the furthest byte so far; progress refunds them all."""

    retries: int
    """How many of them make a failure; 0 is as 1."""
    attempts_without_progress: int = 0
    furthest: int = 0
    """Bytes on disk at most so far."""
    waited_s: float = 0.0
    """Seconds waited at the server's wish since the last progress."""
    poll_count: int = 0
    _gained: bool = field(default=False, repr=False)
    """The attempt that has just ended got further: it is none of the vain ones."""

    def progressed(self, have: int) -> bool:
        """Note how many bytes are on disk now; True, and a full refund, when that is more than ever."""
        self._gained = have > self.furthest
        if not self._gained:
            return False
        self.furthest, self.attempts_without_progress, self.waited_s, self.poll_count = have, 0, 0.0, 0
        return True

    def spend(self, *, limit: int | None = None) -> bool:
        """Count the attempt that has ended, unless it got further; True while another is allowed."""
        if self._gained:
            self._gained = False
            return True
        self.attempts_without_progress += 1
        allowed = max(1, self.retries if limit is None else min(limit, self.retries))
        return self.attempts_without_progress < allowed


@dataclass(frozen=True, slots=True)
class Next:
    """What follows a vain attempt: another one after `wait` seconds, or none (`give_up` says why)."""

    wait: float = 0.0
    give_up: str = ""


def next_step(fault: TryAgain, budget: AttemptBudget, *, max_wait: float, rng: random.Random) -> Next:
    """Spend the budget for `fault`; the server's own wish is obeyed up to `max_wait` seconds without progress."""
    if fault.kind is FailureKind.OFFLINE:
        # 202: nothing has failed, so only the clock ends it.
        budget.poll_count += 1
        wait = max(1.0, fault.wait) if fault.wait is not None else backoff(budget.poll_count, rng=rng)
    else:
        if not budget.spend(limit=fault.limit):
            return Next(give_up=_vain(budget.attempts_without_progress))
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


def _vain(attempts: int) -> str:
    return "the attempt got no further" if attempts == 1 else f"{attempts} attempts in a row got no further"


def _too_long(fault: TryAgain, budget: AttemptBudget, wait: float, max_wait: float) -> str:
    if fault.wait is None or budget.waited_s:
        return f"{budget.waited_s:.0f} s of waiting were not enough, and --max-wait is {max_wait:g} s"
    return f"the archive asks for a wait of {wait:.0f} s, and --max-wait is {max_wait:g} s"
