"""Execute a run: build everything that uses the network, and drive the engine to its end.

This module is imported only if there is something to do. It imports aiohttp and loads the system's certificates, which
takes longer than a run that finds everything in place.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.concurrency.connection_control import LOWEST
from bulkdl.concurrency.connection_limiter import CAP, FIRST_CONNECTIONS, ConnectionLimiter
from bulkdl.concurrency.outages import Outages
from bulkdl.concurrency.rate_limiter import HostBackoff, RateLimit
from bulkdl.core.errors import first_error
from bulkdl.core.events import Level, OutageChanged, OutagePhase
from bulkdl.core.filenames import fold
from bulkdl.core.units import format_bytes
from bulkdl.core.urls import Url
from bulkdl.http.fast_lane.takeover import fast_lane_for
from bulkdl.operations.connection_memory import ConnectionMemory, keep_memory
from bulkdl.operations.keep_awake import keep_awake
from bulkdl.operations.prepare import announce
from bulkdl.operations.quota_accounting import metered, recorded_in
from bulkdl.operations.state_folder import state_folder
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.order import ordered
from bulkdl.planning.orphaned_partials import find_orphans
from bulkdl.protocol.server_quirks import ServerQuirks
from bulkdl.scheduler.admission import Admission
from bulkdl.scheduler.engine import Engine
from bulkdl.transfer.canary import Canaries
from bulkdl.transfer.context import RunContext
from bulkdl.transfer.finalize import record_done

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from bulkdl.auth.base import Authenticator
    from bulkdl.concurrency.host_memory import HostMemory
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Event, Hub
    from bulkdl.core.stop_request import StopSignal
    from bulkdl.journal.journal import Journal
    from bulkdl.operations.prepare import PreparedDestination, RunRequest
    from bulkdl.operations.result import RunEnd
    from bulkdl.operations.services import NetworkClients, Services
    from bulkdl.planning.plan import PlannedProduct

__all__ = ["execute"]

AUTO_CONNECTIONS = 16
"""Limit of connections of a run with `segments: auto` and no more workers than this, before a host's limit grows."""
DEADLINE_CHECK_S = 30.0
"""Seconds between two checks of the deadline."""
LOG_OUT_S = 1.5
"""Limit in seconds for logging out after a signal, since the user waits for the program to end."""


async def execute(
    request: RunRequest,
    prepared: PreparedDestination,
    *,
    services: Services,
    network: NetworkClients,
    stop: StopSignal,
    ends_at: float | None,
    ending: RunEnd,
) -> None:
    """Download all products that are not in place, until `stop` or the deadline.

    `ends_at` is the deadline on the clock's monotonic time. The cause of the end is stored in `ending`.
    """
    items = prepared.items
    async with AsyncExitStack() as stack:
        authenticators = services.authenticators(
            request.manifest.accounts,
            needed=_needed(items),
            endpoint=network.endpoint,
            give_up_after=request.settings.give_up_after,
        )
        ending.authenticators = authenticators
        stack.push_async_callback(_log_out, authenticators, ending)
        announce(request, prepared)
        if not request.options.allow_sleep:
            await stack.enter_async_context(keep_awake(clock=request.clock))
        prepared.journal.close_outages_unsynced()
        request.hub.subscribe(partial(_record_outage, prepared.journal))
        await _warn_of_little_space(request, prepared)
        context = _run_context(stack, request, prepared, network, authenticators, usernames=services.usernames)
        context.connections.on_decision = partial(_tell_decision, request.hub)
        request.hub.subscribe(partial(_learn_from_outage, context.connections))
        ending.quotas = context.quotas
        recording = recorded_in(
            partial(state_folder, request.environ), context.quotas, hub=request.hub, clock=request.clock
        )
        await stack.enter_async_context(recording)
        await _keep_memory(stack, request, prepared, context.connections)
        await record_done(context, items)
        items[:] = ordered(items, request.settings.order)
        admission = Admission(
            request.settings,
            counters=request.hub.counters,
            hosts=context.hosts,
            clock=request.clock,
            ends_at=ends_at,
        )
        engine = Engine(
            context,
            _drained(items),
            has_several_hosts=_has_several_hosts(items),
            may_begin=admission.may_begin,
        )
        try:
            await _until_stopped(engine, stop=stop, deadline=ends_at, clock=request.clock, ending=ending)
        finally:
            engine.leave()
            _forget_account_stops(prepared, authenticators, context.quotas.stops)
        ending.machine = engine.full
        ending.limit = admission.reason


async def _keep_memory(
    stack: AsyncExitStack, request: RunRequest, prepared: PreparedDestination, connections: ConnectionLimiter
) -> None:
    if request.options.no_memory:
        return
    memory = ConnectionMemory(
        prepared.learned.connections,
        put=prepared.journal.put_connections_unsynced,
        is_rate_limited=bool(request.settings.limit_rate),
    )
    await stack.enter_async_context(keep_memory(memory, connections.remembered))


def _tell_decision(hub: Hub, key: str, text: str) -> None:
    hub.note(Level.DEBUG, f"{key}: {text}")


def _learn_from_outage(connections: ConnectionLimiter, event: Event) -> None:
    """Forget a lower limit that came from the refusals with which an outage began."""
    if isinstance(event, OutageChanged) and event.phase is OutagePhase.BEGAN and event.outage.account is None:
        connections.forget_refusals(Url(event.outage.origin).host)


def _record_outage(journal: Journal, event: Event) -> None:
    if isinstance(event, OutageChanged):
        journal.put_outage_unsynced(event)


def _run_context(
    stack: AsyncExitStack,
    request: RunRequest,
    prepared: PreparedDestination,
    network: NetworkClients,
    authenticators: Mapping[str | None, Authenticator],
    *,
    usernames: Mapping[str, str | None],
) -> RunContext:
    lane = fast_lane_for(request.environ.get("BULKDL_FAST_LANE"), limited=bool(request.settings.limit_rate))
    pauses = HostBackoff(clock=request.clock)
    planned = {item.product.id for item in prepared.items}
    gone = {id_: entry for id_, entry in prepared.unfinished.items() if id_ not in planned}
    return RunContext(
        settings=request.settings,
        options=request.options,
        hub=request.hub,
        clock=request.clock,
        rng=request.rng,
        http=network.http,
        signers=authenticators,
        connections=_connections(
            request, authenticators, () if request.options.no_memory else prepared.learned.connections
        ),
        rate=RateLimit(request.settings.limit_rate, clock=request.clock),
        pauses=pauses,
        quotas=metered(
            request.manifest.accounts,
            (i.product for i in prepared.items if i.local_status is not LocalFileStatus.IN_PLACE),
            usernames=usernames,
            settings=request.settings,
            hub=request.hub,
            clock=request.clock,
            pauses=pauses,
        ),
        outages=Outages(
            clock=request.clock, rng=request.rng, hub=request.hub, give_up_after=request.settings.give_up_after
        ),
        canaries=Canaries(),
        storage=prepared.storage,
        lane=None if lane is None else stack.enter_context(lane),
        journal=prepared.journal,
        claims=prepared.names,
        hosts=ServerQuirks(
            prepared.learned.hosts.values(), clock=request.clock, save=prepared.journal.put_host_unsynced
        ),
        evidence=dict(prepared.learned.evidence),
        orphans=find_orphans(gone, request.manifest.products),
        parts={fold(e.part): e.id for e in prepared.unfinished.values() if e.part is not None and e.ranges},
    )


async def _warn_of_little_space(request: RunRequest, prepared: PreparedDestination) -> None:
    """Say at the start that the known sizes do not fit; the run downloads what fits all the same."""
    here = (LocalFileStatus.IN_PLACE, LocalFileStatus.NEEDS_CHECKSUM)
    items = (item for item in prepared.items if item.local_status not in here)
    needed = sum(max(0, item.size - item.have) for item in items if item.size is not None)
    if not needed:
        return
    free = await prepared.storage.free_bytes(enough=needed)
    if needed <= free:
        return
    then = (
        "with --wait-for-space the run waits for more"
        if request.options.wait_for_space
        else "the run downloads the products that fit and leaves the others pending (exit code 4)"
    )
    text = f"disk space: {format_bytes(needed)} needed, {format_bytes(free)} free; {then}"
    request.hub.note(Level.WARNING, text)


def _forget_account_stops(
    prepared: PreparedDestination, authenticators: Mapping[str | None, Authenticator], again: Collection[str]
) -> None:
    """Delete the record of each account that an earlier run stopped and that has worked in this one, and is not stopped `again`."""
    for name in prepared.learned.account_stops:
        authenticator = authenticators.get(name)
        if authenticator is not None and name not in again and authenticator.worked and authenticator.stopped is None:
            prepared.journal.drop_account_stop_unsynced(name)


async def _until_stopped(
    engine: Engine, *, stop: StopSignal, deadline: float | None, clock: Clock, ending: RunEnd
) -> None:
    """Run the engine until it is done, the deadline (on `clock`'s monotonic time) passes, or a stop is requested."""
    with first_error():
        async with asyncio.TaskGroup() as group:
            running, asked = group.create_task(engine.run()), group.create_task(stop.wait())
            expired = group.create_task(_wait_until(deadline, clock)) if deadline is not None else asked
            await asyncio.wait((running, asked, expired), return_when=asyncio.FIRST_COMPLETED)
            ending.signal = stop.reason
            ending.deadline = not running.done() and stop.reason is None
            for task in (running, asked, expired):
                task.cancel()


async def _wait_until(deadline: float, clock: Clock) -> None:
    """Return once `deadline` has passed; check it repeatedly, since a sleep does not count a suspend of the system."""
    while (left := deadline - clock.monotonic()) > 0:
        await clock.sleep(min(left, DEADLINE_CHECK_S))


def _drained(items: list[PlannedProduct]) -> Iterator[PlannedProduct]:
    """Yield each item once and drop the reference to it, which frees its memory."""
    items.reverse()
    while items:
        yield items.pop()


def _needed(items: list[PlannedProduct]) -> set[str]:
    """Return the accounts of products that are not in place yet."""
    return {
        i.product.account
        for i in items
        if i.local_status is not LocalFileStatus.IN_PLACE and i.product.account is not None
    }


def _connections(
    request: RunRequest, authenticators: Mapping[str | None, Authenticator], memory: tuple[HostMemory, ...]
) -> ConnectionLimiter:
    settings, clock = request.settings, request.clock
    limits = {name: each.max_connections for name, each in authenticators.items() if name is not None}
    workers, segments = settings.workers, settings.segments
    grows = not settings.limit_rate
    if workers is None:
        cap = CAP if grows else FIRST_CONNECTIONS
        return ConnectionLimiter(most=cap, accounts=limits, clock=clock, cap=cap, least=LOWEST, memory=memory)
    most = max(workers, AUTO_CONNECTIONS) if segments is None else workers * segments
    cap = CAP if segments is None and grows else 0
    return ConnectionLimiter(most=most, accounts=limits, clock=clock, host=most, cap=cap, memory=memory)


def _has_several_hosts(items: list[PlannedProduct]) -> bool:
    """Return whether the products are of more than one account or host, mirrors included."""
    found = {(item.product.account, url.host) for item in items for url in item.product.sources}
    return len(found) > 1


async def _log_out(authenticators: Mapping[str | None, Authenticator], ending: RunEnd) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LOG_OUT_S if ending.signal is not None else None), asyncio.TaskGroup() as group:
            for authenticator in authenticators.values():
                group.create_task(authenticator.aclose())
