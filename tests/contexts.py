"""A run's context with real storage and a real journal, for tests of single steps."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from bulkdl.auth.static import NoAuthenticator
from bulkdl.concurrency.connection_limiter import ConnectionLimiter
from bulkdl.concurrency.outages import Outages
from bulkdl.concurrency.quota_meter import QuotaMeter
from bulkdl.concurrency.rate_limiter import HostBackoff, RateLimit
from bulkdl.core.events import Flight, Hub
from bulkdl.core.models import Account, AuthKind, Product, RunOptions, Settings
from bulkdl.core.urls import Url
from bulkdl.journal.journal import Journal
from bulkdl.planning.name_registry import NameRegistry
from bulkdl.protocol.server_quirks import ServerQuirks
from bulkdl.storage.destination import Storage
from bulkdl.transfer.canary import Canaries
from bulkdl.transfer.context import RunContext
from bulkdl.transfer.retry import AttemptBudget
from bulkdl.transfer.task import DownloadTask
from tests.clocks import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bulkdl.http.client import HttpClient

__all__ = ["NOW", "URL", "context_at", "task_for"]

NOW = 1_750_000_000.0
"""Time that the wall clock of a context shows."""
URL = Url("https://archive.example.org/x.bin")


@asynccontextmanager
async def context_at(root: Path, *, http: HttpClient | None = None, **options: bool) -> AsyncIterator[RunContext]:
    """The shared parts of a run at `root`; without `http` none of them reaches the network."""
    clock: Any = ManualClock(wall=NOW)
    client: Any = http
    async with Storage(root) as storage:
        await storage.prepare()
        async with Journal.open(root, clock=clock) as journal:
            yield RunContext(
                settings=Settings(),
                options=RunOptions(**options),
                hub=Hub(),
                clock=clock,
                rng=random.Random(1),
                http=client,
                signers={None: NoAuthenticator(Account(name="", auth=AuthKind.NONE))},
                connections=ConnectionLimiter(most=4, accounts={}, clock=clock),
                rate=RateLimit(None, clock=clock),
                pauses=HostBackoff(clock=clock),
                quotas=QuotaMeter(hub=Hub(), clock=clock, pauses=HostBackoff(clock=clock)),
                outages=Outages(clock=clock, rng=random.Random(1), hub=Hub(), give_up_after=21600.0),
                canaries=Canaries(),
                storage=storage,
                journal=journal,
                claims=NameRegistry(),
                hosts=ServerQuirks(clock=clock),
                evidence={},
                parts={},
            )


def task_for(
    context: RunContext, file: str = "x.bin", *, overwrite: bool = False, url: Url = URL, **product: Any
) -> DownloadTask:
    """The second product of a manifest, on its way."""
    context.hub.counters.flights[file] = Flight(file=file)
    wanted = Product(index=1, url=url, file=file, **product)
    return DownloadTask(product=wanted, budget=AttemptBudget(3), file=file, overwrite=overwrite)
