"""Feed the ledger of quotas during a run, and the run's meter from the ledger, which other runs feed too."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.concurrency.quota_meter import LedgerUse, MeteredAccount, QuotaMeter
from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.events import Level
from bulkdl.core.models import AuthKind
from bulkdl.journal.quota_ledger import QuotaLedger, account_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
    from pathlib import Path

    from bulkdl.concurrency.rate_limiter import HostBackoff
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.models import Account, Product, Settings
    from bulkdl.core.quota import UsageBucket

__all__ = ["is_recorded", "metered", "recorded_in"]

SAVE_S = 10.0
"""Seconds between two additions to the ledger; a killed run loses at most so much."""


def is_recorded(account: Account) -> bool:
    """Return whether the ledger has the account: one with a quota, or one that logs in, whose quota may be named later."""
    return bool(account.quota) or account.auth is AuthKind.OIDC


def metered(
    accounts: Mapping[str, Account],
    products: Iterable[Product],
    *,
    usernames: Mapping[str, str | None],
    settings: Settings,
    hub: Hub,
    clock: Clock,
    pauses: HostBackoff,
) -> QuotaMeter:
    """Return the meter of a run that has to download `products`; `usernames` by account."""
    hosts: dict[str, set[str]] = {}
    for product in products:
        if product.account is not None and is_recorded(accounts[product.account]):
            hosts.setdefault(product.account, set()).add(product.url.host)
    uses: dict[str, LedgerUse] = {}
    found = []
    for name, own in hosts.items():
        key = account_key(accounts[name], usernames.get(name))
        use = uses.setdefault(key, LedgerUse(key))
        found.append(MeteredAccount(name, use, quotas=accounts[name].quota, hosts=frozenset(own)))
    return QuotaMeter(found, hub=hub, clock=clock, pauses=pauses, share=settings.quota, max_wait=settings.max_wait)


@asynccontextmanager
async def recorded_in(folder: Callable[[], Path], meter: QuotaMeter, *, hub: Hub, clock: Clock) -> AsyncIterator[None]:
    """Keep ledger and meter in step in the body of the `async with`; record the rest at its end, also after a signal."""
    if not meter.keys:
        yield
        return
    warnings: list[str] = []
    exchange = partial(_exchange, QuotaLedger(folder(), warn=warnings.append), meter, warnings, hub=hub, clock=clock)
    await exchange()
    hub.subscribe(meter)
    task = asyncio.create_task(_repeat(exchange, clock), name="keep the quota ledger")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await run_to_completion(exchange(is_over=True))


async def _repeat(exchange: Callable[[], Coroutine[None, None, None]], clock: Clock) -> None:
    while True:
        await clock.sleep(SAVE_S)
        await run_to_completion(exchange())


async def _exchange(
    ledger: QuotaLedger, meter: QuotaMeter, warnings: list[str], *, hub: Hub, clock: Clock, is_over: bool = False
) -> None:
    """Add to the ledger what it has not yet, and take over what all runs have added."""
    recorded = await asyncio.to_thread(_add_and_read, ledger, meter.take_unrecorded(), meter.keys, clock.wall())
    while warnings:
        hub.note(Level.WARNING, warnings.pop(0))
    meter.refresh(recorded, is_over=is_over)


def _add_and_read(
    ledger: QuotaLedger, used: Mapping[str, UsageBucket], keys: frozenset[str], now: float
) -> dict[str, tuple[UsageBucket, ...]]:
    if used:
        ledger.add(used, now=now)
    return ledger.read(keys)
