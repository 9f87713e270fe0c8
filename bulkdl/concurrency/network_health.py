"""Tell an outage of this machine's network from outages of single origins; pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.concurrency.origin_health import Health, OriginHealth, is_outage
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ANSWERED", "UNREACHABLE", "OriginView", "is_unclear", "is_unreachable", "network_down_since"]

UNREACHABLE = frozenset({Trouble.NAME, Trouble.NO_SUCH_NAME, Trouble.REFUSED, Trouble.TIMEOUT})
"""Troubles that a machine without a network meets. `REFUSED` includes "no route"; a connection that was kept open times out
while it waits for a head."""
ANSWERED = frozenset({Trouble.TLS, Trouble.STATUS, Trouble.BUSY, Trouble.PAGE, Trouble.DENIED})
"""Troubles with an answer, which proves that there is a network."""
_TOGETHER_S = 300.0
"""Longest time (s) between the first failures of two origins that have one cause: requests in flight fail by a timeout, and
two archives that break down hours apart are two outages."""
_UNCLEAR_S = 10.0
"""Longest time (s) for which an outage is not told yet because requests to other origins may be about to fail as well."""


@dataclass(frozen=True, slots=True)
class OriginView:
    """What the decision needs of one origin; times are monotonic seconds."""

    state: OriginHealth
    is_asked: bool
    """Whether requests are in flight."""
    good_at: float
    """Time of the latest good answer."""


def is_unreachable(state: OriginHealth) -> bool:
    """Return whether the origin is out of order by a trouble that a machine without a network meets."""
    return _is_ill(state) and state.trouble in UNREACHABLE


def network_down_since(origins: Iterable[OriginView]) -> float | None:
    """Return since when this machine probably has no network; None: it has one, or that is not clear.

    At least two origins became unreachable together, one of them gave a good answer before, a probe has confirmed one of the
    outages, and no other origin has answered since. An origin that nobody asks says nothing.
    """
    views = tuple(origins)
    ill = [view.state for view in views if is_unreachable(view.state)]
    latest = max((state.began for state in ill), default=0.0)
    group = [state for state in ill if latest - state.began <= _TOGETHER_S]
    since = min((state.began for state in group), default=0.0)
    is_confirmed, is_known = any(map(is_outage, group)), any(state.ever_good for state in group)
    if len(group) < 2 or not is_confirmed or not is_known or any(_speaks_for_network(v, since, latest) for v in views):
        return None
    return since


def is_unclear(state: OriginHealth, others: Sequence[OriginView], now: float) -> bool:
    """Return whether requests to other origins, or the next probes, will soon tell if the network is the cause."""
    waits = _may_be_network(state) and now - state.began < _UNCLEAR_S
    return waits and any(_may_have_same_cause(state, other) for other in others)


def _may_have_same_cause(state: OriginHealth, other: OriginView) -> bool:
    if not _is_ill(other.state):
        return other.is_asked and other.good_at < state.began
    return _may_be_network(other.state) and Trouble.BROKEN in (state.trouble, other.state.trouble)


def _may_be_network(state: OriginHealth) -> bool:
    """Return whether the origin is unreachable, or may turn out to be: a connection breaks when its network goes."""
    return _is_ill(state) and (state.trouble in UNREACHABLE or state.trouble is Trouble.BROKEN)


def _speaks_for_network(view: OriginView, since: float, latest: float) -> bool:
    if not _is_ill(view.state):
        return view.is_asked or view.good_at >= latest
    return view.state.trouble not in UNREACHABLE and view.state.counted_at >= since


def _is_ill(state: OriginHealth) -> bool:
    return state.health not in (Health.UP, Health.RAMPING)
