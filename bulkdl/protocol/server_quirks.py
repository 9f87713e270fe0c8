"""Known quirks of servers: which ones ignore ranges, and which ones send unstable ETags.

Pure except for `ServerQuirks`, which keeps the facts of a run. The journal stores them for later runs; they count for
30 days, and newer observations correct them. A fact can save a request (no extra connections if ranges are ignored) or
make bulkdl more careful (no trust in an ETag that says nothing about the bytes, so that checksum or overlap decide). It
never replaces a check: `resume` decides whether bytes are joined, and a wrong fact cannot hide a mix of two versions.
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
    "observations",
    "with_observation",
]

EXPIRES_S = 30 * 86400.0
"""Seconds after which an observation no longer counts."""
CLOCK_S = 86400.0
"""Seconds that the system clock may have been set back since an observation."""
MISSES = 2
"""Ignored ranges after which a host gets one connection per product, if it never honoured a range."""
MISSES_AFTER_HITS = 8
"""Ignored ranges after which a host gets one connection per product, if it honoured ranges before."""
CHANGES = 2
"""Unchanged-byte ETag changes after which we treat this host's ETags as unstable."""
STEADY = 16
"""Unchanged ETags in a row after which we trust this host's ETags again."""
MAX_HOSTS = 1000
"""Limit of hosts with stored facts; further hosts are not recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """Observations of one origin, with the Unix time of the last one of each kind."""

    origin: str
    """`Url.origin` of the products' own URLs; responses after a redirect count for it, too."""
    range_hits: int = 0
    """Ranges that the host sent as requested (206)."""
    range_misses: int = 0
    """Ranges since the last hit that the host answered with a 200 of the same version, or with another range."""
    ranges_at: float = 0.0
    etag_changes: int = 0
    """Changes of a strong ETag at one URL although the bytes were the same."""
    etag_same: int = 0
    """Unchanged ETags since the last change, in answer to requests that did not name the ETag."""
    etags_at: float = 0.0

    @property
    def at(self) -> float:
        return max(self.ranges_at, self.etags_at)

    @property
    def total(self) -> int:
        """Total number of observations."""
        return self.range_hits + self.range_misses + self.etag_changes + self.etag_same


class ServerObservation(Enum):
    """One observation of a host."""

    RANGE_HIT = "range hit"
    RANGE_MISS = "range miss"
    ETAG_SAME = "etag same"
    ETAG_OTHER = "etag other"  # it is unknown whether the bytes changed
    ETAG_CHANGED = "etag changed"  # although the bytes did not


def fresh(facts: ServerFacts, *, now: float) -> ServerFacts:
    """Return `facts` without observations that are too old or lie in the future."""

    def old(at: float) -> bool:
        return not -CLOCK_S <= now - at < EXPIRES_S

    if facts.ranges_at and old(facts.ranges_at):
        facts = replace(facts, range_hits=0, range_misses=0, ranges_at=0.0)
    if facts.etags_at and old(facts.etags_at):
        facts = replace(facts, etag_changes=0, etag_same=0, etags_at=0.0)
    return facts


def with_observation(facts: ServerFacts, observation: ServerObservation, *, now: float) -> ServerFacts:
    """Return `facts` with one more observation; newer observations correct older ones."""
    facts = fresh(facts, now=now)
    match observation:
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
    """Return whether the host ignores ranges, so that every extra connection would start at the first byte."""
    facts = fresh(facts, now=now)
    return facts.range_misses >= (MISSES_AFTER_HITS if facts.range_hits else MISSES)


def has_unstable_etags(facts: ServerFacts, *, now: float) -> bool:
    """Return whether a changed ETag says nothing about the bytes, as in clusters that derive it from the inode."""
    return fresh(facts, now=now).etag_changes >= CHANGES


def describe(facts: ServerFacts, *, now: float) -> str:
    """Return the facts about a host and their consequences for display; "" if there are none."""
    facts, parts = fresh(facts, now=now), []
    if ignores_ranges(facts, now=now):
        parts.append(f"ignores ranges (seen {facts.range_misses} times), so one connection per product")
    elif facts.range_hits:
        parts.append("honours ranges")
    if has_unstable_etags(facts, now=now):
        parts.append(
            f"its ETags change although the content does not (seen {facts.etag_changes} times), so checksums decide"
        )
    return "; ".join(parts)


def observations(
    head: Head, *, ask: RangeRequest, known: PartialState, decision: Decision, source: str
) -> tuple[ServerObservation, ...]:
    """Return the observations in a response's head; `known`: the partial with its recorded validators."""
    found: list[ServerObservation] = []
    sent, recorded = strong_etag(head.etag), strong_etag(known.etag)
    comparable = bool(sent and recorded) and known.source == source
    if ask.range is not None:
        ranged = _range_observation(head, ask=ask, decision=decision, same=_is_same_version(head, known, source))
        found += [ranged] if ranged is not None else []
    if comparable and head.status in (200, 206) and not ask.if_range:
        found.append(ServerObservation.ETAG_SAME if sent == recorded else ServerObservation.ETAG_OTHER)
    return tuple(found)


def _is_same_version(head: Head, known: PartialState, source: str) -> bool:
    """Return whether the response is of the version on disk; dates count only without an ETag (RFC 9110 §13.1.5)."""
    if known.source != source or not (known.etag or known.last_modified):
        return False
    if known.etag:
        return strong_etag(known.etag) == head.etag
    return head.etag is None and head.last_modified == known.last_modified


_WRONG_RANGE_REASONS = frozenset(
    {
        DecisionReason.WRONG_RANGE,
        DecisionReason.MULTIPART,
        DecisionReason.NO_CONTENT_RANGE,
        DecisionReason.LENGTHS_DISAGREE,
    }
)


def _range_observation(head: Head, *, ask: RangeRequest, decision: Decision, same: bool) -> ServerObservation | None:
    if head.status == 206:
        if decision.action is Action.APPEND:
            return ServerObservation.RANGE_HIT
        return ServerObservation.RANGE_MISS if decision.why in _WRONG_RANGE_REASONS else None
    # A 200 to an If-Range is correct if the version changed, so it is no miss (RFC 9110 §13.1.5).
    return ServerObservation.RANGE_MISS if head.status == 200 and (same or not ask.if_range) else None


class ServerQuirks:
    """Facts about every host from this run and earlier ones; `save` is called with facts worth storing."""

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

    def note(self, origin: str, *observed: ServerObservation) -> None:
        """Record observations; save facts that change a decision at once, and others ever more rarely."""
        for observation in observed:
            now, before = self._clock.wall(), self.of(origin)
            if before.total == 0 and len(self._facts) >= MAX_HOSTS:
                return
            after = self._facts[origin] = with_observation(before, observation, now=now)
            if _decisions(before, now) != _decisions(after, now) or after.total.bit_count() == 1:
                self._save(after)

    def ignores_ranges(self, origin: str) -> bool:
        return ignores_ranges(self.of(origin), now=self._clock.wall())

    def has_unstable_etags(self, origin: str) -> bool:
        return has_unstable_etags(self.of(origin), now=self._clock.wall())


def _decisions(facts: ServerFacts, now: float) -> tuple[bool, bool]:
    return ignores_ranges(facts, now=now), has_unstable_etags(facts, now=now)
