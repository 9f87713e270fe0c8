"""No secret appears in anything printable, raw or encoded."""

from __future__ import annotations

import asyncio
import logging
import traceback

import pytest

from bulkdl.auth.credentials import resolve
from bulkdl.auth.factory import make_authenticator
from bulkdl.core.errors import AccountStopped
from bulkdl.core.models import AuthKind, SecretRef
from bulkdl.demo_server.token_server import EndpointFault, User
from tests.auth.realm import TOTP, Realm


def everything(realm, *things) -> str:
    """Return everything that a debug log, a report or a debugger could show."""
    texts = [f"{thing} {thing!r}" for thing in things]
    return "\n".join([*texts, *(f"{e} {e!r}" for e in realm.events), str(realm.hub.counters)])


async def collect(realm, authenticator) -> str:
    try:
        credential = await authenticator.credential()
    except AccountStopped as stop:
        return everything(realm, authenticator, stop, "".join(traceback.format_exception(stop)))
    manager = getattr(authenticator, "manager", None)
    active = None if manager is None else manager.active_token
    return everything(realm, authenticator, credential, active, manager)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("auth", [AuthKind.OIDC, AuthKind.BASIC, AuthKind.BEARER])
async def test_a_password_shows_nowhere_whether_it_works_or_not(auth, right, canary, caplog):
    caplog.set_level(logging.DEBUG)
    async with Realm() as realm:
        if right:
            realm.identity.users["anna"] = User(name="anna", password=canary.value)
        account = realm.account(auth=auth, **{k: SecretRef("${S}") for k in ("username", "password", "token")})
        found = resolve(account, environ={"S": canary.value})
        if auth is AuthKind.OIDC:
            found = realm.credentials(password=canary.value)
        authenticator = make_authenticator(account, found, **realm.parts())
        shown = await collect(realm, authenticator)
        await authenticator.aclose()
        canary.assert_absent(shown, repr(found), str(account), caplog.text)


async def test_what_the_server_echoes_of_password_code_and_tokens_is_masked(canary):
    async with Realm() as realm:
        echo = {"error": "invalid_grant", "error_description": f"{canary.value} and {TOTP.replace(' ', '').upper()}"}
        realm.identity.script(EndpointFault(status=401, body=echo), times=2)
        authenticator = realm.authenticator("otto", canary.value)
        shown = await collect(realm, authenticator)
        canary.assert_absent(shown)
        assert "***" in shown
        assert TOTP.replace(" ", "").upper() not in shown


async def test_tokens_show_nowhere(caplog):
    caplog.set_level(logging.DEBUG)
    async with Realm() as realm:
        authenticator = realm.authenticator()
        credential = await authenticator.credential()
        access = credential.header.reveal().removeprefix("Bearer ")
        refresh = authenticator.manager.active_token.token.refresh.reveal()
        shown = await collect(realm, authenticator)
        await authenticator.aclose()
        shown += everything(realm) + caplog.text
        assert access not in shown
        assert refresh not in shown


async def test_the_ledgers_files_hold_no_secret(canary):
    async with Realm() as realm:
        await realm.authenticator("otto").credential()
        data = b"".join(path.read_bytes() + path.name.encode() for path in realm.state.rglob("*") if path.is_file())
        for form in (TOTP, TOTP.upper(), TOTP.replace(" ", ""), TOTP.replace(" ", "").upper()):
            assert form.encode() not in data


async def test_a_bug_in_an_observer_reaches_the_waiting_worker_and_names_no_secret(canary):
    async with Realm() as realm:
        realm.identity.users["anna"] = User(name="anna", password=canary.value)

        def defective(event):
            raise RuntimeError("defect")

        realm.hub.subscribe(defective)
        results = await asyncio.gather(
            *(realm.authenticator("anna", canary.value).credential() for _ in range(2)), return_exceptions=True
        )
        assert {str(result) for result in results} == {"defect"}
        canary.assert_absent(*("".join(traceback.format_exception(result)) for result in results))
        realm.hub._observers.remove(defective)
