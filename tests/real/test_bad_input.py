"""Bad input and bad destinations on real servers: a clear message, the contract's exit code, all else completed."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from .processes import free_port
from .products import Remote, differing, entry, make, sizes, write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .program import Program
    from .scene import Site

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

BAD_PRODUCTS: dict[str, tuple[dict[str, Any], str]] = {
    "a port where nothing listens": ({"url": "http://127.0.0.1:{free}/x.dat"}, "network"),
    "a host that does not exist": ({"url": "http://archive.invalid/x.dat"}, "network"),
    "a product that is not there": ({"url": "{archive}/open/nothing.dat"}, "http"),
    "a wrong checksum": ({"checksum": "sha256:" + "0" * 64}, "checksum"),
    "one of two checksums wrong": ({"checksum": ["{checksum}", "sha1:" + "0" * 40]}, "checksum"),
    "a wrong size": ({"size": 12345}, "size"),
    "an error page in the place of an archive": (
        {"url": "{archive}/open/page.zip", "size": ..., "checksum": ..., "file": "page.zip"},
        "content",
    ),
}


@pytest.mark.parametrize("case", BAD_PRODUCTS)
def test_a_product_that_fails_is_named_with_its_reason_and_the_others_complete(
    case: str, site: Site, program: Program, small: list[Remote], place: Path
):
    (site.root / "open" / "page.zip").write_text("<!DOCTYPE html><html><body>Please sign in</body></html>\n")
    bad, *good = small
    change, kind = BAD_PRODUCTS[case]
    known = {"free": str(free_port()), "archive": site.nginx.url, "checksum": bad.checksum}
    product = entry(bad, site.nginx.url, **filled(change, known))
    products = [product, *(entry(remote, site.nginx.url) for remote in good)]
    manifest = write_manifest(place / "m.yaml", products)

    done = program.run(manifest, "--retries", "2")
    assert done.code == 1, done.err
    failure = done.failure(str(product["file"]))
    assert failure["kind"] == kind
    assert failure["reason"]
    assert str(product["file"]) in done.err
    assert done.summary["products"]["failed"] == 1
    assert differing(good, place / "products") == []
    assert not (place / "products" / str(product["file"])).exists()


MANIFESTS = {
    "no YAML": ("version: 1\nproducts: [\n", r"m\.yaml:\d+:\d+"),
    "a tab": ("version: 1\nproducts:\n\t- url: http://127.0.0.1/a\n", r"m\.yaml:3:\d+"),
    "a list in the place of a mapping": ("- version: 1\n- products: 2\n", r"m\.yaml:\d+:\d+"),
    "no products": ("version: 1\n", r"products"),
    "a misspelt key": (
        "version: 1\nproducts:\n  - {url: '{archive}/a', chekcsum: 'md5:0'}\n",
        r"m\.yaml:3:\d+.*checksum",
    ),
    "a wrong type": ("version: 1\nproducts:\n  - {url: '{archive}/a', size: many}\n", r"m\.yaml:3:\d+.*many"),
    "an unknown version": ("version: 9\nproducts: ['{archive}/a']\n", r"m\.yaml:1:\d+.*9"),
    "an account that nobody defined": (
        "version: 1\nproducts:\n  - {url: '{archive}/a', account: nobody}\n",
        r"m\.yaml:3:\d+.*nobody",
    ),
    "a literal password": (
        "version: 1\naccounts:\n  a: {auth: basic, username: u, password: plain-text}\nproducts: ['{archive}/a']\n",
        r"m\.yaml:3:\d+.*password",
    ),
    "two products for one file": (
        "version: 1\nproducts:\n  - {url: '{archive}/a', file: same.dat}\n  - {url: '{archive}/b', file: same.dat}\n",
        r"m\.yaml:4:\d+.*same\.dat",
    ),
    "a file outside the destination": (
        "version: 1\nproducts:\n  - {url: '{archive}/a', file: ../x}\n",
        r"m\.yaml:3:\d+.*\.\./x",
    ),
    "an absolute file": ("version: 1\nproducts:\n  - {url: '{archive}/a', file: /etc/x}\n", r"m\.yaml:3:\d+.*/etc/x"),
    "a key twice": ("version: 1\nversion: 1\nproducts: ['{archive}/a']\n", r"m\.yaml:2:\d+"),
    "no UTF-8": (b"version: 1\nproducts: ['\xff\xfe']\n", r"UTF-8"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_wrong_manifest_is_explained_with_its_line_and_nothing_is_downloaded(
    case: str, site: Site, program: Program, place: Path
):
    text, expected = MANIFESTS[case]
    content = text if isinstance(text, bytes) else text.replace("{archive}", f"{site.nginx.url}/open").encode()
    manifest = place / "m.yaml"
    manifest.write_bytes(content)
    before = len(site.nginx.requests())

    done = program.run(manifest)
    assert done.code == 2, done.err
    assert re.search(expected, done.err), done.err
    assert "plain-text" not in done.err
    assert done.out == ""
    assert len(site.nginx.requests()) == before
    assert [path.name for path in place.iterdir()] == ["m.yaml"]


def test_a_manifest_that_does_not_exist_is_named(program: Program, place: Path, site: Site):
    done = program.run(place / "nowhere.yaml")
    assert done.code == 2
    assert "nowhere.yaml" in done.err


@pytest.mark.parametrize("sizes_are", ["known", "unknown"])
def test_a_full_disk_ends_with_4_and_with_more_space_the_next_run_resumes(
    sizes_are: str,
    site: Site,
    program: Program,
    place: Path,
    tmpfs: Callable[[str], Path],
):
    remotes = make(site.root, "open", [3_000_000] * 12, seed=10, folder="full")
    more = {} if sizes_are == "known" else {"size": ...}
    manifest = write_manifest(place / "m.yaml", [entry(remote, site.nginx.url, **more) for remote in remotes])
    disk = tmpfs("size=20m")
    sent, total = site.nginx.sent(), sum(remote.size for remote in remotes)

    full = program.run(manifest, "-d", disk, "--workers", "2")
    assert full.code == 4, full.err
    assert re.search(r"full|space|room", full.summary["stopped"]), full.out
    assert full.summary["products"]["failed"] == 0
    there = [remote for remote in remotes if (disk / remote.file).exists()]
    assert differing(there, disk) == []
    assert full.summary["products"]["completed"] == len(there)
    if sizes_are == "unknown":
        assert there

    tmpfs("size=80m")
    finished = program.run(manifest, "-d", disk)
    assert finished.code == 0, finished.err
    assert differing(remotes, disk) == []
    assert finished.summary["products"]["skipped"] == len(there)
    assert site.nginx.sent() - sent <= total + 2 * 3_000_000


@pytest.fixture
def read_only(place: Path, tmpfs: Callable[[str], Path]) -> Iterator[Path]:
    """Return a destination that is not writable: for root a read-only file system, else a folder without permission."""
    if os.geteuid() == 0:
        tmpfs("size=8m")
        yield tmpfs("ro")
        return
    folder = place / "locked"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)


def test_a_destination_that_cannot_be_written_ends_with_4_before_any_request(
    site: Site, program: Program, small: list[Remote], place: Path, read_only: Path
):
    manifest = write_manifest(place / "m.yaml", [entry(remote, site.nginx.url) for remote in small])
    before = len(site.nginx.requests())
    done = program.run(manifest, "-d", read_only)
    assert done.code == 4, done.err
    assert str(read_only) in done.summary["stopped"]
    assert len(site.nginx.requests()) == before


def test_a_second_run_into_a_destination_that_is_in_use_ends_with_4_and_the_first_continues(
    site: Site, program: Program, place: Path
):
    remotes = make(site.root, "open", sizes(6, largest=6_000_000), seed=11, folder="shared")
    manifest = write_manifest(place / "m.yaml", [entry(remote, site.nginx.url) for remote in remotes])
    first = program.start("run", manifest, "--progress", "none", "--limit-rate", "3M")
    first.until(lambda: any((place / "products").rglob("*.part")))
    second = program.run(manifest)
    assert second.code == 4, second.err
    assert first.done().code == 0
    assert differing(remotes, place / "products") == []


def filled(change: dict[str, Any], known: dict[str, str]) -> dict[str, Any]:
    """Return the change with its `{names}` replaced."""

    def fill(value: Any) -> Any:
        if isinstance(value, list):
            return [fill(item) for item in value]
        if not isinstance(value, str):
            return value
        for name, text in known.items():
            value = value.replace(f"{{{name}}}", text)
        return value

    return {key: fill(value) for key, value in change.items()}
