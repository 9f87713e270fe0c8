"""Runs against archives whose error responses say in their own words what is wrong."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pytest
from aiohttp import web

from bulkdl.core.events import Retrying
from bulkdl.core.models import State
from bulkdl.demo_server.token_server import ClientApp, Identity, Policy, User
from tests.harness import Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BODY = b"what was asked for"
_PATH = "/auth/realms/demo/protocol/openid-connect"


def zip_error(number: int) -> dict[str, object]:
    return {"detail": {"code": f"DAT-ZIP-{number}", "message": "x"}}


@dataclass(slots=True)
class Service:
    """Archive of any product, with logins. `script` has the first responses, each (status, JSON, headers)."""

    identity: Identity
    script: deque[tuple[int, Any, dict[str, str]]] = field(default_factory=deque)
    refused: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """Status and JSON of products that are always refused, by name."""
    asked: int = 0
    port: int = 0
    runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_subapp(_PATH, self.identity.app())
        app.router.add_get("/{name}", self._product)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.port = self.runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()

    async def _product(self, request: web.Request) -> web.Response:
        self.asked += 1
        if not self.identity.check(request.headers.get("Authorization", "").removeprefix("Bearer ")):
            return web.Response(status=401)
        if self.script:
            status, body, headers = self.script.popleft()
            return web.json_response(body, status=status, headers=headers)
        if (refusal := self.refused.get(request.match_info["name"])) is not None:
            return web.json_response(refusal[1], status=refusal[0])
        return web.Response(body=BODY, content_type="application/octet-stream")

    def account(self, **more: object) -> dict[str, object]:
        return {
            "provider": "cdse",
            "token_url": f"http://127.0.0.1:{self.port}{_PATH}/token",
            "client_id": "public",
            "username": "anna",
            "password": "${P}",
            "hosts": ["127.0.0.1"],
            **more,
        }

    def products(self, count: int) -> list[dict[str, object]]:
        return [{"url": f"http://127.0.0.1:{self.port}/{n}.bin", "account": "own"} for n in range(count)]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    identity = Identity([User(name="anna", password="p")], [ClientApp(id="public")], policy=Policy())
    async with Service(identity) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.environ["P"] = "p"
    return place


async def run(place: Place, service: Service, count: int = 1, **more: Any):
    return await place.run(
        *service.products(count), accounts={"own": service.account(**more.pop("account", {}))}, **more
    )


async def test_a_token_that_has_expired_in_the_archives_words_is_refreshed(place, service):
    service.script.append((403, zip_error(109), {}))
    done = await run(place, service)
    assert done.code == 0
    assert (service.identity.logins, service.identity.refreshes, service.asked) == (1, 1, 2)


async def test_a_session_that_is_over_in_the_archives_words_costs_a_login_without_a_refresh(place, service):
    service.script.append((401, {"error": "invalid_grant", "error_description": "Session not active"}, {}))
    done = await run(place, service)
    assert done.code == 0
    assert (service.identity.logins, service.identity.count("refresh_token")) == (2, 0)


async def test_too_many_connections_cost_a_connection_and_a_wait_but_no_product(place, service):
    service.script.extend([(429, zip_error(100), {"Retry-After": "7"})] * 2)
    done = await run(place, service, 6, workers=4)
    assert done.code == 0
    assert service.identity.logins == 1
    assert any("DAT-ZIP-100" in event.reason and event.wait_s >= 7 for event in done.of(Retrying))


async def test_a_time_in_the_answers_json_is_waited_for(place, service):
    service.script.append((429, {"retryAfter": 1e15}, {}))
    done = await run(place, service, account={"provider": "eumetsat", "grant": "password"}, max_wait=3600.0)
    assert done.code == 1
    kind, _, reason = done.failure
    assert kind == "http"
    assert "--max-wait" in reason


@pytest.mark.parametrize(("number", "status", "kind"), [(104, 422, "http"), (111, 422, "http"), (604, 401, "auth")])
async def test_a_product_that_is_at_fault_fails_with_the_archives_code_and_the_others_go_on(
    place, service, number, status, kind
):
    service.refused["1.bin"] = (status, zip_error(number))
    done = await run(place, service, 4, workers=1)
    assert done.code == 1
    assert (done.result.failed, done.result.completed) == (1, 3)
    found, attempts, reason = done.failure
    assert (found, attempts) == (kind, 2)
    assert f"DAT-ZIP-{number}" in reason
    assert (service.identity.logins, service.identity.count("refresh_token")) == (1, 0)


async def test_an_account_that_can_get_nothing_is_stopped_and_its_products_stay_pending(place, service):
    service.script.extend([(401, zip_error(609), {})] * 9)
    done = await run(place, service, 5, workers=1)
    assert done.code == 3
    assert {outcome.state for outcome in done.outcomes.values()} == {State.PENDING}
    assert "wrong audience" in done.result.pending_reasons[0]
    assert "client_id" in done.result.pending_reasons[0]
    assert (service.asked, service.identity.logins, service.identity.sessions) == (1, 1, 0)


async def test_an_account_that_is_stopped_after_it_worked_makes_no_failed_login_of_the_run(place, service):
    service.script.extend([(200, {"a": 1}, {}), *[(401, zip_error(609), {})] * 9])
    done = await run(place, service, 3, workers=1)
    assert done.code == 1
    assert (done.result.completed, done.result.pending) == (1, 2)


async def test_a_long_error_is_read_no_further_than_its_beginning(place, service):
    service.refused["0.bin"] = (403, {"padding": "x" * 5_000_000, "code": "DAT-ZIP-109"})
    done = await run(place, service)
    assert done.code == 1
    assert service.identity.count("refresh_token") == 0
    assert done.result.received < 100_000
