"""Nights of ten hours with outages: what a run loses, asks for and says."""

from __future__ import annotations

import math
import re
from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bulkdl.cli.progress.messages import level_of, sentence
from bulkdl.core.events import AccountEvent, Level, NetworkChanged, OutageChanged, OutagePhase, Retrying
from bulkdl.core.models import State, Trouble
from tests.effort import effort
from tests.scheduler.nights import ALL, BEGAN, REFUSAL, SSO, Down, Night, Spent

A, B, C = (f"https://{name}.example.org:443" for name in "abc")
HOUR = 3600.0
FIRST_HOUR = 20 + 2 * 4
"""Requests in the first hour of an outage: the probes, and what the workers had in flight when it began."""
EACH_HOUR = 14


def bounded(spent: Spent, down: Down) -> None:
    """Assert that an origin in an outage is asked seldom, and by one request at a time."""
    first = spent.requests(down.origin, down.begin + 1, min(down.end, down.begin + HOUR))
    assert first <= FIRST_HOUR
    for hour in range(1, math.ceil((down.end - down.begin) / HOUR)):
        begin = down.begin + hour * HOUR
        assert spent.requests(down.origin, begin, min(down.end, begin + HOUR)) <= EACH_HOUR
    assert spent.most_at_once.get(down.origin, 0) <= 1


def explained(spent: Spent) -> None:
    """Assert that no request stays away for longer than a product takes unless an event has told of a wait."""
    times = [0.0, *sorted(at for at, *_ in spent.asked)]
    told = sorted(at for at, _ in spent.of(OutageChanged) + spent.of(Retrying) + spent.of(AccountEvent))
    for before, after in pairwise(times):
        if after - before > 250:
            assert any(before - 2 * HOUR < at <= before + 160 for at in told), f"silent from {before} to {after}"


@pytest.mark.parametrize("kind", [*ALL, *REFUSAL])
@pytest.mark.thorough
@pytest.mark.parametrize("hours", effort([1.0], [0.1, 1.0, 5.0]))
def test_an_outage_costs_no_product_and_few_requests_while_others_go_on(kind: str, hours: float):
    down = Down(A, 600, 600 + hours * HOUR, kind)
    spent = Night({A: 60, B: 60}, down).spend()
    assert (spent.result.exit_code, spent.result.completed) == (0, 120)
    bounded(spent, down)
    explained(spent)
    phases = [event.phase for _, event in spent.of(OutageChanged)]
    assert (phases[0], phases[-1]) == (OutagePhase.BEGAN, OutagePhase.ENDED)
    others = [at for file, at in spent.finished().items() if file.startswith("b.")]
    assert max(others) < 600 + HOUR


@pytest.mark.parametrize("kind", ALL)
def test_an_archive_that_is_down_when_the_run_begins_is_waited_for(kind: str):
    down = Down(A, 0, 1200, kind)
    spent = Night({A: 20}, down).spend()
    assert (spent.result.exit_code, spent.result.completed) == (0, 20)
    bounded(spent, down)


@pytest.mark.parametrize("kind", ["refused", "503", "maintenance"])
def test_after_an_outage_the_first_requests_are_few(kind: str):
    down = Down(A, 600, 600 + HOUR, kind)
    spent = Night({A: 200}, down, workers=16).spend()
    assert spent.result.completed == 200
    back = next(at for at, event in spent.of(OutageChanged) if event.phase is OutagePhase.ENDED)
    assert spent.requests(A, back - 1, back + 0.04) <= 3


@pytest.mark.parametrize("kind", ["refused", "silence", "503", "403"])
def test_an_origin_that_stays_down_is_given_up_with_the_outage_as_the_reason(kind: str):
    spent = Night({A: 60, B: 60}, Down(A, 600, math.inf, kind), give_up_after=6 * HOUR).spend()
    assert spent.result.exit_code == 1
    came, failed = spent.finished(), spent.finished(State.FAILED)
    assert {file for file in came if file.startswith("b.")} == {f"b.example.org-{n}.bin" for n in range(60)}
    assert len(came) + len(failed) == 120
    assert all(
        "gave no good answer for" in outcome.failure.reason for outcome in spent.result.failures if outcome.failure
    )
    assert 6 * HOUR < spent.result.elapsed_s < 7.5 * HOUR
    assert [event.phase for _, event in spent.of(OutageChanged)][-1] is OutagePhase.GIVEN_UP


def test_an_origin_that_never_answers_is_given_up_after_an_hour():
    spent = Night({A: 20, B: 20}, Down(A, 0, math.inf)).spend()
    assert (spent.result.exit_code, spent.result.completed, spent.result.failed) == (1, 20, 20)
    assert HOUR <= spent.result.elapsed_s < 1.3 * HOUR


@pytest.mark.parametrize(("begin", "hours"), [(5.0, 1.0), (20.0, 6.0)])
def test_an_archive_counts_as_good_from_the_first_bytes_of_a_body_on_but_not_from_a_head(begin: float, hours: float):
    """The first piece of each body arrives after 15 s, the others do not."""
    spent = Night({A: 8, B: 8}, Down(A, begin, math.inf, "reset"), give_up_after=6 * HOUR).spend()
    assert (spent.result.completed, spent.result.failed) == (8, 8)
    assert hours * HOUR <= spent.result.elapsed_s < (hours + 0.3) * HOUR


@pytest.mark.parametrize("up", [60, 300, 600])
def test_outages_that_follow_each_other_cost_few_requests_each(up: int):
    """The ramp after an outage ends with six good answers; an outage before that goes on with the pauses."""
    downs = [Down(A, at, at + 600) for at in range(600, 36000, 600 + up)]
    spent = Night({A: 120}, *downs).spend()
    asked = [spent.requests(A, down.begin + 1, down.end) for down in downs if down.end < spent.result.elapsed_s]
    assert max(asked) <= 16  # up to six of them might have met a limit of requests instead
    assert up > 60 or sum(asked) / len(asked) < 5


@pytest.mark.parametrize("kind", ["refused", "503", "404"])
def test_an_archive_that_is_up_and_down_every_ten_minutes_costs_no_product(kind: str):
    downs = [Down(A, at, at + 600, kind) for at in range(600, 36000, 1200)]
    spent = Night({A: 120}, *downs).spend()
    assert (spent.result.exit_code, spent.result.completed) == (0, 120)
    assert len(spent.asked) < 120 + 30 * len(downs)


def test_products_that_are_gone_end_the_run_within_two_minutes_of_the_rest():
    gone = tuple(f"/{n}.bin" for n in range(3, 40, 8))
    spent = Night({A: 60}, gone=gone).spend()
    assert (spent.result.exit_code, spent.result.completed, spent.result.failed) == (1, 55, 5)
    assert spent.result.elapsed_s <= max(spent.finished().values()) + 120
    assert all(spent.requests(A, 0, math.inf) <= 60 + 5 + 10 for _ in gone)


def test_until_ends_a_night_with_a_dead_archive_and_leaves_its_products_pending():
    spent = Night(
        {A: 60, B: 10},
        Down(A, 600, math.inf),
        until=datetime.fromtimestamp(BEGAN + 3 * HOUR).astimezone().time(),
        give_up_after=math.inf,
    ).spend()
    assert (spent.result.exit_code, spent.result.failed) == (5, 0)
    assert [reason for reason in spent.result.pending_reasons if "was still out of order" in reason]
    assert spent.result.pending == 60 - sum(file.startswith("a.") for file in spent.finished())


@pytest.mark.parametrize("kind", ["refused", "503", "maintenance", "silence", "401"])
@pytest.mark.parametrize("begin", [0.0, 1500.0])
def test_an_outage_of_the_token_endpoint_costs_no_product_and_no_login(kind: str, begin: float):
    down = Down(SSO, begin, begin + 0.9 * HOUR, kind)
    spent = Night({A: 120}, down, with_account=True).spend()
    assert (spent.result.exit_code, spent.result.completed) == (0, 120)
    logins = [at for at, kind in spent.tokens if kind == "login" and not down.begin <= at < down.end]
    assert len(logins) <= 2
    assert sum(down.begin + 1 <= at < down.end for at, _ in spent.tokens) <= FIRST_HOUR
    explained(spent)


@pytest.mark.parametrize("kind", ["401", "403"])
def test_a_gateway_that_refuses_every_token_costs_no_product_and_few_logins(kind: str):
    down = Down(A, 1500, 1500 + HOUR, kind)
    spent = Night({A: 60}, down, with_account=True).spend()
    assert (spent.result.exit_code, spent.result.completed) == (0, 60)
    assert sum(kind == "login" for _, kind in spent.tokens) <= 3


def test_an_outage_of_the_whole_network_costs_nothing():
    downs = [Down(origin, 900, 900 + 2 * HOUR, "name") for origin in (A, B, C, SSO)]
    spent = Night({A: 40, B: 40, C: 40}, *downs, with_account=True).spend()
    assert (spent.result.exit_code, spent.result.completed) == (0, 120)
    for down in downs[:3]:
        bounded(spent, down)
    begin, *hourly, end = told(spent)
    assert (begin, end) == ("this machine seems to have no network", "the network is back")
    assert [line.split(" of account ")[0] for line in hourly] == ["the token endpoint sso.example.org:443"]


def told(spent: Spent) -> list[str]:
    """Return the beginnings of the lines about outages that a user reads."""
    events = [
        e for _, e in spent.events if isinstance(e, OutageChanged | NetworkChanged) and level_of(e) is not Level.DEBUG
    ]
    return [re.split(" since | after ", sentence(event))[0] for event in events]


@pytest.mark.parametrize("kind", ["name", "refused", "timeout"])
def test_origins_that_go_down_together_are_one_outage_and_are_back_together(kind: str):
    downs = [Down(origin, 900, 900 + 0.7 * HOUR, kind) for origin in (A, B, C)]
    spent = Night({A: 40, B: 40, C: 40}, *downs).spend()
    assert (spent.result.exit_code, spent.result.completed) == (0, 120)
    assert told(spent) == ["this machine seems to have no network", "the network is back"]
    assert {(each.outage.origin, each.outage.kind) for each in spent.result.outages} == {
        (origin, Trouble.NETWORK) for origin in (A, B, C)
    }
    ended = [at for at, event in spent.of(OutageChanged) if event.phase is OutagePhase.ENDED]
    assert max(ended) - min(ended) < 60


@pytest.mark.parametrize(
    ("kind", "trouble"), [("name", Trouble.NAME), ("503", Trouble.STATUS), ("403", Trouble.DENIED)]
)
def test_an_outage_has_its_kind_also_when_products_that_came_before_ask_as_probes(kind: str, trouble: Trouble):
    """Each of the few products has failed as a probe after some minutes; from then on, products that came before ask."""
    spent = Night({A: 14}, Down(A, 150, 150 + 2 * HOUR, kind)).spend()
    assert (spent.result.exit_code, spent.result.completed) == (0, 14)
    kinds = [event.outage.kind for _, event in spent.of(OutageChanged)]
    assert kinds == [trouble] * len(kinds)
    assert len(kinds) > 2


def test_an_origin_that_stays_down_when_the_network_is_back_is_told_on_its_own():
    downs = [Down(A, 900, 900 + 0.5 * HOUR, "name"), Down(B, 900, 900 + 1.5 * HOUR, "refused")]
    spent = Night({A: 60, B: 60}, *downs).spend()
    assert (spent.result.exit_code, spent.result.completed) == (0, 120)
    lines = told(spent)
    assert lines[:2] == ["this machine seems to have no network", "the network is back"]
    assert set(lines[2:-1]) == {"b.example.org:443 refuses connections"}
    assert lines[-1] == "b.example.org:443 is back"


@st.composite
def nights(draw: st.DrawFn) -> list[Down]:
    """Up to three outages of each origin, shorter than 3 h; a run without tokens may begin in one of less than 1 h.

    Between two outages of an origin there is time for a probe, and each origin sends its first product before, so that none counts as one that never answered.
    """
    downs: list[Down] = []
    is_early = draw(st.booleans())
    for origin in (A, B) if is_early else (A, B, SSO):
        at = 0.0 if is_early and origin == A else draw(st.floats(200, 2 * HOUR))
        for _ in range(draw(st.integers(0, 3))):
            kinds = ["refused", "name", "timeout", "503", "maintenance"] if origin == SSO else ALL
            lasts = draw(st.floats(1, 0.8 * HOUR if at == 0 else 3 * HOUR))
            downs.append(Down(origin, at, at + lasts, draw(st.sampled_from(kinds))))
            at += lasts + draw(st.floats(700, 2 * HOUR))
    return downs


@given(downs=nights(), seed=st.integers(0, 1000), with_account=st.booleans())
@settings(max_examples=effort(20, 60), phases=(Phase.explicit, Phase.generate))  # shrinking would take minutes
def test_no_night_with_outages_shorter_than_give_up_after_loses_a_product(
    downs: list[Down],
    seed: int,
    with_account: bool,  # noqa: FBT001 - hypothesis calls it
):
    night = Night({A: 40, B: 40, C: 20}, *downs, seed=seed, with_account=with_account, product_s=150.0)
    spent = night.spend()
    assert (spent.result.exit_code, spent.result.completed, spent.result.failed) == (0, 100, 0)
    asked = [down for down in downs if down.origin != SSO]
    assert len(spent.asked) <= 100 + sum(60 + 14 * (down.end - down.begin) / HOUR for down in asked)
    logins = sum(kind == "login" for _, kind in spent.tokens)
    tried = sum(20 + 14 * (down.end - down.begin) / HOUR for down in downs if down.origin == SSO)
    assert logins <= 1 + len(downs) + tried
    explained(spent)
    assert all(each.outage.ended is not None for each in spent.result.outages)
    network = [event.phase for _, event in spent.of(NetworkChanged) if event.phase is not OutagePhase.LASTS]
    assert network == [OutagePhase.BEGAN, OutagePhase.ENDED] * (len(network) // 2)
