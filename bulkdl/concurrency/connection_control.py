"""The number of connections that an account opens to a host, decided from what more or fewer of them brought. Pure.

The model of a host: n connections bring the smaller of n times what one of them brings, and what the host gives in all. A
number of connections is proven once its speed is known. Then a trial with more of them shows one of three things:

- The speed rises in proportion: the new number is proven, and the next trial follows.
- It rises by a part: the host gives no more than that, and as many connections stay as are needed for it.
- It does not rise: the added connections are closed again. Then a trial with fewer shows whether they bring as much.

Afterwards the number stays until the speed changes clearly, or a minute has passed (two, four, up to four hours). A refusal
tells a limit of the host: the number that it was serving. The limit of an account, of a preset or of the user is a bound.

Every function takes a `Control` and returns the next one, whose `reason` says why. The caller measures and reads the clock.
"""

from __future__ import annotations

import math
from dataclasses import replace
from enum import StrEnum

from bulkdl.core.fast_dataclass import dataclass

__all__ = [
    "FAST",
    "Control",
    "Phase",
    "Sample",
    "WorkKind",
    "after_rate_refusal",
    "after_refusal",
    "after_sample",
    "after_served",
    "after_trial_time",
    "begin",
]

FAST = 32 * 1024 * 1024
"""Bytes per second of one connection from which more of them would not help: this machine is the limit then."""
IN_PROPORTION = 0.6
"""Least part of the rise that is expected in proportion, for a trial to be followed by the next.

A host that gives no more than what 1.6 times the connections need then keeps twice as many, which is a quarter too much.
"""
NO_RISE = 0.15
"""Largest part of it that counts as none, since rates fluctuate."""
AS_MUCH = 0.95
"""Least part of the speed that fewer connections have to bring to replace more."""
SPARE = 1.05
"""Connections that stay after a part of a rise, relative to the number that its speed needs."""
LOWEST = 2
"""Least number that a trial with fewer tries: with a single connection, one slow stream would hold up everything."""
CHANGED = 0.3
"""Relative change of the speed of a settled number after which the host counts as changed."""
MOST_DOUBLED = 32
"""Number up to which a trial doubles where each answer is waited for; beyond it, a trial has a quarter more."""
LOOK_S, LONGEST_LOOK_S, CHECK_S = 60.0, 14400.0, 5.0
"""Seconds between two trials of a settled number; they double while trials bring nothing. The third: before the first trial
after a part of a rise, which may have been measured while this machine was busy."""
CHANGE_S, LONGEST_CHANGE_S = 1.0, 300.0
"""Least seconds between two trials because of a change; they double likewise."""
TRIAL_S, LESS_TRIAL_S = 6.0, 60.0
"""Seconds after which a trial without a measurement ends. Products in flight are not stopped for one with fewer."""


class Phase(StrEnum):
    """What a control is finding out."""

    FIRST = "first"
    MORE = "more"
    LESS = "less"
    SETTLED = "settled"


class WorkKind(StrEnum):
    """What takes a connection's time: bytes, or waiting for answers."""

    BYTES = "bytes"
    ANSWERS = "answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Measurement of a host since the last change, while products or ranges wait for connections."""

    now: float
    span_s: float
    """Seconds of the measurement."""
    kind: WorkKind
    each: float
    """What one connection brought: bytes per second of receiving, or answers per second."""
    is_enough: bool
    """Whether enough of the connections have been measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Connections of one account to one host; times are monotonic seconds."""

    most: int
    """Bound of the account, the preset, the user or the program."""
    least: int = LOWEST
    """Number below which only a refusal goes."""
    allowed: int
    proven: int
    """Latest number whose speed is known, or with which the control began."""
    needed: int = 0
    """Number that is known to bring more than fewer do, so that no trial with fewer is due."""
    speed: float = 0.0
    """Work per second of the proven number, of the kind `kind`."""
    kind: WorkKind | None = None
    phase: Phase = Phase.FIRST
    refused: int | None = None
    """Number of connections that the host refused; None: none yet."""
    changed_at: float = 0.0
    look_at: float = 0.0
    """Time of the next trial without a change of the speed."""
    look_s: float = LOOK_S
    change_at: float = 0.0
    """Earliest time of the next trial because of a change."""
    change_s: float = CHANGE_S
    reason: str = ""
    """Why `allowed` is what it is, with figures, for users."""

    @property
    def bound(self) -> int:
        """Return the highest number that may be tried."""
        return self.most if self.refused is None else max(1, min(self.most, self.refused - 1))


def begin(*, start: int, most: int, least: int = LOWEST, now: float = 0.0, refused: int | None = None) -> Control:
    """Return the control of a host that nothing is known of but a number to `start` with, and a refused number."""
    first = max(1, min(start, most))
    return Control(
        most=most, least=min(first, least), allowed=first, proven=first, refused=refused, changed_at=now, look_at=now
    )


def after_sample(control: Control, sample: Sample) -> Control:
    """Return the next control: end a trial, begin one, or go on as before."""
    if not sample.is_enough:
        return after_trial_time(control, sample.now)
    speed = control.allowed * sample.each
    if control.phase is Phase.FIRST or sample.kind is not control.kind:
        proven = replace(control, proven=control.allowed, speed=speed, kind=sample.kind)
        return _try_more(proven, sample)
    if control.phase is Phase.MORE:
        return _after_more(control, sample, speed)
    if control.phase is Phase.LESS:
        return _after_less(control, sample, speed)
    return _while_settled(control, sample, speed)


def after_trial_time(control: Control, now: float) -> Control:
    """Return the control without its trial if that could not be measured for too long."""
    longest = {Phase.MORE: TRIAL_S, Phase.LESS: LESS_TRIAL_S}.get(control.phase, math.inf)
    if now - control.changed_at < longest:
        return control
    return _settle(control, control.proven, now, "a trial could not be measured", in_vain=True)


def _after_more(control: Control, sample: Sample, speed: float) -> Control:
    rise = speed / control.speed
    part = (rise - 1) / (control.allowed / control.proven - 1)
    figures = f"{control.allowed} connections brought {rise:.2f} times what {control.proven} did"
    if part >= IN_PROPORTION:
        proven = replace(
            control, proven=control.allowed, needed=control.allowed, speed=speed, look_s=LOOK_S, change_s=CHANGE_S
        )
        return _try_more(proven, sample)
    if part > NO_RISE:
        enough = min(control.allowed, max(control.proven, math.ceil(control.proven * rise * SPARE)))
        settled = _settle(replace(control, speed=speed, needed=enough), enough, sample.now, figures, in_vain=False)
        return replace(settled, look_at=sample.now + CHECK_S)
    if control.proven > max(control.least, control.needed):
        return _try_less(control, sample, figures)
    return _settle(control, control.proven, sample.now, figures, in_vain=True)


def _after_less(control: Control, sample: Sample, speed: float) -> Control:
    share = speed / control.speed
    figures = f"{control.allowed} connections brought {share:.2f} times what {control.proven} did"
    if share >= AS_MUCH:
        proven = replace(control, proven=control.allowed)
        if control.allowed > control.least:
            return _try_less(proven, sample, figures)
        return _settle(proven, control.allowed, sample.now, figures, in_vain=True)
    enough = min(control.proven, math.ceil(control.speed / sample.each * SPARE))
    return _settle(control, max(enough, control.least), sample.now, figures, in_vain=True)


def _while_settled(control: Control, sample: Sample, speed: float) -> Control:
    change = abs(speed / control.speed - 1) if control.speed else math.inf
    if change >= CHANGED and sample.now >= control.change_at:
        # The sample may be from before and after the change, so the next one is what trials are compared with.
        figures = f"{control.allowed} connections bring {speed / control.speed if control.speed else 0:.2f} times what they did"
        return replace(
            control, proven=control.allowed, needed=0, phase=Phase.FIRST, changed_at=sample.now, reason=figures
        )
    if sample.now < control.look_at:
        return control
    looking = replace(control, refused=None, needed=0, proven=control.allowed, speed=speed)
    return _try_more(looking, sample, most=control.allowed + max(1, control.allowed // 4))


def _try_more(control: Control, sample: Sample, *, most: int | None = None) -> Control:
    """Return a trial with more connections, or the settled control where no more are allowed or would help."""
    if sample.kind is WorkKind.BYTES and sample.each >= FAST:
        return _settle(control, control.proven, sample.now, "each connection is as fast as this machine", in_vain=True)
    doubled = sample.kind is WorkKind.BYTES or control.proven < MOST_DOUBLED
    target = 2 * control.proven if doubled else control.proven + max(1, control.proven // 4)
    target = min(target, control.bound, most or target)
    if target <= control.proven:
        bound = "the host refuses more" if control.bound < control.most else "no more are allowed"
        return _settle(control, control.proven, sample.now, bound, in_vain=True)
    reason = f"trial: {control.proven} connections bring in proportion"
    return replace(control, allowed=target, phase=Phase.MORE, changed_at=sample.now, reason=reason)


def _try_less(control: Control, sample: Sample, figures: str) -> Control:
    target = max(control.least, control.proven * 3 // 4)
    return replace(
        control, allowed=target, phase=Phase.LESS, changed_at=sample.now, reason=f"trial with fewer: {figures}"
    )


def _settle(control: Control, number: int, now: float, reason: str, *, in_vain: bool) -> Control:
    look_s = control.look_s
    return replace(
        control,
        allowed=number,
        proven=number,
        phase=Phase.SETTLED,
        changed_at=now,
        look_at=now + look_s,
        look_s=min(LONGEST_LOOK_S, 2 * look_s) if in_vain else LOOK_S,
        change_at=now + control.change_s,
        change_s=min(LONGEST_CHANGE_S, 2 * control.change_s) if in_vain else CHANGE_S,
        reason=reason,
    )


def after_refusal(control: Control, now: float, *, served: int) -> Control:
    """Return the control after the host refused a connection while it `served` others: their number is its limit."""
    number = max(1, min(served, control.allowed))
    return replace(
        control,
        allowed=number,
        proven=number,
        phase=Phase.FIRST,
        refused=number + 1,
        changed_at=now,
        reason=f"the host refused a connection while it served {served}",
    )


def after_rate_refusal(control: Control, now: float) -> Control:
    """Return the control, with half as many connections, after the host refused many requests at once: too many a second."""
    number = max(1, control.allowed // 2)
    return replace(
        control,
        allowed=number,
        proven=number,
        speed=0.0,
        phase=Phase.SETTLED,
        changed_at=now,
        look_at=now + CHECK_S,
        change_at=now + CHECK_S,
        reason="the host refused several requests at once while it served none",
    )


def after_served(control: Control, now: float, *, served: int) -> Control:
    """Return the control while the host serves more connections than are allowed since a refusal: it bears them."""
    if served <= control.allowed or control.refused is None or control.refused > served:
        return control
    number = min(served, control.most)
    return replace(
        control,
        allowed=number,
        proven=number,
        speed=0.0,
        refused=served + 1,
        changed_at=now,
        reason=f"the host serves {served} at the same time",
    )
