"""Quotas on the command line: one ledger for all runs, the share that stops an account, and what `check` says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bulkdl.demo_server.faults import Stall

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.program import Place, Site

SIZE = 100 * 1024


def ledger(place: Place) -> Path:
    return place.home / ".local" / "state" / "bulkdl" / "quota.sqlite"


def manifest(site: Site, place: Place, quota: object, *, count: int = 6, **account: object) -> list[str]:
    """Write a manifest of products of 100 KiB and return their names."""
    items = [site.item("header-", SIZE) for _ in range(count)]
    place.write([site.entry(i, account="jo") for i in items], accounts={"jo": site.oidc("jo", quota=quota, **account)})
    return [item.name for item in items]


def test_two_runs_feed_one_ledger_and_the_account_stops_at_its_share(site, place):
    names = manifest(site, place, "500K/30d")
    first = place.run("--select", names[0], "--select", names[1])
    assert first.code == 0
    assert first.summary["accounts"]["jo"]["quota"]["500K/30d"]["used"] == 2 * SIZE

    second = place.run("--quota", "80%")
    assert second.code == 5
    assert second.counts == {"completed": 2, "skipped": 2, "pending": 2}
    assert place.names() == set(names[:4])
    used = second.summary["accounts"]["jo"]["quota"]["500K/30d"]
    assert (used["used"], used["left"], used["unit"]) == (4 * SIZE, SIZE, "bytes")
    assert "no room in the quota" in second.summary["accounts"]["jo"]["stopped"]
    assert any("There is room again from" in reason for reason in second.summary["pending_reasons"])

    third = place.run()
    assert third.code == 5
    assert third.counts == {"completed": 1, "skipped": 4, "pending": 1}
    assert "warning" not in first.err
    fourth = place.run("--quota", "off")
    assert fourth.code == 0
    assert "100 KiB" not in third.summary["stopped"]
    assert "used in 30d (" in fourth.err


def test_a_stopped_account_asks_for_nothing_and_others_go_on(site, place):
    mine, other = site.item("header-", SIZE), site.item("open-", SIZE)
    place.write([site.entry(mine, account="jo")], accounts={"jo": site.oidc("jo", quota="100K/30d")})
    assert place.run().code == 0
    again = site.item("header-", SIZE)
    place.write(
        [site.entry(again, account="jo"), site.entry(other)], accounts={"jo": site.oidc("jo", quota="100K/30d")}
    )
    before = len(site.archive.log)
    done = place.run()
    assert done.code == 5
    assert done.counts == {"completed": 1, "pending": 1}
    assert len(site.archive.log) == before + 1
    assert "bulkdl login" not in done.out


def test_the_summary_in_words_says_when_to_run_again(site, place):
    manifest(site, place, "150K/30d", count=2)
    done = place("run", "m.yaml", "--progress", "none")
    assert done.code == 5
    assert "account jo: no room in the quota: " in done.out
    assert "The quota of account jo has no room" in done.out
    assert "can log in" not in done.out


def test_an_interrupted_run_has_recorded_what_arrived(site, place):
    first, second = site.item("header-", SIZE), site.item("header-", SIZE)
    site.archive.faults.add(Stall(2000), item=second.name)
    accounts = {"jo": site.oidc("jo", quota="1G/30d")}
    place.write([site.entry(first, account="jo"), site.entry(second, account="jo")], accounts=accounts)
    running = place.start("run", "m.yaml", "--json", "--progress", "plain", "-j", "1")
    running.until(
        lambda: place.get(first.name) is not None and site.archive.log[-1].path.endswith(second.name), "stall"
    )
    assert running.interrupt().code == 130
    plan = json.loads(place("check", "m.yaml", "--json").out)
    assert plan["accounts"]["jo"]["quota"]["1G/30d"]["used"] >= SIZE


def test_check_forecasts_and_status_tells_what_is_used(site, place):
    names = manifest(site, place, ["350K/30d", "100 items/1d"])
    lines = place("check", "m.yaml").out
    assert "0 B of 350 KiB used in 30d (0%), 350 KiB left; 3 of 6 products fit now; all need 600 KiB" in lines
    assert "1.7 times 350K/30d" in lines
    assert "0 of 100 items used in 1d (0%), 100 items left; enough for 6 items" in lines
    assert not ledger(place).exists()

    place.run("--select", names[0])
    plan = json.loads(place("check", "m.yaml", "--json").out)["accounts"]["jo"]["quota"]
    assert (plan["350K/30d"]["used"], plan["350K/30d"]["fitting"], plan["350K/30d"]["products"]) == (SIZE, 2, 5)
    assert plan["100 items/1d"]["used"] == 1
    assert "account jo: 100 KiB of 350 KiB used in 30d (29%), 250 KiB left" in place("status", "m.yaml", "-v").out
    status = json.loads(place("status", "m.yaml", "--json").out)
    assert status["accounts"]["jo"]["quota"]["350K/30d"]["left"] == 250 * 1024


def test_status_says_that_a_quota_leaves_products_pending(site, place):
    manifest(site, place, "150K/30d", count=2)
    place.run()
    out = place("status", "m.yaml").out
    assert "account jo: no room in the quota" in out
    assert "auth:" not in out


def test_another_user_of_the_same_service_has_a_ledger_of_its_own(site, place):
    names = manifest(site, place, "150K/30d", count=1)
    assert place.run().code == 0
    item = site.item("header-", SIZE)
    place.write(
        [site.entry(item, account="nat")],
        accounts={"nat": site.oidc("nat", password="${NETRC_PASSWORD}", quota="150K/30d")},
    )
    assert place.run().code == 0
    assert place.get(names[0]) is not None
    stored = ledger(place).read_bytes()
    assert b"nat" not in stored
    assert b"127.0.0.1" not in stored


def test_a_damaged_ledger_is_set_aside_and_the_run_goes_on(site, place):
    manifest(site, place, "1G/30d", count=1)
    ledger(place).parent.mkdir(parents=True)
    ledger(place).write_bytes(b"no database" * 500)
    done = place.run()
    assert done.code == 0
    assert done.err.count("quota ledger was damaged") == 1
    assert ledger(place).with_name("quota.sqlite.damaged").exists()
    again = place.run().summary
    assert again["exit_code"] == 0
    assert json.loads(place("check", "m.yaml", "--json").out)["accounts"]["jo"]["quota"]["1G/30d"]["used"] == SIZE


def test_a_state_folder_that_cannot_be_written_stops_no_run(site, place):
    item = site.item("open-", SIZE)
    place.write([site.entry(item, account="open")], accounts={"open": {"auth": "none", "quota": "1G/30d"}})
    (place.root / "file").touch()
    done = place.run(env={"BULKDL_STATE_DIR": str(place.root / "file" / "state")})
    assert done.code == 0
    assert done.err.count("quota ledger") == 1


@pytest.mark.parametrize(
    ("quota", "words"),
    [
        ("500/1h", "expected an amount with its unit and a period, such as 12T/30d"),
        (["12T/30d", "5T/1y"], "expected min, h, d, w or month"),
        (500, "expected an amount with its unit and a period"),
    ],
)
def test_a_wrong_quota_is_a_problem_of_the_manifest(site, place, quota, words):
    manifest(site, place, quota, count=1)
    done = place.run()
    assert done.code == 2
    assert words in done.err
    assert "m.yaml:" in done.err


def test_the_share_may_stand_in_the_manifest_and_in_a_variable(site, place):
    item = site.item("header-", SIZE)
    small = site.item("header-", 10)
    accounts = {"jo": site.oidc("jo", quota="150K/30d")}
    place.write(
        [site.entry(small, account="jo"), site.entry(item, account="jo")], accounts=accounts, settings={"quota": "50%"}
    )
    assert place.run("-j", "1").code == 5
    assert place.run("--quota", "half").code == 2
    assert place.run(env={"BULKDL_QUOTA": "off"}).code == 0


def test_the_preset_of_the_copernicus_data_space_has_its_quota(place):
    out = place("providers", "cdse").out
    assert "12TB/30d" in out
    assert "Quotas.html" in out
