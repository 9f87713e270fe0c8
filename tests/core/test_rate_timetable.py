"""Timetables of the rate limit: their forms, the week, midnight, and what is wrong with a text."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import pytest

from bulkdl.core.models import RateTimetable
from bulkdl.core.rate_timetable import parse_rate_limit

K, M = 1024, 1024**2
MONDAY = datetime(2026, 11, 30)  # noqa: DTZ001 - local time


def at(day: str, moment: str) -> datetime:
    hour, minute = map(int, moment.split(":"))
    return MONDAY + timedelta(
        days=["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].index(day), hours=hour, minutes=minute
    )


DAILY = "08:00,5M 18:00,off"
WEEK = "Mon-00:00,512K Fri-23:59,10M Sat-10:00,1M Sun-20:00,off"
OFFICE = "Mon-Fri-08:00,5M Mon-Fri-18:00,off"
PREFIX = "Mon-Fri 08:00,5M 18:00,off Sat-Sun 00:00,off"

CASES = [
    (DAILY, "Mon", "07:59", None),
    (DAILY, "Mon", "08:00", 5 * M),
    (DAILY, "Sun", "17:59", 5 * M),
    (DAILY, "Sun", "18:00", None),
    (DAILY, "Tue", "00:00", None),
    (WEEK, "Mon", "00:00", 512 * K),
    (WEEK, "Fri", "23:58", 512 * K),
    (WEEK, "Fri", "23:59", 10 * M),
    (WEEK, "Sat", "09:00", 10 * M),
    (WEEK, "Sun", "19:59", M),
    (WEEK, "Sun", "23:59", None),
    (OFFICE, "Mon", "00:00", None),
    (OFFICE, "Fri", "12:00", 5 * M),
    (OFFICE, "Sat", "12:00", None),
    (PREFIX, "Wed", "09:00", 5 * M),
    (PREFIX, "Sat", "09:00", None),
    ("Sat-Mon-10:00,1K Wed-10:00,2K", "Mon", "11:00", K),
    ("Sat-Mon-10:00,1K Wed-10:00,2K", "Fri", "11:00", 2 * K),
    ("sunday-10:00,1K MON-10:00,none", "Mon", "09:00", K),
    ("18:00,off 08:00,5M", "Thu", "09:00", 5 * M),
    ("  08:00,5M   18:00:30,1.5M/s ", "Thu", "19:00", 3 * M // 2),
]


@pytest.mark.parametrize(("text", "day", "moment", "rate"), CASES)
def test_a_change_holds_until_the_next_one_of_the_week(text: str, day: str, moment: str, rate: int | None):
    timetable = parse_rate_limit(text)
    assert isinstance(timetable, RateTimetable)
    assert timetable.rate_at(at(day, moment)) == rate


@pytest.mark.parametrize(
    ("text", "rate"), [("40M", 40 * M), ("512", 512), ("0", None), ("off", None), ("None", None), (" 1K/s ", K)]
)
def test_a_plain_rate_is_no_timetable(text: str, rate: int | None):
    assert parse_rate_limit(text) == rate


WRONG = [
    ("", "expected a rate such as 40M, or a timetable"),
    ("   ", "found nothing"),
    (",", "timetable such as"),
    ("08:00", "timetable such as"),
    ("08:00,", "timetable such as"),
    ("1,5M", "expected a time of day such as 06:30"),
    ("25:00,5M", "expected a time of day such as 06:30"),
    ("08:00,fast", "expected bytes per second"),
    ("08:00,10M:1M", "expected bytes per second"),
    ("08:00,0", "expected a rate above 0, or off"),
    ("08:00,-1", "expected bytes per second"),
    ("Foo-08:00,5M", "expected days such as Mon, Sunday or Mon-Fri"),
    ("Mond-08:00,5M", "expected days such as Mon"),
    ("Mon-Foo 08:00,5M", "expected days such as Mon"),
    ("08:00,5M Mon-Fri", 'after "Mon-Fri", found nothing'),
    ("08:00,5M 08:00,off", "a second rate for Mon 08:00"),
    ("08:00,5M Sat-08:00,off", "a second rate for Sat 08:00"),
    ("Mon-08:00,5M Mon-Wed-08:00,1M", "a second rate for Mon 08:00"),
    ("08:00,5M " * 400, "characters"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_timetable_says_what_was_expected(text: str, message: str):
    with pytest.raises(ValueError, match="expected") as raised:
        parse_rate_limit(text)
    assert message in str(raised.value)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="needs time zones by TZ")
@pytest.mark.parametrize(("moment", "hours", "rate"), [((2026, 3, 29), 2, 2 * K), ((2026, 10, 25), 4, 2 * K)])
def test_the_limit_follows_the_clock_when_summer_time_begins_and_ends(
    monkeypatch: pytest.MonkeyPatch, moment: tuple[int, int, int], hours: int, rate: int
):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        timetable = parse_rate_limit("00:00,1K 03:00,2K")
        assert isinstance(timetable, RateTimetable)
        midnight = datetime(*moment).timestamp()  # noqa: DTZ001 - local time
        before = datetime.fromtimestamp(midnight + hours * 3600 - 60)  # noqa: DTZ006 - local time
        after = datetime.fromtimestamp(midnight + hours * 3600)  # noqa: DTZ006 - local time
        assert (timetable.rate_at(before), timetable.rate_at(after)) == (K, rate)
    finally:
        monkeypatch.undo()
        time.tzset()
