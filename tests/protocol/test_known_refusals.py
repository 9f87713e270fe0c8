"""Bot checks, expired links, client certificates and http on a port for https, by real answers."""

from __future__ import annotations

import pytest

from bulkdl.core.urls import Url
from bulkdl.protocol.known_refusals import known_refusal, link_expiry
from bulkdl.protocol.provider_errors import Answer, ErrorAction

NOW = 1_750_000_000.0  # 2025-06-15 15:06:40 UTC
AMZ = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date={}&X-Amz-Expires={}&X-Amz-SignedHeaders=host&X-Amz-Signature=ab"
GOOG = "X-Goog-Algorithm=GOOG4&X-Goog-Date={}&X-Goog-Expires={}&X-Goog-Signature=ab"
S3_WORDS = (
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message>"
    b"<X-Amz-Expires>60</X-Amz-Expires><Expires>2025-06-15T00:01:00Z</Expires></Error>"
)
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
AZURE_WORDS = (
    b"<Error><Code>AuthenticationFailed</Code><AuthenticationErrorDetail>Signature not valid in the specified time frame:"
    b" Start [..] - Expiry [..] - Current [..]</AuthenticationErrorDetail></Error>"
)
GOOG_WORDS = b"<Error><Code>ExpiredToken</Code><Message>Invalid argument.</Message><Details>The provided token has expired.</Details></Error>"


def meaning(query="", status=403, body=b"", headers=None, *, asked=None, host="s3.example.org"):
    url = Url(f"https://{host}/b/x.bin" + (f"?{query}" if query else ""))
    answer = Answer(status=status, body=body, headers=headers or {})
    return known_refusal(url, answer, asked=asked or url, now=NOW)


@pytest.mark.parametrize(
    ("query", "status", "body", "until"),
    [
        (AMZ.format("20250615T000000Z", 60), 403, S3_WORDS, "2025-06-15 00:01"),
        (AMZ.format("20250615T000000Z", 60).lower(), 403, DENIED, "2025-06-15 00:01"),
        (AMZ.format("20250615T000000Z", 60), 401, b"", "2025-06-15 00:01"),
        (AMZ.format("20250615T150000Z", 3600), 403, S3_WORDS, ""),  # this machine's clock is slow
        (AMZ.format("nonsense", "x"), 403, S3_WORDS, ""),
        ("", 403, S3_WORDS.replace(b"Request", b"x"), None),
        ("AWSAccessKeyId=a&Expires=1749990000&Signature=b", 403, DENIED, "2025-06-15 12:20"),
        ("Expires=1749990000&Signature=b&Key-Pair-Id=c", 403, DENIED, "2025-06-15 12:20"),
        ("sv=2022&sr=b&se=2025-06-14T10:00:00Z&sp=r&sig=ab", 403, AZURE_WORDS, "2025-06-14 10:00"),
        ("se=2025-06-14T10%3A00Z&sig=ab", 401, b"", "2025-06-14 10:00"),
        ("se=2025-06-14&sig=ab", 403, AZURE_WORDS, "2025-06-14 00:00"),
        (GOOG.format("20250614T000000Z", 3600), 400, GOOG_WORDS, "2025-06-14 01:00"),
        ("GoogleAccessId=a&Expires=1749990000&Signature=b", 400, GOOG_WORDS, "2025-06-15 12:20"),
        ("x-oss-date=20250614T000000Z&x-oss-expires=60&x-oss-signature=a", 403, b"", "2025-06-14 00:01"),
    ],
)
def test_an_expired_link_is_named_with_its_end(query, status, body, until):
    found = meaning(query, status, body)
    if until is None:
        assert found is None
        return
    assert found is not None
    assert found.action is ErrorAction.FAIL
    assert found.text == "the link has expired" + (f" (it was valid until {until} UTC)" if until else "")
    assert "new link" in found.hint


@pytest.mark.parametrize(
    ("query", "status", "body"),
    [
        (AMZ.format("20250615T150000Z", 3600), 403, DENIED),
        (AMZ.format("20250615T000000Z", 60), 404, b""),
        (AMZ.format("20250615T000000Z", 60), 503, S3_WORDS),
        ("se=2026-06-14T10:00:00Z&sig=ab", 403, DENIED),
        ("id=1&expires=1749990000", 403, b""),
        ("", 401, b"token has expired"),
        ("", 403, b""),
    ],
)
def test_other_refusals_are_no_expired_links(query, status, body):
    assert meaning(query, status, body) is None


def test_the_archive_is_asked_for_a_new_link():
    found = meaning(AMZ.format("20250615T000000Z", 60), 403, S3_WORDS, asked=Url("https://archive.example.org/x"))
    assert found is not None
    assert (found.action, found.wait) == (ErrorAction.WAIT, None)
    assert "archive.example.org" in found.text


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (202, {"x-amzn-waf-action": "challenge"}),
        (405, {"x-amzn-waf-action": "captcha"}),
        (403, {"x-amzn-waf-action": "challenge"}),
        (403, {"cf-mitigated": "challenge"}),
        (503, {"cf-mitigated": "challenge"}),
        (429, {"cf-mitigated": "challenge"}),
    ],
)
def test_a_bot_check_fails_the_product(status, headers):
    found = meaning("", status, b"<html>", headers)
    assert found is not None
    assert found.action is ErrorAction.FAIL
    assert "bot check" in found.text


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b"<title>400 No required SSL certificate was sent</title>", "client certificate"),
        (403, b"Client certificate required", "client certificate"),
        (496, b"", "client certificate"),
        (400, b"<center>The plain HTTP request was sent to HTTPS port</center>", "speaks https"),
        (400, b"You're speaking plain HTTP to an SSL-enabled server port.", "speaks https"),
        (400, b"Client sent an HTTP request to an HTTPS server.\n", "speaks https"),
        (497, b"", "speaks https"),
    ],
)
def test_certificates_and_schemes_are_named(status, body, words):
    found = meaning("", status, body)
    assert found is not None
    assert found.action is ErrorAction.FAIL
    assert words in found.text


@pytest.mark.parametrize("body", [b"", b"bad request", b"certificate"])
def test_an_ordinary_400_has_no_meaning(body):
    assert meaning("", 400, body) is None


@pytest.mark.parametrize("query", ["", "a=b", "x-amz-date=1", "se=x&sig=", "Expires=99999999999999&Signature=a"])
def test_odd_queries_have_no_end(query):
    assert link_expiry(query)[1] is None
