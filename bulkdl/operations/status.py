"""Status of every product from journal and disk, without requests, for `bulkdl status`."""

from __future__ import annotations

from dataclasses import field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from bulkdl.concurrency import host_memory
from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import QUOTA_USED
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.journal.journal import read_learned, read_outages
from bulkdl.journal.learned import Learned
from bulkdl.journal.reader import read
from bulkdl.journal.records import Entry, Phase
from bulkdl.protocol.byte_ranges import cover
from bulkdl.protocol.server_quirks import describe
from bulkdl.storage.lock_owner import holder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bulkdl.core.models import Manifest, Product
    from bulkdl.journal.learned import AccountStop
    from bulkdl.journal.outage_log import RecordedOutage

__all__ = ["ProductState", "ProductStatus", "StatusReport", "collect_status"]


class ProductState(StrEnum):
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    PENDING = "pending"
    MISSING = "missing"
    """It was finished, but its file is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductStatus:
    """State of one product in journal and disk."""

    file: str
    url: str
    """URL with its query masked."""
    state: ProductState
    have: int
    total: int | None
    kind: str = ""
    reason: str = ""
    attempts: int = 0
    updated: float | None = None
    """Unix time of the last change in the journal."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    products: tuple[ProductStatus, ...]
    running: str = ""
    """Process that has locked the destination; "" if none."""
    journal: bool = True
    """True if there is a journal; without one no run has begun here."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Learned facts for display, by origin."""
    connections: Mapping[str, str] = field(default_factory=dict)
    """What is remembered of connections for display, by host and account."""
    outages: tuple[RecordedOutage, ...] = ()
    """Outages of the last 30 days, the earliest first; `ended` is None only while a run is in progress."""


def collect_status(manifest: Manifest) -> StatusReport:
    """Return the state of every product, even during a run, without writing anything."""
    entries = read(manifest.destination)
    running = holder(manifest.destination)
    known = entries or {}
    now = SystemClock().wall()
    learned = read_learned(manifest.destination, now=now) or Learned()
    return StatusReport(
        products=tuple(
            _with_stop(_status(p, known.get(p.id), manifest.destination), learned.account_stops.get(p.account or ""))
            for p in manifest.products
        ),
        running=str(running) if running is not None else "",
        journal=entries is not None,
        outages=read_outages(manifest.destination),
        hosts={host: text for host, facts in sorted(learned.hosts.items()) if (text := describe(facts, now=now))},
        connections={
            memory.key: text for memory in learned.connections if (text := host_memory.describe(memory, now=now))
        },
    )


def _with_stop(status: ProductStatus, stop: AccountStop | None) -> ProductStatus:
    """Add why the last run left a product pending: its account was stopped."""
    if stop is None or status.reason or status.state not in (ProductState.PENDING, ProductState.PARTIAL):
        return status
    kind = "" if stop.reason.startswith(QUOTA_USED) else "auth"
    reason, updated = f"account {stop.name}: {stop.reason}", max(stop.at, status.updated or 0.0)
    return replace(status, kind=kind, reason=reason, updated=updated)


def _status(product: Product, entry: Entry | None, destination: Path) -> ProductStatus:
    file = product.file or (entry.file if entry is not None else None)
    size = size_of(destination / file) if file is not None else None
    base = ProductStatus(
        file=file or product.expected_file, url=str(product.url), state=ProductState.PENDING, have=0, total=product.size
    )
    if entry is None:
        agrees = size is not None and size == product.size
        return replace(base, state=ProductState.DONE, have=size or 0, note="not in the journal") if agrees else base
    base = replace(base, updated=entry.updated, attempts=entry.attempts, note=entry.note)
    if entry.phase in (Phase.DONE, Phase.PLACING) and size is not None:
        return replace(base, state=ProductState.DONE, have=size, total=entry.size)
    have = cover(entry.ranges)
    base = replace(base, have=have, total=entry.total if entry.total is not None else product.size)
    if entry.phase is Phase.FAILED:
        kind = entry.failure_kind.value if entry.failure_kind is not None else ""
        return replace(base, state=ProductState.FAILED, kind=kind, reason=entry.failure_reason)
    if entry.phase is Phase.DONE:
        return replace(base, state=ProductState.MISSING, reason="its file is gone; the next run downloads it again")
    return replace(base, state=ProductState.PARTIAL if have else ProductState.PENDING)


def size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # ValueError: the locale's encoding cannot hold the name
        return None
