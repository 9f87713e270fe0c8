"""Names that fit what arrived."""

from __future__ import annotations

import pytest

from bulkdl.content.signatures import fitting_name

ZIP, GZIP, HDF5 = b"PK\x03\x04" + bytes(40), b"\x1f\x8b" + bytes(40), b"\x89HDF\r\n\x1a\n" + bytes(40)


@pytest.mark.parametrize(
    ("name", "head", "fitting"),
    [
        ("a.nc", ZIP, "a.nc.zip"),
        ("x/a.tif", ZIP, "x/a.tif.zip"),
        ("a.EOF", ZIP, "a.EOF.zip"),
        ("a", ZIP, "a.zip"),
        ("a.nc", GZIP, "a.nc.gz"),
        ("a.nc", HDF5, "a.nc"),
        ("a.nc", HDF5[:8], "a.nc"),
        ("a.nc", bytes(600) + ZIP, "a.nc"),
        ("a.zip", ZIP, "a.zip"),
        ("a.kmz", ZIP, "a.kmz"),
        ("a.nc.gz", GZIP, "a.nc.gz"),
        ("a.tgz", GZIP, "a.tgz"),
        ("a.nc", b"", "a.nc"),
        ("a.nc", b"<html>", "a.nc"),
    ],
)
def test_a_name_gets_the_suffix_of_its_bytes_only_where_it_says_another_type(name, head, fitting):
    assert fitting_name(name, head) == fitting
