"""What to ask for, and what to do with the answer's head, given what is on disk. Pure.

`next_request` turns the recorded facts of a partial into a request; `evaluate_response` turns that request and the head of its response
into a `Decision`. Everything that could splice two editions of a product into one file is decided here and nowhere else.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, StrEnum

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind, Resume
from bulkdl.core.units import MAX_BYTES
from bulkdl.protocol.byte_ranges import ContentRange, Range, cover, normalise
from bulkdl.protocol.content_coding import decodable, named
from bulkdl.protocol.headers import strong_etag
from bulkdl.protocol.response_head import Head, StatusClass, classify, uncoded

__all__ = [
    "Action",
    "Decision",
    "DecisionReason",
    "PartialState",
    "RangeRequest",
    "evaluate_response",
    "is_plain_full_response",
    "next_request",
    "validator",
]

OVERLAP = 64 * 1024
"""Bytes that `resume: overlap` compares before it goes on."""


class Action(Enum):
    APPEND = "append"  # the body continues what is on disk
    RESTART = "restart"  # the body is the whole representation: forget what is on disk, write from zero
    ASK_ANEW = "ask anew"  # what is on disk is of no use with this server: forget it, ask for the whole
    WAIT = "wait"  # made on demand: come back
    RETRY = "retry"  # a passing fault
    REFUSED = "refused"  # 401, 403: the credential or the permission
    REJECT = "reject"  # no attempt will mend it


class DecisionReason(StrEnum):
    """The reason for a decision, for logs and tests."""

    WHOLE = "the whole representation"
    CONTINUED = "the range that was asked for"
    SAME_EDITION_FROM_ZERO = "the range was ignored, the edition is the same"
    RANGE_IGNORED = "the range was ignored or the edition has changed"
    EDITION_CHANGED = "the server has another edition now"
    RANGE_UNSATISFIABLE = "the server has no such range"
    UNASKED_RANGE = "a range that was not asked for"
    WRONG_RANGE = "another range than the one that was asked for"
    NO_CONTENT_RANGE = "a partial response without a usable Content-Range"
    MULTIPART = "a multipart response to a single range"
    LENGTHS_DISAGREE = "Content-Length and Content-Range disagree"
    CODED = "a content coding that was not asked for"
    WRONG_SIZE = "another size than the manifest's"
    ABSURD_LENGTH = "a length that no file can have"
    EMPTY = "an empty body for a product that is partly here"
    PREPARING = "the product is being prepared"
    STATUS = "the status"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialState:
    """What is durably on disk of a product, and the recorded validator of the representation that it is part of."""

    ranges: tuple[Range, ...] = ()
    total: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    source: str = ""

    @property
    def have(self) -> int:
        return cover(self.ranges)

    @property
    def complete(self) -> bool:
        return self.total is not None and normalise(self.ranges) == (((0, self.total),) if self.total else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeRequest:
    """One request: the range to ask for, None for the whole; `overlap` bytes at its start are compared, not written."""

    range: tuple[int, int | None] | None = None
    if_range: str | None = None
    overlap: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """RFC 9110 §14.2 and §13.1.5."""
        if self.range is None:
            return {}
        start, end = self.range
        fields = {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        if self.if_range:
            fields["If-Range"] = self.if_range
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    action: Action
    why: DecisionReason
    start: int = 0
    """The offset in the product of the body's first byte."""
    total: int | None = None
    """The length of the representation, where the server told."""
    kind: FailureKind = FailureKind.HTTP
    detail: str = ""
    coding: str = ""
    """What has to come off the body before it is the product; such a body cannot be continued."""


def validator(known: PartialState, source: str) -> str | None:
    """What may go into If-Range (RFC 9110 §13.1.5): a date only where there is no ETag at all, not even a weak one."""
    if known.source != source:
        return None
    return strong_etag(known.etag) if known.etag else known.last_modified


_WHOLE = RangeRequest()


def next_request(known: PartialState, *, source: str, has_checksum: bool, resume: Resume) -> RangeRequest:
    """The request that continues `known` where that is safe, else one for the whole.

    A partial is continued where a splice of two editions is ruled out (the same strong validator at the same source) or
    would be caught (a checksum in the manifest), or where the user has chosen to compare an overlap.
    """
    if not known.ranges:
        return _WHOLE
    start = next((end for begin, end in normalise(known.ranges) if begin == 0), 0)
    end = next((begin for begin, _ in normalise(known.ranges) if begin > start), None)
    if known.complete or (start == 0 and end is None):
        return RangeRequest()
    condition = validator(known, source)
    if condition or has_checksum:
        return RangeRequest(range=(start, end), if_range=condition)
    if resume is Resume.OVERLAP and known.total is not None and start >= OVERLAP and end is None:
        return RangeRequest(range=(start - OVERLAP, None), overlap=OVERLAP)
    return RangeRequest()


def evaluate_response(
    head: Head,
    *,
    ask: RangeRequest,
    known: PartialState,
    source: str,
    expected_size: int | None = None,
    keep_coding: bool = False,
) -> Decision:
    """What the response is good for; `keep_coding`: the product's own name says that the coding is its format."""
    group = classify(head.status)
    if group is StatusClass.PREPARING:
        return Decision(action=Action.WAIT, why=DecisionReason.PREPARING, kind=FailureKind.OFFLINE)
    if group is StatusClass.CREDENTIAL:
        return Decision(action=Action.REFUSED, why=DecisionReason.STATUS, kind=FailureKind.AUTH)
    if group is StatusClass.LATER:
        return Decision(action=Action.RETRY, why=DecisionReason.STATUS)
    if group is StatusClass.RANGE:
        if ask.range is None:
            return Decision(action=Action.RETRY, why=DecisionReason.RANGE_UNSATISFIABLE)
        return Decision(action=Action.ASK_ANEW, why=DecisionReason.RANGE_UNSATISFIABLE)
    if group is not StatusClass.BODY:
        return Decision(action=Action.REJECT, why=DecisionReason.STATUS)
    coding = "" if keep_coding else named((head.content_encoding,))
    if coding and not decodable(coding):
        return Decision(action=Action.REJECT, why=DecisionReason.CODED, kind=FailureKind.CONTENT, detail=_shown(coding))
    if coding and head.status == 200:
        return replace(_judge_coded(head, ask=ask, known=known, source=source), coding=coding)
    if coding and ask.range is not None:
        return Decision(
            action=Action.ASK_ANEW, why=DecisionReason.CODED
        )  # a part of the coded bytes is no part of the product
    if head.status == 200:
        return _judge_whole(head, ask=ask, known=known, source=source, expected_size=expected_size)
    return _judge_part(head, ask=ask, known=known, source=source, expected_size=expected_size)


def is_plain_full_response(head: Head, *, expected_size: int | None) -> int | None:
    """The length of a body that `evaluate_response` would take as it comes where nothing of the product is on disk; None: ask `evaluate_response`."""
    length = head.content_length
    if head.status != 200 or head.content_encoding or not length or length > MAX_BYTES:
        return None
    return length if expected_size is None or length == expected_size else None


def _shown(text: str) -> str:
    """A server's word, fit for a message."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text[:40])


def _judge_coded(head: Head, *, ask: RangeRequest, known: PartialState, source: str) -> Decision:
    if head.content_length is not None and head.content_length > MAX_BYTES:
        return Decision(action=Action.RETRY, why=DecisionReason.ABSURD_LENGTH)
    return _judge_whole(uncoded(head), ask=ask, known=known, source=source, expected_size=None)


def _judge_whole(
    head: Head, *, ask: RangeRequest, known: PartialState, source: str, expected_size: int | None
) -> Decision:
    total = head.content_length
    if total is not None and total > MAX_BYTES:
        return Decision(action=Action.RETRY, why=DecisionReason.ABSURD_LENGTH)
    if _differ(total, expected_size):
        return _wrong_size(total, expected_size)
    if not known.ranges:
        return Decision(action=Action.RESTART, why=DecisionReason.WHOLE, total=total)
    if total == 0:  # a slip of the server's rather than an edition without a byte
        return Decision(action=Action.RETRY, why=DecisionReason.EMPTY)
    if _same_edition(head, known, source) and not _differ(total, known.total):
        # Written again at the same place, so that a cut loses nothing that was there (RFC 9110 §14.2: Range is optional).
        return Decision(
            action=Action.APPEND,
            why=DecisionReason.SAME_EDITION_FROM_ZERO,
            total=total if total is not None else known.total,
        )
    return Decision(
        action=Action.RESTART, why=DecisionReason.RANGE_IGNORED if ask.range else DecisionReason.WHOLE, total=total
    )


def _judge_part(
    head: Head, *, ask: RangeRequest, known: PartialState, source: str, expected_size: int | None
) -> Decision:
    if ask.range is None:
        return Decision(action=Action.RETRY, why=DecisionReason.UNASKED_RANGE)
    if head.content_type.strip().lower().startswith("multipart/byteranges"):
        return Decision(action=Action.ASK_ANEW, why=DecisionReason.MULTIPART)
    part = head.content_range
    total = _total(part, ask=ask, known=known, expected_size=expected_size)
    if part is None or part.range is None or total is None:
        return Decision(action=Action.ASK_ANEW, why=DecisionReason.NO_CONTENT_RANGE)
    (start, end), (asked_start, asked_end) = part.range, ask.range
    if start != asked_start or (asked_end is not None and end > asked_end):
        return Decision(action=Action.ASK_ANEW, why=DecisionReason.WRONG_RANGE, detail=f"{start}-{end - 1}")
    if _differ(head.content_length, end - start):
        return Decision(action=Action.ASK_ANEW, why=DecisionReason.LENGTHS_DISAGREE)
    if _differ(part.total, expected_size):
        return _wrong_size(part.total, expected_size)
    if _differ(total, known.total) or end > total or _validator_changed(head, known, source):
        return Decision(action=Action.ASK_ANEW, why=DecisionReason.EDITION_CHANGED)
    return Decision(action=Action.APPEND, why=DecisionReason.CONTINUED, start=start, total=total)


def _total(
    part: ContentRange | None, *, ask: RangeRequest, known: PartialState, expected_size: int | None
) -> int | None:
    """The length of the whole; without one from somewhere the end of a part is not known to be the product's end.

    `resume: overlap` has promised that the server names the same size, so there its own word is needed.
    """
    told = part.total if part is not None else None
    if told is not None or ask.overlap:
        return told
    return known.total if known.total is not None else expected_size


def _same_edition(head: Head, known: PartialState, source: str) -> bool:
    if known.source != source:
        return False
    if strong_etag(known.etag):
        return head.etag == known.etag
    return known.last_modified is not None and head.last_modified == known.last_modified and head.etag == known.etag


def _validator_changed(head: Head, known: PartialState, source: str) -> bool:
    """Whether a 206 tells another edition than the recorded one, even if it claims that If-Range has matched.

    Absence is no proof: a 206 to an If-Range leaves Last-Modified out (RFC 9110 §15.3.7), and some servers the ETag. Nor is
    a weakened ETag, which a proxy makes of a strong one.
    """
    if known.source != source:
        return False
    if head.etag and known.etag:
        return head.etag.removeprefix("W/") != known.etag.removeprefix("W/")
    return bool(head.last_modified and known.last_modified) and head.last_modified != known.last_modified


def _differ(a: int | None, b: int | None) -> bool:
    return a is not None and b is not None and a != b


def _wrong_size(found: int | None, expected: int | None) -> Decision:
    return Decision(
        action=Action.REJECT,
        why=DecisionReason.WRONG_SIZE,
        kind=FailureKind.SIZE,
        detail=f"expected {expected} bytes, the server has {found}",
    )
