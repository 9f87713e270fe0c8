"""Evidence that a product is wrong at its source, and when to download it again. Pure.

Proof needs two downloads with identical bytes that do not match the manifest's checksum, after every source was tried.
The first of them may belong to an earlier run: the journal keeps the evidence. A later run requests only the validators
(no body). Other validators, or `UNSEEN_S` without any, lead to another download.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.protocol.headers import strong_etag

if TYPE_CHECKING:
    from bulkdl.core.models import Checksum
    from bulkdl.protocol.response_head import Head

__all__ = [
    "UNSEEN_S",
    "BadSourceEvidence",
    "Comparison",
    "Recheck",
    "ValidatorSnapshot",
    "compare",
    "recheck",
    "with_new_evidence",
]

UNSEEN_S = 7 * 86400.0
"""Seconds after which the product is downloaded again if the archive sends no validator that could show a change."""
CLOCK_S = 86400.0
"""Seconds that the system clock may have been set back since the evidence was recorded."""
MOST_SEEN = 16
"""Limit of validator snapshots in the evidence for one product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatorSnapshot:
    """Size and validators of a representation as one source sent them; None for each that is missing."""

    source: str
    """`Url.source`."""
    size: int | None = None
    """Bytes."""
    etag: str | None = None
    """As the server sent it."""
    last_modified: str | None = None
    """Only if usable as a strong validator (RFC 9110 §8.8.2.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadSourceEvidence:
    """Evidence that a product's source is wrong; without secrets, since `ValidatorSnapshot.source` has no query."""

    id: str
    """`Product.id`."""
    expected: tuple[Checksum, ...]
    """Checksums in the manifest."""
    found: tuple[Checksum, ...]
    """Checksums of the downloaded bytes, in the algorithms of `expected`."""
    size: int
    """Number of downloaded bytes."""
    fetches: int
    """Number of downloads that gave exactly these bytes."""
    proven: bool
    """True if every source was tried and two downloads agree; else a suspicion that the next download may confirm."""
    at: float
    """Unix time of the last download."""
    kept: str | None = None
    """Path of the quarantined bytes, relative to the destination."""
    seen: tuple[ValidatorSnapshot, ...] = ()
    """Validators of these bytes; one source may have several snapshots, such as another one for `HEAD`."""


class Comparison(Enum):
    """Result of comparing the validators of a response with a snapshot."""

    SAME = "same"
    OTHER = "other"
    UNKNOWN = "unknown"  # the two have no validator in common


class Recheck(Enum):
    """Result of rechecking a source without requesting the body."""

    UNCHANGED = "unchanged"  # it would send the same bytes again
    DOWNLOAD_AGAIN = "download again"  # it may have other bytes now


def compare(seen: ValidatorSnapshot, head: Head, *, trust_etag: bool = True) -> Comparison:
    """Compare the head of a 200 with a snapshot; `trust_etag`: False if this host's ETags are unstable."""
    coded = head.content_encoding.strip().lower() not in ("", "identity")
    # Some servers answer a HEAD with a length of 0, which says nothing about the product.
    if seen.size is not None and head.content_length and not coded and seen.size != head.content_length:
        return Comparison.OTHER
    dates = None
    if seen.last_modified and head.last_modified:
        dates = Comparison.SAME if seen.last_modified == head.last_modified else Comparison.OTHER
    if seen.etag and head.etag and trust_etag:
        if seen.etag.removeprefix("W/") != head.etag.removeprefix("W/"):
            return Comparison.OTHER
        # Two equal weak ETags prove less than two different dates, so the dates decide (RFC 9110 §8.8.1).
        return Comparison.SAME if strong_etag(head.etag) and strong_etag(seen.etag) else dates or Comparison.SAME
    return dates or Comparison.UNKNOWN


def recheck(evidence: BadSourceEvidence, source: str, head: Head, *, now: float, trust_etag: bool = True) -> Recheck:
    """Decide whether to download again from `source`, which answered with a 200; `now` is Unix time."""
    results = {compare(seen, head, trust_etag=trust_etag) for seen in evidence.seen if seen.source == source}
    if Comparison.SAME in results:
        return Recheck.UNCHANGED
    if not results or Comparison.OTHER in results:
        return Recheck.DOWNLOAD_AGAIN
    # If the clock was set back far, download again, else the product would be blocked for a very long time.
    return Recheck.UNCHANGED if -CLOCK_S <= now - evidence.at < UNSEEN_S else Recheck.DOWNLOAD_AGAIN


def with_new_evidence(
    before: BadSourceEvidence | None, latest: BadSourceEvidence, *, earlier: int, everywhere: bool
) -> BadSourceEvidence:
    """Return the evidence after another download gave wrong bytes; `latest` covers this download alone.

    `before`: evidence so far, including that of earlier runs; `earlier`: number of downloads in this run that gave
    these bytes, without the one in `before`; `everywhere`: every source of the product has been tried in this run.
    """
    same = before is not None and set(before.found) == set(latest.found) and before.size == latest.size
    known = before if before is not None and same else None
    fetches = 1 + (known.fetches if known is not None else earlier)
    snapshots = dict.fromkeys((*(known.seen if known is not None else ()), *latest.seen))
    return replace(
        latest,
        fetches=fetches,
        proven=fetches > 1 and everywhere,
        kept=before.kept if before is not None else None,
        seen=tuple(snapshots)[-MOST_SEEN:],
    )
