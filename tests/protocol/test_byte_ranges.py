"""Ranges cover a product exactly, and only a valid Content-Range is accepted."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.protocol.byte_ranges import ContentRange, cover, missing, normalise, parse_content_range

RANGES = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120)), max_size=8)
TOTALS = st.integers(0, 130)


def offsets(ranges):
    return {i for start, end in ranges for i in range(start, end)}


@given(RANGES)
def test_normalised_ranges_hold_the_same_bytes_sorted_and_disjoint(ranges):
    tidy = normalise(ranges)
    assert offsets(tidy) == offsets(ranges)
    assert all(start < end for start, end in tidy)
    assert all(before[1] < after[0] for before, after in pairwise(tidy))
    assert normalise(reversed(ranges)) == normalise(tidy) == tidy


@given(RANGES)
def test_cover_counts_each_byte_once(ranges):
    assert cover(ranges) == len(offsets(ranges))


@given(RANGES, TOTALS)
def test_present_and_missing_ranges_make_the_whole_without_overlap(have, total):
    gaps = missing(have, total)
    assert offsets(gaps) | {i for i in offsets(have) if i < total} == set(range(total))
    assert not offsets(gaps) & offsets(have)
    assert normalise(gaps) == gaps


SOUND = [
    ("bytes 0-9/10", ContentRange((0, 10), 10)),
    ("bytes 5-5/10", ContentRange((5, 6), 10)),
    ("bytes 0-9/*", ContentRange((0, 10), None)),
    ("bytes */10", ContentRange(None, 10)),
    ("bytes */*", ContentRange(None, None)),
    ("bytes */0", ContentRange(None, 0)),
    ("Bytes  0-9/10", ContentRange((0, 10), 10)),
    (" bytes 0-9/10 ", ContentRange((0, 10), 10)),
    ("bytes 007-009/010", ContentRange((7, 10), 10)),
    (f"bytes 0-{2**63 - 2}/{2**63 - 1}", ContentRange((0, 2**63 - 1), 2**63 - 1)),
]
UNSOUND = [
    None,
    "",
    "bytes",
    "bytes 0-9",
    "bytes=0-9/10",
    "0-9/10",
    "items 0-9/10",
    "bytes 5-4/10",
    "bytes 0-9/5",
    "bytes 0-9/9",
    "bytes 0-0/0",
    "bytes -5-9/10",
    "bytes -5/10",
    "bytes 0--9/10",
    "bytes 0-9/-10",
    "bytes +0-9/10",
    "bytes 0-/10",
    "bytes 0 - 9/10",
    "bytes 0-9 / 10",
    "bytes 0-9/10, 20-29/30",
    "bytes 0-9/10 x",
    "bytes 0x0-0x9/10",
    "bytes 0.0-9/10",
    "bytes 1e1-20/30",
    "bytes 0_0-9/10",
    "bytes \u0660-\u0669/\u0661\u0660",
    "bytes \uff10-9/10",
    "bytes 0-\u00b2/10",
    "bytes\u00a00-9/10",
    f"bytes 0-{2**63 - 1}/{2**63}",
    f"bytes 0-{2**63 - 1}/*",
    f"bytes */{2**63}",
    "bytes 0-9/" + "9" * 5000,
    "bytes " + "9" * 5000 + "-9/10",
]


@pytest.mark.parametrize(("value", "expected"), SOUND, ids=[value for value, _ in SOUND])
def test_a_valid_content_range_is_parsed(value, expected):
    assert parse_content_range(value) == expected


@pytest.mark.parametrize("value", UNSOUND, ids=lambda value: ascii(value)[:40])
def test_an_invalid_content_range_is_none(value):
    assert parse_content_range(value) is None


@given(st.text(max_size=40) | st.text(alphabet="bytes 0123456789-/*", max_size=30))
def test_any_content_range_gives_none_or_a_range_within_its_total(value):
    parsed = parse_content_range(value)
    if parsed is not None and parsed.range is not None:
        start, end = parsed.range
        assert 0 <= start < end <= (parsed.total if parsed.total is not None else 2**63 - 1)


@given(st.integers(0, 2**62), st.integers(1, 2**20), st.integers(0, 2**20))
def test_a_formatted_content_range_is_parsed_back(start, length, rest):
    end, total = start + length, start + length + rest
    assert parse_content_range(f"bytes {start}-{end - 1}/{total}") == ContentRange((start, end), total)
