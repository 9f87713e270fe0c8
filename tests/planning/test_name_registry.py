"""The holder of a name: the lowest index that reserved it, unless another product has finished."""

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
    """Products reserve, confirm and release names in any order; a model knows the holder of each."""

    def __init__(self):
        super().__init__()
        self.names = NameRegistry()
        self.wanting: dict[str, set[int]] = {}
        self.finished: dict[str, int] = {}

    def winner(self, name):
        return self.finished.get(key(name), min(self.wanting.get(key(name), ()), default=None))

    def model_reserve(self, name, index):
        """Reserve in the model: a refused product no longer wants the name."""
        before = self.winner(name)
        if key(name) in self.finished:
            return None if before == index else before
        if before is not None and before < index:
            self.wanting[key(name)].discard(index)
            return before
        self.wanting.setdefault(key(name), set()).add(index)
        return None

    @rule(name=st.sampled_from(NAMES), index=st.integers(0, 5))
    def reserve(self, name, index):
        assert self.names.reserve(name, index) == self.model_reserve(name, index)

    @rule(name=st.sampled_from(NAMES), index=st.integers(0, 5))
    def confirm(self, name, index):
        refused = self.model_reserve(name, index)
        assert self.names.confirm(name, index) == refused
        if refused is None:
            self.finished[key(name)] = index

    @rule(name=st.sampled_from(NAMES), index=st.integers(0, 5))
    def release(self, name, index):
        self.names.release(name, index)
        self.wanting.get(key(name), set()).discard(index)

    @invariant()
    def every_spelling_of_a_name_has_the_same_holder(self):
        for name in NAMES:
            assert self.names.holder(name) == self.winner(name)


TestContest = Contest.TestCase
TestContest.settings = settings(max_examples=effort(15, 100), stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("other", SPELLINGS)
def test_names_that_a_file_system_treats_alike_are_one_name(other):
    names = NameRegistry()
    assert names.reserve(SPELLINGS[0], 1) is None
    assert names.reserve(other, 2) == 1
    assert names.holder(other) == 1


@pytest.mark.parametrize(("one", "other"), [("a\\b", "a/b"), ("d./z", "d/z"), ("z. ", "Z")])
def test_spellings_of_one_path_on_windows_are_one_name(one, other):
    names = NameRegistry()
    assert names.confirm(one, 2) is None
    assert names.reserve(other, 1) == 2


def test_a_lower_index_takes_a_name_that_is_not_finished():
    names = NameRegistry()
    names.reserve("a", 5)
    assert names.reserve("a", 3) is None
    assert names.confirm("a", 5) == 3
    assert names.confirm("a", 3) is None


def test_a_finished_product_always_keeps_its_name():
    names = NameRegistry()
    names.confirm("a", 5)
    names.release("a", 5)
    assert names.reserve("a", 0) == 5
    assert names.confirm("a", 0) == 5
    assert names.confirm("a", 5) is None
    assert names.holder("a") == 5


def test_a_displaced_product_gets_the_name_back_when_the_other_releases_it():
    names = NameRegistry()
    names.reserve("a", 5)
    names.reserve("a", 3)
    names.release("a", 3)
    assert names.holder("a") == 5


def test_a_refused_product_holds_nothing_afterwards():
    names = NameRegistry()
    names.reserve("a", 3)
    assert names.reserve("a", 5) == 3
    names.release("a", 3)
    assert names.holder("a") is None
    assert names.reserve("a", 7) is None


def test_a_folder_in_the_path_of_a_product_is_blocked_as_a_name():
    names = NameRegistry()
    names.occupy("a", 3)
    names.occupy("a", 4)
    assert names.reserve("A", 0) == 3
    assert names.confirm("a", 5) == 3


def test_a_finished_product_keeps_a_name_that_is_a_folder_in_another_path():
    names = NameRegistry()
    names.confirm("a", 5)
    names.occupy("a", 3)
    assert names.holder("a") == 5
