"""Retries: decide if a product is attempted again, and after which back-off. Pure: the caller gives the random numbers."""

from __future__ import annotations

import math
from dataclasses import field
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind

if TYPE_CHECKING:
    import random

    from bulkdl.core.errors import TryAgain

__all__ = ["AttemptBudget", "Next", "backoff", "next_step", "second_look_in"]

BACKOFF_BASE_S = 1.0
"""Longest wait after the first attempt without progress (s); it doubles with each further one."""
BACKOFF_CAP_S = 600.0
"""Longest wait between two attempts (s), unless the server asks for a longer one."""
BACKOFF_SHORT_CAP_S = 60.0
"""The same, if `retry_for` is 0 so that the attempts alone decide, and for a product that is being prepared."""


def backoff(attempt: int, *, rng: random.Random, cap: float = BACKOFF_SHORT_CAP_S) -> float:
    """Return the seconds to wait after `attempt` attempts in a row without progress. Half of the wait is random (jitter)."""
    ceiling = min(cap, BACKOFF_BASE_S * 2.0 ** min(attempt - 1, 16))
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
    failing_since: float | None = None
    """Time (monotonic) of the first attempt without progress; None if the latest attempt made progress."""
    _gained: bool = field(default=False, repr=False)
    """True if the attempt that has just ended made progress, so that it costs nothing."""

    def progressed(self, have: int) -> bool:
        """Refund the whole budget and return True if more bytes are on disk than ever before."""
        self._gained = have > self.furthest
        if not self._gained:
            return False
        self.furthest, self.attempts_without_progress, self.waited_s, self.poll_count = have, 0, 0.0, 0
        self.failing_since = None
        return True

    def spend(self, *, now: float = 0.0, retry_for: float = 0.0, limit: int | None = None) -> float:
        """Count the attempt that has ended, unless it made progress.

        Return for how many seconds further attempts are allowed: infinity while there are attempts left, else what is left
        of `retry_for`; 0 if the product has failed. With a `limit` the attempts alone decide.
        """
        if self._gained:
            self._gained = False
            return math.inf
        self.attempts_without_progress += 1
        self.failing_since = now if self.failing_since is None else self.failing_since
        if limit is not None:
            return math.inf if self.attempts_without_progress < max(1, min(limit, self.retries)) else 0.0
        if self.attempts_without_progress < max(1, self.retries):
            return math.inf
        return max(0.0, self.failing_since + retry_for - now)


def second_look_in(refused_at: float, *, began: float, now: float) -> float:
    """Return the seconds before a refused product is asked for once more, at the end of a run that began at `began`.

    The pause after the refusal is a tenth of the run before it, from 1 s to 60 s: a short run stays short.
    """
    pause = min(60.0, max(1.0, 0.1 * (refused_at - began)))
    return max(0.0, refused_at + pause - now)


@dataclass(frozen=True, slots=True)
class Next:
    """Next step after a failed attempt: another one after `wait` seconds, or none (`give_up` says why)."""

    wait: float = 0.0
    give_up: str = ""


def next_step(
    fault: TryAgain,
    budget: AttemptBudget,
    *,
    now: float,
    retry_for: float,
    max_wait: float,
    rng: random.Random,
) -> Next:
    """Spend the budget for `fault` at the time `now`, and return what follows.

    The server's own waits are respected as long as they are at most `max_wait` seconds in all without progress.
    """
    if fault.kind is FailureKind.OFFLINE:
        # 202: nothing has failed, so polling ends only after `max_wait` seconds.
        budget.poll_count += 1
        wait = max(1.0, fault.wait) if fault.wait is not None else backoff(budget.poll_count, rng=rng)
    else:
        left = budget.spend(now=now, retry_for=retry_for, limit=fault.limit)
        if left <= 0:
            return Next(give_up=_no_progress(budget.attempts_without_progress))
        cap = BACKOFF_CAP_S if retry_for else BACKOFF_SHORT_CAP_S
        wait = (
            0.0
            if fault.restart and budget.attempts_without_progress == 1
            else min(left, backoff(max(1, budget.attempts_without_progress), rng=rng, cap=cap))
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
