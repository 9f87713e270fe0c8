"""Quotas as text, sums over a rolling period, and forecasts."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.core.models import Quota, QuotaUnit
from bulkdl.core.quota import (
    BUCKET_S,
    QuotaUse,
    UsageBucket,
    amount_text,
    forecast,
    parse_quotas,
    parse_share,
    period_text,
    quota_use,
    room_at,
    used_in,
)

HOUR, DAY = 3600.0, 86400.0
NOW = 1_750_000_200.0  # a multiple of BUCKET_S


@pytest.mark.parametrize(
    ("text", "amount", "unit", "period_s"),
    [
        ("12T/30d", 12 * 1024**4, QuotaUnit.BYTES, 30 * DAY),
        ("12TB/30d", 12 * 10**12, QuotaUnit.BYTES, 30 * DAY),
        ("12TiB/month", 12 * 1024**4, QuotaUnit.BYTES, 30 * DAY),
        ("1.5 G / 1 day", 3 * 2**29, QuotaUnit.BYTES, DAY),
        ("500KB/h", 500_000, QuotaUnit.BYTES, HOUR),
        ("100 items/1h", 100, QuotaUnit.ITEMS, HOUR),
        ("100 products/2 weeks", 100, QuotaUnit.ITEMS, 14 * DAY),
        ("7B/5min", 7, QuotaUnit.BYTES, 300.0),
    ],
)
def test_a_quota_is_an_amount_in_a_period(text, amount, unit, period_s):
    (quota,) = parse_quotas(text)
    assert (quota.amount, quota.unit, quota.period_s) == (amount, unit, period_s)


def test_several_quotas_are_separated_by_commas():
    assert [quota.text for quota in parse_quotas("12T/30d, 100 items/1h")] == ["12T/30d", "100 items/1h"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("500/1h", "expected an amount with its unit and a period, such as 12T/30d"),
        ("12T", "expected an amount with its unit and a period"),
        ("12T/30", "expected an amount with its unit and a period"),
        ("", "expected an amount with its unit"),
        ("12T/30d,", "expected an amount with its unit"),
        ("-1T/30d", "expected an amount with its unit"),
        ("12X/30d", "expected K, M, G, T or P (or KB to PB, or items)"),
        ("12T/30s", "expected min, h, d, w or month"),
        ("0T/30d", "expected an amount from 1"),
        ("99999P/30d", "expected an amount from 1"),
        ("12T/32d", "expected a period from 5min to 31d"),
        ("12T/1min", "expected a period from 5min to 31d"),
    ],
)
def test_what_is_no_quota_is_an_error_that_says_what_is_expected(text, words):
    with pytest.raises(ValueError, match=r"^expected") as caught:
        parse_quotas(text)
    assert words in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_quotas_or_a_value_error(text):
    found = ()
    with suppress(ValueError):
        found = parse_quotas(text)
    assert all(quota.amount > 0 and quota.period_s >= BUCKET_S for quota in found)


@pytest.mark.parametrize(("text", "share"), [("90%", 0.9), ("100 %", 1.0), ("0.5%", 0.005)])
def test_a_share_is_a_percentage(text, share):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["90", "0%", "101%", "", "half"])
def test_what_is_no_share_is_an_error_that_says_what_is_expected(text):
    with pytest.raises(ValueError, match="expected a share such as 90%"):
        parse_share(text)


@pytest.mark.parametrize(
    ("text", "amount", "shown", "period"),
    [
        ("12TB/30d", 8_200_000_000_000, "8.2 TB", "30d"),
        ("12T/30d", 8 * 1024**4, "8.0 TiB", "30d"),
        ("500KB/1h", 999, "999 B", "1h"),
        ("100 items/90min", 1234, "1,234 items", "1h30m"),
        ("1G/5min", 0, "0 B", "5m"),
    ],
)
def test_an_amount_is_shown_in_the_powers_that_the_quota_was_written_in(text, amount, shown, period):
    (quota,) = parse_quotas(text)
    assert amount_text(quota, amount) == shown
    assert period_text(quota) == period


def hourly(amount: int = 100) -> Quota:
    return Quota(amount=amount, unit=QuotaUnit.BYTES, period_s=HOUR, text="100B/1h")


@pytest.mark.parametrize(
    ("age_s", "counts"),
    [(0, True), (HOUR, True), (HOUR + BUCKET_S - 1, True), (HOUR + BUCKET_S, False), (-DAY, True), (-DAY - 1, False)],
)
def test_a_bucket_counts_until_all_of_it_is_older_than_the_period(age_s, counts):
    assert used_in([UsageBucket(NOW - age_s, 7)], hourly(), now=NOW) == (7 if counts else 0)


def test_items_and_bytes_are_counted_apart():
    buckets = [UsageBucket(NOW, 700, 2)]
    (items,) = parse_quotas("100 items/1h")
    assert used_in(buckets, items, now=NOW) == 2
    assert used_in(buckets, hourly(), now=NOW) == 700


def test_there_is_room_again_when_enough_of_the_oldest_use_has_left_the_period():
    buckets = [UsageBucket(NOW - 1800, 60), UsageBucket(NOW - 2400, 10), UsageBucket(NOW, 50)]
    assert room_at(buckets, hourly(), now=NOW, limit=100) == NOW - 1800 + BUCKET_S + HOUR
    assert room_at(buckets, hourly(), now=NOW, limit=115) == NOW - 2400 + BUCKET_S + HOUR
    assert room_at(buckets, hourly(), now=NOW, limit=200) == NOW


@given(
    st.lists(st.tuples(st.integers(-20, 3), st.integers(0, 60)), max_size=12),
    st.integers(1, 100),
)
def test_less_than_the_limit_is_used_when_there_is_room_and_not_before(uses, limit):
    buckets = [UsageBucket(NOW + slot * BUCKET_S, amount) for slot, amount in uses]
    at = room_at(buckets, hourly(), now=NOW, limit=limit)
    assert used_in(buckets, hourly(), now=at) < limit
    if at > NOW:
        assert used_in(buckets, hourly(), now=at - 1) >= limit


def test_the_use_of_a_quota_that_is_full_says_when_there_is_room_again():
    use = quota_use([UsageBucket(NOW, 130)], hourly(), now=NOW)
    assert (use.used, use.left, use.room_at) == (130, 0, NOW + BUCKET_S + HOUR)
    assert quota_use([UsageBucket(NOW, 30)], hourly(), now=NOW).room_at is None


def test_a_forecast_counts_the_products_that_fit_in_their_order():
    found = forecast(QuotaUse(quota=hourly(), used=30), [40, None, 30, 1, 150], share=1.0)
    assert (found.fitting, found.products, found.unknown) == (2, 4, 1)
    assert found.needed == 221
    assert found.periods == pytest.approx(2.21)


def test_a_forecast_ends_at_the_share_that_a_run_uses():
    use = QuotaUse(quota=hourly(), used=30)
    assert forecast(use, [30, 30], share=0.6).fitting == 1
    assert forecast(use, [30, 40], share=None).fitting == 2
    assert forecast(QuotaUse(quota=hourly(), used=200), [1], share=1.0).fitting == 0


def test_a_forecast_of_items_needs_no_sizes():
    (quota,) = parse_quotas("3 items/1h")
    found = forecast(QuotaUse(quota=quota, used=1), [None, 5, None], share=1.0)
    assert (found.fitting, found.products, found.unknown, found.needed) == (2, 3, 0, 3)
