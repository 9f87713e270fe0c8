"""Parsers of HTTP dates, Retry-After and validators (RFC 9110 §5.6.7, §8.8, §10.2.3)."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

__all__ = ["parse_http_date", "parse_retry_after", "strong_date", "strong_etag"]


_LONGEST_S = 10 * 365 * 86400.0


_IMF_FIXDATE = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII)
"""The form that servers must send; the general parser of `email` takes twenty times as long."""


_MONTHS = {"Jan": 1, "Feb": 2, "Mar": 3, "Apr": 4, "May": 5, "Jun": 6}
_MONTHS |= {"Jul": 7, "Aug": 8, "Sep": 9, "Oct": 10, "Nov": 11, "Dec": 12}


@lru_cache(maxsize=64)
def parse_http_date(value: str | None) -> float | None:
    """Return the Unix time of an HTTP date in any of its three forms (RFC 9110 §5.6.7); None if it is invalid."""
    if value is None:
        return None
    if (usual := _IMF_FIXDATE.fullmatch(value)) is not None:
        day, month, year, hour, minute, second = usual.groups()
        with suppress(ValueError, KeyError):
            moment = datetime(int(year), _MONTHS[month], int(day), int(hour), int(minute), int(second), tzinfo=UTC)
            return moment.timestamp()
    try:
        moment = parsedate_to_datetime(value)
        # The asctime form names no time zone: it is UTC like the others, not local time.
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Return the seconds of a Retry-After (RFC 9110 §10.2.3), never negative; None if it is absent or invalid."""
    text = (value or "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return min(float(text), _LONGEST_S)
    moment = parse_http_date(text) if text else None
    return None if moment is None else min(max(0.0, moment - now), _LONGEST_S)


_STRONG_ETAG = re.compile(r'"[^"\x00-\x1f\x7f]*"')


def strong_etag(etag: str | None) -> str | None:
    """Return `etag` if it is strong (RFC 9110 §8.8.3), else None; a weak ETag is not allowed in If-Range (§13.1.5)."""
    return etag if etag and _STRONG_ETAG.fullmatch(etag) else None


def strong_date(last_modified: str | None, date: str | None) -> str | None:
    """Return `last_modified` if it is a strong validator (RFC 9110 §8.8.2.2), else None.

    It is strong if `date` is at least 60 s later, which allows for two different clocks (60 s is from RFC 7232).
    """
    modified, made = parse_http_date(last_modified), parse_http_date(date)
    if modified is None or made is None or made - modified < 60:
        return None
    return last_modified
