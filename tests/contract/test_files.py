"""Files in the destination before, during and after a run."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.demo_server.faults import Chunked, Stall
from tests.contract.program import Done, Place, Site, eventually
from tests.servers import head, reply

if TYPE_CHECKING:
    from bulkdl.demo_server.catalog import Item
    from tests.servers import RawRequest, Wire

pytestmark = pytest.mark.long

OTHER = b"the user's own file"


class Rows:
    """Files that exist before the first run, by the facts known about them."""

    def __init__(self, site: Site, place: Place) -> None:
        self.site, self.place = site, place
        item = site.item
        self.items: dict[str, Item] = {
            name: item()
            for name in (
                "agrees by size",
                "agrees by checksum",
                "agrees by both",
                "disagrees by size",
                "disagrees by checksum",
                "same size, other checksum",
                "unknown, same size",
                "unknown, other size",
                "unknown, no size",
                "absent",
            )
        }
        self.before = {
            name: it.read() if "agrees by" in name and "dis" not in name else OTHER for name, it in self.items.items()
        }
        same = self.items["same size, other checksum"]
        self.before["same size, other checksum"] = b"x" * same.size
        unknown = self.items["unknown, same size"]
        self.before["unknown, same size"] = b"y" * unknown.size
        del self.before["absent"]
        site.archive.faults.add(Chunked(), item=self.items["unknown, no size"].name, times=None)
        for name, data in self.before.items():
            place.put(self.items[name].name, data)
        place.write([self._entry(name, it) for name, it in self.items.items()])

    def _entry(self, name: str, item: Item) -> dict[str, Any]:
        less: dict[str, Any] = {}
        if name in {"agrees by checksum", "disagrees by checksum"}:
            less = {"size": ...}
        if name in {"agrees by size", "disagrees by size"}:
            less = {"checksum": ...}
        if name.startswith("unknown"):
            less = {"size": ..., "checksum": ...}
        return self.site.entry(item, **less)

    def there(self, name: str) -> bytes | None:
        return self.place.get(self.items[name].name)

    def asked(self, name: str) -> int:
        return sum(record.item == self.items[name].name for record in self.site.archive.log)


@pytest.fixture(scope="module")
def rows(site: Site, shared_place: Place) -> tuple[Rows, Done]:
    rows = Rows(site, shared_place)
    return rows, shared_place.run("--retries", "1")


@pytest.mark.parametrize("name", ["agrees by size", "agrees by checksum", "agrees by both"])
def test_a_file_that_agrees_is_skipped_without_a_request(name: str, rows: tuple[Rows, Done]):
    place, done = rows
    assert place.there(name) == place.items[name].read()
    assert place.asked(name) == 0
    assert place.items[name].name not in done.failures


@pytest.mark.parametrize("name", ["disagrees by size", "disagrees by checksum", "same size, other checksum"])
def test_a_file_that_disagrees_is_a_conflict_and_is_not_touched(name: str, rows: tuple[Rows, Done]):
    place, done = rows
    assert place.there(name) == place.before[name]
    assert done.kind(place.items[name].name) == "conflict"
    assert place.asked(name) == 0


def test_a_file_of_which_nothing_is_known_is_accepted_when_the_archive_has_that_size(rows: tuple[Rows, Done]):
    place, done = rows
    name = place.items["unknown, same size"].name
    assert name not in done.failures
    assert place.there("unknown, same size") == place.before["unknown, same size"]
    assert any(name in line and "existing, unverified" in line for line in done.err.splitlines())
    assert any(name in note and "existing, unverified" in note for note in done.summary["notes"])


@pytest.mark.parametrize("name", ["unknown, other size", "unknown, no size"])
def test_a_file_of_which_nothing_is_known_is_a_conflict_when_the_archive_has_another_size_or_none(
    name: str, rows: tuple[Rows, Done]
):
    place, done = rows
    assert done.kind(place.items[name].name) == "conflict"
    assert place.there(name) == OTHER


def test_the_counts_of_that_run(rows: tuple[Rows, Done]):
    place, done = rows
    assert (done.code, done.counts) == (1, {"completed": 1, "skipped": 4, "failed": 5})
    assert done.summary["bytes"]["written"] == place.items["absent"].size


@pytest.fixture(scope="module")
def overwritten(rows: tuple[Rows, Done]) -> tuple[Rows, Done, Done]:
    """Run again on that destination with `--trust-existing`, then with `--overwrite`."""
    place = rows[0].place
    trusted = place.run("--trust-existing", "--retries", "1")
    return rows[0], trusted, place.run("--overwrite", "--retries", "1")


def test_trust_existing_accepts_files_of_which_nothing_is_known_and_no_others(overwritten):
    rows, trusted, _ = overwritten
    conflicts = {rows.items[name].name for name in rows.items if "disagrees" in name or "other checksum" in name}
    assert set(trusted.failures) == conflicts
    assert {failure["kind"] for failure in trusted.failures.values()} == {"conflict"}


def test_overwrite_replaces_what_disagrees(overwritten):
    rows, _, done = overwritten
    assert done.code == 0, done.err
    for name in ("disagrees by size", "disagrees by checksum", "same size, other checksum"):
        assert rows.there(name) == rows.items[name].read()


@pytest.fixture(scope="module")
def finished(site: Site, tmp_path_factory) -> tuple[Place, list[Item]]:
    """Three finished products: one with all facts, one with none, one named by the archive."""
    place, items = Place(tmp_path_factory.mktemp("finished")), [site.item() for _ in range(3)]
    place.write([site.entry(items[0]), site.bare(items[1]), site.url(items[2], "download")])
    assert place.run().code == 0
    return place, items


def test_a_second_run_makes_no_request_at_all(finished, site: Site):
    place, items = finished
    before = site.requests
    done = place.run()
    assert (done.code, done.counts, site.requests - before) == (0, {"skipped": 3}, 0)
    assert done.summary["bytes"] == {"written": 0, "received": 0, "resumed": 0}
    assert place.names() == {item.name for item in items}


def test_only_a_deleted_finished_file_is_downloaded_again(finished, site: Site):
    place, items = finished
    (place.products / items[1].name).unlink()
    before = [len(site.archive.requests(item)) for item in items]
    assert place.run().counts == {"completed": 1, "skipped": 2}
    assert [len(site.archive.requests(item)) - n for item, n in zip(items, before, strict=True)] == [0, 1, 0]
    assert place.get(items[1].name) == items[1].read()


def test_deleting_the_journal_loses_no_finished_product(finished, site: Site):
    place, items = finished
    shutil.rmtree(place.products / ".bulkdl")
    sent = site.archive.bytes_sent
    done = place.run()
    assert (done.code, done.counts) == (0, {"skipped": 3})
    assert [place.get(item.name) for item in items] == [item.read() for item in items]
    # Nothing is known about the second and third: the archive is asked for their sizes, not for their bytes.
    assert site.archive.bytes_sent - sent <= items[1].size + items[2].size


def test_a_finished_file_that_was_changed_is_a_conflict(finished):
    place, items = finished
    place.put(items[1].name, OTHER)
    done = place.run()
    assert (done.code, done.kind(items[1].name)) == (1, "conflict")
    assert place.get(items[1].name) == OTHER


def test_a_product_is_beside_its_final_name_as_part_until_it_is_complete(site: Site, place: Place):
    item, zipped = site.item(size=9000), site.item(size=9000)
    site.archive.faults.add(Stall(4000), item=item.name)
    site.archive.faults.add(Stall(4000), item=zipped.name)
    place.write([site.entry(item), site.entry(zipped, file="sub/x.bin")])
    running = place.start("run", "m.yaml", "--progress", "none")
    running.until(lambda: place.names() >= {f"{item.name}.part", "sub/x.bin.part"}, "two partials")
    assert place.names() == {f"{item.name}.part", "sub/x.bin.part"}
    assert (place.products / ".bulkdl").is_dir()
    running.interrupt()
    assert place.run().code == 0
    assert place.names() == {item.name, "sub/x.bin"}


def test_a_product_that_does_not_verify_never_has_its_name(site: Site, place: Place):
    item = site.item()
    place.write([site.entry(item, checksum=f"md5:{'0' * 32}")])
    seen: list[set[str]] = []
    running = place.start("run", "m.yaml", "--json", "--progress", "none", "--retries", "3")
    eventually(lambda: seen.append(place.names()) or running.ended, what="the end")
    done = running.done()
    assert (done.code, done.kind(item.name)) == (1, "checksum")
    assert not any(item.name in names for names in seen)


def test_names_too_long_for_part_or_equal_to_the_part_of_another_work(site: Site, place: Place):
    long, base, part = site.item(size=5000), site.item(size=5000), site.item(size=5000)
    names = {
        "n" * 255: long,
        "a.bin": base,
        "a.bin.part": part,
        "ü" * 127 + "x": site.item(),
        "d/" + "m" * 252: site.item(),
    }
    for item in (long, base):
        site.archive.faults.add(Stall(2000), item=item.name)
    place.write([site.entry(item, file=name) for name, item in names.items()])
    running = place.start("run", "m.yaml", "--progress", "none")
    running.until(lambda: place.get("a.bin.part") == part.read(), "the product that is named like a partial")
    running.kill()
    done = place.run()
    assert (done.code, done.summary["failures"]) == (0, [])
    assert {name: place.get(name) == item.read() for name, item in names.items()} == dict.fromkeys(names, True)
    assert place.names() == set(names)


def test_of_two_products_with_one_name_from_the_archive_the_first_in_the_manifest_gets_it(site: Site, place: Place):
    async def named(request: RawRequest, wire: Wire) -> None:
        body = request.path.encode()
        fields = (("Content-Length", len(body)), ("Content-Disposition", 'attachment; filename="one.bin"'))
        await wire.send(head(200, *fields, ("Connection", "close")) + body)

    paths = ["/named/a", "/named/b", "/named/c"]
    for path in paths:
        site.routes[path] = named
    place.write([site.raw.url(path) for path in paths])
    done = place.run("--retries", "0")
    assert (done.code, done.counts) == (1, {"completed": 1, "failed": 2})
    assert place.get("one.bin") == b"/named/a"
    assert {(failure["kind"], failure["url"]) for failure in done.summary["failures"]} == {
        ("conflict", site.raw.url(path)) for path in paths[1:]
    }
    again = place.run("--retries", "0")
    assert (again.code, again.counts) == (1, {"skipped": 1, "failed": 2})
    assert place.get("one.bin") == b"/named/a"


NAMES = {
    'attachment; filename="../../up.bin"': "up.bin",
    "attachment; filename*=UTF-8''%C3%BC%20x.bin": "ü x.bin",
    'attachment; filename=".bulkdl"': "_.bulkdl",
    "attachment": "dispo-3",
}


def test_a_name_from_the_archive_never_leaves_the_destination(site: Site, place: Place):
    for number, sent in enumerate(NAMES):
        site.routes[f"/dispo-{number}"] = reply(200, b"body", ("Content-Disposition", sent))
    place.write([site.raw.url(f"/dispo-{number}") for number in range(len(NAMES))])
    assert place.run().code == 0
    assert place.names() == set(NAMES.values())
    assert not [path for path in place.root.rglob("up.bin") if place.products not in path.parents]


def test_a_folder_at_the_place_of_a_product_fails_that_product_alone(site: Site, place: Place):
    item, fine = site.item(), site.item()
    place.put(f"{item.name}/inside.txt", OTHER)
    place.write([site.entry(item), site.entry(fine)])
    done = place.run("--overwrite", "--retries", "0")
    assert done.code == 1
    assert done.kind(item.name) in {"conflict", "storage"}
    assert place.get(f"{item.name}/inside.txt") == OTHER
    assert place.get(fine.name) == fine.read()


def test_a_file_in_the_place_of_a_products_folder_is_never_replaced(site: Site, place: Place):
    item, fine = site.item(), site.item()
    place.put("sub", OTHER)
    place.write([site.entry(item, file="sub/x.bin"), site.entry(fine)])
    done = place.run("--retries", "0")
    assert done.code in {1, 4}
    assert place.get("sub") == OTHER
    assert "sub" in done.err
