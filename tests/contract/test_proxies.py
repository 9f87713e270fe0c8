"""Proxies: which one a request takes, and what the user reads if it is the proxy that fails."""

from __future__ import annotations

import socket

import pytest

from tests.contract.program import SECRETS
from tests.proxies import HttpProxy, SocksProxy
from tests.servers import ranges, reply
from tests.tls import TlsServer, make_certificate, server_context

BODY = b"x" * 300_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


def unused_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("form", ["{}", "http://{}", "http://{}/", "HTTP://{}", " {}"])
def test_logins_and_products_take_the_same_proxy(stage, site, place, variable, form):
    item = site.item("header-")
    place.write([site.entry(item, account="jo")], accounts={"jo": site.oidc(hosts=["127.0.0.1"])})
    with stage.running(HttpProxy()) as proxy:
        done = place.run(env={variable: form.format(proxy.address)})
        assert done.code == 0, done.err
        asked = {line.split("?")[0] for line in proxy.log}
    assert f"POST {site.archive.token_url}" in asked
    assert f"GET {site.url(item)}" in asked


@pytest.mark.parametrize("command", ["check --remote", "login", "login --rehearse"])
def test_other_commands_take_the_proxy_as_well(stage, site, place, command):
    item = site.item("header-")
    manifest = place.write([site.entry(item, account="jo")], accounts={"jo": site.oidc(hosts=["127.0.0.1"])})
    before = site.requests
    with stage.running(HttpProxy()) as proxy:
        name, *flags = command.split()
        done = place(name, manifest, *flags, env={"http_proxy": proxy.address})
        assert done.code == 0, done.err
        assert len(proxy.log) == site.requests - before


@pytest.mark.parametrize(
    ("environ", "proxied"),
    [
        ({"HTTP_PROXY": "{}"}, True),
        ({"https_proxy": "{}"}, False),
        ({"http_proxy": "{}", "no_proxy": "127.0.0.0/8"}, False),
        ({"http_proxy": "{}", "NO_PROXY": "127.0.0.1"}, False),
        ({"http_proxy": "{}", "NO_PROXY": "*"}, False),
        ({"http_proxy": "{}", "no_proxy": "10.0.0.0/8, example.org"}, True),
        ({"all_proxy": "{}", "no_proxy": "127.0.0.1:1"}, True),
    ],
)
def test_the_variables_mean_what_they_mean_for_curl(stage, site, place, environ, proxied):
    place.write([site.entry(site.item())])
    with stage.running(HttpProxy()) as proxy:
        done = place.run(env={name: value.format(proxy.address) for name, value in environ.items()})
        assert done.code == 0, done.err
        assert bool(proxy.log) is proxied


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_the_login_at_a_proxy_is_sent_decoded_and_never_printed(stage, place, certificate, tls):
    login = "dom\\user:" + SECRETS["BASIC_PASSWORD"]
    server = TlsServer(certificate, ranges(BODY)) if tls else None
    with stage.running(HttpProxy(login=login)) as proxy, stage.running(server or _plain()) as archive:
        place.write([{"url": archive.url(), "file": "x.bin"}], settings={"ca_file": str(certificate)})
        value = f"http://dom%5Cuser:b%C3%A4sic-canary%3A1%25@{proxy.address}"
        done = place.run("-v", "--log-file", "log.txt", env={"http_proxy": value, "https_proxy": value})
    assert (done.code, place.get("x.bin")) == (0, BODY), done.err
    assert "%C3%A4sic-canary" not in done.err + (place.cwd / "log.txt").read_text()


def _plain():
    from tests.servers import RawServer  # noqa: PLC0415

    return RawServer(ranges(BODY))


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("value", ["http://u:wrong-canary@{}", "{}"])
def test_a_proxy_that_refuses_the_login_is_named_and_asked_only_once_for_each_worker(
    stage, place, certificate, tls, value
):
    scheme = "https" if tls else "http"
    place.write([f"{scheme}://archive.example.org/{n}.bin" for n in range(40)])
    with stage.running(HttpProxy(login="u:right")) as proxy:
        env = {"http_proxy": value.format(proxy.address), "https_proxy": value.format(proxy.address)}
        done = place.run("-j", "4", env=env)
        address, asked = proxy.address, len(proxy.log)
    assert done.code == 1
    assert asked <= 8
    failure = done.failures["0.bin"]
    assert (failure["kind"], failure["attempts"]) == ("network", 1)
    assert f"the proxy {address}" in failure["reason"]
    assert "(407)" in failure["reason"]
    assert "archive.example.org" not in failure["reason"]
    assert "wrong-canary" not in done.err + done.out


@pytest.mark.parametrize(("status", "kind"), [(403, "network"), (502, "network"), (503, "network"), (504, "network")])
def test_a_proxy_that_refuses_to_connect_is_named(stage, place, status, kind):
    place.write(["https://archive.example.org/x.bin"])
    answer = f"HTTP/1.1 {status} No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno!\n".encode()
    with stage.running(HttpProxy(answer=answer)) as proxy:
        done = place.run("--retries", "1", env={"https_proxy": proxy.address})
        address = proxy.address
    assert done.code == 1
    assert done.kind("x.bin") == kind
    reason = done.failures["x.bin"]["reason"]
    assert f"the proxy {address}" in reason
    assert str(status) in reason
    assert "archive.example.org:443" in reason


@pytest.mark.parametrize(
    ("status", "words"), [(403, "refused access (403)"), (404, "answered 404"), (503, "answered 503")]
)
def test_an_error_in_http_names_the_proxy_that_may_have_made_it(stage, place, status, words):
    place.write(["http://archive.example.org/x.bin"])
    answer = f"HTTP/1.1 {status} No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno!\n".encode()
    with stage.running(HttpProxy(answer=answer)) as proxy:
        done = place.run("--retries", "1", env={"http_proxy": proxy.address})
        address = proxy.address
    assert f"archive.example.org {words} through the proxy {address}" in done.failures["x.bin"]["reason"]


@pytest.mark.parametrize("url", ["http://archive.example.org/x.bin", "https://archive.example.org/x.bin"])
def test_a_proxy_that_is_down_is_named(place, url):
    place.write([url])
    address = f"127.0.0.1:{unused_port()}"
    done = place.run("--retries", "1", env={"all_proxy": address})
    reason = done.failures["x.bin"]["reason"]
    assert reason.startswith(f"no connection to the proxy {address} (connection refused)")


def test_a_login_that_the_proxy_refuses_names_the_proxy(stage, site, place):
    item = site.item("header-")
    place.write([site.entry(item, account="jo")], accounts={"jo": site.oidc(hosts=["127.0.0.1"])})
    with stage.running(HttpProxy(login="u:right")) as proxy:
        done = place.run(env={"http_proxy": f"http://u:wrong-canary@{proxy.address}"})
        asked, address = len(proxy.log), proxy.address
    assert (done.code, done.counts, asked) == (3, {"pending": 1}, 1)
    assert f"the proxy {address} refused its user name and password (407)" in done.err
    assert "wrong-canary" not in done.err


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_proxy_may_speak_tls(stage, place, certificate, secure):
    server = TlsServer(certificate, ranges(BODY)) if secure else _plain()
    with stage.running(HttpProxy(tls=server_context(certificate))) as proxy, stage.running(server) as archive:
        place.write([{"url": archive.url(), "file": "x.bin"}], settings={"ca_file": str(certificate)})
        done = place.run("--retries", "1", env={"all_proxy": f"https://{proxy.address}"})
        assert proxy.log
    assert (done.code, place.get("x.bin")) == (0, BODY), done.err


# ---- SOCKS


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        ("socks5h://{}", "5 localhost"),
        ("socks5://{}", "5 127.0.0.1"),
        ("socks4://{}", "4 127.0.0.1"),
        ("socks4a://{}", "4 localhost"),
        ("SOCKS5H://{}/", "5 localhost"),
    ],
)
def test_a_socks_proxy_carries_logins_and_products(stage, site, place, value, asked):
    pytest.importorskip("aiohttp_socks")
    items = [site.item("header-", size=size) for size in (100, 200, 3_000_000)]
    accounts = {
        "jo": site.oidc(hosts=["localhost"], token_url=site.archive.token_url.replace("127.0.0.1", "localhost"))
    }
    entries = [site.entry(i, account="jo", url=site.url(i).replace("127.0.0.1", "localhost")) for i in items]
    place.write(entries, accounts=accounts)
    with stage.running(SocksProxy()) as proxy:
        done = place.run(env={"all_proxy": value.format(proxy.address)})
        assert done.code == 0, done.err
        assert {line.rpartition(":")[0] for line in proxy.log} == {asked}
    assert done.counts == {"completed": 3}


def test_tls_goes_through_a_socks_proxy_with_a_login(stage, place, certificate):
    pytest.importorskip("aiohttp_socks")
    with (
        stage.running(SocksProxy(login=("u@x", "p:1%"))) as proxy,
        stage.running(TlsServer(certificate, ranges(BODY))) as archive,
    ):
        place.write([{"url": archive.url(), "file": "x.bin"}], settings={"ca_file": str(certificate)})
        done = place.run(env={"https_proxy": f"socks5h://u%40x:p%3A1%25@{proxy.address}"})
    assert (done.code, place.get("x.bin")) == (0, BODY), done.err


@pytest.mark.parametrize("value", ["socks5h://{}", "socks5h://u:wrong-canary@{}"])
def test_a_socks_proxy_that_refuses_the_login_is_named(stage, place, value):
    pytest.importorskip("aiohttp_socks")
    place.write(["http://archive.example.org/x.bin"])
    with stage.running(SocksProxy(login=("u", "right"))) as proxy:
        done = place.run(env={"all_proxy": value.format(proxy.address)})
        address = proxy.address
    assert (done.kind("x.bin"), done.failures["x.bin"]["attempts"]) == ("network", 1)
    assert f"the SOCKS proxy {address}" in done.failures["x.bin"]["reason"]
    assert "wrong-canary" not in done.err + done.out


def test_http_is_never_spoken_to_a_socks_port_without_the_package(stage, site, place, tmp_path):
    blocked = tmp_path / "aiohttp_socks.py"
    blocked.write_text("raise ImportError\n")
    place.write([site.entry(site.item("header-"), account="jo")], accounts={"jo": site.oidc(hosts=["127.0.0.1"])})
    with stage.running(SocksProxy()) as proxy:
        done = place.run(env={"all_proxy": f"socks5h://{proxy.address}", "PYTHONPATH": str(tmp_path)})
        assert proxy.first_bytes == []
    assert done.code == 4
    assert "bulkdl[socks]" in done.err
    assert done.counts == {"pending": 1}


@pytest.mark.parametrize("value", ["ftp://127.0.0.1:21", "http://u:pw-canary@127.0.0.1:port", "http://"])
@pytest.mark.parametrize("command", ["run", "check --remote"])
def test_a_proxy_that_cannot_be_used_is_refused_and_nothing_is_sent(site, place, value, command):
    manifest = place.write([site.entry(site.item())])
    before = site.requests
    name, *flags = command.split()
    done = place(name, manifest, *flags, env={"http_proxy": value})
    assert (done.code, site.requests) == (4, before)
    assert "the variable http_proxy" in done.err + done.out
    assert "canary" not in done.err + done.out


def test_a_proxy_for_other_urls_may_be_anything(site, place):
    place.write([site.entry(site.item())])
    done = place.run(env={"https_proxy": "ftp://127.0.0.1", "all_proxy": "ftp://127.0.0.1", "no_proxy": "127.0.0.1"})
    assert done.code == 0, done.err


def test_a_407_without_a_proxy_is_the_archives(stage, place):
    from tests.servers import RawServer  # noqa: PLC0415

    with stage.running(RawServer(reply(407))) as server:
        place.write([{"url": server.url(), "file": "x.bin"}])
        done = place.run()
    assert "proxy" not in done.failures["x.bin"]["reason"]
