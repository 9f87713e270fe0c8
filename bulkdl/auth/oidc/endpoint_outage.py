"""Tell users about an outage of a token endpoint, as `concurrency/outages` does for archives."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.core.events import Outage, OutageChanged, OutagePhase

if TYPE_CHECKING:
    from bulkdl.auth.oidc.login import LoginRequest
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.models import Trouble

__all__ = ["EndpointOutage"]

_STILL_S = 3600.0
"""Seconds between two events about an outage that lasts."""


class EndpointOutage:
    """One series of failures of a token endpoint. The second failure confirms it."""

    def __init__(self, login: LoginRequest, *, clock: Clock, hub: Hub) -> None:
        self._login = login
        self._clock = clock
        self._hub = hub
        self._began: float | None = None
        self._told_at = 0.0
        self._outage: Outage | None = None

    @property
    def reason(self) -> str:
        return "" if self._outage is None else self._outage.reason

    def failed(self, reason: str, trouble: Trouble, *, wait: float, gives_up_in: float | None) -> None:
        """Report a failure; the next try is in `wait` seconds."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        if self._began is None:
            self._began = wall
            if wait < _NOTABLE_S:
                return
        phase = OutagePhase.BEGAN if self._outage is None else OutagePhase.LASTS
        if self._outage is None:
            self._outage = Outage(
                origin=self._login.token_url.origin,
                account=self._login.account,
                kind=trouble,
                reason=reason,
                began=self._began,
            )
        elif now - self._told_at < _STILL_S:
            return
        self._told_at = now
        gives_up = wall + gives_up_in if gives_up_in is not None and math.isfinite(gives_up_in) else None
        self._hub.emit(
            OutageChanged(
                phase=phase, outage=self._outage, waiting=self._waiting(), next_try=wall + wait, gives_up=gives_up
            )
        )

    def over(self, *, given_up: bool) -> None:
        """Report the end of the series."""
        if self._outage is None:
            return
        phase = OutagePhase.GIVEN_UP if given_up else OutagePhase.ENDED
        ended = replace(self._outage, ended=None if given_up else self._clock.wall())
        self._outage = None
        self._hub.emit(OutageChanged(phase=phase, outage=ended, waiting=self._waiting()))

    def _waiting(self) -> int:
        return self._hub.counters.waiting.get(f"account {self._login.account}", 0)


_NOTABLE_S = 60.0
"""A wait of this length is told at the first failure."""
