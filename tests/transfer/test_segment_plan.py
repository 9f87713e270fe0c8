"""Leases of a product's missing ranges to connections."""

from __future__ import annotations

import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from bulkdl.protocol.byte_ranges import missing, normalise
from bulkdl.transfer.segment_plan import SegmentLease, SegmentPlan
from tests.effort import effort

__all__ = ["Plan"]


def offsets(ranges):
    return {i for start, end in ranges for i in range(start, end)}


class Plan(RuleBasedStateMachine):
    """Connections lease ranges, receive, release, and join with an open response, in any order."""

    TOTAL = 200
    claims = Bundle("claims")

    def __init__(self):
        super().__init__()
        self.have: tuple[tuple[int, int], ...] = ()
        self.min_split = 1
        self.active: list[SegmentLease] = []
        self.fetched: list[int] = []
        self.plan = SegmentPlan([(0, self.TOTAL)], min_split=1, min_split_s=1.0)

    @precondition(lambda self: not self.active and not self.fetched)
    @rule(have=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=4), min_split=st.integers(1, 60))
    def begin(self, have, min_split):
        self.have, self.min_split = normalise(have), min_split
        self.plan = SegmentPlan(missing(have, self.TOTAL), min_split=min_split, min_split_s=1.0)

    @rule(target=claims)
    def claim(self):
        promised = self.plan.offer(1)
        claim = self.plan.lease()
        assert bool(promised) == (claim is not None)
        if claim is None:
            # Refused only if the longest-running range is too short to split.
            longest = max(self.active, key=lambda c: c.left_s, default=SegmentLease(0, 0))
            assert longest.left < 2 * self.min_split or longest.left_s < 2
            return SegmentLease(0, 0)
        assert claim.left
        self.active.append(claim)
        assert claim in self.plan
        return claim

    @rule(target=claims, start=st.integers(0, 210))
    def claim_at(self, start):
        free = self.unclaimed()
        claim = self.plan.lease_at(start)
        assert claim.position == start
        assert bool(claim.left) == (start in free)
        self.active.append(claim)
        return claim

    @rule(count=st.integers(0, 6))
    def offer(self, count):
        works = self.plan.has_work()
        assert 0 <= (found := self.plan.offer(count)) <= count
        assert count == 0 or works == (found > 0)

    @rule(piece=st.integers(1, 100) | st.just(sys.maxsize))
    def divide_into_pieces(self, piece):
        self.plan.piece = piece

    @rule(claim=claims, keep=st.integers(0, 60))
    def cut(self, claim, keep):
        if claim not in self.plan:
            return
        position, left = claim.position, claim.left
        self.plan.cut(claim, keep)
        assert (claim.position, claim.left) == (position, min(left, keep))

    @rule(claim=claims, share=st.floats(0, 1), rate=st.floats(0, 50))
    def receive(self, claim, share, rate):
        if claim not in self.plan:
            return
        claim.rate = rate
        count = round(claim.left * share)
        self.fetched += range(claim.position, claim.position + count)
        claim.position += count

    @rule(claim=consumes(claims))
    def release(self, claim):
        if claim not in self.plan:
            return
        left = set(range(claim.position, claim.end))
        self.plan.release(claim)
        self.active.remove(claim)
        assert claim not in self.plan
        assert left <= self.unclaimed()

    def unclaimed(self) -> set[int]:
        """Return the missing offsets that no connection downloads."""
        taken = {i for c in self.active for i in range(c.position, c.end)}
        return set(range(self.TOTAL)) - offsets(self.have) - set(self.fetched) - taken

    @invariant()
    def no_byte_is_doubled(self):
        stretches = [i for c in self.active for i in range(c.position, c.end)]
        assert len(stretches) == len(set(stretches))
        assert len(self.fetched) == len(set(self.fetched))
        assert not set(stretches) & (set(self.fetched) | offsets(self.have))

    @invariant()
    def no_byte_is_lost(self):
        assert self.plan.left == self.TOTAL - len(offsets(self.have)) - len(self.fetched)

    def teardown(self):
        """One connection alone can always download the rest."""
        for claim in self.active:
            self.plan.release(claim)
        while (claim := self.plan.lease()) is not None:
            self.fetched += range(claim.position, claim.end)
            claim.position = claim.end
            self.plan.release(claim)
        assert self.plan.left == 0
        assert sorted(self.fetched) == sorted(set(range(self.TOTAL)) - offsets(self.have))


def test_gaps_are_leased_in_order_then_the_longest_running_range_is_halved():
    plan = SegmentPlan([(50, 100), (0, 40)], min_split=10, min_split_s=1.0)
    quick, slow = plan.lease(), plan.lease()
    assert [(c.position, c.end) for c in (quick, slow)] == [(0, 40), (50, 100)]
    quick.rate, slow.rate = 20.0, 5.0
    third = plan.lease()
    assert (third.position, third.end) == (75, 100)
    assert (quick.end, slow.end) == (40, 75)


def test_a_range_is_divided_evenly_among_all_idle_connections():
    plan = SegmentPlan([(0, 100)], min_split=10, min_split_s=1.0)
    first = plan.lease()
    first.rate = 1.0
    assert plan.offer(3) == 3
    others = [plan.lease() for _ in range(3)]
    assert [(c.position, c.end) for c in (first, *others)] == [(0, 25), (25, 50), (50, 75), (75, 100)]


def test_each_range_is_divided_by_its_remaining_time():
    plan = SegmentPlan([(0, 60), (100, 130)], min_split=10, min_split_s=1.0)
    long, short = plan.lease(), plan.lease()
    long.rate = short.rate = 1.0
    assert (plan.has_work(), plan.offer(2)) == (True, 2)
    others = [plan.lease() for _ in range(2)]
    assert [(c.position, c.end) for c in (long, *others, short)] == [(0, 20), (20, 40), (40, 60), (100, 130)]


def test_the_remaining_time_counts_the_rate_of_all_connections():
    plan = SegmentPlan([(0, 60), (100, 130)], min_split=10, min_split_s=1.0)
    first = plan.lease()
    assert plan.left_s == 0
    first.rate = 10.0
    assert plan.left_s == pytest.approx(9.0)
    plan.lease().rate = 20.0
    assert plan.left_s == pytest.approx(3.0)


def test_with_pieces_every_connection_takes_the_frontmost_range():
    plan = SegmentPlan([(0, 200)], min_split=5, min_split_s=1.0)
    first = plan.lease()
    first.rate, plan.piece = 1.0, 20
    assert plan.offer(3) == 3
    others = [plan.lease() for _ in range(3)]
    assert [(c.position, c.end) for c in (first, *others)] == [(0, 20), (20, 40), (40, 60), (60, 80)]
    plan.release(others[1])  # released
    assert [(c.position, c.end) for c in (plan.lease(), plan.lease())] == [(40, 60), (80, 100)]


def test_the_last_piece_includes_a_rest_too_short_for_a_piece():
    plan = SegmentPlan([(0, 44)], min_split=5, min_split_s=1.0)
    plan.piece = 20
    assert plan.offer(9) == 2
    assert [(c.position, c.end) for c in (plan.lease(), plan.lease())] == [(0, 20), (20, 44)]


def test_a_cut_off_part_of_a_range_is_free_for_others():
    plan = SegmentPlan([(0, 100)], min_split=10, min_split_s=1.0)
    first = plan.lease()
    first.position = 20
    plan.cut(first, 5)
    second = plan.lease()
    assert [(c.position, c.end) for c in (first, second)] == [(20, 25), (25, 100)]


@pytest.mark.parametrize("keep", [100, 101, 5000])
def test_nothing_is_cut_off_a_stretch_that_is_no_longer_than_what_it_keeps(keep):
    plan = SegmentPlan([(0, 100)], min_split=10, min_split_s=1.0)
    first = plan.lease()
    plan.cut(first, keep)
    assert (first.end, plan.left, plan.has_work(), plan.lease()) == (100, 100, False, None)


@pytest.mark.parametrize(
    ("start", "claimed", "others"),
    [
        (9, (9, 9), [(10, 20), (30, 40)]),
        (10, (10, 20), [(30, 40)]),
        (11, (11, 20), [(10, 11), (30, 40)]),
        (19, (19, 20), [(10, 19), (30, 40)]),
        (20, (20, 20), [(10, 20), (30, 40)]),
        (30, (30, 40), [(10, 20)]),
    ],
)
def test_a_response_that_is_there_takes_what_is_missing_from_where_it_begins(start, claimed, others):
    plan = SegmentPlan([(10, 20), (30, 40)], min_split=10, min_split_s=1.0)
    claim = plan.lease_at(start)
    assert (claim.position, claim.end, claim in plan) == (*claimed, True)
    left = [plan.lease() for _ in others]
    assert [(c.position, c.end) for c in left] == others
    assert plan.lease() is None


@pytest.mark.parametrize(
    ("position", "limit", "fetched", "end", "others"),
    [
        (0, 100, 0, 100, []),
        (49, 100, 0, 100, []),
        (50, 100, 0, 50, [(50, 100)]),  # its body has ended
        (0, 50, 0, 50, [(50, 100)]),  # its body goes no further
        (0, 51, 0, 51, [(51, 100)]),
        (0, 500, 0, 100, []),
        (0, 100, 1, 50, [(51, 100)]),  # what came in between is here
    ],
)
def test_a_stretch_that_was_refused_is_taken_back_by_a_connection_whose_body_goes_on_into_it(
    position, limit, fetched, end, others
):
    plan = SegmentPlan([(0, 100)], min_split=10, min_split_s=1.0)
    first = plan.lease()
    first.rate = 1.0
    second = plan.lease()
    assert (second.position, second.end) == (50, 100)
    first.position, first.limit, first.rate = position, limit, 0.0
    second.position += fetched
    plan.hand_back(second)
    assert (first.end, second in plan) == (end, False)
    assert [(c.position, c.end) for c in (plan.lease() for _ in others)] == others
    assert plan.lease() is None


@pytest.mark.parametrize(
    ("left", "rate", "split"),
    [
        (19, 1.0, False),  # too short
        (20, 1.0, True),
        (21, 1.0, True),
        (20, 10.0, True),  # two halves of a second each
        (20, 10.1, False),  # done before a new connection helps
        (20, 0.0, False),  # not measured yet
    ],
)
def test_a_range_that_is_short_or_nearly_done_is_not_split(left, rate, split):
    plan = SegmentPlan([(0, left)], min_split=10, min_split_s=1.0)
    whole = plan.lease()
    whole.rate = rate
    part = plan.lease()
    assert (part is not None) == split
    if part is not None:
        assert min(whole.left, part.left) >= 10


def test_a_lease_that_passed_its_split_has_nothing_left():
    claim = SegmentLease(10, 20)
    claim.end = 5
    assert claim.left == 0


TestPlan = Plan.TestCase
TestPlan.settings = settings(max_examples=effort(15, 100), stateful_step_count=25, deadline=None)
