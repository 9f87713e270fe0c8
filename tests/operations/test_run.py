"""Ends of a run: accounts, signals, deadlines, the window, the disk and the lock."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.errors import UsageError
from bulkdl.core.events import ProductFinished, Retrying, RunStarted
from bulkdl.core.models import RunOptions, Window
from bulkdl.core.rate_timetable import parse_rate_limit
from bulkdl.core.stop_request import StopReason, StopSignal
from bulkdl.demo_server.access import Access
from bulkdl.demo_server.catalog import Item
from bulkdl.demo_server.faults import Preparing
from bulkdl.demo_server.server import Archive
from bulkdl.demo_server.token_server import ClientApp, Identity, Policy, User
from bulkdl.protocol.byte_ranges import cover
from tests.clocks import ImpatientClock, ManualClock
from tests.harness import HurriedClock, Place, body_of
from tests.servers import RawRequest, RawServer, Responder, Wire, chunked, head, ranges, reply

if TYPE_CHECKING:
    from pathlib import Path

    from bulkdl.core.events import Event

BODY = body_of(3_000_000)
E1 = ("ETag", '"1"')


def stalling(after: int, started: asyncio.Event) -> Responder:
    """Send `after` bytes, then nothing more until the client disconnects."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", len(BODY)), E1) + BODY[:after])
        started.set()
        await wire.hang()

    return respond


# ---- Accounts


def realm(**policy: Any) -> Identity:
    users = [User(name="jo", password="right"), User(name="max", password="right")]
    return Identity(users, [ClientApp(id="public")], policy=Policy(**policy))


def account(archive: Archive, user: str) -> dict[str, Any]:
    return {
        "auth": "oidc",
        "token_url": archive.token_url,
        "client_id": "public",
        "username": user,
        "password": f"${{{user.upper()}}}",
    }


async def test_an_account_that_cannot_log_in_leaves_its_products_pending_and_the_other_finishes(tmp_path: Path):
    items = [Item(name=f"{who}{n}.bin", size=5000, seed=n) for who in ("jo", "max") for n in range(3)]
    identity, place = realm(), Place(tmp_path)
    place.environ |= {"JO": "wrong", "MAX": "right"}
    async with Archive(items, access={"": Access(header=identity)}, identity=identity) as archive:
        done = await place.run(
            *[{"url": archive.url(i), "account": i.name[:-5]} for i in items],
            accounts={who: account(archive, who) for who in ("jo", "max")},
        )
    assert (done.code, done.result.completed, done.result.pending, done.result.failed) == (3, 3, 3, 0)
    assert [call.status for call in identity.log if call.user == "jo"] == [401]
    assert place.names() == ["max0.bin", "max1.bin", "max2.bin"]
    assert len(done.result.pending_reasons) == 1


async def test_tokens_that_are_revoked_during_the_run_fail_no_product(tmp_path: Path):
    items = [Item(name=f"p{n}.bin", size=300_000, seed=n) for n in range(12)]
    identity, place = realm(), Place(tmp_path)
    place.environ["JO"] = "right"

    def revoke(event: Event) -> None:
        if isinstance(event, ProductFinished) and event.outcome.product.index == 4:
            identity.revoke_access()

    async with Archive(items, access={"": Access(header=identity)}, identity=identity) as archive:
        done = await place.run(
            *[{"url": archive.url(i), "account": "jo", "checksum": f"md5:{i.digest()}"} for i in items],
            accounts={"jo": account(archive, "jo")},
            watch=revoke,
        )
        assert (done.code, done.result.completed) == (0, 12), done.result.failures
        assert all(record.status in (200, 401) for record in archive.log)
    use = done.result.accounts["jo"]
    assert use.logins + use.refreshes >= 2


async def test_a_run_does_not_wait_for_products_of_an_account_that_stopped(tmp_path: Path):
    items = [Item(name="slow.bin", size=5000), Item(name="next.bin", size=5000)]
    identity, place, clock = realm(), Place(tmp_path), HurriedClock()
    place.environ["JO"] = "right"

    def lock_out(event: Event) -> None:
        if isinstance(event, Retrying):
            identity.users["jo"] = User(name="jo", password="changed")
            identity.end_sessions()

    async with Archive(items, access={"": Access(header=identity)}, identity=identity) as archive:
        archive.faults.add(Preparing(retry_after="200000"), item="slow.bin", times=None)
        done = await place.run(
            *[{"url": archive.url(i), "account": "jo"} for i in items],
            accounts={"jo": account(archive, "jo")},
            clock=clock,
            watch=lock_out,
            workers=1,
            max_wait=300_000.0,
        )
    assert (done.code, done.result.pending, done.result.failed) == (1, 2, 0)
    assert max(clock.slept, default=0) < 100_000


# ---- Signals, deadlines, the window


@pytest.mark.parametrize(("reason", "code"), [(StopReason.SIGINT, 130), (StopReason.SIGTERM, 143)])
async def test_a_signal_during_a_download_keeps_its_bytes_and_the_next_run_resumes(
    reason: StopReason, code: int, tmp_path: Path
):
    started, stop, place = asyncio.Event(), StopSignal(), Place(tmp_path)

    async def ask() -> None:
        await started.wait()
        while not (place.part("x.bin") or b""):  # noqa: ASYNC110 - the file system has no event
            await asyncio.sleep(0.01)
        stop.request(reason)

    async with RawServer(stalling(2_500_000, started), ranges(BODY)) as server:
        products = [{"url": server.url(), "file": "x.bin"}, {"url": server.url("/y"), "file": "y.bin"}]
        async with asyncio.TaskGroup() as group:
            group.create_task(ask())
            running = group.create_task(place.run(*products, stop=stop, workers=1))
        first = running.result()
        assert (first.code, first.result.pending, first.result.failed) == (code, 2, 0)
        part = place.part("x.bin") or b""
        known = cover(place.entry().ranges)
        assert 1_048_576 <= known <= len(part)
        assert part == BODY[: len(part)]
        second = await place.run(*products)
        assert (second.code, place.file("x.bin"), second.result.resumed) == (0, BODY, known)
        asked = [r.header("Range") for r in server.log if r.path == "/product.bin"]
        assert asked == [None, f"bytes={known}-"]


async def test_a_deadline_ends_the_run_with_5_and_leaves_products_pending(tmp_path: Path):
    started, clock, place = asyncio.Event(), HurriedClock(), Place(tmp_path)
    moment = datetime.fromtimestamp(clock.wall()).astimezone() + timedelta(seconds=0.3)
    async with RawServer(stalling(2_000_000, started)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, until=moment.time(), clock=clock)
    assert (done.code, done.result.pending) == (5, 1)
    assert "deadline" in done.result.stopped
    assert place.file("x.bin") is None


async def test_outside_its_window_a_run_waits_without_requests(tmp_path: Path):
    clock, place = ManualClock(), Place(tmp_path)
    now = datetime.fromtimestamp(clock.wall()).astimezone()
    window = Window((now + timedelta(hours=2)).time(), (now + timedelta(hours=4)).time())
    async with RawServer(ranges(BODY)) as server:
        running = asyncio.ensure_future(
            place.run({"url": server.url(), "file": "x.bin"}, clock=clock, window=window, workers=1)
        )
        await clock.until_sleeping()
        assert clock.waits()[0] == pytest.approx(7200, abs=1)
        assert server.log == []
        await clock.advance(7201)
        done = await running
    assert (done.code, place.file("x.bin")) == (0, BODY)


async def test_a_rate_limit_slows_the_download(tmp_path: Path):
    clock, place = ImpatientClock(), Place(tmp_path)
    async with RawServer(ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, clock=clock, limit_rate=100_000, segments=1)
    assert (done.code, place.file("x.bin")) == (0, BODY)
    assert sum(clock.slept) == pytest.approx(30, abs=0.5)


async def test_a_timetable_changes_the_rate_in_the_middle_of_a_body(tmp_path: Path):
    """Ten seconds at 100 kB/s, then the other 2 MB at 1 MB/s."""
    clock, place = ImpatientClock(), Place(tmp_path)
    times = [datetime.fromtimestamp(clock.wall()) + timedelta(seconds=each) for each in (0, 10)]  # noqa: DTZ006
    limit = parse_rate_limit(f"{times[0]:%H:%M:%S},100000 {times[1]:%H:%M:%S},1000000")
    async with RawServer(ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"}, clock=clock, limit_rate=limit, segments=1)
    assert (done.code, place.file("x.bin")) == (0, BODY)
    assert sum(clock.slept) == pytest.approx(12, abs=1)


# ---- Local problems


async def test_a_destination_locked_by_another_process_is_reported_with_its_holder(tmp_path: Path):
    place = Place(tmp_path)
    program = (
        "import sys; from pathlib import Path; from bulkdl.storage.destination_lock import DestinationLock\n"
        "with DestinationLock(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    place.root.mkdir()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        str(place.root),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    await child.stdout.readline()
    async with RawServer(ranges(BODY)) as server:
        done = await place.run({"url": server.url(), "file": "x.bin"})
        assert server.log == []
    await child.communicate(b"")
    assert (done.code, done.result.pending) == (4, 1)
    assert f"process {child.pid}" in done.result.stopped


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user without root permissions")
async def test_a_destination_without_write_permission_ends_with_4(tmp_path: Path):
    place = Place(tmp_path)
    place.root.mkdir()
    place.root.chmod(0o500)
    done = await place.run("http://127.0.0.1:9/x")
    assert (done.code, done.result.pending) == (4, 1)
    assert "permission denied" in done.result.stopped


async def test_a_destination_that_is_a_file_ends_with_4_and_is_named(tmp_path: Path):
    (tmp_path / "products").write_text("a file")
    done = await Place(tmp_path).run("http://127.0.0.1:9/x")
    assert (done.code, done.result.pending) == (4, 1)
    assert "products" in done.result.stopped


@pytest.fixture
def small_disk(tmp_path: Path):
    """Mount a file system of 12 MiB at the destination."""

    target = tmp_path / "products"
    target.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(target)], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield target
    subprocess.run(["umount", str(target)], check=True)


async def test_a_product_that_does_not_fit_stays_pending_and_smaller_ones_complete(tmp_path: Path, small_disk: Path):
    place = Place(tmp_path)
    big, small = body_of(14_000_000, 3), body_of(2_000_000, 4)

    async def respond(request: RawRequest, wire: Wire) -> None:
        await ranges(big if request.path == "/big" else small)(request, wire)

    async with RawServer(respond) as server:
        products = [{"url": server.url(f"/{n}"), "file": f"{n}.bin"} for n in ("big", "a", "b")]
        first = await place.run({**products[0], "size": len(big)}, *products[1:])
        assert (first.code, first.result.completed, first.result.pending) == (4, 2, 1)
        assert "not enough disk space for big.bin" in first.result.stopped
        assert "/big" not in [r.path for r in server.log]
        second = await place.run(products[0])  # only the server knows the size
        assert (second.code, second.result.pending, place.part("big.bin")) == (4, 1, None)
        assert "not enough disk space for big.bin" in second.result.stopped
    async with RawServer(chunked(big)) as server:
        third = await place.run({"url": server.url("/big"), "file": "big.bin"})  # nobody knows the size
    assert (third.code, third.result.pending) == (4, 1)
    assert "no space left" in third.result.stopped
    assert place.file("a.bin") == small


async def test_only_selected_products_are_downloaded(tmp_path: Path):
    place = Place(tmp_path)
    async with RawServer(reply(200, BODY)) as server:
        products = [{"url": server.url(f"/{n}"), "file": f"d/{n}.bin"} for n in ("a", "b")]
        done = await place.run(*products, options=RunOptions(select=("a.*",)))
        assert (done.code, done.result.total, place.names()) == (0, 1, ["d/a.bin"])


# --- Nothing left to do -----------------------------------------------------------------------------------------------


def in_place(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "products").mkdir()
    (tmp_path / "products" / "a.zip").write_bytes(b"123")
    return {"url": "https://archive.example.org/a.zip", "file": "a.zip", "size": 3, "account": "own"}


ACCOUNTS = {"own": {"auth": "basic", "username": "${NOT_SET}", "password": "${NOT_SET_EITHER}"}}


async def test_accounts_that_a_finished_run_does_not_need_are_reported_as_unused(tmp_path: Path):
    place, product = Place(tmp_path), in_place(tmp_path)
    place.environ |= {"NOT_SET": "u", "NOT_SET_EITHER": "p"}
    done = await place.run(product, accounts=ACCOUNTS)
    assert (done.code, done.result.skipped, done.outcomes["a.zip"].path) == (0, 1, tmp_path / "products" / "a.zip")
    assert {name: (use.logins, use.refreshes, use.stopped) for name, use in done.result.accounts.items()} == {
        "own": (0, 0, "")
    }
    assert [(e.total, e.todo, e.bytes_todo) for e in done.of(RunStarted)] == [(1, 0, None)]


async def test_a_stopped_run_exits_with_its_signal_even_if_nothing_was_left_to_do(tmp_path: Path):
    stop, product = StopSignal(), in_place(tmp_path)
    stop.request(StopReason.SIGTERM)
    done = await Place(tmp_path).run({**product, "account": None}, stop=stop)
    assert (done.code, done.result.skipped, done.result.pending) == (143, 1, 0)


async def test_unreadable_certificates_are_reported_even_if_nothing_is_left_to_do(tmp_path: Path):
    product = {**in_place(tmp_path), "account": None}
    with pytest.raises(UsageError, match=r"missing\.pem"):
        await Place(tmp_path).run(product, ca_file=tmp_path / "missing.pem")
