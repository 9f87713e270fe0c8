"""What an attempt works with: the run's shared parts (`Bench`) and one product's state in this run (`Job`)."""

from __future__ import annotations

from dataclasses import field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from bulkdl.content.coding import is_the_format, named
from bulkdl.content.following import Follower
from bulkdl.dataclass import dataclass
from bulkdl.errors import TryAgain
from bulkdl.heritage import Estate
from bulkdl.model import FailureKind, Resume
from bulkdl.names import from_content_disposition, from_url
from bulkdl.resume import Known
from bulkdl.room import Promises
from bulkdl.standing import Standing
from bulkdl.urls import HostList, Url

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from bulkdl.ahead import Ahead
    from bulkdl.apart import Refusal
    from bulkdl.auth.signing import Signer
    from bulkdl.claims import Claims
    from bulkdl.clock import Clock
    from bulkdl.events import Hub
    from bulkdl.faulty import Evidence, Seen
    from bulkdl.hostfacts import HostBook
    from bulkdl.http import Http, Reply
    from bulkdl.lane import Lane
    from bulkdl.limits import Connections, HostPauses, RateLimit
    from bulkdl.model import Product, RunOptions, Settings
    from bulkdl.retry import Budget
    from bulkdl.store.journal import Entry, Journal
    from bulkdl.store.storage import Storage
    from bulkdl.together import Obstacle
    from bulkdl.transfer import Whole
    from bulkdl.witness import Witness

__all__ = ["MANY", "Bench", "Job", "Pace", "known_of"]

MANY = 1 << 16


@dataclass(slots=True, eq=False)
class Job:
    """One product's state in this run: memory only. What must survive is in the journal and on disk."""

    product: Product
    budget: Budget
    file: str | None = None
    """Known once the name is."""
    part: str | None = None
    """Its partial, once it is written to."""
    attempts: int = 0
    source_index: int = 0
    most_connections: int = MANY
    """Lowered when the server minds more."""
    sniffed: bool = False
    """The first bytes have been looked at in this edition."""
    resumed: int | None = None
    """Bytes found on disk and kept, once decided."""
    standing: Standing = Standing.ABSENT
    """What is thought of a file that is already at the final name."""
    is_new: bool = False
    """Nothing is known of it, and it has not been asked for."""
    dead_sources: set[int] = field(default_factory=set)
    """Those that can never give the product."""
    waits_for_room: bool = False
    moved: Entry | None = None
    """What to record once it is unpacked, where that is wished, and there is room: it has its final name already."""
    whole: Whole | None = None
    """In memory and handed over to be put in place with others."""
    delivered: Obstacle | None = None
    """What came of that, where it is not in place."""
    told_size: int | None = None
    """Bytes of the whole product, as the manifest or the archive last said."""
    overwrite: bool = False
    served_by: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    """Why complete bodies were not the product; the same twice is the source's fault."""
    wrong_bytes: list[Refusal] = field(default_factory=list)
    """Fetches that brought another checksum."""
    looked: list[Seen] = field(default_factory=list)
    """What the archive showed of a product that was found faulty before."""
    cleared: bool = False
    """There is a reason to fetch it all the same."""
    witness: Witness | None = None
    started_at: float = 0.0
    content_type: str = ""
    _follower: Follower | None = None

    @property
    def follower(self) -> Follower:
        """Computes the product's checksums while it arrives."""
        if self._follower is None:
            self._follower = Follower(checksum.algorithm for checksum in self.product.checksums)
        return self._follower

    def forget_digests(self) -> None:
        """What was computed while the product arrived holds no longer."""
        if self._follower is not None:
            self._follower.set_aside()

    @property
    def source(self) -> Url:
        return self.product.sources[self.source_index] if self.source_index else self.product.url

    def next_source(self) -> bool:
        """Turn to the next source that is not dead; False where every source is."""
        count = len(self.product.sources)
        for step in range(1, count + 1):
            index = (self.source_index + step) % count
            if index not in self.dead_sources:
                self.source_index = index
                return True
        return False

    @property
    def shown(self) -> str:
        """A name for people, from the start."""
        return self.file or self.product.file or from_url(self.product.url)

    def keeps_coding(self, reply: Reply) -> bool:
        """A `.gz` that is served with `Content-Encoding: gzip` is meant as it comes."""
        told = from_content_disposition(reply.head.disposition)
        names = (self.shown, told or "", from_url(self.source), from_url(reply.url))
        return is_the_format(named((reply.head.content_encoding,)), names)


@dataclass(slots=True)
class Pace:
    """The watchdog of one connection: less than `min_rate` bytes a second over `timeout` seconds of waiting ends it.

    Only time spent waiting for the network counts, so that a slow disk or a rate limit of our own is no stall.
    """

    clock: Clock
    timeout: float
    min_rate: int
    waited: float = 0.0
    received: int = 0

    async def read(self, reply: Reply) -> bytes:
        began = self.clock.monotonic()
        try:
            chunk = await reply.read()
        finally:
            self.waited += self.clock.monotonic() - began
        self.count(reply, len(chunk))
        return chunk

    def count(self, reply: Reply, received: int, *, waited: float = 0.0) -> None:
        """Note what has come after how long; raise `TryAgain` when that is too slow."""
        self.waited += waited
        self.received += received
        if self.waited >= self.timeout and received:
            if self.received < self.min_rate * self.waited:
                rate = self.received / self.waited
                raise TryAgain(
                    f"only {rate:.0f} bytes a second over {self.waited:.0f} s from {reply.url.host}",
                    kind=FailureKind.NETWORK,
                    hint="Lower --min-rate if that is what the link gives",
                )
            self.waited, self.received = 0.0, 0


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


_NOTHING = Known()


@lru_cache(maxsize=64)
def _only(host: str) -> HostList:
    return HostList((host,))


def known_of(entry: Entry | None) -> Known:
    """What the journal says is durably on disk of a product."""
    if entry is None:
        return _NOTHING
    return Known(
        ranges=entry.ranges,
        total=entry.total,
        etag=entry.etag,
        last_modified=entry.last_modified,
        source=entry.source,
    )
