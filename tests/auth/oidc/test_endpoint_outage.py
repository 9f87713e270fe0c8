"""What users are told of a token endpoint while this machine has no network."""

from __future__ import annotations

import pytest

from bulkdl.auth.credentials import Credentials
from bulkdl.auth.oidc.endpoint_outage import EndpointOutage
from bulkdl.auth.oidc.factory import login_for
from bulkdl.core.events import Hub, OutageChanged, OutagePhase
from bulkdl.core.models import Account, AuthKind, Trouble
from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url
from tests.clocks import ManualClock


class Told:
    """One token endpoint and the events about it."""

    def __init__(self) -> None:
        self.events: list[OutageChanged] = []
        self.clock = ManualClock()
        self.hub = Hub(lambda event: self.events.append(event) if isinstance(event, OutageChanged) else None)
        account = Account(
            name="anna", auth=AuthKind.OIDC, token_url=Url("https://sso.example.org/token"), client_id="public"
        )
        login = login_for(account, Credentials(username="anna", password=Secret("right")))
        self.outage = EndpointOutage(login, clock=self.clock, hub=self.hub)

    def fails(self, trouble: Trouble = Trouble.NAME) -> None:
        self.outage.failed("no answer", trouble, wait=5.0, gives_up_in=None)

    @property
    def said(self) -> list[tuple[OutagePhase, Trouble, bool]]:
        return [(event.phase, event.outage.kind, event.is_shared) for event in self.events]


@pytest.fixture
def told() -> Told:
    return Told()


def test_an_endpoint_that_cannot_be_reached_is_part_of_an_outage_of_the_network(told: Told):
    told.hub.counters.is_network_down = True
    for _ in range(3):
        told.fails()
    told.outage.over(given_up=False)
    assert told.said == [(OutagePhase.BEGAN, Trouble.NETWORK, True), (OutagePhase.ENDED, Trouble.NETWORK, True)]


def test_an_endpoint_that_still_fails_when_the_network_is_back_is_told_on_its_own(told: Told):
    told.hub.counters.is_network_down = True
    told.fails()
    told.fails()
    told.hub.counters.is_network_down = False
    told.fails()
    told.fails()
    told.outage.over(given_up=False)
    assert told.said[1:] == [(OutagePhase.LASTS, Trouble.NAME, False), (OutagePhase.ENDED, Trouble.NAME, False)]


def test_an_endpoint_that_answers_with_an_error_is_told_although_the_network_seems_down(told: Told):
    told.hub.counters.is_network_down = True
    told.fails(Trouble.STATUS)
    told.fails(Trouble.STATUS)
    assert told.said == [(OutagePhase.BEGAN, Trouble.STATUS, False)]


async def test_an_outage_of_the_network_that_leaves_accounts_without_tokens_is_told_once_an_hour(told: Told):
    told.hub.counters.is_network_down = True
    told.fails()
    for _ in range(5):
        told.fails()
        await told.clock.advance(1800)
    assert [is_shared for *_, is_shared in told.said] == [True, False, False]
