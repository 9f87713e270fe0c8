"""Pipelining policy: only the answers that an origin has given decide whether and how deep requests are pipelined."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core.errors import UsageError
from bulkdl.http.lightweight.pipelining_policy import (
    ANSWERS_PER_CUT,
    FAST_ANSWER_S,
    FREE_CUTS,
    MAX_BODY_BYTES,
    MAX_DEPTH,
    MAX_TRIALS,
    REQUIRED_PLAIN_ANSWERS,
    SLOW_ANSWER_S,
    VIOLATION_FACTOR,
    OrderProof,
    PipeliningConfig,
    PipeliningPolicy,
    is_known_in_order,
    pipelining_config,
)


def proven_policy(row: int = 3) -> PipeliningPolicy:
    """Return the policy of an origin that has proven to answer in order."""
    policy = PipeliningPolicy(plain_answers=row, required_answers=row)
    policy.begin_trial()
    policy.end_trial(kept=True)
    return policy


def record_plain(policy: PipeliningPolicy, count: int) -> None:
    for _ in range(count):
        policy.record_plain("nginx")


@pytest.mark.parametrize(
    ("value", "config"),
    [
        (None, PipeliningConfig(REQUIRED_PLAIN_ANSWERS)),
        ("", PipeliningConfig(REQUIRED_PLAIN_ANSWERS)),
        ("0", None),
        ("000", None),
        ("1", PipeliningConfig(1, any_server=True)),
        ("0256", PipeliningConfig(256, any_server=True)),
        ("999999999", PipeliningConfig(999_999_999, any_server=True)),
    ],
)
def test_a_number_in_the_variable_sets_the_required_answers_and_allows_any_server(
    value: str | None, config: PipeliningConfig | None
):
    assert pipelining_config(value) == config


@pytest.mark.parametrize("value", ["-1", "1.5", "many", " 1", "1 ", "٣", "²", "1_000", "1000000000", "0x10", "1e3"])
def test_a_value_that_is_no_whole_number_is_refused_with_the_name_of_the_variable(value: str):
    with pytest.raises(UsageError, match="BULKDL_ASK_AHEAD"):
        pipelining_config(value)


@given(st.text(max_size=12))
def test_any_text_is_a_config_or_a_usage_error(value: str):
    try:
        config = pipelining_config(value)
    except UsageError:
        assert not value.isdigit() or not value.isascii() or len(value) > 9
    else:
        assert config is None or config.required_answers > 0


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
def test_only_requests_to_servers_known_to_answer_in_order_are_pipelined(server: str, *, known: bool):
    assert is_known_in_order(server) is known
    policy = PipeliningPolicy(required_answers=1)
    policy.record_plain(server)
    assert policy.may_pipeline is known


def test_an_answer_of_an_unknown_server_resets_the_count_of_plain_answers():
    policy = PipeliningPolicy(required_answers=2)
    record_plain(policy, 5)
    policy.record_plain("a server of ours")
    assert (policy.plain_answers, policy.may_pipeline) == (0, False)


def test_any_server_may_be_pipelined_if_configured():
    policy = PipeliningPolicy(required_answers=1, any_server=True)
    policy.record_plain("a server of ours")
    assert policy.may_pipeline


def test_nothing_is_pipelined_before_enough_plain_answers():
    policy = PipeliningPolicy(required_answers=3)
    record_plain(policy, 2)
    assert not policy.may_pipeline
    policy.record_plain("nginx")
    assert policy.may_pipeline


def test_any_other_answer_resets_the_count_but_requires_no_more_answers():
    policy = PipeliningPolicy(required_answers=3)
    record_plain(policy, 2)
    policy.record_other()
    record_plain(policy, 2)
    assert not policy.may_pipeline
    policy.record_plain("nginx")
    assert policy.may_pipeline


def test_only_one_trial_is_under_way_at_a_time():
    policy = PipeliningPolicy(plain_answers=3, required_answers=3)
    policy.begin_trial()
    assert not policy.may_pipeline
    record_plain(policy, 100)
    assert not policy.may_pipeline


def test_a_kept_order_allows_pipelining_at_once():
    policy = proven_policy()
    assert (policy.order, policy.may_pipeline, policy.required_answers) == (OrderProof.KEPT, True, 3)


def test_a_broken_order_ends_pipelining_for_good():
    policy = PipeliningPolicy(plain_answers=3, required_answers=3)
    policy.begin_trial()
    policy.end_trial(kept=False)
    record_plain(policy, 100_000)
    assert (policy.order, policy.may_pipeline) == (OrderProof.BROKEN, False)


def test_an_inconclusive_trial_is_repeated_after_more_answers_and_given_up_in_the_end():
    policy, rows = PipeliningPolicy(required_answers=2), []
    while policy.order is OrderProof.UNKNOWN:
        row = 0
        while not policy.may_pipeline:
            policy.record_plain("nginx")
            row += 1
        rows.append(row)
        policy.begin_trial()
        policy.end_trial(kept=None)
    assert rows == [2 * VIOLATION_FACTOR**n for n in range(MAX_TRIALS)]
    assert policy.order is OrderProof.BROKEN


def test_a_missing_answer_requires_more_plain_answers_and_keeps_the_proof_of_order():
    policy = proven_policy(3)
    policy.record_unanswered(cut=False)
    assert (policy.order, policy.may_pipeline, policy.required_answers) == (
        OrderProof.KEPT,
        False,
        3 * VIOLATION_FACTOR,
    )
    record_plain(policy, 3 * VIOLATION_FACTOR)
    assert policy.may_pipeline


@pytest.mark.parametrize(
    ("answers", "allowed"), [(0, FREE_CUTS), (ANSWERS_PER_CUT, FREE_CUTS + 1), (10 * ANSWERS_PER_CUT, FREE_CUTS + 10)]
)
def test_connections_may_end_a_few_times_and_once_more_per_number_of_answers(answers: int, allowed: int):
    policy = proven_policy()
    for _ in range(answers):
        policy.record_pipelined(1)
    for _ in range(allowed):
        policy.record_unanswered(cut=True)
        assert policy.may_pipeline
    policy.record_unanswered(cut=True)
    assert not policy.may_pipeline


@pytest.mark.parametrize(
    ("each_s", "depth"),
    [(0.0001, MAX_DEPTH), (FAST_ANSWER_S, MAX_DEPTH), (FAST_ANSWER_S + 0.001, 2), (SLOW_ANSWER_S, 2)],
)
def test_slower_answers_reduce_the_depth(each_s: float, depth: int):
    policy = proven_policy()
    policy.record_duration(8 * each_s, answers=8)
    assert (policy.may_pipeline, policy.depth(1000)) == (True, depth)


def test_slow_answers_end_the_pipelining():
    policy = proven_policy()
    policy.record_duration(8 * (SLOW_ANSWER_S + 0.001), answers=8)
    assert not policy.may_pipeline


def test_one_slow_answer_among_quick_ones_changes_nothing():
    policy = proven_policy()
    for seconds in [0.008] * 20 + [0.3]:
        policy.record_duration(seconds, answers=8)
    assert (policy.may_pipeline, policy.depth(1000)) == (True, MAX_DEPTH)


@pytest.mark.parametrize(
    ("size", "depth"),
    [
        (0, MAX_DEPTH),
        (1, MAX_DEPTH),
        (MAX_BODY_BYTES // MAX_DEPTH, MAX_DEPTH),
        (MAX_BODY_BYTES // MAX_DEPTH + 1, MAX_DEPTH - 1),
        (MAX_BODY_BYTES, 2),
        (1 << 40, 2),
    ],
)
def test_larger_products_reduce_the_depth(size: int, depth: int):
    assert PipeliningPolicy().depth(size) == depth


@given(size=st.integers(0, 1 << 50), between=st.floats(0, 1000))
def test_the_depth_is_between_two_and_the_maximum(size: int, between: float):
    assert 2 <= PipeliningPolicy(between_s=between).depth(size) <= MAX_DEPTH


steps = st.lists(
    st.sampled_from(["plain", "other", "trial", "trial without a sign", "trial broken", "ahead", "cut", "end", "slow"]),
    max_size=200,
)


@given(steps=steps, wanted=st.integers(1, 4))
def test_any_sequence_of_events_pipelines_only_after_a_proof_and_violations_only_raise_the_required_answers(
    steps: list[str], wanted: int
):
    policy, proven, broken, trials = PipeliningPolicy(required_answers=wanted), False, False, 0
    for step in steps:
        before = policy.required_answers
        match step:
            case "plain":
                policy.record_plain("nginx")
            case "other":
                policy.record_other()
            case "ahead" if policy.may_pipeline and policy.order is OrderProof.KEPT:
                policy.record_pipelined(1)
            case "cut" | "end" if policy.order is OrderProof.KEPT:
                policy.record_unanswered(cut=step == "cut")
            case "slow" if policy.order is OrderProof.KEPT:
                policy.record_duration(1.0, answers=1)
            case "trial" | "trial broken" | "trial without a sign" if (
                policy.may_pipeline and policy.order is OrderProof.UNKNOWN
            ):
                trials += 1
                policy.begin_trial()
                policy.end_trial(kept={"trial": True, "trial broken": False}.get(step))
                proven, broken = proven or step == "trial", broken or step == "trial broken"
        assert (policy.order is OrderProof.KEPT) == proven
        assert policy.required_answers in (before, before * VIOLATION_FACTOR)
        assert not (policy.may_pipeline and policy.plain_answers < policy.required_answers)
        assert not (broken and policy.may_pipeline)
        assert trials <= MAX_TRIALS
