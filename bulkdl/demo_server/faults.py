"""What may go wrong at an archive, as data: which product, how often, and what then happens."""

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
    """The connection ends after `after` bytes of the body: closed, or reset (what was on its way may be lost)."""

    after: int
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Stall:
    """After `after` bytes nothing more comes, until the client closes."""

    after: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """A status with a short JSON body, and `Retry-After` where it is given (seconds or an HTTP date, as it is sent)."""

    status: int
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Preparing:
    """202: the product is being brought from tape."""

    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class LoginPage:
    """200 with an HTML login form in place of the product."""


@dataclass(frozen=True, slots=True)
class IgnoreRange:
    """200 with the whole product, whatever range was asked for."""


@dataclass(frozen=True, slots=True)
class ShiftRange:
    """A 206 that starts `by` bytes after the range's start, and says so; requests without a range are not touched."""

    by: int = 1


@dataclass(frozen=True, slots=True)
class Flip:
    """The byte at `at` (of the product, not of the range) is wrong."""

    at: int = 0


@dataclass(frozen=True, slots=True)
class NewEdition:
    """From this request on the product has other bytes, another ETag and another date."""


@dataclass(frozen=True, slots=True)
class Validate:
    """The response carries these validators."""

    validators: Validators = Validators.NONE


@dataclass(frozen=True, slots=True)
class Chunked:
    """No `Content-Length`: a chunked body, ended without its last chunk after `cut_after` bytes where that is given."""

    cut_after: int | None = None


@dataclass(frozen=True, slots=True)
class Delay:
    """The answer begins only after so many seconds of the archive's clock."""

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
    """`effect` happens to the next `times` GETs (None: to all) of products whose name matches the glob `item`."""

    effect: Effect
    item: str = "*"
    times: int | None = 1
    skip: int = 0
    """Matching requests that pass untouched first."""


@dataclass(slots=True)
class _Counted:
    fault: Fault
    seen: int = 0
    used: int = field(default=0)

    def exhausted(self) -> bool:
        return self.fault.times is not None and self.used >= self.fault.times


class FaultPlan:
    """Faults with their use counters. One request meets all lasting faults, and the first counted one that is not used up."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._entries = [_Counted(fault) for fault in faults]

    def add(self, effect: Effect, *, item: str = "*", times: int | None = 1, skip: int = 0) -> None:
        self._entries.append(_Counted(Fault(effect, item, times, skip)))

    def take(self, name: str, length: int) -> tuple[Effect, ...]:
        """The effects for a GET whose body would have `length` bytes; counts them as used.

        A cut or a stall that lies beyond this body is kept for another request.
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
        """How many times faults (of this kind) have happened."""
        return sum(e.used for e in self._entries if kind is None or isinstance(e.fault.effect, kind))

    @property
    def left(self) -> tuple[Fault, ...]:
        """Counted faults that have not happened as often as they should."""
        return tuple(e.fault for e in self._entries if e.fault.times is not None and not e.exhausted())


def _reaches(effect: Effect, length: int) -> bool:
    match effect:
        case Cut(after=after) | Stall(after=after) | Chunked(cut_after=int(after)):
            return after < length
        case _:
            return True


def random_faults(catalogue: Catalogue, seed: int, *, count: int = 6) -> list[Fault]:
    """`count` faults that an unattended run must survive, spread over the larger products; the same for the same seed."""
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
