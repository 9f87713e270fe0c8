"""The state of one product in this run."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from bulkdl.content.incremental_hash import IncrementalHasher
from bulkdl.content.verify import NO_SERVER_DIGEST, ServerDigest, algorithms_for
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.filenames import from_url
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.protocol.content_coding import is_file_format, parse_codings
from bulkdl.protocol.content_disposition import file_name
from bulkdl.protocol.resume import PartialState
from bulkdl.transfer.state import Rejections

if TYPE_CHECKING:
    from bulkdl.concurrency.connection_limiter import Slot
    from bulkdl.concurrency.host_connections import Limits
    from bulkdl.core.errors import TryAgain
    from bulkdl.core.models import Checksum, FailureKind, Product
    from bulkdl.core.urls import Url
    from bulkdl.http.response import Response
    from bulkdl.journal.records import Entry
    from bulkdl.transfer.retry import AttemptBudget
    from bulkdl.transfer.state import FinalizeError, OldBytesSample, SmallProduct


__all__ = ["MANY", "DownloadTask", "known_of"]


MANY = 1 << 16
"""Number of connections that stands for 'no limit yet'."""


@dataclass(slots=True, eq=False)
class DownloadTask:
    """State of one product in this run, in memory only. Everything that must survive is in the journal and on disk."""

    product: Product
    budget: AttemptBudget
    file: str | None = None
    """Final name, relative to the destination; None until the manifest, the journal or the server has given it."""
    part: str | None = None
    """Name of its partial, once an attempt has chosen one."""
    attempts: int = 0
    waits_for_slot: int = 0
    """Those of these attempts that met a limit of connections, and so are not the product's own."""
    source_index: int = 0
    most_connections: int = MANY
    """Limit of connections for this product; lowered when the server refuses a further one."""
    sniffed: bool = False
    """True if the first bytes of the current representation have been checked for an error page."""
    resumed: int | None = None
    """Bytes that were on disk before and were kept; None until an attempt has decided that."""
    local_status: LocalFileStatus = LocalFileStatus.ABSENT
    """Status of an existing file at the final path."""
    is_new: bool = False
    """No journal entry and no request yet, so it is eligible for pipelining."""
    dead_sources: set[int] = field(default_factory=set)
    """Indexes of the sources that have failed for good."""
    waits_for_room: bool = False
    """True if the disk was too full for it."""
    moved: Entry | None = None
    """Entry that is still to be recorded: the product has its final name, but is not unpacked, or the disk was full."""
    whole: SmallProduct | None = None
    """Body in memory, submitted for batch finalizing."""
    finalize_error: FinalizeError | None = None
    """Why batch finalizing failed, if it did."""
    known_size: int | None = None
    """Bytes of the whole product, as the manifest or the archive gave them last."""
    overwrite: bool = False
    """True if the product may replace the file at its final name."""
    entered: str | None = None
    """Origin that counts this task as in flight; None while no worker has it."""
    slot: Slot | None = None
    """Right to a connection that was reserved for the next attempt, or that the attempt has."""
    limits_before: Limits | None = None
    """Limits of the connections before a refusal that may have been this product's own trouble."""
    turned_away_at: float = 0.0
    """Time (monotonic) of the latest such refusal."""
    turned_away_alone: int = 0
    """Such refusals before which others had been answered since the one before."""
    attempt_began: float = 0.0
    """Time (monotonic) at which the latest attempt began."""
    is_answered: bool = False
    """True if the latest attempt got the head of a representation that the product can use."""
    crowded: int = 0
    """Refusals in a row while the origin was serving other products."""
    failed_probe: bool = False
    """True if an attempt of this task was the probe of an origin that was out of order, and failed."""
    suspended: tuple[float, TryAgain] | None = None
    """Time and error of an attempt that is counted only if the origin turns out to be in order."""
    refused_at: float | None = None
    """Time (monotonic) of a refusal that seemed final; the product is asked for once more before it fails."""
    refusal: tuple[FailureKind, str] | None = None
    """Kind and reason of that refusal: the product's failure, if its origin is given up before the second look."""
    served_by: list[str] = field(default_factory=list)
    """Hosts that have sent bytes of it, in order."""
    old_bytes: OldBytesSample | None = None
    started_at: float = 0.0
    content_type: str = ""
    server_digest: ServerDigest = NO_SERVER_DIGEST
    """Digest that the server sent of the representation that is arriving."""
    was_decoded: bool = False
    """True if a content coding was removed from the bytes that came last."""
    _rejections: Rejections | None = None
    _hasher: IncrementalHasher | None = None

    @property
    def own_attempts(self) -> int:
        """Return the attempts that count as the product's."""
        return max(min(1, self.attempts), self.attempts - self.waits_for_slot)

    @property
    def rejections(self) -> Rejections:
        """Record of this run's downloads that were not the product; most products never need one."""
        if self._rejections is None:
            self._rejections = Rejections()
        return self._rejections

    @property
    def hasher(self) -> IncrementalHasher:
        """Hasher that computes the product's digests while it arrives."""
        algorithms = algorithms_for(self.product, self.server_digest)
        if self._hasher is None or self._hasher.algorithms != algorithms:
            self._hasher = IncrementalHasher(algorithms)
        return self._hasher

    def expect(self, digests: tuple[Checksum, ...], *, field: str = "", etag: str | None = None) -> None:
        """Expect the bytes of the version `etag` to have `digests`, which `field` of this or an earlier response brought."""
        if digests != self.server_digest.checksums:
            self.server_digest = ServerDigest(digests, field, etag)

    def forget_digests(self) -> None:
        """Discard the checksums that were computed so far: the next attempt may write other bytes."""
        if self._hasher is not None:
            self._hasher.invalidate()

    def note_response(self, content_type: str, *, host: str) -> None:
        """Note the type of the representation, and the host that sends it."""
        self.content_type = content_type
        if host not in self.served_by:
            self.served_by.append(host)

    def note_resumed(self, have: int) -> None:
        """Note the bytes on disk that are not requested again; after the first attempt only the loss of all of them counts."""
        if self.resumed is None or not have:
            self.resumed = have

    @property
    def needs_origin(self) -> bool:
        """True if the next step of this task sends requests; a body in memory or a renamed file needs none."""
        return self.moved is None and self.finalize_error is None

    @property
    def source(self) -> Url:
        return self.product.sources[self.source_index] if self.source_index else self.product.url

    def next_source(self) -> bool:
        """Switch to the next source that has not failed for good; return False if all have."""
        count = len(self.product.sources)
        for step in range(1, count + 1):
            index = (self.source_index + step) % count
            if index not in self.dead_sources:
                self.source_index = index
                return True
        return False

    @property
    def shown(self) -> str:
        """Name for messages; it exists before the final name is known."""
        return self.file or self.product.expected_file

    def keeps_coding(self, response: Response) -> bool:
        """Return whether the content coding is the product's own format: a `.gz` served with `Content-Encoding: gzip`."""
        suggested = file_name(response.head.disposition)
        names = (self.shown, suggested or "", from_url(self.source), from_url(response.url))
        return is_file_format(parse_codings((response.head.content_encoding,)), names)


_NOTHING_ON_DISK = PartialState()


def known_of(entry: Entry | None) -> PartialState:
    """Return what is durably on disk of a product, according to the journal."""
    if entry is None:
        return _NOTHING_ON_DISK
    return PartialState(
        ranges=entry.ranges,
        total=entry.total,
        etag=entry.etag,
        last_modified=entry.last_modified,
        source=entry.source,
    )
