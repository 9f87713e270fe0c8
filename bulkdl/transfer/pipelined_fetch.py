"""Pipelined download of small, unknown products on one connection (RFC 9112 §9.3.2).

Once an origin has answered 256 small products in a row plainly, requests are sent before the earlier ones are answered. One
write, one wake-up and one turn of Python then serve several products. A worker passes each product that arrives plainly on to
`batch_finalize`. `http/lightweight` has the connection (`pipelined_connection`), the credential and the responses
(`pipelined_requests`), and decides if and how far to pipeline (`pipelining_policy`).

Only the order of the responses tells which product a body belongs to, so the server must be known and proven to keep it:
the first two products of a run are requested together and then each alone, before any pipelined response is used.

A product that might need more than a look at its response is not requested here. A product whose response turns out not to be
a plain 200 is given back, with all that were requested with it, and goes through `attempt` as if nothing had been requested.

A worker never uses more than its one connection and slot, and passes the slot on after 32 products if somebody waits for it.
Proxies, cookies, a rate limit, a daily window and products with own headers exclude pipelining. `BULKDL_ASK_AHEAD=0` turns it
off; another number takes the place of the 256, for every server.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bulkdl.core.errors import AccountStopped, AccountWaiting, BulkdlError
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.transfer.attempt import SMALL, accept_small_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkdl.http.lightweight.pipelined_requests import PipelinedRequests
    from bulkdl.planning.plan import PlannedProduct
    from bulkdl.protocol.response_head import Head
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.state import SmallProduct
    from bulkdl.transfer.task import DownloadTask

__all__ = ["PipelinedFetcher", "may_join"]

_PRODUCTS_IN_A_ROW = 32
"""Products on one slot after which a waiting worker gets it."""


def may_join(context: RunContext, item: PlannedProduct) -> bool:
    """Return whether the product is new, small and ordinary, so that it may be requested by pipelining."""
    product = item.product
    return (
        item.local_status is LocalFileStatus.ABSENT
        and item.entry is None
        and context.quotas.may_pipeline(product.account)
        and not product.extract
        and not product.headers
        and (product.size is None or product.size <= SMALL)
        and product.id not in context.evidence
        and product.id not in context.orphans.adoptable
    )


class PipelinedFetcher:
    """One worker's pipelined download of products of one account and origin."""

    def __init__(
        self,
        context: RunContext,
        *,
        more: Callable[[int, Callable[[PlannedProduct], bool]], list[DownloadTask]],
        deliver: Callable[[DownloadTask, SmallProduct], None],
    ) -> None:
        """`more` starts up to so many of the next products; `deliver` gets each product that arrived plainly."""
        self._context = context
        self._more = more
        self._deliver = deliver
        self._requested: deque[DownloadTask] = deque()
        """Tasks without a response, in the order of their requests."""
        self._last_size = 0
        """Bytes of the last body."""
        self._taken = 1
        """Products that were taken so far."""

    async def run(self, task: DownloadTask, ahead: PipelinedRequests) -> list[DownloadTask]:
        """Download `task` and products that may follow it; return the tasks that need an ordinary attempt."""
        product = task.product
        account, origin, host = product.account, product.url.beginning, product.url.host

        def wanted(item: PlannedProduct) -> bool:
            other = item.product
            return other.account == account and other.url.beginning == origin and may_join(self._context, item)

        self._requested.append(task)
        try:
            async with self._context.connections.slot(account=account, host=host, reserved=task.slot):
                if ahead.wants_trial:
                    await self._run_trial(ahead, wanted)
                else:
                    await self._run_pipelined(ahead, wanted)
        except (AccountStopped, AccountWaiting):
            pass  # each task meets the error again in its ordinary attempt
        finally:
            ahead.close()
        return list(self._requested)

    async def _run_trial(self, ahead: PipelinedRequests, wanted: Callable[[PlannedProduct], bool]) -> None:
        if not self._take_more(1, wanted):
            return
        urls = [task.product.url for task in self._requested]
        for answer in await ahead.on_trial(*urls):
            if not await self._accept(self._requested[0], *answer):
                return
            self._requested.popleft()

    async def _run_pipelined(self, ahead: PipelinedRequests, wanted: Callable[[PlannedProduct], bool]) -> None:
        new = [*self._requested, *self._take_more(ahead.room(self._last_size) - 1, wanted)]
        while not new or await ahead.ask([task.product.url for task in new]):
            if not self._requested or not (answers := await ahead.answers()):
                return
            for head, body in answers:
                if not await self._accept(self._requested[0], head, body):
                    ahead.reject_answer()
                    return
                self._requested.popleft()
            new = self._take_more(ahead.room(self._last_size), wanted)

    def _take_more(self, room: int, wanted: Callable[[PlannedProduct], bool]) -> list[DownloadTask]:
        if room <= 0 or (self._taken >= _PRODUCTS_IN_A_ROW and self._context.connections.has_waiters):
            return []
        new = self._more(room, wanted)
        self._taken += len(new)
        self._requested.extend(new)
        return new

    async def _accept(self, task: DownloadTask, head: Head, body: bytes) -> bool:
        """Return whether the response was the product, which has then been delivered."""
        self._last_size, task.attempts = len(body), 1
        try:
            small = await accept_small_response(self._context, task, head, body)
        except BulkdlError:
            small = None  # the ordinary attempt reports the error
        if small is None:
            task.attempts = 0
            return False
        self._deliver(task, small)
        return True
