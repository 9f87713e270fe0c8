"""Tables of dates and of Retry-After."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.protocol.headers import parse_http_date, parse_retry_after

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT


DECADE = 10 * 365 * 86400.0


@pytest.mark.parametrize(
    "text",
    ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"],
    ids=["IMF-fixdate", "RFC 850", "asctime"],
)
@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process cannot be set here")
def test_all_three_forms_of_a_date_are_utc_in_any_time_zone(text, monkeypatch):
    monkeypatch.setenv("TZ", "XYZ-5")
    time.tzset()
    try:
        assert parse_http_date(text) == NOW
    finally:
        monkeypatch.undo()
        time.tzset()


RETRY_AFTER = [
    ("0", 0.0),
    ("7", 7.0),
    (" 120 ", 120.0),
    ("007", 7.0),
    ("1.5", 1.5),
    ("9" * 30, DECADE),
    ("9" * 5000, DECADE),
    ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
    ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
    ("Sun Nov  6 08:50:37 1994", 60.0),
    ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
    ("Sun, 06 Nov 1994 08:48:37 GMT", 0.0),
    ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ("Fri, 31 Dec 9999 23:59:59 GMT", DECADE),
    (None, None),
    ("", None),
    ("  ", None),
    ("-5", None),
    ("+5", None),
    ("1e3", None),
    ("5s", None),
    ("0x10", None),
    ("1,5", None),
    (".5", None),
    ("inf", None),
    ("nan", None),
    ("\u0665", None),
    ("soon", None),
    ("1994-11-06T08:50:37Z", None),
    ("Sun, 99 Nov 1994 08:50:37 GMT", None),
    ("Sun, 06 Nov 99999999999 08:50:37 GMT", None),
]


@pytest.mark.parametrize(("value", "seconds"), RETRY_AFTER, ids=[ascii(value)[:40] for value, _ in RETRY_AFTER])
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert parse_retry_after(value, now=NOW) == seconds


@given(st.text(max_size=60) | st.text(alphabet="SunMon, 0123456789:-+GMTNov/", max_size=40))
def test_any_retry_after_gives_a_finite_wait_or_none(value):
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or 0 <= seconds <= DECADE


@pytest.mark.parametrize("month", range(1, 13))
def test_every_month_of_a_date_has_its_number(month):
    moment = datetime(2022, month, 15, 10, 20, 30, tzinfo=UTC)
    assert parse_http_date(moment.strftime("%a, %d %b %Y %H:%M:%S GMT")) == moment.timestamp()
