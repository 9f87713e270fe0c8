"""The order in which a run asks for its products: by itself, by flag and manifest, and by priority."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.program import Place, Site

pytestmark = pytest.mark.long

SIZES = {"a_20240101.bin": 3000, "b_20240301.bin": 9000, "c_20240201.bin": 1000, "d.bin": 5000}


def asked(site: Site, place: Place, *words: str, products: list[dict[str, object]], **more: object) -> list[str]:
    """Run with one worker; return the first letters of the products in the order of their requests."""
    place.write(products, **more)
    before = len(site.archive.log)
    done = place.run("-j", "1", *words)
    assert done.code == 0, done.err
    return [record.item[0] for record in site.archive.log[before:]]


def products_of(site: Site, folder: str) -> list[dict[str, object]]:
    items = [site.item(size=size, name=name.replace(".", f"-{folder}.")) for name, size in SIZES.items()]
    return [site.entry(item) for item in items]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("auto", "bdac"),
        ("manifest", "abcd"),
        ("largest", "bdac"),
        ("smallest", "cadb"),
        ("newest", "bcad"),
    ],
)
@pytest.mark.parametrize("way", ["flag", "variable", "manifest"])
def test_products_are_asked_for_in_the_order_that_was_set(
    order: str, expected: str, way: str, site: Site, place: Place
):
    place.write(products_of(site, f"{way}-{order}"), **({"settings": {"order": order}} if way == "manifest" else {}))
    before = len(site.archive.log)
    words = ("--order", order) if way == "flag" else ()
    done = place.run("-j", "1", *words, env={"BULKDL_ORDER": order} if way == "variable" else {})
    assert done.code == 0, done.err
    assert "".join(record.item[0] for record in site.archive.log[before:]) == expected


def test_without_a_size_the_order_is_the_manifests(site: Site, place: Place):
    products = products_of(site, "bare")
    for product in products:
        del product["size"]
    assert asked(site, place, products=products) == list("abcd")


def test_a_higher_priority_comes_first_and_archives_take_turns(site: Site, place: Place):
    products = [site.entry(site.item(size=300_000 + n, name=f"{name}-turns.bin")) for n, name in enumerate("abcde")]
    for product in products[3:]:
        product["url"] = str(product["url"]).replace(site.archive.origin, site.archive.other_origin)
    products[0]["priority"] = 1
    assert asked(site, place, products=products) == list("acebd")


def test_check_says_the_order(site: Site, place: Place):
    place.write(products_of(site, "check"))
    assert "partials first, then the largest" in place("check", "m.yaml").out
    dry = place("run", "m.yaml", "--dry-run", "--order", "newest")
    assert "order        the newest first" in dry.out


WRONG = {
    "flag": (("--order", "biggest"), {}, {}, "--order"),
    "variable": ((), {"BULKDL_ORDER": "biggest"}, {}, "BULKDL_ORDER: expected one of auto, manifest, largest"),
    "manifest": ((), {}, {"settings": {"order": "biggest"}}, "expected auto, manifest, largest, smallest or newest"),
}


@pytest.mark.parametrize("way", WRONG)
def test_a_wrong_order_ends_with_2_and_says_what_was_expected(way: str, site: Site, place: Place):
    words, env, more, message = WRONG[way]
    place.write(products_of(site, f"wrong-{way}"), **more)
    done = place.run(*words, env=env)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize("priority", ["high", 1.5, True, 10**9])
def test_a_priority_is_a_whole_number(priority: object, site: Site, place: Place):
    product = products_of(site, f"priority-{priority}")[0]
    place.write([product | {"priority": priority}])
    done = place.run()
    assert done.code == 2
    assert "`priority`: expected a whole number" in done.err
