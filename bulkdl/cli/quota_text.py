"""Texts and JSON values about the use of quotas."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from bulkdl.cli.text import count
from bulkdl.core.models import QuotaUnit
from bulkdl.core.quota import amount_text, usage_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkdl.core.quota import QuotaForecast, QuotaUse

__all__ = ["forecast_json", "forecast_text", "quota_json", "quota_text"]


def quota_text(use: QuotaUse) -> str:
    """Return text such as `8.2 TB of 12.0 TB used in 30d (68%), 3.8 TB left`."""
    text = f"{usage_text(use.quota, use.used)}, {amount_text(use.quota, use.left)} left"
    if use.room_at is None:
        return text
    return f"{text}, room again from {datetime.fromtimestamp(use.room_at).astimezone():%Y-%m-%d %H:%M}"


def quota_json(use: QuotaUse) -> dict[str, object]:
    """Return the use of a quota as JSON values; `room_at` is RFC 3339, or null while there is room."""
    again = None if use.room_at is None else datetime.fromtimestamp(use.room_at).astimezone()
    return {
        "unit": use.quota.unit.value,
        "amount": use.quota.amount,
        "period_s": use.quota.period_s,
        "used": use.used,
        "left": use.left,
        "room_at": None if again is None else again.isoformat(timespec="seconds"),
    }


def forecast_text(forecast: QuotaForecast) -> str:
    """Return the use of a quota, and how far what is left goes for the products that are to be downloaded."""
    return "; ".join((quota_text(forecast.use), *_prospects(forecast)))


def _prospects(forecast: QuotaForecast) -> Iterator[str]:
    quota = forecast.use.quota
    if forecast.products and forecast.fitting == forecast.products:
        yield f"enough for {amount_text(quota, forecast.needed)}"
    elif forecast.products:
        products = count(forecast.products, "product")
        yield f"{forecast.fitting:,} of {products} fit now"
        yield f"all need {amount_text(quota, forecast.needed)}, {forecast.periods:.1f} times {quota.text}"
    if forecast.unknown and quota.unit is QuotaUnit.BYTES:
        yield f"{count(forecast.unknown, 'product')} of unknown size not counted"


def forecast_json(forecast: QuotaForecast) -> dict[str, object]:
    """Return a forecast as JSON values."""
    return quota_json(forecast.use) | {
        "needed": forecast.needed,
        "fitting": forecast.fitting,
        "products": forecast.products,
        "unknown_sizes": forecast.unknown,
        "periods": round(forecast.periods, 3),
    }
