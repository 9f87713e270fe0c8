"""Small values that modules of a product's way hand to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.journal.records import Entry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkdl.core.events import Flight
    from bulkdl.core.models import Checksum
    from bulkdl.protocol.bad_source import ValidatorSnapshot


__all__ = [
    "CompletePartial",
    "ExistingFile",
    "FinalizeError",
    "OldBytesSample",
    "RejectedDownload",
    "SmallProduct",
    "SpaceReservations",
    "VerifiedPartial",
]


class SpaceReservations:
    """The bytes of the disk that the products in flight have been promised."""

    def __init__(self) -> None:
        self._given: dict[str, int] = {}
        self._sum = 0

    def give(self, id: str, left: int) -> None:  # noqa: A002
        """Product `id` still needs `left` bytes."""
        self._sum += left - self._given.get(id, 0)
        self._given[id] = left

    def take_back(self, id: str) -> None:  # noqa: A002
        self._sum -= self._given.pop(id, 0)

    def at_most(self, own: str) -> int:
        """What the others were promised, whatever of it has come since."""
        return self._sum - self._given.get(own, 0)

    def still(self, own: str, flights: Mapping[str, Flight]) -> int:
        """What the others still need."""
        others = [flights[id_] for id_ in self._given if id_ != own and id_ in flights]
        return sum(max(0, f.total - f.have) for f in others if f.total)


@dataclass(frozen=True, slots=True)
class OldBytesSample:
    """Bytes of an edition that the server says it has no more."""

    source: str
    etag: str
    total: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RejectedDownload:
    """Bytes of one fetch of this run that were not the product."""

    source_index: int
    found: frozenset[Checksum]
    seen: ValidatorSnapshot


@dataclass(frozen=True, slots=True)
class ExistingFile:
    """The file that is there is the product; nothing needs to be fetched."""

    size: int
    digests: tuple[Checksum, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class CompletePartial:
    """Every byte has arrived: `entry` has all ranges; they need not be durable yet."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class SmallProduct:
    """A small product, in memory from its first byte to its last: nothing of `entry` is on disk or in the journal yet."""

    entry: Entry
    body: bytes
    unseen: bool
    """Whether a file of that name is there already has not been looked at."""


FinalizeError = Entry | ProductFailed | StorageStopped
"""Why a product is not in its place."""


@dataclass(frozen=True, slots=True)
class VerifiedPartial:
    """A complete partial that is the product."""

    entry: Entry
    verified: tuple[Checksum, ...]
