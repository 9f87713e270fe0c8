"""Interpret the error responses of each provider by rules in data files. Pure.

The status alone says too little. A 401 can mean an expired token, an ended session or a wrong product; a 429 can mean
too many connections or an exhausted quota. `data/provider_errors/NAME.yaml` holds the rules of a provider. `interpret`
tries them in order, then the rules of the files in `also`, then the generic ones. If none matches, the status decides.
To add a provider, add a file and rows in `tests/protocol/test_provider_errors.py`.
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
    "MAX_BODY",
    "Answer",
    "ErrorAction",
    "ErrorInterpretation",
    "ProviderErrorRules",
    "interpret",
    "load",
    "names",
]

MAX_BODY = 4096
"""Limit of bytes of an error's body that are read."""
GENERIC = "generic"
_MAX_WAIT_S = 366 * 86400.0


class ErrorAction(StrEnum):
    """Reaction to an error response."""

    REFRESH = "refresh"  # the token is invalid: refresh it
    LOGIN = "login"  # the session has ended: log in again
    WAIT = "wait"  # all workers back off from the host
    FEWER = "fewer"  # back off, and use fewer connections from now on
    FAIL = "fail"  # the product fails
    STOP = "stop"  # the account is unusable


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An error response."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    """The first bytes of the body, at most `MAX_BODY`; never shown, since the server wrote it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInterpretation:
    action: ErrorAction
    text: str
    """What happened, as part of a sentence; from the data file, never from the server."""
    hint: str = ""
    code: str = ""
    """The provider's error code; "" if the rule has none."""
    wait: float | None = None
    """Seconds from now; None if neither the response nor the rule names a time."""
    kind: FailureKind = FailureKind.HTTP


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Source of the time to wait: a number in the JSON body or in a header.

    `json` is a dotted path, `field` a pattern for the header's name. Otherwise Retry-After counts, then `default`.
    """

    json: str = ""
    field: str = ""
    unit: str = "s"
    """s, ms, epoch_s, epoch_ms, or auto, which chooses the unit by the size of the number."""
    default: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a data file; it matches if all its conditions hold."""

    status: tuple[int, ...]
    action: ErrorAction
    text: str
    """Message of the rule: `says` in the data file."""
    code: str = ""
    body: re.Pattern[str] | None = None
    """Pattern to find anywhere in the body: `text` in the data file."""
    field: tuple[re.Pattern[str], re.Pattern[str]] | None = None
    """Patterns that must match the whole name and value of a header."""
    hint: str = ""
    wait: Wait = Wait()
    kind: FailureKind = FailureKind.HTTP


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderErrorRules:
    name: str
    codes: tuple[str, ...]
    """Dotted paths in the JSON body at which the provider's error code may occur."""
    also: tuple[str, ...]
    """Names of further rule sets to try afterwards."""
    rules: tuple[Rule, ...]


def interpret(name: str | None, answer: Answer, *, now: float) -> ErrorInterpretation | None:
    """Return the meaning of `answer` by the rules of provider `name`; None if no rule matches.

    An unknown `name`, or None, means the generic rules. `now` is Unix time, for dates in the response.
    """
    text = answer.body[:MAX_BODY].decode("utf-8", "replace")
    document = _json(text)
    for rule_set in _chain(name):
        code = next((found for path in rule_set.codes if (found := _at(document, path)) not in (None, "")), None)
        for rule in rule_set.rules:
            if _matches(rule, answer, text, code):
                wait = _seconds(rule.wait, answer, document, now)
                return ErrorInterpretation(
                    action=rule.action, text=rule.text, hint=rule.hint, code=rule.code, wait=wait, kind=rule.kind
                )
    return None


def _folder() -> Traversable:
    from importlib.resources import files  # noqa: PLC0415 - most runs see no error

    return files("bulkdl").joinpath("data/provider_errors")


def names() -> tuple[str, ...]:
    """Return the names of all rule sets, sorted."""
    folder = _folder()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


@functools.cache
def load(name: str) -> ProviderErrorRules:
    """Return the rule set `name`; raise `KeyError` if there is none, `TypeError` or `ValueError` if it is invalid."""
    if name not in names():
        raise KeyError(name)
    text = _folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a safe loader either way
    return parse(name, **data)


def parse(
    name: str, *, rules: list[dict[str, Any]], codes: tuple[str, ...] = (), also: tuple[str, ...] = ()
) -> ProviderErrorRules:
    """Return the rule set of a data file; raise `TypeError` or `ValueError` if it is invalid."""
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
        text=says,
        body=re.compile(text, re.IGNORECASE) if text else None,
        field=(re.compile(name, re.IGNORECASE), re.compile(value, re.IGNORECASE)) if header else None,
        wait=Wait(**wait) if wait else Wait(),
        kind=FailureKind(kind),
        **more,
    )


def _chain(name: str | None) -> Iterator[ProviderErrorRules]:
    """Yield the rule set `name`, those in its `also`, and the generic one; each once."""
    known = names()
    first = load(name) if name in known and name is not None else load(GENERIC)
    seen: dict[str, None] = dict.fromkeys((first.name, *first.also, GENERIC))
    yield from (load(each) for each in seen)


def _matches(rule: Rule, answer: Answer, text: str, code: object) -> bool:
    if answer.status not in rule.status or (rule.code and str(code) != rule.code):
        return False
    if rule.body is not None and rule.body.search(text) is None:
        return False
    return rule.field is None or any(
        rule.field[0].fullmatch(name) and rule.field[1].fullmatch(value.strip())
        for name, value in answer.headers.items()
    )


def _seconds(wait: Wait, answer: Answer, document: Any, now: float) -> float | None:
    """Return the time to wait from the rule's source, else from Retry-After, else the rule's default."""
    value: object = _at(document, wait.json) if wait.json else None
    if value is None and wait.field:
        pattern = re.compile(wait.field, re.IGNORECASE)
        value = next((text for name, text in answer.headers.items() if pattern.fullmatch(name)), None)
    seconds = _from_now(value, wait.unit, now)
    if seconds is None:
        sent = next((text for name, text in answer.headers.items() if name.lower() == "retry-after"), None)
        seconds = parse_retry_after(sent, now=now)
    return wait.default if seconds is None else min(max(0.0, seconds), _MAX_WAIT_S)


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
    """Return the scalar at a dotted path of keys; None if there is none."""
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
