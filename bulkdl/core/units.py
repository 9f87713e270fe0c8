"""Convert sizes, rates, durations and times of day from text to values and back.

K, M, G, T and P are powers of 1024, as in curl's `--limit-rate`.
"""

from __future__ import annotations

import math
import re
from datetime import time

from bulkdl.core.models import Window

__all__ = [
    "MAX_BYTES",
    "format_bytes",
    "format_duration",
    "format_rate",
    "parse_duration",
    "parse_rate",
    "parse_size",
    "parse_time",
    "parse_window",
]

_POWERS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "P": 1024**5}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|s|m|h|d)\s*", re.ASCII | re.IGNORECASE)
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?", re.ASCII)
_MAX_TEXT = 30
"""Characters; a longer text is refused without parsing."""
MAX_BYTES = 2**63 - 1
"""Largest size in bytes: a file offset and an integer of SQLite hold no more."""
_MAX_SECONDS = 86400.0 * 366


def parse_size(text: str) -> int:
    """Return the bytes of `700M`, `1.5G` or `734003200`; raise `ValueError` naming the expected form."""
    found = _SIZE.fullmatch(text.strip()) if len(text) <= _MAX_TEXT else None
    if found is None:
        raise ValueError(f'expected a number of bytes such as 734003200, 500K, 700M or 1.5G, found "{_excerpt(text)}"')
    number, power = found[1], _POWERS[found[2].upper()]
    size = int(number) * power if number.isdigit() else round(float(number) * power)
    if size > MAX_BYTES:
        raise ValueError(f'expected at most {MAX_BYTES} bytes, found "{_excerpt(text)}"')
    return size


def parse_rate(text: str) -> int:
    """Return the bytes per second of `40M`, `512K` or `40M/s`; raise `ValueError` naming the expected form."""
    try:
        return parse_size(text.strip().removesuffix("/s"))
    except ValueError:
        raise ValueError(f'expected bytes per second such as 512K, 40M or 1.5G, found "{_excerpt(text)}"') from None


def parse_duration(text: str) -> float:
    """Return the seconds of `90`, `90s`, `1h` or `1h30m`; raise `ValueError` naming the expected form."""
    stripped = text.strip()
    seconds = None
    if stripped and len(stripped) <= _MAX_TEXT:
        if _NUMBER.fullmatch(stripped):
            seconds = float(stripped)
        elif not _PART.sub("", stripped):
            seconds = sum(float(n) * _SECONDS[unit.lower()] for n, unit in _PART.findall(stripped))
    if seconds is None:
        raise ValueError(f'expected a duration such as 90, 90s, 15m, 1h or 1h30m, found "{_excerpt(text)}"')
    if seconds > _MAX_SECONDS:
        raise ValueError(f'expected a duration of at most a year, found "{_excerpt(text)}"')
    return seconds


def parse_time(text: str) -> time:
    """Return the local time of day of `06:30`; raise `ValueError` naming the expected form."""
    found = _TIME.fullmatch(text.strip()) if len(text) <= _MAX_TEXT else None
    if found is not None:
        hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
        if hour < 24 and minute < 60 and second < 60:
            return time(hour, minute, second)
    raise ValueError(f'expected a time of day such as 06:30, found "{_excerpt(text)}"')


def parse_window(text: str) -> Window:
    """Return the window of `22:00-06:00`, which may end at `24:00`; raise `ValueError` naming the expected form."""
    start, _, end = text.partition("-")
    try:
        window = Window(parse_time(start), parse_time("0:00" if end.strip() == "24:00" else end))
    except ValueError:
        raise ValueError(f'expected a time window such as 22:00-06:00, found "{_excerpt(text)}"') from None
    if window.start == window.end:
        raise ValueError(f'expected a time window whose start and end differ, found "{_excerpt(text)}"')
    return window


def format_bytes(count: float) -> str:
    """Return text such as `0 B`, `1.5 KiB`, `700 MiB`, with about three significant digits."""
    size = float(count)
    if abs(size) < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if abs(size) < 1023.95:
            return f"{size:.0f} {unit}" if abs(size) >= 99.95 else f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} PiB"


def format_rate(bytes_a_second: float) -> str:
    """Return text such as `1.5 MiB/s`."""
    return f"{format_bytes(bytes_a_second)}/s"


def format_duration(seconds: float) -> str:
    """Return text such as `0.4s`, `42s`, `3m20s`, `1h02m`, `2d03h`; `?` if the number is not finite."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02d}h"
    if hours:
        return f"{hours}h{minute:02d}m"
    return f"{minutes}m{second:02d}s" if minutes else f"{second}s"


def _excerpt(text: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= 40 else f"{printable[:37]}..."
