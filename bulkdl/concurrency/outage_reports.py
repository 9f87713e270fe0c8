"""Tell users about outages: of each origin on its own, or of this machine's network as the cause of all of them."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import field, replace
from typing import TYPE_CHECKING

from bulkdl.concurrency.network_health import OriginView, is_unclear, is_unreachable, network_down_since
from bulkdl.concurrency.origin_health import OriginHealth, give_up_limit, is_outage
from bulkdl.core.events import NetworkChanged, Outage, OutageChanged, OutagePhase
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Trouble
from bulkdl.core.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub

__all__ = ["GivenUp", "OutageReports", "TrackedOrigin"]

_STILL_S = 3600.0
"""Seconds between two events about an outage that lasts."""
_WAITS = frozenset({OutagePhase.BEGAN, OutagePhase.LASTS})


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Why an origin was given up: its products fail with this reason."""

    reason: str
    trouble: Trouble


@dataclass(slots=True)
class TrackedOrigin:
    """An origin of the run with what has happened to it; ids are product ids, times are monotonic seconds."""

    name: str
    state: OriginHealth = OriginHealth()
    in_flight: set[str] = field(default_factory=set)
    """Ids of the products that a worker has. One that is requested behind another on its connection is not counted."""
    served: set[str] = field(default_factory=set)
    """Ids of the products in flight that got a good answer."""
    refused_at: float = -math.inf
    """Time of the latest refusal that counted as a round."""
    refused_rounds: int = 0
    """Refusals in a row, of which those of requests at the same time count once."""
    turned_away: dict[str, float] = field(default_factory=dict)
    """Times of the latest refusals that may come from a limit of connections or requests, by product id."""
    good_times: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    """Times of the latest good answers."""
    refused: int = 0
    """Refusals in a row, of whatever product, while others were served."""
    probe: str | None = None
    """Id of the product that is asking as the probe."""
    good_id: str = ""
    """Id of the product that got the latest good answer, and when; `other_*`: the same of the latest other product."""
    good_at: float = -math.inf
    other_at: float = -math.inf
    outage: Outage | None = None
    """The outage that users were told of and that is not over."""
    told_at: float = 0.0
    down_at: float = -math.inf
    """Time at which the latest outage was confirmed."""
    given_up: GivenUp | None = None


class OutageReports:
    """Emits `OutageChanged` for each origin and `NetworkChanged` for the network, once an hour while an outage lasts."""

    def __init__(
        self,
        origins: Mapping[str, TrackedOrigin],
        *,
        clock: Clock,
        hub: Hub,
        give_up_after: float,
        count_waiting: Callable[[str], int],
    ) -> None:
        self._origins = origins
        self._clock = clock
        self._hub = hub
        self._give_up_after = give_up_after
        self._count_waiting = count_waiting
        self._network: NetworkChanged | None = None
        """The latest event about the network while it is out of order."""
        self._network_told_at = 0.0

    def trouble(self, known: TrackedOrigin) -> None:
        """Report a trouble of an origin that is not given up."""
        now = self._clock.monotonic()
        if self._network is None:
            self._find_network_outage()
        elif now - self._network_told_at >= _STILL_S:
            self._tell_network(OutagePhase.LASTS, self._network.began)
        if not is_outage(known.state):
            return
        if known.outage is None:
            others = [_view(other) for other in self._origins.values() if other is not known and other.given_up is None]
            if self._network is not None or not is_unclear(known.state, others, now):
                self._begin(known)
        elif now - known.told_at >= _STILL_S:
            self._tell(OutagePhase.LASTS, known)

    def recovered(self, known: TrackedOrigin, *, was_outage: bool) -> None:
        """Report a good answer of an origin that was out of order."""
        if was_outage and known.outage is None:
            self._begin(known)
        if known.outage is None:
            return
        known.outage = replace(known.outage, ended=self._clock.wall())
        self._tell(OutagePhase.ENDED, known)
        known.outage = None

    def give_up(self, known: TrackedOrigin) -> GivenUp:
        """Report that an origin is given up, once, and return why."""
        if known.given_up is not None:
            return known.given_up
        state = known.state
        known.outage = known.outage or self._outage(known)
        self._tell(OutagePhase.GIVEN_UP, known)
        text = f"gave no good answer for {format_duration(state.waited_s)}, and --give-up-after ends the wait"
        if give_up_limit(state, self._give_up_after) <= 0:
            text = "gave no good answer, and --give-up-after 0 allows no wait"
        return GivenUp(f"{state.reason}; {known.name} {text}", state.trouble)

    def network_answered(self) -> bool:
        """Report an answer of any origin; return whether it ends an outage of the network.

        Origins that are still out of order are told on their own after their next probe.
        """
        if self._network is None:
            return False
        ended = replace(
            self._network, phase=OutagePhase.ENDED, ended=self._clock.wall(), waiting=0, next_try=None, gives_up=None
        )
        self._network, self._hub.counters.is_network_down = None, False
        self._hub.emit(ended)
        for known in self._origins.values():
            if known.outage is not None and known.given_up is None:
                known.told_at = -math.inf
        return True

    def _find_network_outage(self) -> None:
        tracked = [known for known in self._origins.values() if known.given_up is None]
        since = network_down_since(map(_view, tracked))
        if since is None:
            return
        self._hub.counters.is_network_down = True
        self._tell_network(OutagePhase.BEGAN, self._clock.wall() - (self._clock.monotonic() - since))
        for known in tracked:
            if known.outage is not None:
                self._tell(OutagePhase.LASTS, known)

    def _begin(self, known: TrackedOrigin) -> None:
        known.outage = self._outage(known)
        self._tell(OutagePhase.BEGAN, known)

    def _outage(self, known: TrackedOrigin) -> Outage:
        began = self._clock.wall() - (self._clock.monotonic() - known.state.began)
        return Outage(origin=known.name, kind=known.state.trouble, reason=known.state.reason, began=began)

    def _tell(self, phase: OutagePhase, known: TrackedOrigin) -> None:
        assert known.outage is not None
        is_shared = self._network is not None and is_unreachable(known.state)
        if phase in _WAITS:  # the cause may have turned out to be another one
            kind = Trouble.NETWORK if is_shared else known.state.trouble
            known.outage = replace(known.outage, kind=kind, reason=known.state.reason)
        known.told_at = self._clock.monotonic()
        self._hub.emit(
            OutageChanged(
                phase=phase,
                outage=known.outage,
                waiting=self._waiting(known, phase),
                next_try=self._next_try([known]) if phase in _WAITS else None,
                gives_up=self._gives_up([known]) if phase in _WAITS else None,
                is_shared=is_shared or (phase is OutagePhase.ENDED and known.outage.kind is Trouble.NETWORK),
            )
        )

    def _tell_network(self, phase: OutagePhase, began: float) -> None:
        out = [known for known in self._origins.values() if known.given_up is None and is_unreachable(known.state)]
        accounts = sum(waiting for key, waiting in self._hub.counters.waiting.items() if "://" not in key)
        self._network_told_at = self._clock.monotonic()
        self._network = NetworkChanged(
            phase=phase,
            origins=tuple(known.name for known in out),
            reason=out[0].state.reason if out else "",
            began=began,
            waiting=accounts + sum(self._waiting(known, phase) for known in out),
            next_try=self._next_try(out),
            gives_up=self._gives_up(out),
        )
        self._hub.emit(self._network)

    def _waiting(self, known: TrackedOrigin, phase: OutagePhase) -> int:
        """Return how many products wait; the probe's own does so as well until it is served."""
        held = self._count_waiting(known.name)
        return held if phase is OutagePhase.ENDED else held + len(known.in_flight - known.served)

    def _next_try(self, origins: list[TrackedOrigin]) -> float | None:
        now = self._clock.monotonic()
        return min((self._clock.wall() + max(0.0, each.state.next_probe_at - now) for each in origins), default=None)

    def _gives_up(self, origins: list[TrackedOrigin]) -> float | None:
        left = min((give_up_limit(o.state, self._give_up_after) - o.state.waited_s for o in origins), default=math.inf)
        return self._clock.wall() + left if math.isfinite(left) else None


def _view(known: TrackedOrigin) -> OriginView:
    return OriginView(known.state, is_asked=bool(known.in_flight), good_at=known.good_at)
