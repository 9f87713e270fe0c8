"""What was seen of hosts, and what follows from it. Pure but for `ServerQuirks`, which remembers.

A fact can save a request or make bulkdl more careful; it never stands in for a check: whether bytes are joined is decided in
`resume`, which a wrong fact cannot make joining two editions unnoticed.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.protocol.headers import strong_etag
from bulkdl.protocol.resume import Action, DecisionReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bulkdl.core.clock import Clock
    from bulkdl.protocol.response_head import Head
    from bulkdl.protocol.resume import Decision, PartialState, RangeRequest

__all__ = [
    "ServerFacts",
    "ServerObservation",
    "ServerQuirks",
    "describe",
    "fresh",
    "has_unstable_etags",
    "ignores_ranges",
    "noted",
    "observations",
]

EXPIRES_S = 30 * 86400.0
"""Seconds after which what was seen counts no more."""
CLOCK_S = 86400.0
"""Seconds that the clock may have been set back since."""
MISSES = 2
"""Ranges that a host did not honour before it is asked for no more than it must, where it never honoured one."""
MISSES_AFTER_HITS = 8
"""The same for a host that did honour ranges before."""
CHANGES = 2
"""ETags that changed although the bytes did not, before a host's ETags are taken for moods."""
STEADY = 16
"""ETags in a row that did not change, after which they are believed again."""
MOST_HOSTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What was seen of one origin, with when (Unix time) each kind of it was seen last."""

    origin: str
    """`Url.origin` of the products' own URLs; redirects are the origin's business."""
    range_hits: int = 0
    """Ranges that came as asked for (206)."""
    range_misses: int = 0
    """Since the last hit: 200 to a range of the edition that is there, or another range than the one asked for."""
    ranges_at: float = 0.0
    etag_changes: int = 0
    """Other strong ETags for the same bytes at the same URL."""
    etag_same: int = 0
    """Since the last change, without having named the ETag in the request."""
    etags_at: float = 0.0

    @property
    def at(self) -> float:
        return max(self.ranges_at, self.etags_at)

    @property
    def sum(self) -> int:
        """How much was seen."""
        return self.range_hits + self.range_misses + self.etag_changes + self.etag_same


class ServerObservation(Enum):
    """One thing that was seen."""

    RANGE_HIT = "range hit"
    RANGE_MISS = "range miss"
    ETAG_SAME = "etag same"
    ETAG_OTHER = "etag other"  # what became of the bytes is not known
    ETAG_CHANGED = "etag changed"  # and the bytes did not


def fresh(facts: ServerFacts, *, now: float) -> ServerFacts:
    """`facts` without what is too old to count, or of a day that has not come yet."""

    def old(at: float) -> bool:
        return not -CLOCK_S <= now - at < EXPIRES_S

    if facts.ranges_at and old(facts.ranges_at):
        facts = replace(facts, range_hits=0, range_misses=0, ranges_at=0.0)
    if facts.etags_at and old(facts.etags_at):
        facts = replace(facts, etag_changes=0, etag_same=0, etags_at=0.0)
    return facts


def noted(facts: ServerFacts, sight: ServerObservation, *, now: float) -> ServerFacts:
    """`facts` with one thing more; newer evidence corrects what older evidence said."""
    facts = fresh(facts, now=now)
    match sight:
        case ServerObservation.RANGE_HIT:
            return replace(facts, range_hits=facts.range_hits + 1, range_misses=0, ranges_at=now)
        case ServerObservation.RANGE_MISS:
            return replace(facts, range_misses=facts.range_misses + 1, ranges_at=now)
        case ServerObservation.ETAG_CHANGED:
            return replace(facts, etag_changes=facts.etag_changes + 1, etag_same=0, etags_at=now)
        case ServerObservation.ETAG_OTHER if facts.etag_changes:
            return replace(facts, etag_same=0)
        case ServerObservation.ETAG_SAME if facts.etag_changes:
            steady = facts.etag_same + 1 >= STEADY
            changes = 0 if steady else facts.etag_changes
            return replace(facts, etag_changes=changes, etag_same=0 if steady else facts.etag_same + 1)
        case _:
            return facts


def ignores_ranges(facts: ServerFacts, *, now: float) -> bool:
    """Whether several connections to one product would each begin with its first byte."""
    facts = fresh(facts, now=now)
    return facts.range_misses >= (MISSES_AFTER_HITS if facts.range_hits else MISSES)


def has_unstable_etags(facts: ServerFacts, *, now: float) -> bool:
    """Whether another ETag says nothing of the bytes, as with servers behind one name that make it of an inode."""
    return fresh(facts, now=now).etag_changes >= CHANGES


def describe(facts: ServerFacts, *, now: float) -> str:
    """What was learnt of a host and what follows from it, for a person; "" where that is nothing."""
    facts, parts = fresh(facts, now=now), []
    if ignores_ranges(facts, now=now):
        parts.append(f"ignores ranges (seen {facts.range_misses} times), so one connection a product")
    elif facts.range_hits:
        parts.append("honours ranges")
    if has_unstable_etags(facts, now=now):
        parts.append(f"its ETags change without the bytes (seen {facts.etag_changes} times), so checksums decide")
    return "; ".join(parts)


def observations(
    head: Head, *, ask: RangeRequest, known: PartialState, decision: Decision, source: str
) -> tuple[ServerObservation, ...]:
    """What a response's head shows of its host; `known`: what is on disk, with the validator that was recorded."""
    found: list[ServerObservation] = []
    describe, recorded = strong_etag(head.etag), strong_etag(known.etag)
    comparable = bool(describe and recorded) and known.source == source
    if ask.range is not None:
        ranged = _range_sight(head, ask=ask, decision=decision, same=_is_same(head, known, source))
        found += [ranged] if ranged is not None else []
    if comparable and head.status in (200, 206) and not ask.if_range:
        found.append(ServerObservation.ETAG_SAME if describe == recorded else ServerObservation.ETAG_OTHER)
    return tuple(found)


def _is_same(head: Head, known: PartialState, source: str) -> bool:
    """Whether the response names the very edition that is on disk (RFC 9110 §13.1.5: a date only where there is no ETag)."""
    if known.source != source or not (known.etag or known.last_modified):
        return False
    if known.etag:
        return strong_etag(known.etag) == head.etag
    return head.etag is None and head.last_modified == known.last_modified


_NOT_AS_ASKED = frozenset(
    {
        DecisionReason.WRONG_RANGE,
        DecisionReason.MULTIPART,
        DecisionReason.NO_CONTENT_RANGE,
        DecisionReason.LENGTHS_DISAGREE,
    }
)


def _range_sight(head: Head, *, ask: RangeRequest, decision: Decision, same: bool) -> ServerObservation | None:
    if head.status == 206:
        if decision.action is Action.APPEND:
            return ServerObservation.RANGE_HIT
        return ServerObservation.RANGE_MISS if decision.why in _NOT_AS_ASKED else None
    # With If-Range a 200 is right where the edition is another one (RFC 9110 §13.1.5).
    return ServerObservation.RANGE_MISS if head.status == 200 and (same or not ask.if_range) else None


class ServerQuirks:
    """What is known of every host in this run and from earlier ones; `save` is told what is worth keeping."""

    def __init__(
        self,
        facts: Iterable[ServerFacts] = (),
        *,
        clock: Clock,
        save: Callable[[ServerFacts], None] = lambda _facts: None,
    ) -> None:
        self._facts = {f.origin: f for f in facts}
        self._clock = clock
        self._save = save

    def of(self, origin: str) -> ServerFacts:
        return fresh(self._facts.get(origin) or ServerFacts(origin=origin), now=self._clock.wall())

    def note(self, origin: str, *seen: ServerObservation) -> None:
        """Remember what was seen; what is written of it is what could change a decision, and less and less of the rest."""
        for sight in seen:
            now, before = self._clock.wall(), self.of(origin)
            if before.sum == 0 and len(self._facts) >= MOST_HOSTS:
                return
            after = self._facts[origin] = noted(before, sight, now=now)
            if _verdict(before, now) != _verdict(after, now) or after.sum.bit_count() == 1:
                self._save(after)

    def ignores_ranges(self, origin: str) -> bool:
        return ignores_ranges(self.of(origin), now=self._clock.wall())

    def has_unstable_etags(self, origin: str) -> bool:
        return has_unstable_etags(self.of(origin), now=self._clock.wall())


def _verdict(facts: ServerFacts, now: float) -> tuple[bool, bool]:
    return ignores_ranges(facts, now=now), has_unstable_etags(facts, now=now)
