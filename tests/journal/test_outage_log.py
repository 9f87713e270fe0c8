"""The outages in the journal: one row for each, closed when a run was killed, gone after 30 days."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bulkdl.core.events import Outage, OutageChanged, OutagePhase
from bulkdl.core.models import Trouble
from bulkdl.journal.journal import Journal
from bulkdl.journal.outage_log import RecordedOutage, close_outages, load_outages, put_outage
from bulkdl.journal.reader import NAME
from tests.clocks import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOW = 1_750_000_000.0
OUTAGE = Outage(origin="https://archive.example.org", kind=Trouble.REFUSED, reason="refused", began=NOW)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    async with Journal.open(tmp_path, clock=ManualClock()):
        pass
    with closing(sqlite3.connect(tmp_path / ".bulkdl" / NAME)) as connection:
        yield connection


def event(outage: Outage = OUTAGE, *, waiting: int = 1, phase: OutagePhase = OutagePhase.BEGAN) -> OutageChanged:
    return OutageChanged(phase=phase, outage=outage, waiting=waiting)


def test_an_outage_has_one_row_with_its_end_and_the_most_that_waited(database: sqlite3.Connection):
    put_outage(database, event(waiting=3), now=NOW)
    put_outage(database, event(waiting=82, phase=OutagePhase.LASTS), now=NOW + 3600)
    ended = replace(OUTAGE, ended=NOW + 4000)
    put_outage(database, event(ended, waiting=0, phase=OutagePhase.ENDED), now=NOW + 4000)
    assert load_outages(database) == (RecordedOutage(ended, 82),)


def test_an_outage_whose_cause_turns_out_to_be_the_network_has_that_kind(database: sqlite3.Connection):
    put_outage(database, event(), now=NOW)
    shared = replace(OUTAGE, kind=Trouble.NETWORK, reason="no route")
    put_outage(database, event(shared, phase=OutagePhase.LASTS), now=NOW + 60)
    assert [each.outage for each in load_outages(database)] == [shared]


def test_a_killed_run_leaves_an_outage_that_ends_when_it_was_last_seen(database: sqlite3.Connection):
    put_outage(database, event(), now=NOW)
    put_outage(database, event(phase=OutagePhase.LASTS), now=NOW + 3600)
    close_outages(database, now=NOW + 90_000)
    assert [each.outage.ended for each in load_outages(database)] == [NOW + 3600]


@pytest.mark.parametrize(("days", "kept"), [(29, 1), (31, 0)])
def test_an_outage_is_kept_for_thirty_days(database: sqlite3.Connection, days: int, kept: int):
    put_outage(database, event(), now=NOW)
    close_outages(database, now=NOW + days * 86400)
    assert len(load_outages(database)) == kept


def test_outages_of_an_archive_and_an_account_are_told_apart_the_earliest_first(database: sqlite3.Connection):
    login = replace(OUTAGE, account="jo", began=NOW - 10)
    put_outage(database, event(), now=NOW)
    put_outage(database, event(login), now=NOW)
    assert [each.outage for each in load_outages(database)] == [login, OUTAGE]


@pytest.mark.parametrize("change", ["kind = 'unheard of'", "began = 'x'", "ended = 'x'"])
def test_an_unreadable_row_is_left_out(database: sqlite3.Connection, change: str):
    put_outage(database, event(), now=NOW)
    put_outage(database, event(replace(OUTAGE, began=NOW + 1)), now=NOW)
    database.execute(f"UPDATE outage SET {change} WHERE began = ?", (NOW,))
    assert [each.outage.began for each in load_outages(database)] == [NOW + 1]
