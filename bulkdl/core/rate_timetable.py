"""Read rate limits that change with the time of day and the day of the week.

The form is rclone's (`--bwlimit`): `08:00,5M 18:00,off`, or with days `Mon-08:00,5M Sat-00:00,off`. A range of days
(`Mon-Fri-08:00,5M`), and days in front of several times (`Mon-Fri 08:00,5M 18:00,off`), are accepted as well.
"""

from __future__ import annotations

import re

from bulkdl.core.models import RateTimetable
from bulkdl.core.units import parse_rate, parse_time

__all__ = ["parse_rate_limit"]

_DAY_S = 86400
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_SHORT = {name[:3]: number for number, name in enumerate(_DAYS)}
_EVERY_DAY = tuple(range(7))
_EXPECTED = (
    'expected a rate such as 40M, or a timetable such as "08:00,5M 18:00,off" or "Mon-Fri-08:00,5M Sat-00:00,off"'
)
_ENTRY = re.compile(r"(?:(?P<days>[a-z]+(?:-[a-z]+)?)-)?(?P<time>\d[^,]*),(?P<rate>[^,]+)", re.ASCII | re.IGNORECASE)
_PREFIX = re.compile(r"[a-z]+(?:-[a-z]+)?", re.ASCII | re.IGNORECASE)
_MAX_TEXT = 2000
"""Characters; a longer text is refused without parsing."""


def parse_rate_limit(text: str) -> int | RateTimetable | None:
    """Return bytes per second, a timetable, or None for `off`, `none` and 0; raise `ValueError` with what was expected."""
    stripped = text.strip()
    if not stripped:
        raise ValueError(f"{_EXPECTED}, found nothing")
    if "," not in stripped and ":" not in stripped:
        return _rate(stripped) or None
    if len(stripped) > _MAX_TEXT:
        raise ValueError(f"{_EXPECTED}, found {len(stripped):,} characters")
    return _timetable(stripped.split())


def _timetable(words: list[str]) -> RateTimetable:
    changes: dict[int, int | None] = {}
    common, is_used = _EVERY_DAY, True
    for word in words:
        if _PREFIX.fullmatch(word):
            common, is_used = _days(word, word), False
            continue
        entry = _ENTRY.fullmatch(word)
        if entry is None:
            raise ValueError(f'{_EXPECTED}, found "{_excerpt(word)}"')
        days = common if entry["days"] is None else _days(entry["days"], word)
        moment, rate, is_used = parse_time(entry["time"]), _limit(entry["rate"], word), True
        for day in days:
            start = day * _DAY_S + moment.hour * 3600 + moment.minute * 60 + moment.second
            if start in changes:
                when = f"{_DAYS[day][:3].capitalize()} {moment:%H:%M}"
                raise ValueError(f'expected each time once, found a second rate for {when} in "{_excerpt(word)}"')
            changes[start] = rate
    if not is_used:
        raise ValueError(f'expected a time and a rate such as 08:00,5M after "{_excerpt(words[-1])}", found nothing')
    starts = tuple(sorted(changes))
    return RateTimetable(starts, tuple(changes[start] for start in starts))


def _days(text: str, word: str) -> tuple[int, ...]:
    """Return the days of `Mon`, `Monday` or `Fri-Mon`; a range may span the end of the week."""
    first, _, last = text.lower().partition("-")
    numbers = [_SHORT.get(day[:3], -1) for day in (first, last or first)]
    if any(
        n < 0 or day not in (_DAYS[n], _DAYS[n][:3]) for n, day in zip(numbers, (first, last or first), strict=True)
    ):
        raise ValueError(
            f'expected days such as Mon, Sunday or Mon-Fri, found "{_excerpt(text)}" in "{_excerpt(word)}"'
        )
    length = (numbers[1] - numbers[0]) % 7 + 1
    return tuple((numbers[0] + step) % 7 for step in range(length))


def _limit(text: str, word: str) -> int | None:
    rate = _rate(text)
    if rate == 0:
        raise ValueError(
            f'expected a rate above 0, or off for no limit, found "{_excerpt(word)}"; `window` makes a run pause'
        )
    return rate


def _rate(text: str) -> int | None:
    return None if text.lower() in {"off", "none"} else parse_rate(text)


def _excerpt(text: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= 40 else f"{printable[:37]}..."
