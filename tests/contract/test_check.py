"""`check` and the start of a run name what cannot work."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.servers import announce, html, reply

if TYPE_CHECKING:
    from tests.contract.program import Place, Site

pytestmark = pytest.mark.long

HUGE = 2**60


@pytest.mark.parametrize("hosts", [["127.0.0.1"], ["*.example.org", "127.0.0.1"]])
def test_an_account_that_no_product_uses_although_its_hosts_match_is_named(site: Site, place: Place, hosts):
    place.write([site.entry(site.item())], accounts={"own": site.oidc(hosts=hosts)})
    done = place("check", "m.yaml")
    assert "no product uses this account, although its `hosts` match 127.0.0.1 (1 without an account)" in done.out
    place.write(
        [site.entry(site.item())], accounts={"own": site.oidc(hosts=hosts)}, defaults={"account": "own"}, name="n.yaml"
    )
    assert "warning" not in place("check", "n.yaml").out


def test_an_account_whose_hosts_lack_the_products_host_is_named(site: Site, place: Place):
    accounts = {"own": site.oidc(hosts=["archive.example.org"])}
    place.write([site.entry(site.item(), account="own") for _ in range(2)], accounts=accounts)
    done = place("check", "m.yaml", "--json")
    (warning,) = json.loads(done.out)["accounts"]["own"]["warnings"]
    assert warning.startswith("the credential is not sent to 127.0.0.1, the host of 2 of its products")
    assert done.code == 0


@pytest.mark.parametrize(
    ("sizes", "text", "fits", "code"),
    [
        ([10, 20], ": enough", True, 0),
        ([10, ...], "cannot be told, since the size of 1 product is unknown", None, 0),
        ([HUGE, ...], "NOT ENOUGH", False, 4),
    ],
)
def test_unknown_sizes_are_not_called_enough(site: Site, place: Place, sizes, text, fits, code):
    place.write([site.entry(site.item(), size=size, checksum=...) for size in sizes])
    done = place("check", "m.yaml")
    assert text in done.out
    assert done.code == code
    assert json.loads(place("check", "m.yaml", "--json").out)["fits"] is fits


def test_sizes_that_the_archives_give_are_compared_with_the_free_space(site: Site, place: Place):
    site.routes["/huge.bin"] = announce(HUGE, b"")
    known = site.item()
    place.write([{"url": site.raw.url("/huge.bin")}, site.bare(known)])
    done = place("check", "m.yaml", "--remote")
    assert "NOT ENOUGH" in done.out
    assert done.code == 4
    place.write([site.bare(known)], name="n.yaml")
    done = place("check", "n.yaml", "--remote")
    assert ": enough" in done.out
    assert done.code == 0


def test_a_login_page_is_not_what_can_be_fetched(site: Site, place: Place):
    site.routes["/page.zip"] = html()
    site.routes["/error.bin"] = reply(200, b'{"error": "log in"}', ("Content-Type", "application/json"))
    site.routes["/right.csv"] = reply(200, b"a,b\n1,2\n", ("Content-Type", "text/csv"))
    place.write([{"url": site.raw.url(path)} for path in ("/page.zip", "/error.bin", "/right.csv")])
    done = place("check", "m.yaml", "--remote")
    assert done.code == 1
    assert "page.zip: the content is an HTML page" in done.out
    assert "error.bin: the content is a JSON error message" in done.out
    assert "1 available, 2 not" in done.out


@pytest.mark.parametrize("command", [("check",), ("run",), ("run", "--dry-run"), ("run", "--json")])
def test_a_selection_of_nothing_is_a_mistake_of_the_command_line(site: Site, place: Place, command):
    item = site.item()
    place.write([site.entry(item)])
    done = place(command[0], "m.yaml", *command[1:], "--select", "*.nomatch", "--select", "x")
    assert done.code == 2
    assert "no product matches --select '*.nomatch' 'x'" in done.err
    assert item.name in done.err
    assert place.get(item.name) is None


def test_a_run_says_at_its_start_that_the_known_sizes_do_not_fit_and_brings_what_fits(site: Site, place: Place):
    item = site.item()
    place.write([site.entry(item), site.entry(site.item(), size=HUGE, checksum=...)])
    done = place.run()
    assert done.code == 4
    assert "the run downloads the products that fit and leaves the others pending" in done.err
    assert place.get(item.name) == item.read()


def test_a_dry_run_ends_like_check(site: Site, place: Place):
    account = site.oidc(password="${MISSING}")
    place.write([site.entry(site.item(), account="own")], accounts={"own": account})
    assert [place(*words).code for words in (("check", "m.yaml"), ("run", "m.yaml", "--dry-run"))] == [3, 3]
