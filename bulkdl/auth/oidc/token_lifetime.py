"""When a token is used, renewed beside its use, or waited for. Pure: the clock's readings are given."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    import random

    from bulkdl.auth.oidc.messages import Token

__all__ = ["ActiveToken", "RenewalReason", "TokenPhase", "hold", "hold_to_the_end", "is_useless", "run_out"]

_SOFT_FRACTION = 0.8
_JITTER_FRACTION = 0.06
_HARD_FRACTION = 0.1
_HARD_MOST_S = 5.0
_USELESS_FRACTION = 0.1
_USELESS_S = 2.0
_LEAST_USE_S = 1.0
_ROUNDING_S = 1.0


class TokenPhase(Enum):
    """Fractions of the lifetime, never a fixed margin: tokens live from one second to two months."""

    FRESH = "fresh"
    SOFT = "soft"  # still good: served, while one renewal runs beside it
    HARD = "hard"  # may expire on the way: wait for the renewal
    OVER = "over"  # expired, or refused by the archive


class RenewalReason(StrEnum):
    """Why a token was asked for; reaches the event."""

    FIRST = "first use"
    AGEING = "most of its life is over"
    EXPIRED = "expired"
    REJECTED = "the archive refused the token"
    REFRESH_REFUSED = "the refresh was refused"
    REFRESH_EXPIRED = "the refresh token has expired"
    NO_REFRESH_TOKEN = "no refresh token"
    USELESS_LIFETIME = "the session is nearly over"
    REHEARSAL = "rehearsal of a refresh"
    SECOND_LOGIN = "rehearsal of the next login"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveToken:
    """A token, its number, and the monotonic times at which its phases begin."""

    generation: int
    token: Token
    soft_at: float
    hard_at: float
    over_at: float
    because: RenewalReason
    """Why it was asked for."""
    rejected: bool = False

    def phase(self, now: float) -> TokenPhase:
        if self.rejected or now >= self.over_at:
            return TokenPhase.OVER
        if now >= self.hard_at:
            return TokenPhase.HARD
        return TokenPhase.SOFT if now >= self.soft_at else TokenPhase.FRESH


def hold(
    token: Token, *, generation: int, because: RenewalReason, now: float, rng: random.Random, usual: float = 0.0
) -> ActiveToken:
    """Plan a token's life: renewed beside its use from 80 to 86 %, waited for at its very end.

    `usual`: the lifetime that a login brings; a shorter one ends with its session.

    One whose answer took longer than its life is tried for a second all the same: the archive decides, and a slow
    endpoint is not asked in a circle.
    """
    life = token.lifetime
    margin = max(_hard_margin(life), _ROUNDING_S if 2 * _ROUNDING_S < life < usual else 0.0)  # the last of its session
    if now >= token.expires - margin:
        return hold_to_the_end(token, generation=generation, because=because, now=now)
    return ActiveToken(
        generation=generation,
        token=token,
        soft_at=token.issued + life * (_SOFT_FRACTION + _JITTER_FRACTION * rng.random()),
        hard_at=token.expires - margin,
        over_at=token.expires,
        because=because,
    )


def _hard_margin(life: float) -> float:
    """Seconds before its end from which a token is waited for: 10 % of its life, at most 5 s, at least the last second.

    Servers count in whole seconds, so a token may be over up to one sooner than they said. Never before the renewal is
    due, which would ask for more of them.
    """
    return min(_HARD_MOST_S, max(life * _HARD_FRACTION, min(_ROUNDING_S, life * (1 - _SOFT_FRACTION))))


def hold_to_the_end(token: Token, *, generation: int, because: RenewalReason, now: float) -> ActiveToken:
    """For a server that gives out the same token until it expires: asking sooner brings nothing."""
    end = max(token.expires, now + _LEAST_USE_S)
    return ActiveToken(generation=generation, token=token, soft_at=end, hard_at=end, over_at=end, because=because)


def run_out(held: ActiveToken, *, now: float) -> ActiveToken | None:
    """`held` used for what is left of its life, and replaced by a login then; None where nothing worth it is left."""
    end = held.token.expires - _hard_margin(held.token.lifetime) - _ROUNDING_S
    if held.rejected or end <= now:
        return None
    return replace(held, token=replace(held.token, refresh=None), soft_at=end, hard_at=end, over_at=end)


def is_useless(lifetime: float, *, usual: float) -> bool:
    """Whether a refreshed token ends so soon that the session itself must be ending (`usual`: that of the login)."""
    return lifetime < min(usual, max(_USELESS_S, usual * _USELESS_FRACTION))
