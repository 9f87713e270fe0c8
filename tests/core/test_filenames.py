"""File names from servers are made safe; names in a manifest are refused if they would leave the destination."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core import filenames
from bulkdl.core.urls import Url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a.example/x/S2A.zip", "S2A.zip"),
        ("https://a.example/x/S2A%20b.zip?token=1", "S2A b.zip"),
        ("https://a.example/", "download"),
        ("https://a.example", "download"),
        ("https://a.example/x/..%2F..%2Fetc", ".._.._etc"),
        ("https://a.example/%2E%2E", "download"),
        ("https://a.example/odata/v1/Products(1)/$value", "$value"),
        ("https://a.example/%C3%A9.tif", "é.tif"),
        ("https://a.example/%ff.tif", "ÿ.tif"),
        ("https://a.example/%81.tif", "%81.tif"),
        ("https://a.example/x/", "x"),
        ("https://a.example/x/y.nc//", "y.nc"),
        ("https://a.example/x/../", "x"),
        ("https://a.example/x/?id=1", "x"),
        ("https://a.example/download/", "download"),
        ("https://a.example/b/download", "download"),
        ("https://a.example/a%00b", "a_b"),
    ],
)
def test_the_last_segment_of_a_url_is_its_name(url, name):
    assert filenames.from_url(Url(url)) == name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.zip", "a.zip"),
        ("CON", "_CON"),
        ("aux.zip", "_aux.zip"),
        ("com1.tar.gz", "_com1.tar.gz"),
        ("console.zip", "console.zip"),
        ("..", "download"),
        (".", "download"),
        ("", "download"),
        ("a. . ", "a"),
        (".bulkdl", "_.bulkdl"),
        (".BulkDL", "_.BulkDL"),
        ('a<b>:"|?*\\/c', "a_b________c"),
        ("a\nb", "a_b"),
        ("gpj.\u202eexe", "gpj._exe"),
    ],
)
def test_a_servers_name_is_made_safe(name, safe):
    assert filenames.safe_component(name) == safe


def test_a_long_name_keeps_its_suffix():
    safe = filenames.safe_component("é" * 300 + ".SAFE.zip")
    assert safe.endswith("é.SAFE.zip")
    assert 253 <= len(safe.encode()) <= 255


@given(st.text(max_size=400))
def test_any_name_becomes_one_safe_component(name):
    safe = filenames.safe_component(name)
    assert 1 <= len(safe.encode()) <= 255
    assert safe not in {".", ".."}
    assert safe.casefold() != ".bulkdl"
    assert not set(safe) & set('<>:"|?*\\/\0\n')
    assert filenames.check_relative(safe) is None
    assert filenames.safe_component(safe) == safe


@pytest.mark.parametrize(
    "file", ["a.zip", "2024/06/a.zip", "./a.zip", "a//b.zip", "...", "..a/b..", "aux.zip", "a b", "ü.tif", ".hidden"]
)
def test_a_relative_file_is_used_unchanged(file):
    assert filenames.check_relative(file) is None


@pytest.mark.parametrize(
    ("file", "word"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("/etc/passwd", "absolute"),
        ("\\\\host\\share", "absolute"),
        ("C:/x", "absolute"),
        ("c:x", "absolute"),
        ("../x", "leaves"),
        ("a/../../x", "leaves"),
        ("a\\..\\x", "leaves"),
        ("a/..", "leaves"),
        ("a/.. /x", "leaves"),
        ("a/", "folder"),
        (".", "folder"),
        (".bulkdl/journal", ".bulkdl"),
        ("./.BULKDL/x", ".bulkdl"),
        (".bulkdl", ".bulkdl"),
        ("a\x00b", "control"),
        ("a\nb", "control"),
        ("\ud800", "control"),
        ("x" * 256, "255"),
        ("é" * 128, "255"),
    ],
)
def test_a_file_that_would_leave_the_destination_or_is_impossible_is_refused(file, word):
    problem = filenames.check_relative(file)
    assert problem is not None
    assert word in problem


@given(st.text(max_size=60))
def test_a_file_that_passes_stays_below_the_destination_in_one_spelling(file):
    if filenames.check_relative(file) is None:
        parts = filenames.normalise(file).split("/")
        assert parts
        assert not {"", ".", ".."} & set(parts)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("ab:c.nc", "contains :"),
        ("a:b.nc", "absolute"),
        ("x/2024-01-01T10:00.nc", "contains :"),
        ("q?.bin", "contains ?"),
        ("a<b>.bin", "contains <"),
        ("star*", "contains *"),
        ('a"b', 'contains "'),
        ("a|b", "contains |"),
        ("CON", "device CON"),
        ("nul.tar.gz", "device nul.tar.gz"),
        ("aux/x.bin", "device aux"),
        ("x\\com1.nc", "device com1.nc"),
        ("C:/x", "absolute"),
    ],
)
def test_a_file_that_windows_cannot_have_is_refused_there(file, problem):
    assert problem in (filenames.check_relative(file, windows=True) or "")


@pytest.mark.parametrize("file", ["ab:c.nc", "q?.bin", "CON", "a\\b"])
def test_such_a_file_is_used_unchanged_elsewhere(file):
    assert filenames.check_relative(file, windows=False) is None
    assert filenames.normalise(file, windows=False) == file


def test_a_backslash_separates_folders_on_windows_alone():
    assert filenames.normalise("a\\.\\b.nc", windows=True) == "a/b.nc"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A.zip", "a.ZIP", True),
        ("\u00e9.tif", unicodedata.normalize("NFD", "\u00c9.tif"), True),
        ("straße", "STRASSE", True),
        ("a\\b", "a/b", True),
        ("a\\B\\c.nc", "A/b/C.nc", True),
        ("a\\\\b", "a/b", True),
        ("d./z", "d/z", True),
        ("d /z", "d/z", True),
        ("d. . /z", "d/z", True),
        ("z.", "z", True),
        ("z ", "z", True),
        ("d/z. ", "D/z", True),
        (".../z", "z", True),
        ("\u00e9.", "\u00c9", True),
        ("a\u200bb", "ab", True),
        ("a\ufe0f.nc", "a.nc", True),
        (" z", "z", False),
        (".z", "z", False),
        ("d.x/z", "dx/z", False),
        ("a.zip", "b.zip", False),
        ("a/b", "a_b", False),
        ("ab", "a/b", False),
    ],
)
def test_two_names_of_one_file_on_windows_or_macos_fold_together(one, other, same):
    assert (filenames.fold(one) == filenames.fold(other)) is same
