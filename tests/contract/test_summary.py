"""The machine-readable summary, and all other output of a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from bulkdl.demo_server.faults import Refuse
from tests.servers import reply

if TYPE_CHECKING:
    from bulkdl.demo_server.catalog import Item
    from tests.contract.program import Done, Place, Site

COUNT = {"type": "integer", "minimum": 0}
KINDS = ["http", "network", "auth", "checksum", "size", "content", "conflict", "storage", "offline"]


def closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


ACCOUNT = {"type": "object", "required": ["logins", "refreshes"], "properties": {"logins": COUNT, "refreshes": COUNT}}
FAILURE = closed(
    file={"type": "string", "minLength": 1},
    url={"type": "string", "pattern": "^https?://"},
    kind={"enum": KINDS},
    reason={"type": "string", "minLength": 10},
    attempts=COUNT,
)
SUMMARY = {
    **closed(
        manifest={"type": "string"},
        destination={"type": "string"},
        exit_code={"enum": [0, 1, 3, 4, 5, 130, 143]},
        elapsed_s={"type": "number", "minimum": 0},
        products=closed(total=COUNT, completed=COUNT, skipped=COUNT, failed=COUNT, pending=COUNT),
        bytes=closed(written=COUNT, received=COUNT, resumed=COUNT),
        accounts={"type": "object", "additionalProperties": ACCOUNT},
        failures={"type": "array", "items": FAILURE},
    ),
    "additionalProperties": True,
}


class Night:
    """A run with each of the four outcomes, and all its output."""

    def __init__(self, site: Site, place: Place) -> None:
        self.place = place
        self.items: dict[str, Item] = {name: site.item() for name in ("completed", "again", "skipped", "failed")}
        self.pending = site.item("header-")
        place.put(self.items["skipped"].name, self.items["skipped"].read())
        site.archive.faults.add(Refuse(503), item=self.items["failed"].name, times=None)
        site.archive.faults.add(Refuse(503), item=self.items["again"].name)
        products = [site.entry(item) for item in self.items.values()]
        site.routes["/presigned"] = reply(404)
        products.append({"url": site.raw.url("/presigned?X-Signature=query-canary-5&b=1")})
        products.append(site.entry(self.pending, account="bad"))
        place.write(products, accounts={"bad": {"auth": "bearer", "token": "${NOT_SET}"}, "jo": site.oidc()})
        more = ("--report", "report.html", "--log-file", "run.log")
        self.done: Done = place.run("--retries", "2", *more)
        self.log = (place.cwd / "run.log").read_text(encoding="utf-8")
        self.report = (place.cwd / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def night(site: Site, shared_place: Place) -> Night:
    return Night(site, shared_place)


def test_the_summary_has_the_promised_keys_and_types(night: Night):
    assert jsonschema_rs.Draft202012Validator(SUMMARY).validate(night.done.summary) is None


def test_standard_output_has_that_one_object_and_nothing_else(night: Night):
    _, end = json.JSONDecoder().raw_decode(night.done.out)
    assert night.done.out[end:] == "\n"


def test_counts_and_bytes(night: Night):
    summary = night.done.summary
    assert summary["products"] == {"total": 6, "completed": 2, "skipped": 1, "failed": 2, "pending": 1}
    size = night.items["completed"].size + night.items["again"].size
    assert summary["bytes"] == {"written": size, "received": size, "resumed": 0}
    assert summary["exit_code"] == night.done.code == 3


def test_manifest_and_destination_are_as_the_user_wrote_them(night: Night):
    assert (night.done.summary["manifest"], night.done.summary["destination"]) == ("m.yaml", "products")


def test_a_failure_has_its_attempts_and_its_url(night: Night):
    failure = night.done.failures[night.items["failed"].name]
    assert (failure["kind"], failure["attempts"]) == ("http", 2)
    assert failure["url"].endswith(f"/files/{night.items['failed'].name}")


def test_failures_give_urls_with_their_query_masked(night: Night):
    url = night.done.failures["presigned"]["url"]
    assert url.endswith("/presigned?***")
    assert "query-canary" not in night.done.out + night.done.err + night.log + night.report


def test_the_log_file_tells_what_happened_to_each_product(night: Night):
    assert [name for name, item in night.items.items() if item.name not in night.log] == []
    assert "NOT_SET" in night.log


def test_the_report_is_one_file_that_loads_nothing_and_names_what_failed(night: Night):
    assert night.items["failed"].name in night.report
    assert "<!doctype html>" in night.report.lower()
    assert not any(word in night.report for word in ("<script", "<link", "<img", "@import", "src="))


def test_without_json_a_person_reads_what_failed_and_why(night: Night):
    done = night.place("run", "m.yaml", "--retries", "1")
    assert done.code == 3
    for word in (night.items["failed"].name, "503", "pending", "NOT_SET"):
        assert word in done.out


def test_quiet_prints_the_summary_and_errors_only(night: Night):
    done = night.place.run("--retries", "1", "-q")
    assert done.code == 3
    assert set(done.summary["products"]) == {"total", "completed", "skipped", "failed", "pending"}
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert all("FAILED" in line or "STOPPED" in line or "bulkdl:" in line for line in lines), done.err


def test_progress_json_gives_one_object_a_line_on_standard_error(night: Night):
    done = night.place.run("--retries", "1", "--progress", "json")
    events = [json.loads(line) for line in done.err.splitlines() if not line.startswith(("warning:", "bulkdl:"))]
    assert {"run_started", "product_finished", "run_finished"} <= {event["event"] for event in events}
    assert done.summary["exit_code"] == 3


def test_progress_none_prints_nothing_while_it_runs(site: Site, place: Place):
    item = site.item()
    place.write([site.entry(item), {"url": site.raw.url("/404")}])
    done = place("run", "m.yaml", "--progress", "none", "--json")
    assert (done.code, done.err) == (1, "")


@pytest.mark.parametrize("mode", ["auto", "bar"])
def test_progress_off_a_terminal_draws_no_bar_and_moves_no_cursor(mode: str, site: Site, place: Place):
    item = site.item()
    place.write([site.entry(item)])
    done = place("run", "m.yaml", "--progress", mode)
    assert done.code == 0
    if mode != "bar":
        assert "\x1b" not in done.out + done.err
    assert "\x1b" not in done.out


def test_dry_run_prints_the_plan_asks_nothing_and_writes_nothing(site: Site, place: Place):
    here, todo = site.item(), site.item()
    place.put(here.name, here.read())
    place.write([site.entry(here), site.entry(todo)], accounts={"a": site.oidc()}, defaults={"account": "a"})
    before, names = site.requests, place.names()
    done = place("run", "m.yaml", "--dry-run")
    assert (done.code, site.requests - before, place.names()) == (0, 0, names)
    assert not (place.products / ".bulkdl").exists()
    assert "2" in done.out
    as_json = place("run", "m.yaml", "--dry-run", "--json")
    assert as_json.summary["products"]["total"] == 2
    assert site.requests == before


def test_dry_run_makes_no_destination(site: Site, place: Place):
    place.write([site.entry(site.item())])
    assert place("run", "m.yaml", "--dry-run").code == 0
    assert not place.products.exists()


def test_select_takes_globs_on_file_names_and_may_be_repeated(site: Site, place: Place):
    names = ["S2A_1.zip", "S2B_2.bin", "x/S2B_3.bin", "S1_4.bin", "s2b_5.bin"]
    items = [site.item() for _ in names]
    place.write([site.entry(item, file=name) for item, name in zip(items, names, strict=True)])
    done = place.run("--select", "S2B*.bin", "--select", "S1*")
    assert (done.code, done.summary["products"]["total"]) == (0, 3)
    assert place.names() == {"S2B_2.bin", "x/S2B_3.bin", "S1_4.bin"}
    nothing = place.run("--select", "nothing*")
    assert nothing.code in {0, 2}


def test_an_empty_list_of_products_is_a_run_with_nothing_to_do(place: Place):
    place.write([])
    done = place.run()
    assert done.code in {0, 2}
    assert done.code == 2 or done.summary["products"]["total"] == 0
