"""What the accounts of a run use of their quotas: warn, pause or stop an account before its provider does.

A quota of a short period, such as 100 items an hour, sets a pace: the hosts of its account pause until there is room again.
One of a longer period, such as 12 TB in 30 days, is a budget: when its share is used, the account stops.
"""

from __future__ import annotations

from dataclasses import field
from datetime import datetime
from typing import TYPE_CHECKING

from bulkdl.core.errors import QUOTA_USED, QuotaReached
from bulkdl.core.events import AccountAction, AccountEvent, Level, ProductFinished, ProductStarted
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import QuotaUnit
from bulkdl.core.quota import BUCKET_S, QuotaUse, UsageBucket, amount_text, room_at, usage_text, used_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bulkdl.concurrency.rate_limiter import HostBackoff
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Event, Hub
    from bulkdl.core.models import Quota

__all__ = ["LedgerUse", "MeteredAccount", "QuotaMeter"]

_WARN_AT = 0.8
"""Share of a quota at which users are warned."""


@dataclass(slots=True, eq=False)
class LedgerUse:
    """What the owner of one key of the ledger used; accounts that log in alike share it."""

    key: str
    recorded: tuple[UsageBucket, ...] = ()
    """Use of all runs of this machine."""
    bytes: int = 0
    """Use of this run that is not in `recorded` yet; `items` and `sessions` alike."""
    items: int = 0
    sessions: int = 0
    reserved: int = 0
    """Bytes that products under way still need, as far as their sizes are known."""

    def amount(self, unit: QuotaUnit) -> int:
        return self.bytes if unit is QuotaUnit.BYTES else self.items


@dataclass(slots=True)
class _Limit:
    quota: Quota
    recorded: int = 0
    """The part of `LedgerUse.recorded` that is in the quota's period."""
    warned: bool = False
    paused_until: float = 0.0
    """Unix time."""


@dataclass(slots=True, eq=False)
class MeteredAccount:
    """An account of the run, with its use and its quotas."""

    name: str
    use: LedgerUse
    quotas: tuple[Quota, ...] = ()
    hosts: frozenset[str] = frozenset()
    """Hosts of its products."""
    limits: list[_Limit] = field(default_factory=list)
    started: set[str] = field(default_factory=set)
    """Ids of the products that were requested."""
    under_way: dict[str, int] = field(default_factory=dict)
    """Bytes reserved for each product that was requested and has no outcome yet."""
    stopped: QuotaReached | None = None

    @property
    def counts_requests(self) -> bool:
        """True if products are counted when they are first requested, not when they are announced."""
        return any(quota.unit is QuotaUnit.ITEMS for quota in self.quotas)


class QuotaMeter:
    """Counts what each account uses, and stops or pauses those that have used up their share of a quota."""

    def __init__(
        self,
        accounts: Iterable[MeteredAccount] = (),
        *,
        hub: Hub,
        clock: Clock,
        pauses: HostBackoff,
        share: float | None = 1.0,
        max_wait: float = 3600.0,
    ) -> None:
        """`share`: the part of each quota that may be used; None: quotas are only watched.

        `max_wait`: quotas of up to this period (s) are waited for.
        """
        self._hub = hub
        self._clock = clock
        self._pauses = pauses
        self._share = share
        self._max_wait = max_wait
        self._accounts = {account.name: account for account in accounts}
        self._uses = {account.use.key: account.use for account in self._accounts.values()}
        for account in self._accounts.values():
            account.limits = [_Limit(quota) for quota in account.quotas]

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self._uses)

    @property
    def stops(self) -> dict[str, QuotaReached]:
        """Return the accounts that have used up their share, by name."""
        return {name: account.stopped for name, account in self._accounts.items() if account.stopped is not None}

    def report(self) -> dict[str, tuple[QuotaUse, ...]]:
        """Return the use of each account's quotas by the account's name."""
        return {
            name: tuple(self._quota_use(account, limit) for limit in account.limits)
            for name, account in self._accounts.items()
            if account.limits
        }

    # What is counted

    def receive(self, name: str | None, product_id: str, count: int) -> None:
        """Count bytes of a body, also of one that was in vain: the provider has sent them."""
        if name is not None and (account := self._accounts.get(name)) is not None:
            account.use.bytes += count
            if left := account.under_way.get(product_id):
                taken = min(left, count)
                account.under_way[product_id] = left - taken
                account.use.reserved -= taken

    def __call__(self, event: Event) -> None:
        """Count logins and products, and release what a finished product does not need, as an observer of the run."""
        if isinstance(event, ProductStarted):
            account = self._accounts.get(event.product.account or "")
            if account is not None and not account.counts_requests:
                account.use.items += 1
        elif isinstance(event, ProductFinished):
            product = event.outcome.product
            account = self._accounts.get(product.account or "")
            if account is not None:
                account.use.reserved -= account.under_way.pop(product.id, 0)
                account.started.add(product.id)  # a later request for it, as a canary, needs no room
        elif isinstance(event, AccountEvent) and event.action is AccountAction.LOGIN:
            account = self._accounts.get(event.account)
            if account is not None:
                account.use.sessions += 1

    def take_unrecorded(self) -> dict[str, UsageBucket]:
        """Return by key what the ledger has not yet, and count it as recorded from now on."""
        start = self._clock.wall() // BUCKET_S * BUCKET_S
        found = {
            use.key: UsageBucket(start, use.bytes, use.items, use.sessions)
            for use in self._uses.values()
            if use.bytes or use.items or use.sessions
        }
        for key, bucket in found.items():
            use = self._uses[key]
            use.recorded = (*use.recorded, bucket)
            use.bytes = use.items = use.sessions = 0
        return found

    def refresh(self, recorded: Mapping[str, tuple[UsageBucket, ...]], *, is_over: bool = False) -> None:
        """Take over the ledger's buckets by key, where it has any; warn, and pause hosts unless the run `is_over`."""
        for key, buckets in recorded.items():
            self._uses[key].recorded = buckets
        now = self._clock.wall()
        for account in self._accounts.values():
            for limit in account.limits:
                limit.recorded = used_in(account.use.recorded, limit.quota, now=now)
                if account.stopped is None:
                    self._warn(account, limit)
                if not is_over and self._is_pace(limit) and self._refuses(account, limit):
                    self._pause(account, limit, 0)

    # What may go on

    def may_pipeline(self, name: str | None) -> bool:
        """Return whether products of the account may be requested ahead, where no request is admitted by itself."""
        account = self._accounts.get(name or "")
        if account is None or not account.limits:
            return True
        return not account.counts_requests and not any(self._refuses(account, limit) for limit in account.limits)

    def admit(self, name: str | None, product_id: str, *, size: int | None, is_download: bool) -> None:
        """Allow a request for a product; reserve the `size` (bytes, None: unknown) of one that is new.

        Raise `QuotaReached` if the account's share of a quota is used, or is too small for a new product. Products that are
        under way go on as long as bytes are left.
        """
        account = self._accounts.get(name or "")
        if account is None or not account.limits or not is_download:
            return
        is_new = product_id not in account.started
        new_bytes = (size or 0) if is_new else None
        for limit in account.limits:
            if not self._refuses(account, limit, new_bytes):
                self._warn(account, limit)
            elif self._is_pace(limit):
                self._pause(account, limit, new_bytes)
            else:
                raise self._stop(account, limit, new_bytes)
        if is_new:
            account.started.add(product_id)
            account.under_way[product_id] = size or 0
            account.use.reserved += size or 0
            account.use.items += account.counts_requests
        for limit in account.limits:
            if self._is_pace(limit) and self._refuses(account, limit, 0):
                self._pause(account, limit, 0)

    def _refuses(self, account: MeteredAccount, limit: _Limit, new_bytes: int | None = 0) -> bool:
        """Return whether the share is used, or too small for a new product of that size; None: it is under way."""
        if self._share is None:
            return False
        allowed, used = self._share * limit.quota.amount, self._used(account, limit)
        if limit.quota.unit is QuotaUnit.ITEMS:
            return new_bytes is not None and used + 1 > allowed
        if used >= allowed or new_bytes is None:
            return used >= allowed
        ahead = used + account.use.reserved
        return ahead > 0 and ahead + new_bytes > allowed  # a product larger than its quota is requested all the same

    def _is_pace(self, limit: _Limit) -> bool:
        """Return whether the quota is waited for, rather than the account stopped."""
        return limit.quota.period_s <= self._max_wait

    def _warn(self, account: MeteredAccount, limit: _Limit) -> None:
        is_near = self._used(account, limit) >= _WARN_AT * limit.quota.amount
        if is_near and not limit.warned and not self._is_pace(limit):
            limit.warned = True
            self._hub.note(Level.WARNING, f"account {account.name}: {self._state(account, limit)}")

    def _pause(self, account: MeteredAccount, limit: _Limit, new_bytes: int | None) -> None:
        now = self._clock.wall()
        if now < limit.paused_until:
            return
        limit.paused_until = self._room_at(account, limit, now, new_bytes)
        for host in account.hosts:
            self._pauses.pause(host, limit.paused_until - now)
        text = f"account {account.name}: {self._state(account, limit)}; it goes on at {_time(limit.paused_until)}"
        self._hub.note(Level.INFO, text)

    def _stop(self, account: MeteredAccount, limit: _Limit, new_bytes: int | None) -> QuotaReached:
        if account.stopped is not None:
            return account.stopped
        again = self._room_at(account, limit, self._clock.wall(), new_bytes)
        more = ""
        if limit.quota.unit is QuotaUnit.BYTES:
            more += f", {amount_text(limit.quota, account.use.reserved)} under way" if account.use.reserved else ""
            more += f", {amount_text(limit.quota, new_bytes)} needed for the next product" if new_bytes else ""
        share = "" if self._share == 1 else f"; --quota {self._share:.0%} ends its use there"
        account.stopped = QuotaReached(
            f"{QUOTA_USED}: {self._state(account, limit)}{more}{share}",
            account=account.name,
            hint=f"There is room again from {_time(again)}",
        )
        self._hub.counters.accounts[account.name] = "stopped"
        event = AccountEvent(account=account.name, action=AccountAction.STOPPED, detail=str(account.stopped))
        self._hub.emit(event)
        return account.stopped

    def _room_at(self, account: MeteredAccount, limit: _Limit, now: float, new_bytes: int | None) -> float:
        """Return when there is room for `new_bytes`, if this run uses nothing more than what is under way."""
        use, quota = account.use, limit.quota
        buckets = (*use.recorded, UsageBucket(now // BUCKET_S * BUCKET_S, use.bytes + use.reserved, use.items))
        below = (self._share or 1.0) * quota.amount
        if new_bytes and quota.unit is QuotaUnit.BYTES:
            below = max(1.0, below - new_bytes + 1)
        return room_at(buckets, quota, now=now, limit=below)

    def _used(self, account: MeteredAccount, limit: _Limit) -> int:
        return limit.recorded + account.use.amount(limit.quota.unit)

    def _state(self, account: MeteredAccount, limit: _Limit) -> str:
        return usage_text(limit.quota, self._used(account, limit))

    def _quota_use(self, account: MeteredAccount, limit: _Limit) -> QuotaUse:
        now, used = self._clock.wall(), self._used(account, limit)
        again = self._room_at(account, limit, now, 0) if used >= limit.quota.amount else None
        return QuotaUse(quota=limit.quota, used=used, room_at=again)


def _time(unix: float) -> str:
    return f"{datetime.fromtimestamp(unix).astimezone():%Y-%m-%d %H:%M}"
