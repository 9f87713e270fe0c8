"""Evidence that a product is wrong at its source, and when to download it again: tables and properties."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core.models import Checksum
from bulkdl.protocol.bad_source import (
    UNSEEN_S,
    BadSourceEvidence,
    Comparison,
    Recheck,
    ValidatorSnapshot,
    compare,
    recheck,
    with_new_evidence,
)
from bulkdl.protocol.response_head import Head

A, B = "https://a.example.org:443/x", "https://b.example.org:443/x"
MONDAY, TUESDAY = "Mon, 14 Nov 1994 12:45:26 GMT", "Tue, 15 Nov 1994 12:45:26 GMT"
NOW = 1_750_000_000.0
DAY = 86400.0


def sums(seed: int) -> tuple[Checksum, ...]:
    return (Checksum("sha256", f"{seed:064x}"),)


def seen(source: str = A, **validators: Any) -> ValidatorSnapshot:
    return ValidatorSnapshot(source=source, **validators)


def evidence(**facts: Any) -> BadSourceEvidence:
    known = {"id": "x", "expected": sums(0), "found": sums(1), "size": 10, "fetches": 1, "proven": False, "at": NOW}
    return BadSourceEvidence(**{**known, **facts})


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        # Lengths
        ({"size": 10}, {"content_length": 10}, Comparison.UNKNOWN),
        ({"size": 10}, {"content_length": 11}, Comparison.OTHER),
        ({"size": 10, "etag": '"1"'}, {"content_length": 11, "etag": '"1"'}, Comparison.OTHER),
        ({"size": 10}, {}, Comparison.UNKNOWN),
        ({"size": 10}, {"content_length": 0}, Comparison.UNKNOWN),
        ({"size": 10}, {"content_length": 7, "content_encoding": "gzip"}, Comparison.UNKNOWN),
        ({"size": 10}, {"content_length": 7, "content_encoding": "identity"}, Comparison.OTHER),
        # ETags
        ({"etag": '"1"'}, {"etag": '"1"'}, Comparison.SAME),
        ({"etag": '"1"'}, {"etag": '"2"'}, Comparison.OTHER),
        ({"etag": '"1"'}, {"etag": 'W/"1"'}, Comparison.SAME),
        ({"etag": 'W/"1"'}, {"etag": 'W/"1"'}, Comparison.SAME),
        ({"etag": '"1"'}, {}, Comparison.UNKNOWN),
        ({}, {"etag": '"1"'}, Comparison.UNKNOWN),
        # Dates
        ({"last_modified": MONDAY}, {"last_modified": MONDAY}, Comparison.SAME),
        ({"last_modified": MONDAY}, {"last_modified": TUESDAY}, Comparison.OTHER),
        ({"last_modified": MONDAY}, {}, Comparison.UNKNOWN),
        ({"last_modified": MONDAY, "etag": '"1"'}, {"last_modified": MONDAY}, Comparison.SAME),
        # Both
        ({"etag": '"1"', "last_modified": MONDAY}, {"etag": '"1"', "last_modified": TUESDAY}, Comparison.SAME),
        ({"etag": '"1"', "last_modified": MONDAY}, {"etag": '"2"', "last_modified": MONDAY}, Comparison.OTHER),
        ({"etag": 'W/"1"', "last_modified": MONDAY}, {"etag": 'W/"1"', "last_modified": TUESDAY}, Comparison.OTHER),
        ({"etag": '"1"', "last_modified": MONDAY}, {"etag": 'W/"1"', "last_modified": TUESDAY}, Comparison.OTHER),
        ({"etag": 'W/"1"', "last_modified": MONDAY}, {"etag": '"1"', "last_modified": TUESDAY}, Comparison.OTHER),
    ],
)
def test_validators_tell_versions_apart(before: dict[str, Any], now: dict[str, Any], expected: Comparison):
    assert compare(seen(**before), Head(status=200, **now)) is expected


@pytest.mark.parametrize(
    ("etag", "dates", "expected"),
    [
        ('"2"', (MONDAY, MONDAY), Comparison.SAME),
        ('"1"', (MONDAY, TUESDAY), Comparison.OTHER),
        ('"2"', (None, None), Comparison.UNKNOWN),
        ('"1"', (None, None), Comparison.UNKNOWN),
    ],
)
def test_unstable_etags_prove_nothing(etag: str, dates: tuple[Any, Any], expected: Comparison):
    head = Head(status=200, etag=etag, last_modified=dates[1])
    assert compare(seen(etag='"1"', last_modified=dates[0]), head, trust_etag=False) is expected


@pytest.mark.parametrize(
    ("validators", "head", "age", "verdict"),
    [
        ((), {"etag": '"1"'}, 0.0, Recheck.DOWNLOAD_AGAIN),  # never requested before
        ((seen(B, etag='"1"'),), {"etag": '"1"'}, 0.0, Recheck.DOWNLOAD_AGAIN),
        ((seen(etag='"1"'),), {"etag": '"1"'}, 99 * UNSEEN_S, Recheck.UNCHANGED),
        ((seen(etag='"1"'),), {"etag": '"2"'}, 0.0, Recheck.DOWNLOAD_AGAIN),
        ((seen(etag='"1"'), seen(etag='"2"')), {"etag": '"2"'}, 0.0, Recheck.UNCHANGED),
        ((seen(), seen(etag='"2"')), {"etag": '"3"'}, 0.0, Recheck.DOWNLOAD_AGAIN),
        ((seen(),), {}, UNSEEN_S - 1, Recheck.UNCHANGED),
        ((seen(),), {}, UNSEEN_S, Recheck.DOWNLOAD_AGAIN),
        ((seen(),), {}, -60.0, Recheck.UNCHANGED),
        ((seen(),), {}, -90_000.0, Recheck.DOWNLOAD_AGAIN),
    ],
)
def test_a_product_is_downloaded_again_if_its_source_may_have_another_version(
    validators: tuple[ValidatorSnapshot, ...], head: dict[str, Any], age: float, verdict: Recheck
):
    assert recheck(evidence(seen=validators, proven=True), A, Head(status=200, **head), now=NOW + age) is verdict


@pytest.mark.parametrize(
    ("before", "found", "earlier", "everywhere", "fetches", "proven"),
    [
        (None, 1, 0, True, 1, False),
        (None, 1, 1, True, 2, True),
        (None, 1, 1, False, 2, False),
        (evidence(), 1, 0, True, 2, True),  # the first was in an earlier run
        (evidence(), 1, 0, False, 2, False),
        (evidence(), 2, 0, True, 1, False),  # other bytes than in the earlier run
        (evidence(), 2, 1, True, 2, True),
        (evidence(size=11), 1, 0, True, 1, False),
        (evidence(fetches=5, proven=True), 1, 0, True, 6, True),
    ],
)
def test_two_equal_downloads_prove_it_if_every_source_was_tried(
    *, before: BadSourceEvidence | None, found: int, earlier: int, everywhere: bool, fetches: int, proven: bool
):
    verdict = with_new_evidence(before, evidence(found=sums(found)), earlier=earlier, everywhere=everywhere)
    assert (verdict.fetches, verdict.proven) == (fetches, proven)


def test_other_bytes_discard_the_old_validators_but_not_the_path_of_the_kept_bytes():
    before = evidence(seen=(seen(etag='"1"'),), kept="here", found=sums(1))
    other = with_new_evidence(before, evidence(found=sums(2), seen=(seen(etag='"2"'),)), earlier=0, everywhere=True)
    assert ([s.etag for s in other.seen], other.kept) == (['"2"'], "here")
    same = with_new_evidence(before, evidence(seen=(seen(etag='"2"'), seen(etag='"1"'))), earlier=0, everywhere=True)
    assert [s.etag for s in same.seen] == ['"1"', '"2"']


def test_the_marks_of_the_sixteen_newest_editions_are_kept():
    known: BadSourceEvidence | None = None
    for at in range(20):
        known = with_new_evidence(known, evidence(seen=(seen(etag=f'"{at}"'),)), earlier=0, everywhere=True)
    assert known is not None
    assert [s.etag for s in known.seen] == [f'"{at}"' for at in range(4, 20)]


@given(st.lists(st.integers(0, 3), max_size=40))
def test_only_equal_downloads_prove_anything_in_any_order(row: list[int]):
    known: BadSourceEvidence | None = None
    for at, found in enumerate(row):
        latest = evidence(found=sums(found), seen=(seen(etag=f'"{at}"'),))
        known = with_new_evidence(known, latest, earlier=row[:at].count(found), everywhere=True)
        assert known.proven == (found in row[:at])
        assert known.fetches <= at + 1
        assert len(known.seen) <= 16
        assert known.seen[-1] == latest.seen[0]
