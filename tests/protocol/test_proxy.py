"""The proxy of a URL by the environment variables, and the words for a proxy's failure."""

from __future__ import annotations

import pytest

from bulkdl.core.errors import RunStopped
from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url
from bulkdl.protocol.proxy import NoProxy, ProxyRules, connect_failed, parse_proxy


@pytest.mark.parametrize(
    ("text", "covered", "not_covered"),
    [
        (
            "example.org",
            ["example.org", "a.example.org", "a.b.example.org"],
            ["nonexample.org", "example.org.evil.net"],
        ),
        (".example.org", ["example.org", "a.example.org"], ["nonexample.org"]),
        ("*.example.org", ["a.example.org"], ["nonexample.org"]),
        ("example.org.", ["example.org", "a.example.org"], ["org"]),
        ("EXAMPLE.org", ["example.org", "EXAMPLE.ORG", "example.org."], ["example.com"]),
        ("a.org,b.org", ["a.org", "b.org"], ["c.org"]),
        (" a.org ,\tb.org  c.org,, ", ["a.org", "b.org", "c.org"], ["d.org"]),
        ("*", ["example.org", "127.0.0.1", "::1"], []),
        (" * ", ["example.org"], []),
        ("", [], ["example.org", "127.0.0.1"]),
        (",", [], ["example.org"]),
        (".", [], ["example.org"]),
        ("localhost", ["localhost", "a.localhost"], ["127.0.0.1"]),
        ("example.org:8080", ["example.org:8080", "a.example.org:8080"], ["example.org:80", "example.org:443"]),
        ("127.0.0.1:8080", ["127.0.0.1:8080"], ["127.0.0.1:80"]),
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.11", "127.0.0.2"]),
        ("10.0.0.0/8", ["10.0.0.1", "10.255.255.255"], ["11.0.0.1", "10.example.org"]),
        ("10.1.2.3/8", ["10.0.0.1"], ["11.0.0.1"]),
        ("192.168.1.0/25", ["192.168.1.127"], ["192.168.1.128"]),
        ("10.0.0.1/32", ["10.0.0.1"], ["10.0.0.2"]),
        ("10.0.0.0/8:81", [], ["10.0.0.1:82"]),
        ("10.0.0.0/33", [], ["10.0.0.1"]),
        ("10.0.0.0/", [], ["10.0.0.1"]),
        ("::1", ["::1"], ["::2"]),
        ("[::1]", ["::1"], ["::2"]),
        ("[::1]:8080", ["[::1]:8080"], ["[::1]:80"]),
        ("fe80::/10", ["fe80::1", "febf::1"], ["fec0::1"]),
        ("[2001:db8::]/32", ["2001:db8:1::1"], ["2001:db9::1"]),
        ("2001:DB8::1", ["2001:db8::1"], ["2001:db8::2"]),
    ],
)
def test_no_proxy_is_read_as_curl_reads_it(text, covered, not_covered):
    rules = NoProxy(text)

    def covers(where):
        bare_v6 = where.count(":") > 1 and "[" not in where
        url = Url(f"http://[{where}]/" if bare_v6 else f"http://{where}/")
        return rules.covers(url.host, url.port)

    assert [where for where in covered if not covers(where)] == []
    assert [where for where in not_covered if covers(where)] == []


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({"http_proxy": "a:1"}, "http://x.org/", "http://a:1"),
        ({"http_proxy": "a:1"}, "https://x.org/", None),
        ({"HTTP_PROXY": "a:1"}, "http://x.org/", "http://a:1"),
        ({"HTTP_PROXY": "a:1", "http_proxy": "b:1"}, "http://x.org/", "http://b:1"),
        ({"HTTP_PROXY": "a:1", "REQUEST_METHOD": "GET"}, "http://x.org/", None),
        ({"https_proxy": "a:1"}, "https://x.org/", "http://a:1"),
        ({"HTTPS_PROXY": "a:1"}, "https://x.org/", "http://a:1"),
        ({"https_proxy": "a:1", "HTTPS_PROXY": "b:1"}, "https://x.org/", "http://a:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "b:1"}, "https://x.org/", "http://b:1"),
        ({"all_proxy": "a:1"}, "http://x.org/", "http://a:1"),
        ({"ALL_PROXY": "a:1"}, "https://x.org/", "http://a:1"),
        ({"all_proxy": "a:1", "http_proxy": "b:2"}, "http://x.org/", "http://b:2"),
        ({"http_proxy": "a:1", "no_proxy": "x.org"}, "http://x.org/", None),
        ({"http_proxy": "a:1", "no_proxy": "x.org"}, "http://y.org/", "http://a:1"),
        ({"http_proxy": "a:1", "no_proxy": "", "NO_PROXY": "x.org"}, "http://x.org/", None),
        ({"http_proxy": "a:1", "no_proxy": "y.org", "NO_PROXY": "x.org"}, "http://x.org/", "http://a:1"),
        ({"http_proxy": "a:1", "no_proxy": "[::1]"}, "http://[::1]:81/", None),
        ({}, "http://x.org/", None),
    ],
)
def test_the_variables_are_read_as_curl_reads_them(environ, url, expected):
    rules = ProxyRules(environ)
    for _ in range(2):  # the second time from memory
        proxy = rules.proxy_for(Url(url))
        assert (None if proxy is None else proxy.url) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("127.0.0.1:3128", ("http", "127.0.0.1", 3128, None, None)),
        ("http://proxy", ("http", "proxy", 80, None, None)),
        ("https://proxy", ("https", "proxy", 443, None, None)),
        ("HTTP://Proxy:1/", ("http", "proxy", 1, None, None)),
        ("http://proxy:8080/path?x#y", ("http", "proxy", 8080, None, None)),
        ("http://[::1]:3128", ("http", "::1", 3128, None, None)),
        ("http://u:p@proxy:1", ("http", "proxy", 1, "u", "p")),
        ("u:p@proxy:1", ("http", "proxy", 1, "u", "p")),
        ("http://u@proxy:1", ("http", "proxy", 1, "u", "")),
        ("http://a%40b:p%3A%2F%C3%A4@proxy:1", ("http", "proxy", 1, "a@b", "p:/ä")),
        ("http://u:p/a#b?c@d@proxy:1", ("http", "proxy", 1, "u", "p/a#b?c@d")),
        ("socks5h://proxy", ("socks5h", "proxy", 1080, None, None)),
        ("socks://proxy:9", ("socks4", "proxy", 9, None, None)),
        (" proxy:1\n", ("http", "proxy", 1, None, None)),
    ],
)
def test_a_proxy_is_read_from_its_variable(value, expected):
    proxy = parse_proxy(value, source="the variable x")
    password = None if expected[4] is None else Secret(expected[4])
    assert (proxy.scheme, proxy.host, proxy.port, proxy.user, proxy.password) == (*expected[:4], password)


@pytest.mark.parametrize(
    "value",
    ["http://", "http://u:canary@", "canary:x", "http://u:canary@h:0", "http://h:99999", "ftp://canary@h", "a b"],
)
def test_what_is_no_proxy_is_refused_without_being_quoted(value):
    with pytest.raises(RunStopped) as refused:
        parse_proxy(value, source="the variable http_proxy")
    assert "the variable http_proxy" in refused.value.reason
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "status", "challenges", "expected", "lasting"),
    [
        ("h:1", 407, ["Basic realm=x"], "the proxy h:1 wants a user name and a password (407)", True),
        ("h:1", 407, [], "the proxy h:1 wants a user name and a password (407)", True),
        ("u:p@h:1", 407, ["Basic"], "the proxy h:1 refused its user name and password (407)", True),
        ("u:p@h:1", 407, ["Negotiate", "NTLM"], "wants a login by Negotiate or NTLM (407)", True),
        ("u:p@h:1", 407, ["Negotiate", "Basic realm=x"], "refused its user name and password (407)", True),
        ("h:1", 403, [], "the proxy h:1 does not allow connections to x.org:443 (403)", True),
        ("h:1", 502, [], "the proxy h:1 could not connect to x.org:443 (it answered 502", False),
        ("h:1", 503, [], "(it answered 503", False),
        ("h:1", 504, [], "(it answered 504", False),
    ],
)
def test_a_refusal_of_the_proxy_names_it(value, status, challenges, expected, lasting):
    proxy = parse_proxy(value, source="the variable http_proxy")
    trouble = connect_failed(proxy, status, host="x.org", port=443, challenges=challenges)
    assert expected in trouble.reason
    assert trouble.lasting is lasting
    assert trouble.hint
