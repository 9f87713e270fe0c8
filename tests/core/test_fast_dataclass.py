"""The fast decorator makes the same data class as the standard library."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, field, fields, replace
from pathlib import Path

import pytest

from bulkdl.core.fast_dataclass import dataclass

ROOT = Path(__file__).resolve().parents[2]
Quick = dataclass
Usual = dataclasses.dataclass


def both(**options):
    """Return the same class made by each of the two decorators."""

    def made(decorator):
        @decorator(slots=True, **options)
        class Sample:
            first: int
            second: str = "two"
            third: list[int] = field(default_factory=list)
            secret: str = field(default="hidden", repr=False)
            aside: int = field(default=0, compare=False)
            later: int = field(default=7, init=False)

        return Sample

    return made(Quick), made(Usual)


FORMS = [{}, {"eq": False}, {"kw_only": True}, {"frozen": True}, {"frozen": True, "kw_only": True}]


@pytest.mark.parametrize("options", FORMS)
def test_a_class_takes_the_same_arguments_and_has_the_same_fields(options):
    quick, usual = both(**options)
    names = [[(p.name, p.kind) for p in inspect.signature(c).parameters.values()] for c in (quick, usual)]
    assert names[0] == names[1]
    assert [f.name for f in fields(quick)] == [f.name for f in fields(usual)]
    assert quick.__match_args__ == usual.__match_args__
    assert quick.__slots__ == usual.__slots__


@pytest.mark.parametrize("options", FORMS)
def test_a_value_reads_shows_and_compares_the_same(options):
    quick, usual = both(**options)
    for given in ({"first": 1}, {"first": 1, "second": "x", "third": [1, 2], "secret": "y", "aside": 5}):
        one, other = quick(**given), usual(**given)
        assert asdict(one) == asdict(other)
        assert repr(one) == repr(other)
        assert (quick(**given) == one) is (usual(**given) == other)
        assert (replace(one, first=2) == one) is (replace(other, first=2) == other)
        assert (replace(one, aside=9) == one) is (replace(other, aside=9) == other)
    assert (quick(first=1) == usual(first=1)) is False


def test_each_value_has_a_default_of_its_own():
    quick, _ = both()
    one, other = quick(1), quick(1)
    one.third.append(1)
    assert other.third == []


@pytest.mark.parametrize("options", FORMS)
def test_a_missing_argument_and_one_too_many_are_refused(options):
    quick, _ = both(**options)
    with pytest.raises(TypeError, match=r"Sample\.__init__\(\) missing 1 required .*'first'"):
        quick()
    with pytest.raises(TypeError, match="unexpected keyword argument 'fourth'"):
        quick(first=1, fourth=4)


def test_a_frozen_value_cannot_be_changed():
    quick, _ = both(frozen=True)
    value = quick(1)
    with pytest.raises(FrozenInstanceError):
        value.first = 2
    with pytest.raises(FrozenInstanceError):
        del value.first
    assert value.first == 1


@pytest.mark.parametrize("options", FORMS)
def test_a_class_is_hashable_if_the_standard_one_is(options):
    quick, usual = both(**options)
    assert (quick.__hash__ is None) is (usual.__hash__ is None)


@dataclass(frozen=True, slots=True)
class Pair:
    left: int
    right: str = ""


def test_equal_frozen_values_are_one_key():
    assert {Pair(1, "a"): 1, Pair(1, "a"): 2, Pair(2, "a"): 3} == {Pair(1, "a"): 2, Pair(2, "a"): 3}


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_frozen_value_can_be_copied_and_pickled(again):
    assert again(Pair(1, "a")) == Pair(1, "a")


@dataclass(frozen=True, slots=True)
class Own:  # noqa: PLW1641 - the decorator gives it one
    number: int
    double: int = field(init=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "double", 2 * self.number)

    def __repr__(self):
        return "own"

    def __eq__(self, other):
        return isinstance(other, Own) and self.number % 10 == other.number % 10


def test_methods_that_a_class_defines_itself_stay():
    assert repr(Own(1)) == "own"
    assert Own(1) == Own(11)
    assert Own(3).double == 6


def test_a_class_without_slots_is_refused():
    with pytest.raises(TypeError, match="slots"):
        dataclass(slots=False)


def test_creating_a_class_compiles_only_one_function():
    script = (
        "import sys\n"
        "from bulkdl.core.fast_dataclass import dataclass\n"
        "count = 0\n"
        "def look(event, _):\n"
        "    global count\n"
        "    count += event == 'compile'\n"
        "sys.addaudithook(look)\n"
        "@dataclass(frozen=True, slots=True, kw_only=True)\n"
        "class Sample:\n"
        "    first: int\n"
        "    second: int = 2\n"
        "print(count)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 2  # since Python 3.13 the standard library compiles one more function, even if empty
