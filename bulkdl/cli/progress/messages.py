"""Format each event as one sentence for people and as one flat JSON object; pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from bulkdl.cli.progress.outage_messages import network_fields, network_sentence, outage_fields, outage_sentence
from bulkdl.cli.text import clean, count
from bulkdl.core.events import (
    AccountAction,
    AccountEvent,
    Event,
    Level,
    NetworkChanged,
    Note,
    OutageChanged,
    OutagePhase,
    ProductFinished,
    ProductStarted,
    Retrying,
    RunFinished,
    RunStarted,
)
from bulkdl.core.models import State
from bulkdl.core.units import format_bytes, format_duration

if TYPE_CHECKING:
    from bulkdl.core.models import Outcome

__all__ = ["EventFilter", "fields", "is_shown", "level_of", "name_of", "sentence"]

_OUTAGE_LEVELS = {OutagePhase.ENDED: Level.INFO, OutagePhase.GIVEN_UP: Level.ERROR}
NOTES_SHOWN = 10
"""Limit of lines about products with a note."""
_ACCOUNT_LEVELS = {AccountAction.WAITING: Level.WARNING, AccountAction.STOPPED: Level.ERROR}


def level_of(event: Event) -> Level:
    """Return the level of an event: failures are errors, retries and waits are warnings, the rest is info or debug."""
    match event:
        case Note():
            return event.level
        case ProductFinished():
            return _level_of_outcome(event.outcome)
        case AccountEvent():
            return _ACCOUNT_LEVELS.get(event.action, Level.INFO)
        case Retrying():
            return Level.WARNING
        case OutageChanged() if event.is_shared and event.phase is not OutagePhase.GIVEN_UP:
            return Level.DEBUG
        case OutageChanged() | NetworkChanged():
            return _OUTAGE_LEVELS.get(event.phase, Level.WARNING)
        case ProductStarted():
            return Level.DEBUG
        case RunStarted() | RunFinished():
            return Level.INFO
        case _:
            assert_never(event)


def _level_of_outcome(outcome: Outcome) -> Level:
    if outcome.state is State.FAILED:
        return Level.ERROR
    # A note tells the user about a file that was accepted as it is, such as "existing, unverified".
    return Level.INFO if outcome.note else Level.DEBUG


def is_shown(event: Event, verbosity: int) -> bool:
    """Return True if this verbosity prints the event: -1 (`-q`) only errors, 0 no routine, 1 routine too, 2 all."""
    level = level_of(event)
    if verbosity < 0:
        return level is Level.ERROR
    if verbosity >= 2 or level is Level.ERROR:
        return True
    if level is Level.DEBUG:
        return False
    routine = isinstance(event, Retrying | RunFinished) or (
        isinstance(event, AccountEvent) and event.action is not AccountAction.WAITING
    )
    return verbosity == 1 or not routine


class EventFilter:
    """Decides which events are shown as lines: as `is_shown` does, but only the first notes about products.

    The files that were accepted as they are would give as many lines in every run; the summary counts them.
    """

    def __init__(self, verbosity: int) -> None:
        self._verbosity = verbosity
        self._notes = 0

    def shows(self, event: Event) -> bool:
        if not is_shown(event, self._verbosity):
            return False
        if self._verbosity > 0 or not isinstance(event, ProductFinished) or event.outcome.state is State.FAILED:
            return True
        self._notes += 1
        return self._notes <= NOTES_SHOWN


def sentence(event: Event) -> str:
    """Return the event as one line without control characters."""
    return clean(_sentence(event))


def _sentence(event: Event) -> str:
    match event:
        case RunStarted():
            return _run_started(event)
        case ProductStarted():
            return f"{event.file}: started from {event.product.url}"
        case Retrying():
            return f"{event.file}: {_with_full_stop(event.reason)} Trying again in {format_duration(event.wait_s)}."
        case ProductFinished():
            return _finished(event.outcome)
        case AccountEvent():
            return _account(event)
        case OutageChanged():
            return outage_sentence(event)
        case NetworkChanged():
            return network_sentence(event)
        case Note():
            return event.text
        case RunFinished():
            return f"Run ended, exit code {event.exit_code}."
        case _:
            assert_never(event)


def _run_started(event: RunStarted) -> str:
    size = "" if event.bytes_todo is None else f", {format_bytes(event.bytes_todo)}"
    return f"{event.todo:,} of {count(event.total, 'product')} to download{size}, into {event.destination}"


def _finished(outcome: Outcome) -> str:
    note = f" ({outcome.note})" if outcome.note else ""
    match outcome.state:
        case State.COMPLETED:
            return f"{outcome.file}: complete, {format_bytes(outcome.written)}{note}"
        case State.SKIPPED:
            return f"{outcome.file}: already in place{note}"
        case State.PENDING:
            return f"{outcome.file}: not done yet{note}"
        case State.FAILED:
            failure = outcome.failure
            return (
                f"{outcome.file}: FAILED ({failure.kind}): {failure.reason}" if failure else f"{outcome.file}: FAILED"
            )
        case _:
            assert_never(outcome.state)


def _account(event: AccountEvent) -> str:
    did = {
        AccountAction.LOGIN: "logged in",
        AccountAction.REFRESH: "token refreshed",
        AccountAction.WAITING: "waiting",
        AccountAction.STOPPED: "STOPPED, its products stay pending",
        AccountAction.LOGOUT: "logged out",
    }[event.action]
    lifetime = "" if event.lifetime_s is None else f", token valid {format_duration(event.lifetime_s)}"
    return f"account {event.account}: {did}{lifetime}" + (f": {event.detail}" if event.detail else "")


def _with_full_stop(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def name_of(event: Event) -> str:
    """Return the event's name in JSON lines, such as `product_finished` for `ProductFinished`."""
    name = type(event).__name__
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def fields(event: Event) -> dict[str, object]:
    """Return the event as JSON values; URLs are masked, names are never shortened."""
    match event:
        case RunStarted():
            values: dict[str, object] = {
                "destination": event.destination,
                "total": event.total,
                "todo": event.todo,
                "bytes_todo": event.bytes_todo,
            }
        case ProductStarted():
            values = {"file": event.file, "url": str(event.product.url)}
        case Retrying():
            values = {"file": event.file, "reason": event.reason, "wait_s": event.wait_s, "attempt": event.attempt}
        case ProductFinished():
            values = _outcome_fields(event.outcome)
        case AccountEvent():
            values = {"account": event.account, "action": event.action.value, "detail": event.detail}
            values |= {} if event.lifetime_s is None else {"lifetime_s": event.lifetime_s}
        case OutageChanged():
            values = {"phase": event.phase.value, **outage_fields(event.outage, waiting=event.waiting)}
        case NetworkChanged():
            values = network_fields(event)
        case Note():
            values = {"level": event.level.value, "text": event.text}
        case RunFinished():
            values = {"exit_code": event.exit_code}
        case _:
            assert_never(event)
    return {"event": name_of(event), **values}


def _outcome_fields(outcome: Outcome) -> dict[str, object]:
    values: dict[str, object] = {
        "file": outcome.file,
        "state": outcome.state.value,
        "written": outcome.written,
        "resumed": outcome.resumed,
    }
    if outcome.note:
        values["note"] = outcome.note
    if outcome.failure is not None:
        values |= {"kind": outcome.failure.kind.value, "reason": outcome.failure.reason}
        values["attempts"] = outcome.failure.attempts
    return values
