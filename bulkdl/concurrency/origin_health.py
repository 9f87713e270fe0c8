"""The health of one origin (scheme, host and port), or of one token endpoint, as a pure state machine.

    UP -> SUSPECT -> PROBING -> DOWN -> PROBING -> ... -> RAMPING -> UP

A trouble that every request would meet makes the origin suspect: no new request starts, and one probe asks again. If the
probe fails as well, the origin is down: an outage has begun. One probe at a time asks again, with growing pauses. The first
good answer ends the outage; then the number of requests in flight doubles with each good answer, so that a server which has
just started is not overrun.

Every function takes a state and returns the next one. The caller reads the clock and draws the random numbers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from enum import StrEnum

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Trouble

__all__ = [
    "NEW_ORIGIN_S",
    "Health",
    "OriginHealth",
    "admits_in",
    "after_good",
    "after_trouble",
    "give_up_limit",
    "is_given_up",
    "is_outage",
    "probe_abandoned",
    "probe_begun",
    "probe_now",
    "probe_pause",
]

_FIRST_PAUSE_S = 1.5
_GROWTH = 2.0
_LONGEST_PAUSE_S = 300.0
"""Pauses between probes are 1.5, 3, 6, 12, 24, 48, 96, 192 and then 300 s: about 19 in the first hour, then 12 an hour.

An origin that breaks every connection sees each probe twice: the HTTP client repeats a request once, since a server may
close a kept-alive connection at any time (RFC 9112 §9.3.1)."""
_JITTER = 0.1
"""A pause is up to 10 % shorter or longer, so that several machines do not probe at the same moments."""
_PROBE_S = 120.0
"""Longest time (s) that one probe itself counts towards giving up. A suspended machine or a closed time window cannot ask,
so that time does not count."""
_RAMP_START = 2
_RAMP_END = 64
"""Requests in flight at which the ramp ends; then only the other limits apply."""
NEW_ORIGIN_S = 3600.0
"""Longest wait (s) for an origin that has never given a good answer: its URL may simply be wrong."""


class Health(StrEnum):
    """State of an origin."""

    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"
    PROBING = "probing"
    RAMPING = "ramping up"


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginHealth:
    """State of one origin; times are monotonic seconds."""

    health: Health = Health.UP
    ever_good: bool = False
    began: float = 0.0
    """Time of the first trouble, unless `health` is UP or RAMPING."""
    failed_probes: int = 0
    failed_before: int = 0
    """Probes that failed in an outage which has just ended: a relapse goes on with its pauses.

    An origin that served until the ramp had ended begins anew. One that is up and down every ten minutes is then asked 8
    times in each outage and found back within two minutes; with pauses of 300 s up to half of its good time would be lost."""
    next_probe_at: float = 0.0
    pause_s: float = 0.0
    """Length of the pause before the next probe."""
    waited_s: float = 0.0
    """Seconds without a good answer that count towards giving up."""
    counted_at: float = 0.0
    """Time up to which `waited_s` counts."""
    allowed: int = 0
    """Requests in flight that are allowed while RAMPING."""
    trouble: Trouble = Trouble.BROKEN
    """The latest trouble and its reason; meaningful unless `health` is UP."""
    reason: str = ""


def is_outage(state: OriginHealth) -> bool:
    """Return whether a probe has confirmed the trouble, so that users should be told."""
    return state.failed_probes > 0 and state.health in (Health.DOWN, Health.PROBING)


def admits_in(state: OriginHealth, now: float, *, in_flight: int) -> float:
    """Return the seconds until a request may start: 0 now, infinity after the next change.

    For a SUSPECT or DOWN origin, 0 means that the request is the next probe (`probe_begun`).
    """
    match state.health:
        case Health.UP:
            return 0.0
        case Health.RAMPING:
            return 0.0 if in_flight < state.allowed else math.inf
        case Health.PROBING:
            return math.inf
        case _:
            return max(0.0, state.next_probe_at - now)


def probe_pause(failed_probes: int, *, random: float) -> float:
    """Return the seconds before the next probe; `random` is from 0 to 1."""
    pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * _GROWTH ** min(failed_probes, 16))
    return pause * (1 - _JITTER + 2 * _JITTER * random)


def give_up_limit(state: OriginHealth, give_up_after: float) -> float:
    """Return after how many seconds without a good answer the origin is given up."""
    return give_up_after if state.ever_good else min(give_up_after, NEW_ORIGIN_S)


def is_given_up(state: OriginHealth, give_up_after: float) -> bool:
    return is_outage(state) and state.waited_s >= give_up_limit(state, give_up_after)


def after_trouble(
    state: OriginHealth,
    now: float,
    *,
    trouble: Trouble,
    reason: str,
    random: float,
    give_up_after: float,
    wait: float | None = None,
    is_probe: bool = False,
    is_confirmed: bool = False,
) -> OriginHealth:
    """Return the state after a trouble that every request would meet.

    `wait`: seconds that the server asked for. `is_probe`: the probe met it. `is_confirmed`: it needs no probe, because a
    product that came before was asked for and is refused as well.
    """
    if state.health in (Health.UP, Health.RAMPING):
        state = OriginHealth(
            ever_good=state.ever_good,
            began=now,
            counted_at=now,
            next_probe_at=now,
            failed_probes=1 if is_confirmed else 0,
            failed_before=state.failed_probes if state.health is Health.RAMPING else 0,
        )
    elif is_probe or (is_confirmed and not state.failed_probes):
        waited = state.waited_s + min(now - state.counted_at, state.pause_s + _PROBE_S)
        state = replace(state, waited_s=waited, counted_at=now, failed_probes=state.failed_probes + 1)
    else:  # a request that was already in flight: the pause goes on
        ready = state.next_probe_at if wait is None else max(state.next_probe_at, now + wait)
        return replace(state, next_probe_at=ready, pause_s=max(state.pause_s, ready - state.counted_at))
    failed = state.failed_probes + (state.failed_before if state.failed_probes else 0)
    pause = max(probe_pause(failed, random=random), wait or 0.0)
    left = give_up_limit(state, give_up_after) - state.waited_s
    pause = max(0.0, min(pause, left))
    return replace(
        state,
        health=Health.DOWN if state.failed_probes else Health.SUSPECT,
        next_probe_at=now + pause,
        pause_s=pause,
        trouble=trouble,
        reason=reason,
    )


def after_good(state: OriginHealth) -> OriginHealth:
    """Return the state after a good answer: the head of a representation that a product needs (`transfer/attempt`)."""
    match state.health:
        case Health.UP:
            return state if state.ever_good else replace(state, ever_good=True)
        case Health.RAMPING if 2 * state.allowed < _RAMP_END:
            return replace(state, allowed=2 * state.allowed)
        case Health.DOWN | Health.PROBING if state.failed_probes:
            return replace(state, health=Health.RAMPING, ever_good=True, allowed=_RAMP_START)
        case _:
            return OriginHealth(ever_good=True)


def probe_begun(state: OriginHealth) -> OriginHealth:
    return replace(state, health=Health.PROBING)


def probe_abandoned(state: OriginHealth, now: float) -> OriginHealth:
    """Return the state after a probe that ended without an answer from the origin, such as at a full disk."""
    if state.health is not Health.PROBING:
        return state
    return replace(state, health=Health.DOWN if state.failed_probes else Health.SUSPECT, next_probe_at=now)


def probe_now(state: OriginHealth, now: float) -> OriginHealth:
    """Return the state after the cause of an outage is gone: the next probe does not wait for its pause to end."""
    if state.health not in (Health.SUSPECT, Health.DOWN):
        return state
    return replace(state, next_probe_at=min(state.next_probe_at, now))
