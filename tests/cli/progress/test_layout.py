"""The lines of the live view for any terminal size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from bulkdl.cli.progress.layout import Glyphs, lines, shorten
from bulkdl.cli.progress.sampler import Sample
from bulkdl.core.events import Flight

SAMPLE = Sample(
    products=300,
    done=12,
    failed=1,
    in_flight=2,
    retries=0,
    received=5 * 1024**3,
    left=15 * 1024**3,
    rate=4e7,
    eta_s=400,
)
NAMES = st.text(min_size=1, max_size=120)
FLIGHTS = st.lists(
    st.builds(
        Flight,
        file=NAMES,
        total=st.none() | st.integers(0, 2**60),
        have=st.integers(0, 2**60),
        connections=st.integers(0, 64),
        phase=st.sampled_from(["connecting", "receiving", "verifying"]),
    ),
    max_size=30,
)


@given(
    flights=FLIGHTS,
    accounts=st.dictionaries(NAMES, NAMES, max_size=4),
    width=st.integers(1, 200),
    height=st.integers(1, 60),
    ascii_only=st.booleans(),
)
def test_no_line_is_wider_and_no_view_higher_than_the_terminal(flights, accounts, width, height, ascii_only):
    drawn = lines(SAMPLE, flights, accounts, width=width, height=height, glyphs=Glyphs(ascii_only=ascii_only))
    assert 1 <= len(drawn) <= height
    assert all(line.cell_len <= width for line in drawn)
    assert all("\n" not in line.plain and "\x1b" not in line.plain for line in drawn)


@given(text=st.text(max_size=80), width=st.integers(1, 60))
def test_a_shortened_name_fits(text, width):
    assert cell_len(shorten(text, width)) <= width


def test_a_long_name_keeps_both_its_ends():
    assert shorten("S2A_MSIL1C_20200101T100000_N0500.SAFE.zip", 21) == "S2A_MSIL1C…0.SAFE.zip"


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (100, ["a.zip     ━━━━━━━━━━━━────────────   50%    2.0 KiB   2 conn  receiving", " 25%   ━━━"]),
        (70, ["a.zip     ━━━━━━──────   50%    2.0 KiB  receiving", " 25%   "]),
        (40, ["a.zip      50%  receiving", " 25%   12/300   1 failed"]),
    ],
)
def test_a_narrow_terminal_has_fewer_columns(width, expected):
    flight = Flight(file="a.zip", total=2048, have=1024, connections=2, phase="receiving")
    drawn = lines(SAMPLE, [flight], {}, width=width, height=5, glyphs=Glyphs(ascii_only=False))
    assert drawn[0].plain == expected[0]
    assert drawn[-1].plain.startswith(expected[1])


def test_more_products_than_rows_are_counted():
    flights = [Flight(file=f"{n}.zip") for n in range(20)]
    drawn = lines(SAMPLE, flights, {"own": "token valid 9 s"}, width=80, height=8, glyphs=Glyphs(ascii_only=False))
    assert [line.plain for line in drawn[-3:-1]] == ["… and 15 more in flight", "own: token valid 9 s"]
    assert len(drawn) == 8
