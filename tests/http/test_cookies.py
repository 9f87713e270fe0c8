"""Cookies come back as the server wrote them, to the hosts and paths that they are for, for as long as they last."""

from __future__ import annotations

import pytest

from bulkdl.core.urls import Url
from bulkdl.http.cookies import ChainCookies, CookieJar

NOW = 1_750_000_000.0  # 2025-06-15


def jar_with(*lines, url="http://a.example.org/in/x", now=lambda: NOW):
    jar, at = CookieJar(now=now), Url(url)
    jar.store(lines, at, at.target)
    return jar


def sent(jar, url):
    at = Url(url)
    return jar.header(at, at.target)


@pytest.mark.parametrize(
    "value",
    [
        "ab/c==",
        "a=b=c",
        '"quoted"',
        '"a b"',
        "a b",
        "a,b",
        "{}[]()<>@:?\\",
        "%2F+",
        "",
        "ä€",
        "a\tb",
        "'x'",
        '"',
        "x" * 4000,
    ],
)
def test_a_value_comes_back_unchanged(value):
    jar = jar_with(f"sid={value}; Path=/; HttpOnly")
    assert sent(jar, "http://a.example.org/") == f"sid={value}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (" sid = 1 ", "sid=1"),
        ("sid=1;path=/;HTTPONLY;SameSite=Lax;Priority=High", "sid=1"),
        ("a.b-c!#$%&'*+^_`|~=1", "a.b-c!#$%&'*+^_`|~=1"),
        ("sid", ""),
        ("=1", ""),
        ("", ""),
        (";", ""),
        ("a=b\x01", ""),
        ("a=b\udcff", ""),
        ("a=" + "x" * 5000, ""),
    ],
)
def test_names_are_read_as_curl_reads_them(line, expected):
    assert sent(jar_with(line), "http://a.example.org/in/") == expected


@pytest.mark.parametrize(
    ("origin", "line", "yes", "no"),
    [
        ("http://a.example.org", "s=1", ["http://a.example.org", "http://A.example.org:81"], ["http://b.a.example.org", "http://example.org"]),
        ("http://a.example.org", "s=1; Domain=example.org", ["http://a.example.org", "http://b.example.org", "http://example.org"], ["http://nexample.org"]),
        ("http://a.example.org", "s=1; Domain=.Example.ORG", ["http://b.example.org"], []),
        ("http://a.example.org", "s=1; Domain=", ["http://a.example.org"], ["http://b.example.org"]),
        ("http://a.example.org", "s=1; Domain=b.example.org", [], ["http://a.example.org", "http://b.example.org"]),
        ("http://a.example.org", "s=1; Domain=org", [], ["http://a.example.org", "http://b.org"]),
        ("http://localhost", "s=1; Domain=localhost", ["http://localhost"], []),
        ("http://127.0.0.1", "s=1", ["http://127.0.0.1", "http://127.0.0.1:81"], ["http://127.0.0.2", "http://localhost"]),
        ("http://127.0.0.1", "s=1; Domain=127.0.0.1", ["http://127.0.0.1"], []),
        ("http://127.0.0.1", "s=1; Domain=0.0.1", [], ["http://127.0.0.1", "http://126.0.0.1"]),
        ("http://[::1]", "s=1", ["http://[::1]"], ["http://[::2]"]),
        ("http://192.168.1.7", "s=1", ["http://192.168.1.7"], []),
    ],
)  # fmt: skip
def test_a_cookie_goes_to_the_hosts_that_it_is_for(origin, line, yes, no):
    jar = jar_with(f"{line}; Path=/", url=f"{origin}/x")
    assert [url for url in yes if sent(jar, f"{url}/y") != "s=1"] == []
    assert [url for url in no if sent(jar, f"{url}/y")] == []


@pytest.mark.parametrize(
    ("line", "yes", "no"),
    [
        ("s=1", ["/in", "/in/", "/in/y", "/in/y/z"], ["/", "/into", "/out"]),
        ("s=1; Path=/in", ["/in", "/in?x", "/in/y"], ["/into"]),
        ("s=1; Path=/in/", ["/in/", "/in/y"], ["/in"]),
        ("s=1; Path=/", ["/", "", "/out"], []),
        ("s=1; Path=relative", ["/in/y"], ["/out"]),
        ("s=1; Path=", ["/in/y"], ["/out"]),
        ("s=1; Path=/a b", ["/a b/c"], ["/a"]),
    ],
)
def test_a_cookie_goes_to_the_paths_that_it_is_for(line, yes, no):
    jar, url = jar_with(line), Url("http://a.example.org/")
    assert [path for path in yes if jar.header(url, path) != "s=1"] == []
    assert [path for path in no if jar.header(url, path)] == []


@pytest.mark.parametrize(
    ("line", "url", "expected"),
    [
        ("s=1; Secure", "https://a.example.org/", "s=1"),
        ("s=1; Secure", "http://a.example.org/", ""),
        ("s=1", "http://a.example.org/", "s=1"),
        ("__Host-s=1; Secure; Path=/", "https://a.example.org/", "__Host-s=1"),
        ("__Host-s=1; Path=/", "https://a.example.org/", ""),
        ("__Host-s=1; Secure; Path=/; Domain=a.example.org", "https://a.example.org/", ""),
        ("__Host-s=1; Secure; Path=/in", "https://a.example.org/in/", ""),
        ("__Secure-s=1; Secure", "https://a.example.org/", "__Secure-s=1"),
        ("__Secure-s=1", "https://a.example.org/", ""),
    ],
)
def test_secure_cookies_go_over_https_only(line, url, expected):
    assert sent(jar_with(line, url="https://a.example.org/"), url) == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_on_this_machine_http_is_secure(host):
    assert sent(jar_with("s=1; Secure", url=f"http://{host}/"), f"http://{host}/") == "s=1"


def test_http_cannot_set_a_secure_cookie():
    assert sent(jar_with("s=1; Secure"), "https://a.example.org/in/") == ""


@pytest.mark.parametrize(
    ("attributes", "seconds"),
    [
        ("Max-Age=60", 60),
        ('Max-Age="60"', 60),
        ("Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", 60),
        ("Max-Age=0", 0),
        ("Max-Age=-1", 0),
        ("Max-Age=0; Expires=Wed, 09 Jun 2055 10:18:14 GMT", 0),
        ("Expires=Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Expires=Thu, 01-Jan-1970 00:00:00 GMT", 0),
        ("Expires=Thu Jan  1 00:00:00 1970", 0),
        ("Expires=Sun, 15 Jun 2025 15:07:40 GMT", 60),
        ("Expires=Sunday, 15-Jun-25 15:07:40 GMT", 60),
        ("Expires=Sun Jun 15 15:07:40 2025", 60),
        ("Expires=nonsense", None),
        ("Max-Age=x", None),
        ("", None),
    ],
)
def test_a_cookie_ends(attributes, seconds):
    now = [NOW]
    jar = jar_with(f"s=1; Path=/; {attributes}", now=lambda: now[0])
    seen = []
    for later in (0, 59, 61, 10**9):
        now[0] = NOW + later
        seen.append(bool(sent(jar, "http://a.example.org/")))
    assert seen == [seconds is None or later < seconds for later in (0, 59, 61, 10**9)]


def test_a_cookie_is_replaced_and_deleted():
    jar, url = jar_with("s=1; Path=/", "t=2; Path=/"), Url("http://a.example.org/")
    jar.store(["s=3; Path=/"], url, "/")
    assert jar.header(url, "/") == "s=3; t=2"
    jar.store(["s=; Path=/; Max-Age=0"], url, "/")
    assert jar.header(url, "/") == "t=2"


def test_longer_paths_come_first_and_then_older_cookies():
    jar = jar_with("a=1; Path=/", "b=2; Path=/in", "c=3; Path=/", "a=4; Path=/in")
    assert sent(jar, "http://a.example.org/in/x") == "b=2; a=4; a=1; c=3"


def test_cookies_are_bounded():
    jar = jar_with(*(f"state{n}={'x' * 100}; Path=/" for n in range(1000)))
    assert len(jar) <= 150
    assert 0 < len(sent(jar, "http://a.example.org/")) <= 8190


def test_a_chain_of_redirects_sees_its_own_cookies_first():
    jar, url = CookieJar(now=lambda: NOW), Url("http://a.example.org/")
    one, two = ChainCookies(jar), ChainCookies(jar)
    one.store(["state=1; Path=/"], url, "/")
    two.store(["state=2; Path=/", "sid=3; Path=/"], url, "/")
    assert one.header(url, "/") == "state=1; sid=3"
    assert two.header(url, "/") == "state=2; sid=3"
    assert jar.header(url, "/") == "state=2; sid=3"
    two.store(["state=; Max-Age=0; Path=/"], url, "/")
    assert two.header(url, "/") == "sid=3"
    assert one.header(url, "/") == "sid=3; state=1"
