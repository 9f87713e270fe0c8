"""Decide which range to request, and what to do with the head of the response. Pure.

`next_request` turns the recorded state of a partial into a request. `evaluate_response` turns that request and the head
of its response into a `Decision`. Only this module decides whether bytes are joined, so only it can prevent a file that
mixes two versions of a product.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, StrEnum

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind, Resume
from bulkdl.core.units import MAX_BYTES
from bulkdl.protocol.byte_ranges import ContentRange, Range, cover, normalise
from bulkdl.protocol.content_coding import decodable, parse_codings
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
"""Bytes that `resume: overlap` compares before it resumes."""


class Action(Enum):
    APPEND = "append"  # the body continues the partial
    RESTART = "restart"  # the body is the whole representation: discard the partial, write from zero
    REQUEST_WHOLE = "request whole"  # the partial is unusable with this server: discard it, request the whole
    WAIT = "wait"  # 202, made on demand: retry later
    RETRY = "retry"  # a temporary failure
    REFUSED = "refused"  # 401, 403: the credential or the permission is missing
    REJECT = "reject"  # permanent: no retry can succeed


class DecisionReason(StrEnum):
    """Reason for a decision, for messages and tests."""

    WHOLE = "the whole representation"
    CONTINUED = "the requested range"
    SAME_VERSION_FROM_ZERO = "the range was ignored, the version is the same"
    RANGE_IGNORED = "the range was ignored or the version has changed"
    VERSION_CHANGED = "the server has another version now"
    RANGE_UNSATISFIABLE = "the server has no such range"
    UNASKED_RANGE = "a range that was not requested"
    PART_AS_WHOLE = "a part of the product as if it were the whole (200 with Content-Range)"
    WRONG_RANGE = "another range than requested"
    NO_CONTENT_RANGE = "a partial response without a usable Content-Range"
    MULTIPART = "a multipart response to a single range"
    LENGTHS_DISAGREE = "Content-Length and Content-Range disagree"
    CODED = "a content coding that was not requested"
    WRONG_SIZE = "another size than the manifest's"
    ABSURD_LENGTH = "a length that no file can have"
    EMPTY = "an empty body for a partly downloaded product"
    PREPARING = "the product is being prepared"
    STATUS = "the status"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialState:
    """Recorded state of a partial: its ranges on disk, and the validators of their representation."""

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
    """One request; `range` None: the whole. The first `overlap` bytes are compared with the disk, not written."""

    range: tuple[int, int | None] | None = None
    if_range: str | None = None
    overlap: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """Range and If-Range fields (RFC 9110 §14.2 and §13.1.5)."""
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
    """Offset of the body's first byte in the product."""
    total: int | None = None
    """Length of the representation; None if unknown."""
    kind: FailureKind = FailureKind.HTTP
    detail: str = ""
    coding: str = ""
    """Content coding to decode; such a body cannot be resumed."""


def validator(known: PartialState, source: str) -> str | None:
    """Return the validator for If-Range (RFC 9110 §13.1.5); a date only if there is no ETag, not even a weak one."""
    if known.source != source:
        return None
    return strong_etag(known.etag) if known.etag else known.last_modified


_WHOLE = RangeRequest()


def next_request(known: PartialState, *, source: str, has_checksum: bool, resume: Resume) -> RangeRequest:
    """Return the request that resumes the partial `known` if that is safe, else one for the whole.

    Resuming is safe if the same strong validator at the same source rules out a mix of two versions, or if a checksum in
    the manifest would detect it. With `resume: overlap` the user accepts a comparison of the last bytes instead.
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
    """Decide how to use a response; `keep_coding`: the product's name shows that the coding is its own format."""
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
        return Decision(action=Action.REQUEST_WHOLE, why=DecisionReason.RANGE_UNSATISFIABLE)
    if group is not StatusClass.BODY:
        return Decision(action=Action.REJECT, why=DecisionReason.STATUS)
    coding = "" if keep_coding else parse_codings((head.content_encoding,))
    if coding and not decodable(coding):
        return Decision(
            action=Action.REJECT, why=DecisionReason.CODED, kind=FailureKind.CONTENT, detail=_printable(coding)
        )
    if coding and head.status == 200:
        return replace(_evaluate_coded(head, ask=ask, known=known, source=source), coding=coding)
    if coding:
        # A range of the encoded bytes is not a range of the product.
        if ask.range is None:
            return Decision(action=Action.RETRY, why=DecisionReason.UNASKED_RANGE)
        return Decision(action=Action.REQUEST_WHOLE, why=DecisionReason.CODED)
    if head.status == 200:
        return _evaluate_whole(head, ask=ask, known=known, source=source, expected_size=expected_size)
    return _evaluate_part(head, ask=ask, known=known, source=source, expected_size=expected_size)


def is_plain_full_response(head: Head, *, expected_size: int | None) -> int | None:
    """Return the length of a plain 200 whose body is the whole product; None if `evaluate_response` must decide.

    This is the shortcut for products without a partial; a property test compares it with `evaluate_response`.
    """
    length = head.content_length
    if head.status != 200 or head.content_encoding or head.content_range or not length or length > MAX_BYTES:
        return None
    return length if expected_size is None or length == expected_size else None


def _printable(text: str) -> str:
    """Return a server's text shortened and stripped for a message."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text[:40])


def _evaluate_coded(head: Head, *, ask: RangeRequest, known: PartialState, source: str) -> Decision:
    if head.content_length is not None and head.content_length > MAX_BYTES:
        return Decision(action=Action.RETRY, why=DecisionReason.ABSURD_LENGTH)
    if not _covers_whole(head.content_range, length=head.content_length, expected_size=None):
        return _part_as_whole(ask)
    return _evaluate_whole(uncoded(head), ask=ask, known=known, source=source, expected_size=None)


def _evaluate_whole(
    head: Head, *, ask: RangeRequest, known: PartialState, source: str, expected_size: int | None
) -> Decision:
    if not _covers_whole(head.content_range, length=head.content_length, expected_size=expected_size):
        return _part_as_whole(ask)
    total = head.content_length
    if total is None and head.content_range is not None:
        total = head.content_range.total
    if total is not None and total > MAX_BYTES:
        return Decision(action=Action.RETRY, why=DecisionReason.ABSURD_LENGTH)
    if total == 0 and known.ranges and not _differ(total, expected_size):
        return Decision(action=Action.RETRY, why=DecisionReason.EMPTY)  # more likely than an empty new version
    if ask.range is not None and known.ranges and (total is None or total not in (known.total, expected_size)):
        # Some servers send the rest in a 200, and their validators may be those of the whole or of the rest. Only the
        # expected length shows that this is the whole.
        return Decision(action=Action.REQUEST_WHOLE, why=DecisionReason.RANGE_IGNORED)
    if _differ(total, expected_size):
        return _wrong_size(total, expected_size)
    if not known.ranges:
        return Decision(action=Action.RESTART, why=DecisionReason.WHOLE, total=total)
    if total is not None and _same_version(head, known, source) and not _differ(total, known.total):
        # Overwrite the same bytes and keep the partial, so that a dropped connection loses nothing (RFC 9110 §14.2).
        return Decision(action=Action.APPEND, why=DecisionReason.SAME_VERSION_FROM_ZERO, total=total)
    return Decision(
        action=Action.RESTART, why=DecisionReason.RANGE_IGNORED if ask.range else DecisionReason.WHOLE, total=total
    )


def _part_as_whole(ask: RangeRequest) -> Decision:
    action = Action.RETRY if ask.range is None else Action.REQUEST_WHOLE
    return Decision(action=action, why=DecisionReason.PART_AS_WHOLE)


def _covers_whole(part: ContentRange | None, *, length: int | None, expected_size: int | None) -> bool:
    """Return whether a body is the whole product, as far as its Content-Range says.

    A 200 has none (RFC 9110 §14.4), but some servers send a part as a 200, and others send the whole as a 206.
    """
    if part is None:
        return True
    total = part.total if part.total is not None else expected_size
    if total is None or _differ(length, total):
        return False
    return part.range == (0, total) or (part.range is None and length == total)


def _evaluate_part(
    head: Head, *, ask: RangeRequest, known: PartialState, source: str, expected_size: int | None
) -> Decision:
    if ask.range is None:
        whole = head.content_range
        if whole is not None and _covers_whole(whole, length=head.content_length, expected_size=expected_size):
            return _evaluate_whole(head, ask=ask, known=known, source=source, expected_size=expected_size)
        return Decision(action=Action.RETRY, why=DecisionReason.UNASKED_RANGE)
    if head.content_type.strip().lower().startswith("multipart/byteranges"):
        return Decision(action=Action.REQUEST_WHOLE, why=DecisionReason.MULTIPART)
    part = head.content_range
    total = _total(part, ask=ask, known=known, expected_size=expected_size)
    if part is None or part.range is None or total is None:
        return Decision(action=Action.REQUEST_WHOLE, why=DecisionReason.NO_CONTENT_RANGE)
    (start, end), (asked_start, asked_end) = part.range, ask.range
    if start != asked_start or (asked_end is not None and end > asked_end):
        return Decision(action=Action.REQUEST_WHOLE, why=DecisionReason.WRONG_RANGE, detail=f"{start}-{end - 1}")
    if _differ(head.content_length, end - start):
        return Decision(action=Action.REQUEST_WHOLE, why=DecisionReason.LENGTHS_DISAGREE)
    if _differ(part.total, expected_size):
        return _wrong_size(part.total, expected_size)
    if _differ(total, known.total) or end > total or _validator_changed(head, known, source):
        return Decision(action=Action.REQUEST_WHOLE, why=DecisionReason.VERSION_CHANGED)
    return Decision(action=Action.APPEND, why=DecisionReason.CONTINUED, start=start, total=total)


def _total(
    part: ContentRange | None, *, ask: RangeRequest, known: PartialState, expected_size: int | None
) -> int | None:
    """Return the length of the whole; without it we cannot tell whether the range reaches the product's end.

    `resume: overlap` requires that the server itself names the same size, so only Content-Range counts there.
    """
    sent = part.total if part is not None else None
    if sent is not None or ask.overlap:
        return sent
    return known.total if known.total is not None else expected_size


def _same_version(head: Head, known: PartialState, source: str) -> bool:
    if known.source != source:
        return False
    if strong_etag(known.etag):
        return head.etag == known.etag
    return known.last_modified is not None and head.last_modified == known.last_modified and head.etag == known.etag


def _validator_changed(head: Head, known: PartialState, source: str) -> bool:
    """Return whether the validators of a 206 show another version, even if the server claims that If-Range matched.

    A missing validator proves nothing: a 206 to an If-Range omits Last-Modified (RFC 9110 §15.3.7), and some servers
    omit the ETag. A weak ETag instead of the strong one proves nothing either, since proxies weaken ETags.
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
