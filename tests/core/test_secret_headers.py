"""Which header fields carry a secret."""

from __future__ import annotations

import pytest

from bulkdl.core.secret_headers import carries_secret, is_credential, may_carry_secret

SECRET = """\
Authorization Cookie Proxy-Authorization X-Authorization
X-API-Key Api-Key apikey api_key X-ApiKey X-CKAN-API-Key X-Goog-Api-Key X-Els-APIKey DD-API-KEY x-rapidapi-key
X-Dataverse-key Ocp-Apim-Subscription-Key X-Auth-Key X-Access-Key X-Functions-Key X-Secret-Key X-Session-Key
X-Auth-Token X-Access-Token Access-Token PRIVATE-TOKEN JOB-TOKEN Deploy-Token X-Amz-Security-Token X-Vault-Token
X-Gitlab-Token Token X-Token auth-token X-Subject-Token X-Storage-Token X-Session-Token X-ELS-Insttoken
X-Client-Secret X-Password X-JFrog-Art-Api X-User-Token Circle-Token
"""
OTHERS = """\
Accept Accept-Language User-Agent Referer Range Prefer X-Request-Id X-Correlation-Id Idempotency-Key Surrogate-Key
Sec-WebSocket-Key X-Cache-Key X-Page-Token X-Next-Token X-Continuation-Token X-Public-Key-Pins X-Monkey X-Keyboard
X-Client-Id X-Author X-Token-Type Accept-Charset X-Requested-With Keep-Alive X-Tokenizer X-CSRF-Token
"""


@pytest.mark.parametrize("name", SECRET.split())
def test_a_field_that_is_known_to_carry_keys(name):
    assert carries_secret(name)
    assert carries_secret(f" {name.upper()} ")


@pytest.mark.parametrize("name", OTHERS.split())
def test_a_field_that_is_not(name):
    assert not carries_secret(name)


@pytest.mark.parametrize(
    ("name", "expected"), [("X-Foo-Key", True), ("X-Page-Token", True), ("Idempotency-Key", False), ("Accept", False)]
)
def test_a_name_that_looks_like_a_secret_is_worth_a_warning(name, expected):
    assert may_carry_secret(name) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Bearer eyJhbGciOi", True),
        ("basic bWU6aHVudGVyMg==", True),
        ("Bearer", False),
        ("Basic plan", False),
        ("bearerToken123", False),
        ("application/zip", False),
        ("", False),
    ],
)
def test_the_text_of_a_field_is_a_credential_by_its_scheme(value, expected):
    assert is_credential(value) is expected
