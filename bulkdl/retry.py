"""What is tried again, and when. Pure: the clock's reading and the random numbers are given."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind

if TYPE_CHECKING:
    import random

    from bulkdl.core.errors import TryAgain

__all__ = ["Budget", "Next", "StatusClass", "backoff", "classify", "next_step", "parse_http_date", "parse_retry_after"]

BACKOFF_BASE_S = 1.0
BACKOFF_CAP_S = 60.0
_LONGEST_S = 10 * 365 * 86400.0
_IMF_FIXDATE = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII)
"""The form that servers must send; email's parser, for any form, costs twenty times as much."""
_MONTHS = {"Jan": 1, "Feb": 2, "Mar": 3, "Apr": 4, "May": 5, "Jun": 6}
_MONTHS |= {"Jul": 7, "Aug": 8, "Sep": 9, "Oct": 10, "Nov": 11, "Dec": 12}


class StatusClass(Enum):
    """Who acts on a response's status."""

    BODY = "body"  # 200, 206: look at the head
    REDIRECT = "redirect"
    PREPARING = "preparing"  # 202: made on demand, come back
    RANGE = "range"  # 416
    CREDENTIAL = "credential"  # 401, 403
    LATER = "later"  # passing: try again
    NEVER = "never"  # the product's own fault: 404 and its kin


_OWN = {200: StatusClass.BODY, 206: StatusClass.BODY, 202: StatusClass.PREPARING, 416: StatusClass.RANGE}
_LATER_4XX = frozenset({408, 409, 421, 423, 425, 429})
_NEVER_5XX = frozenset({501, 505, 506, 508, 510})


def classify(status: int) -> StatusClass:
    """The one place that says what is tried again (RFC 9110 §15); unknown codes from 300 on count as their class's x00.

    Of the 2xx only 200 and 206 carry the product itself: 203 is one that a proxy has changed.
    """
    if status in _OWN:
        return _OWN[status]
    if status in (301, 302, 303, 307, 308):
        return StatusClass.REDIRECT
    if status in (401, 403):
        return StatusClass.CREDENTIAL
    if status in _LATER_4XX or (500 <= status <= 599 and status not in _NEVER_5XX):
        return StatusClass.LATER
    return StatusClass.NEVER


@lru_cache(maxsize=64)
def parse_http_date(value: str | None) -> float | None:
    """Unix time of an HTTP date, of any of the three forms (RFC 9110 §5.6.7), None where it is none."""
    if value is None:
        return None
    if (usual := _IMF_FIXDATE.fullmatch(value)) is not None:
        day, month, year, hour, minute, second = usual.groups()
        with suppress(ValueError, KeyError):
            moment = datetime(int(year), _MONTHS[month], int(day), int(hour), int(minute), int(second), tzinfo=UTC)
            return moment.timestamp()
    try:
        moment = parsedate_to_datetime(value)
        # The form of asctime names no zone: it is UTC like the others, not this machine's.
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds to wait (RFC 9110 §10.2.3: seconds or a date), never negative; None where the field says nothing usable."""
    text = (value or "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return min(float(text), _LONGEST_S)
    moment = parse_http_date(text) if text else None
    return None if moment is None else min(max(0.0, moment - now), _LONGEST_S)


def backoff(attempt: int, *, rng: random.Random) -> float:
    """Seconds before the next try after `attempt` vain ones in a row: doubling, half of it random, at most 60 s."""
    ceiling = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(attempt - 1, 16))
    return ceiling / 2 + rng.uniform(0, ceiling / 2)


@dataclass(slots=True)
class Budget:
    """Attempts in a row that got no further than the furthest byte so far; progress refunds them all."""

    retries: int
    """How many of them make a failure; 0 is as 1."""
    fruitless: int = 0
    furthest: int = 0
    """Bytes on disk at most so far."""
    waited_s: float = 0.0
    """Seconds waited at the server's wish since the last progress."""
    polls: int = 0
    _gained: bool = field(default=False, repr=False)
    """The attempt that has just ended got further: it is none of the vain ones."""

    def progressed(self, have: int) -> bool:
        """Note how many bytes are on disk now; True, and a full refund, when that is more than ever."""
        self._gained = have > self.furthest
        if not self._gained:
            return False
        self.furthest, self.fruitless, self.waited_s, self.polls = have, 0, 0.0, 0
        return True

    def spend(self, *, limit: int | None = None) -> bool:
        """Count the attempt that has ended, unless it got further; True while another is allowed."""
        if self._gained:
            self._gained = False
            return True
        self.fruitless += 1
        allowed = max(1, self.retries if limit is None else min(limit, self.retries))
        return self.fruitless < allowed


@dataclass(frozen=True, slots=True)
class Next:
    """What follows a vain attempt: another one after `wait` seconds, or none (`give_up` says why)."""

    wait: float = 0.0
    give_up: str = ""


def next_step(fault: TryAgain, budget: Budget, *, max_wait: float, rng: random.Random) -> Next:
    """Spend the budget for `fault`; the server's own wish is obeyed up to `max_wait` seconds without progress."""
    if fault.kind is FailureKind.OFFLINE:
        # 202: nothing has failed, so only the clock ends it.
        budget.polls += 1
        wait = max(1.0, fault.wait) if fault.wait is not None else backoff(budget.polls, rng=rng)
    else:
        if not budget.spend(limit=fault.limit):
            return Next(give_up=_vain(budget.fruitless))
        wait = 0.0 if fault.restart and budget.fruitless == 1 else backoff(max(1, budget.fruitless), rng=rng)
        if fault.wait is None:
            return Next(wait=wait)
        wait = max(wait, fault.wait)
    if budget.waited_s + wait > max_wait:
        return Next(give_up=_too_long(fault, budget, wait, max_wait))
    budget.waited_s += wait
    return Next(wait=wait)


def _vain(attempts: int) -> str:
    return "the attempt got no further" if attempts == 1 else f"{attempts} attempts in a row got no further"


def _too_long(fault: TryAgain, budget: Budget, wait: float, max_wait: float) -> str:
    if fault.wait is None or budget.waited_s:
        return f"{budget.waited_s:.0f} s of waiting were not enough, and --max-wait is {max_wait:g} s"
    return f"the archive asks for a wait of {wait:.0f} s, and --max-wait is {max_wait:g} s"
