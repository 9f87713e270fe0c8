"""Small products, received whole: written, verified, recorded and named many at a time.

What such a product costs beside its bytes are changes of thread, commits and syncs of folders; those that wait at the
same moment share them. The steps are `placing`'s: write, `fsync`, verify, journal `placing`, rename, `fsync` of the folder, journal
`done`. Whatever is not as it should be is left to `placing`.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from bulkdl.content.verify import check_here
from bulkdl.errors import ProductFailed, StorageStopped
from bulkdl.placing import confirm_name, placed_entry
from bulkdl.store.journal import Entry, Phase
from bulkdl.store.storage import place_all, write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bulkdl.bench import Bench, Job
    from bulkdl.model import Checksum
    from bulkdl.store.storage import FileFacts
    from bulkdl.transfer import Whole

__all__ = ["Together"]

_GATHER = 3
"""Turns of the event loop that a batch waits for company: many products where it is busy, no time where it is not."""
_TURN_S = 0.01
"""A thread's share of a batch: a disk that takes its time gets more threads, a fast one fewer changes of thread."""
_MOST = 64
"""Products in a thread's share."""


@dataclass(slots=True, eq=False)
class _Item:
    job: Job
    whole: Whole
    done: asyncio.Future[Entry]
    taken: bool = False

    @property
    def is_open(self) -> bool:
        return not self.done.done()


@dataclass(frozen=True, slots=True)
class _Written:
    """A complete partial that is durable, and what it was verified against."""

    facts: FileFacts
    verified: tuple[Checksum, ...]


class _Odd(Enum):
    IN_THE_WAY = "a file has the name already"  # nothing was written then
    NOT_THE_PRODUCT = "the partial does not verify"


_Result = _Written | _Odd | ProductFailed | StorageStopped


class Together:
    """Those who deliver at the same moment are one batch, which the first of them sees through."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._waiting: list[_Item] = []
        self._under_way = asyncio.Lock()
        self._share = 8

    async def deliver(self, job: Job, whole: Whole) -> Entry:
        """Give the product its final name, durably; its entry, which is in the journal.

        An entry that is not `done` has a partial that is not the product, as `placing.check` will say, or no ranges: then a file
        that nobody has looked at is in its way. Raise `ProductFailed` or `StorageStopped`. To be run to its end once it has
        begun.
        """
        item = _Item(job, whole, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        self._bench.hub.counters.flights[job.product.id].phase = "placing"
        async with self._under_way:
            if not item.taken:
                for _ in range(_GATHER):
                    await asyncio.sleep(0)
                batch, self._waiting = self._waiting, []
                await self._see_through(batch)
        return await item.done

    async def _see_through(self, batch: list[_Item]) -> None:
        for item in batch:
            item.taken = True
        try:
            await self._write(batch)
        except (ProductFailed, StorageStopped) as error:
            for item in batch:
                if item.is_open:
                    item.done.set_exception(error)
        finally:
            for item in batch:
                item.done.cancel()  # only after a defect, which is raised here

    async def _write(self, batch: list[_Item]) -> None:
        shares = [batch[at : at + self._share] for at in range(0, len(batch), self._share)]
        root = self._bench.storage.root
        began = time.perf_counter()
        found = await asyncio.gather(*(self._bench.storage.work(_write_share, root, tuple(s)) for s in shares))
        each_s = (time.perf_counter() - began) / max(map(len, shares))
        self._share = max(1, min(_MOST, int(_TURN_S / max(each_s, 1e-9))))
        written: list[tuple[_Item, _Written]] = []
        for item, result in zip(batch, [r for share in found for r in share], strict=True):
            if isinstance(result, _Written):
                written.append((item, result))
            elif isinstance(result, _Odd):
                here = ((0, len(item.whole.body)),) if result is _Odd.NOT_THE_PRODUCT else ()
                item.done.set_result(replace(item.whole.entry, ranges=here))
            else:
                item.done.set_exception(result)
        await self._place(self._confirmed(written))

    def _confirmed(self, written: list[tuple[_Item, _Written]]) -> list[tuple[_Item, _Written]]:
        kept: list[tuple[_Item, _Written]] = []
        for item, result in written:
            try:
                confirm_name(self._bench, item.job)
            except ProductFailed as error:
                item.done.set_exception(error)
            else:
                kept.append((item, result))
        return kept

    async def _place(self, written: list[tuple[_Item, _Written]]) -> None:
        if not written:
            return
        await self._bench.journal.put_all([self._entry(i, Phase.PLACING, w.facts, w) for i, w in written])
        storage = self._bench.storage
        moves = [
            (storage.root / (item.whole.entry.part or ""), storage.final(item.job.file or ""), item.job.overwrite)
            for item, _ in written
        ]
        placed: list[tuple[_Item, Entry]] = []
        for (item, result), facts in zip(
            written, await storage.work(place_all, storage.root, tuple(moves)), strict=True
        ):
            if isinstance(facts, (ProductFailed, StorageStopped)):
                item.done.set_exception(facts)
            else:
                placed.append((item, self._entry(item, Phase.DONE, facts, result)))
        await self._bench.journal.put_all([entry for _, entry in placed])
        for item, entry in placed:
            item.done.set_result(entry)

    def _entry(self, item: _Item, phase: Phase, facts: FileFacts, written: _Written) -> Entry:
        return placed_entry(self._bench, item.whole.entry, phase, facts, written.verified)


def _write_share(root: Path, share: Sequence[_Item]) -> list[_Result]:
    """On a thread: each product's partial, complete, durable and right, or what came of it."""
    known: set[Path] = set()
    return [_write_one(root, item, known) for item in share]


def _write_one(root: Path, item: _Item, known: set[Path]) -> _Result:
    part, final = (root.joinpath(*(name or "").split("/")) for name in (item.whole.entry.part, item.job.file))
    if item.whole.unseen and os.path.lexists(final):
        return _Odd.IN_THE_WAY
    try:
        facts = write_whole(root, part, item.whole.body, known=known)
    except (ProductFailed, StorageStopped) as error:
        return error
    try:
        verified = check_here(part, item.job.product, name=final.name, content_type=item.job.content_type)
    except (ProductFailed, OSError):
        return _Odd.NOT_THE_PRODUCT
    return _Written(facts, verified)
