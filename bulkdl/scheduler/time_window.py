"""When a run may transfer: the daily window and the deadline, in local time. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date, time

    from bulkdl.core.models import Window

__all__ = ["deadline_in", "seconds_until", "window_closes_in", "window_opens_in"]


def seconds_until(moment: time, *, now: datetime) -> float:
    """Seconds of real time from `now` (aware, local) to the next time that the clock on the wall shows `moment`.

    On the day that summer time begins, a time that the clock skips comes as much later as the clock was put on; on the
    day that it ends, a time that the clock shows twice comes twice.
    """
    days = (now.date(), now.date() + timedelta(days=1))
    return min(ahead for day in days for at in _shown(day, moment) if (ahead := (at - now).total_seconds()) > 0)


def deadline_in(moment: time, *, now: datetime) -> float:
    """Like `seconds_until`, but 0 within the minute of a `moment` that was given to the minute: 06:30 lasts that long."""
    same_minute = (now.hour, now.minute, 0, 0) == (moment.hour, moment.minute, moment.second, moment.microsecond)
    return 0.0 if same_minute else seconds_until(moment, now=now)


def _shown(day: date, moment: time) -> tuple[datetime, ...]:
    # By way of the timestamp, since astimezone() alone takes a skipped time for one before the clock was put on.
    naive = (datetime.combine(day, moment.replace(fold=fold)) for fold in (0, 1))
    first, second = (datetime.fromtimestamp(at.timestamp(), UTC) for at in naive)
    return (first, second) if second > first else (first,)


def window_opens_in(window: Window | None, *, now: datetime) -> float:
    """Seconds until transfers may begin; 0 inside the window."""
    if window is None or _inside(window, now.timetz().replace(tzinfo=None)):
        return 0.0
    return seconds_until(window.start, now=now)


def window_closes_in(window: Window | None, *, now: datetime) -> float | None:
    """Seconds until transfers have to pause; None where they never have to."""
    if window is None or window.start == window.end:
        return None
    return seconds_until(window.end, now=now)


def _inside(window: Window, at: time) -> bool:
    if window.start == window.end:
        return True
    if window.start < window.end:
        return window.start <= at < window.end
    return at >= window.start or at < window.end
