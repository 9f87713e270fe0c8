"""When a run may transfer: the daily window and the deadline, in local time. Pure."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulkdl.model import Window

__all__ = ["seconds_until", "window_closes_in", "window_opens_in"]


def seconds_until(moment: time, *, now: datetime) -> float:
    """Seconds of real time from `now` (aware, local) to the next time that the clock on the wall shows `moment`."""
    target = datetime.combine(now.date(), moment).astimezone(None)
    if target <= now:
        target = datetime.combine(now.date() + timedelta(days=1), moment).astimezone(None)
    return (target - now).total_seconds()


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
