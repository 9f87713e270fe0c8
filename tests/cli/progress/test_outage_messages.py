"""The sentences about outages."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bulkdl.cli.progress.outage_messages import outage_fields, outage_row, outage_sentence
from bulkdl.core.events import Outage, OutageChanged, OutagePhase
from bulkdl.core.models import Trouble

ARCHIVE = Outage(origin="https://a.example.org", kind=Trouble.REFUSED, reason="no connection", began=1_750_000_000.0)
TOKENS = replace(ARCHIVE, account="anna", kind=Trouble.LOGIN, reason="401")
AT = r"\d\d:\d\d:\d\d"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            OutageChanged(
                phase=OutagePhase.BEGAN, outage=ARCHIVE, waiting=82, next_try=1_750_000_300.0, gives_up=1_750_021_600.0
            ),
            rf"a\.example\.org refuses connections since {AT} \(no connection\); 82 products wait; next try at {AT}; given up at {AT}",
        ),
        (
            OutageChanged(phase=OutagePhase.LASTS, outage=ARCHIVE, waiting=1),
            rf"a\.example\.org refuses connections since {AT} \(no connection\); 1 product waits",
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
            rf"a\.example\.org is given up: it refuses connections since {AT} \(no connection\)",
        ),
    ],
)
def test_an_outage_is_told_in_one_sentence(event, said):
    assert re.fullmatch(said, outage_sentence(event)), outage_sentence(event)


@pytest.mark.parametrize("kind", Trouble)
def test_each_trouble_has_words(kind):
    text = outage_sentence(OutageChanged(phase=OutagePhase.BEGAN, outage=replace(ARCHIVE, kind=kind)))
    assert re.fullmatch(rf"a\.example\.org \w+ .+ since {AT} \(no connection\)", text)


def test_the_json_names_the_account_of_a_token_endpoint_only():
    assert "account" not in outage_fields(ARCHIVE)
    fields = outage_fields(TOKENS, waiting=3)
    assert (fields["account"], fields["kind"], fields["ended"], fields["waiting"]) == ("anna", "login refused", None, 3)


def test_a_row_of_the_report_has_what_happened_and_how_long_it_took():
    where, what, _, to, lasted, waited = outage_row(replace(ARCHIVE, ended=1_750_001_920.0), waiting=1234)
    assert (where, what, lasted, waited) == ("a.example.org", "refuses connections (no connection)", "32m00s", "1,234")
    assert re.fullmatch(rf"2025-06-1\d {AT}", to)
    assert outage_row(TOKENS, waiting=0)[3:5] == ("not over", "")
