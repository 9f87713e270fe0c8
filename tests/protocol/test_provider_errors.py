"""Meaning of error responses: a table by provider."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core.models import FailureKind
from bulkdl.protocol.provider_errors import MAX_BODY, Answer, ErrorAction, interpret, load, names, parse

NOW = 1_750_000_000.0
MAX_SESSIONS = "Max session number exceeded"


def meaning(name, status, body=b"", **headers):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {key.replace("_", "-"): value for key, value in headers.items()}
    return interpret(name, Answer(status=status, headers=fields, body=raw), now=NOW)


def zip_error(number, message="x"):
    return {"detail": {"code": f"DAT-ZIP-{number}", "message": message}, "request_id": "1"}


@pytest.mark.parametrize(
    ("name", "status", "body", "headers", "action", "wait"),
    [
        ("cdse", 429, zip_error(100), {}, ErrorAction.FEWER, 10),
        ("cdse", 429, zip_error(100), {"Retry_After": "30"}, ErrorAction.FEWER, 30),
        ("cdse", 429, {"code": "DAT-ZIP-100"}, {}, ErrorAction.FEWER, 10),
        ("cdse", 422, zip_error(104), {}, ErrorAction.FAIL, None),
        ("cdse", 401, zip_error(109), {}, ErrorAction.REFRESH, None),
        ("cdse", 422, zip_error(111), {}, ErrorAction.FAIL, None),
        ("cdse", 401, zip_error(604), {}, ErrorAction.FAIL, None),
        ("cdse", 401, zip_error(609), {}, ErrorAction.STOP, None),
        ("creodias", 401, zip_error(109), {}, ErrorAction.REFRESH, None),
        ("creodias", 429, MAX_SESSIONS.encode(), {}, ErrorAction.FEWER, 10),
        ("eumetsat", 429, {"retryAfter": int((NOW + 90) * 1000)}, {}, ErrorAction.WAIT, 90),
        ("eumetsat", 429, {"retryAfter": str(int((NOW + 90) * 1000))}, {}, ErrorAction.WAIT, 90),
        ("eumetsat", 429, {"retryAfter": int((NOW - 90) * 1000)}, {}, ErrorAction.WAIT, 0),
        ("eumetsat", 429, {"retryAfter": "soon"}, {"Retry_After": "7"}, ErrorAction.WAIT, 7),
        ("eumetsat", 429, b"<html>", {}, ErrorAction.WAIT, 60),
        ("wekeo", 429, b"", {"X_Quota_Hourly_Remaining": "0", "X_Quota_Hourly_Reset": "1200"}, ErrorAction.WAIT, 1200),
        ("wekeo", 403, b"", {"x_quota_remaining": "0", "x_quota_reset": f"{NOW + 60:.0f}"}, ErrorAction.WAIT, 60),
        ("wekeo", 429, b"", {"X_Quota_Remaining": "0"}, ErrorAction.WAIT, 900),
        ("wekeo", 429, b"", {"X_Quota_Remaining": "12"}, ErrorAction.WAIT, 60),
        ("keycloak", 401, {"error": "invalid_token", "error_description": "Token verification failed"}, {}, ErrorAction.REFRESH, None),
        ("keycloak", 401, {"error": "invalid_grant", "error_description": "Session not active"}, {}, ErrorAction.LOGIN, None),
        ("terrascope", 403, {"error": "invalid_token"}, {}, ErrorAction.REFRESH, None),
        (None, 403, {"message": "JWT expired at 2025-06-15"}, {}, ErrorAction.REFRESH, None),
        ("unheard of", 401, b"Your token has expired.", {}, ErrorAction.REFRESH, None),
        (None, 403, b"The account is suspended", {}, ErrorAction.STOP, None),
        (None, 429, b"", {}, ErrorAction.FEWER, None),
        (None, 429, {"retryAfter": 20}, {}, ErrorAction.FEWER, 20),
        (None, 429, b"Quota exceeded", {}, ErrorAction.WAIT, 60),
        (None, 503, b"Too many connections", {}, ErrorAction.FEWER, 10),
    ],
)  # fmt: skip
def test_a_response_has_the_meaning_that_its_provider_gives_it(name, status, body, headers, action, wait):
    interpretation = meaning(name, status, body, **headers)
    assert (interpretation.action, interpretation.wait) == (action, wait)
    assert interpretation.text


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        (None, 401, b""),
        (None, 403, b"<html>Forbidden</html>"),
        ("cdse", 403, b""),
        ("cdse", 401, zip_error(999)),
        ("cdse", 404, zip_error(109)),
        ("eumetsat", 500, {"retryAfter": 1}),
        ("wekeo", 403, b""),
        (None, 200, b"token expired"),
        (None, 403, b"You have no expiring permission here"),
    ],
)
def test_without_a_matching_rule_the_status_decides(name, status, body):
    assert meaning(name, status, body) is None


def test_a_failed_product_has_kind_code_and_hint():
    interpretation = meaning("cdse", 401, zip_error(604))
    assert (interpretation.kind, interpretation.code) == (FailureKind.AUTH, "DAT-ZIP-604")
    assert "hosts" in interpretation.hint


def test_only_the_beginning_of_a_body_is_read():
    assert meaning(None, 401, b" " * MAX_BODY + b"token expired") is None


def test_text_from_the_server_is_not_repeated(canary):
    interpretation = meaning("cdse", 401, zip_error(109, canary.value))
    canary.assert_absent(repr(interpretation))


@pytest.mark.parametrize("name", names())
def test_every_rule_set_is_valid_and_has_a_text(name):
    rule_set = load(name)
    for rule in rule_set.rules:
        assert rule.status
        assert rule.text
        assert not rule.text.endswith(".")
        assert rule.wait.unit in ("s", "ms", "epoch_s", "epoch_ms", "auto")
        assert not rule.code or rule_set.codes
    for other in rule_set.also:
        load(other)


def test_a_name_without_a_file_is_refused():
    with pytest.raises(KeyError):
        load("../cdse")


@pytest.mark.parametrize(
    "rule",
    [
        {"status": 429, "action": "shout", "says": "x"},
        {"status": 429, "action": "wait", "says": "x", "colour": "red"},
        {"status": 429, "action": "wait"},
        {"status": 429, "action": "fail", "says": "x", "kind": "none such"},
        {"status": 429, "action": "wait", "says": "x", "wait": {"xml": "a"}},
    ],
)
def test_an_invalid_rule_is_refused(rule):
    with pytest.raises((TypeError, ValueError)):
        parse("mine", rules=[rule])


@given(
    st.sampled_from([None, *names()]),
    st.integers(100, 599),
    st.one_of(st.binary(max_size=80), st.from_type(dict[str, int | float | str]).map(lambda d: json.dumps(d).encode())),
    st.dictionaries(st.sampled_from(["Retry-After", "X-Quota-Remaining", "X-Quota-Reset"]), st.text(max_size=12)),
    st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=9)),
)
def test_any_response_gives_a_sensible_wait_or_none(name, status, body, headers, retry):
    for raw in (body, json.dumps({"retryAfter": retry}).encode()):
        interpretation = interpret(name, Answer(status=status, headers=headers, body=raw), now=NOW)
        if interpretation is not None and interpretation.wait is not None:
            assert math.isfinite(interpretation.wait)
            assert 0 <= interpretation.wait <= 366 * 86400
