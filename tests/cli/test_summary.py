"""The result of a run as JSON, as text and in the HTML report."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bulkdl.cli.commands.report import to_html
from bulkdl.cli.summary import to_json, to_text
from bulkdl.cli.text import clean, count
from bulkdl.core.events import Outage, OutageChanged, OutagePhase
from bulkdl.core.exit_codes import exit_code
from bulkdl.core.models import Failure, FailureKind, Manifest, Outcome, Product, State, Trouble
from bulkdl.core.urls import Url
from bulkdl.operations.result import AccountUse, RunResult

MANIFEST = Manifest(
    path="m.yaml",
    destination=Path("/data/products"),
    destination_shown="products",
    settings={},
    accounts={},
    products=(),
)
KEYS = ["manifest", "destination", "exit_code", "elapsed_s", "products", "bytes", "accounts", "failures"]


def failure(number: int = 0, *, name: str = "", reason: str = "md5 differs: delete it at the source") -> Outcome:
    name = name or f"{number}.zip"
    return Outcome(
        product=Product(index=number, url=Url(f"https://archive.example.org/{number}?sig=hushhush"), file=name),
        state=State.FAILED,
        file=name,
        failure=Failure(kind=FailureKind.CHECKSUM, reason=reason, attempts=3),
    )


def result(**values: Any) -> RunResult:
    usual: dict[str, Any] = {
        "exit_code": 0,
        "elapsed_s": 60.0,
        "total": 3,
        "completed": 2,
        "skipped": 1,
        "failed": 0,
        "pending": 0,
        "written": 100 * 1024**2,
        "received": 120 * 1024**2,
        "resumed": 7,
        "accounts": {"creodias": AccountUse(logins=1, refreshes=95)},
        "failures": (),
        "pending_reasons": (),
        "notes": (),
    }
    return RunResult(**(usual | values))


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ({}, 0),
        ({"failed": 1}, 1),
        ({"pending": 1}, 1),
        ({"deadline": True, "failed": 1, "pending": 1}, 5),
        ({"account": True, "deadline": True, "failed": 1}, 3),
        ({"machine": True, "account": True, "deadline": True, "failed": 1}, 4),
        ({"signal": 2, "machine": True, "account": True, "deadline": True, "failed": 1}, 130),
        ({"signal": 15, "failed": 1}, 143),
    ],
)
def test_of_several_exit_codes_the_one_with_the_highest_rank_wins(ends, code):
    assert exit_code(**ends) == code


def test_the_json_summary_has_the_keys_of_the_contract_in_their_order():
    run = result(exit_code=1, elapsed_s=12.3999, total=4, failed=1, failures=(failure(),))
    summary = to_json(run, MANIFEST)
    assert list(summary)[: len(KEYS)] == KEYS
    assert summary | dict.fromkeys(set(summary) - set(KEYS)) == {
        "manifest": "m.yaml",
        "destination": "products",
        "exit_code": 1,
        "elapsed_s": 12.4,
        "products": {"total": 4, "completed": 2, "skipped": 1, "failed": 1, "pending": 0},
        "bytes": {"written": 104857600, "received": 125829120, "resumed": 7},
        "accounts": {"creodias": {"logins": 1, "refreshes": 95}},
        "failures": [
            {
                "file": "0.zip",
                "url": "https://archive.example.org/0?***",
                "kind": "checksum",
                "reason": "md5 differs: delete it at the source",
                "attempts": 3,
            }
        ],
    } | dict.fromkeys(set(summary) - set(KEYS))
    assert json.loads(json.dumps(summary)) == summary


def test_a_good_run_is_summarised_in_few_lines_without_a_next_step():
    text = to_text(result(), MANIFEST)
    assert text.startswith("All 3 products are in place.\n")
    assert "100 MiB" in text
    assert "2.0 MiB/s on average" in text
    assert "creodias: 1 login, 95 token refreshes" in text
    assert "Run the same command again" not in text
    assert len(text.splitlines()) < 15


def test_a_bad_run_names_each_failure_its_reason_and_the_next_step():
    stopped = AccountUse(logins=0, refreshes=0, stopped="wrong password")
    run = result(
        exit_code=3,
        total=6,
        failed=1,
        pending=2,
        failures=(failure(),),
        accounts={"own": stopped},
        pending_reasons=("account own: wrong password",),
        notes=("b.zip: existing, unverified",),
    )
    text = to_text(run, MANIFEST, again=("bulkdl", "run", "m.yaml"))
    assert text.startswith("3 of 6 products in place, 1 failed, 2 not done yet.\n")
    for expected in (
        "  0.zip\n    checksum after 3 attempts: md5 differs: delete it at the source\n    from https://archive.example.org/0?***\n",
        "Not done yet:\n  account own: wrong password\n",
        "own: 0 logins, 0 token refreshes; stopped\n",
        "Notes:\n  b.zip: existing, unverified\n",
        "\n\nBefore running again, check that account own can log in:\n  bulkdl login m.yaml own\n",
        "Then run the same command again to continue:\n  bulkdl run m.yaml\n",
    ):
        assert expected in text


@pytest.mark.parametrize(("number", "more"), [(50, ""), (51, "and 1 more: "), (2000, "and 1,950 more: ")])
def test_only_the_first_fifty_failures_are_named(number, more):
    text = to_text(
        result(exit_code=1, total=5000, failed=number, failures=tuple(map(failure, range(number)))), MANIFEST
    )
    assert text.count("md5 differs") == 50
    assert (f"{more}bulkdl status m.yaml" in text) == bool(more)


@pytest.mark.parametrize(
    ("values", "headline"),
    [
        ({"total": 0, "completed": 0, "skipped": 0}, "There was no product to download."),
        ({"total": 1, "completed": 1, "skipped": 0}, "The only product is in place."),
        (
            {"total": 9, "pending": 6, "exit_code": 130, "stopped": "interrupted by SIGINT"},
            "3 of 9 products in place, 6 not",
        ),
    ],
)
def test_the_first_line_counts_the_products_in_place(values, headline):
    assert to_text(result(**values), MANIFEST).startswith(headline)


def test_the_stop_of_an_account_is_told_once():
    stopped = AccountUse(logins=0, refreshes=0, stopped="wrong password")
    run = result(exit_code=3, pending=2, accounts={"own": stopped}, pending_reasons=("account own: wrong password",))
    assert to_text(run, MANIFEST).count("wrong password") == 1
    assert "wrong password" not in to_text(run, MANIFEST, stops_told=True)


@pytest.mark.parametrize(("number", "lines"), [(1, 1), (10, 10), (11, 12), (300, 12)])
def test_equal_notes_of_many_products_are_counted(number, lines):
    notes = tuple(f"{n}.bin: existing, unverified" for n in range(number))
    section = to_text(result(total=number, notes=notes), MANIFEST).partition("Notes:\n")[2]
    assert len(section.splitlines()) == lines
    if number > 10:
        assert f"existing, unverified: {number} products" in section
        assert f"and {number - 10} more: bulkdl status m.yaml -d products -v" in section


def test_many_different_notes_are_bounded():
    text = to_text(result(notes=tuple(f"{n}.bin: note {n}" for n in range(300))), MANIFEST)
    assert "and 290 other notes" in text


def test_a_name_cannot_control_the_terminal():
    assert clean("a\x1b[31m\r\nb\t\u202ec") == "a\\x1b[31m  b \\u202ec"


@pytest.mark.parametrize(("number", "text"), [(0, "0 retries"), (1, "1 retry"), (2000, "2,000 retries")])
def test_counts_agree_with_their_noun(number, text):
    assert count(number, "retry", "retries") == text


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [name for name, _ in attrs if name in {"src", "href"}]


def test_the_report_escapes_everything_masks_queries_and_loads_nothing():
    evil = failure(name="<script>alert(1)</script>.zip", reason='"><img src=x onerror=alert(1)>')
    html = to_html(result(exit_code=1, total=4, failed=1, failures=(evil,), notes=("<b>",)), MANIFEST)
    page = Tags()
    page.feed(html)
    assert not page.tags & {"script", "img", "link", "iframe"}
    assert page.links == []
    assert "hushhush" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.zip" in html


def outages(number: int) -> tuple[OutageChanged, ...]:
    times = ((1_750_000_000.0 + 7200 * n, 1_750_000_600.0 + 7200 * n) for n in range(number))
    return tuple(
        OutageChanged(
            phase=OutagePhase.ENDED,
            outage=Outage(
                origin="https://<a>.example.org", kind=Trouble.REFUSED, reason="no connection", began=began, ended=ended
            ),
            waiting=5,
        )
        for began, ended in times
    )


def test_text_and_report_list_the_outages_of_the_night():
    text, html = (make(result(outages=outages(12)), MANIFEST) for make in (to_text, to_html))
    assert text.count("it was back after 10m00s") == 10
    assert "… and 2 more" in text
    assert html.count("&lt;a&gt;.example.org") == 12
    assert "Outages" not in to_text(result(), MANIFEST) + to_html(result(), MANIFEST)
