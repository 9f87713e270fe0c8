"""Whether requests to an origin may go out ahead of the answers, and how many (pipelining, RFC 9112 §9.3.2). Pure.

Servers have to answer in the order of the requests, and some that are made by hand do not: an answer for another request
would be another product's bytes under a right name, which nothing but a checksum could tell. So only those are trusted of which it is
known that they read a request once the one before it has been answered, by the name that they give themselves; they have to give a row of
plain answers first, and to show the order once. Every breach makes the next row longer.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache

from bulkdl.core.errors import UsageError
from bulkdl.core.fast_dataclass import dataclass

__all__ = [
    "FIRST_ROW",
    "MOST",
    "OrderProof",
    "PipeliningConfig",
    "PipeliningPolicy",
    "is_known_in_order",
    "pipelining_config",
]

FIRST_ROW = 256
"""Plain answers in a row before anything is asked ahead."""
LONGER = 8
"""So many times as many are wanted after each breach."""
MOST = 8
"""Requests under way on one connection."""
HELD = 256 * 1024
"""Bytes of their bodies, about."""
QUICK_S, SLOW_S = 0.02, 0.1
"""Between two answers: up to the first, many wait behind one another; beyond the second, none does."""
TRIALS = 4
"""Trials that showed nothing, before it is given up to prove the order."""
FEW_CUTS, PER_CUT = 4, 16
"""Connections may end so often, and once more for so many answers: servers close theirs after 100 or 1,000."""
_KEPT = 0.8
"""Of the mean so far."""


_IN_TURN = frozenset({"apache", "caddy", "envoy", "istio-envoy", "jetty", "lighttpd", "nginx", "openresty", "tengine"})
"""Servers, in lower case, that work on one request of a connection at a time."""


@lru_cache(maxsize=64)
def is_known_in_order(server: str) -> bool:
    """Whether a `Server` field (RFC 9110 §10.2.4) names a server of which that is known."""
    product = server.strip().partition(" ")[0].partition("(")[0].partition("/")[0]
    return product.lower() in _IN_TURN


@dataclass(frozen=True, slots=True)
class PipeliningConfig:
    """What has to be seen of an origin before anything is asked ahead."""

    length: int = FIRST_ROW
    of_any: bool = False
    """Whoever its server says that it is."""


def pipelining_config(value: str | None) -> PipeliningConfig | None:
    """What `BULKDL_ASK_AHEAD` asks for: `0` for None, nothing ahead; another number for so long a row, of any server.

    Raise `UsageError` where it is no number.
    """
    if value is None or value == "":
        return PipeliningConfig()
    if not (value.isascii() and value.isdecimal()) or len(value) > 9:
        raise UsageError(
            "BULKDL_ASK_AHEAD: expected a whole number", hint="Use 0 to ask for nothing ahead, or remove it"
        )
    return PipeliningConfig(int(value), of_any=True) if int(value) else None


class OrderProof(Enum):
    """What is known of the order of answers."""

    UNKNOWN = "unknown"
    ON_TRIAL = "on trial"
    KEPT = "kept"
    BROKEN = "broken"


@dataclass(slots=True)
class PipeliningPolicy:
    """What one origin has shown in this run."""

    row: int = 0
    """Plain answers since the last one that was not."""
    wanted: int = FIRST_ROW
    """Of them, before anything is asked ahead."""
    of_any: bool = False
    """See `PipeliningConfig`."""
    order: OrderProof = OrderProof.UNKNOWN
    between_s: float = 0.0
    """Seconds from one answer to the next on a connection, smoothed."""
    trials: int = 0
    answers: int = 0
    """To what was asked ahead."""
    cuts: int = 0
    """Connections that ended before all of it was answered."""

    @property
    def may_ask_ahead(self) -> bool:
        return self.row >= self.wanted and self.order in (OrderProof.UNKNOWN, OrderProof.KEPT)

    def plain(self, server: str) -> None:
        """A small product that was asked for alone was answered plainly, by a `server` that calls itself so."""
        self.row = self.row + 1 if self.trusts(server) else 0

    def trusts(self, server: str) -> bool:
        """Whether a server that calls itself so may be asked ahead at all."""
        return self.of_any or is_known_in_order(server)

    def other(self) -> None:
        """The answer was something else: a larger product, an error, a redirect."""
        self.row = 0

    def on_trial(self) -> None:
        self.order = OrderProof.ON_TRIAL

    def tried(self, *, kept: bool | None) -> None:
        """What the trial has shown; None: nothing, since the answers could not be told apart, or one did not come."""
        self.trials += 1
        if kept is None:
            self._breached()
        if kept:
            self.order = OrderProof.KEPT
        else:
            self.order = OrderProof.UNKNOWN if kept is None and self.trials < TRIALS else OrderProof.BROKEN

    def ahead(self, answers: int) -> None:
        """So much of what was asked ahead was answered plainly."""
        self.row += answers
        self.answers += answers

    def ended(self, *, cut: bool) -> None:
        """What was asked ahead will not be answered; `cut`: the connection is at its end, as each is at some time."""
        self.cuts += cut
        if not cut or self.cuts > FEW_CUTS + self.answers // PER_CUT:
            self._breached()

    def took(self, seconds: float, *, answers: int) -> None:
        """So many answers have come on one connection in that time."""
        each = seconds / answers
        self.between_s = _KEPT * self.between_s + (1 - _KEPT) * each if self.between_s else each
        if self.between_s > SLOW_S:  # nothing is gained, and whoever waits behind another waits long
            self.between_s = 0.0
            self._breached()

    def depth(self, size: int) -> int:
        """Requests that may be under way on one connection, for products of about `size` bytes."""
        most = MOST if self.between_s <= QUICK_S else 2
        return max(2, min(most, HELD // max(1, size)))

    def _breached(self) -> None:
        self.row = 0
        self.wanted *= LONGER
