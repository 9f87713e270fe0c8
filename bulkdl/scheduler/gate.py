"""Hold a product while its origin or its account's token endpoint is out of order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulkdl.core.models import Product
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["Gate", "account_key"]

_POLL_S = 60.0
"""Seconds between two looks at an account that waits; its events end the wait earlier."""


def account_key(account: str) -> str:
    """Return the key of an account; every other key is an origin, which contains `://`."""
    return f"account {account}"


class Gate:
    """Decides for tasks that a worker is about to take, and counts those in flight for each origin."""

    def __init__(self, context: RunContext) -> None:
        self._outages = context.outages
        self._signers = context.signers
        self._pauses = context.pauses

    def closed_key(self, product: Product) -> str | None:
        """Return the key of what a product has to wait for, None if it may go now."""
        if product.account is not None and self._signers[product.account].waiting:
            return account_key(product.account)
        return product.url.origin if self._outages.admits_in(product.url.origin) > 0 else None

    def closed_key_of(self, task: DownloadTask) -> str | None:
        """Do the same for a task, which turns to a mirror if only its current source has to wait."""
        if not task.needs_origin:
            return None
        account = task.product.account
        if account is not None and self._signers[account].waiting:
            return account_key(account)
        if self._outages.admits_in(task.source.origin) <= 0:
            return None
        for index, url in enumerate(task.product.sources):
            if index not in task.dead_sources and self._outages.admits_in(url.origin) <= 0:
                task.source_index = index
                return None
        return task.source.origin

    def opens_in(self, key: str) -> float:
        """Return the seconds until what `key` names may be asked; 0: now."""
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

    def leave(self, task: DownloadTask) -> None:
        if task.entered is not None:
            self._outages.end(task.entered, task.product.id)
            task.entered = None
