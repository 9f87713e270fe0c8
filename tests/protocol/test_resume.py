"""Requests and decisions about responses: one row for each rule, and properties that hold for any response."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkdl.core.models import FailureKind, Resume
from bulkdl.protocol.byte_ranges import ContentRange, missing, parse_content_range
from bulkdl.protocol.headers import strong_date, strong_etag
from bulkdl.protocol.response_head import Head, uncoded
from bulkdl.protocol.resume import (
    OVERLAP,
    Action,
    DecisionReason,
    PartialState,
    RangeRequest,
    evaluate_response,
    is_plain_full_response,
    next_request,
    validator,
)
from tests.effort import effort

HERE, MIRROR = "https://a.example.org:443/p", "https://b.example.org:443/p"
STRONG, WEAK, OTHER = '"one"', 'W/"one"', '"two"'
DATE, LATER = "Sun, 06 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994 08:49:37 GMT"

HALF = PartialState(ranges=((0, 50),), total=100, etag=STRONG, source=HERE)
BIG = PartialState(ranges=((0, 2 * OVERLAP),), total=3 * OVERLAP, source=HERE)
WHOLE = RangeRequest()
REST = RangeRequest(range=(50, None), if_range=STRONG)


def ask(
    known: PartialState, *, source: str = HERE, has_checksum: bool = False, resume: Resume = Resume.STRICT
) -> RangeRequest:
    return next_request(known, source=source, has_checksum=has_checksum, resume=resume)


ASKS = [
    ("nothing on disk", PartialState(), {}, WHOLE),
    ("nothing on disk but a validator", PartialState(etag=STRONG, source=HERE), {}, WHOLE),
    ("an empty range on disk", replace(HALF, ranges=((0, 0),)), {}, WHOLE),
    ("a strong ETag (RFC 9110 13.1.5)", HALF, {}, REST),
    ("a strong ETag, the total unknown", replace(HALF, total=None), {}, REST),
    ("an ETag goes before a date", replace(HALF, last_modified=DATE), {}, REST),
    ("a strong date and no ETag", replace(HALF, etag=None, last_modified=DATE), {}, RangeRequest(range=(50, None), if_range=DATE)),
    ("a weak ETag", replace(HALF, etag=WEAK), {}, WHOLE),
    ("a weak ETag forbids the date too", replace(HALF, etag=WEAK, last_modified=DATE), {}, WHOLE),
    ("no validator", replace(HALF, etag=None), {}, WHOLE),
    ("the validator of another source", HALF, {"source": MIRROR}, WHOLE),
    ("a checksum and no validator", replace(HALF, etag=None), {"has_checksum": True}, RangeRequest(range=(50, None))),
    ("a checksum and a weak ETag", replace(HALF, etag=WEAK), {"has_checksum": True}, RangeRequest(range=(50, None))),
    ("a checksum at another source", HALF, {"source": MIRROR, "has_checksum": True}, RangeRequest(range=(50, None))),
    ("a checksum and a validator", HALF, {"has_checksum": True}, REST),
    ("a gap in the middle", replace(HALF, ranges=((0, 10), (20, 30))), {}, RangeRequest(range=(10, 20), if_range=STRONG)),
    ("a gap at the beginning", replace(HALF, ranges=((20, 30),)), {}, RangeRequest(range=(0, 20), if_range=STRONG)),
    ("ranges that touch", replace(HALF, ranges=((0, 10), (10, 20), (15, 30))), {}, RangeRequest(range=(30, None), if_range=STRONG)),
    ("only the end is there", replace(HALF, ranges=((90, 100),)), {}, RangeRequest(range=(0, 90), if_range=STRONG)),
    ("everything is there", replace(HALF, ranges=((0, 100),)), {}, WHOLE),
    ("an empty product", replace(HALF, ranges=(), total=0), {}, WHOLE),
    ("an overlap", BIG, {"resume": Resume.OVERLAP}, RangeRequest(range=(OVERLAP, None), overlap=OVERLAP)),
    ("an overlap of 64 KiB", PartialState(ranges=((0, 131072),), total=196608), {"resume": Resume.OVERLAP}, RangeRequest(range=(65536, None), overlap=65536)),
    ("an overlap of all that is there", replace(BIG, ranges=((0, OVERLAP),)), {"resume": Resume.OVERLAP}, RangeRequest(range=(0, None), overlap=OVERLAP)),
    ("an overlap at another source", BIG, {"resume": Resume.OVERLAP, "source": MIRROR}, RangeRequest(range=(OVERLAP, None), overlap=OVERLAP)),
    ("an overlap, the total unknown", replace(BIG, total=None), {"resume": Resume.OVERLAP}, WHOLE),
    ("an overlap longer than what is there", replace(BIG, ranges=((0, OVERLAP - 1),)), {"resume": Resume.OVERLAP}, WHOLE),
    ("an overlap with a hole behind", replace(BIG, ranges=((0, OVERLAP), (OVERLAP + 9, 2 * OVERLAP))), {"resume": Resume.OVERLAP}, WHOLE),
    ("an overlap is not needed with a validator", replace(BIG, etag=STRONG), {"resume": Resume.OVERLAP}, RangeRequest(range=(2 * OVERLAP, None), if_range=STRONG)),
]  # fmt: skip


@pytest.mark.parametrize(("what", "known", "options", "expected"), ASKS, ids=[row[0] for row in ASKS])
def test_the_request_for_each_partial(what, known, options, expected):
    assert ask(known, **options) == expected


HEADERS = [
    (WHOLE, {}),
    (RangeRequest(range=(50, None)), {"Range": "bytes=50-"}),
    (RangeRequest(range=(10, 20)), {"Range": "bytes=10-19"}),
    (RangeRequest(range=(0, 1)), {"Range": "bytes=0-0"}),
    (REST, {"Range": "bytes=50-", "If-Range": STRONG}),
    (RangeRequest(if_range=STRONG), {}),
]


@pytest.mark.parametrize(("request_", "fields"), HEADERS, ids=[str(fields) for _, fields in HEADERS])
def test_a_range_is_closed_on_the_wire_and_if_range_needs_a_range(request_, fields):
    assert request_.headers == fields


ETAGS = [
    ('"a"', True),
    ('""', True),
    ('"a b"', True),
    ('"W/a"', True),
    ("W/'a'", False),
    ('W/"a"', False),
    ('w/"a"', False),
    ('W/""', False),
    ("a", False),
    ('"', False),
    ('"a', False),
    ('a"', False),
    ('"a"b"', False),
    ('"a", "b"', False),
    ('"a\r\nX: y"', False),
    ("", False),
    (None, False),
]


@pytest.mark.parametrize(("etag", "strong"), ETAGS, ids=[ascii(etag) for etag, _ in ETAGS])
def test_an_etag_is_strong_if_it_is_quoted_and_not_weak(etag, strong):
    assert strong_etag(etag) == (etag if strong else None)


DATES = [
    ("a day later", DATE, LATER, True),
    ("a minute later", DATE, "Sun, 06 Nov 1994 08:50:37 GMT", True),
    ("less than a minute later", DATE, "Sun, 06 Nov 1994 08:50:36 GMT", False),
    ("the same second", DATE, DATE, False),
    ("modified in the future", LATER, DATE, False),
    ("no Date", DATE, None, False),
    ("no Last-Modified", None, DATE, False),
    ("no date at all", "yesterday", LATER, False),
    ("another form of date", "Sun Nov  6 08:49:37 1994", LATER, True),
]


@pytest.mark.parametrize(("what", "modified", "made", "strong"), DATES, ids=[row[0] for row in DATES])
def test_a_date_is_strong_if_the_response_is_clearly_newer(what, modified, made, strong):
    assert strong_date(modified, made) == (modified if strong else None)


def part(text: str, **options) -> Head:
    return Head(status=206, content_range=parse_content_range(text), **options)


def whole(length: int | None = 100, **options) -> Head:
    return Head(status=200, content_length=length, **options)


NO_TOTAL = replace(HALF, total=None)
DATED = replace(HALF, etag=None, last_modified=DATE)
DATED_REST = RangeRequest(range=(50, None), if_range=DATE)
UNCONDITIONAL = RangeRequest(range=(50, None))
OVERLAPPING = RangeRequest(range=(OVERLAP, None), overlap=OVERLAP)
GAP = RangeRequest(range=(10, 20), if_range=STRONG)

CONTINUED, CHANGED = (Action.APPEND, DecisionReason.CONTINUED), (Action.REQUEST_WHOLE, DecisionReason.VERSION_CHANGED)
NO_RANGE, WRONG_RANGE = (
    (Action.REQUEST_WHOLE, DecisionReason.NO_CONTENT_RANGE),
    (Action.REQUEST_WHOLE, DecisionReason.WRONG_RANGE),
)
RESTART, IGNORED = (Action.RESTART, DecisionReason.WHOLE), (Action.RESTART, DecisionReason.RANGE_IGNORED)
IN_VAIN = (Action.REQUEST_WHOLE, DecisionReason.RANGE_IGNORED)
FROM_ZERO, SIZE = (Action.APPEND, DecisionReason.SAME_VERSION_FROM_ZERO), (Action.REJECT, DecisionReason.WRONG_SIZE)

# what · head · ask · known · options · action, why
DECISIONS = [
    # Statuses that bring no body of the product (RFC 9110 §15)
    ("202", Head(status=202), WHOLE, PartialState(), {}, (Action.WAIT, DecisionReason.PREPARING)),
    ("202 to a range", Head(status=202), REST, HALF, {}, (Action.WAIT, DecisionReason.PREPARING)),
    ("401", Head(status=401), WHOLE, PartialState(), {}, (Action.REFUSED, DecisionReason.STATUS)),
    ("403", Head(status=403), REST, HALF, {}, (Action.REFUSED, DecisionReason.STATUS)),
    ("429", Head(status=429), WHOLE, PartialState(), {}, (Action.RETRY, DecisionReason.STATUS)),
    ("503", Head(status=503), REST, HALF, {}, (Action.RETRY, DecisionReason.STATUS)),
    ("404", Head(status=404), WHOLE, PartialState(), {}, (Action.REJECT, DecisionReason.STATUS)),
    ("204", Head(status=204), WHOLE, PartialState(), {}, (Action.REJECT, DecisionReason.STATUS)),
    ("a redirect that leads nowhere", Head(status=302), WHOLE, PartialState(), {}, (Action.REJECT, DecisionReason.STATUS)),
    ("416 (§15.5.17)", Head(status=416), REST, HALF, {}, (Action.REQUEST_WHOLE, DecisionReason.RANGE_UNSATISFIABLE)),
    ("416 to the whole", Head(status=416), WHOLE, PartialState(), {}, (Action.RETRY, DecisionReason.RANGE_UNSATISFIABLE)),
    # Codings (§8.4)
    ("a coding that comes off", whole(content_encoding="gzip"), WHOLE, PartialState(), {}, RESTART),
    ("a coding that comes off, whatever its length", whole(7, content_encoding="gzip"), WHOLE, PartialState(), {"expected_size": 100}, RESTART),
    ("a coding that comes off, of an absurd length", whole(2**63, content_encoding="deflate"), WHOLE, PartialState(), {}, (Action.RETRY, DecisionReason.ABSURD_LENGTH)),
    ("a coding of what is on disk plain (§8.8.3)", whole(content_encoding="gzip", etag=STRONG), REST, HALF, {}, IN_VAIN),
    ("another coding", whole(content_encoding="zstd"), WHOLE, PartialState(), {}, (Action.REJECT, DecisionReason.CODED)),
    ("two codings", whole(content_encoding="gzip, gzip"), WHOLE, PartialState(), {}, (Action.REJECT, DecisionReason.CODED)),
    ("a part of a coding", part("bytes 50-99/100", content_encoding="gzip", etag=STRONG), REST, HALF, {}, (Action.REQUEST_WHOLE, DecisionReason.CODED)),
    ("a part of a coding that was not requested", part("bytes 0-99/100", content_encoding="gzip"), WHOLE, PartialState(), {}, (Action.RETRY, DecisionReason.UNASKED_RANGE)),
    ("a part of a coding that is the format", part("bytes 50-99/100", content_encoding="gzip", etag=STRONG), REST, HALF, {"keep_coding": True}, CONTINUED),
    ("another coding of a part", part("bytes 50-99/100", content_encoding="br"), REST, HALF, {}, (Action.REJECT, DecisionReason.CODED)),
    ("a coding that is the format", whole(content_encoding="gzip"), WHOLE, PartialState(), {"keep_coding": True}, RESTART),
    ("identity", whole(content_encoding=" Identity "), WHOLE, PartialState(), {}, RESTART),
    # The whole (§15.3.1)
    ("the whole", whole(), WHOLE, PartialState(), {}, RESTART),
    ("the whole, its length unknown", whole(None), WHOLE, PartialState(), {}, RESTART),
    ("an empty product", whole(0), WHOLE, PartialState(), {}, RESTART),
    ("the size of the manifest", whole(), WHOLE, PartialState(), {"expected_size": 100}, RESTART),
    ("another size than the manifest's", whole(99), WHOLE, PartialState(), {"expected_size": 100}, SIZE),
    ("an unknown size", whole(None), WHOLE, PartialState(), {"expected_size": 100}, RESTART),
    ("an empty body for a product", whole(0), WHOLE, PartialState(), {"expected_size": 100}, SIZE),
    ("an empty body where half is on disk", whole(0), REST, HALF, {}, (Action.RETRY, DecisionReason.EMPTY)),
    ("the longest length", whole(2**63 - 1), WHOLE, PartialState(), {}, RESTART),
    ("the longest length of a coding that comes off", whole(2**63 - 1, content_encoding="gzip"), WHOLE, PartialState(), {}, RESTART),
    ("an absurd length", whole(2**63), WHOLE, PartialState(), {}, (Action.RETRY, DecisionReason.ABSURD_LENGTH)),
    ("a partial that may not be continued", whole(), WHOLE, replace(HALF, etag=WEAK), {}, RESTART),
    # 200 to a range: If-Range did not match, or ranges are not honoured (§14.2, §13.1.5)
    ("ignored, another version", whole(etag=OTHER), REST, HALF, {}, IGNORED),
    ("ignored, no ETag now", whole(), REST, HALF, {}, IGNORED),
    ("ignored, a weak ETag now", whole(etag=WEAK), REST, HALF, {}, IGNORED),
    ("ignored, the same version", whole(etag=STRONG), REST, HALF, {}, FROM_ZERO),
    ("ignored, the same version, chunked", whole(None, etag=STRONG), REST, HALF, {}, IN_VAIN),
    ("ignored, the same ETag, another length", whole(99, etag=STRONG), REST, HALF, {}, IN_VAIN),
    ("the rest as a 200", whole(50), REST, HALF, {}, IN_VAIN),
    ("the rest as a 200, the same version", whole(50, etag=STRONG), REST, HALF, {}, IN_VAIN),
    ("the rest as a 200, its own ETag", whole(50, etag=OTHER), REST, HALF, {}, IN_VAIN),
    ("the rest as a 200, the manifest has the size", whole(50, etag=STRONG), REST, HALF, {"expected_size": 100}, IN_VAIN),
    ("a 200 to a range, the total unknown", whole(100, etag=STRONG), REST, NO_TOTAL, {}, IN_VAIN),
    ("a 200 to a range, the size of the manifest", whole(100), REST, NO_TOTAL, {"expected_size": 100}, IGNORED),
    ("the rest as a 200 with its range", whole(50, content_range=ContentRange((50, 100), 100), etag=STRONG), REST, HALF, {}, (Action.REQUEST_WHOLE, DecisionReason.PART_AS_WHOLE)),
    ("the rest as a 200 with a broken range", whole(50, content_range=ContentRange(None, None)), REST, HALF, {}, (Action.REQUEST_WHOLE, DecisionReason.PART_AS_WHOLE)),
    # Content-Range where the whole was requested
    ("a part as the whole", whole(100, content_range=ContentRange((0, 100), 300)), WHOLE, PartialState(), {}, (Action.RETRY, DecisionReason.PART_AS_WHOLE)),
    ("a part as the whole, chunked", whole(None, content_range=ContentRange((0, 100), 300)), WHOLE, PartialState(), {}, (Action.RETRY, DecisionReason.PART_AS_WHOLE)),
    ("a part of an unknown total as the whole", whole(100, content_range=ContentRange((0, 100), None)), WHOLE, PartialState(), {}, (Action.RETRY, DecisionReason.PART_AS_WHOLE)),
    ("the whole with its range", whole(100, content_range=ContentRange((0, 100), 100)), WHOLE, PartialState(), {}, RESTART),
    ("the whole with its range, chunked", whole(None, content_range=ContentRange((0, 100), 100)), WHOLE, PartialState(), {}, RESTART),
    ("the whole with the range of a 416", whole(100, content_range=ContentRange(None, 100)), WHOLE, PartialState(), {}, RESTART),
    ("the whole with a range that the manifest completes", whole(100, content_range=ContentRange((0, 100), None)), WHOLE, PartialState(), {"expected_size": 100}, RESTART),
    ("a part of a coding as the whole", whole(100, content_encoding="gzip", content_range=ContentRange((0, 100), 300)), WHOLE, PartialState(), {}, (Action.RETRY, DecisionReason.PART_AS_WHOLE)),
    ("the whole as a part (206)", part("bytes 0-99/100", content_length=100), WHOLE, PartialState(), {}, RESTART),
    ("the whole as a part, chunked", part("bytes 0-99/100"), WHOLE, PartialState(), {}, RESTART),
    ("the whole as a part, its length wrong", part("bytes 0-99/100", content_length=99), WHOLE, PartialState(), {}, (Action.RETRY, DecisionReason.UNASKED_RANGE)),
    ("the whole as a part, another size than the manifest's", part("bytes 0-99/100"), WHOLE, PartialState(), {"expected_size": 7}, SIZE),
    ("ignored, the same ETag at a mirror", whole(etag=STRONG), UNCONDITIONAL, replace(HALF, source=MIRROR), {}, IGNORED),
    ("ignored, the same date", whole(last_modified=DATE), DATED_REST, DATED, {}, FROM_ZERO),
    ("ignored, another date", whole(last_modified=LATER), DATED_REST, DATED, {}, IGNORED),
    ("ignored, the same date and an ETag now", whole(last_modified=DATE, etag=OTHER), DATED_REST, DATED, {}, IGNORED),
    ("ignored, nothing recorded", whole(), UNCONDITIONAL, replace(HALF, etag=None), {}, IGNORED),
    # A part (§15.3.7)
    ("the rest", part("bytes 50-99/100", etag=STRONG), REST, HALF, {}, CONTINUED),
    ("the rest, its length told", part("bytes 50-99/100", content_length=50, etag=STRONG), REST, HALF, {}, CONTINUED),
    ("less than the rest", part("bytes 50-59/100", etag=STRONG), REST, HALF, {}, CONTINUED),
    ("a gap", part("bytes 10-19/100"), GAP, replace(HALF, ranges=((0, 10), (20, 30))), {}, CONTINUED),
    ("less than a gap", part("bytes 10-14/100"), GAP, replace(HALF, ranges=((0, 10), (20, 30))), {}, CONTINUED),
    ("more than a gap", part("bytes 10-99/100"), GAP, replace(HALF, ranges=((0, 10), (20, 30))), {}, WRONG_RANGE),
    ("from zero", part("bytes 0-99/100", etag=STRONG), REST, HALF, {}, WRONG_RANGE),
    ("too early by one", part("bytes 49-99/100"), REST, HALF, {}, WRONG_RANGE),
    ("too late by one", part("bytes 51-99/100"), REST, HALF, {}, WRONG_RANGE),
    ("not requested", part("bytes 0-98/100"), WHOLE, PartialState(), {}, (Action.RETRY, DecisionReason.UNASKED_RANGE)),
    ("not requested, though something is there", part("bytes 50-99/100"), WHOLE, HALF, {}, (Action.RETRY, DecisionReason.UNASKED_RANGE)),
    ("not requested and without a range", Head(status=206), WHOLE, PartialState(), {}, (Action.RETRY, DecisionReason.UNASKED_RANGE)),
    ("without Content-Range (§14.4)", Head(status=206), REST, HALF, {}, NO_RANGE),
    ("with that of a 416", part("bytes */100"), REST, HALF, {}, NO_RANGE),
    ("several parts (§14.6)", Head(status=206, content_type="Multipart/ByteRanges; boundary=x"), REST, HALF, {}, (Action.REQUEST_WHOLE, DecisionReason.MULTIPART)),
    ("lengths that disagree", part("bytes 50-99/100", content_length=49), REST, HALF, {}, (Action.REQUEST_WHOLE, DecisionReason.LENGTHS_DISAGREE)),
    # Totals
    ("another total", part("bytes 50-109/110", etag=STRONG), REST, HALF, {}, CHANGED),
    ("an unknown total", part("bytes 50-99/*", etag=STRONG), REST, HALF, {}, CONTINUED),
    ("beyond the known total", part("bytes 50-100/*", etag=STRONG), REST, HALF, {}, CHANGED),
    ("a total that is new", part("bytes 50-99/100", etag=STRONG), REST, NO_TOTAL, {}, CONTINUED),
    ("no total from anyone", part("bytes 50-99/*", etag=STRONG), REST, NO_TOTAL, {}, NO_RANGE),
    ("only the manifest's total", part("bytes 50-99/*", etag=STRONG), REST, NO_TOTAL, {"expected_size": 100}, CONTINUED),
    ("beyond the manifest's", part("bytes 50-100/*", etag=STRONG), REST, NO_TOTAL, {"expected_size": 100}, CHANGED),
    ("the manifest's total is another", part("bytes 50-99/100"), REST, HALF, {"expected_size": 101}, SIZE),
    # Validators of a part
    ("another ETag", part("bytes 50-99/100", etag=OTHER), REST, HALF, {}, CHANGED),
    ("another weak ETag", part("bytes 50-99/100", etag='W/"two"'), REST, HALF, {}, CHANGED),
    ("another ETag, the manifest has a checksum", part("bytes 50-99/100", etag=OTHER), UNCONDITIONAL, HALF, {}, CHANGED),
    ("no ETag: If-Range has matched", part("bytes 50-99/100"), REST, HALF, {}, CONTINUED),
    ("no ETag, the same date", part("bytes 50-99/100", last_modified=DATE), REST, replace(HALF, last_modified=DATE), {}, CONTINUED),
    ("no ETag, another date", part("bytes 50-99/100", last_modified=LATER), REST, replace(HALF, last_modified=DATE), {}, CHANGED),
    ("a weakened ETag: If-Range has matched", part("bytes 50-99/100", etag=WEAK), REST, HALF, {}, CONTINUED),
    ("the same ETag, another date", part("bytes 50-99/100", etag=STRONG, last_modified=LATER), REST, replace(HALF, last_modified=DATE), {}, CONTINUED),
    ("the same date", part("bytes 50-99/100", last_modified=DATE), DATED_REST, DATED, {}, CONTINUED),
    ("no date: If-Range has matched", part("bytes 50-99/100"), DATED_REST, DATED, {}, CONTINUED),
    ("another date: If-Range was ignored", part("bytes 50-99/100", last_modified=LATER), DATED_REST, DATED, {}, CHANGED),
    ("an ETag where there was none", part("bytes 50-99/100", etag=STRONG), DATED_REST, DATED, {}, CONTINUED),
    ("another ETag at a mirror", part("bytes 50-99/100", etag=OTHER), UNCONDITIONAL, replace(HALF, source=MIRROR), {}, CONTINUED),
    ("another total at a mirror", part("bytes 50-98/99"), UNCONDITIONAL, replace(HALF, source=MIRROR), {}, CHANGED),
    # An overlap
    ("an overlap", part(f"bytes {OVERLAP}-{3 * OVERLAP - 1}/{3 * OVERLAP}"), OVERLAPPING, BIG, {}, CONTINUED),
    ("an overlap, another total", part(f"bytes {OVERLAP}-{3 * OVERLAP}/{3 * OVERLAP + 1}"), OVERLAPPING, BIG, {}, CHANGED),
    ("an overlap, no total", part(f"bytes {OVERLAP}-{3 * OVERLAP - 1}/*"), OVERLAPPING, BIG, {}, NO_RANGE),
    ("an overlap, another ETag", part(f"bytes {OVERLAP}-{3 * OVERLAP - 1}/{3 * OVERLAP}", etag=OTHER), OVERLAPPING, replace(BIG, etag=WEAK), {}, CHANGED),
]  # fmt: skip


def decide(head: Head, request: RangeRequest, known: PartialState, **options):
    return evaluate_response(head, ask=request, known=known, source=HERE, **options)


@pytest.mark.parametrize(
    ("what", "head", "request_", "known", "options", "expected"), DECISIONS, ids=[row[0] for row in DECISIONS]
)
def test_what_an_answer_is_good_for(what, head, request_, known, options, expected):
    decision = decide(head, request_, known, **options)
    assert (decision.action, decision.why) == expected


def test_every_action_and_every_reason_is_in_the_table():
    assert {row[-1][0] for row in DECISIONS} == set(Action)
    assert {row[-1][1] for row in DECISIONS} == set(DecisionReason)


KINDS = [
    (Head(status=202), FailureKind.OFFLINE),
    (Head(status=401), FailureKind.AUTH),
    (Head(status=404), FailureKind.HTTP),
    (Head(status=503), FailureKind.HTTP),
    (whole(7), FailureKind.SIZE),
    (whole(content_encoding="br"), FailureKind.CONTENT),
]


@pytest.mark.parametrize(("head", "kind"), KINDS)
def test_a_rejection_has_the_kind_that_the_summary_names(head, kind):
    assert decide(head, WHOLE, PartialState(), expected_size=100).kind is kind


@pytest.mark.parametrize(
    ("coding", "shown"),
    [
        ("zstd", "zstd"),
        ("a b~c", "a b~c"),
        ("a\x1fb\x7fc\u00e9\n d", "a?b?c?? d"),
        ("x" * 40, "x" * 40),
        ("x" * 41, "x" * 40),
    ],
)
def test_a_coding_that_is_refused_is_shown_in_letters_that_fit_a_message(coding, shown):
    decision = decide(whole(content_encoding=f"transfer {coding}"), WHOLE, PartialState())
    assert decision.detail == f"transfer {shown}"[:40]


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP ", "deflate", "identity, gzip"])
def test_length_validators_and_ranges_of_an_encoded_response_are_ignored(coding):
    head = whole(7, content_encoding=coding, etag=STRONG, last_modified=DATE, accept_ranges="bytes", content_type="x/y")
    decision = decide(head, WHOLE, HALF)
    assert (decision.action, decision.total, decision.start) == (Action.RESTART, None, 0)
    assert decision.coding in {"gzip", "deflate"}
    assert uncoded(head) == Head(status=200, content_type="x/y")


def test_the_offset_of_the_body_and_the_length_of_the_whole():
    rest = decide(part("bytes 50-99/*"), REST, HALF)
    assert (rest.start, rest.total) == (50, 100)
    again = decide(whole(etag=STRONG), REST, HALF)
    assert (again.start, again.total) == (0, 100)
    restart = decide(whole(None), WHOLE, HALF)
    assert (restart.start, restart.total) == (0, None)
    assert decide(part("bytes 50-59/*"), REST, NO_TOTAL, expected_size=100).total == 100
    assert decide(whole(7), WHOLE, PartialState(), expected_size=100).detail == "expected 100 bytes, the server has 7"


COMPLETE = [
    (PartialState(), False),
    (PartialState(total=0), True),
    (PartialState(total=0, ranges=((0, 1),)), False),
    (PartialState(total=100), False),
    (HALF, False),
    (PartialState(ranges=((0, 100),), total=100), True),
    (PartialState(ranges=((0, 40), (40, 100)), total=100), True),
    (PartialState(ranges=((0, 40), (41, 100)), total=100), False),
    (PartialState(ranges=((1, 100),), total=100), False),
    (PartialState(ranges=((0, 101),), total=100), False),
    (PartialState(ranges=((0, 100),)), False),
]


@pytest.mark.parametrize(("known", "complete"), COMPLETE)
def test_a_partial_is_complete_if_every_byte_of_a_known_total_is_there(known, complete):
    assert known.complete == complete


@pytest.mark.parametrize(("ranges", "have"), [((), 0), (((0, 50),), 50), (((0, 10), (5, 20), (30, 40)), 30)])
def test_each_byte_that_is_there_counts_once(ranges, have):
    assert PartialState(ranges=ranges).have == have


ETAG = st.sampled_from([None, STRONG, OTHER, WEAK, 'W/"two"', '"', "one", ""])
MODIFIED = st.sampled_from([None, DATE, LATER, "yesterday"])
SMALL = st.integers(0, 30)
RANGE = st.tuples(SMALL, SMALL).map(lambda pair: (min(pair), max(pair) + 1))
KNOWN = st.builds(
    PartialState,
    ranges=st.lists(RANGE, max_size=3).map(tuple),
    total=st.none() | SMALL,
    etag=ETAG,
    last_modified=st.sampled_from([None, DATE, LATER]),
    source=st.sampled_from([HERE, MIRROR]),
)
HEADS = st.builds(
    Head,
    status=st.sampled_from([200, 206, 206, 206, 202, 401, 404, 416, 503]),
    content_length=st.none() | SMALL,
    content_range=st.none() | st.builds(ContentRange, st.none() | RANGE, st.none() | SMALL),
    content_type=st.sampled_from(["", "application/zip", "multipart/byteranges; boundary=x"]),
    content_encoding=st.sampled_from(["", "identity", "gzip", "br"]),
    etag=ETAG,
    last_modified=MODIFIED,
)


@st.composite
def exchanges(draw):
    """Draw a partial, the request for it, and any response, often a fitting one."""
    known, head = draw(KNOWN), draw(HEADS)
    request = ask(known, has_checksum=draw(st.booleans()), resume=draw(st.sampled_from(Resume)))
    if request.range is not None and draw(st.booleans()):
        start, end = request.range[0], request.range[1] or known.total or draw(SMALL)
        fitting = ContentRange((start, max(end, start + 1)), known.total)
        head = replace(head, content_range=fitting, content_length=None)
    return known, request, head, draw(st.none() | SMALL)


@settings(max_examples=effort(100, 1000))
@given(exchanges())
def test_no_response_leads_to_a_mix_of_two_versions(exchange):
    known, request, head, expected_size = exchange
    decision = decide(head, request, known, expected_size=expected_size)
    if decision.action in (Action.APPEND, Action.RESTART):
        assert head.status in (200, 206)
        assert decision.coding == (head.content_encoding if head.content_encoding == "gzip" else "")
        assert not decision.coding or (decision.action, decision.total) == (Action.RESTART, None)
        assert expected_size is None or decision.total in (None, known.total, expected_size)
    if decision.action is not Action.APPEND:
        return
    mine, theirs = strong_etag(known.etag), strong_etag(head.etag)
    if known.source == HERE:
        assert mine is None or theirs is None or mine == theirs
    if decision.why is DecisionReason.CONTINUED:
        assert head.status == 206
        assert request.range is not None
        assert decision.start == head.content_range.range[0] == request.range[0]
        assert decision.total is not None
        assert decision.total >= head.content_range.range[1]
        told = {head.content_range.total, known.total, expected_size} - {None}
        assert told == {decision.total}
    else:
        assert decision.why is DecisionReason.SAME_VERSION_FROM_ZERO
        assert (head.status, decision.start) == (200, 0)
        assert known.source == HERE
        assert mine == theirs
        assert mine is not None or known.last_modified == head.last_modified is not None


@settings(max_examples=effort(100, 1000))
@given(HEADS.map(lambda head: replace(head, content_range=None)) | HEADS, st.none() | SMALL)
def test_the_shortcut_for_plain_responses_agrees_with_the_decision(head, expected_size):
    length = is_plain_full_response(head, expected_size=expected_size)
    if length is not None:
        decision = evaluate_response(head, ask=WHOLE, known=PartialState(), source=HERE, expected_size=expected_size)
        assert (decision.action, decision.why, decision.start) == (Action.RESTART, DecisionReason.WHOLE, 0)
        assert (decision.total, decision.coding) == (length, "")


def test_a_usual_response_is_a_plain_full_response():
    assert is_plain_full_response(Head(status=200, content_length=7, etag=WEAK), expected_size=7) == 7


@given(KNOWN, st.sampled_from([HERE, MIRROR]), st.booleans(), st.sampled_from(Resume))
def test_the_requested_range_is_the_first_gap_and_if_range_is_strong(known, source, has_checksum, resume):
    request = ask(known, source=source, has_checksum=has_checksum, resume=resume)
    assert request.if_range == (validator(known, source) if request.range else None)
    if request.if_range is not None:
        assert known.source == source
        assert request.if_range in (strong_etag(known.etag), known.last_modified)
        assert strong_etag(request.if_range) is not None or not known.etag
    if request.range is None or known.complete:
        return
    start, end = request.range
    first = missing(known.ranges, 1000)[0]
    assert (start + request.overlap, end if end is not None else 1000) == first
    assert request.if_range or has_checksum or (request.overlap and resume is Resume.OVERLAP)
