"""Ask an origin for a product that came before, to tell a refused product from an origin that is out of order.

A gateway or a storage that is out of order answers 401, 403, 404 or a web page to everybody. If a product that came before is
refused as well, a refusal says nothing about the product that met it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from bulkdl.content.error_pages import objection
from bulkdl.core.errors import AccountStopped, AccountWaiting, ProductFailed, TryAgain
from bulkdl.core.models import FailureKind, Trouble
from bulkdl.http.errors import trouble_of
from bulkdl.transfer.retry import AttemptBudget
from bulkdl.transfer.task import DownloadTask

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from bulkdl.concurrency.connection_limiter import ConnectionLimiter
    from bulkdl.core.clock import Clock
    from bulkdl.core.models import Product, Settings
    from bulkdl.http.response import Response

__all__ = ["Canaries"]

_KEPT = 3
"""Products kept for each origin. All of them have to be refused, since one of them may just have been withdrawn."""
_VALID_S = 5.0
"""Seconds for which a result holds, so that many refusals at once cause one check."""
_BODY_STATUSES = (200, 206)
_SERVER_ERRORS = 500
"""Lowest status that says that the server is out of order."""
_REFUSED = "{origin} refuses products that came before"


class _Context(Protocol):
    """The parts of a run that a check needs; `RunContext`, which holds the canaries, has them."""

    @property
    def clock(self) -> Clock: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def connections(self) -> ConnectionLimiter: ...
    @property
    def open(self) -> Callable[..., AbstractAsyncContextManager[Response]]: ...


class Canaries:
    """Products that came from each origin, in this run or before it."""

    def __init__(self) -> None:
        self._came: dict[str, deque[Product]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._results: dict[str, tuple[float, bool]] = {}
        self._faults: dict[str, tuple[Trouble, str]] = {}

    def add(self, product: Product, origin: str | None = None) -> None:
        """Remember a product that came from `origin`, by default that of its URL."""
        origin = origin or product.url.origin
        if origin != product.url.origin:
            return
        came = self._came.setdefault(origin, deque(maxlen=_KEPT))
        if product not in came:
            came.append(product)

    def knows(self, origin: str) -> bool:
        return bool(self._came.get(origin))

    def fault(self, origin: str) -> tuple[Trouble, str]:
        """Return the trouble, and its reason, that the latest product which did not come any more has met."""
        return self._faults.get(origin, (Trouble.DENIED, _REFUSED.format(origin=origin)))

    async def still_come(self, context: _Context, origin: str, *, most: int = _KEPT) -> bool | None:
        """Return whether a product that came before still comes; None if none came, or its account cannot be used.

        Up to `most` of them are asked for.
        """
        async with self._locks.setdefault(origin, asyncio.Lock()):
            at, result = self._results.get(origin, (float("-inf"), True))
            if context.clock.monotonic() - at <= _VALID_S:
                return result
            found: bool | None = None
            for product in list(self._came.get(origin, ()))[::-1][:most]:
                found = await self._comes(context, product, origin)
                if found is not False:
                    break
            if found is not None:
                self._results[origin] = context.clock.monotonic(), found
            return found

    async def _comes(self, context: _Context, product: Product, origin: str) -> bool | None:
        self._faults.pop(origin, None)
        task = DownloadTask(product=product, budget=AttemptBudget(1))
        try:
            async with (
                asyncio.timeout(context.settings.timeout),
                context.connections.slot(account=product.account, host=product.url.host),
                context.open(task, headers={"Range": "bytes=0-511"}) as response,
            ):
                head = response.head
                if head.status >= _SERVER_ERRORS:
                    self._faults[origin] = Trouble.STATUS, f"answered {head.status}"
                if head.status not in _BODY_STATUSES:
                    return False
                beginning = await response.peek()
                response.close()
                name = product.file or task.shown
                return objection(name=name, head=beginning, content_type=head.content_type, size=None) is None
        except (AccountStopped, AccountWaiting):
            return None
        except TryAgain as error:
            if error.kind is FailureKind.NETWORK:
                self._faults[origin] = error.trouble or trouble_of(error.__cause__), error.reason
            return False
        except TimeoutError:
            self._faults[origin] = Trouble.TIMEOUT, "sent no data before the timeout"
            return False
        except ProductFailed:
            return False
