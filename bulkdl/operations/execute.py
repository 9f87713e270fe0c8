"""What does the work of a run: the parts that reach the network, and the engine that drives them to an end.

It is imported only when there is something to do: with it come aiohttp and the system's trusted certificates, which take longer
than to see that everything is in place.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from bulkdl.concurrency.adaptive_limit import CAP
from bulkdl.concurrency.connection_limiter import Connections
from bulkdl.concurrency.rate_limiter import HostPauses, RateLimit
from bulkdl.core.errors import first_error
from bulkdl.http.fast_lane.takeover import lane_of
from bulkdl.operations.prepare import announce
from bulkdl.planning.local_status import Standing
from bulkdl.planning.orphaned_partials import estate_of
from bulkdl.protocol.server_quirks import HostBook
from bulkdl.scheduler.engine import Engine
from bulkdl.transfer.context import Bench
from bulkdl.transfer.finalize import conclude

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bulkdl.auth.base import Signer
    from bulkdl.core.clock import Clock
    from bulkdl.core.models import Settings
    from bulkdl.core.stop_request import StopSignal
    from bulkdl.operations.prepare import Ground, Terms
    from bulkdl.operations.result import Ending
    from bulkdl.operations.services import Network, Surroundings
    from bulkdl.planning.plan import Item

__all__ = ["work"]

AUTO_CONNECTIONS = 16
"""Most connections of a run whose `segments` is auto, where it has no more workers than that and no host pays for more."""
LOOK_S = 30.0
LEAVE_S = 1.5
"""For logging out when someone waits for the program to end."""


async def work(
    terms: Terms,
    ground: Ground,
    *,
    around: Surroundings,
    network: Network,
    stop: StopSignal,
    ends_at: float | None,
    ending: Ending,
) -> None:
    """Bring what is not in place to its place, until `stop` or the deadline (on the clock's monotonic time); how it ended is in `ending`."""
    items = ground.items
    async with AsyncExitStack() as stack:
        signers = around.signers(terms.manifest.accounts, needed=_needed(items), endpoint=network.endpoint)
        ending.signers = signers
        stack.push_async_callback(_log_out, signers, ending)
        announce(terms, ground)
        bench = _bench(stack, terms, ground, network, signers)
        await conclude(bench, items)
        engine = Engine(bench, _drained(items))
        try:
            await _until_stopped(engine, stop=stop, deadline=ends_at, clock=terms.clock, ending=ending)
        finally:
            engine.leave()
        ending.machine = engine.full


def _bench(
    stack: AsyncExitStack, terms: Terms, ground: Ground, network: Network, signers: Mapping[str | None, Signer]
) -> Bench:
    lane = lane_of(terms.environ.get("BULKDL_FAST_LANE"), limited=bool(terms.settings.limit_rate))
    surveyed = {item.product.id for item in ground.items}
    gone = {id_: entry for id_, entry in ground.left.items() if id_ not in surveyed}
    return Bench(
        settings=terms.settings,
        options=terms.options,
        hub=terms.hub,
        clock=terms.clock,
        rng=terms.rng,
        http=network.http,
        signers=signers,
        connections=_connections(terms.settings, signers, terms.clock),
        rate=RateLimit(terms.settings.limit_rate, clock=terms.clock),
        pauses=HostPauses(clock=terms.clock),
        storage=ground.storage,
        lane=None if lane is None else stack.enter_context(lane),
        journal=ground.journal,
        claims=ground.claims,
        hosts=HostBook(ground.learnt.hosts.values(), clock=terms.clock, save=ground.journal.put_host_soon),
        evidence=dict(ground.learnt.evidence),
        estate=estate_of(gone, terms.manifest.products),
        parts={e.part: e.id for e in ground.left.values() if e.part is not None and e.ranges},
    )


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
