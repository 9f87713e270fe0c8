"""Tables and a property of the decision whether this machine has a network."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.concurrency.network_health import UNREACHABLE, OriginView, is_unclear, network_down_since
from bulkdl.concurrency.origin_health import Health, OriginHealth
from bulkdl.core.models import Trouble


def ill(began: float, trouble: Trouble = Trouble.NAME, **details: object) -> OriginView:
    state = OriginHealth(
        health=Health.DOWN, ever_good=True, began=began, counted_at=began, failed_probes=1, trouble=trouble
    )
    return OriginView(replace(state, **details), is_asked=False, good_at=began - 1)  # type: ignore[arg-type]


def well(good_at: float, *, is_asked: bool = False) -> OriginView:
    return OriginView(OriginHealth(ever_good=True), is_asked=is_asked, good_at=good_at)


SUSPECT = {"health": Health.SUSPECT, "failed_probes": 0}
NEW = {"ever_good": False}


@pytest.mark.parametrize(
    ("origins", "since"),
    [
        ([], None),
        ([ill(100)], None),
        ([ill(100), ill(110)], 100),
        ([ill(100), ill(110, Trouble.REFUSED), ill(120, Trouble.TIMEOUT), ill(130, Trouble.NO_SUCH_NAME)], 100),
        ([ill(100), ill(110, **SUSPECT)], 100),
        ([ill(100, **SUSPECT), ill(110, **SUSPECT)], None),
        ([ill(100, **NEW), ill(110, **NEW)], None),
        ([ill(100), ill(110, **NEW)], 100),
        ([ill(100), ill(110), well(50)], 100),
        ([ill(100), ill(110), well(105)], 100),
        ([ill(100), ill(110), well(111)], None),
        ([ill(100), ill(110), well(50, is_asked=True)], None),
        ([ill(100), ill(500)], None),
        ([ill(100), ill(5000), ill(5010)], 5000),
        ([ill(100), ill(110, Trouble.STATUS)], None),
        ([ill(100), ill(110, Trouble.BROKEN)], None),
        ([ill(100), ill(110), ill(50, Trouble.STATUS, counted_at=90)], 100),
        ([ill(100), ill(110), ill(50, Trouble.STATUS, counted_at=105)], None),
    ],
)
def test_the_network_is_down_when_all_origins_that_are_asked_became_unreachable_together(origins, since):
    assert network_down_since(origins) == since


@pytest.mark.parametrize(
    ("state", "others", "now", "is_it"),
    [
        (ill(100), [well(50, is_asked=True)], 105, True),
        (ill(100), [well(50, is_asked=True)], 110, False),
        (ill(100), [well(50)], 105, False),
        (ill(100), [well(101, is_asked=True)], 105, False),
        (ill(100), [], 105, False),
        (ill(100), [ill(90)], 105, False),
        (ill(100), [ill(101, Trouble.BROKEN)], 105, True),
        (ill(100, Trouble.BROKEN), [ill(101)], 105, True),
        (ill(100, Trouble.BROKEN), [ill(101, Trouble.STATUS)], 105, False),
        (ill(100, Trouble.BROKEN), [well(50, is_asked=True)], 105, True),
        (ill(100, Trouble.STATUS), [well(50, is_asked=True)], 105, False),
    ],
)
def test_the_cause_is_unclear_for_some_seconds_while_others_are_asked_without_an_answer(state, others, now, is_it):
    assert is_unclear(state.state, others, now) is is_it


times = st.floats(0, 1000)
views = st.one_of(
    st.builds(well, times, is_asked=st.booleans()),
    st.builds(
        lambda began, trouble, details, good: ill(began, trouble, ever_good=good, **details),
        times,
        st.sampled_from(sorted(Trouble)),
        st.sampled_from([{}, SUSPECT]),
        st.booleans(),
    ),
)


@given(st.lists(views, max_size=6))
def test_an_origin_that_answers_or_a_lone_one_rules_out_that_the_network_is_down(origins):
    since = network_down_since(origins)
    assert network_down_since([*origins, well(math.inf)]) is None
    assert network_down_since([*origins, well(-math.inf)]) == since
    assert network_down_since(reversed(origins)) == since
    if since is not None:
        down = [view for view in origins if view.state.health is not Health.UP and view.state.trouble in UNREACHABLE]
        assert len(down) >= 2
        assert since in {view.state.began for view in down}
