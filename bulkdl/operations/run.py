"""The composition root: from validated values to a run and its result.

The one place where the parts of a run are put together. Below it nothing reads the environment.
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
    """Bring every product of `manifest` to its destination.

    Returns whatever the end: everything that can stop a run once it has begun is in the result. Raise `UsageError` where
    `ca_file` cannot be read. `environ` is the only environment that is looked at; `prompt` None: nobody to ask. `alone`: nothing
    else in this process uses aiohttp, whose import need not read certificates then.
    """
    clock, rng, stop = clock or SystemClock(), rng or random.Random(), stop or StopSignal()  # noqa: S311 - jitter
    terms = RunRequest(
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
    tally, ending = ResultCollector(hub), RunEnd()
    hub.subscribe_first(tally)
    products = selected(manifest.products, options.select)
    try:
        async with AsyncExitStack() as stack:
            ground = await prepare(stack, terms, products)
            if ground.is_whole and settings.ca_file is None:  # a file that cannot be read is told of in any case
                _leave_in_place(terms, ground, ending)
                ending.signal = stop.reason
            else:
                await _work(terms, ground, stop=stop, ends_at=ends_at, ending=ending, alone=alone)
    except RunStopped as error:
        ending.machine = error
    return tally.result(ending, total=len(products), elapsed_s=clock.monotonic() - began)


async def _work(
    terms: RunRequest,
    ground: PreparedDestination,
    *,
    stop: StopSignal,
    ends_at: float | None,
    ending: RunEnd,
    alone: bool,
) -> None:
    """Do what needs the network. Raise `UsageError` where the CA certificates cannot be read.

    What that takes is imported now, since it takes longer than a run that finds everything in place, while a thread reads the
    certificates, which does not hold the interpreter's lock.
    """
    from bulkdl.http.tls import skip_certificate_loading, trusted_context  # noqa: PLC0415

    reading = asyncio.get_running_loop().run_in_executor(None, trusted_context, terms.settings, terms.environ)
    with skip_certificate_loading() if alone else nullcontext():
        from bulkdl.operations.execute import execute  # noqa: PLC0415
        from bulkdl.operations.services import Services  # noqa: PLC0415

    around = Services(
        settings=terms.settings,
        environ=terms.environ,
        prompt=terms.prompt,
        hub=terms.hub,
        clock=terms.clock,
        rng=terms.rng,
    )
    async with around.network(await reading) as network:
        await execute(terms, ground, around=around, network=network, stop=stop, ends_at=ends_at, ending=ending)


def _leave_in_place(terms: RunRequest, ground: PreparedDestination, ending: RunEnd) -> None:
    """Nothing is left to do: every product is told of, and no account was used."""
    ending.unused = tuple(terms.manifest.accounts)
    announce(terms, ground)
    for item in ground.items:
        terms.hub.emit(ProductFinished(outcome=in_place(item, ground.storage.root)))


def _deadline(settings: Settings, clock: Clock) -> float | None:
    if settings.until is None:
        return None
    return deadline_in(settings.until, now=datetime.fromtimestamp(clock.wall()).astimezone())
