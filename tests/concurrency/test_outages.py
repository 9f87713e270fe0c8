"""The origins of a run: who pays for a fault, who may ask, and what users are told."""

from __future__ import annotations

import math
import random

import pytest

from bulkdl.concurrency.outages import Blame, Outages
from bulkdl.core.events import Hub, OutageChanged, OutagePhase
from bulkdl.core.models import Trouble
from tests.clocks import ManualClock

ORIGIN, OTHER = "https://archive.example.org", "https://other.example.org"


class Watched:
    """Outages with a clock and the events they emit."""

    def __init__(self, *, give_up_after: float = 21600.0) -> None:
        self.clock, self.events, self.changes = ManualClock(), [], 0
        hub = Hub(self.events.append)
        self.outages = Outages(clock=self.clock, rng=random.Random(1), hub=hub, give_up_after=give_up_after)
        self.outages.on_change = self._changed
        self.outages.count_waiting = lambda _origin: 7

    def _changed(self) -> None:
        self.changes += 1

    def fault(self, product: str = "a", **details: object) -> Blame:
        arguments = {"trouble": Trouble.REFUSED, "reason": "refused", "since": self.clock.monotonic(), **details}
        return self.outages.fault(ORIGIN, product, **arguments)  # type: ignore[arg-type]

    async def probe(self, product: str = "a") -> None:
        await self.clock.advance(self.outages.admits_in(ORIGIN))
        self.outages.start(ORIGIN, product)

    async def failed_probe(self, product: str = "a") -> None:
        await self.probe(product)
        self.fault(product)
        self.outages.end(ORIGIN, product)

    @property
    def phases(self) -> list[OutagePhase]:
        return [event.phase for event in self.events if isinstance(event, OutageChanged)]


def test_a_fault_while_others_get_answers_belongs_to_the_product():
    watched = Watched()
    since = watched.clock.monotonic()
    watched.outages.good(ORIGIN, "b")
    assert watched.fault("a", since=since) is Blame.PRODUCT
    assert watched.outages.admits_in(ORIGIN) == 0


def test_a_products_own_good_answer_does_not_make_its_next_fault_its_own():
    watched = Watched()
    since = watched.clock.monotonic()
    watched.outages.good(ORIGIN, "a")
    assert watched.fault("a", since=since) is Blame.ORIGIN


def test_an_answer_to_another_product_counts_although_the_product_had_one_afterwards():
    watched = Watched()
    since = watched.clock.monotonic()
    watched.outages.good(ORIGIN, "b")
    watched.outages.good(ORIGIN, "a")
    assert watched.fault("a", since=since) is Blame.PRODUCT


async def test_an_answer_before_the_attempt_began_proves_nothing():
    watched = Watched()
    watched.outages.good(ORIGIN, "b")
    await watched.clock.advance(0.1)
    assert watched.fault("a") is Blame.ORIGIN


async def test_one_probe_at_a_time_asks_and_other_origins_go_on():
    watched = Watched()
    watched.fault()
    assert 0 < watched.outages.admits_in(ORIGIN) < 2
    assert watched.outages.admits_in(OTHER) == 0
    await watched.probe("b")
    assert watched.outages.admits_in(ORIGIN) == math.inf
    assert watched.outages.is_probe(ORIGIN, "b")


async def test_users_are_told_when_a_probe_has_confirmed_the_outage_and_when_it_ends():
    watched = Watched()
    watched.fault()
    assert watched.phases == []
    await watched.failed_probe()
    await watched.probe("b")
    watched.outages.good(ORIGIN, "b")
    watched.outages.end(ORIGIN, "b")
    began, ended = watched.events
    assert watched.phases == [OutagePhase.BEGAN, OutagePhase.ENDED]
    assert began.waiting == 7
    assert began.outage.kind is Trouble.REFUSED
    assert began.next_try is not None
    assert began.gives_up == pytest.approx(began.outage.began + 3600, abs=1)  # it has never given a good answer
    assert ended.outage.ended - ended.outage.began > 1


async def test_a_blip_that_the_first_probe_does_not_meet_is_no_outage():
    watched = Watched()
    watched.fault()
    await watched.probe("b")
    watched.outages.good(ORIGIN, "b")
    watched.outages.end(ORIGIN, "b")
    assert watched.phases == []
    assert watched.outages.is_up(ORIGIN)


async def test_a_lasting_outage_is_told_about_once_an_hour_and_then_given_up():
    watched = Watched(give_up_after=4 * 3600.0)
    watched.outages.good(ORIGIN, "z")
    await watched.clock.advance(1)
    watched.fault()
    while watched.outages.given_up(ORIGIN) is None:
        await watched.failed_probe()
    assert watched.phases[0] is OutagePhase.BEGAN
    assert watched.phases[-1] is OutagePhase.GIVEN_UP
    assert watched.phases[1:-1] == [OutagePhase.LASTS] * 3
    assert "--give-up-after" in watched.outages.given_up(ORIGIN).reason
    assert watched.outages.admits_in(ORIGIN) == 0  # its products fail now


async def test_a_probe_that_ends_without_an_answer_lets_the_next_one_ask():
    watched = Watched()
    watched.fault()
    await watched.probe("b")
    watched.outages.end(ORIGIN, "b")
    assert watched.outages.admits_in(ORIGIN) == 0


async def test_requests_ramp_up_after_an_outage():
    watched = Watched()
    watched.fault()
    await watched.failed_probe()
    await watched.probe("a")
    watched.outages.good(ORIGIN, "a")
    assert watched.outages.admits_in(ORIGIN) == 0
    watched.outages.start(ORIGIN, "b")
    assert watched.outages.admits_in(ORIGIN) == math.inf
    watched.outages.end(ORIGIN, "a")
    assert watched.outages.admits_in(ORIGIN) == 0


def test_an_origin_serves_others_while_one_of_them_is_in_flight():
    watched = Watched()
    watched.outages.start(ORIGIN, "b")
    assert not watched.outages.serves_others(ORIGIN, "a")
    watched.outages.good(ORIGIN, "b")
    watched.outages.good(ORIGIN, "c")  # requested behind another product: no worker has it
    assert watched.outages.serves_others(ORIGIN, "a")
    assert not watched.outages.serves_others(ORIGIN, "b")
    watched.outages.end(ORIGIN, "b")
    assert not watched.outages.serves_others(ORIGIN, "a")


def test_a_confirmed_trouble_is_an_outage_at_once_and_a_canary_that_comes_ends_it():
    watched = Watched()
    watched.outages.confirm(ORIGIN, trouble=Trouble.DENIED, reason="404")
    assert watched.phases == [OutagePhase.BEGAN]
    watched.outages.clear(ORIGIN)
    assert watched.phases == [OutagePhase.BEGAN, OutagePhase.ENDED]
    assert watched.changes == 2


def test_a_fault_after_a_canary_that_came_belongs_to_the_product():
    watched = Watched()
    since = watched.clock.monotonic()
    watched.outages.clear(ORIGIN)
    assert watched.fault("a", since=since) is Blame.PRODUCT
