"""Outages of real servers in the middle of a run: nginx stopped, Keycloak frozen or killed, both at once.

`BULKDL_TEST_OUTAGE_S` is the length of an outage: 8 s, or what a person wants to see.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from .products import Remote, differing, entry, make, write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .nginx import Access
    from .program import Done, Program, Running
    from .scene import Site

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

DOWN_S = float(os.environ.get("BULKDL_TEST_OUTAGE_S", "8"))
PRODUCTS = 60


@dataclass(frozen=True, slots=True)
class Night:
    """A run of some seconds, whose tokens live 5 s, and the servers that it uses."""

    site: Site
    program: Program
    remotes: list[Remote]
    place: Path
    seen: int
    """Requests in nginx's log before the run."""

    def start(self) -> Running:
        """Start the run, and return in the middle of it."""
        products = [entry(remote, self.site.nginx.url, account="night") for remote in self.remotes]
        accounts = {"night": self.site.account("night", client_id="short")}
        manifest = write_manifest(self.place / "night.yaml", products, accounts=accounts)
        more = ("--json", "--progress", "plain", "--workers", "8", "--limit-rate", "1M")
        running = self.program.start("run", manifest, *more, env={"BULKDL_GIVE_UP_AFTER": "1h"})
        running.until(lambda: len(self.arrived()) >= PRODUCTS // 4)
        return running

    def arrived(self) -> list[Path]:
        return [self.place / "products" / r.file for r in self.remotes if (self.place / "products" / r.file).is_file()]

    def wait(self, running: Running, told: str) -> None:
        """Return when the run has told of the outage, and the outage is long enough."""
        until = time.monotonic() + DOWN_S
        running.until(lambda: told in running.err and time.monotonic() >= until, timeout_s=60 + 2 * DOWN_S)

    def requests(self) -> list[Access]:
        return self.site.nginx.requests()[self.seen :]

    def check(self, done: Done) -> str:
        """Check that nothing is lost; return the figures."""
        assert done.code == 0, done.err
        assert done.summary["failures"] == []
        assert differing(self.remotes, self.place / "products") == []
        statuses = [access.status for access in self.requests()]
        sent = sum(access.sent for access in self.requests() if access.status in (200, 206))
        waste = sent - sum(remote.size for remote in self.remotes)
        return (
            f"{PRODUCTS} products, 0 lost, {len(statuses)} requests, {statuses.count(401)} x 401, {waste / 1e6:.1f} MB twice, "
            f"{done.summary['accounts']['night']['logins']} logins, {done.summary['accounts']['night']['refreshes']} refreshes, "
            f"{done.summary['elapsed_s']:.0f} s"
        )


@pytest.fixture
def night(site: Site, program: Program, place: Path) -> Night:
    remotes = make(site.root, "eo", [200_000] * PRODUCTS, seed=11, folder="outages")
    return Night(site, program, remotes, place, len(site.nginx.requests()))


def outages(done: Done) -> list[tuple[str, bool, bool]]:
    """Return kind, whether it is a token endpoint's, and whether it ended, of each outage of the summary."""
    return [(o["kind"], "account" in o, o["ended"] is not None) for o in done.summary["outages"]]


def test_an_nginx_that_is_stopped_and_started_again_costs_no_product(night: Night, figure: Callable[[str], None]):
    before = night.site.counts()
    running = night.start()
    night.site.nginx.stop()
    night.wait(running, "refuses connections")
    night.site.nginx.start()
    done = running.done()
    figure(f"nginx stopped for {DOWN_S:g} s: {night.check(done)}")
    assert outages(done) == [("refused", False, True)]
    after = night.site.counts()
    assert after["LOGIN"] - before["LOGIN"] == 1
    assert after["LOGIN_ERROR"] == before["LOGIN_ERROR"]
    assert after["REFRESH_TOKEN_ERROR"] == before["REFRESH_TOKEN_ERROR"]


def test_a_keycloak_that_stalls_costs_neither_a_product_nor_a_login(night: Night, figure: Callable[[str], None]):
    before = night.site.counts()
    running = night.start()
    with night.site.keycloak.frozen():
        until = time.monotonic() + DOWN_S
        running.until(lambda: time.monotonic() >= until)
    done = running.done()
    figure(f"Keycloak frozen for {DOWN_S:g} s: {night.check(done)}")
    after = night.site.counts()
    assert after["LOGIN"] - before["LOGIN"] == 1
    assert after["LOGIN_ERROR"] == before["LOGIN_ERROR"]


@pytest.mark.parametrize("both", [True] if DOWN_S < 60 else [False, True])  # a start takes half a minute
def test_a_keycloak_that_is_killed_and_started_again_costs_one_login(
    night: Night, figure: Callable[[str], None], *, both: bool
):
    """The session is lost with the server's memory, so that one more login is what its rules allow."""
    keycloak, nginx = night.site.keycloak, night.site.nginx
    running = night.start()
    keycloak.kill()
    if both:
        nginx.stop()
    night.wait(running, "refuses connections")
    keycloak.start()
    if both:
        nginx.start()
    done = running.done()
    figure(f"Keycloak{' and nginx' * both} killed for {DOWN_S:g} s and a start: {night.check(done)}")
    assert done.summary["accounts"]["night"]["logins"] == 2
    assert (night.site.count("LOGIN"), night.site.count("LOGIN_ERROR")) == (1, 0)
    assert all(ended for _, _, ended in outages(done))
    assert {account for _, account, _ in outages(done)} == ({True, False} if both else {True})
