"""Small products of which nothing is known, fetched one behind the other on one connection (`ahead`).

A convoy takes no product that might need more than a look at its answer, and keeps none that does: such a product goes the
way of any other, through `transfer`, as if it had not been asked for.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bulkdl.core.errors import AccountStopped, BulkdlError
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.transfer.attempt import SMALL, taken_plainly

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkdl.http.lightweight.pipelined_requests import PipelinedRequests
    from bulkdl.planning.plan import PlannedProduct
    from bulkdl.protocol.response_head import Head
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.state import SmallProduct
    from bulkdl.transfer.task import DownloadTask

__all__ = ["PipelinedFetcher", "may_join"]

_TURN = 32
"""Products of one convoy before others, who wait for a place, have theirs."""


def may_join(context: RunContext, item: PlannedProduct) -> bool:
    """Whether nothing is known of a product but what the manifest says, which is nothing unusual."""
    product = item.product
    return (
        item.local_status is LocalFileStatus.ABSENT
        and item.entry is None
        and not product.extract
        and not product.headers
        and (product.size is None or product.size <= SMALL)
        and product.id not in context.evidence
        and product.id not in context.orphans.adoptable
    )


class PipelinedFetcher:
    """Those of one account and origin that a worker takes in turn."""

    def __init__(
        self,
        context: RunContext,
        *,
        more: Callable[[int, Callable[[PlannedProduct], bool]], list[DownloadTask]],
        deliver: Callable[[DownloadTask, SmallProduct], None],
    ) -> None:
        """`more` gives so many of the next products as are wanted; fewer where there is something else to do first."""
        self._context = context
        self._more = more
        self._deliver = deliver
        self._jobs: deque[DownloadTask] = deque()
        """In the order in which they were asked for."""
        self._size = 0
        """Of the last body."""
        self._joined = 1

    async def run(self, task: DownloadTask, ahead: PipelinedRequests) -> list[DownloadTask]:
        """Fetch `task` and what may follow it; those that are left have to go the usual way."""
        product = task.product
        account, origin, host = product.account, product.url.beginning, product.url.host

        def wanted(item: PlannedProduct) -> bool:
            other = item.product
            return other.account == account and other.url.beginning == origin and may_join(self._context, item)

        self._jobs.append(task)
        try:
            async with self._context.connections.slot(account=account, host=host):
                if ahead.wants_trial:
                    await self._try(ahead, wanted)
                else:
                    await self._go(ahead, wanted)
        except AccountStopped:
            pass  # each of them is told so on the usual way
        finally:
            ahead.close()
        return list(self._jobs)

    async def _try(self, ahead: PipelinedRequests, wanted: Callable[[PlannedProduct], bool]) -> None:
        if not self._joining(1, wanted):
            return
        urls = [task.product.url for task in self._jobs]
        for answer in await ahead.on_trial(*urls):
            if not await self._take(self._jobs[0], *answer):
                return
            self._jobs.popleft()

    async def _go(self, ahead: PipelinedRequests, wanted: Callable[[PlannedProduct], bool]) -> None:
        new = [*self._jobs, *self._joining(ahead.room(self._size) - 1, wanted)]
        while not new or await ahead.ask([task.product.url for task in new]):
            if not self._jobs or not (answers := await ahead.answers()):
                return
            for head, body in answers:
                if not await self._take(self._jobs[0], head, body):
                    ahead.reject_answer()
                    return
                self._jobs.popleft()
            new = self._joining(ahead.room(self._size), wanted)

    def _joining(self, room: int, wanted: Callable[[PlannedProduct], bool]) -> list[DownloadTask]:
        if room <= 0 or (self._joined >= _TURN and self._context.connections.has_waiters):
            return []
        new = self._more(room, wanted)
        self._joined += len(new)
        self._jobs.extend(new)
        return new

    async def _take(self, task: DownloadTask, head: Head, body: bytes) -> bool:
        """Whether the answer was the product, and nothing more has to be done for it here."""
        self._size, task.attempts = len(body), 1
        try:
            whole = await taken_plainly(self._context, task, head, body)
        except BulkdlError:
            whole = None  # said when it is met again
        if whole is None:
            task.attempts = 0
            return False
        self._deliver(task, whole)
        return True
