"""Faults of the demo archive as data: which product, how often, and the effect."""

from __future__ import annotations

import random
from dataclasses import field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.demo_server.catalog import Validators

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bulkdl.demo_server.catalog import Catalogue

__all__ = [
    "Chunked",
    "Cut",
    "Delay",
    "Effect",
    "Fault",
    "FaultPlan",
    "Flip",
    "IgnoreRange",
    "LoginPage",
    "NewEdition",
    "Preparing",
    "Refuse",
    "ShiftRange",
    "Stall",
    "Validate",
    "random_faults",
]


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection after `after` bytes of the body, or reset it (bytes in flight may be lost)."""

    after: int
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Stall:
    """Send nothing more after `after` bytes, until the client closes."""

    after: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with a status and a short JSON body; `retry_after` is sent as given (seconds or an HTTP date)."""

    status: int
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Preparing:
    """Answer 202: the product is being restored from tape."""

    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class LoginPage:
    """Answer 200 with an HTML login form instead of the product."""


@dataclass(frozen=True, slots=True)
class IgnoreRange:
    """Ignore `Range` and answer 200 with the whole product."""


@dataclass(frozen=True, slots=True)
class ShiftRange:
    """Answer 206 from `by` bytes after the requested start, correctly labelled; no effect without `Range`."""

    by: int = 1


@dataclass(frozen=True, slots=True)
class Flip:
    """Send a wrong byte at offset `at` of the product (not of the range)."""

    at: int = 0


@dataclass(frozen=True, slots=True)
class NewEdition:
    """Replace the product from this request on by a version with different bytes, ETag and date."""


@dataclass(frozen=True, slots=True)
class Validate:
    """Send these validators with the response."""

    validators: Validators = Validators.NONE


@dataclass(frozen=True, slots=True)
class Chunked:
    """Send a chunked body without `Content-Length`; cut it after `cut_after` bytes, without the last chunk."""

    cut_after: int | None = None


@dataclass(frozen=True, slots=True)
class Delay:
    """Delay the response by `seconds` of the archive's clock."""

    seconds: float


Effect = (
    Cut
    | Stall
    | Refuse
    | Preparing
    | LoginPage
    | IgnoreRange
    | ShiftRange
    | Flip
    | NewEdition
    | Validate
    | Chunked
    | Delay
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Apply `effect` to the next `times` GETs (None: to all) of products whose name matches the glob `item`."""

    effect: Effect
    item: str = "*"
    times: int | None = 1
    skip: int = 0
    """Number of matching requests to serve normally first."""


@dataclass(slots=True)
class _Counted:
    fault: Fault
    seen: int = 0
    used: int = field(default=0)

    def exhausted(self) -> bool:
        return self.fault.times is not None and self.used >= self.fault.times


class FaultPlan:
    """Faults with use counters.

    A request gets all permanent faults, and the first counted fault that is not used up.
    """

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._entries = [_Counted(fault) for fault in faults]

    def add(self, effect: Effect, *, item: str = "*", times: int | None = 1, skip: int = 0) -> None:
        self._entries.append(_Counted(Fault(effect, item, times, skip)))

    def take(self, name: str, length: int) -> tuple[Effect, ...]:
        """Return the effects for a GET with a body of `length` bytes, and count them as used.

        A cut or a stall beyond the end of this body stays for a later request.
        """
        taken: list[Effect] = []
        counted = False
        for entry in self._entries:
            fault = entry.fault
            if entry.exhausted() or not fnmatchcase(name, fault.item) or not _reaches(fault.effect, length):
                continue
            if fault.times is not None and counted:
                continue
            entry.seen += 1
            if entry.seen <= fault.skip:
                continue
            entry.used += 1
            counted = counted or fault.times is not None
            taken.append(fault.effect)
        return tuple(taken)

    def used(self, kind: type[Effect] | None = None) -> int:
        """Return how often faults (of this kind) were applied."""
        return sum(e.used for e in self._entries if kind is None or isinstance(e.fault.effect, kind))

    @property
    def left(self) -> tuple[Fault, ...]:
        """Counted faults that are not used up yet."""
        return tuple(e.fault for e in self._entries if e.fault.times is not None and not e.exhausted())


def _reaches(effect: Effect, length: int) -> bool:
    match effect:
        case Cut(after=after) | Stall(after=after) | Chunked(cut_after=int(after)):
            return after < length
        case _:
            return True


def random_faults(catalogue: Catalogue, seed: int, *, count: int = 6) -> list[Fault]:
    """Return `count` faults that an unattended run must survive, spread over large products, determined by `seed`."""
    rng = random.Random(seed)  # noqa: S311 - a plan of faults, not a secret
    names = [item.name for item in catalogue if item.size > 100_000]
    chosen = rng.sample(names, min(count, len(names)))
    makers = (
        lambda size: Cut(rng.randrange(size // 4, size // 2)),
        lambda size: Cut(rng.randrange(size // 4, size // 2), reset=True),
        lambda _: Refuse(503),
        lambda _: Refuse(429, retry_after="1"),
        lambda size: Stall(rng.randrange(size // 4, size // 2)),
        lambda _: IgnoreRange(),
    )
    return [Fault(makers[n % len(makers)](catalogue[name].size), item=name) for n, name in enumerate(chosen)]
