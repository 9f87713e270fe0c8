"""The composition root: from validated values to a run and its result.

The one place where parts are put together. Below it nothing reads the environment, and nobody builds a session, a
journal or a token manager.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import urllib.request
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import platformdirs

from bulkdl.auth.credentials import Credentials, keyring_lookup, resolve
from bulkdl.auth.endpoint import HttpTokenEndpoint
from bulkdl.auth.signing import signer_for
from bulkdl.bench import Bench
from bulkdl.claims import Claims
from bulkdl.clock import SystemClock
from bulkdl.ending import exit_code
from bulkdl.engine import Engine
from bulkdl.errors import AccountStopped, RunStopped, UsageError, first_error
from bulkdl.events import Level, ProductFinished, RunFinished, RunStarted
from bulkdl.hours import seconds_until
from bulkdl.http import USER_AGENT, Http, ssl_context
from bulkdl.journal import Journal
from bulkdl.limits import Connections, HostPauses, RateLimit
from bulkdl.lock import DestinationLock
from bulkdl.model import Account, AuthKind, Outcome, State
from bulkdl.plan import selected, survey
from bulkdl.standing import Standing
from bulkdl.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from bulkdl.auth.credentials import Prompt
    from bulkdl.auth.signer import Signer
    from bulkdl.clock import Clock
    from bulkdl.events import Event, Hub
    from bulkdl.model import Manifest, Product, RunOptions, Settings
    from bulkdl.plan import Item
    from bulkdl.urls import Url

__all__ = ["AccountUse", "RunResult", "StopReason", "StopSignal", "make_signers", "run", "state_folder"]

AUTO_CONNECTIONS = 16
"""Most connections of a run whose `segments` is auto, where it has no more workers than that."""
LEAVE_S = 1.5
"""For logging out when someone waits for the program to end."""


class StopReason(Enum):
    """Why a run was asked to stop; the value is the signal's number."""

    SIGINT = 2
    SIGTERM = 15


class StopSignal:
    """A wish to stop, from a signal handler or another part of a program."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._asked = asyncio.Event()

    def request(self, reason: StopReason) -> None:
        self.reason = self.reason or reason
        self._asked.set()

    async def wait(self) -> None:
        await self._asked.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountUse:
    """What a run did with an account."""

    logins: int
    refreshes: int
    stopped: str = ""
    """Why it could do nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended; counts are products, sizes bytes."""

    exit_code: int
    elapsed_s: float
    total: int
    completed: int
    skipped: int
    failed: int
    pending: int
    written: int
    received: int
    resumed: int
    accounts: Mapping[str, AccountUse]
    failures: tuple[Outcome, ...]
    """In the manifest's order."""
    pending_reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stopped: str = ""
    """Why the run ended early, if it did."""


@dataclass(slots=True)
class _Tally:
    """Adds the outcomes up as they come."""

    hub: Hub
    failures: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if not isinstance(event, ProductFinished):
            return
        outcome, counters = event.outcome, self.hub.counters
        counters.written += outcome.written
        counters.resumed += outcome.resumed
        match outcome.state:
            case State.COMPLETED:
                counters.completed += 1
            case State.SKIPPED:
                counters.skipped += 1
            case State.PENDING:
                counters.pending += 1
            case State.FAILED:
                counters.failed += 1
                self.failures.append(outcome)
        if outcome.note:
            self.notes.append(f"{outcome.file}: {outcome.note}")


@dataclass(slots=True)
class _Ending:
    """What ended a run, gathered on the way out."""

    machine: RunStopped | None = None
    deadline: bool = False
    signal: StopReason | None = None
    signers: Mapping[str | None, Signer] = field(default_factory=dict)


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
    began = clock.monotonic()
    tally, ending = _Tally(hub), _Ending()
    hub.subscribe_first(tally)
    tls = _tls(settings.ca_file, environ)
    products = selected(manifest.products, options.select)
    prepared = _Preparation(
        manifest=manifest,
        settings=settings,
        options=options,
        hub=hub,
        environ=environ,
        prompt=prompt,
        clock=clock,
        rng=rng,
        tls=tls,
    )
    try:
        async with AsyncExitStack() as stack:
            bench, items = await prepared.bench(stack, products, ending)
            engine = Engine(bench, items)
            try:
                await _until_stopped(engine, stop=stop, until_s=_deadline(settings, clock), ending=ending)
            finally:
                engine.leave()
            ending.machine = ending.machine or engine.full
    except RunStopped as error:
        ending.machine = error
    return _result(hub, tally, ending, total=len(products), elapsed_s=clock.monotonic() - began)


async def _until_stopped(engine: Engine, *, stop: StopSignal, until_s: float | None, ending: _Ending) -> None:
    """Run the engine until it is done, the deadline comes, or someone asks it to stop."""
    with first_error():
        async with asyncio.TaskGroup() as group:
            work, asked = group.create_task(engine.run()), group.create_task(stop.wait())
            await asyncio.wait((work, asked), timeout=until_s, return_when=asyncio.FIRST_COMPLETED)
            ending.signal = stop.reason
            ending.deadline = not work.done() and stop.reason is None
            work.cancel()
            asked.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Preparation:
    """Puts the parts of a run together; whatever it opens is closed by the stack, last first."""

    manifest: Manifest
    settings: Settings
    options: RunOptions
    hub: Hub
    environ: Mapping[str, str]
    prompt: Prompt | None
    clock: Clock
    rng: random.Random
    tls: ssl.SSLContext

    async def bench(self, stack: AsyncExitStack, products: list[Product], ending: _Ending) -> tuple[Bench, list[Item]]:
        storage = await stack.enter_async_context(Storage(self.manifest.destination))
        await storage.prepare()
        lock = await stack.enter_async_context(DestinationLock(self.manifest.destination))
        if lock.took_over is not None:
            self.hub.note(
                Level.INFO, f"an earlier run did not end properly ({lock.took_over}); going on from what it left"
            )
        journal = await stack.enter_async_context(Journal.open(self.manifest.destination, clock=self.clock))
        entries = await journal.entries()
        self._say_of(journal)
        claims = Claims()
        items = await survey(products, entries, storage, claims)
        http = await stack.enter_async_context(Http(timeout=self.settings.timeout, tls=self.tls, proxy_for=proxies()))
        needed = {
            i.product.account for i in items if i.standing is not Standing.IN_PLACE and i.product.account is not None
        }
        signers = await self._signers(stack, http, needed)
        ending.signers = signers
        stack.push_async_callback(_log_out, signers, ending)
        self._started(items)
        return self._bench(storage, journal, claims, http, signers), items

    def _bench(
        self, storage: Storage, journal: Journal, claims: Claims, http: Http, signers: Mapping[str | None, Signer]
    ) -> Bench:
        workers, segments = self.settings.workers, self.settings.segments
        most = max(workers, AUTO_CONNECTIONS) if segments is None else workers * segments
        limits = {name: signer.max_connections for name, signer in signers.items() if name is not None}
        return Bench(
            settings=self.settings,
            options=self.options,
            hub=self.hub,
            clock=self.clock,
            rng=self.rng,
            http=http,
            signers=signers,
            connections=Connections(most=most, accounts=limits, host=most),
            rate=RateLimit(self.settings.limit_rate, clock=self.clock),
            pauses=HostPauses(clock=self.clock),
            storage=storage,
            journal=journal,
            claims=claims,
        )

    async def _signers(self, stack: AsyncExitStack, http: Http, needed: set[str]) -> Mapping[str | None, Signer]:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=http.connector,
                connector_owner=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT},
            )
        )
        endpoint = HttpTokenEndpoint(session, clock=self.clock)
        return make_signers(
            self.manifest.accounts,
            needed=needed,
            find=partial(resolve, environ=self.environ, prompt=self.prompt, keyring=keyring_lookup()),
            signer=partial(
                signer_for,
                endpoint=endpoint,
                hub=self.hub,
                clock=self.clock,
                rng=self.rng,
                state_dir=state_folder(self.environ),
            ),
        )

    def _say_of(self, journal: Journal) -> None:
        if journal.recovered:
            self.hub.note(Level.WARNING, journal.recovered)
        if journal.network_filesystem:
            self.hub.note(
                Level.WARNING,
                f"the destination is on a network file system ({journal.network_filesystem}): "
                "never run two machines on it at once, since locks may not be seen across machines",
            )

    def _started(self, items: list[Item]) -> None:
        todo = [item for item in items if item.standing is not Standing.IN_PLACE]
        sizes = [max(0, item.size - item.have) for item in todo if item.size is not None]
        self.hub.counters.bytes_todo = sum(sizes)
        self.hub.emit(
            RunStarted(
                destination=self.manifest.destination_shown,
                total=len(items),
                todo=len(todo),
                bytes_todo=sum(sizes) if sizes else None,
            )
        )


def make_signers(
    accounts: Mapping[str, Account],
    *,
    needed: Collection[str],
    find: Callable[[Account], Credentials],
    signer: Callable[..., Signer],
) -> Mapping[str | None, Signer]:
    """A signer for each account, by name, and under None one that signs nothing.

    The secrets of the accounts that are `needed` are found now, while someone is there to be asked, not at 3 a.m.
    """
    made: dict[str | None, Signer] = {None: signer(Account(name="", auth=AuthKind.NONE), _nothing)}
    for name, account in accounts.items():
        made[name] = signer(account, _found(account, find) if name in needed else partial(find, account))
    return made


def _found(account: Account, find: Callable[[Account], Credentials]) -> Callable[[], Credentials]:
    try:
        credentials = find(account)
    except AccountStopped as error:
        stopped = error

        def refuse() -> Credentials:
            raise AccountStopped(stopped.reason, account=stopped.account, hint=stopped.hint)

        return refuse
    return lambda: credentials


def _nothing() -> Credentials:
    return Credentials()


def state_folder(environ: Mapping[str, str]) -> Path:
    """Where what is shared by all runs of a user lives: the ledger of TOTP steps."""
    return Path(environ.get("BULKDL_STATE_DIR") or platformdirs.user_state_dir("bulkdl", appauthor=False))


def proxies() -> Callable[[Url], str | None]:
    """The proxy for a URL, as the system's settings and the usual variables have it."""
    found = urllib.request.getproxies()

    def proxy_for(url: Url) -> str | None:
        if not found or urllib.request.proxy_bypass(f"{url.host}:{url.port}"):
            return None
        return found.get(url.scheme) or found.get("all")

    return proxy_for


async def _log_out(signers: Mapping[str | None, Signer], ending: _Ending) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LEAVE_S if ending.signal is not None else None), asyncio.TaskGroup() as group:
            for signer in signers.values():
                group.create_task(signer.aclose())


def _tls(ca_file: Path | None, environ: Mapping[str, str]) -> ssl.SSLContext:
    files = tuple(str(file) for file in (ca_file, environ.get("SSL_CERT_FILE")) if file)
    try:
        return ssl_context(files)
    except OSError as error:  # ssl.SSLError is one
        reason = "not a PEM file of certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(
            f"the CA certificates in {' or '.join(files)} cannot be read ({reason})",
            hint="Check --ca-file and SSL_CERT_FILE",
        ) from error


def _deadline(settings: Settings, clock: Clock) -> float | None:
    if settings.until is None:
        return None
    return seconds_until(settings.until, now=datetime.fromtimestamp(clock.wall()).astimezone())


def _result(hub: Hub, tally: _Tally, ending: _Ending, *, total: int, elapsed_s: float) -> RunResult:
    counters = hub.counters
    accounted = counters.completed + counters.skipped + counters.failed + counters.pending
    uses = {
        name: AccountUse(logins=s.logins, refreshes=s.refreshes, stopped=str(s.stopped or ""))
        for name, s in ending.signers.items()
        if name is not None
    }
    stops = [f"account {name}: {use.stopped}" for name, use in uses.items() if use.stopped]
    code = exit_code(
        signal=ending.signal.value if ending.signal is not None else None,
        machine=ending.machine is not None,
        account=any(s.stopped is not None and not s.worked for s in ending.signers.values()),
        deadline=ending.deadline,
        failed=counters.failed,
        pending=counters.pending + total - accounted,
    )
    hub.emit(RunFinished(exit_code=code))
    return RunResult(
        exit_code=code,
        elapsed_s=elapsed_s,
        total=total,
        completed=counters.completed,
        skipped=counters.skipped,
        failed=counters.failed,
        pending=counters.pending + total - accounted,
        written=counters.written,
        received=counters.received,
        resumed=counters.resumed,
        accounts=uses,
        failures=tuple(sorted(tally.failures, key=lambda o: o.product.index)),
        pending_reasons=(*stops, *([str(ending.machine)] if ending.machine else [])),
        notes=tuple(tally.notes),
        stopped=_stopped(ending),
    )


def _stopped(ending: _Ending) -> str:
    if ending.signal is not None:
        return f"interrupted by {ending.signal.name}; run the same command to go on"
    if ending.machine is not None:
        return str(ending.machine)
    return "the deadline (--until) has come; run the same command to go on" if ending.deadline else ""
