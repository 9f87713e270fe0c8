"""One product's state in this run."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from bulkdl.content.incremental_hash import IncrementalHasher
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.filenames import from_content_disposition, from_url
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.protocol.content_coding import is_the_format, named
from bulkdl.protocol.resume import PartialState
from bulkdl.transfer.state import Rejections

if TYPE_CHECKING:
    from bulkdl.core.models import Product
    from bulkdl.core.urls import Url
    from bulkdl.http.response import Response
    from bulkdl.journal.records import Entry
    from bulkdl.transfer.retry import AttemptBudget
    from bulkdl.transfer.state import FinalizeError, OldBytesSample, SmallProduct


__all__ = ["MANY", "DownloadTask", "known_of"]


MANY = 1 << 16


@dataclass(slots=True, eq=False)
class DownloadTask:
    """One product's state in this run: memory only. What must survive is in the journal and on disk."""

    product: Product
    budget: AttemptBudget
    file: str | None = None
    """Known once the name is."""
    part: str | None = None
    """Its partial, once it is written to."""
    attempts: int = 0
    source_index: int = 0
    most_connections: int = MANY
    """Lowered when the server minds more."""
    sniffed: bool = False
    """The first bytes have been rechecks at in this edition."""
    resumed: int | None = None
    """Bytes found on disk and kept, once decided."""
    local_status: LocalFileStatus = LocalFileStatus.ABSENT
    """What is thought of a file that is already at the final name."""
    is_new: bool = False
    """Nothing is known of it, and it has not been asked for."""
    dead_sources: set[int] = field(default_factory=set)
    """Those that can never give the product."""
    waits_for_room: bool = False
    moved: Entry | None = None
    """What to record once it is unpacked, where that is wished, and there is room: it has its final name already."""
    whole: SmallProduct | None = None
    """In memory and handed over to be put in place with others."""
    finalize_error: FinalizeError | None = None
    """What came of that, where it is not in place."""
    known_size: int | None = None
    """Bytes of the whole product, as the manifest or the archive gave them last."""
    overwrite: bool = False
    served_by: list[str] = field(default_factory=list)
    old_bytes: OldBytesSample | None = None
    started_at: float = 0.0
    content_type: str = ""
    _rejections: Rejections | None = None
    _follower: IncrementalHasher | None = None

    @property
    def rejections(self) -> Rejections:
        """Record of this run's downloads that were not the product; most products never need one."""
        if self._rejections is None:
            self._rejections = Rejections()
        return self._rejections

    @property
    def hasher(self) -> IncrementalHasher:
        """Computes the product's checksums while it arrives."""
        if self._follower is None:
            self._follower = IncrementalHasher(checksum.algorithm for checksum in self.product.checksums)
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

    def keeps_coding(self, reply: Response) -> bool:
        """A `.gz` that is served with `Content-Encoding: gzip` is meant as it comes."""
        told = from_content_disposition(reply.head.disposition)
        names = (self.shown, told or "", from_url(self.source), from_url(reply.url))
        return is_the_format(named((reply.head.content_encoding,)), names)


_NOTHING = PartialState()


def known_of(entry: Entry | None) -> PartialState:
    """What the journal says is durably on disk of a product."""
    if entry is None:
        return _NOTHING
    return PartialState(
        ranges=entry.ranges,
        total=entry.total,
        etag=entry.etag,
        last_modified=entry.last_modified,
        source=entry.source,
    )
