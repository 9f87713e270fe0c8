"""Products that are faulty at their source: what is remembered of them, and whether to fetch one again. Pure."""

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
"""Where the archive names nothing that an edition could be told by, the product is fetched again after so many seconds."""
CLOCK_S = 86400.0
"""Seconds that the clock may have been set back since."""
MOST_SEEN = 16
"""Editions of which the marks are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatorSnapshot:
    """The marks of an edition as one source gave them; what it did not give is None."""

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
    """What speaks against a product's source; nothing in it is secret (`ValidatorSnapshot.source` has no query)."""

    id: str
    """`Product.id`."""
    expected: tuple[Checksum, ...]
    """What the manifest wanted."""
    found: tuple[Checksum, ...]
    """Of the bytes that came, in the algorithms of `expected`."""
    size: int
    """Bytes that came."""
    fetches: int
    """Fetches that brought these very bytes."""
    proven: bool
    """Every source was tried and two fetches agree; else it is a suspicion that the next fetch may confirm."""
    at: float
    """Unix time of the last fetch."""
    kept: str | None = None
    """Where the bytes are kept, relative to the destination."""
    seen: tuple[ValidatorSnapshot, ...] = ()
    """The marks of these bytes; a source may have several, such as those of a `HEAD`."""


class Comparison(Enum):
    """How an edition's marks compare with remembered ones."""

    SAME = "same"
    OTHER = "other"
    UNTOLD = "untold"  # nothing that both have could tell


class Recheck(Enum):
    """What follows from a look at a source that sends no body."""

    STANDS = "stands"  # it would send the same bytes again
    ANEW = "anew"  # it may have others now


def compare(seen: ValidatorSnapshot, head: Head, *, trust_etag: bool = True) -> Comparison:
    """Hold the head of a 200 against the marks of an edition; `trust_etag`: this host's ETags mean something."""
    coded = head.content_encoding.strip().lower() not in ("", "identity")
    # Some answer a HEAD with a length of 0, which is no length of a product.
    if seen.size is not None and head.content_length and not coded and seen.size != head.content_length:
        return Comparison.OTHER
    dates = None
    if seen.last_modified and head.last_modified:
        dates = Comparison.SAME if seen.last_modified == head.last_modified else Comparison.OTHER
    if seen.etag and head.etag and trust_etag:
        if seen.etag.removeprefix("W/") != head.etag.removeprefix("W/"):
            return Comparison.OTHER
        # An equal weak one says less than two dates that differ (RFC 9110 §8.8.1).
        return Comparison.SAME if strong_etag(head.etag) and strong_etag(seen.etag) else dates or Comparison.SAME
    return dates or Comparison.UNTOLD


def recheck(evidence: BadSourceEvidence, source: str, head: Head, *, now: float, trust_etag: bool = True) -> Recheck:
    """Whether `source`, which answered with the head of a 200, is worth another fetch; `now` is Unix time."""
    editions = {compare(seen, head, trust_etag=trust_etag) for seen in evidence.seen if seen.source == source}
    if Comparison.SAME in editions:
        return Recheck.STANDS
    if not editions or Comparison.OTHER in editions:
        return Recheck.ANEW
    # A clock that was set back far must not hold the product up for ever.
    return Recheck.STANDS if -CLOCK_S <= now - evidence.at < UNSEEN_S else Recheck.ANEW


def with_new_evidence(
    before: BadSourceEvidence | None, latest: BadSourceEvidence, *, earlier: int, everywhere: bool
) -> BadSourceEvidence:
    """What is known once another fetch has brought wrong bytes: `latest`, which knows of this fetch alone.

    `before`: what was known until now, of earlier runs too; `earlier`: fetches of this run, other than the one that
    `before` speaks of, that brought these bytes; `everywhere`: every source of the product has been tried in this run.
    """
    same = before is not None and set(before.found) == set(latest.found) and before.size == latest.size
    known = before if before is not None and same else None
    fetches = 1 + (known.fetches if known is not None else earlier)
    marks = dict.fromkeys((*(known.seen if known is not None else ()), *latest.seen))
    return replace(
        latest,
        fetches=fetches,
        proven=fetches > 1 and everywhere,
        kept=before.kept if before is not None else None,
        seen=tuple(marks)[-MOST_SEEN:],
    )
