"""A run leaves and shows no secret. We search every artefact for planted canaries, raw and encoded."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import pytest
import yaml
from aiohttp import web

from bulkdl.demo_server.token_server import ClientApp, EndpointFault, Identity, Policy, User
from tests.canary import Canary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PATH = "/auth/realms/demo/protocol/openid-connect"
PASSWORD, WRONG = Canary("pÄss+7 &w%rd/1"), Canary("wröng+7 &w%rd/2")
CLIENT_SECRET, BASIC = Canary("cl1ent+7 &s%cr€t/"), Canary("b4sic+7 &s%cr€t/")
TOTP = Canary("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
USERNAME = "jo@example.org"


class Planting(Identity):
    """Issues tokens with characters that encodings change, and records them."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.tokens: list[str] = []

    def _mint(self, session: Any, lifetime: float) -> str:
        plain = super()._mint(session, lifetime)
        token = f"at+/%&={plain}"
        self._access[token] = self._access.pop(plain)
        self.tokens.append(token)
        return token

    def canaries(self) -> list[Canary]:
        return [Canary(token) for token in (*self.tokens, *self._refresh)]


class Hostile:
    """An archive that repeats every token in each part of its responses."""

    def __init__(self) -> None:
        users = [
            User(name=USERNAME, password=PASSWORD.value, totp_secret=TOTP.value),
            User(name="plain", password=PASSWORD.value),
        ]
        clients = [ClientApp(id="public"), ClientApp(id="secret", secret=CLIENT_SECRET.value)]
        self.identity = Planting(users, clients, policy=Policy(expires_in=2))
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_subapp(_PATH, self.identity.app())
        app.router.add_post("/echo/token", self._echo_form)
        app.router.add_get("/{way}/{rest:.*}", self._product)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        for _ in range(2):
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url, self.other = (f"http://127.0.0.1:{port}" for _, port in self._runner.addresses)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _echo_form(self, request: web.Request) -> web.Response:
        form = (await request.text())[:500]
        said = {"error": "invalid_grant", "error_description": f"{form} {(await request.post()).get('password')}"}
        return web.json_response(said, status=401)

    async def _product(self, request: web.Request) -> web.Response:
        way = request.match_info["way"]
        token = request.query.get("token") or request.headers.get("Authorization", "").partition(" ")[2] or "none"
        echo, coded = {"detail": token, "url": str(request.url)}, quote(token, safe="")
        match way:
            case "missing":
                return web.json_response(echo, status=404)
            case "forbidden":
                challenge = f'Bearer error="insufficient_scope", error_description="{coded}"'
                return web.json_response(echo, status=403, headers={"WWW-Authenticate": challenge})
            case "refused":
                return web.json_response({**echo, "error": "invalid_token"}, status=401)
            case "broken":
                return web.json_response(echo, status=500, reason="Broken")
            case "page":
                return web.Response(text=f"<!doctype html><title>{token}</title>", content_type="text/html")
            case "query":
                return _redirect(f"{self.url}/open/{request.match_info['rest']}?token={coded}&also={coded}")
            case "away":
                return _redirect(f"{self.other}/missing/x?token={coded}#{coded}")
            case "loop":
                return _redirect(f"/loop/{coded}/{request.match_info['rest'][:9]}?again={coded}")
            case "nowhere":
                return _redirect(f"http://[{coded}/")
            case "dead":
                return _redirect(f"http://127.0.0.1:1/{coded}?token={coded}")
            case _:
                return web.Response(body=b"product " * 20_000, content_type="application/octet-stream")

    def manifest(self) -> dict[str, Any]:
        oidc = {"auth": "oidc", "token_url": f"{self.url}{_PATH}/token", "hosts": [self.url.partition("//")[2]]}
        own = {"username": "${U}", "password": "${P}"}
        accounts = {
            "header": {**oidc, **own, "client_id": "public", "totp_secret": "${T}"},
            "query": {
                **oidc, **own, "username": "plain", "client_id": "secret", "client_secret": "${C}", "token_in": "query",
            },
            "basic": {"auth": "basic", "username": "${U}", "password": "${B}", "hosts": oidc["hosts"]},
            "wrong": {
                **oidc, **own, "password": "${W}", "client_id": "public", "token_url": f"{self.url}/echo/token",
            },
        }  # fmt: skip
        ways = ["open", "missing", "forbidden", "refused", "broken", "page", "query", "away", "loop", "nowhere", "dead"]
        products = [
            {"url": f"{self.url}/{way}/{account}.bin", "account": account, "file": f"{account}-{way}.bin"}
            for account in accounts
            for way in ways
        ]
        settings = {"workers": 4, "retries": 2, "timeout": 5, "retry_for": 0, "give_up_after": 5}
        return {"version": 1, "settings": settings, "accounts": accounts, "products": products}


def _redirect(location: str) -> web.Response:
    return web.Response(status=302, headers={"Location": location, "Referer": location})


@pytest.fixture
async def hostile() -> AsyncIterator[Hostile]:
    async with Hostile() as running:
        yield running


def environment(folder: Path) -> dict[str, str]:
    secrets = {"U": USERNAME, "P": PASSWORD.value, "W": WRONG.value, "B": BASIC.value}
    more = {"C": CLIENT_SECRET.value, "T": TOTP.value, "BULKDL_STATE_DIR": str(folder / "state")}
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONUTF8": "1", **secrets, **more}


async def program(folder: Path, *words: str) -> tuple[int, bytes]:
    """Run bulkdl; return its exit code and everything that it printed or showed while it ran."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bulkdl", *words),
        cwd=folder,
        env=environment(folder),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = asyncio.ensure_future(process.communicate())
    seen: dict[bytes, None] = {}
    while not output.done():
        await asyncio.wait({output}, timeout=0.1)
        titles = [Path(f"/proc/{process.pid}/{name}") for name in ("cmdline", "comm")]
        for path in (*titles, *(folder / "products" / ".bulkdl").glob("*"), *(folder / "state").glob("*")):
            try:
                seen[path.name.encode() + b"\n" + path.read_bytes()] = None  # the journal's WAL is gone at the end
            except OSError:
                continue
    out, _ = await output
    assert process.returncode is not None
    return process.returncode, b"\n".join((out, *seen))


def canaries(hostile: Hostile) -> list[Canary]:
    pairs = [f"{USERNAME}:{secret.value}" for secret in (PASSWORD, BASIC)]
    encoded = [Canary(base64.b64encode(pair.encode()).decode()) for pair in pairs]
    return [
        PASSWORD,
        WRONG,
        CLIENT_SECRET,
        BASIC,
        TOTP,
        Canary(TOTP.value.lower()),
        *encoded,
        *hostile.identity.canaries(),
    ]


async def test_a_run_full_of_failures_leaves_no_secret_in_any_artefact(hostile, tmp_path):
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(hostile.manifest()))
    words = ("--destination", "products", "--log-file", "log.txt", "--report", "report.html", "-vv")
    code, shown = await program(tmp_path, "run", "m.yaml", "--json", "--progress", "json", *words)
    assert code == 3
    assert b'"kind": "auth"' in shown
    assert len(hostile.identity.tokens) >= 2
    assert hostile.identity._refresh
    assert (tmp_path / "log.txt").stat().st_size > 1000
    assert (tmp_path / "report.html").stat().st_size > 1000
    assert b"SQLite format" in shown
    for canary in canaries(hostile):
        canary.assert_absent(shown, tmp_path, "\n".join(str(path) for path in tmp_path.rglob("*")))


@pytest.mark.parametrize(
    "words", [("status",), ("check",), ("login", "-vv"), ("login", "--json"), ("report", "-o", "r.html")]
)
async def test_no_other_command_shows_a_secret(hostile, tmp_path, words):
    manifest = hostile.manifest()
    del manifest["accounts"]["header"]["totp_secret"]
    hostile.identity.users[USERNAME] = User(name=USERNAME, password=PASSWORD.value)
    hostile.identity.script(EndpointFault(), EndpointFault(status=503, body=PASSWORD.value.encode()))
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(manifest))
    command, *more = words
    _, shown = await program(tmp_path, command, "m.yaml", "--destination", "products", *more)
    assert shown
    for canary in canaries(hostile):
        canary.assert_absent(shown, tmp_path)


async def test_the_search_would_find_what_a_run_leaks(hostile, tmp_path):
    """The environment holds the secrets, so a program that prints it fails this search."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import os; print(dict(os.environ))"),
        env=environment(tmp_path),
        stdout=asyncio.subprocess.PIPE,
    )
    shown, _ = await process.communicate()
    for canary in (PASSWORD, WRONG, CLIENT_SECRET, BASIC, TOTP):
        with pytest.raises(AssertionError, match="leaked"):
            canary.assert_absent(shown)
