"""Flags, variables and the manifest: the effect of each setting, and their precedence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.demo_server.faults import Refuse, Stall
from tests.contract.program import Done, Place, Site
from tests.servers import hang, head

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import RawRequest, Wire


pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Effect:
    """A setting, three values of it, and the observable result of a run."""

    values: tuple[str, str, str]
    """Values for the manifest, the variable and the flag."""
    shown: Callable[[Done], Any]
    expected: tuple[Any, Any, Any]


def longest_wait(done: Done) -> str:
    """Return the `--max-wait` named in a failure."""
    found = re.search(r"max-wait\D*(\d+)", done.failures["later.bin"]["reason"])
    return found[1] if found else ""


EFFECTS = {
    # More attempts take longer, so the flag uses the manifest's value again.
    "retries": Effect(("2", "3", "2"), lambda done: done.failures["busy.bin"]["attempts"], (2, 3, 2)),
    "max_wait": Effect(("11", "12", "13"), longest_wait, ("11", "12", "13")),
}


@pytest.fixture(scope="module")
def ways(site: Site, tmp_path_factory) -> list[Done]:
    """Three runs: manifest alone, with variables, with variables and flags."""
    place = Place(tmp_path_factory.mktemp("ways"))
    # While `fine` comes, a 503 is the trouble of `busy` alone.
    fine, busy, later = site.item(), site.item(), site.item()
    site.archive.faults.add(Refuse(503), item=busy.name, times=None)
    site.archive.faults.add(Refuse(503, retry_after="4000"), item=later.name, times=None)
    products = [site.entry(fine), site.entry(busy, file="busy.bin"), site.entry(later, file="later.bin")]
    # A pause applies to all products of a host, so the product with a long wait has another host name.
    products[2]["url"] = products[2]["url"].replace(site.archive.origin, site.archive.other_origin)
    settings = {name: int(effect.values[0]) for name, effect in EFFECTS.items()}
    place.write(products, settings={**settings, "workers": 1}, destination="by-manifest")
    variables = {f"BULKDL_{name.upper()}": effect.values[1] for name, effect in EFFECTS.items()}
    variables |= {"BULKDL_DESTINATION": "by-variable"}
    flags = [word for name, effect in EFFECTS.items() for word in (f"--{name.replace('_', '-')}", effect.values[2])]
    return [
        place.run(),
        place.run(env=variables),
        place.run(*flags, "-d", "by-flag", env=variables),
    ]


@pytest.mark.parametrize("setting", EFFECTS)
def test_a_flag_beats_a_variable_and_a_variable_the_manifest(setting: str, ways: list[Done]):
    effect = EFFECTS[setting]
    assert tuple(effect.shown(done) for done in ways) == effect.expected


def test_the_destination_has_the_same_precedence(ways: list[Done]):
    assert [done.summary["destination"] for done in ways] == ["by-manifest", "by-variable", "by-flag"]


@pytest.mark.parametrize("way", ["manifest", "variable", "flag"])
def test_workers_is_the_number_of_products_in_flight(way: str, site: Site, place: Place):
    paths = [f"/workers-{way}-{n}" for n in range(5)]
    for path in paths:
        site.routes[path] = hang()
    settings = {"settings": {"workers": 2}} if way == "manifest" else {"settings": {"workers": 4}}
    place.write([site.raw.url(path) for path in paths], **settings)
    env = {"BULKDL_WORKERS": "2"} if way == "variable" else {"BULKDL_WORKERS": "3"} if way == "flag" else {}
    running = place.start("run", "m.yaml", "--progress", "none", *(("-j", "2") if way == "flag" else ()), env=env)
    running.until(lambda: sum(bool(site.routes.of(path)) for path in paths) >= 2, "two products in flight")
    running.interrupt()
    assert [bool(site.routes.of(path)) for path in paths] == [True, True, False, False, False]


@pytest.mark.parametrize(("segments", "most"), [("1", 1), ("2", 2), ("auto", 99)])
def test_segments_bounds_the_connections_to_one_product(segments: str, most: int, site: Site, place: Place):
    item = site.item(size=12 * 1024 * 1024)
    place.write([site.entry(item, checksum=...)])
    done = place.run("-s", segments)
    assert done.code == 0
    requests = site.archive.requests(item)
    assert all(record.status in {200, 206} for record in requests)
    if segments == "1":
        assert len(requests) == 1
    assert place.get(item.name) == item.read()
    assert done.summary["bytes"]["written"] == item.size


async def trickle(request: RawRequest, wire: Wire) -> None:
    """Send a few bytes now and then, for ever."""
    await wire.send(head(200, ("Content-Length", 1_000_000)))
    while not await wire.closed_within(0.1):
        await wire.send(b"x" * 10)


@pytest.mark.parametrize("cause", ["timeout", "min_rate"])
def test_silence_and_a_trickle_end_a_connection(cause: str, site: Site, place: Place):
    item = site.item(size=9000)
    site.archive.faults.add(Stall(4000), item=item.name, times=None)
    site.routes["/trickle"] = trickle
    url = site.url(item) if cause == "timeout" else site.raw.url("/trickle")
    place.write([{"url": url, "file": "slow.bin"}])
    env = {"BULKDL_MIN_RATE": "50K"} if cause == "min_rate" else {}
    running = place.start("run", "m.yaml", "--progress", "plain", "-v", "--timeout", "1", env=env)
    running.until(lambda: "slow.bin" in running.err and "Trying again" in running.err, "a second attempt")
    running.interrupt()


def test_limit_rate_bounds_the_whole_run(site: Site, place: Place):
    items = [site.item(size=3_000_000) for _ in range(2)]
    place.write([site.entry(item) for item in items])
    done = place.run("--limit-rate", "2M")
    assert done.code == 0
    # Without the limit this takes far less than 1 s on loopback, with it about 3 s.
    assert done.summary["elapsed_s"] >= 1.5


def test_a_timetable_bounds_the_run_in_all_three_places(site: Site, place: Place):
    item = site.item(size=2_000_000)
    for number, way in enumerate(("flag", "variable", "manifest")):
        more = {"settings": {"limit_rate": "00:00,2M 12:00,2M"}} if way == "manifest" else {}
        place.write([site.entry(item)], destination=f"./{number}", **more)
        words = ("--limit-rate", "Mon-00:00,2M") if way == "flag" else ()
        done = place.run(*words, env={"BULKDL_LIMIT_RATE": "Sat-Fri 00:00,2M"} if way == "variable" else {})
        assert done.code == 0
        assert done.summary["elapsed_s"] >= 0.7


@pytest.mark.parametrize("way", ["flag", "variable", "manifest"])
def test_max_bytes_begins_nothing_more_and_ends_with_5(way: str, site: Site, place: Place):
    items = [site.item(size=40_000) for _ in range(5)]
    more = {"settings": {"max_bytes": "50K"}} if way == "manifest" else {}
    place.write([site.entry(item) for item in items], **more)
    words = ("--max-bytes", "50K") if way == "flag" else ()
    done = place.run("-j", "1", *words, env={"BULKDL_MAX_BYTES": "51200"} if way == "variable" else {})
    assert done.code == 5
    assert done.counts == {"completed": 2, "pending": 3}
    assert done.summary["bytes"]["received"] == 80_000
    assert "50.0 KiB have been received (--max-bytes); run the same command to resume" in done.err
    assert place.names() == {item.name for item in items[:2]}
    rest = place.run("--max-bytes", "none")
    assert (rest.code, rest.counts) == (0, {"completed": 3, "skipped": 2})


def test_a_run_that_ends_at_its_limit_of_bytes_with_nothing_left_is_complete(site: Site, place: Place):
    place.write([site.entry(site.item(size=1000))])
    assert place.run("--max-bytes", "1000").code == 0


@pytest.mark.parametrize("text", ["0", "much", "-1"])
@pytest.mark.parametrize("way", ["flag", "manifest"])
def test_a_wrong_limit_of_bytes_ends_with_2(text: str, way: str, site: Site, place: Place):
    place.write([site.entry(site.item())], **({"settings": {"max_bytes": text}} if way == "manifest" else {}))
    done = place.run(*((f"--max-bytes={text}",) if way == "flag" else ()))
    assert (done.code, done.out) == (2, "")
    assert "max" in done.err
    assert "expected" in done.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("08:00,0", "expected a rate above 0, or off"),
        ("08:00,5M 08:00,off", "expected each time once, found a second rate for Mon 08:00"),
        ("Foo-08:00,5M", "expected days such as Mon, Sunday or Mon-Fri"),
        (" ", "expected a rate such as 40M, or a timetable such as"),
    ],
)
@pytest.mark.parametrize("way", ["flag", "variable", "manifest"])
def test_a_wrong_timetable_ends_with_2_and_says_what_was_expected(
    text: str, message: str, way: str, site: Site, place: Place
):
    place.write([site.entry(site.item())], **({"settings": {"limit_rate": text}} if way == "manifest" else {}))
    words = ("--limit-rate", text) if way == "flag" else ()
    done = place.run(*words, env={"BULKDL_LIMIT_RATE": text} if way == "variable" else {})
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert {"flag": "--limit-rate", "variable": "BULKDL_LIMIT_RATE", "manifest": "m.yaml:4:"}[way] in done.err


SWITCHES = {
    "BULKDL_OVERWRITE": ("1", "overwrite"),
    "BULKDL_TRUST_EXISTING": ("true", "trust"),
    "BULKDL_DRY_RUN": ("yes", "dry"),
    "BULKDL_SELECT": ("nothing-has-this-name", "select"),
}


@pytest.mark.parametrize("variable", SWITCHES)
def test_each_switch_has_a_variable(variable: str, site: Site, place: Place):
    value, effect = SWITCHES[variable]
    item = site.item()
    place.put(item.name, b"other")
    place.write([site.bare(item) if effect == "trust" else site.entry(item)])
    done = place.run(env={variable: value})
    if effect == "overwrite":
        assert (done.code, place.get(item.name)) == (0, item.read())
    elif effect == "trust":
        assert (done.code, done.counts) == (0, {"skipped": 1})
    elif effect == "dry":
        assert done.code == 0
        assert not (place.products / ".bulkdl").exists()
    else:
        assert done.code in {0, 2}
        assert place.get(item.name) == b"other"


def test_the_variables_for_output(site: Site, place: Place):
    place.write([site.entry(site.item())])
    env = {
        "BULKDL_JSON": "1",
        "BULKDL_PROGRESS": "json",
        "BULKDL_LOG_FILE": "v.log",
        "BULKDL_REPORT": "v.html",
        "BULKDL_UNTIL": "none",
        "BULKDL_WAIT_FOR_SPACE": "1",
        "BULKDL_VERBOSE": "1",
    }
    done = place("run", "m.yaml", env=env)
    assert done.code == 0
    assert done.summary["exit_code"] == 0
    assert '"event": "run_finished"' in done.err
    assert (place.cwd / "v.log").stat().st_size > 0
    assert (place.cwd / "v.html").stat().st_size > 0


WRONG = [
    ("-s", "many"),
    ("--limit-rate", "fast"),
    ("--window", "22"),
    ("--progress", "loud"),
    ("--ca-file", "nowhere.pem"),
    ("--no-such-flag",),
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a_wrong_flag_ends_with_2_names_it_and_asks_for_nothing(words: tuple[str, ...], site: Site, place: Place):
    place.write([site.entry(site.item())])
    before = site.requests
    done = place.run(*words)
    assert (done.code, done.out, site.requests - before) == (2, "", 0)
    assert words[0].lstrip("-") in done.err or words[-1] in done.err


@pytest.mark.parametrize(("variable", "value"), [("BULKDL_WORKERS", "many"), ("BULKDL_OVERWRITE", "perhaps")])
def test_a_wrong_variable_ends_with_2_and_names_it(variable: str, value: str, site: Site, place: Place):
    place.write([site.entry(site.item())])
    done = place.run(env={variable: value})
    assert (done.code, done.out) == (2, "")
    assert variable in done.err
