"""What an attempt works with: the run's shared parts (`Bench`) and one product's state in this run (`Job`)."""

from __future__ import annotations

from dataclasses import field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Resume
from bulkdl.core.urls import HostList
from bulkdl.planning.orphaned_partials import Estate
from bulkdl.transfer.stall_watchdog import Pace
from bulkdl.transfer.state import Promises
from bulkdl.transfer.task import Job, known_of

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from bulkdl.auth.base import Signer
    from bulkdl.concurrency.connection_limiter import Connections
    from bulkdl.concurrency.rate_limiter import HostPauses, RateLimit
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.models import RunOptions, Settings
    from bulkdl.http.client import Http
    from bulkdl.http.fast_lane.takeover import Lane
    from bulkdl.http.lightweight.pipelined_requests import Ahead
    from bulkdl.http.response import Reply
    from bulkdl.journal.journal import Journal
    from bulkdl.journal.records import Entry
    from bulkdl.planning.name_registry import Claims
    from bulkdl.protocol.bad_source import Evidence
    from bulkdl.protocol.resume import Known
    from bulkdl.protocol.server_quirks import HostBook
    from bulkdl.storage.destination import Storage

__all__ = ["Bench"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The shared parts of a run, put together by `run`."""

    settings: Settings
    options: RunOptions
    hub: Hub
    clock: Clock
    rng: random.Random
    http: Http
    signers: Mapping[str | None, Signer]
    connections: Connections
    rate: RateLimit
    pauses: HostPauses
    storage: Storage
    journal: Journal
    claims: Claims
    promises: Promises = field(default_factory=Promises)
    """Room on the disk for the products in flight."""
    lane: Lane | None = None
    """The fast lane; None where it is turned off, or does not apply."""
    estate: Estate = field(default_factory=Estate)
    """Partials of products that are gone from the manifest."""
    hosts: HostBook
    evidence: dict[str, Evidence]
    """What speaks against products' sources, by product id."""
    parts: dict[str, str]
    """Whose each partial is, by product id: another product's, of this run or not, is never written to."""

    def is_taken(self, name: str, job: Job) -> bool:
        """Whether a partial of that name would be in another's way."""
        return self.claims.holder(name) is not None or self.parts.get(name, job.product.id) != job.product.id

    def part_for(self, job: Job, file: str) -> str:
        """The name of a new partial of `file`."""
        return self.storage.partial(file, job.product.id, taken=lambda name: self.is_taken(name, job))

    def lost_name(self, job: Job) -> bool:
        """Whether another product has the name that this one was given."""
        return job.file is not None and self.claims.holder(job.file) not in (None, job.product.index)

    def signer(self, job: Job) -> Signer:
        return self.signers[job.product.account]

    def open(self, job: Job, *, headers: Mapping[str, str], method: str = "GET") -> AbstractAsyncContextManager[Reply]:
        """A request for the product at its current source, with the account's credential where it may go."""
        signer = self.signer(job)
        return self.http.open(
            job.source,
            signer=signer,
            allowed=signer.hosts or _only(job.product.url.host),
            headers={**dict(job.product.headers), **headers} if job.product.headers else headers,
            method=method,
        )

    def ahead(self, job: Job) -> Ahead | None:
        """A connection on which the product and others of its origin may be asked for ahead; None where there is none."""
        signer, url = self.signer(job), job.product.url
        return self.http.ahead(url, signer=signer, allowed=signer.hosts or _only(url.host))

    def known(self, job: Job, entry: Entry | None) -> Known:
        """What is durably on disk, with a validator only where it is worth more than what takes its place.

        Where a host's ETags change without the bytes, the checksum or the overlap says whether a splice is right; without
        either the validator stays, which rules a wrong one out.
        """
        known = known_of(entry)
        if not known.ranges:
            return known
        caught = bool(job.product.checksums) or job.product.resume is Resume.OVERLAP
        if caught and self.hosts.has_moody_etags(job.source.origin):
            return replace(known, etag=None, last_modified=None)
        return known

    def pace(self) -> Pace:
        return Pace(self.clock, self.settings.timeout, self.settings.min_rate)


@lru_cache(maxsize=64)
def _only(host: str) -> HostList:
    return HostList((host,))
