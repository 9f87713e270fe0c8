"""The composition root: from validated values to a run and its result.

The one place where the parts of a run are put together. Below it nothing reads the environment.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from bulkdl.bench import Bench
from bulkdl.claims import Claims
from bulkdl.clock import SystemClock
from bulkdl.engine import Engine
from bulkdl.errors import RunStopped, first_error
from bulkdl.events import Level, RunStarted
from bulkdl.growth import CAP
from bulkdl.heritage import estate_of
from bulkdl.hostfacts import HostBook
from bulkdl.hours import deadline_in
from bulkdl.lane import lane_of
from bulkdl.limits import Connections, HostPauses, RateLimit
from bulkdl.placing import conclude
from bulkdl.plan import selected, survey
from bulkdl.standing import Standing
from bulkdl.stopping import StopReason, StopSignal
from bulkdl.store.journal import Journal
from bulkdl.store.lock import DestinationLock
from bulkdl.store.storage import Storage
from bulkdl.tally import AccountUse, Ending, RunResult, Tally
from bulkdl.wiring import Surroundings, state_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bulkdl.auth.credentials import Prompt
    from bulkdl.auth.signer import Signer
    from bulkdl.clock import Clock
    from bulkdl.events import Hub
    from bulkdl.model import Manifest, Product, RunOptions, Settings
    from bulkdl.plan import Item

__all__ = ["AccountUse", "RunResult", "StopReason", "StopSignal", "run", "state_folder"]

AUTO_CONNECTIONS = 16
"""Most connections of a run whose `segments` is auto, where it has no more workers than that and no host pays for more."""
LOOK_S = 30.0
LEAVE_S = 1.5
"""For logging out when someone waits for the program to end."""


async def run(
    manifest: Manifest,
    *,
    settings: Settings,
    options: RunOptions,
    hub: Hub,
    environ: Mapping[str, str],
    prompt: Prompt | None = None,
    stop: StopSignal | None = None,
    clock: Clock | None = None,
    rng: random.Random | None = None,
) -> RunResult:
    """Bring every product of `manifest` to its destination.

    Returns whatever the end: everything that can stop a run once it has begun is in the result. Raise `UsageError` where
    `ca_file` cannot be read. `environ` is the only environment that is looked at; `prompt` None: nobody to ask.
    """
    clock, rng, stop = clock or SystemClock(), rng or random.Random(), stop or StopSignal()  # noqa: S311 - jitter
    began, until_s = clock.monotonic(), _deadline(settings, clock)
    ends_at = None if until_s is None else began + until_s
    tally, ending = Tally(hub), Ending()
    hub.subscribe_first(tally)
    products = selected(manifest.products, options.select)
    around = Surroundings(settings=settings, environ=environ, prompt=prompt, hub=hub, clock=clock, rng=rng)
    preparation = _Preparation(manifest, options, around, ending)
    try:
        async with AsyncExitStack() as stack:
            bench, items = await preparation.bench(stack, products)
            await conclude(bench, items)
            engine = Engine(bench, _drained(items))
            try:
                await _until_stopped(engine, stop=stop, deadline=ends_at, clock=clock, ending=ending)
            finally:
                engine.leave()
            ending.machine = engine.full
    except RunStopped as error:
        ending.machine = error
    return tally.result(ending, total=len(products), elapsed_s=clock.monotonic() - began)


async def _until_stopped(
    engine: Engine, *, stop: StopSignal, deadline: float | None, clock: Clock, ending: Ending
) -> None:
    """Run the engine until it is done, the deadline (on `clock`'s monotonic time) comes, or someone asks it to stop."""
    with first_error():
        async with asyncio.TaskGroup() as group:
            work, asked = group.create_task(engine.run()), group.create_task(stop.wait())
            over = group.create_task(_passed(deadline, clock)) if deadline is not None else asked
            await asyncio.wait((work, asked, over), return_when=asyncio.FIRST_COMPLETED)
            ending.signal = stop.reason
            ending.deadline = not work.done() and stop.reason is None
            for task in (work, asked, over):
                task.cancel()


async def _passed(deadline: float, clock: Clock) -> None:
    """Return once `deadline` has passed; looked at again and again, since a sleep does not count a laptop's own."""
    while (left := deadline - clock.monotonic()) > 0:
        await clock.sleep(min(left, LOOK_S))


@dataclass(frozen=True, slots=True)
class _Preparation:
    """Puts the parts of a run together; whatever it opens is closed by the stack, last first."""

    manifest: Manifest
    options: RunOptions
    around: Surroundings
    ending: Ending

    async def bench(self, stack: AsyncExitStack, products: list[Product]) -> tuple[Bench, list[Item]]:
        storage, journal = await self._destination(stack)
        claims, entries, learnt = Claims(), await journal.entries(), await journal.learnt()
        parts = {e.part: e.id for e in entries.values() if e.part is not None and e.ranges}
        items = await survey(products, entries, storage, claims)
        self._say_of(journal)
        network = await stack.enter_async_context(self.around.network())
        lane = lane_of(self.around.environ.get("BULKDL_FAST_LANE"), limited=bool(self.around.settings.limit_rate))
        signers = self.around.signers(self.manifest.accounts, needed=_needed(items), endpoint=network.endpoint)
        self.ending.signers = signers
        stack.push_async_callback(_log_out, signers, self.ending)
        self._started(items)
        bench = Bench(
            settings=self.around.settings,
            options=self.options,
            hub=self.around.hub,
            clock=self.around.clock,
            rng=self.around.rng,
            http=network.http,
            signers=signers,
            connections=_connections(self.around.settings, signers, self.around.clock),
            rate=RateLimit(self.around.settings.limit_rate, clock=self.around.clock),
            pauses=HostPauses(clock=self.around.clock),
            storage=storage,
            lane=None if lane is None else stack.enter_context(lane),
            journal=journal,
            claims=claims,
            hosts=HostBook(learnt.hosts.values(), clock=self.around.clock, save=journal.put_host_soon),
            evidence=dict(learnt.evidence),
            estate=estate_of(entries, self.manifest.products),
            parts=parts,
        )
        return bench, items

    async def _destination(self, stack: AsyncExitStack) -> tuple[Storage, Journal]:
        folder = self.manifest.destination
        storage = await stack.enter_async_context(Storage(folder))
        await storage.prepare()
        lock = await stack.enter_async_context(DestinationLock(folder))
        if lock.took_over is not None:
            text = f"an earlier run did not end properly ({lock.took_over}); going on from what it left"
            self.around.hub.note(Level.INFO, text)
        return storage, await stack.enter_async_context(Journal.open(folder, clock=self.around.clock))

    def _say_of(self, journal: Journal) -> None:
        if journal.recovered:
            self.around.hub.note(Level.WARNING, journal.recovered)
        if journal.network_filesystem:
            self.around.hub.note(
                Level.WARNING,
                f"the destination is on a network file system ({journal.network_filesystem}): "
                "never run two machines on it at once, since locks may not be seen across machines",
            )

    def _started(self, items: list[Item]) -> None:
        todo = [item for item in items if item.standing is not Standing.IN_PLACE]
        sizes = [max(0, item.size - item.have) for item in todo if item.size is not None]
        self.around.hub.counters.bytes_todo = sum(sizes)
        self.around.hub.emit(
            RunStarted(
                destination=self.manifest.destination_shown,
                total=len(items),
                todo=len(todo),
                bytes_todo=sum(sizes) if sizes else None,
            )
        )


def _drained(items: list[Item]) -> Iterator[Item]:
    """Each item once; nothing is kept of those that are done with."""
    items.reverse()
    while items:
        yield items.pop()


def _needed(items: list[Item]) -> set[str]:
    """The accounts of products that are not in place yet."""
    return {i.product.account for i in items if i.standing is not Standing.IN_PLACE and i.product.account is not None}


def _connections(settings: Settings, signers: Mapping[str | None, Signer], clock: Clock) -> Connections:
    segments = settings.segments
    most = max(settings.workers, AUTO_CONNECTIONS) if segments is None else settings.workers * segments
    cap = CAP if segments is None and not settings.limit_rate else 0
    limits = {name: signer.max_connections for name, signer in signers.items() if name is not None}
    return Connections(most=most, accounts=limits, clock=clock, host=most, cap=cap)


async def _log_out(signers: Mapping[str | None, Signer], ending: Ending) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LEAVE_S if ending.signal is not None else None), asyncio.TaskGroup() as group:
            for signer in signers.values():
                group.create_task(signer.aclose())


def _deadline(settings: Settings, clock: Clock) -> float | None:
    if settings.until is None:
        return None
    return deadline_in(settings.until, now=datetime.fromtimestamp(clock.wall()).astimezone())
