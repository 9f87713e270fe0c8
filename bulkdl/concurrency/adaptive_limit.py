"""How many connections to a host are worth while: more, as long as more of them bring more. Pure.

Some archives hold each connection back, so that many bring more than few; on a link that is shared they only push others
aside. A run begins with few, tries twice as many, and keeps them only when they have paid.
"""

from __future__ import annotations

from dataclasses import replace

from bulkdl.core.fast_dataclass import dataclass

__all__ = [
    "CAP",
    "FAST",
    "LONGEST_REST_S",
    "LONGEST_TRIAL_S",
    "PATIENCE_S",
    "REST_S",
    "ConcurrencyLimit",
    "ThroughputSample",
    "next_limit",
    "on_refused",
]

CAP = 128
"""Most connections to one host, whatever they bring."""
PAYS, HELPS = 0.5, 0.15
"""What the added connections must bring at least, as a share of what as many brought before: where nothing else is known,
and where each began as well as one of the first few did."""
STEADY = 2.5
"""A rate that rises by more from one half of a look to the other is of connections that are still gathering speed."""
LIKE, UNLIKE = 0.8, 0.65
"""A connection that brings this share, or no more than that, of what one among fewer did has, or has not, its own limit."""
FAST = 32 * 1024 * 1024
"""Connections that bring so much each (bytes a second) are held back by nothing that more of them would mend."""
SURE_S = 0.5
"""How long a look has to be before it speaks against more connections: this machine may have been busy."""
SOON_S = 0.15
"""How long before it speaks for them by the sum alone, which comes in bursts."""
PATIENCE_S = 2.0
"""A trial that has shown nothing for so long has failed; so long without a hint, and one is made."""
LONGEST_TRIAL_S = 6.0
"""The same where most of those who came for it have not begun: this machine, or the host, is busy with opening them."""
REST_S = 60.0
LONGEST_REST_S = 3600.0
"""After a failure nothing is tried for `REST_S`, after each further one for twice as long as before, up to this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyLimit:
    """The connections that one host may be asked for."""

    base: int
    """What it has without having shown anything."""
    proven: int
    allowed: int
    """More than `proven` while a trial goes on."""
    rate: float = 0.0
    """Bytes a second that the proven number brought, all together, before the trial."""
    quiet_until: float = 0.0
    """No trial before then, in seconds of the run's clock."""
    rest_s: float = REST_S
    """How long the next failure makes it rest."""

    @classmethod
    def of(cls, base: int) -> ConcurrencyLimit:
        return cls(base=base, proven=base, allowed=base)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputSample:
    """What is seen of a host while every place is taken and products want more."""

    now: float
    lasted: float
    """Seconds for which it has been so."""
    rate: float
    """Bytes a second of all connections during the look."""
    rising: float
    """How many times as much came in the look's second half as in the first."""
    begun: bool = True
    """Whether those that were allowed last have begun to bring something."""
    alone: float | None = None
    """Bytes a second that a connection brought at first when there were clearly fewer; None: not known, or not for long
    enough to tell anything."""
    among: float | None = None
    """The same of those that have joined since the last change, had they been looked at as soon."""


def next_limit(crowd: ConcurrencyLimit, sight: ThroughputSample, *, cap: int = CAP) -> ConcurrencyLimit:
    """What is allowed now: on with a trial, its end either way, or the beginning of one."""
    steady = sight.rising <= STEADY
    likeness = None if not sight.alone or sight.among is None else sight.among / sight.alone
    hinted = likeness is not None and likeness >= LIKE
    times = 4 if hinted else 2
    if crowd.allowed > crowd.proven:
        share = HELPS if hinted else PAYS
        due = crowd.rate * (1 + share * (crowd.allowed / crowd.proven - 1))
        sure = hinted or (steady and sight.lasted >= SOON_S)
        if sure and (_latest(sight) if hinted else sight.rate) >= due:
            return _tried(replace(crowd, proven=crowd.allowed, rest_s=REST_S), sight, times, cap)
        return _failed(crowd, sight.now) if sight.lasted >= _patience_s(sight) else crowd
    fast = max(sight.alone or 0.0, sight.rate / crowd.allowed) >= FAST
    if sight.now < crowd.quiet_until or crowd.proven >= cap or fast:
        return crowd
    if likeness is not None and likeness <= UNLIKE and sight.lasted >= SURE_S:
        return _failed(crowd, sight.now)
    return _tried(crowd, sight, times, cap) if hinted or sight.lasted >= PATIENCE_S else crowd


def _latest(sight: ThroughputSample) -> float:
    """The rate of the look's second half: in the first one those who came were being opened."""
    return 2 * sight.rate * (1 - 1 / (1 + sight.rising))


def _patience_s(sight: ThroughputSample) -> float:
    return PATIENCE_S if sight.begun else LONGEST_TRIAL_S


def on_refused(crowd: ConcurrencyLimit, now: float) -> ConcurrencyLimit:
    """What is allowed after the host has minded a connection."""
    kept = crowd.proven if crowd.allowed > crowd.proven else crowd.proven // 2
    return _failed(replace(crowd, proven=max(crowd.base, kept)), now)


def _tried(crowd: ConcurrencyLimit, sight: ThroughputSample, times: int, cap: int) -> ConcurrencyLimit:
    return replace(
        crowd, allowed=max(crowd.proven, min(times * crowd.proven, cap)), rate=max(sight.rate, _latest(sight))
    )


def _failed(crowd: ConcurrencyLimit, now: float) -> ConcurrencyLimit:
    return replace(
        crowd,
        allowed=crowd.proven,
        quiet_until=now + crowd.rest_s,
        rest_s=min(2 * crowd.rest_s, LONGEST_REST_S),
    )
