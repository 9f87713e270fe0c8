"""Evaluation of `Range` and `If-Range` (RFC 9110 §14.2 and §13.1.5) by the demo archive."""

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
    """200: the request has no range, or one that the server must ignore."""


@dataclass(frozen=True, slots=True)
class Part:
    """206: bytes `start` to `stop` (exclusive)."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """416: no byte of the range exists."""


def select(item: Item, range_header: str | None, if_range: str | None) -> Whole | Part | Unsatisfiable:
    """Select the response to a GET. Multiple ranges, other units and malformed ranges are ignored."""
    match = _RANGE.fullmatch(range_header or "")
    if match is None or match.groups() == ("", ""):
        return Whole()
    if if_range is not None and not _matches_validator(item, if_range.strip()):
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
    """Return the `ETag` and `Last-Modified` fields of a response for this item."""
    headers = {}
    if item.validators in {Validators.BOTH, Validators.ETAG, Validators.WEAK}:
        headers["ETag"] = item.etag
    if item.validators in {Validators.BOTH, Validators.DATE}:
        headers["Last-Modified"] = http_date(item.last_modified)
    return headers


def http_date(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)


def _matches_validator(item: Item, validator: str) -> bool:
    sent = validator_headers(item)
    if validator.startswith(('"', "W/")):
        return not validator.startswith("W/") and validator == sent.get("ETag")
    try:
        # Only an exact date matches. It is a strong validator here: no product changes twice within a second.
        return "Last-Modified" in sent and parsedate_to_datetime(validator).timestamp() == item.last_modified
    except ValueError:
        return False
