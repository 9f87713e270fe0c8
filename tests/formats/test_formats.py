"""Conversion of lists in other formats: the products of valid lists and the problems of wrong ones."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.formats import FORMATS, convert
from bulkdl.formats.stac import from_multihash

BASE = "https://archive.example.org/data/"
MD5, SHA256 = "9e107d9d372bb6826bd81d3542a419d6", "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592"

METALINK = f"""<?xml version="1.0" encoding="UTF-8"?>
<metalink xmlns="urn:ietf:params:xml:ns:metalink">
  <file name="a/b.zip">
    <size>42</size>
    <hash type="sha-256">{SHA256}</hash>
    <hash type="sha-384">00</hash>
    <pieces length="1" type="sha-256"><hash>{"0" * 64}</hash></pieces>
    <url priority="2">https://two.example.org/b.zip</url>
    <url>ftp://last.example.org/b.zip</url>
    <url priority="1">https://one.example.org/b.zip</url>
  </file>
</metalink>"""
METALINK_3 = """<metalink version="3.0" xmlns="http://www.metalinker.org/"><files><file name="b.zip">
  <verification><hash type="md5">9e107d9d372bb6826bd81d3542a419d6</hash></verification>
  <resources><url type="http" preference="10">https://two.example.org/b</url><url preference="90">https://one.example.org/b</url></resources>
</file></files></metalink>"""
ITEM = {
    "type": "Feature",
    "id": "S2A",
    "assets": {
        "B02": {
            "href": "https://archive.example.org/S2A/B02.tif",
            "file:size": 7,
            "file:checksum": f"1220{SHA256}",
            "alternate": {"s3": {"href": "s3://bucket/B02.tif"}, "web": {"href": "https://other.example.org/B02.tif"}},
        },
        "far": {"href": "s3://bucket/far.jpg", "roles": ["thumbnail"]},
    },
}
ODATA = {
    "value": [
        {
            "Id": "1-2",
            "Name": "S2A.SAFE",
            "ContentLength": 9,
            "Checksum": [{"Algorithm": "MD5", "Value": MD5}, {"Algorithm": "CRC", "Value": "1"}, {}],
        },
        {"Id": "3-4", "Name": "S2B.SAFE", "ContentLength": 0, "Checksum": [], "Online": False},
    ]
}

GOOD = {
    "urls": (
        "urls",
        "# mine\n\nhttps://a.example.org/1.zip\n  https://a.example.org/2.zip  \r\n",
        ["https://a.example.org/1.zip", "https://a.example.org/2.zip"],
    ),
    "csv": (
        "csv",
        f"Name,URL,Content-Length,MD5,note\nx.zip,https://a.example.org/1,12,{MD5.upper()},hi\n,https://a.example.org/2,,,\n",
        [
            {"url": "https://a.example.org/1", "file": "x.zip", "size": 12, "checksum": f"md5:{MD5}"},
            "https://a.example.org/2",
        ],
    ),
    "csv with semicolons": (
        "csv",
        f"url;file;checksum\nhttps://a.example.org/1;'x;y.zip';sha256:{SHA256}\n".replace("'", '"'),
        [{"url": "https://a.example.org/1", "file": "x;y.zip", "checksum": f"sha256:{SHA256}"}],
    ),
    "aria2": (
        "aria2",
        (
            f"https://a.example.org/1\tftp://b.example.org/1\thttps://c.example.org/1\n  out=x.zip\n  dir=sub/\n"
            f"  checksum=sha-256={SHA256}\n  header=Accept: text/plain\n  split=5\n#\nhttps://a.example.org/2\n"
        ),
        [
            {
                "url": "https://a.example.org/1",
                "file": "sub/x.zip",
                "checksum": f"sha256:{SHA256}",
                "mirrors": ["https://c.example.org/1"],
                "headers": {"Accept": "text/plain"},
            },
            "https://a.example.org/2",
        ],
    ),
    "metalink": (
        "metalink",
        METALINK,
        [
            {
                "url": "https://one.example.org/b.zip",
                "file": "a/b.zip",
                "size": 42,
                "checksum": f"sha256:{SHA256}",
                "mirrors": ["https://two.example.org/b.zip"],
            }
        ],
    ),
    "metalink 3": (
        "metalink",
        METALINK_3,
        [
            {
                "url": "https://one.example.org/b",
                "file": "b.zip",
                "checksum": f"md5:{MD5}",
                "mirrors": ["https://two.example.org/b"],
            }
        ],
    ),
    "sums as coreutils write them": (
        "sha256sums",
        f"{SHA256}  a b.zip\n{MD5} *./sub/c.bin\n",
        [
            {"url": f"{BASE}a%20b.zip", "file": "a b.zip", "checksum": f"sha256:{SHA256}"},
            {"url": f"{BASE}sub/c.bin", "file": "sub/c.bin", "checksum": f"md5:{MD5}"},
        ],
    ),
    "sums as BSD writes them": (
        "sha256sums",
        f"SHA256 (a.zip) = {SHA256}\n",
        [{"url": f"{BASE}a.zip", "file": "a.zip", "checksum": f"sha256:{SHA256}"}],
    ),
    "stac": (
        "stac",
        json.dumps({"type": "FeatureCollection", "features": [ITEM]}),
        [
            {
                "url": "https://archive.example.org/S2A/B02.tif",
                "file": "S2A/B02.tif",
                "size": 7,
                "checksum": f"sha256:{SHA256}",
                "mirrors": ["https://other.example.org/B02.tif"],
            }
        ],
    ),
    "odata": (
        "odata",
        json.dumps(ODATA),
        [
            {"url": f"{BASE}Products(1-2)/$value", "file": "S2A.SAFE.zip", "size": 9, "checksum": f"md5:{MD5}"},
            {"url": f"{BASE}Products(3-4)/$value", "file": "S2B.SAFE.zip"},
        ],
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_products_are_added_with_all_facts_of_the_list(case):
    form, text, expected = GOOD[case]
    found = convert(form, text, base_url=BASE if form in {"sha256sums", "odata"} else None)
    assert found.problems == []
    assert [product.entry() for product in found.products] == expected


BAD = {
    "a line that is no URL": ("urls", "https://a.example.org/1\nnot a url\n", 2, "http://"),
    "a table without a head": ("csv", "https://a.example.org/1,2\n", 1, "url"),
    "an empty table": ("csv", "", 1, "url"),
    "a size that is none": ("csv", "url,size\nhttps://a.example.org/1,many\n", 2, "many"),
    "a path out of the destination": ("csv", "url,file\nhttps://a.example.org/1,../x\n", 2, "../x"),
    "an unclosed quote": ("csv", 'url,file\n"https://a.example.org/1,x\n', 2, "CSV"),
    "a checksum that is none": ("aria2", "https://a.example.org/1\n  checksum=md5=123\n", 1, "md5"),
    "an option first": ("aria2", "  out=x\n", 1, "option"),
    "an option without a value": ("aria2", "https://a.example.org/1\n  out\n", 2, "option=value"),
    "no XML": ("metalink", "<metalink><file>", 1, "XML"),
    "another document": ("metalink", "<html/>", 1, "metalink"),
    "an entity": ("metalink", '<!DOCTYPE x [<!ENTITY a "b">]><metalink/>', 1, "entity"),
    "a Metalink without files": ("metalink", "<metalink/>", 0, "<file>"),
    "a file without a URL": ("metalink", '<metalink><file name="x"/></metalink>', 0, "http://"),
    "a line without a digest": ("sha256sums", f"{SHA256}  a\nhello\n", 2, "digest"),
    "a digest of no known length": ("sha256sums", f"{'0' * 50}  a\n", 1, "50"),
    "no JSON": ("stac", "{\n,", 2, "JSON"),
    "another JSON": ("stac", "[]", 0, "features"),
    "an empty result": ("odata", "{}", 0, "value"),
    "a product without an id": ("odata", '{"value": [{"Name": "x"}]}', 0, "Id"),
    "a password in a URL": ("urls", "https://jo:hushhush@a.example.org/1\n", 1, "account"),
}


@pytest.mark.parametrize("case", BAD)
def test_each_problem_is_reported_with_its_line(case):
    form, text, line, expected = BAD[case]
    found = convert(form, text, base_url=BASE if form == "sha256sums" else None)
    assert [problem.line for problem in found.problems][:1] == [line]
    assert expected in " ".join(problem.message for problem in found.problems)
    assert "hushhush" not in str(found.problems)


def test_names_without_a_base_url_are_refused_with_what_to_do():
    assert "--base-url" in convert("sha256sums", f"{SHA256}  a\n").problems[0].message


def test_all_problems_are_reported_at_once():
    assert len(convert("urls", "one\ntwo\nthree\n").problems) == 3


@pytest.mark.parametrize("form", ["urls", "aria2"])
def test_a_duplicate_product_is_added_once_with_a_warning(form):
    found = convert(form, "https://a.example.org/1\nhttps://a.example.org/1\n")
    assert (len(found.products), len(found.warnings)) == (1, 1)


def test_a_header_that_is_a_secret_is_left_out_and_never_quoted():
    found = convert("aria2", "https://a.example.org/1\n  header=Authorization: Bearer hushhush\n")
    assert found.products[0].entry() == "https://a.example.org/1"
    assert "Authorization" in found.warnings[0]
    assert "hushhush" not in str(found)


@pytest.mark.parametrize(
    ("digest", "expected"),
    [
        (f"d50110{MD5}", f"md5:{MD5}"),
        (f"1220{SHA256.upper()}", f"sha256:{SHA256}"),
        (f"1e20{SHA256}", f"blake3:{SHA256}"),
        (f"1220{SHA256[2:]}", None),
        (f"9999{SHA256}", None),
        ("", None),
    ],
)
def test_a_multihash_is_a_kind_a_length_and_a_digest(digest, expected):
    assert from_multihash(digest) == expected


@pytest.mark.parametrize("form", FORMATS)
@given(text=st.text(max_size=200))
def test_no_input_text_raises_an_exception(form, text):
    found = convert(form, text, base_url=BASE)
    assert all(problem.message for problem in found.problems)
