"""Names that the locale's encoding cannot hold: one product fails with a clear reason, the others arrive."""

from __future__ import annotations

import io
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.servers import reply

if TYPE_CHECKING:
    from tests.contract.program import Place, Site

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="file names are UTF-8 on other systems"),
]

ASCII = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": "C", "LANG": ""}
"""Without the two variables Python takes `LC_ALL=C` as UTF-8 (PEP 538, PEP 540)."""


def archive_with(name: str) -> bytes:
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        archive.writestr(name, b"x")
    return into.getvalue()


@pytest.fixture
def products(site: Site, place: Place) -> None:
    site.routes["/plain"] = reply(200, b"plain")
    site.routes["/named"] = reply(
        200, b"named", ("Content-Disposition", "attachment; filename*=UTF-8''a%E2%86%92b.bin")
    )
    site.routes["/%E2%86%92.bin"] = reply(200, b"by URL")
    site.routes["/zip"] = reply(200, archive_with("→.txt"))
    place.write(
        [
            {"url": site.raw.url("/plain"), "file": "a→b.dat"},
            {"url": site.raw.url("/plain"), "file": "→/x.bin"},
            {"url": site.raw.url("/plain"), "file": "é.bin", "size": 5},
            {"url": site.raw.url("/plain"), "file": "plain.bin"},
            {"url": site.raw.url("/zip"), "file": "z.zip", "extract": True},
            site.raw.url("/named"),
            site.raw.url("/%E2%86%92.bin"),
        ]
    )


def test_only_the_products_whose_names_cannot_be_stored_fail(place, products):
    for _ in range(2):
        done = place.run(env=ASCII)
        assert done.code == 1
        assert {file: failure["kind"] for file, failure in done.failures.items()} == dict.fromkeys(
            ["a→b.dat", "→/x.bin", "é.bin"], "storage"
        ) | {"z.zip": "content"}
        assert "LC_ALL=C.UTF-8" in done.failures["a→b.dat"]["reason"]
    assert place.get("plain.bin") == b"plain"
    assert place.get("a%E2%86%92b.bin") == b"named"
    assert place.get("%E2%86%92.bin") == b"by URL"


@pytest.mark.parametrize("command", [("check",), ("status",), ("verify",), ("report", "-o", "r.html"), ("run",)])
def test_no_command_ends_with_an_internal_error(place, products, command):
    done = place(command[0], "m.yaml", *command[1:], env=ASCII)
    assert "internal error" not in done.err
    assert done.code == (1 if command[0] in {"check", "run", "verify", "status"} else 0)
    if command[0] in {"check", "status"}:
        assert "a\\u2192b.dat" in done.out


def test_check_names_what_a_run_cannot_store(place, products):
    done = place("check", "m.yaml", env=ASCII)
    assert "'a\\u2192b.dat' cannot be stored: file names of this process are in ascii" in done.out


def test_the_next_run_in_another_locale_brings_them(place, products):
    place.run(env=ASCII)
    done = place.run()
    assert done.code == 0
    assert place.get("a→b.dat") == b"plain"


def test_a_destination_that_cannot_be_named_is_said(site: Site, place: Place):
    place.write([site.entry(site.item())], destination="./→")
    done = place.run(env=ASCII)
    assert done.code == 2
    assert "the destination \\u2192 cannot be used" in done.err


@pytest.mark.parametrize("name", ["n" * 251 + ".bin", "ü" * 120 + ".bin"])
def test_a_name_as_long_as_names_can_be_is_stored(site: Site, place: Place, name):
    item = site.item()
    place.write([site.entry(item, file=name)])
    assert place.run().code == 0
    assert place.names() == {name}
