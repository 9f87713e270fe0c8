"""Accounts: the sources of secrets, and the hosts that do and do not receive credentials."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.demo_server.access import Given
from bulkdl.demo_server.catalog import Item
from bulkdl.demo_server.server import Archive
from tests.contract.program import SECRETS, TOTP_SECRETS, Done, Place, Site, Stage
from tests.servers import RawRequest, redirect, reply

if TYPE_CHECKING:
    from pathlib import Path

ARTICLE = f"""\
[login]
user = ines
password = {SECRETS["INES_PASSWORD"]}
totp_secret = {TOTP_SECRETS["ines"]}
"""


class Night:
    """One run with an account of every kind, each with one or two products."""

    def __init__(self, site: Site, place: Place) -> None:
        self.site, self.place = site, place
        prefixes = {
            "password": "header-",
            "again": "header-",
            "totp": "query-",
            "article": "query-",
            "field": "field-",
            "client": "header-",
            "basic": "basic-",
            "bearer": "bearer-",
            "netrc": "header-",
            "none": "open-",
        }
        self.items: dict[str, Item] = {name: site.item(prefix) for name, prefix in prefixes.items()}
        self.redirected = {"same": site.item("query-"), "elsewhere": site.item("open-"), "listed": site.item("header-")}
        place.text(ARTICLE, name="secrets.conf")
        (place.cwd / "secrets.conf").chmod(0o600)
        netrc = place.home / ".netrc"
        netrc.write_text(f"machine 127.0.0.1\n  login nat\n  password {SECRETS['NETRC_PASSWORD']}\n")
        netrc.chmod(0o600)
        products: list[Any] = [
            site.entry(item, account="password" if name == "again" else name) for name, item in self.items.items()
        ]
        products += [
            site.entry(self.redirected["same"], url=site.url(self.redirected["same"], "catalogue"), account="totp"),
            site.entry(
                self.redirected["elsewhere"], url=site.url(self.redirected["elsewhere"], "elsewhere"), account="totp"
            ),
            site.entry(self.redirected["listed"], url=site.url(self.redirected["listed"], "elsewhere"), account="wide"),
        ]
        place.write(products, accounts=self._accounts())
        self.before = len(site.identity.log)
        self.done: Done = place.run("--retries", "2")
        self.calls = site.identity.log[self.before :]

    def _accounts(self) -> dict[str, Any]:
        site = self.site
        other = site.archive.other_origin.removeprefix("http://")
        return {
            "password": site.oidc(scope="openid"),
            "totp": site.oidc("tina", totp_secret="${TINA_TOTP}", token_in="query"),
            "article": site.oidc("ines", username=..., password=..., secrets="secrets.conf", token_in="query"),
            "field": site.oidc(token_in="query", token_param="access"),
            "client": {
                "auth": "oidc",
                "token_url": site.archive.token_url,
                "client_id": "robot",
                "client_secret": "${OWN_SECRET}",
                "grant": "client_credentials",
            },
            "basic": {"auth": "basic", "username": "bo", "password": "${BASIC_PASSWORD}"},
            "bearer": {"auth": "bearer", "token": "${FIXED_TOKEN}"},
            "netrc": {"auth": "oidc", "token_url": site.archive.token_url, "client_id": "public"},
            "none": {"auth": "none"},
            "wide": site.oidc(hosts=["127.0.0.1", other]),
        }


@pytest.fixture(scope="module")
def night(site: Site, shared_place: Place) -> Night:
    return Night(site, shared_place)


def test_every_kind_of_account_downloads_its_products(night: Night):
    assert (night.done.code, night.done.summary["failures"]) == (0, []), night.done.err
    for item in (*night.items.values(), *night.redirected.values()):
        assert night.place.get(item.name) == item.read(), item.name


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("password", Given.HEADER),
        ("client", Given.HEADER),
        ("netrc", Given.HEADER),
        ("totp", Given.QUERY),
        ("article", Given.QUERY),
        ("field", Given.QUERY),
        ("basic", Given.BASIC),
        ("bearer", Given.HEADER),
        ("none", Given.NONE),
    ],
)
def test_a_credential_goes_where_its_account_says(name: str, way: Given, night: Night):
    assert {record.given for record in night.site.archive.requests(night.items[name])} == {way}


def test_the_summary_counts_the_logins_of_each_account(night: Night):
    logins = {name: use["logins"] for name, use in night.done.summary["accounts"].items()}
    # Two accounts with the same user at the same place may share one login.
    assert logins.pop("field") + logins.pop("wide") in {1, 2}
    one = ("password", "totp", "article", "client", "netrc")
    assert {name: count for name, count in logins.items() if count} == dict.fromkeys(one, 1)


def test_one_login_serves_all_products_of_an_account_and_no_code_is_refused(night: Night):
    assert [call for call in night.calls if call.error] == []
    assert sum(call.user == "tina" and call.kind == "password" for call in night.calls) == 1


def test_a_token_in_the_query_is_put_on_again_at_each_hop_that_may_have_it(night: Night):
    item = night.redirected["same"]
    hops = [record for record in night.site.archive.log if record.item == item.name]
    assert {record.path.split("/")[1] for record in hops} == {"catalogue", "download"}
    assert {record.given for record in hops} == {Given.QUERY}


def test_a_redirect_to_a_host_that_is_not_listed_is_followed_without_credential_and_referer(night: Night):
    item = night.redirected["elsewhere"]
    first, *rest = (record for record in night.site.archive.log if record.item == item.name)
    assert first.given is Given.QUERY
    assert rest
    for record in rest:
        assert record.given is Given.NONE
        assert not {"Referer", "Authorization", "Cookie"} & set(record.headers)


def test_a_redirect_to_a_listed_host_and_port_has_the_credential(night: Night):
    item = night.redirected["listed"]
    hops = [record for record in night.site.archive.log if record.item == item.name]
    assert {record.origin for record in hops} == {night.site.archive.origin, night.site.archive.other_origin}
    assert {record.given for record in hops} == {Given.HEADER}


def test_tokens_are_in_no_file(night: Night):
    tokens = tuple(night.site.identity._access)
    assert tokens
    assert night.place.leaks(*tokens) == []


HOSTS = {"localhost": True, "localhost:{port}": True, "localhost:1": False, "*.localhost": False, "ocalhost": False}


@pytest.fixture(scope="module")
def listed(site: Site, tmp_path_factory) -> dict[str, bool]:
    """Entry of `hosts` -> True if a redirect to localhost received the credential."""
    place, paths = Place(tmp_path_factory.mktemp("hosts")), {entry: f"/hosts-{n}" for n, entry in enumerate(HOSTS)}
    accounts = {}
    for entry, path in paths.items():
        site.routes[path] = redirect(site.raw.url(f"{path}-there", host="localhost"))
        site.routes[f"{path}-there"] = reply(200, b"there")
        hosts = ["127.0.0.1", entry.replace("{port}", str(site.raw.port))]
        accounts[path] = {"auth": "bearer", "token": "${FIXED_TOKEN}", "hosts": hosts}
    place.write([{"url": site.raw.url(path), "account": path} for path in paths.values()], accounts=accounts)
    assert place.run().code == 0
    assert all(has_token(site.routes.of(path)[0]) for path in paths.values())
    return {entry: has_token(site.routes.of(f"{path}-there")[0]) for entry, path in paths.items()}


@pytest.mark.parametrize("entry", HOSTS)
def test_an_entry_of_hosts_is_a_name_or_a_name_with_its_port_or_a_suffix(entry: str, listed: dict[str, bool]):
    assert listed[entry] is HOSTS[entry]


def has_token(request: RawRequest) -> bool:
    return any(SECRETS["FIXED_TOKEN"] in value for _, value in request.headers)


def test_a_credential_without_hosts_goes_to_the_host_of_the_product_alone(site: Site, place: Place):
    site.routes["/own"] = redirect(site.raw.url("/own-elsewhere", host="localhost"))
    site.routes["/own-elsewhere"] = redirect(site.raw.url("/own-back"))
    site.routes["/own-back"] = reply(200, b"back")
    place.write(
        [{"url": site.raw.url("/own"), "file": "x.bin", "account": "a"}],
        accounts={"a": {"auth": "basic", "username": "bo", "password": "${BASIC_PASSWORD}"}},
    )
    assert place.run().code == 0
    sent = [bool(site.routes.of(path)[0].header("Authorization")) for path in ("/own", "/own-elsewhere", "/own-back")]
    assert sent == [True, False, True]


MISSING = {
    "NOT_SET_ANYWHERE": {"auth": "bearer", "token": "${NOT_SET_ANYWHERE}"},
    "nowhere.conf": {"auth": "basic", "secrets": "nowhere.conf"},
    "password": {"auth": "basic", "username": "bo"},
}
"""Secret named in the message, and an account that lacks it."""


def test_an_account_whose_secret_is_missing_leaves_its_products_pending_and_others_arrive(site: Site, place: Place):
    fine, lost = site.item(), [site.item("basic-") for _ in MISSING]
    products = [site.entry(item, account=name) for item, name in zip(lost, MISSING, strict=True)]
    place.write([*products, site.entry(fine)], accounts=MISSING)
    done = place.run()
    assert (done.code, done.counts, done.summary["failures"]) == (3, {"completed": 1, "pending": 3}, [])
    assert not any(site.archive.requests(item) for item in lost)
    assert [name for name in MISSING if name not in done.err] == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """Create a certificate with key for localhost and 127.0.0.1."""
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("makes a certificate with the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {cert}"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run([tool, *words.split(), "-addext", names], check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="module")
def secure(stage: Stage, certificate: tuple[Path, Path]):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with stage.running(Archive([Item(name="tls.bin", size=700)], ssl_context=context)) as archive:
        yield archive


@pytest.mark.parametrize("way", ["manifest", "variable", "SSL_CERT_FILE", "nothing"])
def test_a_custom_certificate_is_trusted_if_configured(
    way: str, secure: Archive, certificate: tuple[Path, Path], place: Place
):
    cert = str(certificate[0])
    item = secure.items["tls.bin"]
    settings = {"settings": {"ca_file": cert}} if way == "manifest" else {}
    place.write([{"url": secure.url(item), "size": item.size}], **settings)
    env = {"variable": {"BULKDL_CA_FILE": cert}, "SSL_CERT_FILE": {"SSL_CERT_FILE": cert}}.get(way, {})
    done = place.run("--retries", "0", env={"SSL_CERT_FILE": "", **env})
    if way == "nothing":
        assert (done.code, done.kind("tls.bin")) == (1, "network")
    else:
        assert done.code == 0, done.err


def test_a_credential_never_goes_from_https_to_http(
    secure: Archive, stage: Stage, certificate: tuple[Path, Path], site: Site, place: Place
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    site.routes["/plain"] = reply(200, b"in the clear")
    with stage.running(_Downgrade(context, site.raw.url("/plain"))) as origin:
        place.write(
            [{"url": f"{origin}/x", "file": "x.bin", "account": "a"}],
            accounts={"a": {"auth": "bearer", "token": "${FIXED_TOKEN}", "hosts": ["127.0.0.1"]}},
        )
        done = place.run("--retries", "0", "--ca-file", certificate[0])
    assert not any(has_token(request) for request in site.routes.of("/plain"))
    assert place.get("x.bin") == (b"in the clear" if done.code == 0 else None)


class _Downgrade:
    """TLS server that redirects every request to one plain HTTP URL."""

    def __init__(self, context: ssl.SSLContext, target: str) -> None:
        self._context, self._target = context, target

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=self._context)
        return f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _answer(self, reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            f"HTTP/1.1 302 Found\r\nLocation: {self._target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()
