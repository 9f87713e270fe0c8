"""Accounts work without Keycloak: django-oauth-toolkit answers 400 for a wrong password, 403 for an expired token."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from bulkdl.auth.credentials import Credentials
from bulkdl.auth.factory import make_authenticator
from bulkdl.auth.oidc.endpoint import HttpTokenEndpoint
from bulkdl.core.clock import SystemClock
from bulkdl.core.events import Hub
from bulkdl.core.models import Account, AuthKind
from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url

from .processes import spawn, stop, until
from .products import write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bulkdl.auth.base import Credential

    from .program import Program

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

PRODUCTS = 12
PASSWORD = "pÄss wörd+&=%€"
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Second:
    """django-oauth-toolkit, with an archive of 64 KiB files."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def counts(self) -> dict[str, int]:
        """Return the number of token endpoint responses, by grant and status."""
        with _direct.open(f"{self.url}/counts", timeout=10) as response:
            found: dict[str, int] = json.loads(response.read())
        return found

    def account(self, **more: object) -> dict[str, object]:
        return {
            "auth": "oidc",
            "token_url": f"{self.url}/o/token",
            "client_id": "public",
            "username": "dora",
            "password": "${DORA_PASSWORD}",
            "hosts": ["127.0.0.1"],
            **more,
        }


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Second]:
    if importlib.util.find_spec("oauth2_provider") is None:
        reason = "needs django-oauth-toolkit; .ci/run installs it"
        pytest.fail(reason) if os.environ.get("BULKDL_REAL") == "require" else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("second")
    log = folder / "log"
    process = spawn([sys.executable, "-P", Path(__file__).with_name("second_server.py"), folder], log=log)
    try:
        until(lambda: log.read_text().strip().isdigit(), process, what="django-oauth-toolkit", log=log, timeout_s=60)
        yield Second(int(log.read_text()))
    finally:
        stop(process)


@pytest.fixture
def counted(second: Second) -> Callable[[], dict[str, int]]:
    """Return a function that counts the token endpoint responses since the test began, by grant and status."""
    before = second.counts()
    return lambda: {key: n - before.get(key, 0) for key, n in second.counts().items() if n > before.get(key, 0)}


def run(second: Second, program: Program, folder: Path, *arguments: str, password: str = PASSWORD, **account: object):
    products = [{"url": f"{second.url}/files/{n}.bin", "account": "dora", "size": 65536} for n in range(PRODUCTS)]
    manifest = write_manifest(folder / "m.yaml", products, accounts={"dora": second.account(**account)})
    return program.run(manifest, *arguments, env={"DORA_PASSWORD": password})


def test_a_run_over_many_short_tokens_costs_one_login_and_no_product(second, program, place, counted, figure):
    done = run(second, program, place, "--limit-rate", "100K", "--workers", "1")
    assert done.code == 0, done.err
    assert done.summary["products"]["completed"] == PRODUCTS
    counts = counted()
    assert counts["password 200"] == 1
    assert counts["refresh_token 200"] >= 2
    assert set(counts) == {"password 200", "refresh_token 200"}
    figure(f"django-oauth-toolkit, tokens of 3 s: {counts}")


def test_a_wrong_password_that_is_answered_with_400_is_tried_once(second, program, place, counted):
    done = run(second, program, place, "--workers", "50", password="wrong one")
    assert done.code == 3
    assert done.summary["products"]["pending"] == PRODUCTS
    assert "Invalid credentials given" in done.err
    assert counted() == {"password 400": 1}


async def test_an_expired_token_answered_with_403_and_an_empty_body_is_replaced(second, counted, tmp_path):
    async with aiohttp.ClientSession() as session:
        clock = SystemClock()
        account = Account(name="dora", auth=AuthKind.OIDC, token_url=Url(f"{second.url}/o/token"), client_id="public")
        authenticator = make_authenticator(
            account,
            Credentials(username="dora", password=Secret(PASSWORD)),
            endpoint=HttpTokenEndpoint(session, clock=clock),
            hub=Hub(),
            clock=clock,
            rng=random.Random(1),
            state_dir=tmp_path,
        )
        old = await authenticator.credential()
        assert await status(session, second, old) == 200
        await asyncio.sleep(3.1)
        assert await status(session, second, old) == 403
        assert await authenticator.rejected(old, status=403)
        assert await status(session, second, await authenticator.credential()) == 200
        await authenticator.aclose()
    assert counted() == {"password 200": 1, "refresh_token 200": 1}


async def status(session: aiohttp.ClientSession, second: Second, credential: Credential) -> int:
    headers = {"Authorization": credential.header.reveal()}
    async with session.get(f"{second.url}/files/a.bin", headers=headers) as response:
        return response.status


def test_login_rehearse_works_without_a_logout_and_without_keycloaks_errors(second, program, place, counted):
    manifest = write_manifest(place / "m.yaml", [f"{second.url}/files/a.bin"], accounts={"dora": second.account()})
    done = program("login", manifest, "--rehearse", env={"DORA_PASSWORD": PASSWORD})
    assert done.code == 0, done.err
    assert "refresh         works" in done.out
    assert "rotation        each refresh issues a new refresh token" in done.out
    assert "second login    works" in done.out
    assert counted() == {"password 200": 2, "refresh_token 200": 1}
