"""The check of a product's first bytes: a table of file types, a table of error pages, and properties."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkdl.content.error_pages import HEAD_SIZE, html_or_json_error, objection
from bulkdl.content.signatures import _FILE_TYPES

HDF5 = b"\x89HDF\r\n\x1a\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in to CREODIAS</title></head><body>Please log in</body></html>"
S3_ERROR = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>Denied</Message></Error>'
OGC_ERROR = b'<?xml version="1.0"?><!-- no --><ogc:ServiceExceptionReport version="1.3.0"/>'
JSON_ERROR = b'{"detail": "Max session number 4 exceeded.", "code": "DAT-ZIP-100"}'


def zip_bytes() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("a", "a")
    return held.getvalue()


def tar_bytes(kind: int = tarfile.PAX_FORMAT) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=kind) as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return held.getvalue()


def v7_tar() -> bytes:
    """Return a V7 tar: without magic bytes, with the checksum recomputed."""
    block = bytearray(tar_bytes(tarfile.USTAR_FORMAT)[:512])
    block[257:265] = bytes(8)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def asked(name: str, head: bytes, content_type: str = "", size: int | None = None, accept: str | None = None):
    return objection(name=name, head=head, content_type=content_type, size=size, requested_accept=accept)


GOOD = [
    ("S2A.SAFE.zip", zip_bytes()),
    ("empty.zip", b"PK\x05\x06" + bytes(18)),
    ("view.kmz", zip_bytes()),
    ("a.tif", b"II*\0\x08\0\0\0"),
    ("a.TIFF", b"MM\0*\0\0\0\x08"),
    ("big.tif", b"II+\0\x08\0\0\0"),
    ("a.nc", b"CDF\x01"),
    ("a.nc", b"CDF\x05"),
    ("a.nc", HDF5),
    ("a.nc4", HDF5),
    ("a.h5", bytes(512) + HDF5),
    ("a.he5", bytes(2048) + HDF5),
    ("a.hdf", b"\x0e\x03\x13\x01"),
    ("a.hdf", HDF5),
    ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("a.jp2", b"\xff\x4f\xff\x51"),
    ("a.tar.gz", b"\x1f\x8b\x08"),
    ("a.tgz", b"\x1f\x8b\x08"),
    ("a.tar", tar_bytes()),
    ("gnu.tar", tar_bytes(tarfile.GNU_FORMAT)),
    ("v7.tar", v7_tar()),
    ("none.tar", bytes(1024)),
    ("packed.tar", b"\x1f\x8b\x08"),
    ("a.bz2", b"BZh9"),
    ("a.xz", b"\xfd7zXZ\0"),
    ("a.zst", b"\x28\xb5\x2f\xfd"),
    ("a.7z", b"7z\xbc\xaf\x27\x1c"),
    ("a.png", b"\x89PNG\r\n\x1a\n"),
    ("a.jpg", b"\xff\xd8\xff\xe0"),
    ("a.pdf", b"%PDF-1.7"),
    ("a.grib2", b"GRIB\0\0\0\x02"),
    ("a.grb", b"\x01\r\r\n001\r\r\nHTXE85 ECMF\r\r\nGRIB\0\0\0\x01"),
    ("a.json", b'\xef\xbb\xbf\n {"type": "Feature"}'),
    ("n.json", b"-1.5"),
    ("error.json", JSON_ERROR),
    ("a.xml", S3_ERROR),
    ("a.gml", b"<gml:FeatureCollection/>"),
    ("utf16.xml", '<?xml version="1.0"?><a/>'.encode("utf-16")),
    ("index.html", PAGE),
    ("a.csv", b"id;name\n"),
    ("a.bin", b"\x00\x01\x02"),
    ("README", b"plain"),
    ("$value", b"PK\x03\x04"),
    ("folder.zip/product", b"\xde\xad"),
    (".zip", b"a hidden file, not a suffix"),
]


@pytest.mark.parametrize(("name", "head"), GOOD, ids=[f"{n}-{h[:4]!r}" for n, h in GOOD])
@pytest.mark.parametrize("content_type", ["", "application/octet-stream"])
def test_a_product_that_begins_like_its_name_is_accepted(name, head, content_type):
    assert asked(name, head, content_type, len(head)) is None
    assert asked(name, head, content_type, None) is None


@pytest.mark.parametrize("name", sorted({f"a.{suffix}" for suffix, k in _FILE_TYPES.items() if k.label != "text"}))
def test_other_bytes_under_a_known_suffix_are_refused(name):
    said = asked(name, b"\x07nothing of the kind" + bytes(4096), "application/octet-stream", None)
    assert said is not None
    assert "does not begin like" in said


BINARY = ["a.zip", "a.tif", "a.nc", "a.h5", "a.hdf", "a.jp2", "a.tgz", "a.tar", "a.grib", "a.pdf", "a.png"]


@pytest.mark.parametrize("name", [*BINARY, "a.json", "product", "a.bin", "a.SAFE"])
@pytest.mark.parametrize("front", [b"", b"\xef\xbb\xbf", b"\r\n \t", b"<!-- nginx -->", b"<?xml version='1.0'?>\n"])
@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/zip", ""])
def test_a_login_page_never_becomes_a_product(name, front, content_type):
    said = asked(name, front + PAGE, content_type)
    assert said is not None
    assert "HTML page" in said
    assert "Sign in to CREODIAS" in said


@pytest.mark.parametrize("name", [*BINARY, "product"])
@pytest.mark.parametrize("body", [S3_ERROR, OGC_ERROR])
def test_an_xml_error_never_becomes_a_product(name, body):
    said = asked(name, body, "application/xml")
    assert said is not None
    assert "XML error" in said


@pytest.mark.parametrize("name", [*BINARY, "product", "a.bin"])
@pytest.mark.parametrize("content_type", ["application/json", "application/problem+json", "text/html"])
def test_a_json_error_never_becomes_a_product(name, content_type):
    said = asked(name, JSON_ERROR, content_type, len(JSON_ERROR))
    assert said is not None
    assert "JSON error" in said
    assert "Max session number" in said


@pytest.mark.parametrize(
    "head", [b'[{"error": "gone"}]', b'{"error": {"code": 1, "long": "' + b"x" * 5000, b' {"Message":"no"}']
)
def test_json_errors_are_found_in_lists_truncated_and_in_capitals(head):
    assert asked("product", head, "application/json") is not None


@pytest.mark.parametrize(
    ("head", "content_type", "size"),
    [
        (b'{"type": "Feature", "properties": {}, "message": "hi"}', "application/geo+json", None),
        (b'{"stac_version": "1.0.0", "id": "x"}', "application/json", None),
        (b"[1, 2, 3]", "application/json", None),
        (b"[]", "application/json", 2),
        (b"[" * 60000, "application/json", None),
        (JSON_ERROR, "application/json", 1_000_000),
        (JSON_ERROR, "application/octet-stream", None),
        (b"\0\x01\x02<html>", "text/html", None),
    ],
)
def test_a_body_that_only_resembles_an_error_is_accepted_under_an_unknown_name(head, content_type, size):
    assert asked("product", head, content_type, size) is None


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.tsv", "a.md", "a.log", "a.dat", "a", "a.json", "a.nc", "a.xml"])
def test_a_declared_type_alone_is_no_reason(name):
    bodies = {"a.json": b'{"a": 1}', "a.nc": b"CDF\x01" + bytes(50), "a.xml": b"<?xml version='1.0'?><gml/>"}
    assert asked(name, bodies.get(name, b"time,value\n1,2\n"), "text/html; charset=UTF-8") is None


@pytest.mark.parametrize("name", ["works", "a.ndjson", "a.jsonl", "a.json", "a.geojson", "a.dat"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"status":"ok","message-type":"work-list","message-version":"1.0.0","message":{"total-results":1}}',
        b'{"status": "ok", "message": {"items": []}}',
        b'{"status": "success", "message": "12 granules"}',
        b'{"code": 0, "message": "ok", "rows": [1, 2]}',
        b'{"code": 200, "message": "fine"}',
        b'{"code": "B04", "gain": 1.5}',
        b'{"code": "B04", "message": "x"}\n{"code": "B08", "message": "y"}\n',
        b'{"errors": [], "data": [1]}',
        b'{"errors": [], "count": 0}',
        b'{"error": null, "result": 17}',
        b'{"error": 0.25, "estimate": 17.5}',
        b'{"errors": 0, "warnings": 3}',
        b'{"detail": {"a": 1}}',
        b'{"message": {"hello": "world"}}',
        b'{"data": {"a": 1}, "errors": [{"message": "partial"}]}',
        b'[{"code": 1}, {"code": 2}]',
        b'{"error": "mean error of the model", "b": 1, "c": 2, "d": 3, "e": 4}',
        b'"text"',
        b"17",
    ],
)
def test_a_json_product_that_uses_words_of_errors_is_accepted(name, body):
    assert asked(name, body, "application/json", len(body)) is None
    assert asked(name, body, "application/json; charset=utf-8") is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": "invalid_token", "error_description": "expired"}',
        b'{"error": {"code": 403, "message": "Forbidden"}}',
        b'{"timestamp": 1, "status": 404, "error": "Not Found", "message": "No message", "path": "/x"}',
        b'{"code": 401, "message": "Unauthorized"}',
        b'{"detail": "Authentication credentials were not provided."}',
        b'{"message": "Forbidden"}',
        b'{"success": false, "message": "quota exceeded"}',
        b'{"errors": [{"status": "404", "title": "Not found"}]}',
        b'{"error": true, "reason": "no such product"}',
        b'{"status": 500}',
        b'[{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}]',
    ],
)
@pytest.mark.parametrize("name", ["works", "a.zip", "a.dat", "a.nc"])
def test_a_json_object_that_says_nothing_but_an_error_is_refused(name, body):
    assert asked(name, body, "application/json", len(body)) is not None


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.zip", b"\n" + zip_bytes()),
        ("a.zip", bytes(3000) + zip_bytes()),
        ("a.zip", b"#!/usr/bin/env python3\n" + zip_bytes()),
        ("a.zip", b"MZ" + bytes(2000)),
        ("a.kmz", b"\x7fELF" + bytes(100)),
        ("a.zip", b"PK\x05\x06" + bytes(18)),
    ],
)
def test_a_zip_archive_with_bytes_in_front_of_it_is_accepted(name, head):
    assert asked(name, head, "application/zip") is None


@pytest.mark.parametrize("name", ["S5P_L2.nc", "a.tif", "a.json", "a.csv", "a.zip"])
@pytest.mark.parametrize("head", [zip_bytes(), b"\x89HDF\r\n\x1a\n" + bytes(100), b"\x1f\x8b\x08" + bytes(50)])
def test_another_data_type_than_a_guessed_name_says_is_accepted(name, head):
    known = {"name": name, "head": head, "content_type": "application/octet-stream", "size": None}
    assert objection(**known, name_is_guess=True) is None
    assert objection(**known | {"head": PAGE, "name": "a.nc"}, name_is_guess=True) is not None
    assert objection(**known | {"head": b"garbage", "name": "a.nc", "size": 7}, name_is_guess=True) is not None


def test_an_element_of_html_that_the_server_calls_html_is_refused_under_an_unknown_name():
    assert "HTML" in asked("product", b"<p>Session expired</p>", "text/html")


@pytest.mark.parametrize(
    ("name", "head"),
    [("a.zip", zip_bytes()), ("a.pdf", b"%PDF-1.7\n% text"), ("a.json", b"12"), ("a.json", b'{"a":1}')],
)
def test_a_product_of_the_right_type_is_accepted_with_any_content_type(name, head):
    assert asked(name, head, "text/html") is None


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.xml", "a.gml"])
def test_a_page_in_place_of_text_or_xml_is_refused_when_the_server_says_that_it_is_html(name):
    assert asked(name, PAGE, "text/html") is not None
    assert asked(name, PAGE, "text/plain") is None


def test_html_is_accepted_if_the_accept_header_asks_for_it():
    assert asked("page", PAGE, "text/html", accept="text/html,*/*") is None
    assert asked("page", JSON_ERROR, "application/json", accept="application/json") is None
    assert asked("page", PAGE, "text/html", accept="*/*") is not None
    assert asked("a.zip", PAGE, "text/html", accept="text/html") is not None


@pytest.mark.parametrize(
    ("name", "fine"), [("a.zip", False), ("a.tif", False), ("a.txt", True), ("a.bin", True), ("x", True)]
)
def test_an_empty_body_is_accepted_only_if_its_type_or_the_manifest_allows_it(name, fine):
    assert (asked(name, b"") is None) is fine
    assert asked(name, b"", size=0) is None


@pytest.mark.parametrize(
    ("name", "head"), [("a.zip", b"P"), ("a.h5", b"\0" * 600), ("a.tar", b"a" * 100), ("a.grib", b"x" * 99)]
)
def test_too_few_bytes_to_tell_are_refused_only_when_they_are_the_whole_file(name, head):
    assert asked(name, head, size=None) is None
    assert asked(name, head, size=100_000) is None
    assert asked(name, head, size=len(head)) is not None


@pytest.mark.parametrize(
    ("body", "secret"),
    [
        (b"<html>see https://x.example/a?token=abc123&x=1 now", "abc123"),
        (b"<html>https://me:hunter2@x.example/a", "hunter2"),
        (b"<html>Authorization: Bearer abc.def", "abc.def"),
        (b"<html>Basic dXNlcjpw", "dXNlcjpw"),
        (b"<html>token eyJhbGciOiJIUzI1NiJ9.eyJz", "eyJ"),
        (b'<html>{"access_token": "s3cr3t"}', "s3cr3t"),
        (b"<html>password = hunter2", "hunter2"),
        (b"<html>password%3Dhunter2", "hunter2"),
        (b"<html>key&#61;hunter2", "hunter2"),
        (b"<html>passw\xe2\x80\x8bord: hunter2", "hunter2"),
        (b"<html>0123456789abcdef0123456789abcdef", "0123456789"),
        (b"<html><script>var t = 'hunter2'</script>Hi", "hunter2"),
        (b"<html><a href='/x?t=hunter2'>Hi</a><input value=hunter2", "hunter2"),
    ],
)
def test_the_quoted_text_of_a_page_contains_no_secret(body, secret):
    said = asked("a.zip", body, "text/html")
    assert said is not None
    assert secret not in said


@given(st.binary(max_size=3000), st.sampled_from([*_FILE_TYPES, "", "bin"]), st.text(max_size=20))
@example(b"\xff\xfe<", "xml", "text/html")
@example(b'{"a": ' + b"9" * 5000 + b"}", "bin", "application/json")
def test_any_bytes_give_no_exception_and_a_short_printable_sentence(head, suffix, content_type):
    for kind in (content_type, "text/html", "application/json"):
        said = asked(f"a.{suffix}", head, kind, None)
        assert said is None or (said.isprintable() and len(said) < 200)
        html_or_json_error(head, kind)


@given(st.binary(min_size=1, max_size=600), st.sampled_from(sorted(_FILE_TYPES)))
def test_a_body_accepted_as_a_whole_is_accepted_by_each_of_its_beginnings(body, suffix):
    """A transfer with fewer bytes never refuses a product that the check of the whole file accepts."""
    if asked(f"a.{suffix}", body, size=len(body)) is None:
        for cut in {1, 2, 5, len(body) // 2 or 1}:
            assert asked(f"a.{suffix}", body[:cut], size=len(body)) is None


@given(st.sampled_from([g for g in GOOD if g[0] != "packed.tar"]), st.binary(max_size=200), st.integers(1, 60))
def test_a_good_beginning_is_accepted_however_it_is_cut(good, more, cut):
    name, head = good
    if not name.endswith((".xml", ".json")):
        assert asked(name, (head + more)[:cut], size=10_000) is None


@pytest.mark.parametrize(
    ("head", "content_type", "expected"),
    [
        (PAGE, "", True),
        (S3_ERROR, "application/xml", True),
        (JSON_ERROR, "application/json", True),
        (JSON_ERROR, "application/octet-stream", False),
        (zip_bytes(), "text/html", False),
        (b"", "text/html", False),
        (b"\x00" * 100, "application/json", False),
    ],
)
def test_an_error_page_is_detected_before_anything_is_written(head, content_type, expected):
    assert html_or_json_error(head, content_type) is expected


def test_a_page_of_nothing_but_comments_is_read_in_linear_time():
    assert asked("product", (b"<!---->" * HEAD_SIZE)[:HEAD_SIZE], "application/octet-stream") is None
