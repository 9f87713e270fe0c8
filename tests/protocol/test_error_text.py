"""The archive's own words: from bodies of every usual form, on one line, without secrets."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.protocol.error_text import MOST_CHARS, error_text, mask, request_id

EULA = {"error": "EULA not accepted", "detail": "Please accept the licence at https://x.org/eula"}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (EULA, "EULA not accepted: Please accept the licence at https://x.org/eula"),
        ({"message": "Quota exceeded for today"}, "Quota exceeded for today"),
        ({"Message": "Quota exceeded for today."}, "Quota exceeded for today"),
        ({"detail": "Moved to cold storage", "request": 4}, "Moved to cold storage"),
        ({"type": "about:blank", "title": "Gone cold", "status": 404, "detail": "on tape"}, "Gone cold: on tape"),
        ({"error": {"code": "QuotaExceeded", "message": "12 of 12 TB"}}, "QuotaExceeded: 12 of 12 TB"),
        ({"error": {"code": "X", "message": {"lang": "en", "value": "no such product"}}}, "X: no such product"),
        ({"errors": [{"title": "Bad", "detail": "one"}, {"detail": "two"}]}, "Bad: one: two"),
        ({"errors": ["embargo until 2027"]}, "embargo until 2027"),
        ({"fault": {"faultstring": "Spike arrest"}}, "Spike arrest"),
        ({"detail": [{"loc": ["path"], "msg": "field required"}]}, "field required"),
        ({"error": "invalid_grant", "error_description": "Session not active"}, "invalid_grant: Session not active"),
        ({"errorMessage": "offline", "error": True}, "offline"),
        ({"status": "product is offline"}, "product is offline"),
        (["no access"], "no access"),
        ("no access", "no access"),
        ({"code": 403, "message": "Forbidden"}, "Forbidden"),
        ({"error": "not found", "message": "Not found: a.zip"}, "Not found: a.zip"),
        ({}, ""),
        ({"a": None}, ""),
    ],
)
def test_json(document, expected):
    text = json.dumps(document)
    assert error_text(text.encode(), "application/json") == expected
    assert error_text(json.dumps(document, indent=3).encode("utf-8-sig"), "application/problem+json") == expected


S3 = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>Request has expired</Message><RequestId>4</RequestId></Error>'
OWS = b"""<ows:ExceptionReport xmlns:ows="http://www.opengis.net/ows/2.0" version="2.0.0"><ows:Exception exceptionCode="NoApplicableCode">
<ows:ExceptionText>Coverage is <![CDATA[too <large>]]></ows:ExceptionText></ows:Exception></ows:ExceptionReport>"""
WMS = b'<ServiceExceptionReport><ServiceException code="LayerNotDefined">no layer &amp; no map</ServiceException></ServiceExceptionReport>'
SOAP = b"<s:Envelope><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>Quota</faultstring></s:Fault></s:Body></s:Envelope>"
ODATA = b'<m:error xmlns:m="u"><m:code>12</m:code><m:message xml:lang="en">Product is offline</m:message></m:error>'


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (S3, "application/xml", "AccessDenied: Request has expired"),
        (S3[:70], "application/xml", "AccessDenied: Request"),
        (OWS, "text/xml", "NoApplicableCode: Coverage is too <large>"),
        (WMS, "", "LayerNotDefined: no layer & no map"),
        (SOAP, "text/xml", "s:Client: Quota"),
        (ODATA, "application/xml", "12: Product is offline"),
        (b"<problem>disk <b>gone</b></problem>", "application/xml", "disk gone"),
        (b"moved to cold storage\n", "text/plain", "moved to cold storage"),
        (b"moved\r\nto\tcold\x1b[31m storage", "", "moved to cold [31m storage"),
        ("g\xe9n\xe9r\xe9".encode("latin-1"), "text/plain; charset=ISO-8859-1", "g\xe9n\xe9r\xe9"),
        ("g\xe9n\xe9r\xe9 encore une".encode("latin-1"), "text/plain", "g\xe9n\xe9r\xe9 encore une"),
        ("\u2192 offline".encode("utf-16"), "text/plain", "\u2192 offline"),
        ("offline \u2192".encode()[:-1], "text/plain", "offline"),
        (b"x", "text/plain; charset=nonsense", "x"),
        (b"\x89PNG\r\n\x1a\n\0\0", "image/png", ""),
        (b"", "text/plain", ""),
        (gzip.compress(b'{"message": "offline"}', mtime=0), "application/json", "offline"),
        (gzip.compress(b'{"message": "offline", "more": "' + bytes(range(32, 127)), mtime=0)[:60], "", "offline"),
        (b"\x1f\x8bnonsense", "", ""),
        (b" \n", "", ""),
        (b'{"error": "cut off", "detail": "here it en', "application/json", "cut off: here it en"),
        (
            b"<html><head><title>Archive closed for the night</title></head><h1>x</h1>",
            "text/html",
            "Archive closed for the night",
        ),
        (b"<html><head><title>404 Not Found</title></head><body><center><h1>404 Not Found</h1>nginx", "text/html", ""),
        (b"<html><title>Error</title><h1>Data are embargoed</h1>", "text/html", "Data are embargoed"),
        (b"<p>No <b>more</b> today</p><script>alert(1)</script>", "text/html", "No more today"),
        (b"{'not': json", "", "{'not': json"),
    ],
)
def test_other_bodies(body, kind, expected):
    assert error_text(body, kind) == expected


def test_the_text_is_short():
    text = error_text(b"no more " * 100, "text/plain")
    assert len(text) <= MOST_CHARS
    assert text.endswith("…")


JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl"
HEX = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"token {JWT} expired", "token *** expired"),
        (f"Bearer {JWT}", "Bearer ***"),
        ("Authorization: Bearer abc123", "Authorization: Bearer ***"),
        ("Basic am86Z2VoZWlt1", "Basic ***"),
        ("password=geheim wrong", "password=*** wrong"),
        ('"password": "geheim"', '"password": "***"'),
        ("password: hunter2", "password: ***"),
        ("api_key=k1", "api_key=***"),
        ("X-Amz-Signature=abcd", "X-Amz-Signature=***"),
        ("access_token%3Dabc", "access_token%3D***"),
        ("jsessionid=12", "jsessionid=***"),
        (f"signature {HEX} is wrong", "signature *** is wrong"),
        ("id 123e4567-e89b-12d3-a456-426614174000", "id ***"),
        ("see https://jo:pw@x.org/a", "see https://***@x.org/a"),
        ("see https://x.org/a?X-Amz-Signature=12&b=c.", "see https://x.org/a?***"),
        (f"see https://x.org/t/{HEX}/a", "see https://x.org/t/***/a"),
        ("GET /a?token=x refused", "GET /a?*** refused"),
        ("key AKIAIOSFODNN7EXAMPLEAKIAIO", "key ***"),
        ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "***"),
    ],
)
def test_secrets_are_masked(text, expected):
    assert mask(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "accept the licence at https://x.org/eula/sentinel-data/terms-of-use",
        "approve https://urs.earthdata.nasa.gov/approve_app?client_id=e2WVk8Pw6weeLUKZYOxvTQ first",
        "S2A_MSIL1C_20230101T101010_N0509_R022_T32TQM_20230101T120000.SAFE is offline",
        "MOD09GA.A2020001.h18v04.061.2020310185743.hdf moved",
        "/eodata/Sentinel-2/MSI/L1C/2023/01/01 is not mounted",
        "Bearer authentication is required",
        "the token has expired",
        "write to help-desk@archive.example.org",
        "password: wrong",
        "Quota exceeded: 12 TB in 30 days",
    ],
)
def test_what_a_user_needs_is_kept(text):
    assert mask(text) == text


@pytest.mark.parametrize("form", ["p w+&=%", "p%20w%2B%26%3D%25", "p+w%2B%26%3D%25", "p w+&amp;=%", "P W+&=%"])
def test_what_the_request_carried_is_masked_in_any_form(form):
    assert (
        error_text(f"no user with <{form}> here".encode(), "text/plain", secrets=["p w+&=%"])
        == "no user with <***> here"
    )


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Request-Id": "4f-1"}, "x-request-id=4f-1"),
        ({"X-Amz-Request-Id": "AB", "cf-ray": "1"}, "x-amz-request-id=AB"),
        ({"CF-RAY": "8a-FRA"}, "cf-ray=8a-FRA"),
        ({"X-Correlation-ID": "a b"}, ""),
        ({"X-Request-Id": "x" * 500}, ""),
        ({}, ""),
    ],
)
def test_the_id_of_a_request(headers, expected):
    assert request_id(headers) == expected


@given(st.binary(max_size=600), st.sampled_from(["", "application/json", "text/html", "text/plain; charset=utf-16"]))
def test_any_body_gives_one_short_printable_line(body, kind):
    text = error_text(body, kind)
    assert len(text) <= MOST_CHARS
    assert text.isprintable()


@given(st.recursive(st.text() | st.none() | st.integers(), lambda e: st.lists(e) | st.dictionaries(st.text(), e)))
def test_any_json_gives_one_short_printable_line(document):
    text = error_text(json.dumps(document).encode(), "application/json")
    assert len(text) <= MOST_CHARS
    assert text.isprintable()
