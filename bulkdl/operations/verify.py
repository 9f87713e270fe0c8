"""Read the files on disk again and compare them with manifest and journal, for `bulkdl verify`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import ProductFailed
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind
from bulkdl.journal.journal import Journal
from bulkdl.journal.reader import read
from bulkdl.journal.records import Entry, Phase
from bulkdl.operations.status import size_of
from bulkdl.storage.destination_lock import DestinationLock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bulkdl.core.models import Manifest, Product


__all__ = ["ProductVerdict", "VerifyReport", "VerifyResult", "verify_products"]


VERIFIERS = 4
"""Number of files that are read at once."""


class ProductVerdict(StrEnum):
    OK = "ok"
    UNCHECKED = "unchecked"
    """The file exists, but no checksum is known to compare its content with; only its size and structure were checked."""
    WRONG = "wrong"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    file: str
    verdict: ProductVerdict
    reason: str = ""
    requeued: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    results: tuple[VerifyResult, ...]

    @property
    def bad(self) -> tuple[VerifyResult, ...]:
        return tuple(r for r in self.results if r.verdict in (ProductVerdict.WRONG, ProductVerdict.MISSING))


async def verify_products(
    manifest: Manifest, *, requeue: bool, on_done: Callable[[VerifyResult], None] = lambda _result: None
) -> VerifyReport:
    """Read every product's file again and compare it with its size, checksums and structure.

    `requeue`: mark wrong files, so that the next run downloads them again. This locks the destination; raise
    `StorageStopped` if a run has locked it. Products that were never finished are `missing`.
    """
    if not requeue:
        entries = await asyncio.to_thread(read, manifest.destination) or {}
        return await _verify_all(manifest, entries, on_done)
    async with (
        DestinationLock(manifest.destination),
        Journal.open(manifest.destination, clock=SystemClock()) as journal,
    ):
        entries, learned = await journal.entries(), await journal.learned()
        report = await _verify_all(manifest, entries, on_done)
        results = [
            await _requeue(journal, entries, r, p) for p, r in zip(manifest.products, report.results, strict=True)
        ]
        for product, result in zip(manifest.products, results, strict=True):
            # Evidence that is no longer proven lets the next run download the product again.
            if result.requeued and product.id in learned.evidence:
                await journal.put_evidence(replace(learned.evidence[product.id], proven=False))
        return replace(report, results=tuple(results))


async def _verify_all(
    manifest: Manifest, entries: Mapping[str, Entry], on_done: Callable[[VerifyResult], None]
) -> VerifyReport:
    slots = asyncio.Semaphore(VERIFIERS)

    async def one(product: Product) -> VerifyResult:
        async with slots:
            result = await _verify(product, entries.get(product.id), manifest.destination)
        on_done(result)
        return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(p)) for p in manifest.products]
    return VerifyReport(results=tuple(task.result() for task in tasks))


async def _verify(product: Product, entry: Entry | None, destination: Path) -> VerifyResult:
    file = product.file or (entry.file if entry is not None else None)
    shown = file or product.expected_file
    if file is None or size_of(destination / file) is None:
        return VerifyResult(file=shown, verdict=ProductVerdict.MISSING, reason="there is no such file")
    path, placed = destination / file, entry if entry is not None and entry.phase is Phase.DONE else None
    expected = replace(
        product,
        size=product.size if product.size is not None else (placed.size if placed is not None else None),
        checksums=product.checksums or (placed.digests if placed is not None else ()),
    )
    from bulkdl.content.verify import check_product  # noqa: PLC0415 - imports all archive readers, needed only here

    try:
        await check_product(path, expected, name=path.name)
    except ProductFailed as failed:
        changed = failed.kind is FailureKind.CHECKSUM and not product.checksums
        reason = f"its content has changed since it was downloaded: {failed.reason}" if changed else str(failed)
        return VerifyResult(file=shown, verdict=ProductVerdict.WRONG, reason=reason)
    except OSError as error:
        return VerifyResult(
            file=shown, verdict=ProductVerdict.WRONG, reason=f"the file cannot be read ({error.strerror})"
        )
    if not expected.checksums:
        return VerifyResult(file=shown, verdict=ProductVerdict.UNCHECKED, reason="no checksum of it is known")
    return VerifyResult(file=shown, verdict=ProductVerdict.OK)


async def _requeue(
    journal: Journal, entries: Mapping[str, Entry], result: VerifyResult, product: Product
) -> VerifyResult:
    if result.verdict not in (ProductVerdict.WRONG, ProductVerdict.MISSING):
        return result
    entry = entries.get(product.id)
    if result.verdict is ProductVerdict.WRONG:
        await journal.put(_requeued(entry, product))
    elif entry is not None and entry.phase is Phase.DONE:
        await journal.forget(product.id)
    return replace(result, requeued=True)


def _requeued(entry: Entry | None, product: Product) -> Entry:
    return Entry(id=product.id, phase=Phase.REQUEUED, file=product.file or (entry.file if entry is not None else None))
