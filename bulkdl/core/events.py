"""What observers see of a run: events as they happen, counters to poll.

The transfer never talks to a screen: it emits an `Event` and updates a `Counters`; progress, log and report read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from bulkdl.core.models import Outcome, Product

__all__ = [
    "AccountAction",
    "AccountEvent",
    "Counters",
    "Event",
    "Flight",
    "Hub",
    "Level",
    "Note",
    "Observer",
    "ProductFinished",
    "ProductStarted",
    "Retrying",
    "RunFinished",
    "RunStarted",
]


class Level(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class AccountAction(StrEnum):
    LOGIN = "login"
    REFRESH = "refresh"
    WAITING = "waiting"
    STOPPED = "stopped"
    LOGOUT = "logout"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    destination: str
    total: int
    """Products in the run."""
    todo: int
    """Products that are not in place yet."""
    bytes_todo: int | None
    """Bytes still to fetch as far as sizes are known; None where none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductStarted:
    product: Product
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    product: Product
    file: str
    reason: str
    wait_s: float
    attempt: int
    """Attempts in a row without progress, so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductFinished:
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountEvent:
    account: str
    action: AccountAction
    detail: str = ""
    """For a person, free of secrets; for a refresh, why it was due."""
    lifetime_s: float | None = None
    """Of the access token, where the action brought one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something a person should know: a limit lowered, a lock taken over, a clock that is off."""

    level: Level
    text: str
    product: Product | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    exit_code: int


Event = RunStarted | ProductStarted | Retrying | ProductFinished | AccountEvent | Note | RunFinished
Observer = Callable[[Event], None]


@dataclass(slots=True, eq=False)
class Flight:
    """One product in flight, for display: updated by the transfer, polled by progress."""

    file: str
    total: int | None = None
    have: int = 0
    """Bytes on disk, those of earlier runs included."""
    connections: int = 0
    phase: str = "connecting"
    """connecting, receiving, waiting, verifying, placing, extracting."""


@dataclass(slots=True)
class Counters:
    """Sums over the run; bytes are body bytes."""

    received: int = 0
    written: int = 0
    resumed: int = 0
    completed: int = 0
    skipped: int = 0
    failed: int = 0
    pending: int = 0
    retries: int = 0
    bytes_todo: int = 0
    """Bytes still to fetch as far as known."""
    flights: dict[str, Flight] = field(default_factory=dict)
    """By product id."""
    accounts: dict[str, str] = field(default_factory=dict)
    """Account name -> its state for display, such as `token valid 240 s`."""


class Hub:
    """Hands every event to every observer, in order; an observer that raises is a defect and ends the run."""

    def __init__(self, *observers: Observer) -> None:
        self.counters = Counters()
        self._observers = list(observers)

    def subscribe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def subscribe_first(self, observer: Observer) -> None:
        """For what others show: the tally has counted an event before anyone prints it."""
        self._observers.insert(0, observer)

    def emit(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)

    def note(self, level: Level, text: str, product: Product | None = None) -> None:
        self.emit(Note(level=level, text=text, product=product))
