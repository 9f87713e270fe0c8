"""The shared parts of a run, which every attempt works with."""

from __future__ import annotations

from dataclasses import field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.filenames import fold
from bulkdl.core.models import Resume
from bulkdl.core.urls import HostList
from bulkdl.planning.orphaned_partials import OrphanedPartials
from bulkdl.transfer.stall_watchdog import StallWatchdog
from bulkdl.transfer.state import SpaceReservations
from bulkdl.transfer.task import DownloadTask, known_of

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from bulkdl.auth.base import Authenticator
    from bulkdl.concurrency.connection_limiter import ConnectionLimiter
    from bulkdl.concurrency.outages import Outages
    from bulkdl.concurrency.quota_meter import QuotaMeter
    from bulkdl.concurrency.rate_limiter import HostBackoff, RateLimit
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.models import RunOptions, Settings
    from bulkdl.http.client import HttpClient
    from bulkdl.http.fast_lane.takeover import FastLane
    from bulkdl.http.lightweight.pipelined_requests import PipelinedRequests
    from bulkdl.http.response import Response
    from bulkdl.journal.journal import Journal
    from bulkdl.journal.records import Entry
    from bulkdl.planning.name_registry import NameRegistry
    from bulkdl.protocol.bad_source import BadSourceEvidence
    from bulkdl.protocol.resume import PartialState
    from bulkdl.protocol.server_quirks import ServerQuirks
    from bulkdl.storage.destination import Storage
    from bulkdl.transfer.canary import Canaries

__all__ = ["RunContext"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """Shared parts of a run, put together by `operations/execute`. The state of one product is its `DownloadTask`."""

    settings: Settings
    options: RunOptions
    hub: Hub
    clock: Clock
    rng: random.Random
    http: HttpClient
    signers: Mapping[str | None, Authenticator]
    connections: ConnectionLimiter
    rate: RateLimit
    pauses: HostBackoff
    quotas: QuotaMeter
    outages: Outages
    canaries: Canaries
    storage: Storage
    journal: Journal
    claims: NameRegistry
    reservations: SpaceReservations = field(default_factory=SpaceReservations)
    """Disk space that is reserved for the products in flight."""
    lane: FastLane | None = None
    """Fast lane; None if it is turned off or does not apply."""
    orphans: OrphanedPartials = field(default_factory=OrphanedPartials)
    """Partials of products that are no longer in the manifest."""
    hosts: ServerQuirks
    evidence: dict[str, BadSourceEvidence]
    """Evidence that products are faulty at their sources, by product id."""
    parts: dict[str, str]
    """Product id of the owner of each partial, by folded name. No product writes to another's partial, of this run or an earlier one."""

    def is_taken(self, name: str, task: DownloadTask) -> bool:
        """Return whether a partial of that name would collide with another product."""
        return self.claims.holder(name) is not None or self.parts.get(fold(name), task.product.id) != task.product.id

    def part_for(self, task: DownloadTask, file: str) -> str:
        """Return a name for a new partial of `file`."""
        return self.storage.partial(file, task.product.id, taken=lambda name: self.is_taken(name, task))

    def lost_name(self, task: DownloadTask) -> bool:
        """Return whether another product has the name that this one was given."""
        return task.file is not None and self.claims.holder(task.file) not in (None, task.product.index)

    def signer(self, task: DownloadTask) -> Authenticator:
        return self.signers[task.product.account]

    def open(
        self, task: DownloadTask, *, headers: Mapping[str, str], method: str = "GET"
    ) -> AbstractAsyncContextManager[Response]:
        """Send a request for the product to its current source, with the account's credential if the host may have it.

        Raise `QuotaReached` if its account has used its share of a quota.
        """
        product = task.product
        size = None if product.size is None else max(0, product.size - task.budget.furthest)
        self.quotas.admit(product.account, product.id, size=size, is_download=method == "GET")
        signer = self.signer(task)
        return self.http.open(
            task.source,
            signer=signer,
            allowed=signer.hosts or _only(task.product.url.host),
            headers={**dict(task.product.headers), **headers} if task.product.headers else headers,
            method=method,
        )

    def ahead(self, task: DownloadTask) -> PipelinedRequests | None:
        """Return a connection for pipelined requests to the product's origin, None if that is not possible."""
        if not self.quotas.may_pipeline(task.product.account):
            return None
        signer, url = self.signer(task), task.product.url
        return self.http.ahead(url, signer=signer, allowed=signer.hosts or _only(url.host))

    def known(self, task: DownloadTask, entry: Entry | None) -> PartialState:
        """Return what is durably on disk, without its validator if the host's ETags are unstable.

        Then the checksum or the overlap tells if a splice is right. If the product has neither, the validator stays, because
        nothing else rules out a wrong splice.
        """
        known = known_of(entry)
        if not known.ranges:
            return known
        would_be_caught = bool(task.product.checksums) or task.product.resume is Resume.OVERLAP
        if would_be_caught and self.hosts.has_unstable_etags(task.source.origin):
            return replace(known, etag=None, last_modified=None)
        return known

    def count_received(self, task: DownloadTask, count: int) -> None:
        """Count bytes of a body that arrived, whatever becomes of them."""
        self.hub.counters.received += count
        self.quotas.receive(task.product.account, task.product.id, count)

    def pace(self) -> StallWatchdog:
        return StallWatchdog(self.clock, self.settings.timeout, self.settings.min_rate, self.rate)


@lru_cache(maxsize=64)
def _only(host: str) -> HostList:
    return HostList((host,))
