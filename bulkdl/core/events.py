"""Events that a run emits and counters that observers poll.

The transfer never writes to a screen. It emits an `Event` and updates `Counters`; progress, log and report read both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from bulkdl.core.models import Outcome, Product, Trouble

__all__ = [
    "AccountAction",
    "AccountEvent",
    "Counters",
    "Event",
    "Flight",
    "Hub",
    "Level",
    "NetworkChanged",
    "Note",
    "Observer",
    "Outage",
    "OutageChanged",
    "OutagePhase",
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
    """Bytes left to download, as far as sizes are known; None if no size is known."""


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
    """Number of attempts in a row without progress so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductFinished:
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountEvent:
    account: str
    action: AccountAction
    detail: str = ""
    """Text for display, without secrets; for a refresh, the reason for it."""
    lifetime_s: float | None = None
    """Lifetime of the new access token in seconds; None if the action brought no token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A message for the user, such as a reduced limit, a taken-over lock, or a wrong clock."""

    level: Level
    text: str
    product: Product | None = None


class OutagePhase(StrEnum):
    BEGAN = "began"
    LASTS = "lasts"
    ENDED = "ended"
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A time in which an origin or a token endpoint gave no good answer; times are Unix time in seconds."""

    origin: str
    account: str | None = None
    """The account whose token endpoint it is; None for an archive."""
    kind: Trouble
    reason: str
    began: float
    ended: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageChanged:
    """An outage began, lasts (once an hour), ended, or its origin was given up."""

    phase: OutagePhase
    outage: Outage
    waiting: int = 0
    """Products that wait for its end."""
    next_try: float | None = None
    gives_up: float | None = None
    """Unix time at which the origin will be given up; None: never."""
    is_shared: bool = False
    """True if the cause is this machine's network, of which a `NetworkChanged` tells users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkChanged:
    """This machine's network went out of order, still is (once an hour), or works again; times are Unix time in seconds."""

    phase: OutagePhase
    origins: tuple[str, ...]
    """Origins that cannot be reached."""
    reason: str
    """Why the first of them cannot be reached."""
    began: float
    ended: float | None = None
    waiting: int = 0
    """Products that wait for its end, those of token endpoints included."""
    next_try: float | None = None
    gives_up: float | None = None
    """Unix time at which the first of the origins will be given up; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    exit_code: int


Event = (
    RunStarted
    | ProductStarted
    | Retrying
    | ProductFinished
    | AccountEvent
    | OutageChanged
    | NetworkChanged
    | Note
    | RunFinished
)
Observer = Callable[[Event], None]


@dataclass(slots=True, eq=False)
class Flight:
    """Display state of one product in flight: the transfer updates it, the progress display polls it."""

    file: str
    total: int | None = None
    have: int = 0
    """Bytes on disk, including those of earlier runs."""
    connections: int = 0
    phase: str = "connecting"
    """One of connecting, receiving, waiting, verifying, placing, extracting."""


@dataclass(slots=True)
class Counters:
    """Totals of the run; byte counts are bytes of response bodies."""

    received: int = 0
    written: int = 0
    resumed: int = 0
    completed: int = 0
    skipped: int = 0
    failed: int = 0
    pending: int = 0
    retries: int = 0
    bytes_todo: int = 0
    """Bytes left to download, as far as sizes are known."""
    flights: dict[str, Flight] = field(default_factory=dict)
    """Products in flight by product id."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Products that wait for the end of an outage, by origin or by account."""
    accounts: dict[str, str] = field(default_factory=dict)
    """State of each account for display by account name, such as `token valid 240 s`."""
    is_network_down: bool = False
    """True while a `NetworkChanged` tells of all origins."""


class Hub:
    """Passes every event to all observers in order; an observer that raises is a bug and ends the run."""

    def __init__(self, *observers: Observer) -> None:
        self.counters = Counters()
        self._observers = list(observers)

    def subscribe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def subscribe_first(self, observer: Observer) -> None:
        """Add an observer before all others, such as the result collector, so that others display updated counters."""
        self._observers.insert(0, observer)

    def emit(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)

    def note(self, level: Level, text: str, product: Product | None = None) -> None:
        self.emit(Note(level=level, text=text, product=product))
