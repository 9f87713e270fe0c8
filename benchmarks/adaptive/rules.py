"""Rules of an archive, and the shortest time that they allow. Pure.

Sizes are bytes, rates bytes per second, and times seconds since the first request.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CLOSE", "HOSTS", "MB", "Archive", "Row", "Rules", "allocate", "best_connections", "ideal_s", "total_rate"]

MB = 1_000_000
CLOSE = 0
"""`refusal` of an archive that closes a connection as soon as it has accepted it."""
HOSTS = ("127.0.0.1", "localhost")
_MOST = 128
"""Connections that an archive without a limit is assumed to bear."""
_UNLIMITED = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Behaviour of one archive; the default is an archive without limits."""

    each: float | None = None
    """Rate of each response."""
    total: float | None = None
    """Rate of all responses together, shared fairly."""
    suffers_above: int | None = None
    """With more responses at once, the total rate falls as their number grows: twice as many halve it."""
    first_byte_s: float = 0.0
    """Time from the start of the service to the first byte."""
    served_at_once: int | None = None
    """Requests served at once; others wait in a queue."""
    slow_share: float = 0.0
    """Share of the responses that fall to 1 % of their rate before half of their bytes are sent."""
    limit: int | None = None
    """Requests open at once; another is refused. With `CLOSE` connections are counted instead."""
    linger_s: float = 0.0
    """Time for which a place is still counted after its response or connection has ended.

    The next request on the same connection uses the place that is still counted.
    """
    refusal: int = 429
    """Status of a refusal, without `Retry-After`; or `CLOSE`."""
    request_rate: float | None = None
    """Requests per second, like nginx's `limit_req` with `nodelay`; another is refused."""
    burst: int = 0
    """Requests that may come at once in addition to `request_rate`."""
    later_s: float | None = None
    """Time of the change to `later_each` and `later_limit`."""
    later_each: float | None = None
    later_limit: int | None = None

    def each_at(self, now: float) -> float:
        """Return the rate of each response at that time."""
        changed = self.later_s is not None and now >= self.later_s and self.later_each is not None
        return (self.later_each if changed else self.each) or _UNLIMITED

    def limit_at(self, now: float) -> int | None:
        """Return the limit of open requests at that time."""
        changed = self.later_s is not None and now >= self.later_s and self.later_limit is not None
        return self.later_limit if changed else self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One host of a row, with the sizes of its products in the manifest's order."""

    rules: Rules
    sizes: tuple[int, ...]
    host: str = HOSTS[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Row of the table: the archives, whose products the manifest names in this order."""

    name: str
    archives: tuple[Archive, ...]
    account_limit: int | None = None
    """`max_connections` of the manifest's account; None: no account."""
    server: str = "own"
    """`own` or `nginx`."""


def allocate(caps: list[float], total: float) -> list[float]:
    """Share `total` fairly: nobody gets more than its cap, and what one does not use is shared by the others."""
    rates = [0.0] * len(caps)
    left = total
    order = sorted(range(len(caps)), key=caps.__getitem__)
    for done, index in enumerate(order):
        rates[index] = min(caps[index], left / (len(order) - done))
        left -= rates[index]
    return rates


def total_rate(rules: Rules, count: int) -> float:
    """Return the rate that `count` responses share, without regard to the rate of each."""
    total = rules.total or _UNLIMITED
    if rules.suffers_above is not None and count > rules.suffers_above:
        return total * rules.suffers_above / count
    return total


def best_connections(rules: Rules, account_limit: int | None = None, *, now: float = 0.0) -> int:
    """Return the smallest number of requests at once that brings the highest rate at that time."""
    limits = (rules.served_at_once, rules.limit_at(now), account_limit)
    most = min((limit for limit in limits if limit is not None), default=_MOST)
    if rules.first_byte_s:
        return most  # while some responses wait for their first byte, others send
    return max(range(1, most + 1), key=lambda n: (round(_rate(rules, n, now)), -n))


def ideal_s(row: Row) -> float:
    """Return the shortest time from the first request to the last byte that the rules allow.

    A client that knows the rules may split products as it likes. The start of its process is not included.
    """
    return max(_ideal_of(archive, row.account_limit) for archive in row.archives)


def _ideal_of(archive: Archive, account_limit: int | None) -> float:
    rules, count, size = archive.rules, len(archive.sizes), sum(archive.sizes)
    bounds = [rules.first_byte_s + _transfer_s(rules, size, account_limit)]
    if rules.served_at_once is not None or rules.limit is not None:
        # Each product occupies a place until its last byte.
        fastest = max(rules.each_at(0.0), rules.each_at(rules.later_s or 0.0))
        occupied = count * rules.first_byte_s + size / fastest
        bounds.append(occupied / max(best_connections(rules, now=now) for now in (0.0, rules.later_s or 0.0)))
    if rules.request_rate is not None:
        bounds.append((count - 1 - rules.burst) / rules.request_rate)
    return max(bounds)


def _transfer_s(rules: Rules, size: int, account_limit: int | None) -> float:
    """Return the time for that many bytes with the best number of connections before and after the change."""
    early = _rate(rules, best_connections(rules, account_limit), 0.0)
    if rules.later_s is None or early * rules.later_s >= size:
        return size / early
    late = _rate(rules, best_connections(rules, account_limit, now=rules.later_s), rules.later_s)
    return rules.later_s + (size - early * rules.later_s) / late


def _rate(rules: Rules, count: int, now: float) -> float:
    return min(count * rules.each_at(now), total_rate(rules, count))
