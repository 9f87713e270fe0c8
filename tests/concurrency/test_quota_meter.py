"""The meter of quotas: what is counted, and when an account is warned of, paused or stopped."""

from __future__ import annotations

from typing import Any

import pytest

from bulkdl.concurrency.quota_meter import LedgerUse, MeteredAccount, QuotaMeter
from bulkdl.concurrency.rate_limiter import HostBackoff
from bulkdl.core.errors import QuotaReached
from bulkdl.core.events import AccountAction, AccountEvent, Event, Hub, Level, Note, ProductFinished, ProductStarted
from bulkdl.core.models import Outcome, Product, State
from bulkdl.core.quota import BUCKET_S, UsageBucket, parse_quotas
from bulkdl.core.urls import Url
from tests.clocks import ManualClock

HOST, DAY = "archive.example.org", 86400.0


class Scene:
    """A meter with one account, `own`, and what it told."""

    def __init__(self, quota: str, *, recorded: tuple[UsageBucket, ...] = (), **options: Any) -> None:
        self.events: list[Event] = []
        self.clock: Any = ManualClock()
        self.hub, self.pauses = Hub(self.events.append), HostBackoff(clock=self.clock)
        self.use = LedgerUse("key")
        own = MeteredAccount("own", self.use, quotas=parse_quotas(quota), hosts=frozenset((HOST,)))
        self.meter = QuotaMeter([own], hub=self.hub, clock=self.clock, pauses=self.pauses, **options)
        self.meter.refresh({"key": recorded})

    def now(self, amount: int, *, items: int = 0) -> UsageBucket:
        return UsageBucket(self.clock.wall() // BUCKET_S * BUCKET_S, amount, items)

    def admit(self, name: str, size: int | None = None) -> None:
        self.meter.admit("own", name, size=size, is_download=True)

    def receive(self, name: str, count: int) -> None:
        self.meter.receive("own", name, count)

    def finish(self, name: str, state: State = State.COMPLETED) -> None:
        self.meter(ProductFinished(outcome=Outcome(product=product(name), state=state, file=name)))

    @property
    def notes(self) -> list[tuple[Level, str]]:
        return [(event.level, event.text) for event in self.events if isinstance(event, Note)]


def product(name: str) -> Product:
    return Product(index=0, url=Url(f"https://{HOST}/{name}"), file=name, account="own")


def test_an_account_stops_once_its_share_is_used():
    scene = Scene("1000B/30d", share=0.5)
    scene.admit("a")
    scene.receive("a", 499)
    scene.admit("a")
    scene.receive("a", 1)
    with pytest.raises(QuotaReached, match=r"500 B of 1000 B used in 30d \(50%\); --quota 50%") as caught:
        scene.admit("a")
    assert caught.value.account == "own"
    assert list(scene.meter.stops) == ["own"]
    assert [e.action for e in scene.events if isinstance(e, AccountEvent)] == [AccountAction.STOPPED]


def test_a_product_that_does_not_fit_beside_those_under_way_is_not_begun():
    scene = Scene("1000B/30d")
    scene.admit("a", 600)
    with pytest.raises(QuotaReached, match=r"600 B under way, 500 B needed for the next product"):
        scene.admit("b", 500)
    scene.admit("a", 600)  # a further request for what is under way


def test_what_a_product_received_is_not_reserved_as_well():
    scene = Scene("1000B/30d")
    scene.admit("a", 600)
    scene.receive("a", 600)
    scene.admit("b", 400)


def test_a_product_that_ends_releases_what_it_did_not_need():
    scene = Scene("1000B/30d")
    scene.admit("a", 600)
    scene.receive("a", 100)
    scene.finish("a", State.FAILED)
    scene.admit("b", 900)
    assert scene.use.reserved == 900


def test_a_product_that_is_larger_than_the_quota_is_begun_where_nothing_is_used():
    Scene("1000B/30d").admit("a", 5000)


def test_the_use_of_other_runs_counts():
    scene = Scene("1000B/30d")
    scene.meter.refresh({"key": (scene.now(1000),)})
    with pytest.raises(QuotaReached, match="There is room again from 20"):
        scene.admit("a")


def test_use_that_is_older_than_the_period_does_not_count():
    old = UsageBucket(1_750_000_000.0 - DAY - 2 * BUCKET_S, 1000)
    Scene("1000B/1d", recorded=(old,)).admit("a")


def test_a_question_without_a_body_is_always_allowed():
    scene = Scene("1000B/30d")
    scene.receive("a", 1000)
    scene.meter.admit("own", "b", size=None, is_download=False)


def test_without_a_share_nothing_stops_and_users_are_warned():
    scene = Scene("1000B/30d", share=None)
    scene.receive("a", 5000)
    scene.admit("b", 5000)
    assert scene.notes == [(Level.WARNING, "account own: 4.9 KiB of 1000 B used in 30d (500%)")]


def test_users_are_warned_once_at_eighty_per_cent():
    scene = Scene("1000B/30d")
    scene.receive("a", 799)
    scene.admit("a")
    assert scene.notes == []
    scene.receive("a", 1)
    scene.admit("a")
    scene.admit("a")
    scene.meter.refresh({})
    assert scene.notes == [(Level.WARNING, "account own: 800 B of 1000 B used in 30d (80%)")]


def test_a_quota_of_a_short_period_pauses_the_hosts_until_there_is_room():
    scene = Scene("2 items/1h")
    scene.admit("a")
    assert scene.pauses.left(HOST) == 0
    scene.admit("b")
    room = scene.now(0).start + BUCKET_S + 3600
    assert scene.pauses.left(HOST) == room - scene.clock.wall()
    assert scene.meter.stops == {}
    assert [level for level, _ in scene.notes] == [Level.INFO]


def test_a_quota_that_other_runs_have_used_pauses_from_the_start():
    scene = Scene("2 items/1h", recorded=(UsageBucket(1_750_000_000.0 // BUCKET_S * BUCKET_S, 0, 2),))
    assert scene.pauses.left(HOST) > 3600


def test_a_period_that_is_longer_than_the_longest_wait_stops_the_account():
    scene = Scene("2 items/1h", max_wait=60.0)
    scene.admit("a")
    scene.admit("b")
    with pytest.raises(QuotaReached, match=r"2 of 2 items used in 1h"):
        scene.admit("c")
    scene.admit("a")


def test_an_item_is_counted_once_whatever_its_requests():
    scene = Scene("9 items/1d")
    for _ in range(3):
        scene.admit("a")
        scene.meter(ProductStarted(product=product("a"), file="a"))
    assert scene.use.items == 1


def test_products_and_logins_of_an_account_without_a_quota_of_items_are_counted_too():
    scene = Scene("1T/30d")
    scene.meter(ProductStarted(product=product("a"), file="a"))
    scene.meter(AccountEvent(account="own", action=AccountAction.LOGIN))
    scene.meter(AccountEvent(account="own", action=AccountAction.REFRESH))
    (taken,) = scene.meter.take_unrecorded().values()
    assert (taken.items, taken.sessions) == (1, 1)


def test_what_the_ledger_could_not_store_still_counts():
    scene = Scene("1000B/30d")
    scene.receive("a", 1000)
    assert scene.meter.take_unrecorded() == {"key": scene.now(1000)}
    scene.meter.refresh({})
    assert scene.meter.take_unrecorded() == {}
    with pytest.raises(QuotaReached):
        scene.admit("b")


def test_what_arrives_while_the_ledger_is_written_counts_once():
    scene = Scene("1000B/30d")
    scene.receive("a", 300)
    scene.meter.take_unrecorded()
    scene.receive("a", 200)
    scene.meter.refresh({"key": (scene.now(300),)})
    (use,) = scene.meter.report()["own"]
    assert use.used == 500


def test_products_are_not_requested_ahead_where_each_one_counts_or_none_is_allowed():
    assert not Scene("9 items/1h").meter.may_pipeline("own")
    scene = Scene("1000B/30d")
    assert scene.meter.may_pipeline("own")
    assert scene.meter.may_pipeline(None)
    scene.receive("a", 1000)
    assert not scene.meter.may_pipeline("own")


def test_accounts_with_one_login_share_what_they_use():
    hub, clock = Hub(), ManualClock()
    use, quotas = LedgerUse("key"), parse_quotas("1000B/30d")
    both = [MeteredAccount(name, use, quotas=quotas) for name in ("a", "b")]
    meter = QuotaMeter(both, hub=hub, clock=clock, pauses=HostBackoff(clock=clock))
    meter.receive("a", "x", 1000)
    with pytest.raises(QuotaReached):
        meter.admit("b", "y", size=None, is_download=True)


def test_the_end_of_a_run_pauses_nothing():
    scene = Scene("2 items/1h")
    scene.meter.refresh({"key": (scene.now(0, items=2),)}, is_over=True)
    assert scene.pauses.left(HOST) == 0
