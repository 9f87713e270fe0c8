"""End of a run: the exit code, its precedence, and the summary in every case."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.demo_server.faults import Chunked, Cut, LoginPage, Preparing, Refuse, Stall
from bulkdl.demo_server.token_server import EndpointFault, User
from tests.contract.program import SECRETS, Done, Place, Site
from tests.servers import announce, html, redirect, reply

if TYPE_CHECKING:
    from bulkdl.demo_server.catalog import Item


pytestmark = pytest.mark.long


class Night:
    """One run in which products fail with every kind of failure."""

    def __init__(self, site: Site, place: Place) -> None:
        self.site, self.place, self.retries = site, place, 2
        self.expected: dict[str, str] = {}
        self.products: list[Any] = []
        for status in (404, 410, 400, 500, 503):
            self._faulty(Refuse(status), "http")
        self._faulty(Refuse(503, retry_after="4000"), "http")
        self._faulty(Refuse(429, retry_after="4000"), "http")
        self._faulty(Preparing("4000"), "offline")
        self._faulty(LoginPage(), "content", known=False)
        self._faulty(Cut(0), "network")
        self._faulty(Chunked(0), "network", known=False)
        self._add("size", size=17, checksum=...)
        self._add("checksum", checksum=f"sha256:{'0' * 64}")
        self._add("checksum", checksum=f"blake3:{'0' * 64}", size=...)
        self._url("network", "http://127.0.0.1:9/refused")
        self._url("network", "http://archive.invalid/x")
        site.routes["/page.zip"] = html()
        site.routes["/error.zip"] = reply(200, b'{"code": 401}', ("Content-Type", "application/json"))
        site.routes["/truncated.zip"] = reply(200, b"PK\x03\x04 and then nothing of a zip")
        site.routes["/short"] = announce(5000, b"x" * 10)
        site.routes["/round"] = redirect("/round")
        for path, kind in {
            "/page.zip": "content",
            "/error.zip": "content",
            "/truncated.zip": "content",
            "/short": "network",
            "/round": "http",
        }.items():
            self._url(kind, site.raw.url(path))
        self._add("auth", prefix="forbidden-", account="jo")
        self._add("auth", prefix="header-")
        place.put("mine.bin", b"mine")
        self._add("conflict", file="mine.bin")
        self.fine = [site.item() for _ in range(3)]
        for item in self.fine:
            self.products.append(site.entry(item))
        place.write(self.products, accounts={"jo": site.oidc()})
        self.done: Done = place.run("--retries", str(self.retries), "-j", "30", "--max-wait", "2", "--timeout", "20")

    def _add(self, kind: str, *, prefix: str = "open-", **more: Any) -> Item:
        item = self.site.item(prefix)
        entry = self.site.entry(item, **more)
        self.products.append(entry)
        self.expected[entry["file"]] = kind
        return item

    def _faulty(self, effect: Any, kind: str, *, known: bool = True) -> None:
        item = self._add(kind, **({} if known else {"size": ..., "checksum": ...}))
        self.site.archive.faults.add(effect, item=item.name, times=None)

    def _url(self, kind: str, url: str) -> None:
        file = url.rpartition("/")[2]
        self.products.append({"url": url})
        self.expected[file] = kind


@pytest.fixture(scope="module")
def night(site: Site, shared_place: Place) -> Night:
    return Night(site, shared_place)


def test_each_failure_is_named_with_its_kind(night: Night):
    found = {file: failure["kind"] for file, failure in night.done.failures.items()}
    assert found == night.expected, night.done.err


def test_a_run_with_failures_ends_with_1_and_everything_else_is_there(night: Night):
    assert night.done.code == night.done.summary["exit_code"] == 1
    assert night.done.counts == {"completed": 3, "failed": len(night.expected)}
    assert all(night.place.get(item.name) == item.read() for item in night.fine)


def test_each_failure_is_on_standard_error_too(night: Night):
    assert [file for file in night.expected if file not in night.done.err] == []


def test_every_reason_is_a_sentence(night: Night):
    assert all(re.search(r"\w+ \w+", failure["reason"]) for failure in night.done.failures.values())


def test_attempts_are_those_that_the_retries_allow_and_a_refusal_gets_a_second_look(night: Night):
    retried = [f for f, kind in night.expected.items() if kind == "network" and "refused" in f]
    assert [night.done.failures[file]["attempts"] for file in retried] == [night.retries]
    missing = next(failure for failure in night.done.failures.values() if "404" in failure["reason"])
    assert missing["attempts"] == 2


def test_nothing_of_a_failed_product_has_its_name(night: Night):
    assert night.place.names() >= {item.name for item in night.fine}
    wrong = {file for file in night.expected if night.place.get(file) is not None}
    assert wrong == {"mine.bin"}
    assert night.place.get("mine.bin") == b"mine"


def test_a_product_that_is_refused_with_a_fresh_credential_is_asked_for_only_a_few_times(night: Night):
    file = next(file for file in night.expected if file.startswith("forbidden-"))
    assert 2 <= len(night.site.archive.requests(file)) <= 4
    assert night.done.summary["accounts"]["jo"]["logins"] + night.done.summary["accounts"]["jo"]["refreshes"] <= 3


def test_status_tells_the_same_story_in_the_morning(night: Night):
    done = night.place("status", "m.yaml")
    assert done.code == 1
    assert [file for file in night.expected if file not in done.out] == []


def locked_out(site: Site, name: str) -> dict[str, Any]:
    site.identity.users[name] = User(name=name, password="another")
    return site.oidc(name, password="${JO_PASSWORD}")


def test_an_account_that_cannot_log_in_ends_with_3_and_its_products_stay_as_they_were(site: Site, place: Place):
    ours, theirs, missing = [site.item("header-") for _ in range(6)], site.item("header-"), site.item()
    place.write(
        [
            *(site.entry(item, account="bad") for item in ours),
            site.entry(theirs, account="good"),
            {"url": site.raw.url("/404"), "file": missing.name},
        ],
        accounts={"bad": locked_out(site, "eve"), "good": site.oidc()},
    )
    done = place.run()
    # Code 3 outranks 1, which the missing product alone would give.
    assert (done.code, done.counts) == (3, {"completed": 1, "pending": 6, "failed": 1})
    assert list(done.failures) == [missing.name]
    assert sum(call.user == "eve" for call in site.identity.log) == 1
    assert place.names() == {theirs.name}
    assert "bad" in done.err
    assert place("status", "m.yaml").code == 1


def test_the_right_password_later_brings_what_was_left(site: Site, place: Place):
    item = site.item("header-")
    site.identity.users["ann"] = User(name="ann", password=SECRETS["TINA_PASSWORD"])
    place.write(
        [site.entry(item)], accounts={"a": site.oidc("ann", password="${THE_PASSWORD}")}, defaults={"account": "a"}
    )
    assert place.run(env={"THE_PASSWORD": "wrong-guess"}).code == 3
    site.identity.unlock("ann")
    assert place.run(env={"THE_PASSWORD": SECRETS["TINA_PASSWORD"]}).code == 0
    assert place.get(item.name) == item.read()


def test_a_token_endpoint_that_is_down_is_no_crash(site: Site, place: Place):
    item, fine = site.item("header-"), site.item()
    account = site.oidc(token_url="http://127.0.0.1:9/token")
    place.write([site.entry(item, account="a"), site.entry(fine)], accounts={"a": account})
    done = place.run("--retries", "1", "--timeout", "5", "--max-wait", "2")
    assert done.code in {1, 3}
    assert place.get(fine.name) == fine.read()


def test_a_page_from_the_token_endpoint_is_no_crash(site: Site, place: Place):
    item = site.item("header-")
    site.identity.script(EndpointFault(status=400, body=b"<html>no</html>"))
    place.write([site.entry(item, account="a")], accounts={"a": site.oidc()})
    assert place.run("--retries", "1").code in {0, 3}


def test_a_second_run_into_the_same_destination_ends_with_4_and_names_the_process(site: Site, place: Place):
    item = site.item(size=9000)
    site.archive.faults.add(Stall(4000), item=item.name)
    place.write([site.entry(item)])
    first = place.start("run", "m.yaml", "--json", "--progress", "none")
    first.until(lambda: place.get(f"{item.name}.part") is not None, "the first run's partial")
    second = place.run()
    assert second.code == second.summary["exit_code"] == 4
    assert second.counts == {"pending": 1}
    assert str(first.process.pid) in second.err + second.out
    requeue = place("verify", "m.yaml", "--requeue")
    assert requeue.code == 4
    assert first.interrupt(signal.SIGTERM).code == 143
    assert place.run().code == 0


UNUSABLE = {
    "a file in its place": lambda place: (place.cwd / "products").write_bytes(b"in the way"),
    "a file above it": lambda place: (place.cwd / "products").write_bytes(b"in the way"),
    "not writable": lambda place: (place.cwd / "products").mkdir(mode=0o555),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_destination_that_cannot_be_used_ends_with_4_before_any_request(case: str, site: Site, place: Place):
    if case == "not writable" and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    UNUSABLE[case](place)
    item = site.item()
    place.write([site.entry(item)])
    more = ("-d", "products/below") if case == "a file above it" else ()
    done = place.run(*more)
    assert done.code == done.summary["exit_code"] == 4
    assert "products" in done.err
    assert not site.archive.requests(item)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_code_and_the_summary(number: int, code: int, site: Site, place: Place):
    stalled, bad, mine = site.item(size=9000), site.item("header-"), site.item()
    place.put(mine.name, b"mine")
    site.archive.faults.add(Stall(4000), item=stalled.name)
    # The signal's code outranks a failure and an account that cannot log in.
    place.write(
        [site.entry(mine), site.entry(bad, account="bad"), site.entry(stalled)],
        accounts={"bad": locked_out(site, f"mallory{code}")},
    )
    running = place.start("run", "m.yaml", "--json", "--progress", "plain")
    running.until(lambda: mine.name in running.err and "bad" in running.err, "the failure and the account")
    running.until(lambda: site.archive.requests(stalled), "the product that stalls")
    done = running.interrupt(number)
    assert done.code == done.summary["exit_code"] == code
    assert done.counts == {"failed": 1, "pending": 2}


def ahead(seconds: float, form: str = "%H:%M:%S") -> str:
    return f"{datetime.now().astimezone() + timedelta(seconds=seconds):{form}}"


LATER = (7200, 10800)
"""Window that opens in two hours, in seconds from now."""


def window(begin: float, end: float) -> str:
    return f"{ahead(begin, '%H:%M')}-{ahead(end, '%H:%M')}"


@pytest.fixture(scope="module")
def deadlines(site: Site, tmp_path_factory) -> dict[str, tuple[Place, Done]]:
    """Concurrent runs ended by a deadline; none of them could end by itself."""
    stalled, fine, bad, mine = site.item(size=9000), site.item(), site.item("header-"), site.item()
    site.archive.faults.add(Stall(4000), item=stalled.name, times=None)
    accounts = {"bad": locked_out(site, "trudy")}
    cases: dict[str, tuple[list[Any], tuple[str, ...]]] = {
        "failure": ([site.entry(mine), site.entry(fine), site.entry(stalled)], ()),
        "account": ([site.entry(bad, account="bad"), site.entry(stalled)], ()),
        "window": ([site.entry(fine)], ("--window", window(*LATER))),
    }
    places = {name: Place(tmp_path_factory.mktemp(name)) for name in cases}
    places["failure"].put(mine.name, b"mine")
    until, running = ahead(8), {}
    for name, (products, more) in cases.items():
        places[name].write(products, accounts=accounts)
        running[name] = places[name].start("run", "m.yaml", "--json", "--until", until, *more)
    return {name: (places[name], started.done()) for name, started in running.items()}


@pytest.mark.parametrize(
    ("name", "code", "counts"),
    [
        ("failure", 5, {"completed": 1, "failed": 1, "pending": 1}),
        ("account", 3, {"pending": 2}),
        ("window", 5, {"pending": 1}),
    ],
)
def test_until_ends_the_run_with_5_which_goes_before_1_and_after_3(name: str, code: int, counts: Any, deadlines):
    _, done = deadlines[name]
    assert (done.code, done.summary["exit_code"], done.counts) == (code, code, counts), done.err


def test_outside_its_window_the_run_waits_asks_for_nothing_and_says_so(site: Site, place: Place):
    item = site.item()
    hours = window(*LATER)
    place.write([site.entry(item)])
    running = place.start("run", "m.yaml", "--json", "--progress", "plain", "--window", hours)
    opens = hours.partition("-")[0]
    running.until(lambda: "window" in running.err and opens in running.err, "a line about the window")
    assert not site.archive.requests(item)
    done = running.interrupt()
    assert (done.code, done.counts) == (130, {"pending": 1})
    assert not site.archive.requests(item)
    assert place.run("--window", window(-3600, 3600)).code == 0


def test_retry_after_is_obeyed(site: Site, place: Place):
    waiting, preparing = site.item(), site.item()
    site.archive.faults.add(Refuse(503, retry_after="1"), item=waiting.name)
    site.archive.faults.add(Preparing("1"), item=preparing.name)
    place.write([site.entry(waiting), site.entry(preparing)])
    done = place.run("--retries", "2")
    assert (done.code, done.counts) == (0, {"completed": 2})


def test_the_morning_after_an_account_was_stopped_says_why_its_products_are_pending(site: Site, place: Place):
    items = [site.item("header-") for _ in range(2)]
    wrong = {"PASSWORD": "wrong"}
    place.write(
        [site.entry(item, account="own") for item in items], accounts={"own": site.oidc(password="${PASSWORD}")}
    )
    done = place("run", "m.yaml", "--retries", "3", env=wrong)
    assert done.code == 3
    assert "bulkdl login m.yaml own" in done.out
    assert "bulkdl run m.yaml --retries 3" in done.out
    rows = json.loads(place("status", "m.yaml", "--json").out)["items"]
    assert [row["state"] for row in rows] == ["pending", "pending"]
    assert all(row["kind"] == "auth" and row["reason"].startswith("account own: ") for row in rows)
    assert rows[0]["reason"] in place("status", "m.yaml").out.replace("\n", " ")
    assert place("report", "m.yaml", "-o", "r.html").code == 0
    assert "account own: " in (place.cwd / "r.html").read_text()
    assert place.run(env={"PASSWORD": SECRETS["JO_PASSWORD"]}).code == 0
    assert "account own" not in place("status", "m.yaml").out
    with sqlite3.connect(place.products / ".bulkdl" / "journal.sqlite") as journal:
        assert journal.execute("SELECT count(*) FROM account").fetchone() == (0,)
    journal.close()
