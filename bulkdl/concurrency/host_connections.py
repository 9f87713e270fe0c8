"""The connections of one account to one host: how many are open and allowed, what they bring, and how refusals are taken.

`connection_control` decides on the number, `slot_pause` on the pause before a place is used again, `work_meter` measures.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.concurrency.connection_control import (
    Control,
    Phase,
    WorkKind,
    after_rate_refusal,
    after_refusal,
    after_sample,
    after_served,
    after_trial_time,
)
from bulkdl.concurrency.slot_pause import LONGEST_S, SlotPause, after_accepted, after_refused
from bulkdl.concurrency.work_meter import WorkMeter
from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkdl.concurrency.host_memory import HostMemory

__all__ = ["HostConnections", "Limits", "Place"]

_LAPSE_S = 0.3
"""Seconds without every allowed connection in use after which a measurement begins again."""
_LOOK_S, _LONGEST_LOOK_S, _LOOK_PART = 0.03, 1.0, 0.1
"""Seconds between two looks at the measurements: a tenth of the time since the last change, within these bounds."""
_STEADY_S = 1.0
"""Least seconds of a measurement that is compared with an earlier speed, or that counts for fewer connections."""
_EACH_S = 0.01
"""Least seconds of a measurement for each connection: the more there are, the more a wrong trial costs the host."""
_NO_ANSWER_S = 0.15
"""Seconds without any answer after which more requests are sent: the host thinks about each, and they cost it little."""
_NO_ANSWER_CONNECTIONS = 16
_EXTRAS_S = 0.3
"""Seconds that extra connections have to fill a trial before products take part in it."""
_HALVE_S = 0.3
"""Least seconds between two halvings: requests that were refused together count once."""
_OUTAGE_S = 30.0
"""Seconds before the begin of an outage within which refusals belong to it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is known of the number of connections, and of the pause between two of them."""

    control: Control
    pause: SlotPause


class Place:
    """One connection's place at a host, from the time at which it is granted until it is given back."""

    __slots__ = ("freed_at", "is_answered", "is_refused", "since_s")

    def __init__(self, since_s: float = math.inf, freed_at: float = -math.inf) -> None:
        self.since_s = since_s
        """Seconds since the place was given back before; infinity: it was not used lately."""
        self.freed_at = freed_at
        self.is_answered = False
        self.is_refused = False


class HostConnections:
    """State of one account at one host. Times are monotonic seconds."""

    def __init__(self, control: Control, *, tell: Callable[[str], None], is_patient: bool = False) -> None:
        """`tell` gets each decision as a sentence with its reason; `is_patient`: wait for the first answer."""
        self.control = control
        self.meter = WorkMeter(began=control.changed_at)
        self.pause = SlotPause()
        self.held = 0
        self.extras = 0
        """Extra connections among those that are held."""
        self._is_trial_of_products = False
        """Whether the extra connections of a trial are too few, so that products may have them too."""
        self.served = 0
        """Connections that are open and were answered well."""
        self.waiting = 0
        """Products that wait for a place."""
        self.start = control.allowed
        self._tell = tell
        self._is_patient = is_patient
        self._freed: deque[float] = deque()
        """Times at which places were given back, of the last `LONGEST_S` seconds."""
        self._verifying: Place | None = None
        """The place whose request shows whether the pause is long enough."""
        self._wanted_at = -math.inf
        self._refused_at = self._halved_at = -math.inf
        self._before_refusals: Limits | None = None
        """Limits before the refusals of the last `_OUTAGE_S` seconds."""
        self._short_since: float | None = -math.inf
        """Time since which not every allowed connection is in use, or no more are wanted; None: they are."""

    # Places

    @property
    def allowed(self) -> int:
        return self.control.allowed

    @property
    def limits(self) -> Limits:
        return Limits(self.control, self.pause)

    @property
    def is_trial_of_extras(self) -> bool:
        """Whether the connections of a trial are extra ones of products in flight, which can be closed at once."""
        control = self.control
        return control.phase is Phase.MORE and control.kind is WorkKind.BYTES and not self._is_trial_of_products

    def opens_in(self, now: float, *, is_extra: bool = False) -> float:
        """Return the seconds until a place may be taken; 0: now, infinity: after the next change."""
        if self.held >= self.control.allowed:
            return math.inf
        if not is_extra and self.held - self.extras >= self.control.proven and self.is_trial_of_extras:
            return math.inf
        if not self.pause.pause_s or self._unused(now) > 0:
            return 0.0
        if not self.pause.is_verified and self._verifying is not None:
            return math.inf
        return max(0.0, self._freed[0] + self.pause.pause_s - now)

    def take(self, now: float) -> Place:
        """Take a place; `opens_in` has returned 0."""
        self.held += 1
        if self._unused(now, held=self.held - 1) > 0 or not self._freed:
            return Place()
        freed = self._freed.popleft()
        place = Place(now - freed, freed)
        if not self.pause.is_verified:
            self._verifying = place
        return place

    def give_back(self, place: Place, now: float) -> None:
        self.held -= 1
        self.served -= place.is_answered
        if place is self._verifying:
            self._verifying = None
        if place.is_refused:
            if math.isfinite(place.freed_at):
                self._freed.appendleft(place.freed_at)
            elif self.pause.pause_s:
                self._freed.append(now)
        else:
            self._freed.append(now)

    def _unused(self, now: float, *, held: int | None = None) -> int:
        """Return how many of the free places have not been used lately."""
        while self._freed and now - self._freed[0] > LONGEST_S:
            self._freed.popleft()
        held = self.held if held is None else held
        while len(self._freed) > max(0, self.control.allowed - held):
            self._freed.popleft()
        return self.control.allowed - held - len(self._freed)

    # What the host answers

    def answered(self, place: Place, now: float) -> None:
        """Record that the host serves this connection."""
        if place.is_answered:
            return
        place.is_answered = True
        self.served += 1
        if place is self._verifying:
            self._verifying = None
        self._set_pause(after_accepted(self.pause, place.since_s))
        self._set(after_served(self.control, now, served=self.served), now)

    def refused(self, place: Place | None, now: float, *, are_several: bool) -> None:
        """Record that the host refused this connection because of the number of connections or requests.

        A pause is learned only where several products are refused at a time, since one may have a trouble of its own.
        """
        if now - self._refused_at > _OUTAGE_S:
            self._before_refusals = self.limits
        self._refused_at = now
        if place is None:
            self._lower(self.served, now)
            return
        was_verifying, place.is_refused = place is self._verifying, True
        if place.is_answered:
            place.is_answered, self.served = False, self.served - 1
        if was_verifying:
            self._verifying = None
        lately = place.since_s <= LONGEST_S or (not self.served and bool(self._freed))
        if are_several and lately and self.served < self.control.proven:
            self._learn_pause(place, now, was_verifying=was_verifying)
        else:
            self._lower(self.served, now)

    def _learn_pause(self, place: Place, now: float, *, was_verifying: bool) -> None:
        """Learn from a refusal soon after another connection or request has ended."""
        since = place.since_s if self.pause.pause_s else 0.0
        if self.pause.is_verified or was_verifying:
            pause = after_refused(self.pause, min(since, LONGEST_S), serves_others=self.served > 0)
            self._set_pause(pause or SlotPause())
            if pause is None:
                self._lower(self.served, now)
        elif not self.served:
            self._halve(now)

    def _halve(self, now: float) -> None:
        """Lower the number of a host that refuses many requests at once while it serves none: it limits their rate."""
        if now - self._halved_at >= _HALVE_S and self.control.allowed > 1:
            self._halved_at = now
            self._set(after_rate_refusal(self.control, now), now)

    def _lower(self, served: int, now: float) -> None:
        if served:  # a refusal while it serves nobody says nothing about the number
            self._set(after_refusal(self.control, now, served=served), now)

    def forget_refusals(self, now: float) -> None:
        """Withdraw the latest refusals: they were the begin of an outage."""
        if self._before_refusals is not None and now - self._refused_at <= _OUTAGE_S:
            self.restore(self._before_refusals, now)

    def restore(self, before: Limits, now: float) -> None:
        """Go back to earlier limits: what looked like a refusal was one product's own trouble."""
        self._refused_at = -math.inf
        self._set_pause(before.pause)
        if before.control.allowed > self.control.allowed:
            self._set(replace(before.control, changed_at=now), now)

    # What later runs may use

    def begin_with(self, memory: HostMemory) -> None:
        """Keep the remembered pause, and wait for the first answer: the number is known already."""
        if memory.pause_s:
            self.pause = SlotPause(memory.pause_s, memory.pause_refused_s, memory.pause_accepted_s)
        self._is_patient = self._is_patient or memory.connections > 0 or memory.refused > 0

    def remembered(self, before: HostMemory, *, now: float, wall: float) -> HostMemory:
        """Return `before` with what was measured or refused since; `wall` is the Unix time of `now`.

        A number with which this run only began, and a pause that no request has verified, are not remembered.
        """
        control, pause = self.control, self.pause if self.pause.is_verified and self.pause.pause_s else None
        refused_at = wall - (now - self._refused_at) if math.isfinite(self._refused_at) else 0.0
        memory, is_bound = before, control.proven == self.start == control.most
        if control.phase is not Phase.FIRST and control.kind is not None and not is_bound:
            memory = replace(
                memory,
                connections=control.proven,
                rate=control.speed,
                is_rate_of_answers=control.kind is WorkKind.ANSWERS,
                connections_at=wall,
            )
        elif refused_at and control.refused is not None:
            memory = replace(memory, connections=control.proven, rate=0.0, connections_at=refused_at)
        if control.refused != (before.refused or None) or refused_at:
            at = (refused_at or before.refused_at or wall) if control.refused is not None else 0.0
            memory = replace(memory, refused=control.refused or 0, refused_at=at)
        if pause is None:
            return replace(memory, pause_s=0.0, pause_refused_s=0.0, pause_accepted_s=0.0, pause_at=0.0)
        return replace(
            memory,
            pause_s=pause.pause_s,
            pause_refused_s=pause.refused_s,
            pause_accepted_s=pause.accepted_s,
            pause_at=refused_at or before.pause_at or wall,
        )

    # Measurements

    def want(self, now: float) -> None:
        """Record that a product could use more connections than there are."""
        self._wanted_at = now

    def is_wanted(self, now: float) -> bool:
        return self.waiting > 0 or now - self._wanted_at <= _LAPSE_S

    def next_look_in(self, now: float) -> float | None:
        """Return the seconds until the next look; None if none is due before more connections are wanted."""
        control = self.control
        if not self.held or not (self.is_wanted(now) or control.phase in (Phase.MORE, Phase.LESS)):
            return None
        if control.phase is Phase.SETTLED:
            return _LONGEST_LOOK_S
        return min(_LONGEST_LOOK_S, max(_LOOK_S, _LOOK_PART * (now - control.changed_at)))

    def look(self, now: float) -> None:
        """Decide by what has been measured; call it every few hundredths of a second while a trial goes on."""
        control = self.control
        is_full = self.held >= control.allowed and self.is_wanted(now)
        lapse = now - self._short_since if self._short_since is not None else 0.0
        if is_full and lapse > _LAPSE_S:
            self.meter.restart(now)
        if is_full:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        if self.is_trial_of_extras and now - control.changed_at >= _EXTRAS_S and self.held < control.allowed:
            self._is_trial_of_products = True
        if not is_full and lapse > _LAPSE_S:
            if control.phase in (Phase.MORE, Phase.LESS):
                self._set(after_trial_time(control, now), now)
            return
        if self._waits_for_first_answer(now):
            more = min(_NO_ANSWER_CONNECTIONS, control.bound)
            reason = "no answer yet, and none was refused"
            self._set(replace(control, allowed=more, proven=more, reason=reason), now, restart=False)
            return
        if self.held > control.allowed:  # of fewer connections nothing is known while more are open
            self.meter.restart(now)
        added = control.allowed - control.proven if control.phase is Phase.MORE else 0
        steady = control.phase in (Phase.LESS, Phase.SETTLED)
        least_s = _STEADY_S if steady else min(_STEADY_S, _EACH_S * control.allowed)
        sample = self.meter.sample(now, allowed=control.allowed, added=added, least_s=least_s)
        self._set(after_sample(control, sample), now)
        if sample.is_enough and self.meter.is_old(now):
            self.meter.restart(now)

    def _waits_for_first_answer(self, now: float) -> bool:
        control, meter = self.control, self.meter
        return (
            not self._is_patient
            and control.phase is Phase.FIRST
            and control.refused is None
            and not meter.round_trip_s
            and control.allowed < min(_NO_ANSWER_CONNECTIONS, control.bound)
            and now - meter.began >= _NO_ANSWER_S
        )

    def _set_pause(self, pause: SlotPause) -> None:
        before, self.pause = self.pause, pause
        if pause.pause_s != before.pause_s:
            self._tell(
                f"{pause.pause_s:.2f} s before a place is used again, since {pause.refused_s:.2f} s was refused"
                f" and {pause.accepted_s:.2f} s accepted"
            )

    def _set(self, control: Control, now: float, *, restart: bool = True) -> None:
        before, self.control = self.control, control
        if control is before:
            return
        if control.phase is not Phase.MORE or control.allowed != before.allowed:
            self._is_trial_of_products = False
        if restart and (control.allowed != before.allowed or control.phase is not before.phase):
            self.meter.restart(now)
        if control.allowed != before.allowed or control.reason != before.reason:
            self._tell(f"{control.allowed} connections, since {control.reason}")
