"""Whether and how far requests may go out ahead of the answers: what an origin has shown decides, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core.errors import UsageError
from bulkdl.http.lightweight.pipelining_policy import (
    FEW_CUTS,
    FIRST_ROW,
    HELD,
    LONGER,
    MOST,
    PER_CUT,
    QUICK_S,
    SLOW_S,
    TRIALS,
    OrderProof,
    PipeliningConfig,
    PipeliningPolicy,
    is_known_in_order,
    pipelining_config,
)


def kept(row: int = 3) -> PipeliningPolicy:
    """An origin that has shown that it keeps the order."""
    lead = PipeliningPolicy(row=row, wanted=row)
    lead.on_trial()
    lead.tried(kept=True)
    return lead


def plain(lead: PipeliningPolicy, count: int) -> None:
    for _ in range(count):
        lead.plain("nginx")


@pytest.mark.parametrize(
    ("value", "row"),
    [
        (None, PipeliningConfig(FIRST_ROW)),
        ("", PipeliningConfig(FIRST_ROW)),
        ("0", None),
        ("000", None),
        ("1", PipeliningConfig(1, of_any=True)),
        ("0256", PipeliningConfig(256, of_any=True)),
        ("999999999", PipeliningConfig(999_999_999, of_any=True)),
    ],
)
def test_the_variable_says_how_long_the_first_row_is_and_that_any_server_may_stand_in_it(
    value: str | None, row: PipeliningConfig | None
):
    assert pipelining_config(value) == row


@pytest.mark.parametrize("value", ["-1", "1.5", "many", " 1", "1 ", "٣", "²", "1_000", "1000000000", "0x10", "1e3"])
def test_what_is_no_whole_number_is_refused_with_the_name_of_the_variable(value: str):
    with pytest.raises(UsageError, match="BULKDL_ASK_AHEAD"):
        pipelining_config(value)


@given(st.text(max_size=12))
def test_any_text_is_a_row_or_a_usage_error(value: str):
    try:
        row = pipelining_config(value)
    except UsageError:
        assert not value.isdigit() or not value.isascii() or len(value) > 9
    else:
        assert row is None or row.length > 0


@pytest.mark.parametrize(
    ("server", "known"),
    [
        ("nginx", True),
        ("nginx/1.22.1", True),
        ("NGINX/1.25 (Ubuntu) mod/1", True),
        ("Apache", True),
        ("Apache/2.4.52 (Ubuntu) OpenSSL/3.0.2", True),
        ("Apache(2)", True),
        ("Jetty(9.4.50.v20221201)", True),
        (" envoy ", True),
        ("", False),
        ("nginx-of-ours", False),
        ("Apache-Coyote/1.1", False),
        ("mynginx", False),
        ("Python/3.11 aiohttp/3.9", False),
        ("BaseHTTP/0.6 nginx/1.22", False),
        ("/nginx", False),
    ],
)
def test_only_servers_of_which_it_is_known_that_they_answer_in_turn_are_asked_ahead(server: str, *, known: bool):
    assert is_known_in_order(server) is known
    lead = PipeliningPolicy(wanted=1)
    lead.plain(server)
    assert lead.may_ask_ahead is known


def test_a_server_that_is_not_known_begins_the_row_again():
    lead = PipeliningPolicy(wanted=2)
    plain(lead, 5)
    lead.plain("a server of ours")
    assert (lead.row, lead.may_ask_ahead) == (0, False)


def test_who_asks_for_it_asks_any_server_ahead():
    lead = PipeliningPolicy(wanted=1, of_any=True)
    lead.plain("a server of ours")
    assert lead.may_ask_ahead


def test_nothing_is_asked_ahead_before_the_row_is_long_enough():
    lead = PipeliningPolicy(wanted=3)
    plain(lead, 2)
    assert not lead.may_ask_ahead
    lead.plain("nginx")
    assert lead.may_ask_ahead


def test_any_other_answer_begins_the_row_again_and_makes_it_no_longer():
    lead = PipeliningPolicy(wanted=3)
    plain(lead, 2)
    lead.other()
    plain(lead, 2)
    assert not lead.may_ask_ahead
    lead.plain("nginx")
    assert lead.may_ask_ahead


def test_only_one_trial_is_under_way_at_a_time():
    lead = PipeliningPolicy(row=3, wanted=3)
    lead.on_trial()
    assert not lead.may_ask_ahead
    plain(lead, 100)
    assert not lead.may_ask_ahead


def test_an_order_that_was_kept_is_believed_at_once():
    lead = kept()
    assert (lead.order, lead.may_ask_ahead, lead.wanted) == (OrderProof.KEPT, True, 3)


def test_an_order_that_was_broken_is_never_believed_again():
    lead = PipeliningPolicy(row=3, wanted=3)
    lead.on_trial()
    lead.tried(kept=False)
    plain(lead, 100_000)
    assert (lead.order, lead.may_ask_ahead) == (OrderProof.BROKEN, False)


def test_a_trial_that_shows_nothing_is_made_again_after_a_longer_row_and_given_up_in_the_end():
    lead, rows = PipeliningPolicy(wanted=2), []
    while lead.order is OrderProof.UNKNOWN:
        row = 0
        while not lead.may_ask_ahead:
            lead.plain("nginx")
            row += 1
        rows.append(row)
        lead.on_trial()
        lead.tried(kept=None)
    assert rows == [2 * LONGER**n for n in range(TRIALS)]
    assert lead.order is OrderProof.BROKEN


def test_an_answer_that_fails_to_come_makes_the_next_row_longer_and_leaves_the_order_known():
    lead = kept(3)
    lead.ended(cut=False)
    assert (lead.order, lead.may_ask_ahead, lead.wanted) == (OrderProof.KEPT, False, 3 * LONGER)
    plain(lead, 3 * LONGER)
    assert lead.may_ask_ahead


@pytest.mark.parametrize(
    ("answers", "allowed"), [(0, FEW_CUTS), (PER_CUT, FEW_CUTS + 1), (10 * PER_CUT, FEW_CUTS + 10)]
)
def test_connections_may_end_a_few_times_and_once_more_for_so_many_answers(answers: int, allowed: int):
    lead = kept()
    for _ in range(answers):
        lead.ahead(1)
    for _ in range(allowed):
        lead.ended(cut=True)
        assert lead.may_ask_ahead
    lead.ended(cut=True)
    assert not lead.may_ask_ahead


@pytest.mark.parametrize(("each_s", "depth"), [(0.0001, MOST), (QUICK_S, MOST), (QUICK_S + 0.001, 2), (SLOW_S, 2)])
def test_the_slower_answers_come_the_fewer_are_asked_ahead(each_s: float, depth: int):
    lead = kept()
    lead.took(8 * each_s, answers=8)
    assert (lead.may_ask_ahead, lead.depth(1000)) == (True, depth)


def test_answers_that_take_so_long_that_none_waits_for_another_end_it():
    lead = kept()
    lead.took(8 * (SLOW_S + 0.001), answers=8)
    assert not lead.may_ask_ahead


def test_one_slow_answer_among_quick_ones_changes_nothing():
    lead = kept()
    for seconds in [0.008] * 20 + [0.3]:
        lead.took(seconds, answers=8)
    assert (lead.may_ask_ahead, lead.depth(1000)) == (True, MOST)


@pytest.mark.parametrize(
    ("size", "depth"),
    [(0, MOST), (1, MOST), (HELD // MOST, MOST), (HELD // MOST + 1, MOST - 1), (HELD, 2), (1 << 40, 2)],
)
def test_the_larger_products_are_the_fewer_are_asked_ahead(size: int, depth: int):
    assert PipeliningPolicy().depth(size) == depth


@given(size=st.integers(0, 1 << 50), between=st.floats(0, 1000))
def test_never_more_than_the_most_and_never_fewer_than_two_are_under_way(size: int, between: float):
    assert 2 <= PipeliningPolicy(between_s=between).depth(size) <= MOST


steps = st.lists(
    st.sampled_from(["plain", "other", "trial", "trial without a sign", "trial broken", "ahead", "cut", "end", "slow"]),
    max_size=200,
)


@given(steps=steps, wanted=st.integers(1, 4))
def test_whatever_happens_the_order_is_proven_before_anything_is_asked_ahead_and_breaches_only_lengthen_the_row(
    steps: list[str], wanted: int
):
    lead, proven, broken, trials = PipeliningPolicy(wanted=wanted), False, False, 0
    for step in steps:
        before = lead.wanted
        match step:
            case "plain":
                lead.plain("nginx")
            case "other":
                lead.other()
            case "ahead" if lead.may_ask_ahead and lead.order is OrderProof.KEPT:
                lead.ahead(1)
            case "cut" | "end" if lead.order is OrderProof.KEPT:
                lead.ended(cut=step == "cut")
            case "slow" if lead.order is OrderProof.KEPT:
                lead.took(1.0, answers=1)
            case "trial" | "trial broken" | "trial without a sign" if (
                lead.may_ask_ahead and lead.order is OrderProof.UNKNOWN
            ):
                trials += 1
                lead.on_trial()
                lead.tried(kept={"trial": True, "trial broken": False}.get(step))
                proven, broken = proven or step == "trial", broken or step == "trial broken"
        assert (lead.order is OrderProof.KEPT) == proven
        assert lead.wanted in (before, before * LONGER)
        assert not (lead.may_ask_ahead and lead.row < lead.wanted)
        assert not (broken and lead.may_ask_ahead)
        assert trials <= TRIALS
