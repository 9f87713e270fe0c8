"""Resume after a kill: bytes kept, ranges requested, data never trusted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.demo_server.catalog import Validators
from bulkdl.demo_server.faults import Cut, Stall
from tests.contract.program import Done, Place, Site, eventually

if TYPE_CHECKING:
    from bulkdl.demo_server.catalog import Item
    from bulkdl.demo_server.server import Record

SIZE, CUT = 300_000, 200_000


class Night:
    """Products that stall at two thirds, then `kill -9`, then some of them change, then the next run."""

    def __init__(self, site: Site, place: Place) -> None:
        self.site, self.place = site, place
        kinds: dict[str, dict[str, Any]] = {
            "strong": {"validators": Validators.ETAG},
            "strong, changed": {"validators": Validators.ETAG},
            "weak": {"validators": Validators.WEAK},
            "weak, checksum": {"validators": Validators.WEAK},
            "none, checksum": {"validators": Validators.NONE},
            "none, checksum, changed": {"validators": Validators.NONE},
            "none, overlap": {"validators": Validators.NONE},
            "none, overlap, changed": {"validators": Validators.NONE},
            "none": {"validators": Validators.NONE},
            "none, changed": {"validators": Validators.NONE},
            "by account": {"validators": Validators.NONE},
            "damaged": {"validators": Validators.ETAG},
            "served name": {"validators": Validators.ETAG},
        }
        self.items: dict[str, Item] = {name: site.item(size=SIZE, **how) for name, how in kinds.items()}
        accounts = {"lax": {"auth": "none", "resume": "overlap"}}
        for item in self.items.values():
            site.archive.faults.add(Stall(CUT), item=item.name)
        place.write([self._entry(name, item) for name, item in self.items.items()], accounts=accounts)
        running = place.start("run", "m.yaml", "--progress", "none", "-j", "20", "-s", "1", "--timeout", "300")
        running.until(self._all_recorded, "all partials in the journal")
        running.kill()
        self.status = json.loads(place("status", "m.yaml", "--json").out)
        self._change()
        self.mark = len(site.archive.log)
        self.done: Done = place.run("-j", "20", "-s", "1")

    def _entry(self, name: str, item: Item) -> Any:
        more: dict[str, Any] = {} if "checksum" in name else {"checksum": ...}
        if "overlap" in name:
            more["resume"] = "overlap"
        if name == "by account":
            more["account"] = "lax"
        if "changed" in name and "checksum" in name:
            more["checksum"] = f"md5:{item.next_edition().digest()}"
        return self.site.url(item, "download") if name == "served name" else self.site.entry(item, size=..., **more)

    def _all_recorded(self) -> bool:
        found = self.place("status", "m.yaml", "--json")
        self.live = json.loads(found.out)
        assert self.live["running"] or not self.live["journal"]
        return all(item["state"] == "partial" for item in self.live["items"])

    def _change(self) -> None:
        for name, item in self.items.items():
            if "changed" in name:
                self.items[name] = self.site.archive.put(item.next_edition())
        part = self.place.products / f"{self.items['damaged'].name}.part"
        part.write_bytes(part.read_bytes()[:1000])

    def asked(self, name: str) -> list[Record]:
        return [r for r in self.site.archive.log[self.mark :] if r.item == self.items[name].name]


@pytest.fixture(scope="module")
def night(site: Site, shared_place: Place) -> Night:
    return Night(site, shared_place)


def test_status_during_a_run_and_after_a_kill_shows_what_is_partial(night: Night):
    assert night.live["running"]
    assert not night.status["running"]
    assert all(0 < item["have"] <= CUT for item in night.status["items"])


def test_every_product_is_whole_after_the_next_run(night: Night):
    assert (night.done.code, night.done.counts) == (0, {"completed": len(night.items)}), night.done.err
    for name, item in night.items.items():
        assert night.place.get(item.name) == item.read(), name


def first_byte(record: Record) -> int:
    assert record.range is not None
    return int(record.range.removeprefix("bytes=").partition("-")[0])


@pytest.mark.parametrize("name", ["strong", "served name"])
def test_a_partial_with_a_strong_validator_is_continued_under_if_range(name: str, night: Night):
    (record,) = night.asked(name)
    assert (record.status, record.if_range) == (206, night.items[name].etag)
    assert 0 < first_byte(record) <= CUT


def test_another_version_is_downloaded_from_the_beginning(night: Night):
    record = night.asked("strong, changed")[0]
    assert (record.status, record.bytes_sent) == (200, SIZE)


@pytest.mark.parametrize("name", ["weak, checksum", "none, checksum"])
def test_with_a_checksum_a_partial_is_continued_without_a_validator(name: str, night: Night):
    (record,) = night.asked(name)
    assert (record.status, record.if_range) == (206, None)
    assert first_byte(record) > 0


def test_a_splice_is_caught_by_the_checksum_and_fetched_again(night: Night):
    records = night.asked("none, checksum, changed")
    assert len(records) >= 2
    assert records[-1].status == 200


@pytest.mark.parametrize("name", ["weak", "none", "none, changed"])
def test_without_a_strong_validator_and_a_checksum_it_starts_again(name: str, night: Night):
    (record,) = night.asked(name)
    assert (record.status, record.if_range) == (200, None)


@pytest.mark.parametrize("name", ["none, overlap", "by account"])
def test_resume_overlap_continues_where_the_last_stretch_is_identical(name: str, night: Night):
    (record,) = night.asked(name)
    assert record.status == 206
    assert 0 < first_byte(record) < CUT


def test_resume_overlap_starts_again_where_the_last_stretch_differs(night: Night):
    assert night.asked("none, overlap, changed")[-1].status == 200


def test_recorded_bytes_missing_on_disk_are_not_trusted(night: Night):
    records = night.asked("damaged")
    assert sum(record.bytes_sent for record in records) >= SIZE - 1000


def test_what_was_kept_is_counted_as_resumed(night: Night):
    count = night.done.summary["bytes"]
    assert count["written"] == SIZE * len(night.items)
    # Five products certainly resume.
    assert count["resumed"] > 0
    assert count["received"] >= SIZE * len(night.items) - count["resumed"]


def test_a_cut_connection_resumes_where_it_ended_and_costs_no_attempt(site: Site, place: Place):
    item = site.item(size=400_000)
    for _ in range(3):
        site.archive.faults.add(Cut(90_000), item=item.name)
    place.write([site.entry(item)])
    done = place.run("--retries", "1")
    assert (done.code, done.summary["failures"]) == (0, []), done.err
    assert place.get(item.name) == item.read()
    assert site.archive.requests(item)[1].range is not None
    assert done.summary["bytes"]["resumed"] == 0


def test_an_interrupted_run_says_how_to_resume_and_keeps_its_data(site: Site, place: Place):
    item = site.item(size=SIZE)
    site.archive.faults.add(Stall(CUT), item=item.name)
    place.write([site.entry(item)])
    running = place.start("run", "m.yaml", "--json", "--progress", "plain")
    eventually(lambda: site.archive.requests(item) and site.archive.requests(item)[0].bytes_sent >= CUT)
    running.until(lambda: (place.get(f"{item.name}.part") or b"") != b"", "a partial")
    stopped = running.interrupt()
    assert (stopped.code, stopped.summary["exit_code"], stopped.counts) == (130, 130, {"pending": 1})
    done = place.run()
    assert (done.code, done.counts) == (0, {"completed": 1})
    assert place.get(item.name) == item.read()
    assert site.archive.requests(item)[-1].status == 206
