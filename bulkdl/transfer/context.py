"""What an attempt works with: the run's shared parts (`RunContext`) and one product's state in this run (`DownloadTask`)."""

from __future__ import annotations

from dataclasses import field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
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

__all__ = ["RunContext"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The shared parts of a run, put together by `run`."""

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
    storage: Storage
    journal: Journal
    claims: NameRegistry
    reservations: SpaceReservations = field(default_factory=SpaceReservations)
    """Room on the disk for the products in flight."""
    lane: FastLane | None = None
    """The fast lane; None where it is turned off, or does not apply."""
    orphans: OrphanedPartials = field(default_factory=OrphanedPartials)
    """Partials of products that are gone from the manifest."""
    hosts: ServerQuirks
    evidence: dict[str, BadSourceEvidence]
    """What speaks against products' sources, by product id."""
    parts: dict[str, str]
    """Whose each partial is, by product id: another product's, of this run or not, is never written to."""

    def is_taken(self, name: str, task: DownloadTask) -> bool:
        """Whether a partial of that name would be in another's way."""
        return self.claims.holder(name) is not None or self.parts.get(name, task.product.id) != task.product.id

    def part_for(self, task: DownloadTask, file: str) -> str:
        """The name of a new partial of `file`."""
        return self.storage.partial(file, task.product.id, taken=lambda name: self.is_taken(name, task))

    def lost_name(self, task: DownloadTask) -> bool:
        """Whether another product has the name that this one was given."""
        return task.file is not None and self.claims.holder(task.file) not in (None, task.product.index)

    def signer(self, task: DownloadTask) -> Authenticator:
        return self.signers[task.product.account]

    def open(
        self, task: DownloadTask, *, headers: Mapping[str, str], method: str = "GET"
    ) -> AbstractAsyncContextManager[Response]:
        """A request for the product at its current source, with the account's credential where it may go."""
        signer = self.signer(task)
        return self.http.open(
            task.source,
            signer=signer,
            allowed=signer.hosts or _only(task.product.url.host),
            headers={**dict(task.product.headers), **headers} if task.product.headers else headers,
            method=method,
        )

    def ahead(self, task: DownloadTask) -> PipelinedRequests | None:
        """A connection on which the product and others of its origin may be asked for ahead; None where there is none."""
        signer, url = self.signer(task), task.product.url
        return self.http.ahead(url, signer=signer, allowed=signer.hosts or _only(url.host))

    def known(self, task: DownloadTask, entry: Entry | None) -> PartialState:
        """What is durably on disk, with a validator only where it is worth more than what takes its place.

        Where a host's ETags change without the bytes, the checksum or the overlap says whether a splice is right; without
        either the validator stays, which rules a wrong one out.
        """
        known = known_of(entry)
        if not known.ranges:
            return known
        caught = bool(task.product.checksums) or task.product.resume is Resume.OVERLAP
        if caught and self.hosts.has_unstable_etags(task.source.origin):
            return replace(known, etag=None, last_modified=None)
        return known

    def pace(self) -> StallWatchdog:
        return StallWatchdog(self.clock, self.settings.timeout, self.settings.min_rate)


@lru_cache(maxsize=64)
def _only(host: str) -> HostList:
    return HostList((host,))
