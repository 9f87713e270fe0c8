"""Decide when a token is used, renewed in the background, or waited for. Pure: callers pass the clock's readings.

Limits are fractions of the lifetime and not fixed margins, because tokens live from one second to two months.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    import random

    from bulkdl.auth.oidc.messages import Token

__all__ = [
    "ActiveToken",
    "RenewalReason",
    "TokenPhase",
    "schedule_renewal",
    "session_is_ending",
    "use_until_expiry",
    "use_up",
]

_REFRESH_SOON_FRACTION = 0.8
"""Share of its lifetime after which a token is renewed in the background (plus up to 6 % jitter)."""
_JITTER_FRACTION = 0.06
_REFRESH_NOW_FRACTION = 0.1
"""Share of its lifetime before the end in which workers wait for the renewal."""
_REFRESH_NOW_MAX_S = 5.0
_SESSION_END_FRACTION = 0.1
_SESSION_END_S = 2.0
"""If a refreshed token lives shorter than 10 % of a login's, or than 2 s, the session is ending."""
_MIN_USE_S = 1.0
"""Seconds that we use a token that seems to be expired on arrival."""
_ROUNDING_S = 1.0
"""Servers count in whole seconds, so a token may expire up to 1 s early."""


class TokenPhase(Enum):
    """Phase in the life of a token; it says whether workers use it or wait for a renewal."""

    FRESH = "fresh"
    REFRESH_SOON = "refresh_soon"  # valid: workers use it while one renewal runs in the background
    REFRESH_NOW = "refresh_now"  # may expire before the request arrives: workers wait for the renewal
    EXPIRED = "expired"  # expired, or the archive refused it


class RenewalReason(StrEnum):
    """The reason for a login or refresh, as shown in the account event."""

    FIRST = "first use"
    EXPIRES_SOON = "token about to expire"
    EXPIRED = "token expired"
    REJECTED = "the archive refused the token"
    REFRESH_REFUSED = "the server refused the refresh token"
    REFRESH_EXPIRED = "the refresh token has expired"
    NO_REFRESH_TOKEN = "no refresh token"
    SESSION_ENDING = "session about to end"
    REHEARSAL = "rehearsal of a refresh"
    SECOND_LOGIN = "rehearsal of the next login"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveToken:
    """A token, its generation, and the monotonic times at which its phases begin."""

    generation: int
    token: Token
    refresh_soon_at: float
    refresh_now_at: float
    expires_at: float
    reason: RenewalReason
    """The reason for the login or refresh that returned it."""
    rejected: bool = False

    def phase(self, now: float) -> TokenPhase:
        if self.rejected or now >= self.expires_at:
            return TokenPhase.EXPIRED
        if now >= self.refresh_now_at:
            return TokenPhase.REFRESH_NOW
        return TokenPhase.REFRESH_SOON if now >= self.refresh_soon_at else TokenPhase.FRESH


def schedule_renewal(
    token: Token, *, generation: int, reason: RenewalReason, now: float, rng: random.Random, login_lifetime: float = 0.0
) -> ActiveToken:
    """Return the token with its phases: background renewal at 80 to 86 % of its lifetime, waiting near its end.

    `login_lifetime`: lifetime of a token from a login. If this token's is shorter, it ends together with its session.

    If the response took longer than the token lives, use the token for one second anyway: the archive may accept it,
    and we do not ask a slow endpoint again and again.
    """
    life = token.lifetime
    last_of_session = 2 * _ROUNDING_S < life < login_lifetime
    margin = max(_refresh_now_margin(life), _ROUNDING_S if last_of_session else 0.0)
    if now >= token.expires - margin:
        return use_until_expiry(token, generation=generation, reason=reason, now=now)
    return ActiveToken(
        generation=generation,
        token=token,
        refresh_soon_at=token.issued + life * (_REFRESH_SOON_FRACTION + _JITTER_FRACTION * rng.random()),
        refresh_now_at=token.expires - margin,
        expires_at=token.expires,
        reason=reason,
    )


def _refresh_now_margin(life: float) -> float:
    """Return the seconds before expiry in which workers wait for the renewal: 10 % of the lifetime, 1 s to 5 s.

    At least the last second, because servers count in whole seconds. But never before the background renewal is due:
    that would cause more renewals.
    """
    return min(
        _REFRESH_NOW_MAX_S, max(life * _REFRESH_NOW_FRACTION, min(_ROUNDING_S, life * (1 - _REFRESH_SOON_FRACTION)))
    )


def use_until_expiry(token: Token, *, generation: int, reason: RenewalReason, now: float) -> ActiveToken:
    """Return the token without early renewal: this server returns the same token until it expires."""
    end = max(token.expires, now + _MIN_USE_S)
    return ActiveToken(
        generation=generation, token=token, refresh_soon_at=end, refresh_now_at=end, expires_at=end, reason=reason
    )


def use_up(active: ActiveToken, *, now: float) -> ActiveToken | None:
    """Return the token without its refresh token, so a login replaces it at its end; None if no time is left.

    A login ends the session, and with it the token that workers use. So the login comes one second before the end.
    """
    end = active.token.expires - _refresh_now_margin(active.token.lifetime) - _ROUNDING_S
    if active.rejected or end <= now:
        return None
    return replace(
        active, token=replace(active.token, refresh=None), refresh_soon_at=end, refresh_now_at=end, expires_at=end
    )


def session_is_ending(lifetime: float, *, login_lifetime: float) -> bool:
    """Tell whether a refreshed token lives so much shorter than one from a login that the session must be ending."""
    return lifetime < min(login_lifetime, max(_SESSION_END_S, login_lifetime * _SESSION_END_FRACTION))
