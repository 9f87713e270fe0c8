"""Who has a name: the lowest that wants it, unless another has finished."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bulkdl.planning.name_registry import NameRegistry
from tests.effort import effort

SPELLINGS = ("Ångström.zip", "a\u030angstro\u0308m.ZIP", "ÅNGSTRÖM.zip")
NAMES = (*SPELLINGS, "b.zip", "folder/b.zip")


def key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class Contest(RuleBasedStateMachine):
    """Products claim, finish and release names in any order; a model says who has each."""

    def __init__(self):
        super().__init__()
        self.claims = NameRegistry()
        self.wanting: dict[str, set[int]] = {}
        self.finished: dict[str, int] = {}

    def winner(self, name):
        return self.finished.get(key(name), min(self.wanting.get(key(name), ()), default=None))

    def ask(self, name, index):
        """The model of a claim: one that is refused wants the name no more."""
        before = self.winner(name)
        if key(name) in self.finished:
            return None if before == index else before
        if before is not None and before < index:
            self.wanting[key(name)].discard(index)
            return before
        self.wanting.setdefault(key(name), set()).add(index)
        return None

    @rule(name=st.sampled_from(NAMES), index=st.integers(0, 5))
    def claim(self, name, index):
        assert self.claims.claim(name, index) == self.ask(name, index)

    @rule(name=st.sampled_from(NAMES), index=st.integers(0, 5))
    def finish(self, name, index):
        refused = self.ask(name, index)
        assert self.claims.finish(name, index) == refused
        if refused is None:
            self.finished[key(name)] = index

    @rule(name=st.sampled_from(NAMES), index=st.integers(0, 5))
    def release(self, name, index):
        self.claims.release(name, index)
        self.wanting.get(key(name), set()).discard(index)

    @invariant()
    def every_spelling_of_a_name_has_the_same_holder(self):
        for name in NAMES:
            assert self.claims.holder(name) == self.winner(name)


TestContest = Contest.TestCase
TestContest.settings = settings(max_examples=effort(15, 100), stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("other", SPELLINGS)
def test_names_that_a_file_system_may_confuse_are_one_name(other):
    claims = NameRegistry()
    assert claims.claim(SPELLINGS[0], 1) is None
    assert claims.claim(other, 2) == 1
    assert claims.holder(other) == 1


def test_a_lower_index_takes_a_name_that_is_not_finished():
    claims = NameRegistry()
    claims.claim("a", 5)
    assert claims.claim("a", 3) is None
    assert claims.finish("a", 5) == 3
    assert claims.finish("a", 3) is None


def test_a_finished_product_keeps_its_name_against_everyone_and_everything():
    claims = NameRegistry()
    claims.finish("a", 5)
    claims.release("a", 5)
    assert claims.claim("a", 0) == 5
    assert claims.finish("a", 0) == 5
    assert claims.finish("a", 5) is None
    assert claims.holder("a") == 5


def test_a_displaced_product_has_the_name_again_when_the_other_gives_it_up():
    claims = NameRegistry()
    claims.claim("a", 5)
    claims.claim("a", 3)
    claims.release("a", 3)
    assert claims.holder("a") == 5


def test_a_refused_product_holds_nothing_afterwards():
    claims = NameRegistry()
    claims.claim("a", 3)
    assert claims.claim("a", 5) == 3
    claims.release("a", 3)
    assert claims.holder("a") is None
    assert claims.claim("a", 7) is None


def test_a_folder_in_the_path_of_a_product_is_nobody_elses_name():
    claims = NameRegistry()
    claims.occupy("a", 3)
    claims.occupy("a", 4)
    assert claims.claim("A", 0) == 3
    assert claims.finish("a", 5) == 3


def test_a_finished_product_keeps_a_name_that_is_a_folder_in_another_path():
    claims = NameRegistry()
    claims.finish("a", 5)
    claims.occupy("a", 3)
    assert claims.holder("a") == 5
