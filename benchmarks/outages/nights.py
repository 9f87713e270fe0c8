"""The nights: what is out of order, from when to when. All times are seconds of the tools' fast clock."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NIGHTS", "TOKEN_LIFE_S", "Ill", "Night"]

TOKEN_LIFE_S = 600.0
_MINUTE = 60.0
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Ill:
    """Fault of a server that replaces its work.

    `kind`: `refuse` (the port is closed), `reset` (each connection), `hole` (nothing is sent), `page` (HTML with 200), `login`
    (an OAuth refusal of refresh tokens and passwords), or a status.
    """

    kind: str
    begin: float = 0.0
    end: float = 0.0
    period: float | None = None
    """It comes and goes: so long ill, so long well."""
    share: str = ""
    """Only products whose name ends so."""

    def holds(self, now: float, name: str = "") -> bool:
        """Return whether it holds at `now`, for a product of this name."""
        if not self.begin <= now < self.end or not name.endswith(self.share):
            return False
        return self.period is None or int((now - self.begin) / self.period) % 2 == 0


@dataclass(frozen=True, slots=True)
class Night:
    name: str
    archive: Ill = Ill("well")
    endpoint: Ill | None = None
    """Trouble of the token endpoint; None: the archive needs no login."""
    products: int = 120
    limit: int | None = None
    """Connections that the archive allows; another gets 429."""


def _from_one(kind: str, minutes: float) -> Ill:
    return Ill(kind, _HOUR, _HOUR + minutes * _MINUTE)


NIGHTS = (
    Night("no outage"),
    Night("the archive refuses connections, 5 min", _from_one("refuse", 5)),
    Night("the archive refuses connections, 30 min", _from_one("refuse", 30)),
    Night("the archive refuses connections, 2 h", _from_one("refuse", 120)),
    Night("it answers 503, 30 min", _from_one("503", 30)),
    Night("it resets every connection, 30 min", _from_one("reset", 30)),
    Night("it is a black hole, 30 min", _from_one("hole", 30)),
    Night("it serves a maintenance page (200), 30 min", _from_one("page", 30)),
    Night("it answers 401 to everybody, 15 min", _from_one("401", 15)),
    Night("it answers 403 to everybody, 15 min", _from_one("403", 15)),
    Night("it answers 404 to everybody, 15 min", _from_one("404", 15)),
    Night("it is up and down every 10 min", Ill("reset", _HOUR, 9 * _HOUR, period=600.0)),
    Night("it is down for the first 20 min", Ill("refuse", 0.0, 20 * _MINUTE)),
    Night("the token endpoint refuses connections, 1 h", endpoint=_from_one("refuse", 60)),
    Night("the token endpoint answers 502, 1 h", endpoint=_from_one("502", 60)),
    Night("the token endpoint serves HTML, 1 h", endpoint=_from_one("page", 60)),
    Night("the token endpoint stalls, 1 h", endpoint=_from_one("hole", 60)),
    Night("the token endpoint is down for the first 20 min", endpoint=Ill("refuse", 0.0, 20 * _MINUTE)),
    Night("a login that has worked is refused, 20 min", endpoint=_from_one("login", 20)),
    Night("2 connections allowed, else 429 without Retry-After", products=60, limit=2),
    Night("one product in ten answers 503, 40 min", Ill("503", _HOUR, _HOUR + 40 * _MINUTE, share="0.bin")),
)
