"""If a token endpoint answers nonsense, its account stops, its products stay pending, other accounts continue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from bulkdl.core.events import ProductFinished
from bulkdl.core.models import State
from bulkdl.demo_server.access import Access
from bulkdl.demo_server.catalog import Item
from bulkdl.demo_server.server import Archive
from bulkdl.demo_server.token_server import ClientApp, EndpointFault, Identity, Policy, User
from tests.harness import Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bulkdl.core.events import Event

_PATH = "/auth/realms/demo/protocol/openid-connect"
PASSWORD = "correct horse"
HTML = {"Content-Type": "text/html"}
TOKEN = {"access_token": "at", "token_type": "Bearer"}


@dataclass(slots=True)
class Scene:
    """An archive with a good account, and an account `bad` whose token endpoint never works."""

    archive: Archive
    identity: Identity
    bad: Identity
    bad_url: str

    def accounts(self, **changes: object) -> dict[str, object]:
        def account(token_url: str) -> dict[str, object]:
            return {
                "auth": "oidc",
                "token_url": token_url,
                "client_id": "public",
                "username": "anna",
                "password": "${P}",
                "hosts": ["127.0.0.1"],
            }

        return {"good": account(self.archive.token_url), "bad": account(f"{self.bad_url}/token") | changes}

    def products(self) -> list[dict[str, object]]:
        names = [item.name for item in self.archive.items]
        return [{"url": self.archive.url(n), "file": n, "account": n.partition("-")[0]} for n in names]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    people, clients = [User(name="anna", password=PASSWORD)], [ClientApp(id="public")]
    identity, bad = (Identity(people, clients, policy=Policy()) for _ in range(2))
    app = web.Application()
    app.add_subapp(_PATH, bad.app())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    items = [Item(name=f"{account}-{n}.bin", size=300_000) for account in ("good", "bad") for n in range(4)]
    access = {"good": Access(header=identity), "bad": Access(header=bad)}
    async with Archive(items, access=access, identity=identity) as archive:
        yield Scene(archive, identity, bad, f"http://127.0.0.1:{runner.addresses[0][1]}{_PATH}")
    await runner.cleanup()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.environ["P"] = PASSWORD
    return place


async def run(place: Place, scene: Scene, **changes: Any):
    return await place.run(*scene.products(), accounts=scene.accounts(**changes))


def states(done) -> dict[str, set[State]]:
    found: dict[str, set[State]] = {"good": set(), "bad": set()}
    for name, outcome in done.outcomes.items():
        found[name.partition("-")[0]].add(outcome.state)
    return found


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (EndpointFault(status=200, body=b"<html>Sign in", headers=HTML), "a web page instead of a token"),
        (EndpointFault(status=200, body=b""), "not a JSON object"),
        (EndpointFault(status=200, body=b'{"access_token": "at'), "not a JSON object"),
        (EndpointFault(status=200, body=b'["at"]'), "not a JSON object"),
        (EndpointFault(status=200, body=b"\xff\xfe\x00"), "not a JSON object"),
        (EndpointFault(status=200, body={"token": "at"}), "without a usable access_token"),
        (EndpointFault(status=200, body={"access_token": {"a": 1}}), "without a usable access_token"),
        (EndpointFault(status=200, body={"access_token": "a\nb"}), "without a usable access_token"),
        (EndpointFault(status=200, body=b"x" * (2 << 20)), "more than 1 MiB"),
        (EndpointFault(status=204), "204"),
        (EndpointFault(status=302, headers={"Location": "https://evil.example/?p=1"}), "a redirect to https://evil"),
        (EndpointFault(status=307, headers={"Location": "//["}), "a redirect; it is not followed"),
        (EndpointFault(status=403, body=b"<html>Forbidden", headers=HTML), "403"),
        (EndpointFault(status=403), "403"),
        (EndpointFault(status=404, body=b"<html>"), "404"),
        (EndpointFault(status=400, body={"error": "unsupported_grant_type"}), "unsupported_grant_type"),
        (EndpointFault(status=400, body={"error": {"code": 1}, "error_description": ["x"]}), "400"),
        (EndpointFault(status=429, headers={"Retry-After": "999999999"}), "429"),
        (EndpointFault(status=503, headers={"Retry-After": "-1"}), "503"),
        (EndpointFault(drop=True), "was lost before the response"),
    ],
)
async def test_a_nonsense_response_stops_only_its_account(place, scene, fault, said):
    scene.bad.script(fault, times=1000)
    done = await run(place, scene)
    assert done.code == 3
    assert states(done) == {"good": {State.COMPLETED}, "bad": {State.PENDING}}
    (reason,) = done.result.pending_reasons
    assert said in reason
    assert reason.startswith("account bad: ")
    assert "Traceback" not in reason
    assert len(reason) < 600
    assert done.result.failed == 0
    assert not any(entry.file.startswith("bad") for entry in place.journal().values())


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_in": 1e300},
        {"expires_in": -1e300},
        {"expires_in": "never"},
        {"expires_in": None},
        {"expires_in": [], "refresh_expires_in": {}},
        {"refresh_expires_in": -5},
        {"token_type": 7, "refresh_token": 7},
    ],
)
async def test_absurd_lifetimes_do_not_stop_the_account(place, scene, changes):
    scene.bad.script(EndpointFault(body=changes), times=3)
    done = await run(place, scene)
    assert done.code == 0
    assert scene.bad.logins == 1


async def test_an_unreachable_endpoint_stops_only_its_account(place, scene):
    done = await run(place, scene, token_url="http://127.0.0.1:1/token")
    assert done.code == 3
    assert states(done) == {"good": {State.COMPLETED}, "bad": {State.PENDING}}
    assert "no connection to the token endpoint 127.0.0.1:1" in done.result.pending_reasons[0]


async def test_an_account_that_worked_before_its_endpoint_failed_is_not_exit_3(place, scene):
    """Exit code 3 means that an account never worked."""

    def watch(event: Event) -> None:
        if isinstance(event, ProductFinished) and event.outcome.file.startswith("bad"):
            scene.bad.end_sessions()
            scene.bad.script(EndpointFault(status=400, body={"error": "invalid_grant"}), times=9)

    done = await place.run(*scene.products(), accounts=scene.accounts(), watch=watch, workers=1)
    assert done.code == 1
    assert states(done)["bad"] == {State.COMPLETED, State.PENDING}


async def test_the_next_run_downloads_the_pending_products(place, scene):
    scene.bad.script(EndpointFault(status=200, body=b"<html>"), times=5)
    assert (await run(place, scene)).code == 3
    scene.bad._faults.clear()
    done = await run(place, scene)
    assert done.code == 0
    assert (done.result.skipped, done.result.completed) == (4, 4)
