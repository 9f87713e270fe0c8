"""The daily window and the deadline: tables over edges, midnight and the days on which the clock is changed."""

from __future__ import annotations

import time as clock
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core.models import Window
from bulkdl.scheduler.time_window import deadline_in, seconds_until, window_closes_in, window_opens_in

pytestmark = pytest.mark.skipif(not hasattr(clock, "tzset"), reason="the zone of a process cannot be set here")

HOUR = 3600.0
MOMENTS = st.integers(1_735_689_600, 1_796_083_200)  # of 2025 and 2026
DAY = Window(time(9), time(17))
NIGHT = Window(time(22), time(6))
TILL_MIDNIGHT = Window(time(22), time(0))
FROM_MIDNIGHT = Window(time(0), time(6))
ALWAYS = Window(time(8), time(8))


@pytest.fixture(autouse=True)
def zone(monkeypatch):
    """The local zone is Brussels: summer time begins on 2025-03-30 at 02:00 and ends on 2025-10-26 at 03:00."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    clock.tzset()
    yield
    monkeypatch.undo()
    clock.tzset()


def local(text: str) -> datetime:
    """A local time as the engine has it; `*` after it: the second of two times that the clock shows alike."""
    naive = datetime.fromisoformat(text.rstrip("*"))
    return naive.replace(fold=1 if text.endswith("*") else 0).astimezone()


UNTIL = [
    ("2025-06-01T05:00", time(6, 30), 1.5 * HOUR),
    ("2025-06-01T06:29:59", time(6, 30), 1),
    ("2025-06-01T06:30:00", time(6, 30), 24 * HOUR),
    ("2025-06-01T06:30:01", time(6, 30), 24 * HOUR - 1),
    ("2025-06-01T23:59:59", time(0), 1),
    ("2025-06-01T00:00:00", time(0), 24 * HOUR),
    ("2024-02-28T23:00", time(22), 23 * HOUR),
    ("2025-12-31T23:00", time(6, 30), 7.5 * HOUR),
    # The night that is an hour short
    ("2025-03-29T22:00", time(6, 30), 7.5 * HOUR),
    ("2025-03-30T01:59:59", time(3), 1),
    ("2025-03-30T01:00", time(2, 30), 1.5 * HOUR),
    ("2025-03-30T04:00", time(2, 30), 22.5 * HOUR),
    # The night that is an hour long
    ("2025-10-25T22:00", time(6, 30), 9.5 * HOUR),
    ("2025-10-26T02:15", time(2, 30), 0.25 * HOUR),
    ("2025-10-26T02:45", time(2, 30), 0.75 * HOUR),
    ("2025-10-26T02:15*", time(2, 30), 0.25 * HOUR),
    ("2025-10-26T02:45*", time(2, 30), 23.75 * HOUR),
    ("2025-10-26T02:45", time(3), 1.25 * HOUR),
]


@pytest.mark.parametrize(("now", "moment", "seconds"), UNTIL, ids=[f"{now} {m:%H:%M}" for now, m, _ in UNTIL])
def test_the_seconds_until_the_clock_shows_a_time(now, moment, seconds):
    assert seconds_until(moment, now=local(now)) == seconds


@given(MOMENTS, st.integers(0, 1439))
def test_the_clock_shows_the_time_when_the_seconds_are_over(at, minute):
    now = datetime.fromtimestamp(at, UTC).astimezone()
    moment = time(minute // 60, minute % 60)
    seconds = seconds_until(moment, now=now)
    then = now.astimezone(UTC) + timedelta(seconds=seconds)
    skipped = 120 <= minute < 180 and (then.month, then.day) in {(3, 30), (3, 29)}
    assert 0 < seconds <= 25 * HOUR
    assert then.astimezone().time() == moment or skipped


OPENS = [
    (DAY, "08:59:59", 1),
    (DAY, "09:00:00", 0),
    (DAY, "16:59:59", 0),
    (DAY, "17:00:00", 16 * HOUR),
    (DAY, "00:00:00", 9 * HOUR),
    (NIGHT, "21:59:59", 1),
    (NIGHT, "22:00:00", 0),
    (NIGHT, "23:59:59", 0),
    (NIGHT, "00:00:00", 0),
    (NIGHT, "05:59:59", 0),
    (NIGHT, "06:00:00", 16 * HOUR),
    (TILL_MIDNIGHT, "23:59:59", 0),
    (TILL_MIDNIGHT, "00:00:00", 22 * HOUR),
    (FROM_MIDNIGHT, "00:00:00", 0),
    (FROM_MIDNIGHT, "23:59:59", 1),
    (ALWAYS, "08:00:00", 0),
    (ALWAYS, "20:00:00", 0),
    (None, "12:00:00", 0),
]


@pytest.mark.parametrize(("window", "at", "seconds"), OPENS)
def test_the_window_opens(window, at, seconds):
    assert window_opens_in(window, now=local(f"2025-06-01T{at}")) == seconds


CLOSES = [
    (DAY, "09:00:00", 8 * HOUR),
    (DAY, "16:59:59", 1),
    (NIGHT, "22:00:00", 8 * HOUR),
    (NIGHT, "00:00:00", 6 * HOUR),
    (NIGHT, "05:59:59", 1),
    (TILL_MIDNIGHT, "23:59:59", 1),
    (FROM_MIDNIGHT, "00:00:00", 6 * HOUR),
    (ALWAYS, "08:00:00", None),
    (None, "12:00:00", None),
]


@pytest.mark.parametrize(("window", "at", "seconds"), CLOSES)
def test_the_window_closes(window, at, seconds):
    assert window_closes_in(window, now=local(f"2025-06-01T{at}")) == seconds


def test_a_window_that_ends_in_the_repeated_hour_closes_both_times():
    window = Window(time(22), time(2, 30))
    assert window_closes_in(window, now=local("2025-10-26T02:10")) == 20 * 60
    assert window_closes_in(window, now=local("2025-10-26T02:10*")) == 20 * 60


def test_a_night_is_as_long_as_the_clock_makes_it():
    assert window_closes_in(NIGHT, now=local("2025-03-29T22:00")) == 7 * HOUR
    assert window_closes_in(NIGHT, now=local("2025-10-25T22:00")) == 9 * HOUR


@given(
    MOMENTS,
    st.tuples(st.integers(0, 1439), st.integers(0, 1439)).map(lambda m: Window(*(time(x // 60, x % 60) for x in m))),
)
def test_a_window_is_open_or_opens_within_a_day_and_never_stays_open_longer(at, window):
    now = datetime.fromtimestamp(at, UTC).astimezone()
    opens, closes = window_opens_in(window, now=now), window_closes_in(window, now=now)
    assert 0 <= opens <= 25 * HOUR
    assert (closes is None) == (window.start == window.end)
    assert closes is None or 0 < closes <= 25 * HOUR


@pytest.mark.parametrize(
    ("moment", "now", "expected"),
    [
        (time(6, 30), "2025-06-01 06:29:59", 1.0),
        (time(6, 30), "2025-06-01 06:30:00", 0.0),
        (time(6, 30), "2025-06-01 06:30:59", 0.0),
        (time(6, 30), "2025-06-01 06:31:00", 24 * HOUR - 60),
        (time(6, 30, 10), "2025-06-01 06:30:20", 24 * HOUR - 10),
        (time(6, 30), "2025-06-01 22:00:00", 8.5 * HOUR),
    ],
)
def test_a_deadline_has_come_throughout_its_minute(moment, now, expected):
    assert deadline_in(moment, now=local(now)) == expected
