"""What does the work of a run: the parts that reach the network, and the engine that drives them to an end.

It is imported only when there is something to do: with it come aiohttp and the system's trusted certificates, which take longer
than to see that everything is in place.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from bulkdl.concurrency.adaptive_limit import CAP
from bulkdl.concurrency.connection_limiter import ConnectionLimiter
from bulkdl.concurrency.rate_limiter import HostBackoff, RateLimit
from bulkdl.core.errors import first_error
from bulkdl.http.fast_lane.takeover import fast_lane_for
from bulkdl.operations.prepare import announce
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.orphaned_partials import find_orphans
from bulkdl.protocol.server_quirks import ServerQuirks
from bulkdl.scheduler.engine import Engine
from bulkdl.transfer.context import RunContext
from bulkdl.transfer.finalize import record_done

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bulkdl.auth.base import Authenticator
    from bulkdl.core.clock import Clock
    from bulkdl.core.models import Settings
    from bulkdl.core.stop_request import StopSignal
    from bulkdl.operations.prepare import PreparedDestination, RunRequest
    from bulkdl.operations.result import RunEnd
    from bulkdl.operations.services import NetworkClients, Services
    from bulkdl.planning.plan import PlannedProduct

__all__ = ["execute"]

AUTO_CONNECTIONS = 16
"""Most connections of a run whose `segments` is auto, where it has no more workers than that and no host pays for more."""
LOOK_S = 30.0
LEAVE_S = 1.5
"""For logging out when someone waits for the program to end."""


async def execute(
    terms: RunRequest,
    ground: PreparedDestination,
    *,
    around: Services,
    network: NetworkClients,
    stop: StopSignal,
    ends_at: float | None,
    ending: RunEnd,
) -> None:
    """Bring what is not in place to its place, until `stop` or the deadline (on the clock's monotonic time); how it ended is in `ending`."""
    items = ground.items
    async with AsyncExitStack() as stack:
        signers = around.signers(terms.manifest.accounts, needed=_needed(items), endpoint=network.endpoint)
        ending.signers = signers
        stack.push_async_callback(_log_out, signers, ending)
        announce(terms, ground)
        context = _run_context(stack, terms, ground, network, signers)
        await record_done(context, items)
        engine = Engine(context, _drained(items))
        try:
            await _until_stopped(engine, stop=stop, deadline=ends_at, clock=terms.clock, ending=ending)
        finally:
            engine.leave()
        ending.machine = engine.full


def _run_context(
    stack: AsyncExitStack,
    terms: RunRequest,
    ground: PreparedDestination,
    network: NetworkClients,
    signers: Mapping[str | None, Authenticator],
) -> RunContext:
    lane = fast_lane_for(terms.environ.get("BULKDL_FAST_LANE"), limited=bool(terms.settings.limit_rate))
    surveyed = {item.product.id for item in ground.items}
    gone = {id_: entry for id_, entry in ground.left.items() if id_ not in surveyed}
    return RunContext(
        settings=terms.settings,
        options=terms.options,
        hub=terms.hub,
        clock=terms.clock,
        rng=terms.rng,
        http=network.http,
        signers=signers,
        connections=_connections(terms.settings, signers, terms.clock),
        rate=RateLimit(terms.settings.limit_rate, clock=terms.clock),
        pauses=HostBackoff(clock=terms.clock),
        storage=ground.storage,
        lane=None if lane is None else stack.enter_context(lane),
        journal=ground.journal,
        claims=ground.claims,
        hosts=ServerQuirks(ground.learnt.hosts.values(), clock=terms.clock, save=ground.journal.put_host_unsynced),
        evidence=dict(ground.learnt.evidence),
        orphans=find_orphans(gone, terms.manifest.products),
        parts={e.part: e.id for e in ground.left.values() if e.part is not None and e.ranges},
    )


async def _until_stopped(
    engine: Engine, *, stop: StopSignal, deadline: float | None, clock: Clock, ending: RunEnd
) -> None:
    """Run the engine until it is done, the deadline (on `clock`'s monotonic time) comes, or someone asks it to stop."""
    with first_error():
        async with asyncio.TaskGroup() as group:
            execute, asked = group.create_task(engine.run()), group.create_task(stop.wait())
            over = group.create_task(_passed(deadline, clock)) if deadline is not None else asked
            await asyncio.wait((execute, asked, over), return_when=asyncio.FIRST_COMPLETED)
            ending.signal = stop.reason
            ending.deadline = not execute.done() and stop.reason is None
            for task in (execute, asked, over):
                task.cancel()


async def _passed(deadline: float, clock: Clock) -> None:
    """Return once `deadline` has passed; looked at again and again, since a sleep does not count a laptop's own."""
    while (left := deadline - clock.monotonic()) > 0:
        await clock.sleep(min(left, LOOK_S))


def _drained(items: list[PlannedProduct]) -> Iterator[PlannedProduct]:
    """Each item once; nothing is kept of those that are done with."""
    items.reverse()
    while items:
        yield items.pop()


def _needed(items: list[PlannedProduct]) -> set[str]:
    """The accounts of products that are not in place yet."""
    return {
        i.product.account
        for i in items
        if i.local_status is not LocalFileStatus.IN_PLACE and i.product.account is not None
    }


def _connections(settings: Settings, signers: Mapping[str | None, Authenticator], clock: Clock) -> ConnectionLimiter:
    segments = settings.segments
    most = max(settings.workers, AUTO_CONNECTIONS) if segments is None else settings.workers * segments
    cap = CAP if segments is None and not settings.limit_rate else 0
    limits = {name: signer.max_connections for name, signer in signers.items() if name is not None}
    return ConnectionLimiter(most=most, accounts=limits, clock=clock, host=most, cap=cap)


async def _log_out(signers: Mapping[str | None, Authenticator], ending: RunEnd) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LEAVE_S if ending.signal is not None else None), asyncio.TaskGroup() as group:
            for signer in signers.values():
                group.create_task(signer.aclose())
