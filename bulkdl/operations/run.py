"""Run a manifest: the composition root, which builds the parts of a run from validated values.

Modules below this one never read the environment.

Journal and disk are compared first. Only if something is left to do, `execute` and `services` are imported, and with
them aiohttp, while a thread reads the certificates. `tests/cli/test_start.py` pins what each command imports.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING

from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import RunStopped
from bulkdl.core.events import ProductFinished
from bulkdl.core.stop_request import StopSignal
from bulkdl.operations.prepare import RunRequest, announce, prepare
from bulkdl.operations.result import ResultCollector, RunEnd, RunResult
from bulkdl.planning.plan import in_place, selected
from bulkdl.scheduler.time_window import deadline_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkdl.auth.credentials import Prompt
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.models import Manifest, RunOptions, Settings
    from bulkdl.operations.prepare import PreparedDestination

__all__ = ["run"]


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
    alone: bool = False,
) -> RunResult:
    """Download every product of `manifest` to its destination.

    Once the run has begun, every cause of its end is in the result and none is raised. Raise `UsageError` if `ca_file`
    cannot be read. `environ` is the only environment that is read; `prompt` None: no terminal to ask for secrets.
    `alone`: nothing else in this process uses aiohttp, so that its import need not read certificates.
    """
    clock, rng, stop = clock or SystemClock(), rng or random.Random(), stop or StopSignal()  # noqa: S311 - jitter
    request = RunRequest(
        manifest=manifest,
        settings=settings,
        options=options,
        hub=hub,
        environ=environ,
        prompt=prompt,
        clock=clock,
        rng=rng,
    )
    began, until_s = clock.monotonic(), _deadline(settings, clock)
    ends_at = None if until_s is None else began + until_s
    collector, ending = ResultCollector(hub), RunEnd()
    hub.subscribe_first(collector)
    products = selected(manifest.products, options.select)
    try:
        async with AsyncExitStack() as stack:
            prepared = await prepare(stack, request, products)
            if prepared.is_complete and settings.ca_file is None:  # an unreadable file must be reported in any case
                _skip_all(request, prepared, ending)
                ending.signal = stop.reason
            else:
                await _download(request, prepared, stop=stop, ends_at=ends_at, ending=ending, alone=alone)
    except RunStopped as error:
        ending.machine = error
    return collector.result(ending, total=len(products), elapsed_s=clock.monotonic() - began)


async def _download(
    request: RunRequest,
    prepared: PreparedDestination,
    *,
    stop: StopSignal,
    ends_at: float | None,
    ending: RunEnd,
    alone: bool,
) -> None:
    """Download what is left to do. Raise `UsageError` if the CA certificates cannot be read.

    Import the network modules only now, since that takes longer than a run that finds everything in place. Meanwhile a
    thread reads the certificates, which does not hold the interpreter's lock.
    """
    from bulkdl.http.tls import skip_certificate_loading, trusted_context  # noqa: PLC0415

    reading = asyncio.get_running_loop().run_in_executor(None, trusted_context, request.settings, request.environ)
    with skip_certificate_loading() if alone else nullcontext():
        from bulkdl.operations.execute import execute  # noqa: PLC0415
        from bulkdl.operations.services import Services  # noqa: PLC0415

    services = Services(
        settings=request.settings,
        environ=request.environ,
        prompt=request.prompt,
        hub=request.hub,
        clock=request.clock,
        rng=request.rng,
    )
    async with services.network(await reading) as network:
        await execute(request, prepared, services=services, network=network, stop=stop, ends_at=ends_at, ending=ending)


def _skip_all(request: RunRequest, prepared: PreparedDestination, ending: RunEnd) -> None:
    """Emit an outcome for every product of a run with nothing left to do; no account is used."""
    ending.unused = tuple(request.manifest.accounts)
    announce(request, prepared)
    for item in prepared.items:
        request.hub.emit(ProductFinished(outcome=in_place(item, prepared.storage.root)))


def _deadline(settings: Settings, clock: Clock) -> float | None:
    if settings.until is None:
        return None
    return deadline_in(settings.until, now=datetime.fromtimestamp(clock.wall()).astimezone())
