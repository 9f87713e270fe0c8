"""Which bytes of a product a request asks for: `Range` and `If-Range` as RFC 9110 §14.2 and §13.1.5 have them."""

from __future__ import annotations

import re
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.demo_server.catalog import Validators

if TYPE_CHECKING:
    from bulkdl.demo_server.catalog import Item

__all__ = ["Part", "Unsatisfiable", "Whole", "http_date", "select", "validator_headers"]

_RANGE = re.compile(r"bytes=\s*(\d*)-(\d*)\s*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Whole:
    """200: the request names no range, or one that is to be ignored."""


@dataclass(frozen=True, slots=True)
class Part:
    """206: bytes `start` to `stop` (exclusive)."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """416: no byte of the range exists."""


def select(item: Item, range_header: str | None, if_range: str | None) -> Whole | Part | Unsatisfiable:
    """Decide what a GET receives. Several ranges, other units and malformed ones are ignored."""
    match = _RANGE.fullmatch(range_header or "")
    if match is None or match.groups() == ("", ""):
        return Whole()
    if if_range is not None and not _same_edition(item, if_range.strip()):
        return Whole()
    first, last = match.groups()
    if not first:
        start, stop = max(0, item.size - int(last)), item.size
    else:
        start, stop = int(first), min(item.size, int(last) + 1) if last else item.size
        if last and int(last) < int(first):
            return Whole()
    return Part(start, stop) if start < stop else Unsatisfiable()


def validator_headers(item: Item) -> dict[str, str]:
    """The `ETag` and `Last-Modified` that a response about this item carries."""
    headers = {}
    if item.validators in {Validators.BOTH, Validators.ETAG, Validators.WEAK}:
        headers["ETag"] = item.etag
    if item.validators in {Validators.BOTH, Validators.DATE}:
        headers["Last-Modified"] = http_date(item.last_modified)
    return headers


def http_date(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)


def _same_edition(item: Item, validator: str) -> bool:
    sent = validator_headers(item)
    if validator.startswith(('"', "W/")):
        return not validator.startswith("W/") and validator == sent.get("ETag")
    try:
        # A date matches only exactly; the archive never changes a product twice in a second.
        return "Last-Modified" in sent and parsedate_to_datetime(validator).timestamp() == item.last_modified
    except ValueError:
        return False
