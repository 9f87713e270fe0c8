"""Small products, received whole: written, verified, recorded and named many at a time.

What such a product costs beside its bytes are changes of thread, commits and syncs of folders; those that wait at the
same moment share them. The steps are `placing`'s: write, `fsync`, verify, journal `placing`, rename, `fsync` of the folder, journal
`done`. Whatever is not as it should be is left to `placing`.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Self, TypeVar

from bulkdl.content.verify import check_body, ready_for
from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.journal.pending_moves import PendingRename, moved
from bulkdl.storage.batch_files import place_all, write_whole
from bulkdl.storage.file_info import check_name
from bulkdl.transfer.finalize import confirm_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from bulkdl.core.models import Checksum
    from bulkdl.storage.file_info import FileFacts
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.state import FinalizeError, SmallProduct
    from bulkdl.transfer.task import DownloadTask

__all__ = ["BatchFinalizer"]

T = TypeVar("T")

_GATHER_S = 0.01
"""How long the first of a batch waits for company, where more can come."""
_TURN_S = 0.01
"""A thread's share of a batch: a disk that takes its time gets more threads, a fast one fewer changes of thread."""
_MOST = 128
"""Products in a thread's share."""
_ENOUGH, _ENOUGH_BYTES = 128, 8 * 1024 * 1024
"""Of products that wait for the disk;"""
_ENOUGH_QUICKLY = 512
"""for a quick one, in fewer and larger batches."""


@dataclass(slots=True, eq=False)
class _Item:
    task: DownloadTask
    whole: SmallProduct
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class _Written:
    """A complete partial that is durable, and what it was verified against."""

    facts: FileFacts
    verified: tuple[Checksum, ...]


class _Odd(Enum):
    IN_THE_WAY = "a file has the name already"  # nothing was written then
    NOT_THE_PRODUCT = "the partial does not verify"


_Result = _Written | _Odd | ProductFailed | StorageStopped


class BatchFinalizer:
    """Those that are handed over at the same moment are one batch. To be used in `async with`, whose end waits for all of them."""

    def __init__(
        self,
        context: RunContext,
        *,
        record: Callable[[DownloadTask, int], Awaitable[None]],
        tell: Callable[[DownloadTask, FinalizeError | None], None],
    ) -> None:
        """`record` is given each product that is in its place and in the journal, and its bytes; then, of all, `tell` what is in the way."""
        self._context = context
        self._record = record
        self._tell = tell
        self._waiting: list[_Item] = []
        self._group = asyncio.TaskGroup()
        self._seer: asyncio.Task[None] | None = None
        self._share = 8
        self._under_way = 0
        self._held = 0

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._seer is not None:  # what has been handed over is seen through, whatever ends the run
                await run_to_completion(asyncio.wait((self._seer,)))
        finally:
            await self._group.__aexit__(kind, error, trace)

    @property
    def is_full(self) -> bool:
        """Whether so many have been handed over and not been seen through that no more should be fetched."""
        enough = _ENOUGH_QUICKLY if self._is_quick else _ENOUGH
        return self._under_way >= enough or self._held >= _ENOUGH_BYTES

    @property
    def _is_quick(self) -> bool:
        """Whether the disk takes no time to speak of, so that what is done there is nearly all computing."""
        return self._share >= _MOST

    def hand_over(self, task: DownloadTask, whole: SmallProduct) -> None:
        """Have the product given its final name, durably. Nothing takes that back.

        What is told where it has not got it: an entry that has a partial which is not the product, as `placing.check` will say, or
        one without ranges: then a file that nobody has looked at is in its way. Or `ProductFailed` or `StorageStopped`.
        """
        ready_for(task.product, task.file or "")
        self._waiting.append(_Item(task, whole))
        self._under_way += 1
        self._held += len(whole.body)
        if self._seer is None:
            self._seer = self._group.create_task(self._see())

    def _settle(self, item: _Item, obstacle: FinalizeError | None) -> None:
        item.is_open = False
        self._under_way -= 1
        self._held -= len(item.whole.body)
        self._tell(item.task, obstacle)

    async def _see(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(_GATHER_S)
                batch, self._waiting = self._waiting, []
                await self._see_through(batch)
        finally:
            self._seer = None

    async def _see_through(self, batch: list[_Item]) -> None:
        try:
            await self._write(batch)
        except (ProductFailed, StorageStopped) as error:
            for item in batch:
                if item.is_open:
                    self._settle(item, error)

    async def _write(self, batch: list[_Item]) -> None:
        shares = [batch[at : at + self._share] for at in range(0, len(batch), self._share)]
        root = self._context.storage.root
        found = await self._on_disk(_write_share, *((root, tuple(share)) for share in shares))
        each_s = min(least_s for _, least_s in found)
        if each_s < inf:
            self._share = max(1, min(_MOST, int(_TURN_S / max(each_s, 1e-9))))
        written: list[tuple[_Item, _Written]] = []
        for item, result in zip(batch, [r for results, _ in found for r in results], strict=True):
            if isinstance(result, _Written):
                written.append((item, result))
            elif isinstance(result, _Odd):
                here = ((0, len(item.whole.body)),) if result is _Odd.NOT_THE_PRODUCT else ()
                self._settle(item, replace(item.whole.entry, ranges=here))
            else:
                self._settle(item, result)
        await self._place(self._confirmed(written))

    async def _on_disk(self, function: Callable[..., T], *calls: tuple[object, ...]) -> list[T]:
        """On threads, all at once; of a quick disk one after the other, each with nothing beside it."""
        storage = self._context.storage
        if not self._is_quick:
            return await asyncio.gather(*(storage.work(function, *arguments) for arguments in calls))
        found: list[T] = []
        for arguments in calls:
            found.append(await storage.work_alone(function, *arguments, within_s=_TURN_S))
            await asyncio.sleep(0)
        return found

    def _confirmed(self, written: list[tuple[_Item, _Written]]) -> list[tuple[_Item, _Written]]:
        kept: list[tuple[_Item, _Written]] = []
        for item, result in written:
            try:
                check_name(item.task.file or "")
                confirm_name(self._context.claims, item.task.product, item.task.file or "")
            except ProductFailed as error:
                self._settle(item, error)
            else:
                kept.append((item, result))
        return kept

    async def _place(self, written: list[tuple[_Item, _Written]]) -> None:
        if not written:
            return
        journal, storage = self._context.journal, self._context.storage
        moves = [PendingRename(item.whole.entry, result.facts, result.verified) for item, result in written]
        batch = await journal.put_moves(moves)
        paths = [(item.whole.entry.part or "", item.task.file or "", item.task.overwrite) for item, _ in written]
        placed: list[tuple[_Item, PendingRename]] = []
        failed: list[tuple[_Item, ProductFailed | StorageStopped]] = []
        left: list[PendingRename] = []
        (found,) = await self._on_disk(place_all, (storage.root, tuple(paths)))
        for (item, result), move, facts in zip(written, moves, found, strict=True):
            if isinstance(facts, (ProductFailed, StorageStopped)):
                failed.append((item, facts))
                left.append(move)
            else:
                placed.append((item, PendingRename(item.whole.entry, facts, result.verified)))
        try:
            await journal.finish_batch(batch, [move for _, move in placed], left)
            for item, error in failed:
                self._settle(item, error)
            for item, move in placed:
                await self._record(item.task, move.facts.size)
                self._settle(item, None)
        except StorageStopped:
            for item, move in placed:
                item.task.moved = moved(move)  # to be recorded when there is room: nothing else is left to do
            raise


def _write_share(root: Path, share: Sequence[_Item]) -> tuple[list[_Result], float]:
    """On a thread: each product's partial, complete, durable and right, or what came of it; the seconds of the quickest that was written.

    That says what the disk takes: the others may have waited for the interpreter.
    """
    known: set[str] = set()
    results: list[_Result] = []
    least_s = inf
    began = time.perf_counter()
    for item in share:
        results.append(result := _write_one(root, item, known))
        now = time.perf_counter()
        if isinstance(result, _Written):
            least_s = min(least_s, now - began)
        began = now
    return results, least_s


def _write_one(root: Path, item: _Item, known: set[str]) -> _Result:
    file, whole = item.task.file or "", item.whole
    if whole.unseen and os.path.lexists(os.path.join(root, file)):  # noqa: PTH118 - paths are made for each product
        return _Odd.IN_THE_WAY
    try:
        facts = write_whole(root, whole.entry.part or "", whole.body, known=known)
    except (ProductFailed, StorageStopped) as error:
        return error
    try:
        verified = check_body(
            whole.body,
            item.task.product,
            path=f"{root}/{whole.entry.part}",
            name=file.rpartition("/")[2],
            content_type=item.task.content_type,
        )
    except (ProductFailed, OSError):
        return _Odd.NOT_THE_PRODUCT
    return _Written(facts, verified)
