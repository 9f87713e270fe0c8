"""The sentences about outages."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bulkdl.cli.progress.outage_messages import (
    network_fields,
    network_sentence,
    outage_fields,
    outage_row,
    outage_sentence,
)
from bulkdl.core.events import NetworkChanged, Outage, OutageChanged, OutagePhase
from bulkdl.core.models import Trouble

ARCHIVE = Outage(
    origin="https://a.example.org",
    kind=Trouble.REFUSED,
    reason="no connection to a.example.org:443 (no route to host)",
    began=1_750_000_000.0,
)
TOKENS = replace(ARCHIVE, account="anna", kind=Trouble.LOGIN, reason="401")
AT = r"\d\d:\d\d:\d\d"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            OutageChanged(
                phase=OutagePhase.BEGAN, outage=ARCHIVE, waiting=82, next_try=1_750_000_300.0, gives_up=1_750_021_600.0
            ),
            rf"a\.example\.org accepts no connection since {AT} \(no route to host\); 82 products wait; next try at {AT}; given up at {AT}",
        ),
        (
            OutageChanged(phase=OutagePhase.LASTS, outage=ARCHIVE, waiting=1),
            rf"a\.example\.org accepts no connection since {AT} \(no route to host\); 1 product waits",
        ),
        (
            OutageChanged(phase=OutagePhase.BEGAN, outage=TOKENS),
            rf"the token endpoint a\.example\.org of account anna refuses a login that worked before since {AT} \(401\)",
        ),
        (
            OutageChanged(phase=OutagePhase.ENDED, outage=replace(ARCHIVE, ended=1_750_001_920.0)),
            r"a\.example\.org is back after 32m00s",
        ),
        (
            OutageChanged(phase=OutagePhase.GIVEN_UP, outage=ARCHIVE),
            rf"a\.example\.org is given up: it accepts no connection since {AT} \(no route to host\)",
        ),
    ],
)
def test_an_outage_is_told_in_one_sentence(event, said):
    assert re.fullmatch(said, outage_sentence(event)), outage_sentence(event)


@pytest.mark.parametrize("kind", Trouble)
def test_each_trouble_has_words(kind):
    text = outage_sentence(OutageChanged(phase=OutagePhase.BEGAN, outage=replace(ARCHIVE, kind=kind)))
    assert re.fullmatch(rf"a\.example\.org \w+ .+ since {AT} \(no route to host\)", text)


def test_the_json_names_the_account_of_a_token_endpoint_only():
    assert "account" not in outage_fields(ARCHIVE)
    fields = outage_fields(TOKENS, waiting=3)
    assert (fields["account"], fields["kind"], fields["ended"], fields["waiting"]) == ("anna", "login refused", None, 3)


def test_a_row_of_the_report_has_what_happened_and_how_long_it_took():
    where, what, _, to, lasted, waited = outage_row(replace(ARCHIVE, ended=1_750_001_920.0), waiting=1234)
    assert (where, what, lasted, waited) == (
        "a.example.org",
        "accepts no connection (no route to host)",
        "32m00s",
        "1,234",
    )
    assert re.fullmatch(rf"2025-06-1\d {AT}", to)
    assert outage_row(TOKENS, waiting=0)[3:5] == ("not over", "")


def test_a_refused_connection_is_said_once():
    refused = replace(ARCHIVE, reason="no connection to a.example.org:443 (connection refused)")
    text = outage_sentence(OutageChanged(phase=OutagePhase.BEGAN, outage=refused, waiting=3))
    assert re.fullmatch(rf"a\.example\.org refuses connections since {AT}; 3 products wait", text)


LOST = f"this machine seems to have no network since {AT}"
FOLLOWS = f"82 products wait; next try at {AT}; given up at {AT}"
NETWORK = NetworkChanged(
    phase=OutagePhase.BEGAN,
    origins=("https://a.example.org", "https://b.example.org:8443"),
    reason="no connection to a.example.org:443 (network is unreachable)",
    began=1_750_000_000.0,
    waiting=82,
    next_try=1_750_000_300.0,
    gives_up=1_750_021_600.0,
)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            NETWORK,
            rf"{LOST}: a\.example\.org and b\.example\.org:8443 cannot be reached \(network is unreachable\); {FOLLOWS}",
        ),
        (
            replace(NETWORK, origins=(*NETWORK.origins, "x", "y"), waiting=0, next_try=None, gives_up=None),
            rf"{LOST}: a\.example\.org, b\.example\.org:8443 and 2 more cannot be reached \(network is unreachable\)",
        ),
        (
            replace(NETWORK, phase=OutagePhase.ENDED, ended=1_750_001_920.0),
            "the network is back after 32m00s",
        ),
    ],
)
def test_an_outage_of_the_network_is_told_in_one_sentence(event, said):
    assert re.fullmatch(said, network_sentence(event)), network_sentence(event)


def test_the_json_of_an_outage_of_the_network_names_the_origins():
    fields = network_fields(NETWORK)
    assert (fields["phase"], fields["origins"], fields["ended"], fields["waiting"]) == (
        "began",
        list(NETWORK.origins),
        None,
        82,
    )
