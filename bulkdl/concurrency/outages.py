"""The origins of a run: which of them are out of order, and which product may ask one of them now.

`origin_health` decides; this module keeps its states, the requests in flight, and what has come from where. `outage_reports`
tells users when an outage begins and ends.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from bulkdl.concurrency.network_health import ANSWERED, is_unreachable
from bulkdl.concurrency.origin_health import (
    Health,
    admits_in,
    after_good,
    after_trouble,
    is_given_up,
    is_outage,
    probe_abandoned,
    probe_begun,
    probe_now,
)
from bulkdl.concurrency.outage_reports import GivenUp, OutageReports, TrackedOrigin

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.models import Trouble

__all__ = ["Blame", "GivenUp", "Outages"]

_TURNED_AWAY_S = 2.0
"""Seconds within which refusals of several products point to a limit."""
_TURNED_AWAY_PART = 4
"""Good answers for each refused product that are so many that the refusals are the products' own trouble."""
_CROWDED_IN_A_ROW = 20
"""Refusals without a good answer that may still mean a limit of connections, while others are served."""
_CHECK = "\0check"
"""Stands in `TrackedOrigin.probe` for a check by a product that came before; no product has such an id."""


class Blame(Enum):
    """Owner of a fault."""

    PRODUCT = "product"
    ORIGIN = "origin"


class Outages:
    """State of every origin of a run. Ids are product ids; times are the clock's monotonic seconds."""

    def __init__(self, *, clock: Clock, rng: random.Random, hub: Hub, give_up_after: float) -> None:
        """`give_up_after`: seconds without a good answer after which an origin is given up; infinity: never."""
        self._clock = clock
        self._rng = rng
        self._give_up_after = give_up_after
        self._origins: dict[str, TrackedOrigin] = {}
        self._reports = OutageReports(
            self._origins,
            clock=clock,
            hub=hub,
            give_up_after=give_up_after,
            count_waiting=lambda o: self.count_waiting(o),  # noqa: PLW0108 - the queue replaces it
        )
        self.on_change: Callable[[], None] = lambda: None
        """Called when a request may start that could not before."""
        self.count_waiting: Callable[[str], int] = lambda _origin: 0
        """Return how many products wait for an origin."""

    # Requests

    def admits_in(self, origin: str) -> float:
        """Return the seconds until a request to `origin` may start; 0: now, infinity: after the next change."""
        known = self._origins.get(origin)
        if known is None or known.given_up is not None:
            return 0.0
        return admits_in(known.state, self._clock.monotonic(), in_flight=len(known.in_flight))

    def is_up(self, origin: str) -> bool:
        known = self._origins.get(origin)
        return known is None or known.state.health is Health.UP

    def given_up(self, origin: str) -> GivenUp | None:
        """Return why the origin was given up, or None."""
        known = self._origins.get(origin)
        return known.given_up if known is not None else None

    def trouble(self, origin: str) -> Trouble | None:
        """Return the trouble of an origin that is suspect or down, else None."""
        known = self._origins.get(origin)
        return known.state.trouble if known is not None and self.is_ill(origin) else None

    def ever_good(self, origin: str) -> bool:
        known = self._origins.get(origin)
        return known is not None and known.state.ever_good

    def start(self, origin: str, id: str) -> None:  # noqa: A002
        """Count a product as in flight; it becomes the probe if the origin is out of order."""
        known = self._known(origin)
        known.in_flight.add(id)
        if known.state.health in (Health.SUSPECT, Health.DOWN):
            known.state, known.probe = probe_begun(known.state), id

    def end(self, origin: str, id: str) -> None:  # noqa: A002
        """Count a product as no longer in flight; a probe without an answer is abandoned."""
        known = self._origins[origin]
        known.in_flight.discard(id)
        known.served.discard(id)
        if known.probe == id:
            known.state, known.probe = probe_abandoned(known.state, self._clock.monotonic()), None
            self.on_change()
        elif known.state.health is Health.RAMPING:
            self.on_change()

    def is_probe(self, origin: str, id: str) -> bool:  # noqa: A002
        known = self._origins.get(origin)
        return known is not None and known.probe == id

    # Answers

    def good(self, origin: str, id: str) -> None:  # noqa: A002
        """Report the head of a representation that the product can use."""
        known, now = self._known(origin), self._clock.monotonic()
        if known.good_id != id:
            known.good_id, known.other_at = id, known.good_at
        known.good_at, known.refused, known.refused_rounds = now, 0, 0
        known.good_times.append(now)
        if id in known.in_flight:
            known.served.add(id)
        if known.state.health is not Health.UP:
            self._recover(known)
        elif not known.state.ever_good:
            known.state = after_good(known.state)
        self._answered()

    def answers_others(self, origin: str, id: str, *, since: float) -> bool:  # noqa: A002
        """Return whether another product got a good answer since `since`."""
        known = self._origins.get(origin)
        if known is None:
            return False
        at = known.other_at if known.good_id == id else known.good_at
        return at >= since

    def answered_lately(self, origin: str, seconds: float) -> bool:
        """Return whether the origin gave a good answer within the last so many seconds."""
        known = self._origins.get(origin)
        return known is not None and self._clock.monotonic() - known.good_at <= seconds

    def serves_others(self, origin: str, id: str) -> bool:  # noqa: A002
        """Return whether the origin is sending other products now."""
        known = self._origins.get(origin)
        return known is not None and bool(known.served - {id})

    def count_refusal(self, origin: str, *, began: float) -> None:
        """Count a refusal, of an attempt that `began` then, while others are served or were lately."""
        known = self._known(origin)
        known.refused += 1
        if began >= known.refused_at:
            known.refused_rounds += 1
            known.refused_at = self._clock.monotonic()

    def turn_away(self, origin: str, id: str) -> None:  # noqa: A002
        """Record a refusal of a product that may come from a limit of connections or requests."""
        known, now = self._known(origin), self._clock.monotonic()
        known.turned_away = {each: at for each, at in known.turned_away.items() if now - at <= _TURNED_AWAY_S}
        known.turned_away[id] = now

    def turns_others_away(self, origin: str, id: str) -> bool:  # noqa: A002
        """Return whether others have just been refused in this way, too, and not few of those that asked."""
        known, since = self._known(origin), self._clock.monotonic() - _TURNED_AWAY_S
        refused = {each for each, at in known.turned_away.items() if at >= since}
        answered = sum(at >= since for at in known.good_times)
        return bool(refused - {id}) and _TURNED_AWAY_PART * len(refused) >= answered

    def refused_in_a_row(self, origin: str) -> int:
        """Return how many refusals came since the last good answer; those of requests at the same time count once."""
        known = self._origins.get(origin)
        return 0 if known is None else known.refused_rounds

    def admits_nobody(self, origin: str) -> bool:
        """Return whether too many refusals came since the last good answer for a mere limit of connections."""
        known = self._origins.get(origin)
        return known is not None and known.refused > _CROWDED_IN_A_ROW

    def was_down_since(self, origin: str, since: float) -> bool:
        known = self._origins.get(origin)
        return known is not None and known.down_at >= since

    def is_ill(self, origin: str) -> bool:
        """Return whether the origin is suspect or down, so that a refusal proves nothing about a product."""
        known = self._origins.get(origin)
        return known is not None and known.state.health not in (Health.UP, Health.RAMPING)

    def fault(
        self,
        origin: str,
        id: str,  # noqa: A002
        *,
        trouble: Trouble,
        reason: str,
        since: float,
        wait: float | None = None,
    ) -> Blame:
        """Report a fault that every request might meet, of an attempt that began at `since`; return whose it is."""
        known = self._known(origin)
        if not self.is_ill(origin) and self.answers_others(origin, id, since=since):
            return Blame.PRODUCT
        self._trouble(known, trouble, reason, wait=wait, is_probe=known.probe == id)
        return Blame.ORIGIN

    def begin_check(self, origin: str) -> None:
        """Take the place of the next probe: a product that came before is asked for instead."""
        known = self._known(origin)
        if known.state.health in (Health.SUSPECT, Health.DOWN):
            known.state, known.probe = probe_begun(known.state), _CHECK

    def abandon_check(self, origin: str) -> None:
        """Report that the check brought no answer: the next product asks as the probe."""
        known = self._known(origin)
        if known.probe == _CHECK:
            known.state, known.probe = probe_abandoned(known.state, self._clock.monotonic()), None
            self.on_change()

    def confirm(self, origin: str, *, trouble: Trouble, reason: str, is_probe: bool = False) -> None:
        """Report that a product which came before is refused as well: the origin is out of order."""
        known = self._known(origin)
        is_probe = is_probe or known.probe == _CHECK
        self._trouble(known, trouble, reason, is_probe=is_probe, is_confirmed=True)

    def clear(self, origin: str) -> None:
        """Report that a product which came before still comes: the origin is in order."""
        known = self._known(origin)
        known.good_id, known.good_at, known.other_at = "", self._clock.monotonic(), known.good_at
        if known.state.health is not Health.UP:
            self._recover(known)
        self._answered()

    # Changes

    def _known(self, origin: str) -> TrackedOrigin:
        known = self._origins.get(origin)
        if known is None:
            known = self._origins[origin] = TrackedOrigin(origin)
        return known

    def _trouble(
        self,
        known: TrackedOrigin,
        trouble: Trouble,
        reason: str,
        *,
        wait: float | None = None,
        is_probe: bool = False,
        is_confirmed: bool = False,
    ) -> None:
        now = self._clock.monotonic()
        known.state = after_trouble(
            known.state,
            now,
            trouble=trouble,
            reason=reason,
            random=self._rng.random(),
            give_up_after=self._give_up_after,
            wait=wait,
            is_probe=is_probe,
            is_confirmed=is_confirmed,
        )
        if is_probe:
            known.probe = None
        if trouble in ANSWERED:
            self._answered()
        if is_given_up(known.state, self._give_up_after):
            known.given_up = self._reports.give_up(known)
        else:
            if is_outage(known.state):
                known.down_at = now
            self._reports.trouble(known)
        self.on_change()

    def _recover(self, known: TrackedOrigin) -> None:
        was_outage = is_outage(known.state)
        known.state, known.probe = after_good(known.state), None
        self._answered()
        self._reports.recovered(known, was_outage=was_outage)
        known.given_up = None
        self.on_change()

    def _answered(self) -> None:
        """Take note of an answer: if the network was out of order, every origin is asked at once, since the cause is gone."""
        if not self._reports.network_answered():
            return
        now = self._clock.monotonic()
        for known in self._origins.values():
            if is_unreachable(known.state):
                known.state = probe_now(known.state, now)
        self.on_change()
