"""Manifests: every key has its effect, and every fault is reported."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.demo_server.faults import Flip
from bulkdl.demo_server.generated_files import Kind
from tests.contract.program import Done, Place, Site
from tests.servers import redirect, reply

if TYPE_CHECKING:
    from collections.abc import Iterator


def zipped(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, body in members.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.dat"), body)
    return packed.getvalue()


def tarred(name: str, body: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(body)
        archive.addfile(info, io.BytesIO(body))
    return packed.getvalue()


class Night:
    """One run of one manifest in which every key is used."""

    def __init__(self, site: Site, place: Place) -> None:
        self.site, self.place = site, place
        self.items = {name: site.item() for name in ("short", "long", "sized", "list", "mirrored", "one-wrong", "null")}
        for algorithm in ("md5", "sha1", "sha256", "sha512", "blake3"):
            self.items[algorithm] = site.item()
        self.items["served"] = site.item(name="name from the server.bin")
        self.items["signed"] = site.item("header-")
        place.write(self._products(), accounts={"jo": site.oidc()}, defaults={"account": "jo"})
        self.done: Done = place.run("--retries", "1", "-j", "4")

    def _products(self) -> list[Any]:
        site, items = self.site, self.items
        body = zipped(a=b"first", b=b"second")
        broken = bytearray(body)
        broken[body.index(b"second")] ^= 1
        self.tar = tarred("inside/deep.txt", b"unpacked")
        raw, routes = site.raw, site.routes
        routes["/headers"] = reply(200, b"with headers")
        routes["/scene.zip"] = reply(200, body)
        routes["/kept.tar.gz"] = reply(200, self.tar)
        for name in ("/basic.zip", "/deep.zip"):
            routes[name] = reply(200, bytes(broken))
        routes["/a%20b/%C3%BC%20x.bin"] = reply(200, b"umlaut")
        routes["/presigned.bin"] = reply(200, b"presigned")
        routes["/hop"] = redirect("/presigned.bin?Signature=query-canary-5")
        wrong = f"sha1:{'0' * 40}"
        null = site.item("header-")
        self.items["null"] = null
        return [
            site.url(items["short"]),
            {"url": site.url(items["long"]), "file": "deep/er/long.bin"},
            {"url": site.url(items["sized"]), "size": items["sized"].size},
            site.entry(items["list"], checksum=[f"{a}:{items['list'].digest(a)}" for a in ("md5", "sha256")]),
            site.entry(items["one-wrong"], checksum=[f"md5:{items['one-wrong'].digest()}", wrong]),
            *(
                site.entry(items[a], checksum=f"{a}:{items[a].digest(a).upper()}")
                for a in ("md5", "sha1", "sha256", "sha512", "blake3")
            ),
            site.entry(items["mirrored"], url=raw.url("/gone"), mirrors=[site.url(items["mirrored"])]),
            {"url": raw.url("/headers"), "file": "headers.bin", "headers": {"Accept": "application/zip", "X-Own": "1"}},
            {"url": raw.url("/scene.zip"), "file": "sub/scene.zip", "extract": True},
            {"url": raw.url("/kept.tar.gz"), "extract": False},
            {"url": raw.url("/basic.zip"), "verify": "basic"},
            {"url": raw.url("/deep.zip"), "verify": "deep"},
            site.url(items["served"], "download"),
            raw.url("/a%20b/%C3%BC%20x.bin"),
            site.entry(null, account=None),
            site.entry(items["signed"]),
            raw.url("/presigned.bin?X-Signature=query-canary-5"),
            {"url": raw.url("/hop"), "file": "hop.bin"},
        ]


@pytest.fixture(scope="module")
def night(site: Site, shared_place: Place) -> Iterator[Night]:
    night = Night(site, shared_place)
    yield night
    assert shared_place.leaks("query-canary-5") == [str(shared_place.cwd / "m.yaml")]


def test_the_short_form_is_a_url_whose_last_segment_is_the_name(night: Night):
    item = night.items["short"]
    assert night.place.get(item.name) == item.read()


def test_file_is_a_path_under_the_destination_whose_folders_are_made(night: Night):
    assert night.place.get("deep/er/long.bin") == night.items["long"].read()


def test_size_alone_is_enough_to_know_a_product_by(night: Night):
    assert night.place.get(night.items["sized"].name) == night.items["sized"].read()


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512", "blake3"])
def test_a_checksum_may_be_in_upper_case(algorithm: str, night: Night):
    assert night.place.get(night.items[algorithm].name) == night.items[algorithm].read()


def test_of_several_checksums_all_have_to_match(night: Night):
    assert night.place.get(night.items["list"].name) == night.items["list"].read()
    wrong = night.items["one-wrong"].name
    assert night.done.kind(wrong) == "checksum"
    assert night.place.get(wrong) is None


def test_a_mirror_serves_what_the_first_source_does_not_have(night: Night):
    assert night.place.get(night.items["mirrored"].name) == night.items["mirrored"].read()
    assert len(night.site.routes.of("/gone")) >= 1


def test_headers_of_a_product_are_sent(night: Night):
    request = night.site.routes.of("/headers")[0]
    assert (request.header("Accept"), request.header("X-Own")) == ("application/zip", "1")
    assert request.header("Accept-Encoding") == "identity"


def test_extract_unpacks_beside_the_archive_and_keeps_it(night: Night):
    unpacked = list((night.place.products / "sub").rglob("a.dat"))
    assert [path.read_bytes() for path in unpacked] == [b"first"]
    assert night.place.get("sub/scene.zip") is not None


def test_without_extract_nothing_is_unpacked(night: Night):
    assert night.place.get("kept.tar.gz") == night.tar
    assert not list(night.place.products.rglob("deep.txt"))


def test_verify_deep_reads_every_member_and_basic_does_not(night: Night):
    assert night.place.get("basic.zip") is not None
    assert night.done.kind("deep.zip") == "content"
    assert night.place.get("deep.zip") is None


def test_content_disposition_names_a_product_without_file(night: Night):
    assert night.place.get("name from the server.bin") == night.items["served"].read()


def test_the_last_segment_of_a_url_is_decoded(night: Night):
    assert night.place.get("ü x.bin") == b"umlaut"


def test_account_null_takes_the_default_account_away(night: Night):
    name = night.items["null"].name
    assert night.done.kind(name) == "auth"
    assert not any(record.had_credential for record in night.site.archive.requests(name))


def test_the_default_account_is_for_products_that_name_none(night: Night):
    item = night.items["signed"]
    assert night.place.get(item.name) == item.read()
    assert night.done.summary["accounts"] == {"jo": {"logins": 1, "refreshes": 0}}


def test_a_presigned_url_is_used_and_its_query_shown_nowhere(night: Night):
    assert night.site.routes.of("/presigned.bin")[0].query in {
        "X-Signature=query-canary-5",
        "Signature=query-canary-5",
    }
    assert "query-canary" not in night.done.out + night.done.err


def test_everything_else_of_that_manifest_arrived(night: Night):
    assert set(night.done.failures) == {night.items["one-wrong"].name, "deep.zip", night.items["null"].name}
    assert night.done.code == 1


FAULTS = """\
version: 2
destination: [a]
settings:
  wrokers: 3
  segments: many
  limit_rate: fast
  retries: -1
  timeout: 0
  min_rate: slow
  max_wait: soon
  window: "22:00"
  until: late
accounts:
  lit1: {auth: basic, username: u, password: canary-literal-1}
  lit2: {auth: oidc, token_url: "https://a.example.org/t", client_id: c, client_secret: canary-literal-2, username: u, password: "${P}"}
  lit3: {auth: oidc, token_url: "https://a.example.org/t", client_id: c, username: u, password: "${P}", totp_secret: canary-literal-3}
  lit4: {auth: bearer, token: canary-literal-4}
  kind: {auth: kerberos}
  prov: {provider: creodais}
  host: {auth: bearer, token: "${T}", hosts: ["https://archive.example.org/"]}
  gran: {auth: oidc, token_url: "https://a.example.org/t", client_id: c, grant: implicit}
  conn: {auth: bearer, token: "${T}", max_connections: 0}
defaults:
  acount: lit1
products:
  - ftp://archive.example.org/a.zip
  - url: archive.example.org/b
  - {file: c}
  - {url: "https://archive.example.org/d", file: ../x}
  - {url: "https://archive.example.org/e", file: /etc/x}
  - {url: "https://archive.example.org/f", size: many}
  - {url: "https://archive.example.org/g", checksum: "md5:123"}
  - {url: "https://archive.example.org/h", checksum: "crc32:12345678"}
  - {url: "https://archive.example.org/i", account: nobody}
  - {url: "https://archive.example.org/j", headers: {Authorization: canary-literal-5}}
  - {url: "https://archive.example.org/k", headers: {Cookie: canary-literal-6}}
  - https://user:canary-literal-7@archive.example.org/l
  - {url: "https://archive.example.org/m", verify: deeper}
  - {url: "https://archive.example.org/n", extract: perhaps}
  - {url: "https://archive.example.org/o", mirrors: ["nowhere"]}
  - {url: "https://archive.example.org/p", file: Same.zip}
  - {url: "https://archive.example.org/q", file: same.ZIP}
  - {url: "https://archive.example.org/r", chekcsum: "md5:9e107d9d372bb6826bd81d3542a419d6"}
  - {url: "https://archive.example.org/s", file: .bulkdl/journal}
  - {url: "https://archive.example.org/t", resume: never}
  - {url: "https://archive.example.org/u", headers: {Range: bytes=0-1}}
  - {url: "https://archive.example.org/v", size: -5}
"""
FAULTY_LINES = {
    number: line.strip()
    for number, line in enumerate(FAULTS.splitlines(), 1)
    if line.strip() not in {"settings:", "accounts:", "defaults:", "products:"} and "Same.zip" not in line
}


@pytest.fixture(scope="module")
def refused(site: Site, tmp_path_factory) -> tuple[Done, Place, int]:
    place = Place(tmp_path_factory.mktemp("faults"))
    # One product is valid, so that the test would notice a run in spite of the faults.
    place.text(FAULTS + f"  - {site.url(site.item())}\n")
    before = site.requests
    return place.run(), place, site.requests - before


def test_a_wrong_manifest_ends_with_2_and_nothing_is_fetched_or_written(refused):
    done, place, requests = refused
    assert (done.code, done.out, requests) == (2, "", 0)
    assert [path.name for path in place.cwd.iterdir()] == ["m.yaml"]


@pytest.mark.parametrize("line", FAULTY_LINES, ids=lambda line: FAULTY_LINES[line][:50])
def test_all_faults_are_reported_at_once_with_their_positions(line: int, refused):
    places = re.findall(r"^(\S*m\.yaml):(\d+):(\d+): (.+)$", refused[0].err, re.MULTILINE)
    here = [message for _, number, _, message in places if int(number) == line]
    assert here, refused[0].err


def test_a_literal_secret_is_never_quoted(refused):
    assert "canary-literal" not in refused[0].err


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("wrokers", "workers"), ("acount", "account"), ("chekcsum", "checksum"), ("creodais", "creodias")],
)
def test_a_misspelt_word_is_answered_with_the_likely_one(misspelt: str, meant: str, refused):
    line = next(line for line in refused[0].err.splitlines() if misspelt in line)
    assert f'"{meant}"' in line or f"`{meant}`" in line, line


BROKEN = {
    "no YAML": ("version: 1\nproducts: [\n", r"m\.yaml:\d+:\d+: "),
    "a tab": ("version: 1\nproducts:\n\t- http://127.0.0.1:9/a\n", r"m\.yaml:3:1: .*tab"),
    "a key twice": ("version: 1\nversion: 1\nproducts: []\n", r"m\.yaml:2:1: .*version"),
    "nothing": ("", r"m\.yaml.*(empty|products|nothing)"),
    "only a word": ("hello\n", r"m\.yaml:1:1: "),
    "no products": ("version: 1\n", r"m\.yaml.*products"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_manifest_is_reported_with_its_position(case: str, place: Place):
    text, expected = BROKEN[case]
    place.text(text)
    done = place("check", "m.yaml")
    assert (done.code, done.out) == (2, "")
    assert re.search(expected, done.err), done.err


def test_a_manifest_that_is_not_there_ends_with_2(place: Place):
    done = place.run(manifest="nowhere.yaml")
    assert (done.code, done.out) == (2, "")
    assert "nowhere.yaml" in done.err


def test_a_list_of_urls_is_a_manifest_and_goes_to_the_working_folder(site: Site, place: Place):
    one, two = site.item(), site.item()
    place.text(f"# mine\n\n{site.url(one)}\r\n  {site.url(two)}  \n", name="urls.txt")
    done = place.run("-d", "here", manifest="urls.txt")
    assert (done.code, done.summary["destination"], done.summary["manifest"]) == (0, "here", "urls.txt")
    assert (place.cwd / "here" / one.name).read_bytes() == one.read()
    assert (place.cwd / "here" / two.name).read_bytes() == two.read()


@pytest.mark.parametrize("form", ["list", "yaml"])
def test_a_dash_reads_standard_input(form: str, site: Site, place: Place):
    item = site.item()
    text = f"{site.url(item)}\n" if form == "list" else f"version: 1\nproducts:\n  - {site.url(item)}\n"
    done = place.run("-d", "products", manifest="-", stdin=text)
    assert (done.code, done.summary["manifest"]) == (0, "-")
    assert place.get(item.name) == item.read()


def test_a_relative_destination_is_relative_to_the_manifest(site: Site, place: Place):
    item = site.item()
    path = place.write([site.entry(item)], name="sub/m.yaml", destination="../products")
    done = place.run(manifest=path, cwd=place.root)
    assert done.code == 0
    assert place.get(item.name) == item.read()
    assert (done.summary["destination"], done.summary["manifest"]) == ("../products", str(path))


def test_a_flipped_byte_is_found_by_the_checksum_and_fetched_again(site: Site, place: Place):
    item = site.item("open-flip", 3000, kind=Kind.ZIP)
    site.archive.faults.add(Flip(1500), item=item.name)
    place.write([site.entry(item)])
    assert place.run().code == 0
    assert place.get(item.name) == item.read()
