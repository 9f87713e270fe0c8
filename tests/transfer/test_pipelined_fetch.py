"""Pipelined requests for small products, in whole runs: each product gets the same result as it would alone."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bulkdl.core.events import ProductFinished, ProductStarted
from bulkdl.core.models import RunOptions, State
from bulkdl.core.stop_request import StopReason, StopSignal
from bulkdl.demo_server.server import Archive
from bulkdl.demo_server.token_server import ClientApp, Identity, Policy, User
from bulkdl.http.lightweight import pipelining_policy
from bulkdl.transfer import batch_finalize, disk_space
from tests.clocks import ManualClock
from tests.effort import effort
from tests.harness import HurriedClock, Place, body_of, sha256
from tests.waiting import CLOSE, CUT, RESET, Asked, Respond, Site, answer, ok

if TYPE_CHECKING:
    from bulkdl.core.events import Event
    from tests.harness import Done


ROW = 4
MANY = [f"/{number:03d}.bin" for number in range(60)]


def content(path: str) -> bytes:
    """Return the product at a path: its bytes and its length differ from those of every other path."""
    return body_of(200 + 7 * int(path[1:4]), int(path[1:4]))


def plain(batch: list[Asked]) -> list[bytes]:
    return [ok(content(asked.path)) for asked in batch]


def but(**odd: bytes) -> Respond:
    """Answer like `plain`, except for the products in `odd` (by number), which always get that response."""

    def respond(batch: list[Asked]) -> list[bytes]:
        return [odd.get(f"n{asked.path[1:4]}") or ok(content(asked.path)) for asked in batch]

    return respond


def at(tmp_path: Path, row: int = ROW, **settings: Any) -> Place:
    place = Place(tmp_path, **{"workers": 1, **settings})
    place.environ["BULKDL_ASK_AHEAD"] = str(row)
    return place


async def fetched(place: Place, site: Site, paths: list[str] = MANY, **more: Any) -> Done:
    """Run once for these products and check that each has one outcome."""
    done = await place.run(*[{"url": site.url(path), "file": path[1:]} for path in paths], **more)
    assert_reported_once(done, len(paths))
    return done


def assert_reported_once(done: Done, count: int) -> None:
    indices = [event.outcome.product.index for event in done.of(ProductFinished)]
    assert sorted(indices) == list(range(count))


def assert_right(place: Place, paths: list[str] = MANY) -> None:
    """Assert that these products and nothing else are in place."""
    assert place.names() == sorted(path[1:] for path in paths)
    assert [path for path in paths if place.file(path[1:]) != content(path)] == []


def most_requests_for_one(site: Site, paths: list[str] = MANY) -> int:
    return max(site.count(path) for path in paths)


@pytest.mark.parametrize("workers", [1, 3])
async def test_after_a_row_of_plain_answers_products_are_asked_for_ahead_and_each_once(workers: int, tmp_path: Path):
    place = at(tmp_path, workers=workers)
    async with Site(plain) as site:
        done = await fetched(place, site)
        assert done.code == 0
        assert_right(place)
        assert [asked.behind for asked in site.log[:ROW]] == [0] * ROW
        assert len(site.ahead) > len(MANY) // 2
        assert len(site.log) == len(MANY) + 2  # the two on which the order is tried are asked for again, alone
        assert site.connections <= workers


async def test_each_product_is_reported_as_started_once_and_recorded_with_one_attempt(tmp_path: Path):
    place = at(tmp_path)
    async with Site(plain) as site:
        done = await fetched(place, site)
    assert sorted(event.file for event in done.of(ProductStarted)) == sorted(path[1:] for path in MANY)
    assert {entry.attempts for entry in place.journal().values()} == {1}
    assert done.result.received == sum(len(content(path)) for path in MANY)


@pytest.mark.parametrize(
    "settings",
    [{"row": 0}, {"row": 1000}, {"limit_rate": 1 << 30}],
    ids=["turned off", "a row that is never reached", "a rate limit"],
)
async def test_nothing_is_pipelined_with(settings: dict[str, Any], tmp_path: Path):
    place = at(tmp_path, **settings)
    async with Site(plain) as site:
        done = await fetched(place, site)
        assert (done.code, len(site.log), site.ahead) == (0, len(MANY), [])


@pytest.mark.parametrize(
    ("server", "ahead"), [("nginx/1.22.1", True), ("Apache/2.4", True), ("a server of ours", False), ("", False)]
)
async def test_by_default_only_servers_that_are_known_to_answer_in_order_get_pipelined_requests(
    server: str, *, ahead: bool, tmp_path: Path
):
    place, paths = (
        Place(tmp_path, workers=2),
        [f"/{number:03d}.bin" for number in range(pipelining_policy.REQUIRED_PLAIN_ANSWERS + 40)],
    )

    def respond(batch: list[Asked]) -> list[bytes]:
        return [ok(content(asked.path), *([("Server", server)] if server else [])) for asked in batch]

    async with Site(respond) as site:
        done = await fetched(place, site, paths)
        assert done.code == 0
        assert_right(place, paths)
        assert bool(site.ahead) is ahead
        assert len(site.log) == len(paths) + 2 * ahead


async def test_what_a_server_of_another_name_answers_on_a_known_ones_connection_is_asked_for_again(tmp_path: Path):
    place, paths = (
        Place(tmp_path, workers=1),
        [f"/{number:03d}.bin" for number in range(pipelining_policy.REQUIRED_PLAIN_ANSWERS + 60)],
    )

    def respond(batch: list[Asked]) -> list[bytes]:
        return [ok(content(a.path), ("Server", "nginx" if a.path < "/290.bin" else "ours")) for a in batch]

    async with Site(respond) as site:
        done = await fetched(place, site, paths)
        assert done.code == 0
        assert_right(place, paths)
        asked = next(number for number, one in enumerate(site.log) if one.path == "/290.bin")
        assert [one.path for one in site.log[asked + pipelining_policy.MAX_DEPTH :] if one.behind] == []


async def test_a_waiting_worker_gets_the_slot_after_32_products_and_most_are_pipelined_all_the_same(tmp_path: Path):
    place, paths = at(tmp_path, workers=4), [f"/{number:03d}.bin" for number in range(300)]
    async with Site(plain) as site:
        products = [{"url": site.url(path), "file": path[1:], "account": "narrow"} for path in paths]
        done = await place.run(*products, accounts={"narrow": {"auth": "none", "max_connections": 1}})
        assert_reported_once(done, len(paths))
        assert done.code == 0
        assert_right(place, paths)
        assert len(site.ahead) > len(paths) // 2
        first = {path: number for number, path in reversed([*enumerate(one.path for one in site.log)])}
        # The four that began together: none of them waited for more than the turns of the others.
        assert max(first[path] for path in paths[:4]) < 4 * 40


# ---- Answers that are not plain


ODD: dict[str, tuple[bytes, str]] = {
    "404": (answer(404, b"no"), "http"),
    "500": (answer(500), "http"),
    "a redirect to another": (answer(302, b"", ("Location", "/000.bin")), "right"),
    "a redirect that leads nowhere": (answer(302, b"", ("Location", "/031.bin")), "http"),
    "a page": (ok(b"<!DOCTYPE html><html></html>", ("Content-Type", "text/html")), "content"),
    "no byte": (ok(b""), "right"),
    "a part that nobody asked for": (answer(206, b"abc", ("Content-Range", "bytes 0-2/9")), "http"),
    "a coding": (ok(b"coded", ("Content-Encoding", "br")), "content"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "right"),
    "a cookie": (ok(b"abc", ("Set-Cookie", "a=1; Path=/")), "right"),
    "no length": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc", "network"),
    "HTTP/1.0": (answer(200, b"abc", version="HTTP/1.0"), "right"),
    "a last answer": (ok(b"abc", ("Connection", "close")), "right"),
    "no HTTP": (b"\x00\x01\x02\r\n\r\n", "network"),
    "a large product": (ok(body_of(400_000)), "right"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", "http"),
    "an early hint": (b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(b"abc"), "right"),
}
"""Response for product 31, and the outcome of that product."""
ODD_PATH = "/031.bin"
"""Number in the middle, where many requests are pipelined."""


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_answer_among_plain_ones_costs_no_other_product_anything(name: str, tmp_path: Path):
    odd, end = ODD[name]
    place = at(tmp_path, retries=1)
    async with Site(but(n031=odd)) as site:
        done = await fetched(place, site, timeout=1.0)
        others = [path for path in MANY if path != ODD_PATH]
        assert [path for path in others if place.file(path[1:]) != content(path)] == []
        ends = {outcome.file: outcome.failure.kind.value for outcome in done.result.failures if outcome.failure}
        assert ends == ({} if end == "right" else {ODD_PATH[1:]: end})
        assert max(site.count(path) for path in others if path != "/000.bin") <= 3
        assert any(asked.path == ODD_PATH and asked.behind for asked in site.log)


async def test_after_a_cookie_nothing_is_asked_ahead_and_every_request_has_it(tmp_path: Path):
    place = at(tmp_path)

    def respond(batch: list[Asked]) -> list[bytes]:
        return [ok(content(a.path), *([("Set-Cookie", "a=1")] if a.path == ODD_PATH else [])) for a in batch]

    async with Site(respond) as site:
        # aiohttp keeps no cookie of a host that is an address.
        products = [{"url": f"http://localhost:{site.port}{path}", "file": path[1:]} for path in MANY]
        done = await place.run(*products)
        assert_reported_once(done, len(MANY))
        assert done.code == 0
        assert_right(place)
        given = max(number for number, asked in enumerate(site.log) if asked.path == ODD_PATH)
        later = site.log[given + 1 :]
        assert len(later) > 20
        assert {(asked.behind, asked.headers.get("cookie")) for asked in later} == {(0, "a=1")}


async def test_a_cookie_that_another_product_brings_ends_what_is_asked_ahead_without_it(tmp_path: Path):
    place, paths = at(tmp_path, workers=2), [f"/{number:03d}.bin" for number in range(300)]

    def respond(batch: list[Asked]) -> list[bytes]:
        return [ok(content(a.path), *([("Set-Cookie", "a=1")] if "x-key" in a.headers else [])) for a in batch]

    async with Site(respond) as site:
        products: list[dict[str, Any]] = [
            {"url": f"http://localhost:{site.port}{path}", "file": path[1:]} for path in paths
        ]
        products[60]["headers"] = {"X-Key": "k"}
        done = await place.run(*products)
        assert_reported_once(done, len(paths))
        assert done.code == 0
        assert_right(place, paths)
        given = next(number for number, asked in enumerate(site.log) if "cookie" in asked.headers)
        assert (
            len([asked for asked in site.log[given:] if "cookie" not in asked.headers])
            <= 2 * pipelining_policy.MAX_DEPTH
        )


async def test_a_host_that_asks_for_a_pause_is_left_alone_and_every_product_comes(tmp_path: Path):
    place, refused = at(tmp_path), 0

    def busy(batch: list[Asked]) -> list[bytes]:
        nonlocal refused
        answers = []
        for asked in batch:
            refused += (is_busy := asked.path == ODD_PATH and refused < 2)
            answers.append(answer(429, b"", ("Retry-After", "30")) if is_busy else ok(content(asked.path)))
        return answers

    clock = HurriedClock()
    async with Site(busy) as site:
        done = await fetched(place, site, clock=clock)
        assert done.code == 0
        assert_right(place)
        assert (site.count(ODD_PATH), most_requests_for_one(site)) == (3, 3)
        assert 29 < sum(clock.slept) < 31


async def test_a_product_that_is_being_prepared_is_waited_for_while_others_come(tmp_path: Path):
    place, told = at(tmp_path), 0

    def preparing(batch: list[Asked]) -> list[bytes]:
        nonlocal told
        answers = []
        for asked in batch:
            told += (not_yet := asked.path == ODD_PATH and told < 3)
            answers.append(answer(202, b"", ("Retry-After", "60")) if not_yet else ok(content(asked.path)))
        return answers

    async with Site(preparing) as site:
        done = await fetched(place, site)
        assert done.code == 0
        assert_right(place)
        assert done.of(ProductFinished)[-1].outcome.file == ODD_PATH[1:]
        assert site.count(ODD_PATH) == 4


async def test_what_the_manifest_knows_of_a_product_is_held_against_what_was_asked_ahead(tmp_path: Path):
    place = at(tmp_path)
    products: list[dict[str, Any]] = [
        {"file": path[1:], "size": len(content(path)), "checksum": sha256(content(path))} for path in MANY
    ]
    products[20]["size"] += 1
    products[40]["checksum"] = sha256(b"something else")
    async with Site(plain) as site:
        done = await place.run(*[{"url": site.url(f"/{product['file']}"), **product} for product in products])
        assert [outcome.failure and outcome.failure.kind.value for outcome in done.result.failures] == [
            "size",
            "checksum",
        ]
        assert_right(place, [path for path in MANY if path not in (MANY[20], MANY[40])])
        # A wrong size and a wrong checksum are believed when they come twice; the pipelined request of a wrong size does
        # not count.
        assert (site.count(MANY[20]), site.count(MANY[40])) == (3, 2)
        assert_reported_once(done, len(MANY))


# ---- Servers that do not bear it


def swapped(batch: list[Asked]) -> list[bytes]:
    """Answer in the order in which the responses are ready."""
    return plain(batch[::-1])


def forgetful(batch: list[Asked]) -> list[bytes]:
    """Read only the first of the requests that came together."""
    return plain(batch[:1])


def twofold(batch: list[Asked]) -> list[bytes]:
    """Answer a pipelined request twice."""
    answers = plain(batch)
    return [*answers, answers[-1]] if len(batch) > 1 else answers


def hasty(batch: list[Asked]) -> list[Any]:
    """Close the connection if a request comes before the last response."""
    return [*plain(batch[:1]), CLOSE] if len(batch) > 1 else plain(batch)


@pytest.mark.parametrize("respond", [swapped, twofold, hasty, forgetful])
async def test_a_server_that_breaks_the_order_is_found_out_before_a_byte_is_used(respond: Respond, tmp_path: Path):
    place = at(tmp_path, timeout=0.5)
    async with Site(respond) as site:
        done = await fetched(place, site)
        assert done.code == 0
        assert_right(place)
        assert len(site.ahead) <= 2
        assert most_requests_for_one(site) <= 3


async def test_products_that_are_alike_prove_no_order(tmp_path: Path):
    place = at(tmp_path)
    async with Site(lambda batch: [ok(b"the same") for _ in batch]) as site:
        done = await fetched(place, site)
        assert (done.code, {place.file(path[1:]) for path in MANY}) == (0, {b"the same"})
        assert len(site.ahead) <= pipelining_policy.MAX_TRIALS


@pytest.mark.parametrize("workers", [1, 4])
async def test_no_more_trials_are_made_than_rows_were_long_enough(workers: int, tmp_path: Path):
    """Also if many workers wait for one slot when the first trial shows nothing."""
    place = at(tmp_path, workers=workers)
    account = {"own": {"auth": "none", "max_connections": 1}}
    async with Site(lambda batch: [ok(b"the same") for _ in batch]) as site:
        products = [{"url": site.url(path), "file": path[1:], "account": "own"} for path in MANY[:30]]
        done = await place.run(*products, accounts=account)
        assert done.code == 0
        assert len(site.ahead) == 1


@pytest.mark.parametrize("most", [1, 3, 10])
async def test_a_server_that_closes_after_some_requests_gives_every_product(most: int, tmp_path: Path):
    def closing(batch: list[Asked]) -> list[Any]:
        here = [asked for asked in batch if asked.nth <= most]
        return [*plain(here), *([CLOSE] if here[-1:] != batch[-1:] or batch[-1].nth == most else [])]

    place = at(tmp_path, workers=2)
    async with Site(closing) as site:
        done = await fetched(place, site)
        assert done.code == 0
        assert_right(place)
        assert most_requests_for_one(site) <= 3


async def test_a_server_that_ends_inside_answers_gives_every_product(tmp_path: Path):
    place, cuts = at(tmp_path), iter([True] * 3)

    def cutting(batch: list[Asked]) -> list[Any]:
        answers: list[Any] = plain(batch)
        if len(batch) > 3 and next(cuts, False):
            answers[2:] = [answers[2][:-50], CLOSE]
        return answers

    async with Site(cutting) as site:
        done = await fetched(place, site)
        assert done.code == 0
        assert_right(place)
        assert most_requests_for_one(site) <= 3
        assert next(cuts, None) is None or len(site.ahead) > 0


async def test_what_is_forgotten_once_the_order_is_known_is_asked_for_again_and_nothing_else_is_asked_ahead(
    tmp_path: Path,
):
    def forgets(batch: list[Asked]) -> list[bytes]:
        return plain(batch[:3])

    place = at(tmp_path, timeout=0.3)
    async with Site(forgets) as site:
        done = await fetched(place, site)
        assert done.code == 0
        assert_right(place)
        assert most_requests_for_one(site) <= 2
        last = max(number for number, asked in enumerate(site.log) if asked.behind)
        assert len({asked.connection for asked in site.ahead}) <= 2
        assert (
            last
            < ROW
            + 4
            + pipelining_policy.MAX_DEPTH
            + ROW * pipelining_policy.VIOLATION_FACTOR
            + pipelining_policy.MAX_DEPTH
        )


async def test_a_page_in_each_products_place_fails_each_and_ends_what_is_asked_ahead(tmp_path: Path):
    """A server does this once a login has expired; it is not flooded with requests."""
    place = at(tmp_path, retries=1)
    page = ok(b"<!DOCTYPE html><html></html>", ("Content-Type", "text/html"))
    async with Site(lambda batch: [page if a.path >= "/020" else ok(content(a.path)) for a in batch]) as site:
        done = await fetched(place, site)
        assert {outcome.failure and outcome.failure.kind.value for outcome in done.result.failures} == {"content"}
        assert_right(place, MANY[:20])
        assert len([asked for asked in site.ahead if asked.path >= "/020"]) <= 2 * pipelining_policy.MAX_DEPTH


# ---- TLS


async def test_hundreds_of_products_over_tls_are_asked_ahead_and_each_has_its_own_bytes(
    certificate: Path, tmp_path: Path
):
    place, paths = at(tmp_path, workers=3, ca_file=certificate), [f"/{number:03d}.bin" for number in range(300)]
    async with Site(plain, certificate=certificate) as site:
        products: list[dict[str, Any]] = [{"url": site.url(path), "file": path[1:]} for path in paths]
        for path, product in zip(paths[::3], products[::3], strict=True):
            product |= {"size": len(content(path)), "checksum": sha256(content(path))}
        products[150]["checksum"] = sha256(b"something else")
        done = await place.run(*products)
        assert_reported_once(done, len(paths))
        assert done.failure[0] == "checksum"
        assert_right(place, [path for path in paths if path != paths[150]])
        assert len(site.ahead) > len(paths) // 2
        assert len(site.log) == len(paths) + 2 + 1
        assert site.connections <= 3


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("end", [CLOSE, CUT, RESET])
async def test_over_tls_connections_that_are_lost_now_and_then_cost_no_product_anything(
    end: Any,
    inside: bool,  # noqa: FBT001
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    if inside:  # no mere end of a connection, which each has at some time
        monkeypatch.setattr(pipelining_policy, "VIOLATION_FACTOR", 1)
    losses, asked_ahead = 0, 0

    def losing(batch: list[Asked]) -> list[Any]:
        nonlocal losses, asked_ahead
        asked_ahead += len(batch) > 1
        answers: list[Any] = plain(batch)
        if len(batch) > 2 and asked_ahead % 5 == 0:
            losses += 1
            answers[1:] = [*([answers[1][:-50]] if inside else []), end]
        return answers

    place, paths = at(tmp_path, workers=2, ca_file=certificate), [f"/{number:03d}.bin" for number in range(200)]
    async with Site(losing, certificate=certificate) as site:
        done = await fetched(place, site, paths)
        assert done.code == 0
        assert_right(place, paths)
        assert losses > 2
        assert site.connections > losses
        assert most_requests_for_one(site, paths) <= 3
        assert len(site.ahead) > len(paths) // 2


HAPPENINGS = st.sampled_from(
    [
        "plain",
        "plain",
        "plain",
        "close",
        "cut",
        "reset",
        "error",
        "page",
        "cookie",
        "forget",
        "skip",
        "hint",
        "last",
        "large",
    ]
)


class RandomFaults:
    """Answer each batch with the next fault of a random list, at a random position; correctly once the list is over."""

    def __init__(self, row: list[tuple[str, int]]) -> None:
        self.row = list(row)

    def __call__(self, batch: list[Asked]) -> list[Any]:
        what, number = self.row.pop(0) if self.row else ("plain", 0)
        answers: list[Any] = plain(batch)
        place = number % len(batch)
        match what:
            case "close":
                answers[place:] = [CLOSE]
            case "cut":
                answers[place:] = [answers[place][: -1 - number % 150], CLOSE]
            case "reset":
                answers[place:] = [RESET]
            case "error":
                answers[place] = answer(503)
            case "page":
                answers[place] = ok(b"<!DOCTYPE html><html></html>", ("Content-Type", "text/html"))
            case "cookie":
                answers[place] = ok(content(batch[place].path), ("Set-Cookie", "a=1; Domain=.example.org"))
            case "forget":
                answers[place:] = []
            case "skip":
                del answers[place]
            case "hint":
                answers[place] = b"HTTP/1.1 103 Early Hints\r\n\r\n" + answers[place]
            case "last":
                answers[place:] = [ok(content(batch[place].path), ("Connection", "close")), CLOSE]
            case "large":
                answers[place] = answer(500, body_of(400_000))
        return answers


@settings(max_examples=effort(8, 60))
@given(row=st.lists(st.tuples(HAPPENINGS, st.integers(0, 1000)), max_size=30), workers=st.integers(1, 4))
@example(row=[("error", 0)] * 2 + [("forget", 0)] * 3, workers=1)
@example(row=[("plain", 0)] * 4 + [("forget", 4)], workers=1)
@example(row=[("plain", 0)] * 4 + [("skip", 2)], workers=1)
async def test_whatever_becomes_of_what_is_asked_ahead_every_product_is_right_in_the_end(
    row: list[tuple[str, int]], workers: int
):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelining_policy, "VIOLATION_FACTOR", 1)
        place = at(Path(folder), row=1, workers=workers, retries=50, timeout=0.15, give_up_after=3600)
        async with Site(RandomFaults(row)) as site:
            done = await fetched(place, site)
            kinds = {outcome.failure.kind.value for outcome in done.result.failures if outcome.failure}
            assert kinds <= {"content"}  # pages, three times for one product
            failed = {outcome.file for outcome in done.result.failures}
            assert_right(place, [path for path in MANY if path[1:] not in failed])
            assert most_requests_for_one(site) <= 3 + len(row)


# ---- Credentials


def realm(lives: float = 3600.0) -> Identity:
    return Identity([User(name="jo", password="right")], [ClientApp(id="public")], policy=Policy(expires_in=lives))


def guarded(identity: Identity, *, revoke_at: int = 10**9) -> tuple[Respond, list[str]]:
    """Answer requests with a good token, in the header or the query; revoke the tokens after `revoke_at` responses."""
    seen: list[str] = []
    good = 0

    def respond(batch: list[Asked]) -> list[bytes]:
        nonlocal good
        answers = []
        for asked in batch:
            given = asked.headers.get("authorization", "").removeprefix("Bearer ")
            token = given or asked.target.partition("token=")[2]
            seen.append(token)
            good += (is_good := identity.check(token))
            if good == revoke_at:
                identity.revoke_access()
                good += 1
            answers.append(ok(content(asked.path)) if is_good else answer(401, b"", ("WWW-Authenticate", "Bearer")))
        return answers

    return respond, seen


@pytest.mark.parametrize("token_in", ["header", "query"])
@pytest.mark.parametrize("workers", [1, 3])
async def test_a_token_that_is_revoked_in_the_middle_costs_one_refresh_and_few_requests(
    token_in: str, workers: int, tmp_path: Path
):
    identity, place = realm(), at(tmp_path, workers=workers)
    place.environ["JO"] = "right"
    respond, seen = guarded(identity, revoke_at=30)
    async with Archive([], identity=identity) as login, Site(respond) as site:
        account = {
            "auth": "oidc",
            "token_url": login.token_url,
            "client_id": "public",
            "username": "jo",
            "password": "${JO}",
            "token_in": token_in,
            "token_param": "token",
        }
        products = [{"url": site.url(path), "file": path[1:], "account": "jo"} for path in MANY]
        done = await place.run(*products, accounts={"jo": account})
        assert_reported_once(done, len(MANY))
        assert done.code == 0
        assert_right(place)
        use = done.result.accounts["jo"]
        assert (use.logins, use.refreshes) == (1, 1)
        first, second = dict.fromkeys(seen)
        assert second not in seen[: seen.index(second)]
        dead = seen[30:].count(first)
        assert 0 < dead <= workers * (pipelining_policy.MAX_DEPTH + 1)
        assert all(
            (f"token={first}" in a.target or f"token={second}" in a.target) == (token_in == "query") for a in site.log
        )


async def test_a_token_with_which_all_was_asked_ahead_counts_as_one_that_worked_once_it_and_the_next_are_refused(
    tmp_path: Path,
):
    """The server forgets its tokens twice, with a pause between: a third token is requested, and nothing fails."""
    identity, place, clock = realm(600), at(tmp_path), HurriedClock()
    place.environ["JO"] = "right"
    tokens: list[str] = []
    answered = [0] * 5

    def respond(batch: list[Asked]) -> Any:
        for asked in batch:
            token = asked.headers["authorization"].removeprefix("Bearer ")
            tokens.extend({token} - {*tokens})
            number = tokens.index(token) + 1
            if not identity.check(token):
                yield answer(401, b"", ("WWW-Authenticate", "Bearer"))
                continue
            if number == 3:
                identity.revoke_access()
                clock.skipped += 30
                yield CLOSE
                return
            answered[number] += 1
            yield ok(content(asked.path))
            if (number, answered[number]) == (1, 20):
                clock.skipped += 600  # it is over, and the next is signed for what follows
            if (number, answered[number]) == (2, 15):
                identity.revoke_access()

    async with Archive([], identity=identity) as login, Site(respond) as site:
        account = {"auth": "oidc", "token_url": login.token_url, "client_id": "public", "username": "jo"}
        products = [{"url": site.url(path), "file": path[1:], "account": "jo"} for path in MANY]
        done = await place.run(*products, accounts={"jo": {**account, "password": "${JO}"}}, clock=clock)
        assert_reported_once(done, len(MANY))
        assert done.code == 0
        assert_right(place)
        use = done.result.accounts["jo"]
        assert (use.logins, use.refreshes, len(tokens)) == (1, 3, 4)
        assert any(asked.behind for asked in site.log if tokens[1] in asked.headers["authorization"])


async def test_each_origin_and_account_has_requests_of_its_own_and_no_other_secret(tmp_path: Path):
    place = at(tmp_path, workers=3)
    place.environ |= {"A": "secret-of-a", "B": "secret-of-b"}
    accounts = {name: {"auth": "bearer", "token": f"${{{name.upper()}}}"} for name in ("a", "b")}
    async with Site(plain) as one, Site(plain) as two:
        wishes = [(site, account) for site in (one, two) for account in ("a", "b", None)]
        products = [
            {"url": wishes[number // 5 % 6][0].url(path), "file": path[1:], "account": wishes[number // 5 % 6][1]}
            for number, path in enumerate([f"/{number:03d}.bin" for number in range(240)])
        ]
        done = await place.run(*products, accounts=accounts)
        assert done.code == 0
        assert all(place.file(product["file"]) == content(f"/{product['file']}") for product in products)
        expected = {product["url"]: product["account"] for product in products}
        for site in (one, two):
            assert len(site.ahead) > 20
            told = {None: None, "a": "Bearer secret-of-a", "b": "Bearer secret-of-b"}
            assert all(asked.headers.get("authorization") == told[expected[site.url(asked.path)]] for asked in site.log)


async def test_a_host_that_may_not_have_the_credential_is_asked_ahead_without_it(tmp_path: Path):
    place = at(tmp_path)
    place.environ["A"] = "secret-of-a"
    async with Site(plain) as site:
        products = [{"url": site.url(path), "file": path[1:], "account": "a"} for path in MANY]
        account = {"auth": "bearer", "token": "${A}", "hosts": ["archive.example.org"]}
        done = await place.run(*products, accounts={"a": account})
        assert (done.code, len(site.ahead) > 20) == (0, True)
        assert [asked for asked in site.log if "authorization" in asked.headers] == []


async def test_products_of_an_account_that_stops_in_the_middle_are_pending(tmp_path: Path):
    identity, place = realm(), at(tmp_path, workers=2)
    place.environ["JO"] = "right"
    respond, _ = guarded(identity, revoke_at=30)

    def locked(batch: list[Asked]) -> Any:
        yield from respond(batch)
        if not identity.check(batch[-1].headers["authorization"].removeprefix("Bearer ")):
            identity.users["jo"] = User(name="jo", password="changed")
            identity.end_sessions()

    async with Archive([], identity=identity) as login, Site(locked) as site:
        account = {"auth": "oidc", "token_url": login.token_url, "client_id": "public", "username": "jo"}
        products = [{"url": site.url(path), "file": path[1:], "account": "jo"} for path in MANY]
        done = await place.run(*products, accounts={"jo": {**account, "password": "${JO}"}})
        assert_reported_once(done, len(MANY))
        assert done.result.failed == 0
        assert done.result.completed + done.result.pending == len(MANY)
        assert 20 <= done.result.completed <= 30
        assert all(place.file(p[1:]) in (None, content(p)) for p in MANY)
        assert len(site.log) < 30 + 2 + 2 * (pipelining_policy.MAX_DEPTH + 3)


async def test_an_account_that_stops_while_others_of_it_are_asked_ahead_leaves_them_pending(tmp_path: Path):
    identity, place, paths = realm(), at(tmp_path, workers=2), [f"/{number:03d}.bin" for number in range(300)]
    place.environ["JO"] = "right"

    def locked(batch: list[Asked]) -> list[bytes]:
        if any("x-key" in asked.headers for asked in batch):
            identity.users["jo"] = User(name="jo", password="changed")
            identity.end_sessions()
        return [answer(401) if "x-key" in asked.headers else ok(content(asked.path)) for asked in batch]

    async with Archive([], identity=identity) as login, Site(locked) as site:
        account = {"auth": "oidc", "token_url": login.token_url, "client_id": "public", "username": "jo"}
        products: list[dict[str, Any]] = [{"url": site.url(p), "file": p[1:], "account": "jo"} for p in paths]
        products[60]["headers"] = {"X-Key": "k"}
        done = await place.run(*products, accounts={"jo": {**account, "password": "${JO}"}})
        assert_reported_once(done, len(paths))
        assert (done.result.failed, done.result.stopped) == (0, "")
        assert done.result.completed + done.result.pending == len(paths)
        assert 50 < done.result.completed < len(paths)
        assert all(place.file(p[1:]) in (None, content(p)) for p in paths)


# ---- Names, room, and the end


async def test_of_products_that_the_archive_gives_one_name_the_first_has_it(tmp_path: Path):
    place = at(tmp_path)
    named = ("Content-Disposition", 'attachment; filename="same.bin"')

    def respond(batch: list[Asked]) -> list[bytes]:
        return [ok(content(a.path), *([named] if a.path in (MANY[20], MANY[22]) else [])) for a in batch]

    async with Site(respond) as site:
        done = await place.run(*[site.url(path) for path in MANY])
        assert (done.code, done.failure[0]) == (1, "conflict")
        assert_reported_once(done, len(MANY))
        assert place.file("same.bin") == content(MANY[20])
        assert len(place.names()) == len(MANY) - 1


@pytest.mark.parametrize("overwrite", [False, True])
async def test_a_file_that_has_a_name_which_only_the_archive_knew_is_met_as_it_would_be_alone(
    overwrite: bool,  # noqa: FBT001
    tmp_path: Path,
):
    place = at(tmp_path)
    place.root.mkdir()
    same, other = MANY[20:22]
    (place.root / same[1:]).write_bytes(bytes(len(content(same))))
    (place.root / other[1:]).write_bytes(b"of another size")
    async with Site(plain) as site:
        done = await place.run(*[site.url(path) for path in MANY], options=RunOptions(overwrite=overwrite))
        assert_reported_once(done, len(MANY))
        assert (site.count(same), site.count(other)) == (1, 1)
        if overwrite:
            assert done.code == 0
            assert_right(place)
        else:
            assert done.outcomes[same[1:]].note == "existing, unverified"
            assert done.failure[0] == "conflict"
            assert place.file(other[1:]) == b"of another size"


async def test_where_little_room_is_left_no_product_is_asked_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The free space is then read for each of them."""
    monkeypatch.setattr(disk_space, "PLENTY", 1 << 62)
    place = at(tmp_path)
    async with Site(plain) as site:
        done = await fetched(place, site)
        assert done.code == 0
        assert_right(place)
        assert len(site.log) == len(MANY) + 2
        assert len(site.ahead) > len(MANY) // 2


@pytest.mark.parametrize("wait", [False, True])
async def test_a_disk_that_is_full_leaves_what_does_not_fit_as_it_would_be_alone(
    wait: bool,  # noqa: FBT001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    place, left = at(tmp_path), 30
    usage = shutil.disk_usage

    def tight(path: Path) -> Any:
        nonlocal left
        left -= 1
        free = 1 << 40 if left > 0 or (wait and left < -20) else 0
        return usage(path)._replace(free=free)

    monkeypatch.setattr(disk_space, "PLENTY", 1 << 62)
    monkeypatch.setattr(shutil, "disk_usage", tight)
    async with Site(plain) as site:
        done = await fetched(place, site, options=RunOptions(wait_for_space=wait))
        assert done.code == (0 if wait else 4)
        assert done.result.failed == 0
        assert done.result.completed + done.result.pending == len(MANY)
        assert done.result.completed > 10
        assert all(place.file(p[1:]) in (None, content(p)) for p in MANY)
        assert most_requests_for_one(site) <= (30 if wait else 3)


async def test_a_file_in_the_way_is_met_as_one_also_after_there_was_no_room_for_its_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place, path = at(tmp_path), MANY[30]
    place.root.mkdir()
    (place.root / path[1:]).write_bytes(bytes(len(content(path))))
    usage, clock, asked = shutil.disk_usage, HurriedClock(), asyncio.Event()
    monkeypatch.setattr(disk_space, "PLENTY", 1 << 62)
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda root: usage(root)._replace(free=0 if asked.is_set() and not clock.slept else 1 << 40),
    )
    async with Site(plain) as site:
        site.asked = lambda request: asked.set() if request.path == path else None
        options = RunOptions(wait_for_space=True)
        done = await place.run(*[site.url(path) for path in MANY], options=options, clock=clock)
        assert_reported_once(done, len(MANY))
        assert (done.code, done.outcomes[path[1:]].note) == (0, "existing, unverified")
        assert clock.slept


async def test_no_more_is_fetched_than_the_disk_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_finalize, "_ENOUGH", 3)
    monkeypatch.setattr(batch_finalize, "_ENOUGH_ON_FAST_DISK", 3)
    place, finished, most = at(tmp_path, workers=2), 0, 0

    def watch(event: Event) -> None:
        nonlocal finished
        finished += isinstance(event, ProductFinished)

    def count(_asked: Asked) -> None:
        nonlocal most
        most = max(most, len(site.log) - finished)

    async with Site(plain) as site:
        site.asked = count
        done = await fetched(place, site, watch=watch)
        assert done.code == 0
        assert_right(place)
        assert len(site.log) == len(MANY) + 2
        assert most <= 3 + 2 + 2 * (pipelining_policy.MAX_DEPTH + 1)


async def test_products_that_failed_in_a_batch_come_before_further_products(tmp_path: Path):
    place, paths, asked_then = at(tmp_path), [f"/{number:03d}.bin" for number in range(500)], 0
    place.root.mkdir()
    (place.root / paths[20][1:]).write_bytes(b"of another size")

    def watch(event: Event) -> None:
        nonlocal asked_then
        if isinstance(event, ProductFinished) and event.outcome.state is State.FAILED:
            asked_then = len(site.log)

    async with Site(plain) as site:
        done = await place.run(*[site.url(path) for path in paths], watch=watch)
        assert_reported_once(done, len(paths))
        assert done.failure[0] == "conflict"
        assert asked_then < 300  # the disk takes 128 at a time


async def test_products_that_are_in_place_are_not_asked_for_between_others(tmp_path: Path):
    place = at(tmp_path)
    async with Site(plain) as site:
        await fetched(place, site, MANY[::3])
        site.log.clear()
        done = await fetched(place, site)
        assert (done.code, done.result.skipped, done.result.completed) == (0, 20, 40)
        assert_right(place)
        assert max(site.count(path) for path in MANY[::3]) == 0
        assert (len(site.log), len(site.ahead) > 10) == (42, True)


async def test_products_that_need_a_decision_are_never_pipelined(tmp_path: Path):
    place = at(tmp_path)
    products: list[dict[str, Any]] = [{"file": path[1:]} for path in MANY]
    odd = range(20, 50, 6)
    for number, more in zip(
        odd,
        ({"headers": {"X-Key": "k"}}, {"size": 300_000}, {"extract": True}, {"account": "own"}, {"account": "own"}),
        strict=True,
    ):
        products[number] |= more
    async with Site(plain) as site:
        wishes = [{"url": site.url(f"/{product['file']}"), **product} for product in products]
        done = await place.run(*wishes, accounts={"own": {"auth": "none"}})
        assert_reported_once(done, len(MANY))
        assert {asked.path for asked in site.ahead}.isdisjoint(MANY[number] for number in odd)
        assert len(site.ahead) > 10
        assert all(place.file(MANY[n][1:]) == content(MANY[n]) for n in range(60) if n not in odd)


async def test_a_deadline_in_the_middle_leaves_each_product_done_or_pending(tmp_path: Path):
    clock = ManualClock()
    place = at(tmp_path, until=(datetime.fromtimestamp(clock.wall()).astimezone() + timedelta(seconds=60)).time())
    async with Site(plain) as site:
        gate = asyncio.Event()
        site.respond = lambda batch: plain([asked for asked in batch if asked.path < "/021"])
        site.asked = lambda asked: gate.set() if asked.path == "/021.bin" else None
        going = asyncio.create_task(fetched(place, site, clock=clock))
        await gate.wait()
        await clock.advance(61)
        done = await going
        assert (done.code, done.result.failed) == (5, 0)
        assert done.result.completed + done.result.pending == len(MANY)
        assert_right(place, [path for path in MANY if done.outcomes[path[1:]].state is State.COMPLETED])
        assert 10 < done.result.completed <= 21


@pytest.mark.parametrize("when", [10, 21, 33])
async def test_a_stop_in_the_middle_leaves_each_product_done_or_not_begun(when: int, tmp_path: Path):
    place, stop = at(tmp_path, workers=2), StopSignal()
    async with Site(plain) as site:

        def count(_asked: Asked) -> None:
            if len(site.log) == when:
                stop.request(StopReason.SIGINT)
                site.respond = lambda batch: plain(batch[:1])  # what waits behind it is never answered

        site.asked = count
        first = await fetched(place, site, stop=stop)
        states = {outcome.file: outcome.state for outcome in first.outcomes.values()}
        assert first.code == 130
        assert set(states.values()) == {State.COMPLETED, State.PENDING}
        assert place.names() == sorted(file for file, state in states.items() if state is State.COMPLETED)
        site.respond, site.asked = plain, lambda _asked: None
        site.log.clear()
        again = await fetched(place, site)
        assert again.code == 0
        assert_right(place)
        assert {asked.path[1:] for asked in site.log} == {f for f, state in states.items() if state is State.PENDING}


async def test_one_connection_of_an_account_is_shared_by_its_workers(tmp_path: Path):
    place = at(tmp_path, workers=4)
    async with Site(plain) as site:
        products = [{"url": site.url(path), "file": path[1:], "account": "own"} for path in MANY]
        done = await place.run(*products, accounts={"own": {"auth": "none", "max_connections": 1}})
        assert_reported_once(done, len(MANY))
        assert done.code == 0
        assert_right(place)
        assert site.connections == 1
        assert len(site.log) == len(MANY) + 2
