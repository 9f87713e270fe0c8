"""The head of a response, and the class of its status."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from bulkdl.protocol.byte_ranges import ContentRange

__all__ = ["Head", "StatusClass", "classify", "uncoded"]


class StatusClass(Enum):
    """Reaction that a status calls for."""

    BODY = "body"  # 200, 206: the head decides
    REDIRECT = "redirect"
    PREPARING = "preparing"  # 202: made on demand, retry later
    RANGE = "range"  # 416
    CREDENTIAL = "credential"  # 401, 403
    LATER = "later"  # temporary: retry
    NEVER = "never"  # permanent for this product, such as 404


_SINGLE_STATUS = {200: StatusClass.BODY, 206: StatusClass.BODY, 202: StatusClass.PREPARING, 416: StatusClass.RANGE}


_LATER_4XX = frozenset({408, 409, 421, 423, 425, 429})


_NEVER_5XX = frozenset({501, 505, 506, 508, 510})


def classify(status: int) -> StatusClass:
    """Return the class of a status: the only place that decides which statuses are retried (RFC 9110 §15).

    Unknown 3xx, 4xx and 5xx count as x00 of their class. Of the 2xx only 200 and 206 carry the product; a 203 was
    changed by a proxy.
    """
    if status in _SINGLE_STATUS:
        return _SINGLE_STATUS[status]
    if status in (301, 302, 303, 307, 308):
        return StatusClass.REDIRECT
    if status in (401, 403):
        return StatusClass.CREDENTIAL
    if status in _LATER_4XX or (500 <= status <= 599 and status not in _NEVER_5XX):
        return StatusClass.LATER
    return StatusClass.NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Fields of a response's head that the decisions use."""

    status: int
    content_length: int | None = None
    content_range: ContentRange | None = None
    content_type: str = ""
    content_encoding: str = ""
    etag: str | None = None
    last_modified: str | None = None
    date: str | None = None
    accept_ranges: str = ""
    disposition: str = ""
    retry_after: str | None = None
    digests: tuple[tuple[str, str], ...] = ()
    """Fields that carry digests (`digest_fields`), names in lower case."""


def uncoded(head: Head) -> Head:
    """Return `head` without the fields that describe only the encoded representation.

    Its length, ranges and validators are not those of the decoded product (RFC 9110 §8.4, §8.6, §8.8.3, §14.2). Its
    digests are of the coded bytes too, or do not say of which (RFC 3230 §4.1.1, RFC 9530 §2 and appendix A).
    """
    return replace(
        head, content_encoding="", content_length=None, etag=None, last_modified=None, accept_ranges="", digests=()
    )
