"""The pause before a connection's place at a host is used again, learned from refusals. Pure.

Some hosts count a connection for a moment after it has ended, others allow only so many requests per second. Both refuse a
request that comes too soon after another has ended. The pause that is long enough lies between the longest that was refused
and the shortest that was accepted; a few trials narrow it down.
"""

from __future__ import annotations

import math
from dataclasses import replace

from bulkdl.core.fast_dataclass import dataclass

__all__ = ["LONGEST_S", "SlotPause", "after_accepted", "after_refused"]

LONGEST_S = 5.0
"""Longest pause (s); a host that refuses after it has another reason."""
_LONGEST_BESIDE_S = 0.6
"""The same while the host serves other connections: then it has probably lowered its limit."""
_FIRST_S = 0.15
_GROWTH, _GROWTH_KNOWN = 2.0, 1.5
"""Factors of the next pause to try: while none has been accepted, and after one that was is refused."""
_SPARE = 1.1
"""Factor of the shortest accepted pause that is kept, since this machine and the host do not see the same moments."""
_CLOSE = 1.3
"""Ratio of the accepted to the refused pause from which both are close enough."""


@dataclass(frozen=True, slots=True)
class SlotPause:
    """What is known of the pause, in seconds."""

    pause_s: float = 0.0
    """Pause that is kept now."""
    refused_s: float = 0.0
    """Longest pause after which the host refused."""
    accepted_s: float = math.inf
    """Shortest longer pause after which it accepted; infinity: none yet."""

    @property
    def is_verified(self) -> bool:
        """Return whether the pause that is kept now has been accepted, or there is none."""
        return self.pause_s <= 0 or self.pause_s >= self.accepted_s


def after_refused(pause: SlotPause, since_s: float, *, serves_others: bool) -> SlotPause | None:
    """Return the pause after a refusal `since_s` seconds after a place became free; None if no pause would help."""
    refused = max(pause.refused_s, since_s)
    if refused < pause.accepted_s < math.inf:
        return SlotPause(_next(refused, pause.accepted_s), refused, pause.accepted_s)
    longer = max(_FIRST_S, (_GROWTH if math.isinf(pause.accepted_s) else _GROWTH_KNOWN) * refused)
    longest = _LONGEST_BESIDE_S if serves_others else LONGEST_S
    return SlotPause(min(longer, longest), refused, math.inf) if refused < longest else None


def after_accepted(pause: SlotPause, since_s: float) -> SlotPause:
    """Return the pause after a request was accepted `since_s` seconds after its place became free."""
    if pause.pause_s <= 0 or since_s <= pause.refused_s or since_s >= pause.accepted_s:
        return pause
    return replace(pause, accepted_s=since_s, pause_s=_next(pause.refused_s, since_s))


def _next(refused: float, accepted: float) -> float:
    """Return the pause to keep: the accepted one if it is close to the refused one, else one between them."""
    return _SPARE * accepted if accepted <= max(_FIRST_S, _CLOSE * refused) else (refused + accepted) / 2
