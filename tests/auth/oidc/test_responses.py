"""The interpretation of a token endpoint's responses, as a table."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qsl, quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.auth.oidc.messages import (
    Client,
    Token,
    TokenResponse,
    client_credentials_form,
    logout_form,
    logout_url,
    password_form,
    refresh_form,
)
from bulkdl.auth.oidc.responses import Misconfigured, Refused, Unavailable, clean, clock_skew, interpret_response
from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url

URL = Url("https://sso.example.org/auth/realms/eo/protocol/openid-connect/token")
NOW = 1_750_000_000.0


def read(status, body=b"", headers=None, secrets=()):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = TokenResponse(status=status, headers=headers or {}, body=raw, sent_at=10.0)
    return interpret_response(reply, url=URL, secrets=secrets, now=NOW)


def oauth(error, description=None):
    return {"error": error, **({"error_description": description} if description else {})}


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (401, oauth("invalid_grant", "Invalid user credentials"), Refused, "Invalid user credentials"),
        (400, oauth("invalid_grant", "Account disabled"), Refused, "Account disabled"),
        (400, oauth("invalid_grant", "Account is not fully set up"), Refused, "not fully set up"),
        (
            400,
            oauth("unauthorized_client", "Client not allowed for direct access grants"),
            Misconfigured,
            "direct access",
        ),
        (401, oauth("invalid_client", "Invalid client or Invalid client credentials"), Misconfigured, "Invalid client"),
        (401, oauth("unauthorized_client", "Invalid client or Invalid client credentials"), Misconfigured, "401"),
        (400, oauth("unsupported_grant_type"), Misconfigured, "unsupported_grant_type"),
        (400, oauth("invalid_scope"), Misconfigured, "invalid_scope"),
        (400, oauth("invalid_request", "bad credentials"), Refused, "bad credentials"),
        (400, oauth("temporarily_unavailable"), Unavailable, "temporarily_unavailable"),
        (403, b"", Refused, "403"),
        (403, b"<html>no</html>", Misconfigured, "403 with a web page, not with an OAuth error"),
        (401, {"detail": "No active account"}, Refused, "No active account"),
        (401, {"error": {"code": 7}}, Refused, "401"),
        (429, {"message": "slow down"}, Unavailable, "slow down"),
        (408, b"", Unavailable, "408"),
        (425, b"", Unavailable, "425"),
        (426, b"", Misconfigured, "426"),
        (300, {"access_token": "at"}, Misconfigured, "300, a redirect"),
        (299, {}, Misconfigured, "299 without a usable access_token"),
        (500, b"oops", Unavailable, "500"),
        (503, b"", Unavailable, "503"),
        (404, b"<html>", Misconfigured, "404"),
        (405, b"", Misconfigured, "405"),
        (200, b"<!doctype html>", Misconfigured, "a web page"),
        (200, b"", Misconfigured, "not a JSON object"),
        (200, b'{"access_token": "at', Misconfigured, "not a JSON object"),
        (200, b'["access_token"]', Misconfigured, "not a JSON object"),
        (200, b"\xff\xfe", Misconfigured, "not a JSON object"),
        (200, b"[" * 100_000, Misconfigured, "not a JSON object"),
        (200, {}, Misconfigured, "without a usable access_token"),
        (200, {"access_token": 7}, Misconfigured, "without a usable access_token"),
        (200, {"access_token": "a\r\nX: y"}, Misconfigured, "without a usable access_token"),
        (204, b"", Misconfigured, "204"),
    ],
)
def test_each_response_is_interpreted_and_names_the_host(status, body, kind, said):
    verdict = read(status, body)
    assert type(verdict) is kind
    assert said in verdict.reason
    assert "sso.example.org" in verdict.reason


@pytest.mark.parametrize(
    ("description", "hint"),
    [
        ("Account disabled", "ask its support"),
        ("Account is not fully set up", "Sign in once on the provider's website"),
        ("Account temporarily disabled, contact admin or try again later.", "wait"),
        ("Invalid user credentials", ""),
    ],
)
def test_a_refusal_with_a_known_cause_has_its_own_hint(description, hint):
    verdict = read(400, oauth("invalid_grant", description))
    assert isinstance(verdict, Refused)
    assert bool(verdict.hint) is bool(hint)
    assert hint in verdict.hint


@pytest.mark.parametrize(
    "description", ["Too many sessions", "User session limit exceeded", "Max session number exceeded"]
)
def test_too_many_sessions_is_a_temporary_failure(description):
    assert isinstance(read(401, oauth("invalid_grant", description)), Unavailable)


@pytest.mark.parametrize(
    ("description", "over"),
    [
        ("Session not active", True),
        ("Token is not active", True),
        ("Stale token", True),
        ("Maximum allowed refresh token reuse exceeded", True),
        ("Invalid user credentials", False),
        ("Offline access denied", False),
    ],
)
def test_an_ended_session_is_distinguished_from_one_that_may_be_open(description, over):
    assert read(400, oauth("invalid_grant", description)).session_over is over


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (oauth("invalid_grant", "Bad credentials"), " (invalid_grant: Bad credentials)"),
        (oauth("invalid_grant"), " (invalid_grant)"),
        ({"message": "No active account"}, " (No active account)"),
        ({"error_description": "", "detail": "No active account"}, " (No active account)"),
        ({"error_description": 7, "title": "No active account"}, " (No active account)"),
        ({"error": 7}, ""),
        (b"no", ""),
    ],
)
def test_the_error_of_a_server_is_quoted_in_parentheses(body, said):
    assert read(401, body).reason == f"the token endpoint sso.example.org answered 401{said}"


@pytest.mark.parametrize(
    ("status", "body", "definite"),
    [
        (401, oauth("invalid_client"), True),
        (400, oauth("invalid_scope"), True),
        (404, b"", False),
        (302, b"", False),
        (200, b"<html>", False),
        (200, {}, False),
    ],
)
def test_an_oauth_error_is_definite_and_any_other_page_is_not(status, body, definite):
    assert read(status, body).definite is definite


@pytest.mark.parametrize("status", [200, 400, 401, 403])
@pytest.mark.parametrize("body", [b"<html>", b" \r\n<!DOCTYPE html>", b"<?xml version='1.0'?>"])
def test_a_web_page_is_not_a_token_endpoints_answer(status, body):
    """Gateways send pages with any of these statuses, so no page says anything about a password."""
    verdict = read(status, body)
    assert isinstance(verdict, Misconfigured)
    assert (verdict.is_page, verdict.definite) == (True, False)
    assert f"answered {status} with a web page" in verdict.reason


@pytest.mark.parametrize(
    ("body", "is_oauth"),
    [
        (oauth("invalid_grant"), True),
        ({"error": "access_denied"}, True),
        ({"error": {"code": 7}}, False),
        ({"error": ""}, False),
        ({"detail": "No active account"}, False),
        (b"", False),
        (b"Unauthorized", False),
    ],
)
@pytest.mark.parametrize("status", [400, 401, 403])
def test_only_a_json_error_is_a_refusal_in_oauths_words(status, body, is_oauth):
    verdict = read(status, body)
    assert isinstance(verdict, Refused)
    assert verdict.is_oauth is is_oauth


def test_verdicts_have_cautious_defaults():
    assert (Refused(reason="x").session_over, Misconfigured(reason="x", hint="y").definite) == (False, True)


def test_a_redirect_is_named_with_its_target_and_without_its_query():
    verdict = read(302, b"", {"Location": "https://login.example.org/page?secret=1"})
    assert "https://login.example.org/page?***" in verdict.reason
    assert isinstance(verdict, Misconfigured)
    assert not verdict.definite


@pytest.mark.parametrize("location", [None, "", "http://["])
def test_a_redirect_without_a_usable_target_is_named_without_one(location):
    verdict = read(302, b"", {} if location is None else {"Location": location})
    assert verdict.reason.endswith(" answered 302, a redirect; it is not followed")


def test_a_token_may_contain_every_character_of_a_header_value():
    access = "".join(map(chr, range(33, 127)))
    assert read(200, {"access_token": access}).access == Secret(access)


@pytest.mark.parametrize(("refresh", "usable"), [("rt", True), ("", False), (7, False), (["rt"], False), (None, False)])
def test_a_refresh_token_is_a_text_that_is_not_empty(refresh, usable):
    token = read(200, {"access_token": "at", "refresh_token": refresh})
    assert token.refresh == (Secret("rt") if usable else None)


@pytest.mark.parametrize(
    ("fields", "lifetime"),
    [
        ({"expires_in": 600}, 600),
        ({"expires_in": "600"}, 600),
        ({"expires_in": 59.5}, 59.5),
        ({}, 300),
        ({"expires_in": None}, 300),
        ({"expires_in": "soon"}, 300),
        ({"expires_in": True}, 300),
        ({"expires_in": [5]}, 300),
        ({"expires_in": float("nan")}, 300),
        ({"expires_in": float("inf")}, 300),
        ({"expires_in": 10**400}, 300),
        ({"expires_in": 0}, 0),
        ({"expires_in": -60}, 0),
        ({"expires_in": 1e17}, 365 * 86400),
    ],
)
def test_a_lifetime_is_read_in_every_form(fields, lifetime):
    token = read(200, {"access_token": "at", **fields})
    assert isinstance(token, Token)
    assert token.lifetime == lifetime
    assert token.issued == 10.0


@pytest.mark.parametrize(
    ("fields", "alive_after_an_hour"),
    [
        ({"refresh_expires_in": 0}, True),
        ({}, True),
        ({"refresh_expires_in": -1}, True),
        ({"refresh_expires_in": "1800"}, False),
        ({"refresh_expires_in": 3601}, True),
        ({"refresh_expires_in": 1}, False),
        ({"refresh_expires_in": 0.5}, False),
    ],
)
def test_a_refresh_token_without_a_known_end_is_tried(fields, alive_after_an_hour):
    token = read(200, {"access_token": "at", "refresh_token": "rt", **fields})
    assert token.refresh_alive(10.0 + 3600) is alive_after_an_hour


@pytest.mark.parametrize(
    ("value", "wait"),
    [("5", 5), ("Sun, 15 Jun 2025 15:07:10 GMT", 30), ("1e9", None), ("999999", 300), ("", None), ("x", None)],
)
def test_retry_after_is_read_as_seconds_or_a_date_and_capped(value, wait):
    verdict = read(503, b"", {"retry-after": value})
    assert verdict.wait == wait


def jwt(claims):
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return {"access_token": f"eyJhbGciOiJub25lIn0.{body}.c2ln"}


@pytest.mark.parametrize(
    ("headers", "body", "skew"),
    [
        ({}, jwt({"iat": NOW + 90}), 90.5),
        ({"Date": "Sun, 15 Jun 2025 15:06:45 GMT"}, jwt({"iat": NOW + 90}), 5.5),
        ({}, jwt({"iat": NOW + 90, "a": ""}), 90.5),  # each length of base64 padding
        ({}, jwt({"iat": NOW + 90, "a": "b"}), 90.5),
        ({}, jwt({"iat": NOW + 90, "a": "bc"}), 90.5),
        ({}, jwt({"iat": 0}), None),
        ({}, jwt({"iat": -5}), None),
        ({}, jwt({"iat": 1}), 1.5 - NOW),
        ({}, jwt({"iat": "soon"}), None),
        ({}, jwt({"iat": True}), None),
        ({}, jwt([1]), None),
        ({}, {"access_token": "a.b"}, None),
        ({}, {"access_token": "a.ä.c"}, None),
        ({}, [], None),
    ],
)
def test_without_a_date_the_tokens_iat_gives_the_servers_clock(headers, body, skew):
    reply = TokenResponse(status=200, headers=headers, body=json.dumps(body).encode(), sent_at=0.0)
    assert clock_skew(reply, wall=NOW) == skew


@pytest.mark.parametrize(("date", "skew"), [("Sun, 15 Jun 2025 15:06:45 GMT", 5.5), (None, None), ("yesterday", None)])
def test_the_servers_clock_is_read_from_its_date(date, skew):
    headers = {} if date is None else {"Date": date}
    assert clock_skew(TokenResponse(status=200, headers=headers, body=b"", sent_at=0.0), wall=NOW) == skew


def test_quoted_server_text_is_masked_shortened_and_free_of_control_characters(canary):
    secret = Secret(canary.value)
    echo = f"no \x1b[31m {canary.value} {quote(canary.value, safe='').lower()} {quote_plus(canary.value)}\n{'x' * 500}"
    verdict = read(401, oauth("invalid_grant", echo), secrets=[secret])
    canary.assert_absent(verdict.reason, repr(verdict))
    assert verdict.reason.isprintable()
    assert len(verdict.reason) < 300


def test_a_secret_is_masked_in_its_longest_form():
    assert clean("x+abc+y%20abc%20z", [Secret(" abc ")]) == "x***y***z"


@pytest.mark.parametrize(
    ("length", "shown"), [(199, "x" * 199), (200, "x" * 200), (201, "x" * 199 + "…"), (900, "x" * 199 + "…")]
)
def test_server_text_is_cut_at_two_hundred_characters(length, shown):
    assert clean("x" * length, []) == shown


@given(st.text(max_size=300), st.text(min_size=3, max_size=20))
def test_text_of_a_server_never_holds_a_secret_and_is_always_short_and_printable(text, secret):
    shown = clean(f"{text}{secret}{text}", [Secret(secret)])
    assert secret not in shown.replace("***", "")
    assert len(shown) <= 200
    assert shown.isprintable()


@given(st.integers(100, 599), st.binary(max_size=200), st.dictionaries(st.text(max_size=9), st.text(max_size=9)))
def test_any_response_is_interpreted_without_an_exception(status, body, headers):
    assert isinstance(read(status, body, headers), Token | Refused | Unavailable | Misconfigured)


@given(st.text(), st.text(), st.text())
def test_a_password_form_arrives_unchanged(username, password, secret):
    client = Client(id="public", secret=Secret(secret), scope="openid")
    try:
        (username + password + secret).encode()
    except UnicodeEncodeError:
        return
    form = password_form(client, username, Secret(password), ("totp", Secret("081804")))
    assert dict(parse_qsl(form.reveal(), keep_blank_values=True)) == {
        "grant_type": "password",
        "username": username,
        "password": password,
        "totp": "081804",
        "client_id": "public",
        "client_secret": secret,
        "scope": "openid",
    }


def test_the_other_forms_have_the_fields_of_their_grants():
    client = Client(id="me", scope="openid")
    assert client_credentials_form(client).reveal() == "grant_type=client_credentials&client_id=me&scope=openid"
    assert refresh_form(client, Secret("r&t")).reveal() == "grant_type=refresh_token&refresh_token=r%26t&client_id=me"
    assert logout_form(client, Secret("rt")).reveal() == "refresh_token=rt&client_id=me"


@pytest.mark.parametrize(
    ("token_url", "expected"),
    [
        (URL.raw, "https://sso.example.org/auth/realms/eo/protocol/openid-connect/logout"),
        (f"{URL.raw}?", "https://sso.example.org/auth/realms/eo/protocol/openid-connect/logout"),
        ("https://api.example.org/token", None),
    ],
)
def test_only_a_keycloak_has_a_logout_url(token_url, expected):
    found = logout_url(Url(token_url))
    assert (found.raw if found else None) == expected
