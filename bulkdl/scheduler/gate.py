"""Hold a product while its origin or its account's token endpoint is out of order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulkdl.core.models import Product
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["Gate", "account_key"]

_SLOT = "slot "
_POLL_S = 60.0
"""Seconds between two looks at an account that waits; its events end the wait earlier."""


def account_key(account: str) -> str:
    """Return the key of an account; the key of an origin contains `://`, that of a slot begins with `_SLOT`."""
    return f"account {account}"


class Gate:
    """Decides for tasks that a worker is about to take, and counts those in flight for each origin."""

    def __init__(self, context: RunContext) -> None:
        self._outages = context.outages
        self._signers = context.signers
        self._pauses = context.pauses
        self._connections = context.connections
        self._waiting = context.hub.counters.waiting
        self._slots: dict[str, tuple[str | None, str]] = {}
        """Account and host of each key of slots."""

    def closed_key(self, product: Product) -> str | None:
        """Return the key of what a product has to wait for, None if it may go now."""
        if product.account is not None and self._signers[product.account].waiting:
            return account_key(product.account)
        if self._outages.admits_in(product.url.origin) > 0:
            return product.url.origin
        return self._slot_key(product.account, product.url.host)

    def _slot_key(self, account: str | None, host: str) -> str | None:
        if self._connections.opens_in(account, host) <= 0:
            return None
        key = f"{_SLOT}{'' if account is None else account}@{host}"
        self._slots[key] = account, host
        return key

    def is_slot(self, key: str) -> bool:
        """Return whether `key` names the slots of an account at a host."""
        return key in self._slots

    def count_waiting(self, key: str, count: int) -> None:
        """Record that so many products wait for what `key` names."""
        if key in self._slots:
            self._connections.set_waiting(*self._slots[key], count)
        elif count:
            self._waiting[key] = count
        else:
            self._waiting.pop(key, None)

    def closed_key_of(self, task: DownloadTask) -> str | None:
        """Do the same for a task, which turns to a mirror if only its current source has to wait."""
        if not task.needs_origin:
            return None
        account = task.product.account
        if account is not None and self._signers[account].waiting:
            return account_key(account)
        if self._outages.admits_in(task.source.origin) <= 0:
            return self._slot_key(account, task.source.host)
        for index, url in enumerate(task.product.sources):
            if index not in task.dead_sources and self._outages.admits_in(url.origin) <= 0:
                task.source_index = index
                return self._slot_key(account, url.host)
        return task.source.origin

    def opens_in(self, key: str) -> float:
        """Return the seconds until what `key` names may be asked; 0: now."""
        if key in self._slots:
            return self._connections.opens_in(*self._slots[key])
        if "://" in key:
            return self._outages.admits_in(key)
        return _POLL_S if self._signers[key.removeprefix("account ")].waiting else 0.0

    def is_plain(self, product: Product) -> bool:
        """Return whether the product's origin and account work without any restriction."""
        if product.account is not None and self._signers[product.account].waiting:
            return False
        return self._outages.is_up(product.url.origin) and self._pauses.left(product.url.host) <= 0

    def enter(self, task: DownloadTask) -> None:
        if task.needs_origin:
            task.entered = task.source.origin
            self._outages.start(task.entered, task.product.id)
            task.slot = self._connections.reserve(task.product.account, task.source.host)

    def leave(self, task: DownloadTask) -> None:
        if task.entered is not None:
            self._outages.end(task.entered, task.product.id)
            task.entered = None
        if task.slot is not None:
            task.slot.give_back()
            task.slot = None
