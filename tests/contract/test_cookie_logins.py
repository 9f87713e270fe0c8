"""Archives whose login is by cookies: the archive redirects to a login host, gives a cookie and wants it back."""

from __future__ import annotations

import asyncio
import base64
from contextlib import contextmanager

import pytest

from tests.contract.program import SECRETS
from tests.servers import RawServer, head, reply

BODY = b"x" * 5000
RIGHT = "Basic " + base64.b64encode(f"bo:{SECRETS['BASIC_PASSWORD']}".encode()).decode()


class CookieArchive:
    """An archive on 127.0.0.1 and its login host on `localhost`."""

    def __init__(self, *, remembers: int = 1000, sessions_end_after: int = 10**9, refusal: bytes | None = None) -> None:
        """`remembers`: only so many of the last states are valid; `refusal`: response to a right session."""
        self.remembers = remembers
        self.sessions_end_after = sessions_end_after
        self.refusal = refusal
        self.archive = RawServer(self.product)
        self.login = RawServer(self.log_in)
        self.states: list[str] = []
        self.sessions: dict[str, int] = {}
        self.refused = 0
        self.passwords: list[str | None] = []

    async def product(self, request, wire) -> None:
        cookies = (request.header("Cookie") or "").split("; ")
        if request.path == "/callback":
            state = request.query.removeprefix("state=")
            if f"state={state}" not in cookies or state not in self.states[-self.remembers :]:
                self.refused += 1
                await reply(403, b"state mismatch")(request, wire)
                return
            session = f"ab/{len(self.sessions)}=="
            self.sessions[session] = 0
            await wire.send(
                head(
                    302,
                    ("Location", "/p/" + state.partition("-")[2]),
                    ("Set-Cookie", f"sid={session}; Path=/"),
                    ("Content-Length", 0),
                )
            )
            return
        session = next((c.removeprefix("sid=") for c in cookies if c.startswith("sid=")), "")
        if session in self.sessions and self.sessions[session] < self.sessions_end_after:
            self.sessions[session] += 1
            await reply(200, BODY)(request, wire) if self.refusal is None else await wire.send(self.refusal)
            return
        state = f"{len(self.states)}/=-{request.path.removeprefix('/p/')}"
        self.states.append(state)
        where = f"http://localhost:{self.login.port}/authorize?state={state}"
        await asyncio.sleep(0)
        await wire.send(head(302, ("Location", where), ("Set-Cookie", f"state={state}; Path=/"), ("Content-Length", 0)))

    async def log_in(self, request, wire) -> None:
        self.passwords.append(request.header("Authorization"))
        if self.passwords[-1] != RIGHT:
            await reply(401, b"no")(request, wire)
            return
        where = f"http://127.0.0.1:{self.archive.port}/callback?{request.query}"
        await wire.send(head(302, ("Location", where), ("Content-Length", 0)))


@contextmanager
def running(stage, there):
    with stage.running(there.archive), stage.running(there.login):
        yield there


def manifest(place, there, *, count=30):
    accounts = {
        "bo": {"auth": "basic", "username": "bo", "password": "${BASIC_PASSWORD}", "hosts": ["localhost"]},
    }
    products = [{"url": there.archive.url(f"/p/{n}"), "file": f"{n:02d}.bin", "account": "bo"} for n in range(count)]
    place.write(products, accounts=accounts)


@pytest.mark.parametrize("remembers", [1000, 1], ids=["compares the cookie", "remembers the last state"])
def test_one_product_logs_in_and_the_others_have_its_session(stage, place, remembers):
    with running(stage, CookieArchive(remembers=remembers)) as there:
        manifest(place, there)
        done = place.run("-j", "8")
        assert (done.code, done.counts) == (0, {"completed": 30}), done.err
        assert (there.refused, len(there.passwords)) == (0, 1)


@pytest.mark.parametrize("remembers", [1000, 1], ids=["compares the cookie", "remembers the last state"])
def test_sessions_that_end_in_the_run_are_renewed(stage, place, remembers):
    with running(stage, CookieArchive(remembers=remembers, sessions_end_after=10)) as there:
        manifest(place, there, count=60)
        done = place.run("-j", "8")
        assert (done.code, done.counts) == (0, {"completed": 60}), done.out


REFUSAL = b'{"error":"EULA not accepted","detail":"accept it at https://x.org/eula"}'


def test_an_archive_that_refuses_after_the_login_is_not_suggested_for_hosts(stage, place):
    refusal = head(403, ("Content-Type", "application/json"), ("Content-Length", len(REFUSAL))) + REFUSAL
    with running(stage, CookieArchive(refusal=refusal)) as there:
        manifest(place, there, count=12)
        done = place.run("-j", "4")
        assert (done.code, done.counts) == (1, {"failed": 12})
        assert set(there.passwords) == {RIGHT}
    for failure in done.failures.values():
        assert failure["kind"] == "auth"
        assert "`hosts`" not in failure["reason"]
        assert "signed in at localhost" in failure["reason"]


def test_a_login_host_without_cookies_holds_nobody_up(stage, place):
    """Each product is refused by the archive itself, after Basic at the login host; all of them are in flight at once."""
    seen: list[str] = []
    both = asyncio.Event()

    async def archive(request, wire) -> None:
        if "ticket" in request.query:
            seen.append(request.path)
            if len(seen) > 1:
                if len(seen) >= 3:
                    both.set()
                await asyncio.wait_for(both.wait(), 60)
            await reply(403, REFUSAL, ("Content-Type", "application/json"))(request, wire)
            return
        where = f"http://localhost:{login.port}/?{request.path}"
        await wire.send(head(302, ("Location", where), ("Content-Length", 0)))

    async def log_in(request, wire) -> None:
        assert request.header("Authorization") == RIGHT
        where = f"http://127.0.0.1:{server.port}{request.query}?ticket=1"
        await wire.send(head(302, ("Location", where), ("Content-Length", 0)))

    server, login = RawServer(archive), RawServer(log_in)
    with stage.running(server), stage.running(login):
        accounts = {"bo": {"auth": "basic", "username": "bo", "password": "${BASIC_PASSWORD}", "hosts": ["localhost"]}}
        place.write(
            [{"url": server.url(f"/{n}"), "file": f"{n}", "account": "bo"} for n in range(6)], accounts=accounts
        )
        done = place.run("-j", "3")
    assert (done.code, done.counts) == (1, {"failed": 6})
    assert "`hosts`" not in done.failures["0"]["reason"]


def test_a_wrong_password_at_the_login_host_is_sent_once(stage, place):
    with running(stage, CookieArchive()) as there:
        manifest(place, there, count=12)
        done = place.run("-j", "4", env={"BASIC_PASSWORD": "wrong-canary"})
        assert (done.code, len(there.passwords)) == (3, 1)


def test_cookies_of_one_account_never_go_with_another(stage, place):
    async def archive(request, wire) -> None:
        name = request.path.rpartition("/")[2]
        await wire.send(head(200, ("Content-Length", 1), ("Set-Cookie", f"sid={name}; Path=/")) + b"x")

    server = RawServer(archive)
    with stage.running(server):
        accounts = {name: {"auth": "none", "hosts": ["127.0.0.1"]} for name in ("one", "two")}
        products = [{"url": server.url(f"/{a}/{n}"), "file": f"{a}{n}", "account": a} for n in "123" for a in accounts]
        place.write([*products, *({"url": server.url(f"/free/{n}"), "file": n} for n in "123")], accounts=accounts)
        assert place.run("-j", "1").code == 0
        for request in server.log:
            owner, number = request.path.split("/")[1:]
            expected = None if number == "1" else f"sid={int(number) - 1}"
            assert request.header("Cookie") == expected, owner
