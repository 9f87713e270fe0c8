"""Login scenarios that need the whole program: signals, two runs at once, a session that ends during downloads."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pytest
import yaml

from bulkdl.demo_server.access import Access
from bulkdl.demo_server.catalog import Item
from bulkdl.demo_server.server import Archive

from .backends import PASSWORD, KeycloakBackend, base32, introspect, new_name
from .products import write_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from .keycloak import Keycloak
    from .program import Done, Program, Running

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

REALM = "eo-auth"
KIB = 1 << 10
PRODUCTS = 24


@dataclass(frozen=True, slots=True)
class Introspection:
    """Check every token by Keycloak's introspection, as an archive behind a gateway does."""

    keycloak: Keycloak

    def check(self, token: str) -> bool:
        return introspect(self.keycloak, REALM, token)


class Place:
    """The embedded archive with a real Keycloak, users, and manifests."""

    def __init__(self, keycloak: Keycloak, program: Program, folder: Path) -> None:
        self.server = KeycloakBackend(keycloak)
        self.folder = folder
        self._keycloak = keycloak
        self._program = program
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        items = [Item(name=f"product{number:02}.bin", size=200 * KIB) for number in range(PRODUCTS)]
        access = {"": Access(header=Introspection(self._keycloak))}
        self.archive = await self._stack.enter_async_context(Archive(items, access=access))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def person(self, **given: Any) -> str:
        name = new_name()
        self.server.add(REALM, name, password=PASSWORD, totp_key=given.get("totp_key"), enabled=True)
        return name

    def manifest(self, name: str, destination: str, **account: object) -> Path:
        access = {
            "auth": "oidc",
            "token_url": self._keycloak.token_url(REALM),
            "client_id": "short",
            "username": name,
            "password": "${PERSON_PASSWORD}",
            "hosts": ["127.0.0.1"],
            **account,
        }
        products = [
            {
                "url": self.archive.url(item.name),
                "account": "own",
                "file": item.name,
                "checksum": f"md5:{item.digest()}",
            }
            for item in self.archive.items
        ]
        folder = self.folder / destination
        folder.mkdir()
        return write_manifest(folder / "m.yaml", products, accounts={"own": access})

    def start(self, manifest: Path, *arguments: str, **environ: str) -> Running:
        more = ("--json", "--progress", "plain", "--workers", "4", *arguments)
        return self._program.start("run", manifest, *more, env={"PERSON_PASSWORD": PASSWORD, **environ})

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - another process sets no event here
            await asyncio.sleep(0.02)

    def served(self) -> int:
        return sum(record.bytes_sent for record in self.archive.log)


async def ended(running: Running) -> Done:
    return await asyncio.to_thread(running.done)


@pytest.fixture
async def place(keycloak: Keycloak, program: Program, tmp_path: Path) -> AsyncIterator[Place]:
    async with Place(keycloak, program, tmp_path) as place:
        yield place


async def test_a_session_ended_by_an_administrator_during_downloads_costs_one_login(place: Place, figure):
    name = place.person()
    manifest = place.manifest(name, "killed", client_id="public")
    place.archive.rate = 400 * KIB
    running = place.start(manifest)
    await place.until(lambda: place.served() > 600 * KIB)
    place.server.end_sessions(REALM, name)
    place.archive.rate = None
    done = await ended(running)
    assert done.code == 0, done.err
    assert done.summary["products"]["completed"] == PRODUCTS
    counts = place.server.counts(REALM, name)
    assert (counts.logins, counts.failed_logins, counts.sessions) == (2, 0, 0)
    figure(f"session killed with products in flight: {counts.logins - 1} further login, 0 failed products")


async def test_ctrl_c_saves_progress_and_logs_out(place: Place):
    name = place.person()
    place.archive.rate = 200 * KIB
    running = place.start(place.manifest(name, "stopped"))
    await place.until(lambda: place.served() > 100 * KIB)
    running.process.send_signal(signal.SIGINT)
    done = await ended(running)
    assert done.code == 130, done.err
    assert place.server.counts(REALM, name).sessions == 0


async def test_a_clean_end_logs_out(place: Place):
    name = place.person()
    done = await ended(place.start(place.manifest(name, "clean")))
    assert done.code == 0, done.err
    counts = place.server.counts(REALM, name)
    assert (counts.logins, counts.sessions) == (1, 0)


async def test_two_runs_at_once_with_one_account_do_not_break_each_other(place: Place):
    name = place.person()
    runs = [place.start(place.manifest(name, folder)) for folder in ("one", "two", "three")]
    for done in await asyncio.gather(*map(ended, runs)):
        assert done.code == 0, done.err
        assert done.summary["accounts"]["own"]["logins"] == 1
    counts = place.server.counts(REALM, name)
    assert (counts.logins, counts.failed_logins, counts.sessions) == (3, 0, 0)


async def test_two_runs_at_once_with_one_account_and_one_time_codes_take_turns(place: Place, figure):
    key = "two runs and one key"
    name = place.person(totp_key=key)
    given = {"totp_secret": "${PERSON_TOTP}"}
    runs = [place.start(place.manifest(name, folder, **given), PERSON_TOTP=base32(key)) for folder in ("one", "two")]
    for done in await asyncio.gather(*map(ended, runs)):
        assert done.code == 0, done.err
        assert done.summary["products"]["completed"] == PRODUCTS
    counts = place.server.counts(REALM, name)
    assert (counts.logins, counts.failed_logins, counts.sessions) == (2, 0, 0)
    figure(f"two runs at once with one TOTP account: {counts.logins} logins, {counts.failed_logins} refusals")


async def test_a_wrong_password_is_tried_once_by_a_whole_run_and_its_products_stay_pending(place: Place):
    name = place.person()
    done = await ended(place.start(place.manifest(name, "wrong"), "--workers", "50", PERSON_PASSWORD="wrong one"))
    assert done.code == 3
    assert done.summary["products"]["pending"] == PRODUCTS
    assert place.server.counts(REALM, name).failed_logins == 1
    again = await ended(place.start(place.folder / "wrong" / "m.yaml"))
    assert again.code == 0, again.err


async def test_two_accounts_that_are_the_same_log_in_once(place: Place):
    name = place.person()
    manifest = place.manifest(name, "twice")
    data = yaml.safe_load(manifest.read_text())
    data["accounts"]["also"] = dict(data["accounts"]["own"])
    for product in data["products"][::2]:
        product["account"] = "also"
    manifest.write_text(yaml.safe_dump(data))
    done = await ended(place.start(manifest))
    assert done.code == 0, done.err
    assert sum(account["logins"] for account in done.summary["accounts"].values()) == 1
    assert place.server.counts(REALM, name).logins == 1
