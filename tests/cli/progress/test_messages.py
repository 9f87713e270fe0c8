"""Events as sentences and as JSON values."""

from __future__ import annotations

import json

import pytest

from bulkdl.cli.progress.messages import EventFilter, fields, is_shown, name_of, sentence
from bulkdl.core.events import (
    AccountAction,
    AccountEvent,
    Level,
    Note,
    ProductFinished,
    ProductStarted,
    Retrying,
    RunFinished,
    RunStarted,
)
from bulkdl.core.models import Failure, FailureKind, Outcome, Product, State
from bulkdl.core.urls import Url

PRODUCT = Product(index=0, url=Url("https://archive.example.org/a.zip?sig=hushhush"), file="a.zip")


def outcome(state: State, *, reason: str = "md5 differs") -> Outcome:
    failure = Failure(kind=FailureKind.CHECKSUM, reason=reason, attempts=3) if state is State.FAILED else None
    return Outcome(product=PRODUCT, state=state, file="a.zip", written=2048, failure=failure)


EVENTS = {
    "run_started": RunStarted(destination="products", total=300, todo=299, bytes_todo=1024**3),
    "product_started": ProductStarted(product=PRODUCT, file="a.zip"),
    "retrying": Retrying(product=PRODUCT, file="a.zip", reason="the connection was cut", wait_s=2, attempt=1),
    "completed": ProductFinished(outcome=outcome(State.COMPLETED)),
    "skipped": ProductFinished(outcome=outcome(State.SKIPPED)),
    "pending": ProductFinished(outcome=outcome(State.PENDING)),
    "failed": ProductFinished(outcome=outcome(State.FAILED)),
    "login": AccountEvent(account="own", action=AccountAction.LOGIN, lifetime_s=300),
    "waiting": AccountEvent(account="own", action=AccountAction.WAITING, detail="next TOTP code in 12 s"),
    "stopped": AccountEvent(account="own", action=AccountAction.STOPPED, detail="wrong password"),
    "debug": Note(level=Level.DEBUG, text="limit is 4"),
    "info": Note(level=Level.INFO, text="clock is off by 3 s"),
    "run_finished": RunFinished(exit_code=1),
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("run_started", "299 of 300 products to download, 1.0 GiB, into products"),
        ("product_started", "a.zip: started from https://archive.example.org/a.zip?***"),
        ("retrying", "a.zip: the connection was cut. Trying again in 2s."),
        ("completed", "a.zip: complete, 2.0 KiB"),
        ("failed", "a.zip: FAILED (checksum): md5 differs"),
        ("login", "account own: logged in, token valid 5m00s"),
        ("stopped", "account own: STOPPED, its products stay pending: wrong password"),
        ("run_finished", "Run ended, exit code 1."),
    ],
)
def test_each_event_is_one_plain_sentence(name, expected):
    assert sentence(EVENTS[name]) == expected


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (-1, {"failed", "stopped"}),
        (0, {"failed", "stopped", "waiting", "run_started", "info"}),
        (1, {"failed", "stopped", "waiting", "run_started", "info", "retrying", "login", "run_finished"}),
        (2, set(EVENTS)),
    ],
)
def test_the_verbosity_decides_which_events_are_shown(verbosity, shown):
    assert {name for name, event in EVENTS.items() if is_shown(event, verbosity)} == shown


@pytest.mark.parametrize("name", EVENTS)
def test_each_event_is_one_json_object_without_the_query_of_a_url(name):
    text = json.dumps(fields(EVENTS[name]))
    assert json.loads(text)["event"] == name_of(EVENTS[name])
    assert "hushhush" not in text
    assert "hushhush" not in sentence(EVENTS[name])


def test_text_from_a_server_cannot_control_the_terminal_or_fake_a_line():
    event = ProductFinished(outcome=outcome(State.FAILED, reason="bad\x1b[2J\nnext: all is well\udcff"))
    assert sentence(event) == "a.zip: FAILED (checksum): bad\\x1b[2J next: all is well\\udcff"


@pytest.mark.parametrize(("verbosity", "lines"), [(-1, 0), (0, 10), (1, 300)])
def test_only_the_first_notes_about_products_are_lines(verbosity, lines):
    product = Product(index=0, url=Url("https://archive.example.org/a"), file="a")
    accepted = Outcome(product=product, state=State.SKIPPED, file="a", note="existing, unverified")
    shown = EventFilter(verbosity)
    assert sum(shown.shows(ProductFinished(outcome=accepted)) for _ in range(300)) == lines
    failed = Outcome(product=product, state=State.FAILED, file="a")
    assert shown.shows(ProductFinished(outcome=failed))
