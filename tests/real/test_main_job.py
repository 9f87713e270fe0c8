"""The main use case on real servers: Keycloak issues tokens, nginx serves products, bulkdl runs as a process."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from .products import Remote, differing, entry, make, sizes, write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .program import Done, Program
    from .scene import Site

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

MIB = 1 << 20
WORKERS = 8


@dataclass(frozen=True, slots=True)
class FullRun:
    """One run over all products, with the counts of the servers."""

    manifest: Path
    destination: Path
    remotes: list[Remote]
    done: Done
    counts: dict[str, int]
    sent: int
    methods: set[str]

    @property
    def total(self) -> int:
        return sum(remote.size for remote in self.remotes)


@pytest.fixture(scope="module")
def full_run(
    site: Site, program: Program, big: list[Remote], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FullRun]:
    """Use a password account (token in the header), and one with TOTP and rotated 5 s tokens in the query."""
    folder = tmp_path_factory.mktemp("full_run")
    accounts = {
        "maya": site.account("maya"),
        "otto": site.account("otto", "eo-totp", totp_secret="${OTTO_TOTP}", token_in="query", max_connections=4),
    }
    names = {"eo": "maya", "eo-totp": "otto"}
    products = [entry(remote, site.nginx.url, account=names[remote.realm]) for remote in big]
    manifest = write_manifest(folder / "full_run.yaml", products, accounts=accounts)
    before, sent, seen = site.counts(), site.nginx.sent(), len(site.nginx.requests())
    # The rate limit makes the run long enough for the short tokens to expire many times.
    done = program.run(manifest, "--workers", str(WORKERS), "--limit-rate", "80M")
    after = site.counts()
    yield FullRun(
        manifest=manifest,
        destination=folder / "products",
        remotes=big,
        done=done,
        counts={kind: after[kind] - before[kind] for kind in after},
        sent=site.nginx.sent() - sent,
        methods={access.method for access in site.nginx.requests()[seen:]},
    )
    shutil.rmtree(folder)


def test_every_product_of_both_accounts_arrives_identical(full_run: FullRun, figure: Callable[[str], None]):
    assert full_run.done.code == 0, full_run.done.err
    assert len(full_run.remotes) >= 300
    assert differing(full_run.remotes, full_run.destination) == []
    assert list(full_run.destination.rglob("*.part")) == []
    figure(
        f"full run: {len(full_run.remotes)} products, {full_run.total / MIB:.0f} MiB, "
        f"{full_run.counts['requests']} requests, "
        f"{(full_run.sent - full_run.total) / MIB:.1f} MiB sent but not used, "
        f"{full_run.counts['LOGIN']} logins, {full_run.counts['REFRESH_TOKEN']} refreshes, "
        f"{full_run.done.summary['elapsed_s']:.1f} s at no more than 80 MiB/s"
    )


def test_the_summary_says_what_the_servers_counted(full_run: FullRun):
    summary = full_run.done.summary
    count = len(full_run.remotes)
    assert summary["exit_code"] == 0
    assert summary["products"] == {"total": count, "completed": count, "skipped": 0, "failed": 0, "pending": 0}
    assert summary["bytes"]["written"] == full_run.total
    assert summary["bytes"]["resumed"] == 0
    # Bytes that nginx sent when we closed a range early may not have arrived.
    assert full_run.total <= summary["bytes"]["received"] <= full_run.sent
    assert summary["failures"] == []
    logins = {name: account["logins"] for name, account in summary["accounts"].items()}
    assert logins == {"maya": 1, "otto": 1}
    assert sum(account["refreshes"] for account in summary["accounts"].values()) == full_run.counts["REFRESH_TOKEN"]


def test_each_account_logs_in_once_and_short_tokens_are_renewed_without_an_error(full_run: FullRun):
    assert full_run.counts["LOGIN"] == 2
    assert full_run.counts["REFRESH_TOKEN"] >= 2
    assert full_run.counts["LOGIN_ERROR"] == 0
    assert full_run.counts["REFRESH_TOKEN_ERROR"] == 0


def test_segmented_products_waste_few_bytes(full_run: FullRun):
    assert full_run.total <= full_run.sent <= 1.1 * full_run.total
    assert full_run.methods == {"GET"}


def test_both_sessions_are_logged_out_at_the_end(full_run: FullRun, site: Site):
    assert full_run.counts["LOGOUT"] == 2
    assert site.keycloak.sessions("eo", "umlaut") == 0
    assert site.keycloak.sessions("eo-totp", "otto") == 0


def test_a_second_run_makes_no_request_at_all(full_run: FullRun, site: Site, program: Program):
    before = site.counts()
    done = program.run(full_run.manifest)
    assert done.code == 0, done.err
    assert site.counts() == before
    assert done.summary["products"]["skipped"] == len(full_run.remotes)
    assert done.summary["bytes"] == {"written": 0, "received": 0, "resumed": 0}


def test_verify_reads_every_product_again_and_finds_it_right(full_run: FullRun, site: Site, program: Program):
    before = site.counts()
    done = program("verify", full_run.manifest)
    assert done.code == 0, done.err
    assert site.counts() == before


def test_after_kill_9_in_the_middle_the_next_run_finishes_and_downloads_little_again(
    site: Site, program: Program, big: list[Remote], place: Path, figure: Callable[[str], None]
):
    accounts = {
        "night": site.account("night", client_id="short"),
        "tina": site.account("tina", "eo-totp", token_in="query"),
    }
    names = {"eo": "night", "eo-totp": "tina"}
    products = [entry(remote, site.nginx.url, account=names[remote.realm]) for remote in big]
    manifest = write_manifest(place / "killed.yaml", products, accounts=accounts)
    destination = place / "products"
    total, sent = sum(remote.size for remote in big), site.nginx.sent()

    first = program.start("run", manifest, "--workers", str(WORKERS), "--limit-rate", "100M", "--order", "manifest")
    first.until(lambda: known(program, manifest).is_the_middle)
    first.process.kill()
    assert first.done().code == -signal.SIGKILL
    kept = known(program, manifest)
    assert kept.done < len(big)

    second = program.run(manifest, "--workers", str(WORKERS))
    assert second.code == 0, second.err
    assert differing(big, destination) == []
    assert second.summary["products"]["skipped"] >= kept.done
    assert second.summary["bytes"]["resumed"] >= kept.partial
    extra = site.nginx.sent() - sent - total
    figure(
        f"kill -9: {kept.done} of {len(big)} products in place and {kept.partial / MIB:.1f} MiB of others kept, "
        f"{extra / MIB:.1f} MiB of {total / MIB:.0f} MiB sent twice or not used"
    )
    assert extra <= 32 * MIB * WORKERS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_saves_its_state_logs_out_and_resumes_the_next_time(
    number: signal.Signals, code: int, site: Site, program: Program, place: Path
):
    remotes = make(site.root, "eo", sizes(30, largest=20_000_000), seed=4, folder=f"interrupted-{code}")
    products = [entry(remote, site.nginx.url, account="maya") for remote in remotes]
    manifest = write_manifest(place / "interrupted.yaml", products, accounts={"maya": site.account("maya")})
    destination = place / "products"
    sent = site.nginx.sent()

    first = program.start("run", manifest, "--json", "--progress", "none", "--limit-rate", "40M")
    first.until(lambda: arrived(remotes, destination) >= 3 and partials(destination))
    first.process.send_signal(number)
    stopped = first.done()
    assert stopped.code == code, stopped.err
    assert stopped.summary["exit_code"] == code
    assert stopped.summary["products"]["failed"] == 0
    assert stopped.summary["products"]["completed"] == arrived(remotes, destination)
    assert site.keycloak.sessions("eo", "umlaut") == 0

    second = program.run(manifest)
    assert second.code == 0, second.err
    assert differing(remotes, destination) == []
    assert site.nginx.sent() - sent <= sum(remote.size for remote in remotes) + WORKERS * 8 * MIB
    assert site.keycloak.sessions("eo", "umlaut") == 0


def test_a_service_account_with_a_difficult_secret_downloads_its_products(site: Site, program: Program, place: Path):
    remotes = make(site.root, "eo", sizes(5, largest=100_000), seed=5, folder="service")
    products = [entry(remote, site.nginx.url, account="service") for remote in remotes]
    manifest = write_manifest(place / "service.yaml", products, accounts={"service": site.service()})
    done = program.run(manifest)
    assert done.code == 0, done.err
    assert differing(remotes, place / "products") == []
    assert done.summary["accounts"]["service"]["logins"] == 1


def test_very_many_small_products_are_pipelined_and_each_arrives_identical(
    site: Site, program: Program, place: Path, figure: Callable[[str], None]
):
    remotes = make(site.root, "eo-totp", [1000 + 7 * number for number in range(1500)], seed=9, folder="small")
    products = [entry(remote, site.nginx.url, account="otto") for remote in remotes]
    for product in products[::2]:  # without checksum, only the order of the responses assigns the bytes to the product
        del product["checksum"]
    otto = site.account("otto", "eo-totp", totp_secret="${OTTO_TOTP}", token_in="query", max_connections=4)
    manifest = write_manifest(place / "small.yaml", products, accounts={"otto": otto})
    before, behind = len(site.nginx.requests()), site.nginx.pipelined()
    done = program.run(manifest)
    assert done.code == 0, done.err
    assert differing(remotes, place / "products") == []
    requests, ahead = len(site.nginx.requests()) - before, site.nginx.pipelined() - behind
    # The trial repeats two requests. Nginx closes a connection every 1,000 requests, pipelined ones included.
    assert ahead > len(remotes) // 2
    assert requests < 1.1 * len(remotes)
    figure(f"small: {len(remotes)} products, {requests} requests, {ahead} of them pipelined")


def test_a_wrong_password_ends_with_3_after_one_attempt_and_the_right_one_works_at_once(
    site: Site, program: Program, small: list[Remote], place: Path
):
    remotes = make(site.root, "eo", sizes(20, largest=100_000), seed=6, folder="wrong")
    accounts = {"wrong": site.account("wrong")}
    products = [entry(remote, site.nginx.url, account="wrong") for remote in remotes]
    products += [entry(remote, site.nginx.url, account=None) for remote in small]
    manifest = write_manifest(place / "wrong.yaml", products, accounts=accounts)
    errors, sent = site.count("LOGIN_ERROR"), site.nginx.sent()

    refused = program.run(manifest, "--workers", "16", env={"WRONG_PASSWORD": "not the right one"})
    assert refused.code == 3, refused.err
    assert site.count("LOGIN_ERROR") == errors + 1
    assert refused.summary["products"] == {
        "total": len(remotes) + len(small),
        "completed": len(small),
        "skipped": 0,
        "failed": 0,
        "pending": len(remotes),
    }
    assert differing(small, place / "products") == []
    assert site.nginx.sent() - sent == sum(remote.size for remote in small)
    assert "wrong" in refused.err
    assert not site.keycloak.locked("eo", "wrong")

    accepted = program.run(manifest)
    assert accepted.code == 0, accepted.err
    assert differing(remotes, place / "products") == []
    assert site.count("LOGIN_ERROR") == errors + 1


def test_a_product_of_another_realm_is_refused_once_more_with_a_fresh_token_and_fails_alone(
    site: Site, program: Program, place: Path
):
    foreign = make(site.root, "eo-totp", [5000], seed=9, folder="foreign")
    own = make(site.root, "eo", sizes(3, largest=100_000), seed=9, folder="own")
    products = [entry(remote, site.nginx.url, account="maya") for remote in foreign + own]
    manifest = write_manifest(place / "foreign.yaml", products, accounts={"maya": site.account("maya")})
    done = program.run(manifest)
    assert done.code == 1, done.err
    assert done.failure(foreign[0].file)["kind"] in ("auth", "http")
    assert differing(own, place / "products") == []


@dataclass(frozen=True, slots=True)
class Known:
    """The bytes on disk as reported by `bulkdl status`."""

    done: int
    partial: int
    """Bytes of incomplete products."""

    @property
    def is_the_middle(self) -> bool:
        return self.done >= 100 and self.partial >= 32 * MIB


def known(program: Program, manifest: Path) -> Known:
    status = program("status", manifest, "--json")
    assert status.err == ""
    items = status.summary["items"]
    return Known(
        done=sum(item["state"] == "done" for item in items),
        partial=sum(item["have"] for item in items if item["state"] == "partial"),
    )


def arrived(remotes: list[Remote], destination: Path) -> int:
    """Return the number of products with their final names."""
    return sum((destination / remote.file).is_file() for remote in remotes)


def partials(destination: Path) -> bool:
    return any(True for _ in destination.rglob("*.part"))
