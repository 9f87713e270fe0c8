"""Prepare a run before the first request: lock the destination, open the journal, and plan every product."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.core.events import Level, RunStarted
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.journal.journal import Journal
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.name_registry import NameRegistry
from bulkdl.planning.plan import BATCH, PlanBuilder
from bulkdl.storage.destination import Storage
from bulkdl.storage.destination_lock import DestinationLock
from bulkdl.storage.file_info import look_at
from bulkdl.storage.folder_links import FolderLinks

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from contextlib import AsyncExitStack

    from bulkdl.auth.credentials import Prompt
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.models import Manifest, Product, RunOptions, Settings
    from bulkdl.journal.learned import Learned
    from bulkdl.journal.records import Entry
    from bulkdl.planning.plan import PlannedProduct

__all__ = ["PreparedDestination", "RunRequest", "announce", "prepare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """Arguments of a run: what to download, and the services of the caller."""

    manifest: Manifest
    settings: Settings
    options: RunOptions
    hub: Hub
    environ: Mapping[str, str]
    prompt: Prompt | None
    clock: Clock
    rng: random.Random


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDestination:
    """The locked destination with its open journal, and the plan of every product."""

    storage: Storage
    journal: Journal
    names: NameRegistry
    items: list[PlannedProduct]
    unfinished: Mapping[str, Entry]
    """Journal entries of unfinished products, by id."""
    learned: Learned

    @property
    def is_complete(self) -> bool:
        """True if every product is in place, with no partial to delete and no evidence to recheck."""
        done = all(
            i.local_status is LocalFileStatus.IN_PLACE and (i.entry is None or i.entry.part is None) for i in self.items
        )
        return done and not self.learned.evidence


async def prepare(stack: AsyncExitStack, request: RunRequest, products: list[Product]) -> PreparedDestination:
    """Lock the destination and plan every product; `stack` closes what is opened. Raise `StorageStopped`."""
    folder, hub = request.manifest.destination, request.hub
    storage = await stack.enter_async_context(Storage(folder))
    await storage.prepare()
    lock = await stack.enter_async_context(DestinationLock(folder))
    if lock.took_over is not None:
        text = f"the previous run ({lock.took_over}) was interrupted; resuming from its saved state"
        hub.note(Level.INFO, text)
    journal = await stack.enter_async_context(Journal.open(folder, clock=request.clock))
    names, batch = NameRegistry(FolderLinks(folder).real_folder), products[:BATCH]
    builder = PlanBuilder(partial(look_at, folder), names)
    # Request all three at once: the journal reads them together, and before it creates its space reserve.
    unfinished, learned, known = await asyncio.gather(
        journal.unfinished(), journal.learned(), journal.get_many(_ids(batch))
    )
    await storage.work(builder.add, batch, known)
    for at in range(BATCH, len(products), BATCH):
        batch = products[at : at + BATCH]
        await storage.work(builder.add, batch, await journal.get_many(_ids(batch)))
    _note_journal_state(journal, hub)
    return PreparedDestination(
        storage=storage, journal=journal, names=names, items=builder.build(), unfinished=unfinished, learned=learned
    )


def _ids(products: list[Product]) -> list[str]:
    return [product.id for product in products]


def _note_journal_state(journal: Journal, hub: Hub) -> None:
    if journal.recovered:
        hub.note(Level.WARNING, journal.recovered)
    if journal.network_filesystem:
        hub.note(
            Level.WARNING,
            f"the destination is on a network file system ({journal.network_filesystem}): "
            "do not run bulkdl on two machines with it at once, since one may not see the lock of the other",
        )


def announce(request: RunRequest, prepared: PreparedDestination) -> None:
    """Emit `RunStarted` with the number of products and bytes to download."""
    todo = [item for item in prepared.items if item.local_status is not LocalFileStatus.IN_PLACE]
    sizes = [max(0, item.size - item.have) for item in todo if item.size is not None]
    request.hub.counters.bytes_todo = sum(sizes)
    request.hub.emit(
        RunStarted(
            destination=request.manifest.destination_shown,
            total=len(prepared.items),
            todo=len(todo),
            bytes_todo=sum(sizes) if sizes else None,
        )
    )
