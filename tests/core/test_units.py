"""Sizes, rates, durations and times of day: parsed and formatted."""

from __future__ import annotations

from datetime import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core import units
from bulkdl.core.models import Window


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("734003200", 734003200),
        ("40M", 40 * 1024**2),
        ("40m", 40 * 1024**2),
        ("1.5G", 3 * 1024**3 // 2),
        ("1K", 1024),
        ("2 KiB", 2048),
        ("1KB", 1024),
        ("1T", 1024**4),
        (" 7B ", 7),
    ],
)
def test_sizes_are_powers_of_1024(text, size):
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "fast", "-1", "1X", "1e9", "1,5G", "9" * 40, "9999999P", "\u0661", "1.M"])
def test_a_text_that_is_not_a_size_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"expected .*found|at most"):
        units.parse_size(text)


def test_a_rate_may_end_with_per_second():
    assert units.parse_rate("40M/s") == units.parse_rate("40M")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("0.5", 0.5),
        ("500ms", 0.5),
        ("2d", 172800),
    ],
)
def test_durations_have_units_or_are_seconds(text, seconds):
    assert units.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1h30", "h", "1y", "1e3", "9999d", "nan", "1:30"])
def test_a_text_that_is_not_a_duration_is_refused(text):
    with pytest.raises(ValueError, match="expected a duration"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("22:00-06:00", Window(time(22), time(6))),
        ("6:05 - 7:10", Window(time(6, 5), time(7, 10))),
        ("18:00-24:00", Window(time(18), time(0))),
    ],
)
def test_windows_may_span_midnight(text, window):
    assert units.parse_window(text) == window


@pytest.mark.parametrize("text", ["", "22:00", "22:00-", "22:00-22:00", "25:00-26:00", "10-11", "1:00-2:00-3:00"])
def test_a_text_that_is_not_a_window_is_refused(text):
    with pytest.raises(ValueError, match="expected a time window"):
        units.parse_window(text)


@pytest.mark.parametrize("text", ["", "24:00", "6", "06:60", "six", "06:30pm"])
def test_a_text_that_is_not_a_time_is_refused(text):
    with pytest.raises(ValueError, match="expected a time of day"):
        units.parse_time(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (734003200, "700 MiB"),
        (5 * 1024**5, "5.0 PiB"),
    ],
)
def test_bytes_are_printed_in_binary_units(count, text):
    assert units.format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.42, "0.4s"),
        (9.99, "10s"),
        (59.6, "1m00s"),
        (200, "3m20s"),
        (3599.9, "1h00m"),
        (3720, "1h02m"),
        (183600, "2d03h"),
        (-5, "-5s"),
        (float("inf"), "?"),
    ],
)
def test_durations_are_printed_in_two_units(seconds, text):
    assert units.format_duration(seconds) == text


@given(st.integers(0, 2**63 - 1))
def test_any_number_of_bytes_is_parsed_unchanged(count):
    assert units.parse_size(str(count)) == count


@given(st.text(max_size=40))
def test_any_text_gives_a_value_or_an_error_naming_the_expected_form(text):
    for parse in (units.parse_size, units.parse_rate, units.parse_duration, units.parse_time, units.parse_window):
        said = ""
        try:
            parse(text)
        except ValueError as error:
            said = str(error)
        assert not said or "expected" in said
