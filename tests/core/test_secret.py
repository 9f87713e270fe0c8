"""A secret never appears in text, whether printed, copied or contained in another value."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint
import traceback
from dataclasses import asdict, dataclass

import pytest

from bulkdl.core.errors import BulkdlError
from bulkdl.core.secret import MASK, Secret

TEXT = "correct-horse-battery-staple"
SECRET = Secret(TEXT)


@dataclass(frozen=True)
class Holder:
    name: str
    password: Secret


PRINTED = {
    "str": lambda: str(SECRET),
    "repr": lambda: repr(SECRET),
    "ascii": lambda: ascii(SECRET),
    "format": lambda: format(SECRET),
    "format with a width": lambda: format(SECRET, ">40"),
    "f-string": lambda: f"{SECRET} {SECRET!r} {SECRET!s} {SECRET:>9}",
    "percent": lambda: "%s %r %a" % (SECRET, SECRET, SECRET),  # noqa: UP031
    "str.format": lambda: f"{SECRET} {SECRET!r}",
    "in a list": lambda: str([SECRET]),
    "in a dict": lambda: repr({"password": SECRET}),
    "as a key": lambda: repr({SECRET: 1}),
    "in a dataclass": lambda: repr(Holder("me", SECRET)),
    "pprint": lambda: pprint.pformat({"password": SECRET}),
    "in an error": lambda: repr(BulkdlError(f"no login with {SECRET}")) + str(BulkdlError("no", hint=f"{SECRET}")),
}


@pytest.mark.parametrize("printed", PRINTED.values(), ids=PRINTED.keys())
def test_every_way_to_print_a_secret_prints_the_mask(printed):
    text = printed()
    assert MASK in text
    assert "horse" not in text


ESCAPES = {
    "pickle": pickle.dumps,
    "pickle 0": lambda s: pickle.dumps(s, protocol=0),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "json": json.dumps,
    "asdict": lambda s: asdict(Holder("me", s)),
    "vars": vars,
    "len": len,
    "iter": iter,
    "join": lambda s: "".join([s]),  # noqa: FLY002
    "concatenation": lambda s: "Bearer " + s,
    "bytes": bytes,
    "%d": lambda s: "%d" % s,  # noqa: UP031
    "a number's format": lambda s: f"{s:d}",
    "another attribute": lambda s: s.value,
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES.keys())
def test_a_secret_is_not_copied_out_by_accident(escape):
    with pytest.raises((TypeError, AttributeError, ValueError)) as refused:
        escape(SECRET)
    assert "horse" not in "".join(traceback.format_exception(refused.value))


def test_a_traceback_with_locals_and_a_log_show_the_mask(caplog):
    def login(password: Secret) -> None:
        raise RuntimeError(password)

    with pytest.raises(RuntimeError) as failed:
        login(SECRET)
    shown = "".join(traceback.TracebackException.from_exception(failed.value, capture_locals=True).format())
    logging.getLogger("test").warning("no login: %s %r", SECRET, failed.value)
    for text in (shown, repr(failed.value), str(failed.value.args), caplog.text):
        assert MASK in text
        assert "horse" not in text


def test_only_reveal_gives_the_text():
    assert Secret(TEXT).reveal() == TEXT


def test_secrets_compare_by_value_with_secrets_only():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert hash(Secret("a")) != hash("a")


def test_an_empty_secret_is_false():
    assert not Secret("")
    assert Secret("0")
