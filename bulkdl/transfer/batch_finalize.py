"""Batch finalizing of small products: write, verify, record and rename many bodies that are in memory.

Beside its bytes, a small product costs thread changes, commits and syncs of folders. The products that were submitted within
10 ms share them in one batch, while their workers download the next ones. The steps are those of `finalize`: write, `fsync`,
verify, journal `placing`, rename, `fsync` of the folder, journal `done`. Products that turn out unusual are left to `finalize`.

One row of the journal announces all renames of a batch (`journal/pending_moves`); the `done` rows replace it. After a crash,
the next run turns what is left of it into `placing` rows.

Each product costs nine system calls: a new partial is created exclusively, checked, written, synced, checked and closed, then
linked, unlinked and checked. A name that exists already is handled with more care.

If the disk takes no noticeable time (10 ms for 128 products), a second thread would only compete for the interpreter at each of
these calls. Then the event loop waits for such a share, for 10 ms at most, so a disk that becomes slow blocks nothing.

Nothing here is cancelled. The end of a run waits for the batch, so a stop finds each product either done or not begun.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Self, TypeVar

from bulkdl.content.verify import check_body, import_archive_readers
from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.journal.pending_moves import PendingRename, done_entry
from bulkdl.storage.batch_files import place_all, write_whole
from bulkdl.storage.file_info import check_name
from bulkdl.transfer.finalize import confirm_name, report_notes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from bulkdl.content.verify import Verified
    from bulkdl.storage.file_info import FileFacts
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.state import FinalizeError, SmallProduct
    from bulkdl.transfer.task import DownloadTask

__all__ = ["BatchFinalizer"]

T = TypeVar("T")

_GATHER_S = 0.01
"""Time (s) that the first product of a batch waits for others to be submitted."""
_SHARE_S = 0.01
"""Target time (s) for one thread's share of a batch. A slow disk gets more threads, a fast one fewer thread changes."""
_MOST = 128
"""Most products in one thread's share. A disk that reaches this number counts as fast."""
_ENOUGH, _ENOUGH_BYTES = 128, 8 * 1024 * 1024
"""No more products are downloaded while this many, or bodies of so many bytes, wait for the disk."""
_ENOUGH_ON_FAST_DISK = 512
"""Number of products instead of `_ENOUGH` on a fast disk: fewer and larger batches."""


@dataclass(slots=True, eq=False)
class _Item:
    task: DownloadTask
    small: SmallProduct
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class _Written:
    """Complete partial that is durable and the product."""

    facts: FileFacts
    verified: Verified


class _Unusual(Enum):
    NAME_EXISTS = "a file has the name already"  # nothing was written
    NOT_THE_PRODUCT = "the partial does not verify"


_Result = _Written | _Unusual | ProductFailed | StorageStopped


class BatchFinalizer:
    """Finalizes submitted products in batches. Use it in `async with`; the end of the block waits for all of them."""

    def __init__(
        self,
        context: RunContext,
        *,
        record: Callable[[DownloadTask, int], Awaitable[None]],
        tell: Callable[[DownloadTask, FinalizeError | None], None],
    ) -> None:
        """Call `record` with each product that is in its place and in the journal, and its size; then `tell` with every product.

        `tell` gets the reason if the product is not in its place, else None.
        """
        self._context = context
        self._record = record
        self._tell = tell
        self._waiting: list[_Item] = []
        self._group = asyncio.TaskGroup()
        self._runner: asyncio.Task[None] | None = None
        self._share = 8
        self._under_way = 0
        self._held_bytes = 0

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._runner is not None:  # finish what was submitted, whatever ends the run
                await run_to_completion(asyncio.wait((self._runner,)))
        finally:
            await self._group.__aexit__(kind, error, trace)

    @property
    def is_full(self) -> bool:
        """True if so many products wait for the disk that no more should be downloaded."""
        enough = _ENOUGH_ON_FAST_DISK if self._is_fast_disk else _ENOUGH
        return self._under_way >= enough or self._held_bytes >= _ENOUGH_BYTES

    @property
    def _is_fast_disk(self) -> bool:
        """True if the disk takes no noticeable time, so that its work is nearly all computing."""
        return self._share >= _MOST

    def submit(self, task: DownloadTask, small: SmallProduct) -> None:
        """Give the product its final name, durably, with the next batch. This cannot be cancelled.

        On failure, `tell` gets a `FinalizeError`: an entry with ranges if its partial does not verify (`finalize.verify` will say
        why), an entry without ranges if an unchecked file has the name, or `ProductFailed` or `StorageStopped`.
        """
        import_archive_readers(task.product, task.file or "")
        self._waiting.append(_Item(task, small))
        self._under_way += 1
        self._held_bytes += len(small.body)
        if self._runner is None:
            self._runner = self._group.create_task(self._run_batches())

    def _finish(self, item: _Item, error: FinalizeError | None) -> None:
        item.is_open = False
        self._under_way -= 1
        self._held_bytes -= len(item.small.body)
        self._tell(item.task, error)

    async def _run_batches(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(_GATHER_S)
                batch, self._waiting = self._waiting, []
                await self._finalize_batch(batch)
        finally:
            self._runner = None

    async def _finalize_batch(self, batch: list[_Item]) -> None:
        try:
            await self._write(batch)
        except (ProductFailed, StorageStopped) as error:
            for item in batch:
                if item.is_open:
                    self._finish(item, error)

    async def _write(self, batch: list[_Item]) -> None:
        shares = [batch[at : at + self._share] for at in range(0, len(batch), self._share)]
        root = self._context.storage.root
        found = await self._on_disk(_write_share, *((root, tuple(share)) for share in shares))
        each_s = min(least_s for _, least_s in found)
        if each_s < inf:
            self._share = max(1, min(_MOST, int(_SHARE_S / max(each_s, 1e-9))))
        written: list[tuple[_Item, _Written]] = []
        for item, result in zip(batch, [r for results, _ in found for r in results], strict=True):
            if isinstance(result, _Written):
                written.append((item, result))
                report_notes(self._context, item.task, result.verified)
            elif isinstance(result, _Unusual):
                ranges = ((0, len(item.small.body)),) if result is _Unusual.NOT_THE_PRODUCT else ()
                self._finish(item, replace(item.small.entry, ranges=ranges))
            else:
                self._finish(item, result)
        await self._place(self._with_confirmed_names(written))

    async def _on_disk(self, function: Callable[..., T], *calls: tuple[object, ...]) -> list[T]:
        """Run `function` on threads for all `calls` at once; on a fast disk one after the other, with the event loop waiting."""
        storage = self._context.storage
        if not self._is_fast_disk:
            return await asyncio.gather(*(storage.work(function, *arguments) for arguments in calls))
        found: list[T] = []
        for arguments in calls:
            found.append(await storage.work_blocking(function, *arguments, within_s=_SHARE_S))
            await asyncio.sleep(0)
        return found

    def _with_confirmed_names(self, written: list[tuple[_Item, _Written]]) -> list[tuple[_Item, _Written]]:
        kept: list[tuple[_Item, _Written]] = []
        for item, result in written:
            try:
                check_name(item.task.file or "")
                confirm_name(self._context.claims, item.task.product, item.task.file or "")
            except ProductFailed as error:
                self._finish(item, error)
            else:
                kept.append((item, result))
        return kept

    async def _place(self, written: list[tuple[_Item, _Written]]) -> None:
        if not written:
            return
        journal, storage = self._context.journal, self._context.storage
        moves = [PendingRename(item.small.entry, result.facts, result.verified.digests) for item, result in written]
        batch = await journal.put_moves(moves)
        paths = [(item.small.entry.part or "", item.task.file or "", item.task.overwrite) for item, _ in written]
        placed: list[tuple[_Item, PendingRename]] = []
        failed: list[tuple[_Item, ProductFailed | StorageStopped]] = []
        left: list[PendingRename] = []
        (found,) = await self._on_disk(place_all, (storage.root, tuple(paths)))
        for (item, result), move, facts in zip(written, moves, found, strict=True):
            if isinstance(facts, (ProductFailed, StorageStopped)):
                failed.append((item, facts))
                left.append(move)
            else:
                placed.append((item, PendingRename(item.small.entry, facts, result.verified.digests)))
        try:
            await journal.finish_batch(batch, [move for _, move in placed], left)
            for item, error in failed:
                self._finish(item, error)
            for item, move in placed:
                await self._record(item.task, move.facts.size)
                self._finish(item, None)
        except StorageStopped:
            for item, move in placed:
                item.task.moved = done_entry(move)  # only this record is missing; it follows once the disk has space
            raise


def _write_share(root: Path, share: Sequence[_Item]) -> tuple[list[_Result], float]:
    """Write and verify the partials of `share` (on a thread); return the results and the seconds of the fastest one.

    The fastest tells how long the disk takes. The others may have waited for the interpreter.
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
    file, small = item.task.file or "", item.small
    if small.unseen and os.path.lexists(os.path.join(root, file)):  # noqa: PTH118 - paths are made for each product
        return _Unusual.NAME_EXISTS
    try:
        facts = write_whole(root, small.entry.part or "", small.body, known=known)
    except (ProductFailed, StorageStopped) as error:
        return error
    try:
        verified = check_body(
            small.body,
            item.task.product,
            path=f"{root}/{small.entry.part}",
            name=file.rpartition("/")[2],
            content_type=item.task.content_type,
            server=item.task.server_digest,
        )
    except (ProductFailed, OSError):
        return _Unusual.NOT_THE_PRODUCT
    return _Written(facts, verified)
