"""Values read from a manifest: forms, defaults, accounts, paths, lists of URLs, plain data."""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from datetime import time
from pathlib import Path

import pytest

from bulkdl.core.errors import ManifestError
from bulkdl.core.models import AuthKind, Checksum, Grant, Resume, SecretRef, TokenIn, Verify, Window
from bulkdl.core.secret import MASK
from bulkdl.core.urls import HostList, Url
from bulkdl.manifest.loader import from_mapping, load
from bulkdl.manifest.schema import schema_text
from tests.manifest.reading import BASE, problem, problems, read

WHOLE = """\
version: 1
destination: ./products
settings:
  workers: 8
  segments: auto
  limit_rate: 40M
  retries: 10
  timeout: 60
  min_rate: 1K
  max_wait: 1h
  window: "22:00-06:00"
  until: 06:30
  ca_file: null
accounts:
  creodias:
    provider: creodias
    secrets: secrets.conf
  own:
    auth: oidc
    token_url: https://sso.example.org/realms/eo/protocol/openid-connect/token
    client_id: public
    client_secret: ${OWN_SECRET}
    grant: password
    scope: openid
    username: ${OWN_USER}
    password: ${OWN_PASSWORD}
    totp_secret: ${OWN_TOTP}
    totp_field: otp
    token_in: query
    token_param: t
    hosts: [archive.example.org, "*.CDN.example.org", "[::1]:8443", a.example:80]
    max_connections: 4
    resume: overlap
defaults:
  account: creodias
  headers: {Accept: "*/*", X-One: "1"}
products:
  - https://archive.example.org/a.zip
  - url: https://archive.example.org/download/123?sig=abc
    file: 2024/S2A_MSIL1C.zip
    size: 734003200
    checksum: [md5:9E107D9D372BB6826BD81D3542A419D6, "SHA-256:d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592"]
    account: own
    mirrors: [https://other.example.org/123]
    headers: {accept: application/zip}
    extract: true
    verify: deep
  - {url: https://archive.example.org/b, account: null, resume: strict, size: 1K}
"""


def test_the_whole_of_the_format_is_read():
    m = read(WHOLE)
    assert m.destination == BASE / "products"
    assert m.destination_shown == "products"
    assert m.warnings == ()
    assert m.settings == {
        "workers": 8,
        "segments": None,
        "limit_rate": 40 * 1024**2,
        "retries": 10,
        "timeout": 60.0,
        "min_rate": 1024,
        "max_wait": 3600.0,
        "window": Window(time(22), time(6)),
        "until": time(6, 30),
    }
    first, second, third = m.products
    assert (first.index, first.line, first.url, first.account) == (
        0,
        38,
        Url("https://archive.example.org/a.zip"),
        "creodias",
    )
    assert first.headers == (("Accept", "*/*"), ("X-One", "1"))
    assert second.file == "2024/S2A_MSIL1C.zip"
    assert second.size == 734003200
    assert second.checksums == (
        Checksum("md5", "9e107d9d372bb6826bd81d3542a419d6"),
        Checksum("sha256", "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592"),
    )
    assert second.mirrors == (Url("https://other.example.org/123"),)
    assert second.headers == (("X-One", "1"), ("accept", "application/zip"))
    assert (second.extract, second.verify, second.resume) == (True, Verify.DEEP, Resume.OVERLAP)
    assert (third.account, third.resume, third.size, third.line) == (None, Resume.STRICT, 1024, 48)


def test_an_account_is_its_preset_and_what_it_says_itself():
    accounts = read(WHOLE).accounts
    creodias, own = accounts["creodias"], accounts["own"]
    assert creodias.provider == "creodias"
    assert creodias.client_id == "CLOUDFERRO_PUBLIC"
    assert creodias.token_in is TokenIn.QUERY
    assert creodias.hosts == HostList(("zipper.creodias.eu",))
    assert creodias.secrets == BASE / "secrets.conf"
    assert "identity.cloudferro.com" in creodias.netrc_hosts
    assert own.auth is AuthKind.OIDC
    assert own.password == SecretRef("${OWN_PASSWORD}")
    assert own.totp_secret == SecretRef("${OWN_TOTP}")
    assert (own.totp_field, own.token_param, own.max_connections) == ("otp", "t", 4)
    assert own.hosts == HostList(("archive.example.org", "*.cdn.example.org", "[::1]:8443", "a.example:80"))
    assert own.netrc_hosts == ("sso.example.org",)


def account(text: str, **environ: str):
    return read(f"accounts: {{a: {text}}}\nproducts: [https://x.example/a]\n", **environ).accounts["a"]


def test_a_preset_may_be_used_with_another_auth():
    basic = account("{provider: terrascope, auth: basic, username: me}")
    assert (basic.auth, basic.token_url, basic.username) == (AuthKind.BASIC, None, SecretRef("me"))
    assert basic.hosts == HostList(("services.terrascope.be",))
    bearer = account("{provider: earthdata, auth: bearer, token: '${T}'}")
    assert bearer.hosts == HostList(("*.earthdata.nasa.gov", "*.earthdatacloud.nasa.gov"))
    assert account("{provider: cdse, max_connections: null}").max_connections is None


def test_public_facts_may_come_from_the_environment_and_secrets_are_not_looked_up_here():
    eumetsat = account("{provider: eumetsat, client_id: '${KEY}', client_secret: '${UNSET}'}", KEY="k")
    assert (eumetsat.client_id, eumetsat.client_secret) == ("k", SecretRef("${UNSET}"))
    assert eumetsat.grant is Grant.CLIENT_CREDENTIALS


def test_hosts_default_to_none_and_netrc_to_single_hosts():
    assert account("{auth: basic}").hosts is None
    assert account("{auth: basic, hosts: [a.example, '*.b.example', 'c.example:80']}").netrc_hosts == (
        "a.example",
        "c.example",
    )


def test_the_destination_may_hold_a_variable_and_a_flag_overrides_it(tmp_path, monkeypatch):
    path = tmp_path / "m.yaml"
    path.write_text("destination: ${D}/x\nproducts: [https://x.example/a]\n")
    assert load(str(path), environ={"D": "deep"}).destination == tmp_path / "deep" / "x"
    monkeypatch.chdir(tmp_path)
    overridden = load("m.yaml", destination=Path("other"), environ={})
    assert overridden.destination == Path.cwd() / "other"
    assert overridden.destination_shown == "other"


def test_without_a_destination_products_go_beside_the_manifest():
    assert read("products: [https://x.example/a]").destination == BASE


def test_a_ca_file_is_relative_to_the_manifest():
    m = read("settings: {ca_file: '${C}.pem'}\nproducts: [https://x.example/a]", C="ca")
    assert m.settings["ca_file"] == BASE / "ca.pem"


URLS = "# mine\n\n  https://x.example/a.zip\r\nhttps://x.example/b.zip\nhttps://x.example/a.zip\nhttp://x.example/c"


def test_a_plain_list_of_urls_is_a_manifest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    m = load("-", stdin=io.BytesIO(URLS.encode()), environ={})
    assert [p.url.raw.rpartition("/")[2] for p in m.products] == ["a.zip", "b.zip", "c"]
    assert [p.line for p in m.products] == [3, 4, 6]
    assert m.destination == Path.cwd()
    assert m.path == "-"
    assert m.warnings == ("line 5: duplicate of the URL in line 3; it is downloaded once",)


def test_problems_of_a_list_have_positions_too():
    assert problems("https://x.example/a\n ftp://x\nnonsense\n") == [
        'm.yaml:2:2: expected an absolute http:// or https:// URL, found "ftp://x"',
        "m.yaml:3:1: expected an absolute http:// or https:// URL, found text that is no URL",
    ]


def test_a_list_of_urls_from_another_folder_goes_to_the_current_one(tmp_path, monkeypatch):
    (tmp_path / "urls.txt").write_text("https://x.example/a\n")
    monkeypatch.chdir(BASE)
    assert load(str(tmp_path / "urls.txt"), environ={}).destination == Path.cwd()


def test_standard_input_may_be_yaml_and_products_may_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "products:\n- https://x.example/a\ndefaults: {account: own, verify: deep}\naccounts: {own: {auth: none}}\n"
    m = load("-", stdin=io.BytesIO(text.encode()), environ={})
    assert (m.products[0].account, m.products[0].verify) == ("own", Verify.DEEP)
    assert m.destination == Path.cwd()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "folder"),
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: p.write_bytes(b"# nothing\n"), "empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_message(tmp_path, make, word):
    path = tmp_path / "m.yaml"
    make(path)
    with pytest.raises(ManifestError, match=word) as caught:
        load(str(path), environ={})
    assert caught.value.lines()[0].startswith(f"{path}:")


@contextmanager
def as_unprivileged_user():
    """Run the block without root's right to bypass file permissions."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_file_without_permission_says_so(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(WHOLE)
    path.chmod(0)
    with as_unprivileged_user(), pytest.raises(ManifestError, match="permissions"):
        load(str(path), environ={})


def test_plain_data_is_a_manifest_under_the_same_rules():
    m = from_mapping(
        {
            "destination": Path("out"),
            "accounts": {"a": {"auth": "bearer", "token": "${T}"}},
            "products": ({"url": Url(f"https://x.example/{i}"), "account": "a"} for i in range(3)),
        },
        base=BASE,
        environ={},
    )
    assert m.destination == BASE / "out"
    assert [p.url.raw for p in m.products] == [f"https://x.example/{i}" for i in range(3)]
    assert m.products[0].line == 0


def test_problems_of_plain_data_name_their_position():
    with pytest.raises(ManifestError) as caught:
        from_mapping(
            {
                "accounts": {"a": {"auth": "basic", "password": "hunter2"}},
                "products": [
                    {"url": "https://x.example/a", "file": "a"},
                    {"url": "https://x.example/b", "file": "A", "sise": 1},
                    {"url": "https://x.example/c", "checksum": ["md5:00"]},
                ],
            },
            environ={},
        )
    text = str(caught.value)
    assert "<manifest>: accounts.a.password: `password`: expected a reference" in text
    assert '<manifest>: products[1].file: two products for one file: "A" is also the file of products[0]' in text
    assert "<manifest>: products[2].checksum[0]: `checksum`: md5 has 32 hexadecimal digits, found 2" in text
    assert "sise" in text
    assert "hunter2" not in text


def test_data_that_is_not_plain_is_refused():
    with pytest.raises(ManifestError, match=r"products\[0\].*complex"):
        from_mapping({"products": [3j]}, environ={})
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ManifestError, match="nested"):
        from_mapping({"products": endless}, environ={})


def test_a_presigned_url_is_allowed_and_stays_masked():
    product = read("products: ['https://s3.example/a?X-Amz-Signature=abc']").products[0]
    assert MASK in repr(product)
    assert "abc" not in repr(product)


def test_anchors_merge_keys_and_extension_keys_work():
    m = read(
        "x-common: &c {verify: deep, headers: &h {Accept: a}}\n"
        "products:\n- {<<: *c, url: https://x.example/a}\n- url: https://x.example/b\n  headers: *h\n"
        "- {<<: [{verify: basic}, *c], url: https://x.example/c}\n"
    )
    assert [p.verify for p in m.products] == [Verify.DEEP, Verify.BASIC, Verify.BASIC]
    assert all(p.headers == (("Accept", "a"),) for p in m.products)


def test_an_empty_list_of_products_is_allowed_with_a_warning():
    m = read("products: []")
    assert m.products == ()
    assert m.warnings == ("line 1: the list of products is empty",)


def test_a_password_over_http_is_a_warning_except_on_loopback():
    text = "accounts: {a: {auth: oidc, token_url: 'http://%s/t', password: '${P}'}}\nproducts: [https://x.example/a]"
    assert "unencrypted" in read(text % "sso.example.org").warnings[0]
    assert read(text % "127.0.0.1:99").warnings == ()


def test_a_key_that_the_account_never_uses_is_a_warning():
    m = read("accounts: {a: {auth: basic, token: '${T}'}}\nproducts: [https://x.example/a]")
    assert m.warnings == ('line 1: `token` of the account "a" is not used by `auth: basic`',)


def test_the_same_url_twice_without_file_names_is_refused():
    line = problem("products:\n- https://x.example/a\n- url: https://x.example/a\n")
    assert line.startswith("m.yaml:3:3: the URL https://x.example/a is also in line 2")
    assert len(read("products:\n- https://x.example/a\n- {url: https://x.example/a, file: b}\n").products) == 2


def test_the_schema_that_editors_use_is_the_one_that_is_shipped():
    beside = BASE.parent.parent / "manifests" / "bulkdl.schema.json"
    assert beside.read_text(encoding="utf-8") == schema_text()


def test_the_example_manifests_load_without_warnings():
    environ = {"EUMETSAT_KEY": "key"}
    paths = sorted((BASE.parent.parent / "manifests").glob("*.yaml"))
    assert {p.stem for p in paths} >= {"cdse", "creodias", "demo", "mixed", "terrascope"}
    for path in paths:
        manifest = load(str(path), environ=environ)
        assert manifest.products
        assert manifest.warnings == ()


def test_host_names_in_other_than_ascii_are_written_in_ascii_wherever_a_manifest_has_them():
    text = (
        "accounts:\n  a: {auth: oidc, client_id: x, token_url: 'https://sso.BÜCHER.example/t', hosts: [Bücher.example, '*.bücher.example', 'bücher.example:81']}\n"
        "products:\n- {url: 'https://bücher.example/ü.nc', account: a, mirrors: ['http://bu\u0308cher.example:8080/x']}\n"
    )
    found = read(text)
    account, product = found.accounts["a"], found.products[0]
    assert account.hosts is not None
    assert account.hosts.entries == ("xn--bcher-kva.example", "*.xn--bcher-kva.example", "xn--bcher-kva.example:81")
    assert account.token_url is not None
    assert account.token_url.host == "sso.xn--bcher-kva.example"
    assert product.url.raw == "https://xn--bcher-kva.example/ü.nc"
    assert product.mirrors[0].raw == "http://xn--bcher-kva.example:8080/x"
    assert account.hosts.allows(product.url)


def test_a_name_is_only_what_a_product_is_called_without_another():
    (product,) = read("products: [{url: https://x.example/get?id=1, name: ./S5P.nc}]").products
    assert (product.file, product.hint, product.expected_file) == (None, "S5P.nc", "S5P.nc")
    assert "leaves" in problem("products: [{url: https://x.example/a, name: ../x}]")
