"""What an archive's error means in its own words: a provider's data file in, a typed ruling out. Pure.

The status alone says too little: a 401 can ask for a fresh token, for a new login, or be the product's own fault, and a
429 can mind the connections or the hour. `data/provider_errors/NAME.yaml` holds what is known of a provider, as rules that are
tried in order, then those of the dialects in `also`, then the generic ones. Where none fits, the status decides.
"""

from __future__ import annotations

import functools
import json
import math
import re
from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import yaml

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind
from bulkdl.protocol.headers import parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

__all__ = [
    "MOST_BODY",
    "Answer",
    "ErrorAction",
    "ErrorInterpretation",
    "ProviderErrorRules",
    "interpret",
    "load",
    "names",
]

MOST_BODY = 4096
"""Bytes of an error's body that are looked at."""
GENERIC = "generic"
_LONGEST_S = 366 * 86400.0


class ErrorAction(StrEnum):
    """What is done about it."""

    REFRESH = "refresh"  # the token is at fault: get another one
    LOGIN = "login"  # the session is: log in again
    WAIT = "wait"  # everybody leaves the host alone for a while
    FEWER = "fewer"  # the same, with fewer connections from now on
    FAIL = "fail"  # the product is at fault
    STOP = "stop"  # the account can get nothing here


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An error as it arrived."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    """Its beginning, at most `MOST_BODY`; a server's words, which are never shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInterpretation:
    action: ErrorAction
    says: str
    """What happened, as part of a sentence; from the data, never from the server."""
    hint: str = ""
    code: str = ""
    """The provider's own code, where the rule goes by one."""
    wait: float | None = None
    """Seconds from now; None where neither the answer nor the rule names a time."""
    kind: FailureKind = FailureKind.HTTP


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Where the time to wait stands: a number or date in the JSON or in a header (`field`, a pattern), else `default`."""

    json: str = ""
    field: str = ""
    unit: str = "s"
    """s, ms, epoch_s, epoch_ms, or auto: told apart by the size of the number."""
    default: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Every condition that is named must hold."""

    status: tuple[int, ...]
    action: ErrorAction
    says: str
    code: str = ""
    text: re.Pattern[str] | None = None
    """Found anywhere in the body."""
    field: tuple[re.Pattern[str], re.Pattern[str]] | None = None
    """A header whose name and value match whole."""
    hint: str = ""
    wait: Wait = Wait()
    kind: FailureKind = FailureKind.HTTP


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderErrorRules:
    name: str
    codes: tuple[str, ...]
    """Dotted paths in the JSON at which the provider's code may stand."""
    also: tuple[str, ...]
    rules: tuple[Rule, ...]


def interpret(name: str | None, answer: Answer, *, now: float) -> ErrorInterpretation | None:
    """What `answer` means in a dialect (an unknown one, or None: the generic); `now` is the wall clock for dates.

    None: nothing is known beyond the status.
    """
    text = answer.body[:MOST_BODY].decode("utf-8", "replace")
    document = _json(text)
    for dialect in _chain(name):
        code = next((found for path in dialect.codes if (found := _at(document, path)) not in (None, "")), None)
        for rule in dialect.rules:
            if _fits(rule, answer, text, code):
                wait = _seconds(rule.wait, answer, document, now)
                return ErrorInterpretation(
                    action=rule.action, says=rule.says, hint=rule.hint, code=rule.code, wait=wait, kind=rule.kind
                )
    return None


def _folder() -> Traversable:
    from importlib.resources import files  # noqa: PLC0415 - most runs see no error

    return files("bulkdl").joinpath("data/provider_errors")


def names() -> tuple[str, ...]:
    """The dialects there are, sorted."""
    folder = _folder()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


@functools.cache
def load(name: str) -> ProviderErrorRules:
    """The dialect of that name; raise `KeyError` where there is none, `TypeError` or `ValueError` for one that is wrong."""
    if name not in names():
        raise KeyError(name)
    text = _folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a safe loader either way
    return parse(name, **data)


def parse(
    name: str, *, rules: list[dict[str, Any]], codes: tuple[str, ...] = (), also: tuple[str, ...] = ()
) -> ProviderErrorRules:
    """A dialect from its data; raise `TypeError` or `ValueError` where that is wrong."""
    return ProviderErrorRules(
        name=name, codes=tuple(codes), also=tuple(also), rules=tuple(_rule(**rule) for rule in rules)
    )


def _rule(
    *,
    status: int | list[int],
    action: str,
    says: str,
    text: str = "",
    header: Mapping[str, str] | None = None,
    wait: Mapping[str, Any] | None = None,
    kind: str = "http",
    **more: str,
) -> Rule:
    ((name, value),) = header.items() if header else (("", ""),)
    return Rule(
        status=tuple(status) if isinstance(status, list) else (status,),
        action=ErrorAction(action),
        says=says,
        text=re.compile(text, re.IGNORECASE) if text else None,
        field=(re.compile(name, re.IGNORECASE), re.compile(value, re.IGNORECASE)) if header else None,
        wait=Wait(**wait) if wait else Wait(),
        kind=FailureKind(kind),
        **more,
    )


def _chain(name: str | None) -> Iterator[ProviderErrorRules]:
    """The dialect, those that it names, and the generic one; each once."""
    known = names()
    first = load(name) if name in known and name is not None else load(GENERIC)
    seen: dict[str, None] = dict.fromkeys((first.name, *first.also, GENERIC))
    yield from (load(each) for each in seen)


def _fits(rule: Rule, answer: Answer, text: str, code: object) -> bool:
    if answer.status not in rule.status or (rule.code and str(code) != rule.code):
        return False
    if rule.text is not None and rule.text.search(text) is None:
        return False
    return rule.field is None or any(
        rule.field[0].fullmatch(name) and rule.field[1].fullmatch(value.strip())
        for name, value in answer.headers.items()
    )


def _seconds(wait: Wait, answer: Answer, document: Any, now: float) -> float | None:
    """The time that the rule points to, else Retry-After, else the rule's own."""
    value: object = _at(document, wait.json) if wait.json else None
    if value is None and wait.field:
        pattern = re.compile(wait.field, re.IGNORECASE)
        value = next((text for name, text in answer.headers.items() if pattern.fullmatch(name)), None)
    told = _from_now(value, wait.unit, now)
    if told is None:
        sent = next((text for name, text in answer.headers.items() if name.lower() == "retry-after"), None)
        told = parse_retry_after(sent, now=now)
    return wait.default if told is None else min(max(0.0, told), _LONGEST_S)


def _from_now(value: object, unit: str, now: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    if unit == "auto":
        unit = "epoch_ms" if number > 1e11 else "epoch_s" if number > 1e9 else "s"
    seconds = number / 1000 if unit.endswith("ms") else number
    return seconds - now if unit.startswith("epoch") else seconds


def _at(document: Any, path: str) -> object:
    """What stands at a dotted path of keys; None where the way is barred."""
    for key in path.split("."):
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return None if isinstance(document, dict | list) else document


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
