"""The token server answers with the statuses and messages of Keycloak."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pyotp
import pytest

from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url
from bulkdl.demo_server.token_server import EndpointFault
from tests.auth.realm import CLIENT_SECRET, PASSWORD, TOTP, Realm


async def ask(realm, path="token", **form):
    fields = {"client_id": "public", "grant_type": "password", "username": "anna", "password": PASSWORD, **form}
    url = Url(realm.url.raw.replace("/token", f"/{path}"))
    reply = await realm.endpoint.post(url, Secret(urlencode({k: v for k, v in fields.items() if v is not None})))
    return reply.status, json.loads(reply.body) if reply.body else {}


def code(realm, shift=0):
    return pyotp.TOTP(TOTP.replace(" ", "")).at(int(realm.clock.wall()) + shift)


BAD = (401, "invalid_grant", "Invalid user credentials")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"password": "wrong"}, BAD),
        ({"username": "nobody"}, BAD),
        ({"username": "otto"}, BAD),
        ({"username": "otto", "totp": "000000"}, BAD),
        ({"username": "gone"}, (400, "invalid_grant", "Account disabled")),
        ({"client_id": "closed"}, (400, "unauthorized_client", "Client not allowed for direct access grants")),
        ({"client_id": "x"}, (401, "invalid_client", "Invalid client or Invalid client credentials")),
        (
            {"client_id": "machine", "client_secret": "x"},
            (401, "unauthorized_client", "Invalid client or Invalid client credentials"),
        ),
        ({"grant_type": "magic"}, (400, "unsupported_grant_type", "Unsupported grant_type")),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, (400, "invalid_grant", "Invalid refresh token")),
    ],
)
async def test_refusals_have_keycloaks_status_and_words(form, expected):
    async with Realm() as realm:
        status, answer = await ask(realm, **form)
        assert (status, answer["error"], answer["error_description"]) == expected
        assert realm.identity.failures == {expected[2]: 1}


async def test_a_login_returns_the_fields_of_keycloak():
    async with Realm(expires_in=600, refresh_expires_in=3600) as realm:
        status, answer = await ask(realm, client_id="machine", client_secret=CLIENT_SECRET)
        assert status == 200
        assert (answer["expires_in"], answer["refresh_expires_in"], answer["token_type"]) == (600, 3600, "Bearer")
        assert realm.identity.check(answer["access_token"])
        await realm.clock.advance(600)
        assert not realm.identity.check(answer["access_token"])


@pytest.mark.parametrize(("shift", "status"), [(-60, 401), (-30, 200), (0, 200), (30, 200), (60, 401)])
async def test_a_code_is_good_for_one_step_to_either_side(shift, status):
    async with Realm() as realm:
        assert (await ask(realm, username="otto", totp=code(realm, shift)))[0] == status


async def test_a_code_is_good_once_in_ninety_seconds():
    async with Realm() as realm:
        form = {"username": "otto", "totp": code(realm)}
        assert (await ask(realm, **form))[0] == 200
        await realm.clock.advance(5)
        assert (await ask(realm, **form))[0] == 401


async def test_otp_is_read_first_and_totp_only_in_its_absence():
    async with Realm() as realm:
        assert (await ask(realm, username="otto", otp="000000", totp=code(realm)))[0] == 401


async def test_two_quick_failures_lock_the_right_password_out_for_a_minute():
    async with Realm() as realm:
        for password in ("wrong", "wrong", PASSWORD):
            assert (await ask(realm, password=password))[0] == 401
        await realm.clock.advance(61)
        assert (await ask(realm))[0] == 200


async def test_two_slow_failures_lock_nobody():
    async with Realm() as realm:
        for _ in range(2):
            await ask(realm, password="wrong")
            await realm.clock.advance(2)
        assert (await ask(realm))[0] == 200


async def refresh(realm, token):
    return await ask(realm, grant_type="refresh_token", refresh_token=token, username=None, password=None)


async def test_a_rotated_refresh_token_that_comes_again_ends_the_session_for_the_new_one_too():
    async with Realm() as realm:
        first = (await ask(realm))[1]
        second = (await refresh(realm, first["refresh_token"]))[1]
        status, answer = await refresh(realm, first["refresh_token"])
        assert (status, answer["error_description"]) == (400, "Maximum allowed refresh token reuse exceeded")
        status, answer = await refresh(realm, second["refresh_token"])
        assert (status, answer["error_description"]) == (400, "Session not active")
        assert not realm.identity.check(second["access_token"])


async def test_an_older_refresh_token_is_stale():
    async with Realm() as realm:
        first = (await ask(realm))[1]
        second = (await refresh(realm, first["refresh_token"]))[1]
        await refresh(realm, second["refresh_token"])
        assert (await refresh(realm, first["refresh_token"]))[1]["error_description"] == "Stale token"


async def test_a_refresh_token_expires():
    async with Realm(refresh_expires_in=60) as realm:
        answer = (await ask(realm))[1]
        await realm.clock.advance(60)
        assert (await refresh(realm, answer["refresh_token"]))[1]["error_description"] == "Token is not active"


async def test_lifetimes_shrink_towards_the_sessions_end():
    async with Realm(expires_in=300, session_max=1000) as realm:
        token = (await ask(realm))[1]["refresh_token"]
        seen = []
        for _ in range(4):
            await realm.clock.advance(240)
            answer = (await refresh(realm, token))[1]
            seen.append(answer["expires_in"])
            token = answer["refresh_token"]
        assert seen == [300, 300, 280, 40]


async def test_logging_out_ends_the_session_and_frees_its_place():
    async with Realm(session_limit=1) as realm:
        answer = (await ask(realm))[1]
        assert realm.identity.sessions == 1
        assert (await ask(realm, "logout", refresh_token=answer["refresh_token"]))[0] == 204
        assert realm.identity.sessions == 0
        assert not realm.identity.check(answer["access_token"])
        assert (await ask(realm))[0] == 200


async def test_above_the_session_limit_a_page_comes_instead_of_json():
    async with Realm(session_limit=1) as realm:
        await realm.authenticator().credential()
        form = {"client_id": "public", "grant_type": "password", "username": "anna", "password": PASSWORD}
        reply = await realm.endpoint.post(realm.url, Secret(urlencode(form)))
        assert reply.status == 403
        assert reply.body.startswith(b"<!DOCTYPE html>")


async def test_scripted_answers_come_once_each_in_their_order():
    async with Realm() as realm:
        realm.identity.script(
            EndpointFault(status=503), EndpointFault(body={"expires_in": "7"}, without=("token_type",))
        )
        assert (await ask(realm))[0] == 503
        status, answer = await ask(realm)
        assert (status, answer["expires_in"], "token_type" in answer) == (200, "7", False)
        assert (await ask(realm))[1]["expires_in"] == 300
