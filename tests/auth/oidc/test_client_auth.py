"""Secret of a client: sent in the form, or in the header at a server that asks for that (RFC 6749 §2.3.1)."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qs, unquote_plus

import pytest

from bulkdl.auth.oidc.login import LoginRequest, PasswordLogin
from bulkdl.auth.oidc.login_lock import LoginLock
from bulkdl.auth.oidc.messages import Client, Token, TokenResponse
from bulkdl.auth.oidc.responses import Misconfigured, Refused, wants_client_in_header
from bulkdl.auth.oidc.token_client import TokenClient
from bulkdl.auth.oidc.totp import UsedCodeLedger
from bulkdl.auth.oidc.totp_secret import normalise
from bulkdl.core.models import ClientAuth
from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url
from tests.clocks import ImpatientClock

URL = Url("https://sso.example.org/realms/eo/protocol/openid-connect/token")
TOKEN = json.dumps({"access_token": "a", "refresh_token": "r", "expires_in": 60}).encode()
BASIC = {"www-authenticate": 'Basic realm="oauth2"'}
INVALID_CLIENT = b'{"error":"invalid_client"}'


class Server:
    """A token endpoint in memory that takes client secrets in one way only."""

    def __init__(self, takes="basic", *, client="robot", secret="s3cr:et +%", password="pw"):
        self.takes, self.pair, self.password = takes, (client, secret), password
        self.log = []

    async def post(self, url, form, *, authorization=None):
        fields = {name: values[0] for name, values in parse_qs(form.reveal(), keep_blank_values=True).items()}
        header = None
        if authorization is not None:
            scheme, _, text = authorization.reveal().partition(" ")
            assert scheme == "Basic"
            header = tuple(unquote_plus(part) for part in base64.b64decode(text).decode().split(":"))
        self.log.append((header, fields))
        mine = header if self.takes == "basic" else (fields.get("client_id"), fields.get("client_secret"))
        if mine != self.pair:
            return self._answer(401, INVALID_CLIENT, BASIC if self.takes == "basic" else {})
        if fields.get("grant_type") == "password" and fields["password"] != self.password:
            return self._answer(401, b'{"error":"invalid_grant","error_description":"Invalid user credentials"}', BASIC)
        return self._answer(200, TOKEN, {})

    def _answer(self, status, body, headers):
        return TokenResponse(status=status, headers=headers, body=body, sent_at=0.0)


def token_client(server, tmp_path, *, auth=None, secret="s3cr:et +%", client="robot", password="pw", totp=None):
    clock = ImpatientClock()
    login = PasswordLogin(username="anna", password=Secret(password), totp_secret=totp) if password else None
    request = LoginRequest(
        account="a",
        token_url=URL,
        client=Client(id=client, secret=None if secret is None else Secret(secret), scope="openid", auth=auth),
        password=login,
    )
    ledger = UsedCodeLedger(tmp_path, clock=clock, warn=print)
    return TokenClient(
        request, endpoint=server, ledger=ledger, login_lock=LoginLock(tmp_path, clock=clock), clock=clock
    )


def wait(seconds):
    raise AssertionError(seconds)


@pytest.mark.parametrize("password", ["pw", None])
async def test_a_server_that_asks_for_the_header_gets_it_once_and_then_at_once(tmp_path, password):
    server = Server()
    client = token_client(server, tmp_path, password=password)
    assert isinstance(await client.log_in(waiting=wait), Token)
    assert [header for header, _ in server.log] == [None, ("robot", "s3cr:et +%")]
    assert {"client_id", "client_secret"} <= server.log[0][1].keys()
    assert not {"client_id", "client_secret"} & server.log[1][1].keys()
    assert isinstance(await client.refresh(Secret("r")), Token)
    assert isinstance(await client.log_in(waiting=wait), Token)
    assert await client.log_out(Secret("r"))
    assert [header for header, _ in server.log[2:]] == [("robot", "s3cr:et +%")] * 3


async def test_the_one_time_code_that_the_server_has_not_looked_at_is_sent_again(tmp_path):
    server = Server()
    client = token_client(server, tmp_path, totp=normalise("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"))
    assert isinstance(await client.log_in(waiting=wait), Token)
    codes = [fields["totp"] for _, fields in server.log]
    assert len(codes) == 2
    assert codes[0] == codes[1]


@pytest.mark.parametrize(
    ("auth", "takes", "requests"),
    [(ClientAuth.BASIC, "basic", 1), (ClientAuth.POST, "post", 1), (None, "post", 1), (None, "basic", 2)],
)
async def test_the_way_that_the_manifest_names_is_the_first(tmp_path, auth, takes, requests):
    server = Server(takes)
    assert isinstance(await token_client(server, tmp_path, auth=auth).log_in(waiting=wait), Token)
    assert len(server.log) == requests


@pytest.mark.parametrize(("auth", "takes"), [(ClientAuth.POST, "basic"), (ClientAuth.BASIC, "post")])
async def test_the_way_that_the_manifest_names_is_the_only_one(tmp_path, auth, takes):
    server = Server(takes)
    verdict = await token_client(server, tmp_path, auth=auth).log_in(waiting=wait)
    assert isinstance(verdict, Misconfigured)
    assert "client_auth" in verdict.hint
    assert len(server.log) == 1


async def test_a_wrong_secret_costs_two_requests_and_names_what_to_check(tmp_path):
    server = Server()
    client = token_client(server, tmp_path, secret="wrong")
    verdict = await client.log_in(waiting=wait)
    assert isinstance(verdict, Misconfigured)
    assert "client_secret" in verdict.hint
    assert "wrong" not in verdict.reason
    assert len(server.log) == 2


@pytest.mark.parametrize("secret", ["s3cr:et +%", None])
async def test_a_wrong_password_costs_one_attempt(tmp_path, secret):
    server = Server("post", secret=secret)
    verdict = await token_client(server, tmp_path, secret=secret, password="no").log_in(waiting=wait)
    assert isinstance(verdict, Refused)
    assert len(server.log) == 1


@pytest.mark.parametrize("text", ["a:b", "ü€", "%2B+ ", "~-_.", '"\\'])
async def test_both_parts_are_form_encoded(tmp_path, text):
    server = Server(client=text, secret=text)
    client = token_client(server, tmp_path, client=text, secret=text, auth=ClientAuth.BASIC)
    assert isinstance(await client.log_in(waiting=wait), Token)


@pytest.mark.parametrize(
    ("status", "headers", "body", "wanted"),
    [
        (401, BASIC, INVALID_CLIENT, True),
        (401, {"WWW-Authenticate": "basic"}, b"", True),
        (401, {"WWW-Authenticate": 'Bearer realm="x", Basic realm="y"'}, b"<html>", True),
        (401, BASIC, b'{"error":"unauthorized_client"}', True),
        (401, BASIC, b'{"error":"Unauthorized","message":"Full authentication is required"}', True),
        (400, {}, b'{"error":"invalid_client","error_description":"use client_secret_basic"}', True),
        (401, {}, b'{"error":"invalid_client","error_description":"Missing Authorization header"}', True),
        (401, {}, INVALID_CLIENT, True),
        (400, {}, INVALID_CLIENT, True),
        (401, {}, b'{"error":"unauthorized_client"}', False),
        (401, {"WWW-Authenticate": "Bearer"}, b"", False),
        (401, {"WWW-Authenticate": 'Bearer realm="Basic"'}, b"", False),
        (400, BASIC, b"", False),
        (401, BASIC, b'{"error":"invalid_grant"}', False),
        (403, BASIC, INVALID_CLIENT, False),
        (200, BASIC, TOKEN, False),
    ],
)
def test_only_an_answer_that_says_so_asks_for_the_header(status, headers, body, wanted):
    assert wants_client_in_header(TokenResponse(status=status, headers=headers, body=body, sent_at=0.0)) is wanted
