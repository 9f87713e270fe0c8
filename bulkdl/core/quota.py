"""Quotas of accounts: what a provider allows in a rolling period, and the sums of what was used. Pure.

A quota is written `12T/30d` or `100 items/1h`. K, M, G, T and P are powers of 1024, as everywhere else; KB, MB, GB, TB and
PB are powers of 1000, because a provider that says TB means that, and a quota that is read as too large is noticed too late.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Quota, QuotaUnit
from bulkdl.core.units import MAX_BYTES, format_bytes, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "BUCKET_S",
    "KEPT_S",
    "QuotaForecast",
    "QuotaUse",
    "UsageBucket",
    "amount_text",
    "forecast",
    "parse_quotas",
    "parse_share",
    "period_text",
    "quota_use",
    "room_at",
    "usage_text",
    "used_in",
]

BUCKET_S = 300.0
"""Seconds of one bucket of use. A rolling hour is then counted too high by at most a twelfth, never too low."""
KEPT_S = 31 * 86400.0
"""Longest period of a quota in seconds, which is how long buckets are kept."""
_FUTURE_S = 86400.0
"""Buckets that begin later than this from now are not counted: a wrong clock wrote them."""
_QUOTA = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)\s*/\s*(\d*)\s*([a-z]+)", re.ASCII | re.IGNORECASE)
_MAX_TEXT = 40
_BYTES = {"b": 1, "bytes": 1}
for _power, _letter in enumerate("kmgtp", 1):
    _BYTES |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}
_ITEMS = frozenset({"item", "items", "product", "products"})
_PERIODS = {
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400.0),
    "month": 30 * 86400.0,
}
_SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*%", re.ASCII)
_EXPECTED = 'expected an amount with its unit and a period, such as 12T/30d, 500GB/1d or "100 items/1h"'


@dataclass(frozen=True, slots=True)
class UsageBucket:
    """What an account used in the `BUCKET_S` seconds from `start` (Unix time)."""

    start: float
    bytes: int = 0
    items: int = 0
    sessions: int = 0
    """Logins."""

    def amount(self, unit: QuotaUnit) -> int:
        return self.bytes if unit is QuotaUnit.BYTES else self.items


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUse:
    """A quota, and how much of it is used at a moment."""

    quota: Quota
    used: int
    room_at: float | None = None
    """Unix time at which there is room again; None: there is room now, or nothing is used."""

    @property
    def left(self) -> int:
        return max(0, self.quota.amount - self.used)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaForecast:
    """How far a quota goes for the products of a manifest that are to be downloaded."""

    use: QuotaUse
    needed: int
    """What the products of known size need."""
    products: int
    fitting: int
    """Products that fit into what is left now."""
    unknown: int
    """Products of unknown size, which are in no other number."""
    periods: float
    """Periods of the quota that the products need, if nothing else uses it."""


def parse_quotas(text: str) -> tuple[Quota, ...]:
    """Return the quotas of a text such as `12T/30d, 100 items/1h`; raise `ValueError` naming the expected form."""
    return tuple(_parse(part) for part in text.split(","))


def _parse(text: str) -> Quota:
    excerpt = "".join(c if c.isprintable() else "?" for c in text.strip()[:_MAX_TEXT])
    found = _QUOTA.fullmatch(text.strip()) if len(text) <= _MAX_TEXT else None
    if found is None:
        raise ValueError(f'{_EXPECTED}, found "{excerpt}"')
    number, word, count, unit = found[1], found[2].lower(), int(found[3] or 1), found[4].lower()
    if word not in _BYTES and word not in _ITEMS:
        raise ValueError(f'expected K, M, G, T or P (or KB to PB, or items) as the unit, found "{excerpt}"')
    if unit not in _PERIODS:
        raise ValueError(f'expected min, h, d, w or month as the unit of the period, found "{excerpt}"')
    amount, period_s = round(float(number) * _BYTES.get(word, 1)), count * _PERIODS[unit]
    if not 1 <= amount <= MAX_BYTES:
        raise ValueError(f'expected an amount from 1 to {MAX_BYTES}, found "{excerpt}"')
    if not BUCKET_S <= period_s <= KEPT_S:
        raise ValueError(f'expected a period from 5min to 31d, found "{excerpt}"')
    return Quota(
        amount=amount,
        unit=QuotaUnit.ITEMS if word in _ITEMS else QuotaUnit.BYTES,
        period_s=period_s,
        text=excerpt,
        is_decimal=len(word) == 2 and word in _BYTES,
    )


def parse_share(text: str) -> float:
    """Return the share of `90%`, more than 0 and at most 1; raise `ValueError` naming the expected form."""
    found = _SHARE.fullmatch(text.strip()) if len(text) <= _MAX_TEXT else None
    if found is None or not 0 < float(found[1]) <= 100:
        raise ValueError(f'expected a share such as 90%, up to 100%, or off, found "{text[:_MAX_TEXT]}"')
    return float(found[1]) / 100


def used_in(buckets: Iterable[UsageBucket], quota: Quota, *, now: float) -> int:
    """Return what was used in the period before `now` (Unix time); a bucket counts until all of it is older."""
    return sum(bucket.amount(quota.unit) for bucket in buckets if _counts(bucket, quota, now))


def room_at(buckets: Iterable[UsageBucket], quota: Quota, *, now: float, limit: float) -> float:
    """Return the Unix time from which less than `limit` is used, if nothing is added meanwhile; `now` if it is less."""
    inside = sorted((b for b in buckets if _counts(b, quota, now)), key=lambda bucket: bucket.start)
    used, at = sum(bucket.amount(quota.unit) for bucket in inside), now
    for bucket in inside:
        if used < limit:
            break
        used -= bucket.amount(quota.unit)
        at = max(at, bucket.start + BUCKET_S + quota.period_s)
    return at


def quota_use(buckets: Iterable[UsageBucket], quota: Quota, *, now: float) -> QuotaUse:
    """Return how much of `quota` is used at `now` (Unix time)."""
    known = tuple(buckets)
    used = used_in(known, quota, now=now)
    again = room_at(known, quota, now=now, limit=quota.amount) if used >= quota.amount else None
    return QuotaUse(quota=quota, used=used, room_at=again)


def forecast(use: QuotaUse, sizes: Sequence[int | None], *, share: float | None) -> QuotaForecast:
    """Return how far a quota goes for products of these sizes in their order; None: the size is unknown.

    `share`: the part of the quota that a run uses; None: all of it, and more.
    """
    amounts = [1] * len(sizes) if use.quota.unit is QuotaUnit.ITEMS else [size for size in sizes if size is not None]
    allowed = (share or 1.0) * use.quota.amount
    fitting = bisect_right(list(accumulate(amounts)), max(0.0, allowed - use.used))
    return QuotaForecast(
        use=use,
        needed=sum(amounts),
        products=len(amounts),
        fitting=fitting,
        unknown=len(sizes) - len(amounts),
        periods=sum(amounts) / allowed,
    )


def _counts(bucket: UsageBucket, quota: Quota, now: float) -> bool:
    return now - quota.period_s < bucket.start + BUCKET_S and bucket.start <= now + _FUTURE_S


def amount_text(quota: Quota, amount: float) -> str:
    """Return an amount of `quota` for display, such as `8.2 TB` or `100 items`."""
    if quota.unit is QuotaUnit.ITEMS:
        return f"{amount:,.0f} items"
    return _decimal(amount) if quota.is_decimal else format_bytes(amount)


def usage_text(quota: Quota, used: int) -> str:
    """Return text such as `8.2 TB of 12.0 TB used in 30d (68%)`."""
    whole = amount_text(quota, quota.amount)
    some = f"{used:,}" if quota.unit is QuotaUnit.ITEMS else amount_text(quota, used)
    return f"{some} of {whole} used in {period_text(quota)} ({used / quota.amount:.0%})"


def period_text(quota: Quota) -> str:
    """Return the period of `quota` for display, such as `30d` or `1h`."""
    days, rest = divmod(quota.period_s, 86400.0)
    return (
        f"{days:.0f}d" if days and not rest else format_duration(quota.period_s).removesuffix("00m").removesuffix("00s")
    )


def _decimal(amount: float) -> str:
    size, unit = float(amount), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if abs(size) < 999.95:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
