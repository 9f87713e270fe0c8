"""How far the accounts' quotas go, from the ledger on this machine; no event loop and no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import AccountStopped
from bulkdl.core.models import AuthKind
from bulkdl.core.quota import forecast, quota_use
from bulkdl.journal.quota_ledger import account_key, read_usage
from bulkdl.operations.state_folder import state_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bulkdl.core.models import Account
    from bulkdl.core.quota import QuotaForecast, QuotaUse

__all__ = ["forecasts", "quota_uses"]


def forecasts(
    account: Account,
    username: str | None,
    sizes: Sequence[int | None],
    *,
    environ: Mapping[str, str],
    share: float | None,
) -> tuple[QuotaForecast, ...]:
    """Return a forecast for each quota of the account, for products of these sizes; None: the size is unknown."""
    return tuple(forecast(use, sizes, share=share) for use in _uses(account, username, environ))


def quota_uses(accounts: Mapping[str, Account], *, environ: Mapping[str, str]) -> dict[str, tuple[QuotaUse, ...]]:
    """Return the use of quotas by account, for those whose user name is found without a question."""
    limited = [account for account in accounts.values() if account.quota]
    if not limited:
        return {}
    from bulkdl.auth.credentials import Credentials, keyring_lookup, resolve  # noqa: PLC0415 - only with a quota

    found = {}
    for account in limited:
        is_open, credentials = account.auth is AuthKind.NONE, Credentials()
        try:
            credentials = credentials if is_open else resolve(account, environ=environ, keyring=keyring_lookup)
        except AccountStopped:
            continue
        found[account.name] = _uses(account, credentials.username, environ)
    return found


def _uses(account: Account, username: str | None, environ: Mapping[str, str]) -> tuple[QuotaUse, ...]:
    if not account.quota:
        return ()
    key = account_key(account, username)
    buckets = read_usage(state_folder(environ), frozenset((key,))).get(key, ())
    return tuple(quota_use(buckets, quota, now=SystemClock().wall()) for quota in account.quota)
