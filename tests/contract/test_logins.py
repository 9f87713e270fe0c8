"""Logins of the field, by the command line: HTTP Digest, `.netrc` without `hosts`, keys in headers, secret files."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.program import SECRETS, Place, Stage
from tests.servers import RawRequest, RawServer, Wire, ranges, redirect, reply

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = b"product " * 2000
USER, PASSWORD = "bo", SECRETS["BASIC_PASSWORD"]
HASHES = {"MD5": "md5", "SHA-256": "sha256", "MD5-sess": "md5", "SHA-256-sess": "sha256", "SHA-512-256": "sha512_256"}


class DigestArchive:
    """Knows its nonces and the number of their uses, and checks the whole answer."""

    def __init__(self, algorithm: str = "MD5", *, uses: int = 0, strict: bool = False, stale: bool = True) -> None:
        """`uses`: of one nonce, 0 for any number; `strict`: in their order; `stale`: says so of a nonce that is over."""
        self.algorithm, self.uses, self.strict, self.stale = algorithm, uses, strict, stale
        self.more: tuple[tuple[str, object], ...] = ()
        self.log: list[str] = []
        self.refused: list[str] = []
        self._nonces: dict[str, int] = {}

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        given = request.header("Authorization") or ""
        self.log.append(given.partition(" ")[0])
        state = self._state(request, given)
        if state != "fine":
            if state == "wrong":
                self.refused.append(given)
            await reply(401, b"", *self.more, self._challenge(over=state == "over"))(request, wire)
        elif request.path.startswith("/moved"):
            await redirect(f"/there{request.target.removeprefix('/moved')}")(request, wire)
        else:
            await ranges(BODY)(request, wire)

    def _challenge(self, *, over: bool) -> tuple[str, str]:
        nonce = f"nonce-{len(self._nonces)}=="
        self._nonces[nonce] = 0
        text = f'Digest realm="a, \\"b\\"", qop="auth, auth-int", nonce="{nonce}", opaque="o,p", algorithm={self.algorithm}'
        return "WWW-Authenticate", text + (", stale=true" if over and self.stale else "")

    def _state(self, request: RawRequest, given: str) -> str:
        if not given.startswith("Digest "):
            return "none"
        found = re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))', given)
        field = {name: re.sub(r"\\(.)", r"\1", quoted) or plain for name, quoted, plain in found}
        count, used = int(field["nc"], 16), self._nonces[field["nonce"]]
        if (self.uses and count > self.uses) or (self.strict and count != used + 1):
            return "over"
        self._nonces[field["nonce"]] = max(count, used)

        def hashed(*parts: str) -> str:
            return hashlib.new(HASHES[self.algorithm], ":".join(parts).encode()).hexdigest()

        key = hashed(USER, 'a, "b"', PASSWORD)
        if self.algorithm.endswith("-sess"):
            key = hashed(key, field["nonce"], field["cnonce"])
        middle = (field["nonce"], field["nc"], field["cnonce"], field["qop"])
        right = hashed(key, *middle, hashed(request.method, request.target))
        same = (field["uri"], field["opaque"], field["username"]) == (request.target, "o,p", USER)
        return "fine" if same and field["response"] == right else "wrong"


@pytest.fixture
def served(stage: Stage) -> Iterator[Any]:
    """Serve one responder: `served(responder)` returns its server."""
    running = []

    def serve(responder: Any) -> RawServer:
        context = stage.running(RawServer(responder))
        running.append(context)
        return context.__enter__()

    yield serve
    for context in running:
        context.__exit__(None, None, None)


ACCOUNT = {"auth": "basic", "username": USER, "password": "${BASIC_PASSWORD}"}


def write(place: Place, server: RawServer, number: int = 20, path: str = "/p", **account: Any) -> None:
    products = [{"url": server.url(f"{path}{n}?q=a%20b&n={n}"), "file": f"{n}.bin"} for n in range(number)]
    place.write(products, accounts={"a": {**ACCOUNT, **account}}, defaults={"account": "a"})


@pytest.mark.parametrize("algorithm", HASHES)
def test_digest_costs_one_request_more_a_run(algorithm: str, place: Place, served: Any):
    archive = DigestArchive(algorithm)
    write(place, served(archive))
    done = place.run()
    assert (done.code, place.get("7.bin")) == (0, BODY), done.err
    assert archive.log == ["Basic"] + 20 * ["Digest"]


@pytest.mark.parametrize("stale", [True, False])
@pytest.mark.parametrize(("uses", "strict"), [(1, True), (3, True), (0, True), (2, False)])
def test_a_nonce_that_is_over_costs_one_request(stale: bool, uses: int, strict: bool, place: Place, served: Any):  # noqa: FBT001
    archive = DigestArchive(uses=uses, strict=strict, stale=stale)
    write(place, served(archive))
    done = place.run()
    assert (done.code, done.counts) == (0, {"completed": 20}), done.err
    assert archive.log.count("Basic") == 1
    assert archive.refused == []
    assert len(archive.log) <= 1 + 2 * 20


def test_a_redirect_is_answered_hop_by_hop(place: Place, served: Any):
    archive = DigestArchive()
    write(place, served(archive), 3, path="/moved")
    assert place.run().code == 0
    assert archive.log == ["Basic"] + 6 * ["Digest"]


def test_a_wrong_password_costs_one_attempt(place: Place, served: Any):
    archive = DigestArchive()
    write(place, served(archive), username="other")
    done = place.run()
    assert (done.code, done.counts) == (3, {"pending": 20})
    assert archive.log == ["Basic", "Digest"]
    assert "refused the user name and password" in done.err


def test_where_basic_is_offered_too_it_is_used_and_not_followed_by_digest(place: Place, served: Any):
    archive = DigestArchive()
    archive.more = (("WWW-Authenticate", 'Basic realm="x"'),)
    write(place, served(archive))
    assert place.run().code == 3
    assert archive.log == ["Basic"]


def test_another_host_of_the_account_gets_no_basic_after_digest_until_it_asks(place: Place, served: Any):
    archive, seen = DigestArchive(), []

    async def plain(request: RawRequest, wire: Wire) -> None:
        seen.append((request.header("Authorization") or "").partition(" ")[0])
        answer = ranges(BODY) if seen[-1] else reply(401, b"", ("WWW-Authenticate", 'Basic realm="x"'))
        await answer(request, wire)

    first, second = served(archive), served(plain)
    origin = second.url("").rstrip("/").partition("//")[2]
    products = [{"url": first.url("/a"), "file": "a.bin"}, {"url": second.url("/b"), "file": "b.bin"}]
    account = {**ACCOUNT, "hosts": ["127.0.0.1", origin]}
    place.write(products, accounts={"a": account}, defaults={"account": "a"}, settings={"workers": 1})
    assert place.run().code == 0
    assert archive.log == ["Basic", "Digest"]
    assert seen == ["", "Basic"]


def test_digest_never_goes_to_a_host_that_is_not_listed(place: Place, served: Any):
    other, seen = DigestArchive(), []

    async def moved(request: RawRequest, wire: Wire) -> None:
        seen.append(request)
        where = other_server.url("/x").replace("127.0.0.1", "localhost")
        await redirect(where)(request, wire)

    other_server, server = served(other), served(moved)
    write(place, server, 1)
    assert place.run("--retries", "1").code == 1
    assert seen
    assert set(other.log) == {""}


@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        ("Digest realm=x, nonce=1, algorithm=SHA-999", "SHA-999"),
        ("Digest realm=x, nonce=1, qop=auth-x", "auth-x"),
        ("Negotiate", "negotiate"),
        ("NTLM, Negotiate", "ntlm, negotiate"),
    ],
)
def test_a_scheme_that_is_not_known_is_named(challenge: str, said: str, place: Place, served: Any):
    server = served(reply(401, b"", ("WWW-Authenticate", challenge)))
    write(place, server)
    done = place.run()
    assert (done.code, len(server.log)) == (3, 1)
    assert said in done.err


class BasicArchive:
    """One user for each host name."""

    def __init__(self, **users: str) -> None:
        self.users = users
        self.seen: set[tuple[str, str]] = set()

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        host = (request.header("Host") or "").rpartition(":")[0]
        scheme, _, text = (request.header("Authorization") or "").partition(" ")
        pair = base64.b64decode(text).decode() if scheme == "Basic" else ""
        self.seen.add((host, pair))
        right = pair == self.users.get(host.replace(".", "_"))
        answer = ranges(BODY) if right else reply(401, b"", ("WWW-Authenticate", "Basic realm=x"))
        await answer(request, wire)


def netrc(place: Place, text: str) -> None:
    path = place.home / ".netrc"
    path.write_text(text)
    path.chmod(0o600)


P = SECRETS["NETRC_PASSWORD"]


@pytest.mark.parametrize(
    ("account", "text"),
    [
        ({}, f"machine 127.0.0.1 login nat password {P}"),
        ({}, f"nonsense\nmachine 127.0.0.1\n\tlogin nat\n\tpassword {P}\n"),
        ({}, f"machine other login x password y\ndefault login nat password {P}"),
        ({"username": "nat"}, f"machine 127.0.0.1 login x password y machine 127.0.0.1 login nat password {P}"),
        ({"username": "nat"}, f"machine 127.0.0.1 password {P}"),
        ({"hosts": ["*.0.0.1"]}, f'machine 127.0.0.1 login "nat" password "{P}"'),
        ({"hosts": ["127.0.0.1"]}, f"\ufeffmachine 127.0.0.1 login nat password {P}"),
    ],
)
def test_basic_finds_its_password_in_netrc_under_the_products_host(account: Any, text: str, place: Place, served: Any):
    archive = BasicArchive(**{"127_0_0_1": f"nat:{P}"})
    netrc(place, text)
    product = {"url": served(archive).url("/x"), "file": "x.bin"}
    place.write([product], accounts={"a": {"auth": "basic", **account}}, defaults={"account": "a"})
    done = place.run()
    assert (done.code, archive.seen) == (0, {("127.0.0.1", f"nat:{P}")}), done.err
    assert place("check", "m.yaml").code == 0


def test_a_password_of_netrc_goes_to_its_own_host_only(place: Place, served: Any):
    archive = BasicArchive(**{"127_0_0_1": f"nat:{P}", "localhost": "own:other"})
    server = served(archive)
    urls = [server.url(f"/{n}") for n in range(3)]
    urls += [url.replace("127.0.0.1", "localhost") for url in urls]
    products = [{"url": url, "file": f"{n}.bin"} for n, url in enumerate(urls)]
    place.write(products, accounts={"a": {"auth": "basic"}}, defaults={"account": "a"})
    netrc(place, f"machine 127.0.0.1 login nat password {P}\nmachine LocalHost login own password other\n")
    assert place.run().code == 0
    assert archive.seen == {("127.0.0.1", f"nat:{P}"), ("localhost", "own:other")}
    archive.seen.clear()
    netrc(place, f"machine 127.0.0.1 login nat password {P}\n")
    done = place.run("-d", "again", "--retries", "1")
    assert (done.code, done.counts) == (1, {"completed": 3, "failed": 3})
    assert archive.seen == {("127.0.0.1", f"nat:{P}"), ("localhost", "")}
    assert "no entry for localhost" in done.err


def test_a_missing_password_names_netrc(place: Place, served: Any):
    server = served(reply(200, BODY))
    place.write([{"url": server.url("/x")}], accounts={"a": {"auth": "basic"}}, defaults={"account": "a"})
    done = place.run()
    assert (done.code, len(server.log)) == (3, 0)
    assert ".netrc (there is none)" in done.err


def test_a_key_goes_in_the_header_that_the_account_names(place: Place, served: Any):
    seen = []

    async def archive(request: RawRequest, wire: Wire) -> None:
        seen.append((request.header("X-API-Key"), request.header("Authorization")))
        await ranges(BODY)(request, wire)

    account = {"auth": "header", "header": "X-API-Key", "token": "${FIXED_TOKEN}"}
    products = [{"url": served(archive).url(f"/{n}"), "file": f"{n}.bin"} for n in range(4)]
    place.write(products, accounts={"a": account}, defaults={"account": "a"})
    assert place.run().code == 0
    assert set(seen) == {(SECRETS["FIXED_TOKEN"], None)}


@pytest.mark.parametrize(
    "name", ["X-Dataverse-key", "PRIVATE-TOKEN", "ocp-apim-subscription-key", "X-Amz-Security-Token"]
)
def test_a_literal_key_in_a_header_is_refused(name: str, place: Place):
    place.write([{"url": "http://127.0.0.1:9/x", "headers": {name: "hunter2"}}])
    done = place("check", "m.yaml")
    assert done.code == 2
    assert "hunter2" not in done.err
    assert f"`header: {name}`" in done.err


@pytest.mark.parametrize("key", ["password", "totp_secret", "client_secret", "token"])
@pytest.mark.parametrize("text", ["${X}hunter2", "hunter2${X}", "${X}-${Y}"])
def test_half_a_literal_secret_is_refused_like_a_whole_one(key: str, text: str, place: Place):
    account = {"auth": "oidc", "token_url": "https://x.example/t", "client_id": "c", key: text}
    place.write([{"url": "http://127.0.0.1:9/x"}], accounts={"a": account})
    done = place("check", "m.yaml", env={"X": "x", "Y": "y"})
    assert done.code == 2
    assert f"`{key}`: expected a reference" in done.err
    assert "hunter2" not in done.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("totp = GEZDGNBVGY3TQOJQ", 'did you mean "totp_secret"?'),
        ("pass = x", 'did you mean "password"?'),
        ("totp_secret = geheim1890", "not base32"),
        ("totp_secret = otpauth://hotp/x?secret=GEZDGNBVGY3TQOJQ", "hotp"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check", "login"])
def test_a_secrets_file_that_cannot_be_right_costs_no_login(
    line: str, said: str, command: str, place: Place, served: Any
):
    server = served(reply(401))
    place.text(f"[login]\nuser = me\npassword = hunter2\n{line}\n", name="secrets.conf")
    (place.cwd / "secrets.conf").chmod(0o600)
    account = {"auth": "oidc", "token_url": server.url("/token"), "client_id": "public", "secrets": "secrets.conf"}
    place.write([{"url": server.url("/x")}], accounts={"a": account}, defaults={"account": "a"})
    done = place(command, "m.yaml")
    assert (done.code, len(server.log)) == (3, 0)
    assert said in done.out + done.err
    assert "GEZD" not in done.out + done.err
