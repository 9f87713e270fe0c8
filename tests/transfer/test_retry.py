"""Retries: the back-off, and the budget of attempts without progress."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core.errors import TryAgain
from bulkdl.core.models import FailureKind
from bulkdl.transfer.retry import AttemptBudget, Next, backoff, next_step, second_look_in


@given(st.integers(1, 10_000), st.integers())
def test_the_backoff_doubles_up_to_a_minute_and_half_of_it_is_chance(attempt, seed):
    ceiling = min(60.0, 2.0 ** min(attempt - 1, 10))
    assert ceiling / 2 <= backoff(attempt, rng=random.Random(seed)) <= ceiling


def test_the_backoff_of_many_workers_is_spread():
    waits = {backoff(5, rng=random.Random(seed)) for seed in range(50)}
    assert len(waits) == 50


class Drawn(random.Random):
    """A random source that gives the number at one share of every span."""

    def __init__(self, share: float) -> None:
        super().__init__(0)
        self.share = share

    def random(self) -> float:
        return self.share


@pytest.mark.parametrize(
    ("attempt", "shortest", "longest"),
    [(1, 0.5, 1), (2, 1, 2), (3, 2, 4), (6, 16, 32), (7, 30, 60), (8, 30, 60), (5000, 30, 60)],
)
def test_the_backoff_is_between_half_of_a_power_of_two_and_all_of_it(attempt, shortest, longest):
    assert [backoff(attempt, rng=Drawn(share)) for share in (0.0, 1.0)] == [shortest, longest]


def attempts_until_failure(retries: int, limit: int | None = None) -> int:
    """Return how many attempts without progress make a failure."""
    budget = AttemptBudget(retries)
    count = 1
    while budget.spend(limit=limit):
        count += 1
    return count


@pytest.mark.parametrize(
    ("retries", "limit", "attempts"),
    [(0, None, 1), (1, None, 1), (2, None, 2), (10, None, 10), (10, 3, 3), (2, 3, 2), (0, 3, 1), (10, 0, 1)],
)
def test_a_product_fails_after_so_many_attempts_in_a_row_without_progress(retries, limit, attempts):
    assert attempts_until_failure(retries, limit) == attempts


@pytest.mark.parametrize("retries", [0, 1, 3, 10])
def test_an_attempt_with_progress_is_not_counted(retries):
    budget = AttemptBudget(retries)
    for have in range(1, 50):
        assert budget.progressed(have)
        assert budget.spend()
        assert budget.attempts_without_progress == 0
    assert not budget.progressed(49)
    assert bool(budget.spend()) == (retries > 1)
    assert budget.attempts_without_progress == 1


def test_progress_is_measured_from_the_furthest_byte_ever():
    budget = AttemptBudget(3, furthest=100)
    assert not budget.progressed(100)
    assert budget.spend()
    assert not budget.progressed(0)
    assert budget.spend()
    assert not budget.progressed(99)
    assert not budget.spend()
    assert budget.progressed(101)
    assert budget.attempts_without_progress == 0


@given(st.integers(0, 6), st.lists(st.integers(0, 12), max_size=40))
def test_the_budget_ends_exactly_after_n_attempts_in_a_row_without_progress(retries, haves):
    budget, furthest, vain = AttemptBudget(retries), 0, 0
    for have in haves:
        vain = 0 if have > furthest else vain + 1
        furthest = max(furthest, have)
        budget.progressed(have)
        assert bool(budget.spend()) == (vain < max(1, retries))
        assert (budget.attempts_without_progress, budget.furthest) == (vain, furthest)
        if vain >= max(1, retries):
            return


def fault(kind=FailureKind.NETWORK, **options):
    return TryAgain("a fault", kind=kind, **options)


def step(what: TryAgain, budget: AttemptBudget, *, max_wait: float = 3600.0) -> Next:
    return next_step(what, budget, now=0.0, retry_for=0.0, max_wait=max_wait, rng=random.Random(1))


def test_a_fault_is_tried_again_after_a_backoff_until_the_budget_is_spent():
    budget = AttemptBudget(4)
    steps = [step(fault(), budget) for _ in range(4)]
    assert [bool(s.give_up) for s in steps] == [False, False, False, True]
    assert [0.5 <= steps[0].wait <= 1, 1 <= steps[1].wait <= 2, 2 <= steps[2].wait <= 4] == [True] * 3
    assert steps[-1].give_up == "no progress in 4 attempts"
    assert budget.waited_s == 0


def test_a_single_attempt_without_progress_is_reported_as_one():
    assert step(fault(), AttemptBudget(1)).give_up == "no progress"


def test_a_fault_with_a_limit_of_its_own_ends_sooner():
    budget = AttemptBudget(10)
    assert [bool(step(fault(limit=3), budget).give_up) for _ in range(3)] == [False, False, True]


def test_after_progress_the_next_attempt_comes_soon():
    budget = AttemptBudget(3)
    step(fault(), budget)
    step(fault(), budget)
    budget.progressed(1)
    again = step(fault(), budget)
    assert 0.5 <= again.wait <= 1
    assert budget.attempts_without_progress == 0


def test_a_restart_comes_at_once_but_not_over_and_over():
    budget = AttemptBudget(10)
    assert step(fault(restart=True), budget) == Next(wait=0.0)
    assert step(fault(restart=True), budget).wait >= 1


def test_a_retry_after_is_obeyed_and_counts_as_an_attempt():
    budget = AttemptBudget(3)
    assert step(fault(wait=100), budget).wait == 100
    assert (budget.waited_s, budget.attempts_without_progress) == (100, 1)
    assert step(fault(wait=0), budget).wait >= 1
    assert step(fault(wait=100), budget).give_up


def test_the_waits_add_up_to_at_most_max_wait_without_progress():
    budget = AttemptBudget(100)
    assert step(fault(wait=60), budget, max_wait=150).wait == 60
    assert step(fault(wait=60), budget, max_wait=150).wait == 60
    assert (
        step(fault(wait=60), budget, max_wait=150).give_up
        == "120 s of waiting were not enough, and --max-wait is 150 s"
    )
    budget.progressed(1)
    assert step(fault(wait=60), budget, max_wait=150).wait == 60


def test_a_retry_after_beyond_max_wait_is_not_waited_for():
    said = step(fault(wait=7200), AttemptBudget(100), max_wait=3600).give_up
    assert said == "the archive asks for a wait of 7200 s, and --max-wait is 3600 s"
    assert step(fault(wait=3600), AttemptBudget(100), max_wait=3600) == Next(wait=3600)


def test_a_product_that_is_being_prepared_is_no_failure_until_max_wait():
    budget, waited = AttemptBudget(1), 0.0
    while not (now := step(fault(FailureKind.OFFLINE), budget, max_wait=3600)).give_up:
        assert 0.5 <= now.wait <= 60
        waited += now.wait
    assert budget.attempts_without_progress == 0
    assert 3540 <= waited <= 3600
    assert "--max-wait is 3600 s" in now.give_up


@pytest.mark.parametrize(("wish", "wait"), [(0, 1), (0.2, 1), (30, 30), (3600, 3600)])
def test_polls_of_a_product_in_preparation_keep_the_servers_pace(wish, wait):
    assert step(fault(FailureKind.OFFLINE, wait=wish), AttemptBudget(1)) == Next(wait=wait)


def test_polls_of_a_product_in_preparation_come_less_and_less_often_until_progress():
    budget, drawn = AttemptBudget(1), Drawn(1.0)
    waits = [
        next_step(fault(FailureKind.OFFLINE), budget, now=0.0, retry_for=0.0, max_wait=3600.0, rng=drawn).wait
        for _ in range(4)
    ]
    budget.progressed(1)
    again = next_step(fault(FailureKind.OFFLINE), budget, now=0.0, retry_for=0.0, max_wait=3600.0, rng=drawn)
    assert (waits, again, budget.waited_s) == ([1, 2, 4, 8], Next(wait=1.0), 1.0)


def test_only_the_attempt_that_got_further_costs_nothing():
    budget = AttemptBudget(3)
    assert budget.progressed(5) is True
    assert [bool(budget.spend()) for _ in range(3)] == [True, True, True]
    assert budget.attempts_without_progress == 2
    assert budget.progressed(5) is False
    assert (bool(budget.spend()), budget.attempts_without_progress) == (False, 3)


def test_a_preparation_after_progress_forgives_no_later_fault():
    budget = AttemptBudget(1)
    budget.progressed(5)
    step(fault(FailureKind.OFFLINE), budget)
    budget.progressed(5)
    assert step(fault(), budget).give_up


@given(
    st.integers(0, 8),
    st.floats(0, 1000),
    st.lists(st.tuples(st.sampled_from(list(FailureKind)), st.none() | st.floats(0, 400), st.booleans()), max_size=30),
)
def test_no_wait_is_negative_and_all_together_obey_max_wait(retries, max_wait, faults):
    budget, obeyed = AttemptBudget(retries), 0.0
    for kind, wish, restart in faults:
        then = step(fault(kind, wait=wish, restart=restart), budget, max_wait=max_wait)
        if then.give_up:
            return
        assert then.wait >= 0
        assert wish is None or then.wait >= wish
        obeyed += then.wait if wish is not None or kind is FailureKind.OFFLINE else 0.0
        assert obeyed <= max_wait + 1e-6


@pytest.mark.parametrize(
    ("failures", "at", "left"),
    [
        (1, 0.0, math.inf),  # there are attempts left
        (2, 5000.0, math.inf),
        (3, 0.0, 3600.0),  # the attempts are spent, the time is not
        (3, 3599.0, 1.0),
        (3, 3600.0, 0.0),
        (9, 3500.0, 100.0),
    ],
)
def test_a_product_fails_when_its_attempts_and_its_time_are_spent(failures, at, left):
    budget = AttemptBudget(3)
    for _ in range(failures - 1):
        budget.spend(now=0.0, retry_for=3600.0)
    budget.failing_since = 0.0
    assert budget.spend(now=at, retry_for=3600.0) == left


def test_progress_gives_the_time_back():
    budget = AttemptBudget(1)
    budget.spend(now=0.0, retry_for=60.0)
    budget.progressed(10)
    budget.spend(now=50.0, retry_for=60.0)
    assert budget.spend(now=70.0, retry_for=60.0) == 60.0


def test_a_fault_with_a_limit_of_its_own_does_not_wait_for_the_time():
    budget = AttemptBudget(10)
    assert [bool(budget.spend(now=0.0, retry_for=3600.0, limit=3)) for _ in range(3)] == [True, True, False]


def test_the_last_wait_ends_with_the_time():
    budget = AttemptBudget(1)
    budget.failing_since = 0.0
    step = next_step(fault(), budget, now=3590.0, retry_for=3600.0, max_wait=60.0, rng=random.Random(1))
    assert 0 < step.wait <= 10


@pytest.mark.parametrize(("attempt", "longest"), [(7, 64), (9, 256), (10, 512), (11, 600), (500, 600)])
def test_pauses_grow_to_ten_minutes_where_time_counts(attempt, longest):
    assert backoff(attempt, rng=Drawn(1.0), cap=600.0) == longest


@pytest.mark.parametrize(
    ("refused_at", "now", "seconds"),
    [
        (1000.5, 1000.6, 0.9),
        (1000.5, 1002.0, 0.0),
        (1200.0, 1200.0, 20.0),
        (5000.0, 5000.0, 60.0),
        (5000.0, 5030.0, 30.0),
    ],
)
def test_the_second_look_comes_sooner_in_a_short_run(refused_at, now, seconds):
    assert second_look_in(refused_at, began=1000.0, now=now) == pytest.approx(seconds)
