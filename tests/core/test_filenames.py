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
        ("https://a.example/%ff.tif", "\ufffd.tif"),
        ("https://a.example/a%00b", "a_b"),
    ],
)
def test_the_last_segment_of_a_url_is_its_name(url, name):
    assert filenames.from_url(Url(url)) == name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("attachment; filename=a.zip", "a.zip"),
        ('attachment; filename="a b.zip"', "a b.zip"),
        ("attachment; filename=a b.zip", "a b.zip"),
        ('attachment; filename="a;b.zip"; size=3', "a;b.zip"),
        (r'attachment; filename="a\"b.zip"', "a_b.zip"),
        ("attachment; filename=\"x.zip\"; filename*=UTF-8''%C3%A9.zip", "é.zip"),
        ("attachment; filename*=UTF-8'de'%C3%A9.zip; filename=x.zip", "é.zip"),
        ("attachment; filename*=iso-8859-1''%E9.zip", "é.zip"),
        ("attachment; filename*=UTF-8''%ff.zip; filename=x.zip", "x.zip"),
        ("attachment; filename*=klingon''a; filename=x.zip", "x.zip"),
        ("attachment; filename*=broken; filename=x.zip", "x.zip"),
        ('ATTACHMENT; FILENAME="a.zip"', "a.zip"),
        ('attachment; filename="unterminated.zip', "unterminated.zip"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        (r'attachment; filename="C:\dir\a.zip"', "a.zip"),
        ("attachment; filename=/etc/passwd", "passwd"),
        ('attachment; filename="\xc3\xa9.zip"', "é.zip"),
        ('attachment; filename="\xe9.zip"', "é.zip"),
        ('attachment; filename="\udcc3\udca9.zip"', "é.zip"),
        ('filename="bare.zip"', "bare.zip"),
        ("attachment; filename=a.zip; filename=b.zip", "a.zip"),
        ('attachment; name="filename=x"; filename=a.zip', "a.zip"),
    ],
)
def test_content_disposition_names_the_file(value, name):
    assert filenames.from_content_disposition(value) == name


@pytest.mark.parametrize(
    "value",
    [
        "",
        "attachment",
        "inline; size=3",
        'attachment; filename=""',
        "attachment; filename=..",
        'attachment; filename="a/"',
    ],
)
def test_a_content_disposition_without_a_usable_name_gives_none(value):
    assert filenames.from_content_disposition(value) is None


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


@given(st.text(max_size=200))
def test_any_header_gives_a_safe_name_or_none(value):
    name = filenames.from_content_disposition(f"attachment; {value}")
    assert name is None or filenames.check_relative(name) is None


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
    ("one", "other", "same"),
    [
        ("A.zip", "a.ZIP", True),
        ("\u00e9.tif", unicodedata.normalize("NFD", "\u00c9.tif"), True),
        ("straße", "STRASSE", True),
        ("a.zip", "b.zip", False),
    ],
)
def test_names_fold_together_as_on_windows_and_macos(one, other, same):
    assert (filenames.fold(one) == filenames.fold(other)) is same
