"""The origins of a run: who pays for a fault, who may ask, and what users are told."""

from __future__ import annotations

import math
import random
import re

import pytest

from bulkdl.cli.progress.messages import level_of, sentence
from bulkdl.concurrency.outages import Blame, Outages
from bulkdl.core.events import Hub, Level, NetworkChanged, OutageChanged, OutagePhase
from bulkdl.core.models import Trouble
from tests.clocks import ManualClock

ORIGIN, OTHER, THIRD = (f"https://{name}.example.org" for name in ("archive", "other", "third"))


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

    def fault(self, product: str = "a", *, origin: str = ORIGIN, **details: object) -> Blame:
        arguments = {"trouble": Trouble.REFUSED, "reason": "refused", "since": self.clock.monotonic(), **details}
        return self.outages.fault(origin, product, **arguments)  # type: ignore[arg-type]

    async def probe(self, product: str = "a", *, origin: str = ORIGIN) -> None:
        await self.clock.advance(self.outages.admits_in(origin))
        self.outages.start(origin, product)

    async def failed_probe(
        self, product: str = "a", *, origin: str = ORIGIN, trouble: Trouble = Trouble.REFUSED
    ) -> None:
        await self.probe(product, origin=origin)
        self.fault(product, origin=origin, trouble=trouble)
        self.outages.end(origin, product)

    async def lose_network(self, *origins: str, trouble: Trouble = Trouble.NAME) -> None:
        """Have each origin give a good answer and then fail, with a probe that confirms it."""
        for origin in origins:
            self.outages.good(origin, "z")
        await self.clock.advance(1)
        for origin in origins:
            self.fault("a", origin=origin, trouble=trouble)
        for origin in origins:
            await self.failed_probe("a", origin=origin, trouble=trouble)

    @property
    def lines(self) -> list[str]:
        """What a user reads."""
        return [sentence(event) for event in self.events if level_of(event) is not Level.DEBUG]

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
    assert began.waiting == 8  # those that are held, and the probe's own product
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


async def test_origins_that_cannot_be_reached_together_are_told_in_one_line_and_so_is_their_return():
    watched = Watched()
    await watched.lose_network(ORIGIN, OTHER, THIRD)
    assert len(watched.lines) == 1
    said = r"this machine seems to have no network since .+: archive\.example\.org, other\.example\.org and 1 more cannot be reached"
    assert re.match(said, watched.lines[0])
    for origin in (ORIGIN, OTHER, THIRD):
        await watched.probe("b", origin=origin)
        watched.outages.good(origin, "b")
        watched.outages.end(origin, "b")
    assert [re.sub(r"[\d.]+", "N", line) for line in watched.lines[1:]] == ["the network is back after Ns"]


async def test_each_origin_of_an_outage_of_the_network_has_its_entry():
    watched = Watched()
    await watched.lose_network(ORIGIN, OTHER)
    assert watched.phases.count(OutagePhase.BEGAN) == 2
    shared = [event for event in watched.events if isinstance(event, OutageChanged)]
    assert {event.outage.origin for event in shared} == {ORIGIN, OTHER}
    assert {event.outage.kind for event in shared} == {Trouble.NETWORK}


async def test_an_outage_that_was_told_alone_becomes_one_of_the_network_when_the_others_fail_too():
    watched = Watched()
    watched.outages.good(OTHER, "z")
    await watched.clock.advance(1)
    await watched.failed_probe("a")
    watched.fault("a", origin=ORIGIN)
    await watched.failed_probe("a")
    assert [line.split(" since ")[0] for line in watched.lines] == ["archive.example.org accepts no connection"]
    watched.fault("b", origin=OTHER)
    assert len(watched.lines) == 2
    assert watched.lines[1].startswith("this machine seems to have no network since")
    latest = [event for event in watched.events if isinstance(event, OutageChanged)][-1]
    assert (latest.outage.origin, latest.outage.kind) == (ORIGIN, Trouble.NETWORK)


async def test_an_outage_is_not_told_alone_while_requests_to_others_may_be_about_to_fail_too():
    watched = Watched()
    watched.outages.good(ORIGIN, "z")
    watched.outages.good(OTHER, "z")
    watched.outages.start(OTHER, "y")
    await watched.clock.advance(1)
    watched.fault()
    await watched.failed_probe()
    assert watched.lines == []
    while not watched.lines:
        await watched.failed_probe()
    assert watched.clock.monotonic() < 1000 + 25
    assert watched.lines[0].startswith("archive.example.org accepts no connection since")


async def test_an_untold_outage_that_ends_is_told_with_its_beginning():
    watched = Watched()
    watched.outages.start(OTHER, "y")
    watched.fault()
    await watched.failed_probe()
    await watched.probe("b")
    watched.outages.good(ORIGIN, "b")
    assert watched.phases == [OutagePhase.BEGAN, OutagePhase.ENDED]


@pytest.mark.parametrize("answer", ["good", "server error", "another origin"])
async def test_any_answer_ends_an_outage_of_the_network_and_the_others_are_asked_at_once(answer):
    watched = Watched()
    await watched.lose_network(ORIGIN, OTHER)
    for _ in range(8):
        for origin in (ORIGIN, OTHER):
            await watched.failed_probe("a", origin=origin)
    assert watched.outages.admits_in(OTHER) > 60
    if answer == "another origin":
        watched.outages.start(THIRD, "b")
        watched.outages.good(THIRD, "b")
    else:
        await watched.clock.advance(watched.outages.admits_in(ORIGIN))
        watched.outages.start(ORIGIN, "b")
        if answer == "good":
            watched.outages.good(ORIGIN, "b")
        else:
            watched.fault("b", trouble=Trouble.STATUS, reason="answered 503")
    assert watched.outages.admits_in(OTHER) == 0
    assert [event.phase for event in watched.events if isinstance(event, NetworkChanged)] == [
        OutagePhase.BEGAN,
        OutagePhase.ENDED,
    ]


async def test_an_origin_that_is_still_out_of_order_afterwards_is_told_on_its_own():
    watched = Watched()
    await watched.lose_network(ORIGIN, OTHER)
    await watched.probe("b")
    watched.outages.good(ORIGIN, "b")
    told = len(watched.lines)
    await watched.failed_probe("a", origin=OTHER)
    assert [line.split(" since ")[0] for line in watched.lines[told:]] == ["other.example.org accepts no connection"]
    latest = watched.events[-1].outage
    assert (latest.origin, latest.kind) == (OTHER, Trouble.REFUSED)


async def test_a_lasting_outage_of_the_network_is_told_once_an_hour():
    watched = Watched(give_up_after=math.inf)
    await watched.lose_network(ORIGIN, OTHER)
    end = watched.clock.monotonic() + 3.5 * 3600
    while watched.clock.monotonic() < end:
        for origin in (ORIGIN, OTHER):
            await watched.failed_probe("a", origin=origin)
    assert len(watched.lines) == 4
    assert all(line.startswith("this machine seems to have no network") for line in watched.lines)


async def test_an_origin_is_given_up_on_its_own_and_once():
    watched = Watched(give_up_after=0.0)
    watched.fault()
    await watched.failed_probe()
    watched.fault("c")
    assert watched.phases == [OutagePhase.GIVEN_UP]
    assert watched.events[0].waiting == 8
    reason = watched.outages.given_up(ORIGIN).reason
    assert reason == "refused; https://archive.example.org gave no good answer, and --give-up-after 0 allows no wait"
