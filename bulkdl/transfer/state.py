"""Small values that the modules of this package hand to each other."""

from __future__ import annotations

from dataclasses import field
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
    "Rejections",
    "SmallProduct",
    "SpaceReservations",
    "VerifiedPartial",
]


class SpaceReservations:
    """Bytes of disk space that are reserved for the products in flight."""

    def __init__(self) -> None:
        self._reserved: dict[str, int] = {}
        """By product id."""
        self._sum = 0

    def reserve(self, id: str, missing: int) -> None:  # noqa: A002
        """Reserve the `missing` bytes of product `id`, in place of what was reserved for it before."""
        self._sum += missing - self._reserved.get(id, 0)
        self._reserved[id] = missing

    def release(self, id: str) -> None:  # noqa: A002
        self._sum -= self._reserved.pop(id, 0)

    def reserved_for_others(self, own: str) -> int:
        """Return the bytes reserved for all products but `own`, including those that have arrived since."""
        return self._sum - self._reserved.get(own, 0)

    def still_missing_of_others(self, own: str, flights: Mapping[str, Flight]) -> int:
        """Return the bytes that all products but `own` still need."""
        others = [flights[id_] for id_ in self._reserved if id_ != own and id_ in flights]
        return sum(max(0, f.total - f.have) for f in others if f.total)


@dataclass(frozen=True, slots=True)
class OldBytesSample:
    """Sample of the old bytes of a product whose ETag has changed (`etag_check`)."""

    source: str
    etag: str
    total: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RejectedDownload:
    """One complete download of this run whose checksums `found` are not the product's."""

    source_index: int
    found: frozenset[Checksum]
    seen: ValidatorSnapshot


@dataclass(slots=True)
class Rejections:
    """Record of the complete downloads of one product that were not the product. `quarantine` decides by it."""

    reasons: list[str] = field(default_factory=list)
    """Reasons of all of them; the same reason twice is the source's fault."""
    downloads: list[RejectedDownload] = field(default_factory=list)
    """Downloads with another checksum."""
    rechecks: list[ValidatorSnapshot] = field(default_factory=list)
    """Validators that the sources showed of a product that an earlier run found faulty."""
    doubts: set[str] = field(default_factory=set)
    """Verdicts that one response gave. The same one a second time is believed."""
    download_again: bool = False
    """True if a recheck gave a reason to download the product although it was found faulty."""


@dataclass(frozen=True, slots=True)
class ExistingFile:
    """File at the final name that is the product already; nothing has to be downloaded."""

    size: int
    digests: tuple[Checksum, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class CompletePartial:
    """Partial with every byte: `entry` has all ranges. The last ones may not be durable yet."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class SmallProduct:
    """Small product whose whole body is in memory. Nothing of `entry` is on disk or in the journal yet."""

    entry: Entry
    body: bytes
    unseen: bool
    """True if nobody has checked yet whether a file of that name exists."""


FinalizeError = Entry | ProductFailed | StorageStopped
"""Reason why batch finalizing did not put a product in its place.

An `Entry` with ranges is a partial that does not verify; one without ranges says that a file has the name already.
"""


@dataclass(frozen=True, slots=True)
class VerifiedPartial:
    """Complete partial that is the product, with the checksums that it was verified against."""

    entry: Entry
    verified: tuple[Checksum, ...]
