"""What a run stands on before anything is asked of the network: the destination is held, and every product looked at."""

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
    """What a run was asked for, and what the outside gives to it."""

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
    """The open destination, and what is known of every product."""

    storage: Storage
    journal: Journal
    claims: NameRegistry
    items: list[PlannedProduct]
    left: Mapping[str, Entry]
    """By id: what is known of products that are not done."""
    learnt: Learned

    @property
    def is_whole(self) -> bool:
        """Whether every product is in its place, with nothing left to mend or to record."""
        done = all(
            i.local_status is LocalFileStatus.IN_PLACE and (i.entry is None or i.entry.part is None) for i in self.items
        )
        return done and not self.learnt.evidence


async def prepare(stack: AsyncExitStack, terms: RunRequest, products: list[Product]) -> PreparedDestination:
    """Take the destination and look at every product; `stack` closes what is opened, last first. Raise `StorageStopped`."""
    folder, hub = terms.manifest.destination, terms.hub
    storage = await stack.enter_async_context(Storage(folder))
    await storage.prepare()
    lock = await stack.enter_async_context(DestinationLock(folder))
    if lock.took_over is not None:
        text = f"an earlier run did not end properly ({lock.took_over}); going on from what it left"
        hub.note(Level.INFO, text)
    journal = await stack.enter_async_context(Journal.open(folder, clock=terms.clock))
    claims, batch = NameRegistry(), products[:BATCH]
    survey = PlanBuilder(partial(look_at, folder), claims)
    # What is asked for at once is read at once, and before the journal makes its reserve.
    left, learnt, known = await asyncio.gather(journal.unfinished(), journal.learned(), journal.get_many(_ids(batch)))
    await storage.work(survey.add, batch, known)
    for at in range(BATCH, len(products), BATCH):
        batch = products[at : at + BATCH]
        await storage.work(survey.add, batch, await journal.get_many(_ids(batch)))
    _say_of(journal, hub)
    return PreparedDestination(
        storage=storage, journal=journal, claims=claims, items=survey.end(), left=left, learnt=learnt
    )


def _ids(products: list[Product]) -> list[str]:
    return [product.id for product in products]


def _say_of(journal: Journal, hub: Hub) -> None:
    if journal.recovered:
        hub.note(Level.WARNING, journal.recovered)
    if journal.network_filesystem:
        hub.note(
            Level.WARNING,
            f"the destination is on a network file system ({journal.network_filesystem}): "
            "never run two machines on it at once, since locks may not be seen across machines",
        )


def announce(terms: RunRequest, ground: PreparedDestination) -> None:
    """Tell the observers what there is to do."""
    todo = [item for item in ground.items if item.local_status is not LocalFileStatus.IN_PLACE]
    sizes = [max(0, item.size - item.have) for item in todo if item.size is not None]
    terms.hub.counters.bytes_todo = sum(sizes)
    terms.hub.emit(
        RunStarted(
            destination=terms.manifest.destination_shown,
            total=len(ground.items),
            todo=len(todo),
            bytes_todo=sum(sizes) if sizes else None,
        )
    )
