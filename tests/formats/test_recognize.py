"""A list in place of a manifest is recognized; a manifest, even a wrong one, is not taken for a list."""

from __future__ import annotations

import json

import pytest

from bulkdl.formats.recognize import advice, recognize

A = "https://a.example.org/"
HASH = "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592"


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("csv", f"url,file\n{A}1,a.nc\n"),
        ("csv", f"\ufeffProduct Name;Download URL\na;{A}1\n"),
        ("csv", f"name\thref\na\t{A}1\n"),
        ("csv", f"sep=;\nname;url\na;{A}1\n"),
        ("csv", f"url\n{A}1\n"),
        ("aria2", f"{A}1\n  out=a.nc\n{A}2\n"),
        ("aria2", f"# mine\n{A}1\thttps://b.example.org/1\n"),
        ("aria2", f"{A}1\n\theader=Authorization: Bearer x\n"),
        ("metalink", '<?xml version="1.0"?>\n<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="x"/></metalink>'),
        ("metalink", '<metalink version="3.0"><files/></metalink>'),
        ("metalink", '<m:metalink xmlns:m="urn:ietf:params:xml:ns:metalink"/>'),
        ("stac", json.dumps({"type": "FeatureCollection", "features": []})),
        ("stac", json.dumps({"type": "Feature", "stac_version": "1.0.0", "id": "i", "assets": {}}, indent=2)),
        ("stac", json.dumps([{"type": "Feature", "id": "i", "assets": {}}])),
        ("odata", json.dumps({"@odata.context": "$metadata#Products", "value": []})),
        ("odata", json.dumps({"value": [{"@odata.mediaContentType": "x", "Id": "1", "Name": "a"}]})),
        ("odata", json.dumps({"value": [{"Id": "1", "Name": "a"}]})),
        ("sha256sums", f"{HASH}  a.nc\n"),
        ("sha256sums", f"# made\n\n{HASH} *a.nc\n"),
        ("sha256sums", f"SHA256 (a.nc) = {HASH}\n"),
        ("sha256sums", f"MD5(a.nc)= {HASH[:32]}\n"),
        (None, f"products:\n- {A}1\n"),
        (None, f"products:\n- url: {A}1\n  flie: a\n"),
        (None, f"- url: {A}1\n"),
        (None, f'{{"products": ["{A}1"], "x": 1}}'),
        (None, f"{A}1\nnonsense\n"),
        (None, f"{A}1\n  # note\n"),
        (None, "url: x\n"),
        (None, "version: 1\nname, url: 3\n"),
        (None, "just text, and more\n"),
        (None, "<html><body>metal</body></html>"),
        (None, ""),
        (None, "a\rb"),
    ],
)  # fmt: skip
def test_the_beginning_of_a_text_tells_its_format(form, text):
    assert recognize(text.removeprefix("\ufeff")) == form


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_the_advice_is_a_whole_command_in_any_encoding(encoding):
    text = advice("my list.csv", f"url,file\n{A}1,a.nc\n".encode(encoding))
    assert text is not None
    assert text.endswith("bulkdl manifest csv 'my list.csv' -o manifest.yaml")


def test_a_checksum_list_needs_the_url_of_its_folder():
    assert "SUMS --base-url URL -o" in (advice("SUMS", f"{HASH}  a.nc\n".encode()) or "")


def test_a_page_of_a_server_is_named():
    assert "HTML" in (advice("m.yaml", b"<!DOCTYPE html><html>") or "")
    assert advice("m.yaml", b"\x1f\x8b\0\0") is None
