"""The head of a response, and who acts on its status."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from bulkdl.protocol.byte_ranges import ContentRange

__all__ = ["Head", "StatusClass", "classify", "uncoded"]


class StatusClass(Enum):
    """Who acts on a response's status."""

    BODY = "body"  # 200, 206: look at the head
    REDIRECT = "redirect"
    PREPARING = "preparing"  # 202: made on demand, come back
    RANGE = "range"  # 416
    CREDENTIAL = "credential"  # 401, 403
    LATER = "later"  # passing: try again
    NEVER = "never"  # the product's own fault: 404 and its kin


_OWN = {200: StatusClass.BODY, 206: StatusClass.BODY, 202: StatusClass.PREPARING, 416: StatusClass.RANGE}


_LATER_4XX = frozenset({408, 409, 421, 423, 425, 429})


_NEVER_5XX = frozenset({501, 505, 506, 508, 510})


def classify(status: int) -> StatusClass:
    """The one place that says what is tried again (RFC 9110 §15); unknown codes from 300 on count as their class's x00.

    Of the 2xx only 200 and 206 carry the product itself: 203 is one that a proxy has changed.
    """
    if status in _OWN:
        return _OWN[status]
    if status in (301, 302, 303, 307, 308):
        return StatusClass.REDIRECT
    if status in (401, 403):
        return StatusClass.CREDENTIAL
    if status in _LATER_4XX or (500 <= status <= 599 and status not in _NEVER_5XX):
        return StatusClass.LATER
    return StatusClass.NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The parts of a response's head that decide."""

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


def uncoded(head: Head) -> Head:
    """`head` without what speaks of the coded representation alone.

    Its length, its ranges and its validators are not those of the product (RFC 9110 §8.4, §8.6, §8.8.3, §14.2).
    """
    return replace(head, content_encoding="", content_length=None, etag=None, last_modified=None, accept_ranges="")
