"""Pipelining policy: may requests to an origin go out before the earlier answers have arrived, and how many? Pure.

RFC 9112 §9.3.2 obliges a server to answer in the order of the requests. Some hand-made servers answer in the order in
which they are ready. The bytes of one product then arrive under the name of another, and only a checksum can tell.
So these conditions apply, for each origin and run:

1. The `Server` field of every answer names a server that is known to read a request only after it has answered the one
   before it.
2. The origin has answered 256 small products in a row plainly.
3. A trial proves the order before any pipelined byte is believed: two products are requested together, then each alone.
   Both ways must give the same two answers.

Each violation makes the next required row of plain answers 8 times longer. `BULKDL_ASK_AHEAD=0` disables pipelining;
another number replaces the 256 and skips the first condition.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache

from bulkdl.core.errors import UsageError
from bulkdl.core.fast_dataclass import dataclass

__all__ = [
    "MAX_DEPTH",
    "REQUIRED_PLAIN_ANSWERS",
    "OrderProof",
    "PipeliningConfig",
    "PipeliningPolicy",
    "is_known_in_order",
    "pipelining_config",
]

REQUIRED_PLAIN_ANSWERS = 256
"""Plain answers in a row before the first pipelining."""
VIOLATION_FACTOR = 8
"""After each violation, require this many times more plain answers before pipelining again."""
MAX_DEPTH = 8
"""Limit of unanswered requests on one connection."""
MAX_BODY_BYTES = 256 * 1024
"""Approximate limit of the bodies of all unanswered requests on one connection (bytes)."""
FAST_ANSWER_S, SLOW_ANSWER_S = 0.02, 0.1
"""Time between two answers (s). Up to the first: full depth. Up to the second: depth 2. Beyond it: no pipelining."""
MAX_TRIALS = 4
"""Inconclusive trials before pipelining is given up for the origin."""
FREE_CUTS, ANSWERS_PER_CUT = 4, 16
"""Lost connections that count as no violation: 4, and one more per 16 answers. Servers close after 100 or 1,000
answers."""
_SMOOTHING = 0.8
"""Weight of the old mean when a new time between answers is averaged in."""


_IN_ORDER_SERVERS = frozenset(
    {"apache", "caddy", "envoy", "istio-envoy", "jetty", "lighttpd", "nginx", "openresty", "tengine"}
)
"""Servers, in lower case, that process one request of a connection at a time."""


@lru_cache(maxsize=64)
def is_known_in_order(server: str) -> bool:
    """Return True if a `Server` field (RFC 9110 §10.2.4) names a server that is known to answer in order."""
    product = server.strip().partition(" ")[0].partition("(")[0].partition("/")[0]
    return product.lower() in _IN_ORDER_SERVERS


@dataclass(frozen=True, slots=True)
class PipeliningConfig:
    """Conditions that an origin must meet before requests to it are pipelined."""

    required_answers: int = REQUIRED_PLAIN_ANSWERS
    any_server: bool = False
    """Skip the Server allow-list (experiment)."""


def pipelining_config(value: str | None) -> PipeliningConfig | None:
    """Return the configuration that a value of `BULKDL_ASK_AHEAD` stands for.

    `0`: None, no pipelining. Another number: this many plain answers are required, of any server.
    Raise `UsageError` if the value is no number.
    """
    if value is None or value == "":
        return PipeliningConfig()
    if not (value.isascii() and value.isdecimal()) or len(value) > 9:
        raise UsageError(
            "BULKDL_ASK_AHEAD: expected a whole number", hint="Set it to 0 to disable pipelining, or unset it"
        )
    return PipeliningConfig(int(value), any_server=True) if int(value) else None


class OrderProof(Enum):
    """State of the proof that the origin answers in order."""

    UNKNOWN = "unknown"
    ON_TRIAL = "on trial"
    KEPT = "kept"
    BROKEN = "broken"


@dataclass(slots=True)
class PipeliningPolicy:
    """State of one origin in this run."""

    plain_answers: int = 0
    """Plain answers since the last one that was not plain."""
    required_answers: int = REQUIRED_PLAIN_ANSWERS
    """Plain answers in a row before pipelining."""
    any_server: bool = False
    """See `PipeliningConfig`."""
    order: OrderProof = OrderProof.UNKNOWN
    between_s: float = 0.0
    """Smoothed time from one answer to the next on a connection (s)."""
    trials: int = 0
    pipelined_answers: int = 0
    cuts: int = 0
    """Connections that ended before all pipelined requests were answered."""

    @property
    def may_pipeline(self) -> bool:
        return self.plain_answers >= self.required_answers and self.order in (OrderProof.UNKNOWN, OrderProof.KEPT)

    def record_plain(self, server: str) -> None:
        """Count a plain answer to a small product that was requested alone; `server`: the answer's `Server` field."""
        self.plain_answers = self.plain_answers + 1 if self.trusts(server) else 0

    def trusts(self, server: str) -> bool:
        """Return True if requests to a server of this name may be pipelined at all."""
        return self.any_server or is_known_in_order(server)

    def record_other(self) -> None:
        """Start the row of plain answers again: the answer was a larger product, an error or a redirect."""
        self.plain_answers = 0

    def begin_trial(self) -> None:
        self.order = OrderProof.ON_TRIAL

    def end_trial(self, *, kept: bool | None) -> None:
        """Record the result of a trial; None: inconclusive, since both answers were alike or one did not arrive."""
        self.trials += 1
        if kept is None:
            self._record_violation()
        if kept:
            self.order = OrderProof.KEPT
        else:
            self.order = OrderProof.UNKNOWN if kept is None and self.trials < MAX_TRIALS else OrderProof.BROKEN

    def record_pipelined(self, answers: int) -> None:
        """Count plain answers to pipelined requests."""
        self.plain_answers += answers
        self.pipelined_answers += answers

    def record_unanswered(self, *, cut: bool) -> None:
        """Record that pipelined requests stay unanswered.

        `cut`: because the connection ended, as every one does sometime.
        """
        self.cuts += cut
        if not cut or self.cuts > FREE_CUTS + self.pipelined_answers // ANSWERS_PER_CUT:
            self._record_violation()

    def record_duration(self, seconds: float, *, answers: int) -> None:
        """Record the time in which this many answers arrived on one connection."""
        each = seconds / answers
        self.between_s = _SMOOTHING * self.between_s + (1 - _SMOOTHING) * each if self.between_s else each
        if (
            self.between_s > SLOW_ANSWER_S
        ):  # pipelining saves nothing here, and later requests wait long for earlier ones
            self.between_s = 0.0
            self._record_violation()

    def depth(self, size: int) -> int:
        """Return how many requests may be unanswered on one connection, for products of about `size` bytes."""
        most = MAX_DEPTH if self.between_s <= FAST_ANSWER_S else 2
        return max(2, min(most, MAX_BODY_BYTES // max(1, size)))

    def _record_violation(self) -> None:
        self.plain_answers = 0
        self.required_answers *= VIOLATION_FACTOR
