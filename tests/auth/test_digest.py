"""HTTP Digest: challenges are read, and answers are those of the RFCs."""

from __future__ import annotations

import hashlib
import re

import pytest

from bulkdl.auth.challenges import parse_challenges
from bulkdl.auth.digest import DigestSession, strongest, unsupported
from bulkdl.core.secret import Secret


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="a, b"', [("basic", {"realm": "a, b"})]),
        ('BASIC REALM="x", charset=UTF-8', [("basic", {"realm": "x", "charset": "UTF-8"})]),
        (
            'Digest realm="a\\"b", nonce=n , Basic realm=c',
            [("digest", {"realm": 'a"b', "nonce": "n"}), ("basic", {"realm": "c"})],
        ),
        ("Negotiate, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        ("Negotiate YWJj==, NTLM", [("negotiate", {}), ("ntlm", {})]),
        (', ,Basic realm = "x" ,', [("basic", {"realm": "x"})]),
        (
            'Bearer error="invalid_token", error_description="Digest nonce=1"',
            [("bearer", {"error": "invalid_token", "error_description": "Digest nonce=1"})],
        ),
        ('Digest realm="", nonce="=,="', [("digest", {"realm": "", "nonce": "=,="})]),
        ('realm="x"', []),
        ('Digest realm="open', [("digest", {})]),
        ("\x00\x01", []),
    ],
)
def test_challenges_are_read(text, expected):
    found = [(c.scheme, c.parameters) for c in parse_challenges(text)]
    if "open" in text:  # what remains of a broken field is not important
        assert found[0][0] == "digest"
    else:
        assert found == expected


def answer(challenge, user, password, target, cnonce="0a4f113b", method="GET"):
    session = DigestSession(strongest(parse_challenges(challenge)), user, Secret(password), random=lambda: cnonce)
    return dict(re.findall(r'([\w*]+)=(?:"?)([^",]*)', session.authorization(method, target).reveal()))


RFC7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_example_of_rfc_7616(algorithm, response):
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    fields = answer(RFC7616.format(algorithm), "Mufasa", "Circle of Life", "/dir/index.html", cnonce)
    assert fields == {
        "username": "Mufasa",
        "realm": "http-auth@example.org",
        "uri": "/dir/index.html",
        "algorithm": algorithm,
        "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "nc": "00000001",
        "cnonce": cnonce,
        "qop": "auth",
        "response": response,
        "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
    }


def test_the_example_of_rfc_7616_with_a_hashed_user_name():
    """The hash is SHA-512/256 (FIPS 180-4), as the erratum says: the RFC's own values are of SHA-512, cut."""
    challenge = (
        'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, charset=UTF-8, userhash=true, '
        'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDssOS"'
    )
    cnonce = "NTg6RKcb9boFIAS3KrFK9BGeh+niz/sm"
    fields = answer(challenge, "Jäsøn Doe", "Secret, or not?", "/doe.json", cnonce)
    assert fields["username"] == "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
    key = sha512_256("Jäsøn Doe", "api@example.org", "Secret, or not?")
    nonce = "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK"
    assert fields["response"] == sha512_256(key, nonce, "00000001", cnonce, "auth", sha512_256("GET", "/doe.json"))
    assert fields["userhash"] == "true"


def test_the_example_of_rfc_2617_and_a_server_without_qop():
    challenge = 'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc"'
    user = ("Mufasa", "Circle Of Life", "/dir/index.html")
    assert answer(challenge + ', qop="auth,auth-int"', *user)["response"] == "6629fae49393a05397450978507c4ef1"
    old = answer(challenge, *user)
    assert old["response"] == "670fd8c2df070c60b045671b8b24ff02"
    assert not {"qop", "nc", "cnonce", "algorithm"} & old.keys()


def sha512_256(*parts):
    return hashlib.new("sha512_256", ":".join(parts).encode()).hexdigest()


def md5(*parts):
    return hashlib.md5(":".join(parts).encode()).hexdigest()


@pytest.mark.parametrize("algorithm", ["MD5-sess", "md5-SESS"])
def test_a_session_algorithm_hashes_nonce_and_cnonce_into_the_key(algorithm):
    fields = answer(f"Digest realm=r, nonce=n, qop=auth, algorithm={algorithm}", "u", "p", "/x?y=1", "c", "HEAD")
    key = md5(md5("u", "r", "p"), "n", "c")
    assert fields["response"] == md5(key, "n", "00000001", "c", "auth", md5("HEAD", "/x?y=1"))
    assert fields["algorithm"] == algorithm


def test_auth_int_hashes_the_empty_body():
    fields = answer("Digest realm=r, nonce=n, qop=auth-int", "u", "p", "/x", "c")
    a2 = md5("GET", "/x", hashlib.md5(b"").hexdigest())
    assert fields["response"] == md5(md5("u", "r", "p"), "n", "00000001", "c", "auth-int", a2)


def test_each_use_of_a_nonce_has_the_next_number():
    session = DigestSession(strongest(parse_challenges("Digest realm=r, nonce=n, qop=auth")), "u", Secret("p"))
    texts = [session.authorization("GET", "/x").reveal() for _ in range(17)]
    assert [re.search(r"nc=(\w+)", text)[1] for text in texts] == [f"{n:08x}" for n in range(1, 18)]
    assert len({re.search(r'cnonce="([^"]+)"', text)[1] for text in texts}) == 1


def test_values_with_quotes_are_escaped_and_names_in_other_letters_encoded():
    session = DigestSession(strongest(parse_challenges(r'Digest realm="a\"b\\c", nonce=n')), 'u"x', Secret("p"))
    text = session.authorization("GET", "/x").reveal()
    assert r'realm="a\"b\\c"' in text
    assert r'username="u\"x"' in text
    session = DigestSession(strongest(parse_challenges("Digest realm=r, nonce=n")), "Jäsøn", Secret("p"))
    assert "username*=UTF-8''J%C3%A4s%C3%B8n" in session.authorization("GET", "/x").reveal()


@pytest.mark.parametrize(
    ("text", "algorithm"),
    [
        ("Digest nonce=1, algorithm=MD5, Digest nonce=2, algorithm=SHA-256", "SHA-256"),
        ("Digest nonce=2, algorithm=SHA-512-256, Digest nonce=1, algorithm=SHA-256", "SHA-512-256"),
        ("Digest nonce=1, algorithm=SHA-256-sess, Digest nonce=1, algorithm=SHA-256", "SHA-256-sess"),
        ("Digest nonce=1, algorithm=SHA-999, Digest nonce=2", None),
        ("Basic realm=x, Digest nonce=1, algorithm=MD5", "MD5"),
    ],
)
def test_the_strongest_challenge_is_chosen(text, algorithm):
    assert strongest(parse_challenges(text)).algorithm == algorithm


@pytest.mark.parametrize(
    "text", ["", "Basic realm=x", "Digest realm=x", "Digest nonce=1, algorithm=SHA-999", "Digest nonce=1, qop=auth-x"]
)
def test_a_challenge_that_cannot_be_answered_is_none(text):
    assert strongest(parse_challenges(text)) is None
    assert ("SHA-999" in text) == ("SHA-999" in unsupported(parse_challenges(text)))


@pytest.mark.parametrize(("text", "stale"), [("stale=true", True), ('stale="TRUE"', True), ("stale=false", False)])
def test_a_stale_nonce_is_recognised(text, stale):
    assert strongest(parse_challenges(f"Digest nonce=1, {text}")).stale is stale
