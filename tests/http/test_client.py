"""The HTTP client: which hops receive the credential and the product's own headers, and which URL is recorded."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from bulkdl.core.models import FailureKind
from bulkdl.demo_server.access import Access, Given
from bulkdl.demo_server.catalog import Item
from bulkdl.demo_server.server import Archive, Route
from tests.canary import Canary
from tests.harness import Place, body_of
from tests.servers import RawRequest, RawServer, Wire, head, ranges, redirect, reply

if TYPE_CHECKING:
    from pathlib import Path

BODY = body_of(20_000)
SECRET = "canary-0123456789"


def place_with(tmp_path: Path, **account: Any) -> tuple[Place, dict[str, Any]]:
    place = Place(tmp_path)
    place.environ["TOKEN"] = SECRET
    return place, {"own": {"auth": "bearer", "token": "${TOKEN}", **account}}


def product(url: str, **more: Any) -> dict[str, Any]:
    return {"url": url, "file": "x.bin", "account": "own", **more}


async def test_a_redirect_to_another_host_has_neither_the_credential_nor_the_products_own_headers(tmp_path: Path):
    place, accounts = place_with(tmp_path)
    async with RawServer(ranges(BODY)) as other, RawServer(redirect(other.url("/there", host="localhost"))) as server:
        wish = product(server.url(), headers={"X-Key": "k", "Accept": "application/zip"})
        done = await place.run(wish, accounts=accounts)
        assert (done.code, place.file("x.bin")) == (0, BODY)
        assert server.log[0].header("Authorization") == f"Bearer {SECRET}"
        assert server.log[0].header("X-Key") == "k"
        assert (other.log[0].header("Authorization"), other.log[0].header("X-Key")) == (None, None)
        assert other.log[0].header("Referer") is None
        assert other.log[0].header("Accept") == "application/zip"


async def test_a_redirect_to_a_host_of_the_account_has_the_credential_and_the_headers(tmp_path: Path):
    place, accounts = place_with(tmp_path, hosts=["127.0.0.1", "localhost"])
    async with RawServer(ranges(BODY)) as other, RawServer(redirect(other.url("/there", host="localhost"))) as server:
        done = await place.run(product(server.url(), headers={"X-Key": "k"}), accounts=accounts)
        assert done.code == 0
        assert other.log[0].header("Authorization") == f"Bearer {SECRET}"
        assert other.log[0].header("X-Key") == "k"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_token_echoed_by_a_redirect_is_removed_and_added_again_only_for_allowed_hosts(
    host: str, tmp_path: Path
):
    place, accounts = place_with(tmp_path, token_in="query", hosts=["127.0.0.1"])

    async def echo(request: RawRequest, wire: Wire) -> None:
        await redirect(f"{other.url('/there', host=host)}?{request.query}")(request, wire)

    async with RawServer(ranges(BODY)) as other, RawServer(echo) as server:
        done = await place.run(product(server.url("/p?a=1")), accounts=accounts)
        assert done.code == 0
        assert server.log[0].query == f"a=1&token={SECRET}"
        assert other.log[0].query == ("a=1" if host == "localhost" else f"a=1&token={SECRET}")
    Canary(SECRET).assert_absent(tmp_path, repr(done.events), repr(done.result))


async def test_a_token_inside_another_field_of_a_redirect_does_not_reach_a_foreign_host(tmp_path: Path):
    place, accounts = place_with(tmp_path, token_in="query", hosts=["127.0.0.1"])

    async def come_back_later(request: RawRequest, wire: Wire) -> None:
        back = quote(server.url(f"/p?{request.query}"), safe="")
        await redirect(f"{other.url('/there', host='localhost')}?back={back}&b=2")(request, wire)

    async with RawServer(ranges(BODY)) as other, RawServer(come_back_later) as server:
        done = await place.run(product(server.url("/p?a=1")), accounts=accounts)
        assert done.code == 0
        assert other.log[0].query == "b=2"


async def test_a_redirect_with_the_token_in_its_path_is_not_followed_to_a_foreign_host(tmp_path: Path):
    place, accounts = place_with(tmp_path, token_in="query", hosts=["127.0.0.1"])

    async def in_the_path(request: RawRequest, wire: Wire) -> None:
        await redirect(other.url(f"/{request.query.partition('token=')[2]}/x", host="localhost"))(request, wire)

    async with RawServer(ranges(BODY)) as other, RawServer(in_the_path) as server:
        done = await place.run(product(server.url("/p?a=1")), accounts=accounts)
        assert done.code == 1
        assert done.result.failures[0].failure.kind is FailureKind.AUTH
        assert other.log == []
    Canary(SECRET).assert_absent(tmp_path, repr(done.events), repr(done.result))


@pytest.mark.timeout(12)  # a product that waits in vain for another's first answer would take 15 s of real time
async def test_several_products_start_at_once_although_the_archive_redirects_to_a_store_without_login(tmp_path: Path):
    items = [Item(name=f"p{n}.bin", size=5000, seed=n) for n in range(6)]
    place = Place(tmp_path)
    place.environ["PASSWORD"] = SECRET
    accounts = {"own": {"auth": "basic", "username": "jo", "password": "${PASSWORD}", "hosts": ["127.0.0.1"]}}
    async with Archive(items) as archive:
        urls = [{"url": archive.url(i, Route.ELSEWHERE), "file": i.name, "account": "own"} for i in items]
        done = await place.run(*urls, accounts=accounts, workers=6)
        assert done.code == 0
        assert all(r.given is Given.NONE for r in archive.log if r.origin == archive.other_origin)


async def test_a_wrong_password_is_sent_once_and_its_products_stay_pending_while_the_others_arrive(tmp_path: Path):
    items = [Item(name=f"p{n}.bin", size=5000, seed=n) for n in range(5)]
    place = Place(tmp_path)
    place.environ["PASSWORD"] = "wrong"
    accounts = {"own": {"auth": "basic", "username": "jo", "password": "${PASSWORD}"}}
    async with Archive(items, access={"p": Access(basic=("jo", "right")), "p4": Access()}) as archive:
        wishes = [{"url": archive.url(i), "file": i.name, "account": "own"} for i in items[:4]]
        done = await place.run(*wishes, {"url": archive.url(items[4])}, accounts=accounts, workers=5)
        assert (done.code, done.result.pending, done.result.completed, done.result.failed) == (3, 4, 1, 0)
        assert sum(r.had_credential for r in archive.log) == 1
    assert "refused" in done.result.accounts["own"].stopped


async def test_connections_are_used_again_for_the_next_products(tmp_path: Path):
    place = Place(tmp_path, workers=1)
    async with RawServer(ranges(BODY)) as server:
        done = await place.run(*[{"url": server.url(f"/{n}"), "file": f"{n}.bin"} for n in range(8)])
        assert (done.code, len(server.log), server.connections) == (0, 8, 1)


async def test_the_reason_of_a_refused_product_says_if_the_account_works(tmp_path: Path):
    place, accounts = place_with(tmp_path)

    async def respond(request: RawRequest, wire: Wire) -> None:
        await (reply(403) if request.path == "/no" else reply(200, BODY))(request, wire)

    async with RawServer(respond) as server:
        done = await place.run(
            product(server.url("/yes")), product(server.url("/no"), file="y.bin"), accounts=accounts, workers=1
        )
    kind, attempts, reason = done.failure
    assert (done.code, kind, attempts) == (1, "auth", 2)
    assert "own is signed in" in reason


async def test_a_host_that_is_not_listed_is_named_when_it_refuses(tmp_path: Path):
    place, accounts = place_with(tmp_path, hosts=["archive.example.org"])
    async with RawServer(reply(401)) as server:
        done = await place.run(product(server.url()), accounts=accounts)
        assert server.log[0].header("Authorization") is None
    assert "`hosts` do not list 127.0.0.1" in done.failure[2]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 with its key, in one PEM file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    made, key = tmp_path / "own.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    made.write_bytes(made.read_bytes() + key.read_bytes())
    return made


async def test_a_credential_never_goes_from_https_to_http_although_the_host_is_listed(
    tmp_path: Path, certificate: Path
):
    place, accounts = place_with(tmp_path, hosts=["127.0.0.1"])
    heads: list[bytes] = []

    async def secure(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {plain.url()}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()
        await writer.wait_closed()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with RawServer(ranges(BODY)) as plain:
        server = await asyncio.start_server(secure, "127.0.0.1", 0, ssl=context)
        async with server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
            done = await place.run(product(url, headers={"X-Key": "k"}), accounts=accounts, ca_file=certificate)
            assert done.code == 0, done.result.failures
            untrusted = await Place(tmp_path / "b").run(url)
        assert f"Bearer {SECRET}".encode() in heads[0]
        assert (plain.log[0].header("Authorization"), plain.log[0].header("X-Key")) == (None, None)
    assert (untrusted.code, untrusted.failure[:2]) == (1, ("network", 2))
    assert "certificate" in untrusted.failure[2]


async def test_a_token_that_expires_during_a_transfer_ends_nothing_and_the_resume_uses_the_next_token(tmp_path: Path):
    place, issued = Place(tmp_path), 0
    place.environ["PASSWORD"] = SECRET

    async def token(request: RawRequest, wire: Wire) -> None:
        nonlocal issued
        issued += 1
        body = f'{{"access_token": "access-{issued}", "refresh_token": "more-{issued}", "expires_in": 1.5}}'.encode()
        await wire.send(head(200, ("Content-Type", "application/json"), ("Content-Length", len(body))) + body)

    async def outlive_the_token(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", len(BODY)), ("ETag", '"1"')) + BODY[:1000])
        await asyncio.sleep(2)
        await wire.send(BODY[1000:3000])  # and then the connection is cut

    async with RawServer(token) as login, RawServer(outlive_the_token, ranges(BODY, etag='"1"')) as server:
        account = {"auth": "oidc", "token_url": login.url("/token"), "client_id": "public", "username": "jo"}
        done = await place.run(product(server.url()), accounts={"own": {**account, "password": "${PASSWORD}"}})
    assert done.code == 0
    first, second = server.log
    assert first.header("Authorization") == "Bearer access-1"
    assert second.header("Range") == "bytes=3000-"
    assert second.header("Authorization") not in {None, "Bearer access-1"}
    assert done.result.failed == 0
