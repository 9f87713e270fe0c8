"""Commands other than `run`: their output, the files they must not change, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
import yaml

from bulkdl.demo_server.faults import Refuse, Stall
from bulkdl.demo_server.token_server import User
from tests.contract.program import TOTP_SECRETS, Done, Place, Site

if TYPE_CHECKING:
    from bulkdl.demo_server.catalog import Item

ROOT = Path(__file__).resolve().parents[2]

EXAMPLE = """\
# yaml-language-server: $schema=bulkdl.schema.json
version: 1
destination: ./products            # relative to the manifest; -d overrides
settings:
  workers: 8
  segments: auto
  limit_rate: 40M
  retries: 10
  timeout: 60
  min_rate: 1K
  max_wait: 1h
  window: "22:00-06:00"
  until: "06:30"
  ca_file: null
accounts:
  creodias:
    provider: creodias
    secrets: secrets.conf
  terrascope:
    provider: terrascope
    username: ${TERRASCOPE_USERNAME}
    password: ${TERRASCOPE_PASSWORD}
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
    totp_field: totp
    token_in: header
    token_param: token
    hosts: [archive.example.org, "*.cdn.example.org"]
    max_connections: 4
defaults:
  account: creodias
products:
  - https://archive.example.org/a.zip
  - url: https://archive.example.org/download/123
    file: S2A_MSIL1C.zip
    size: 734003200
    checksum: md5:9e107d9d372bb6826bd81d3542a419d6
    account: own
    mirrors: [https://other.example.org/123]
    headers: {Accept: application/zip}
    extract: false
    verify: basic
"""
"""Manifest of the documentation, with every key."""
OWN = {"OWN_USER": "me", "OWN_PASSWORD": "own-password-1", "OWN_TOTP": TOTP_SECRETS["ines"]}
OWN |= {"TERRASCOPE_USERNAME": "me", "TERRASCOPE_PASSWORD": "terrascope-1"}


@pytest.fixture(scope="module")
def schema(tmp_path_factory) -> jsonschema_rs.Draft202012Validator:
    done = Place(tmp_path_factory.mktemp("schema"))("schema")
    assert (done.code, done.err) == (0, "")
    return jsonschema_rs.Draft202012Validator(json.loads(done.out))


@pytest.mark.parametrize("name", ["example", *sorted(p.name for p in (ROOT / "manifests").glob("*.yaml"))])
def test_the_schema_accepts_the_example_and_the_ready_made_manifests(name: str, schema):
    text = EXAMPLE if name == "example" else (ROOT / "manifests" / name).read_text(encoding="utf-8")
    assert schema.is_valid(yaml.safe_load(text))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"products": "x"},
        {"produts": []},
        {"settings": {"workers": 0}},
        {"accounts": {"a": {"auth": "x"}}},
    ],
)
def test_the_schema_refuses_what_is_wrong(change: dict[str, Any], schema):
    assert not schema.is_valid({"version": 1, "products": []} | change)


def test_the_example_is_a_good_manifest_without_any_network(place: Place):
    place.text(EXAMPLE)
    conf = place.text(
        f"[login]\nuser = me\npassword = x1%y=z\ntotp_secret = {TOTP_SECRETS['ines']}\n", name="secrets.conf"
    )
    conf.chmod(0o600)
    done = place("check", "m.yaml", env=OWN)
    assert done.code == 0, done.err + done.out
    for word in ("creodias", "terrascope", "own", "2", "700"):
        assert word in done.out


class Morning:
    """Destination with a finished, a partial, a failed and a new product, and a conflict."""

    def __init__(self, site: Site, place: Place) -> None:
        self.site, self.place = site, place
        names = ("done", "partial", "failed", "pending", "conflict")
        self.items: dict[str, Item] = {name: site.item(size=200_000) for name in names}
        site.archive.faults.add(Stall(120_000), item=self.items["partial"].name)
        site.archive.faults.add(Refuse(404), item=self.items["failed"].name, times=None)
        entries = {name: site.entry(item) for name, item in self.items.items()}
        place.write([entries[name] for name in ("done", "failed", "partial")])
        place("run", "m.yaml", "--progress", "none", "--select", self.items["failed"].name)
        running = place.start("run", "m.yaml", "--progress", "none", "-j", "1", "--retries", "1")
        running.until(lambda: (place.get(f"{self.items['partial'].name}.part") or b"") != b"", "the partial")
        running.interrupt()
        place.put(self.items["conflict"].name, b"other")
        place.write(entries.values())
        self.before = site.requests
        self.status = place("status", "m.yaml", "--json")
        self.text = place("status", "m.yaml")
        self.check = place("check", "m.yaml", "--json")
        self.plan = place("check", "m.yaml")
        self.verify = place("verify", "m.yaml", "--json")
        self.report = place("report", "m.yaml", "-o", "morning.html")
        self.asked = site.requests - self.before


@pytest.fixture(scope="module")
def morning(site: Site, shared_place: Place) -> Morning:
    return Morning(site, shared_place)


def test_commands_that_only_read_make_no_request(morning: Morning):
    assert morning.asked == 0


def test_status_tells_what_is_done_partial_and_failed_and_why(morning: Morning):
    states = {item["file"]: item["state"] for item in json.loads(morning.status.out)["items"]}
    named = {name: states[item.name] for name, item in morning.items.items()}
    assert {n: s for n, s in named.items() if n != "conflict"} == {
        "done": "done",
        "partial": "partial",
        "failed": "failed",
        "pending": "pending",
    }
    failed = next(i for i in json.loads(morning.status.out)["items"] if i["state"] == "failed")
    assert (failed["kind"], "404" in failed["reason"]) == ("http", True)
    assert (morning.status.code, morning.text.code) == (1, 1)
    assert all(item.name in morning.text.out for item in morning.items.values())


def test_check_prints_counts_bytes_free_space_and_conflicts(morning: Morning):
    assert morning.check.code == morning.plan.code == 1
    plan = json.loads(morning.check.out)
    assert (plan["products"]["total"], plan["products"]["in_place"]) == (5, 1)
    assert plan["bytes"]["free"] > 0
    assert any(morning.items["conflict"].name in line for line in plan["conflicts"])
    for word in ("5", "free", morning.items["conflict"].name):
        assert word in morning.plan.out


def test_verify_ends_with_1_when_products_are_missing_or_wrong(morning: Morning):
    assert morning.verify.code == 1
    verdicts = {failure["file"]: failure["verdict"] for failure in json.loads(morning.verify.out)["failures"]}
    wrong = {name: verdicts.get(item.name) for name, item in morning.items.items()}
    assert (wrong["done"], wrong["failed"], wrong["conflict"]) == (None, "missing", "wrong")


def test_the_report_names_every_product_and_loads_nothing(morning: Morning):
    assert morning.report.code == 0
    html = (morning.place.cwd / "morning.html").read_text(encoding="utf-8")
    assert all(item.name in html for item in morning.items.values())
    assert "404" in html
    assert not any(word in html for word in ("<script", "<link", "<img", "src="))


@pytest.mark.parametrize("size", [64, 65_000, 300_000, 5_000_000])
def test_verify_finds_a_changed_byte_of_a_product_without_a_checksum(size: int, site: Site, place: Place):
    item, before = site.item(size=size), site.item()
    place.put(before.name, before.read())
    place.write([site.bare(item), site.bare(before)])
    assert place.run().code == 0
    looked = place("verify", "m.yaml", "--json")
    assert looked.code == 0
    assert looked.summary["products"] == {"total": 2, "ok": 1, "unchecked": 1, "wrong": 0, "missing": 0}
    assert "1 ok, 1 unchecked" in place("verify", "m.yaml").out
    data = bytearray(item.read())
    data[size // 2] ^= 1
    place.put(item.name, bytes(data))
    looked = place("verify", "m.yaml", "--json")
    assert looked.code == 1
    assert [(f["file"], f["verdict"]) for f in looked.summary["failures"]] == [(item.name, "wrong")]
    assert place("verify", "m.yaml", "--requeue").code == 1
    assert place.run().code == 0
    assert place.get(item.name) == item.read()


def test_verify_finds_damage_with_unchanged_size_and_requeue_downloads_it_again(site: Site, place: Place):
    good, bad, gone = (site.item() for _ in range(3))
    place.write([site.entry(item) for item in (good, bad, gone)])
    assert place.run().code == 0
    assert place("verify", "m.yaml").code == 0
    assert place("status", "m.yaml").code == 0
    place.put(bad.name, b"x" * bad.size)
    (place.products / gone.name).unlink()
    looked = place("verify", "m.yaml")
    assert looked.code == 1
    assert bad.name in looked.out
    assert gone.name in looked.out
    assert place("verify", "m.yaml", "--requeue").code == 1
    before = {item.name: len(site.archive.requests(item)) for item in (good, bad, gone)}
    assert place.run().code == 0
    again = [len(site.archive.requests(item)) - before[item.name] for item in (good, bad, gone)]
    assert again == [0, 1, 1]
    assert place.get(bad.name) == bad.read()
    assert place("verify", "m.yaml").code == 0


def test_every_command_that_takes_a_manifest_takes_a_destination(site: Site, place: Place):
    item = site.item()
    place.write([site.entry(item)], accounts={"jo": site.oidc()})
    assert place.run("-d", "elsewhere").code == 0
    for command in ("status", "verify", "check"):
        assert place(command, "m.yaml", "-d", "elsewhere").code == 0
    for command, code in (("status", 1), ("verify", 1)):
        assert place(command, "m.yaml").code == code
    assert place("status", "m.yaml", env={"BULKDL_DESTINATION": "elsewhere"}).code == 0
    assert place("login", "m.yaml", "-d", "elsewhere").code == 0
    assert place("report", "m.yaml", "-d", "elsewhere", "-o", "r.html").code == 0
    assert "elsewhere" in (place.cwd / "r.html").read_text(encoding="utf-8")


def test_login_prints_lifetimes_and_no_secret_and_ends_with_3_when_one_account_cannot(site: Site, place: Place):
    site.identity.users["eve"] = User(name="eve", password="another")
    accounts = {
        "good": site.oidc(),
        "totp": site.oidc("tina", totp_secret="${TINA_TOTP}"),
        "bad": site.oidc("eve", password="${JO_PASSWORD}"),
    }
    place.write([site.url(site.item())], accounts=accounts)
    before = len(site.identity.log)
    done = place("login", "m.yaml")
    assert done.code == 3
    assert "5m" in done.out
    assert "30m" in done.out
    assert all(name in done.out for name in accounts)
    tokens = tuple(site.identity._access)
    assert not any(token in done.out + done.err for token in tokens)
    assert sum(call.user == "eve" for call in site.identity.log[before:]) == 1
    assert site.identity.sessions == 0
    one = place("login", "m.yaml", "good")
    assert (one.code, "bad" in one.out) == (0, False)
    unknown = place("login", "m.yaml", "goood")
    assert (unknown.code, '"good"' in unknown.err) == (2, True)
    assert not place.products.exists()


def test_check_remote_asks_for_each_product_and_fetches_none(site: Site, place: Place):
    fine, other, gone, signed, locked = (
        site.item(),
        site.item(),
        site.item(),
        site.item("header-"),
        site.item("header-"),
    )
    site.identity.users["mal"] = User(name="mal", password="another")
    entries = [
        site.entry(fine),
        site.entry(other, size=17, checksum=...),
        site.entry(gone, url=f"{site.url(gone)}-gone"),
        site.entry(signed, account="jo"),
    ]
    place.write(entries, accounts={"jo": site.oidc(), "mal": site.oidc("mal", password="${JO_PASSWORD}")})
    sent = site.archive.bytes_sent
    done = place("check", "m.yaml", "--remote")
    assert done.code == 1, done.err
    assert site.archive.bytes_sent - sent == 0
    problems = [line for line in done.out.splitlines() if "PROBLEM" in line]
    assert [item.name in line for item, line in zip((other, gone), problems, strict=True)] == [True, True]
    assert "17" in problems[0]
    assert "404" in problems[1]
    assert f"{other.size}" in problems[0]
    assert signed.name in done.out
    place.write(
        [*entries[:1], site.entry(locked, account="mal")], accounts={"mal": site.oidc("mal", password="${JO_PASSWORD}")}
    )
    stopped = place("check", "m.yaml", "--remote", "--json")
    assert stopped.code == 3
    found = {item["file"]: item for item in json.loads(stopped.out)["remote"]["items"]}
    assert (found[fine.name]["status"], found[fine.name]["size"], found[fine.name]["problem"]) == (200, fine.size, "")
    assert found[locked.name]["problem"]
    assert not place.products.exists()


def test_providers_lists_the_presets_and_what_each_sets(place: Place):
    listed = place("providers")
    assert listed.code == 0
    for name in ("creodias", "terrascope", "cdse"):
        assert name in listed.out
    one = place("providers", "creodias")
    assert one.code == 0
    assert "identity.cloudferro.com" in one.out
    assert "CLOUDFERRO_PUBLIC" in one.out
    assert place("providers", "creodais").code == 2


@pytest.mark.parametrize("form", ["csv", "sha256sums"])
def test_a_list_becomes_a_manifest_that_runs(form: str, site: Site, place: Place):
    item = site.item()
    url, sha = site.url(item), item.digest("sha256")
    text = {
        "csv": f"url,file,sha256\n{url},x.bin,{sha}\n",
        "sha256sums": f"{sha}  {item.name}\n",
    }[form]
    more = ("--base-url", f"{site.archive.origin}/files") if form == "sha256sums" else ()
    place.text(text, name="list")
    made = place("manifest", form, "list", "-o", "m.yaml", *more)
    assert (made.code, made.out) == (0, "")
    assert place.run().code == 0
    assert place.get("x.bin" if form == "csv" else item.name) == item.read()


def test_a_manifest_may_go_through_pipes(site: Site, place: Place):
    item = site.item()
    made = place("manifest", "urls", "-", stdin=f"{site.url(item)}\n")
    assert made.code == 0
    assert place.run(manifest="-", stdin=made.out).code == 0
    assert place.get(item.name) == item.read()


def test_a_wrong_list_ends_with_2_and_positions_and_writes_no_manifest(place: Place):
    place.text("https://a.example.org/1\nnot a url\nnor this\n", name="list.txt")
    done = place("manifest", "urls", "list.txt", "-o", "m.yaml")
    assert (done.code, done.out) == (2, "")
    assert "list.txt:2:1: " in done.err
    assert "list.txt:3:1: " in done.err
    assert not (place.cwd / "m.yaml").exists()
    assert place("manifest", "nothing", "list.txt").code == 2
    assert place("manifest", "urls", "nowhere.txt").code == 2


def test_the_demo_runs_with_nothing_to_configure_and_stops_when_it_is_asked_to(place: Place):
    running = place.start("demo", "--json", "-d", "kept", "--progress", "json")
    running.until(lambda: '"state": "completed"' in running.err, "a product of the demo")
    done = running.interrupt()
    assert done.code == done.summary["exit_code"] == 130
    assert done.summary["products"]["completed"] > 0
    assert done.summary["products"]["failed"] == 0
    assert any(path.suffix in {".zip", ".tif", ".nc", ".jp2", ".json"} for path in (place.cwd / "kept").iterdir())


@pytest.mark.parametrize(
    ("words", "code"),
    [(("--version",), 0), (("--help",), 0), (("run", "--help"), 0), ((), 2), (("nonsense",), 2), (("run",), 2)],
    ids=str,
)
def test_the_command_line_itself(words: tuple[str, ...], code: int, place: Place):
    done: Done = place(*words)
    assert done.code == code
    assert done.out if code == 0 else done.err
    if words == ("run", "--help"):
        flags = (
            "--destination --workers --segments --limit-rate --retries --timeout --min-rate --max-wait --window --until "
            "--ca-file --select --overwrite --trust-existing --wait-for-space --dry-run --progress --json --report --log-file"
        )
        assert [flag for flag in flags.split() if flag not in done.out] == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_there_is_completion(shell: str, place: Place):
    done = place("completion", shell)
    assert (done.code, done.err) == (0, "")
    assert "--wait-for-space" in done.out
