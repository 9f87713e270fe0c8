"""Tell users about an outage of a token endpoint, as `concurrency/outages` does for archives."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.concurrency.network_health import UNREACHABLE
from bulkdl.core.events import Outage, OutageChanged, OutagePhase
from bulkdl.core.models import Trouble

if TYPE_CHECKING:
    from bulkdl.auth.oidc.login import LoginRequest
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub

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
        self._is_shared = False
        """Whether the latest event was part of an outage of this machine's network."""

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
        is_shared = self._hub.counters.is_network_down and trouble in UNREACHABLE
        kind = Trouble.NETWORK if is_shared else trouble
        if self._outage is None:
            self._outage = Outage(
                origin=self._login.token_url.origin,
                account=self._login.account,
                kind=kind,
                reason=reason,
                began=self._began,
            )
        elif now - self._told_at < _STILL_S and is_shared == self._is_shared:
            return
        # Once an hour it is told although the network is the cause: without a token no archive is asked, so nobody else tells.
        is_due = phase is OutagePhase.LASTS and now - self._told_at >= _STILL_S
        self._outage = replace(self._outage, kind=kind, reason=reason)
        self._told_at, self._is_shared = now, is_shared
        gives_up = wall + gives_up_in if gives_up_in is not None and math.isfinite(gives_up_in) else None
        self._hub.emit(
            OutageChanged(
                phase=phase,
                outage=self._outage,
                waiting=self._waiting(),
                next_try=wall + wait,
                gives_up=gives_up,
                is_shared=is_shared and not is_due,
            )
        )

    def over(self, *, given_up: bool) -> None:
        """Report the end of the series."""
        if self._outage is None:
            return
        phase = OutagePhase.GIVEN_UP if given_up else OutagePhase.ENDED
        ended = replace(self._outage, ended=None if given_up else self._clock.wall())
        self._outage = None
        self._hub.emit(OutageChanged(phase=phase, outage=ended, waiting=self._waiting(), is_shared=self._is_shared))
        self._is_shared = False

    def _waiting(self) -> int:
        return self._hub.counters.waiting.get(f"account {self._login.account}", 0)


_NOTABLE_S = 60.0
"""A wait of this length is told at the first failure."""
