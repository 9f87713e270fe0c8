"""Looking without downloading: the plan of a run, what the journal says, what the files on disk are worth."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from bulkdl.claims import Claims
from bulkdl.clock import SystemClock
from bulkdl.dataclass import dataclass
from bulkdl.errors import AccountStopped, ProductFailed
from bulkdl.hostfacts import told
from bulkdl.model import AuthKind
from bulkdl.names import fold, from_url
from bulkdl.plan import selected, survey
from bulkdl.ranges import cover
from bulkdl.standing import Standing
from bulkdl.store.journal import Entry, Journal, Phase, read, read_learnt
from bulkdl.store.learnt import Learnt
from bulkdl.store.lock import DestinationLock, holder
from bulkdl.store.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bulkdl.auth.credentials import Prompt
    from bulkdl.model import Account, Manifest, Product, RunOptions
    from bulkdl.plan import Item

__all__ = [
    "AccountFacts",
    "CheckReport",
    "ProductState",
    "ProductStatus",
    "ProductVerdict",
    "StatusReport",
    "VerifyReport",
    "VerifyResult",
    "check",
    "status",
    "verify",
]

VERIFIERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFacts:
    """An account as the plan sees it."""

    name: str
    auth: AuthKind
    provider: str | None
    hosts: tuple[str, ...]
    """Empty: the host of each product's own URL."""
    max_connections: int | None
    products: int
    sources: Mapping[str, str] = field(default_factory=dict)
    """Name of a secret -> where it was found."""
    warnings: tuple[str, ...] = ()
    error: str = ""
    """What is missing, for an account that products need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The plan of a run; sizes in bytes, as far as they are known."""

    products: int
    in_place: int
    to_verify: int
    """Files that are there and have to be read first."""
    partial: int
    todo: int
    """Products to fetch, the partial ones among them."""
    bytes_todo: int
    bytes_kept: int
    """Of partial products, on disk already."""
    unknown_sizes: int
    free_bytes: int | None
    accounts: tuple[AccountFacts, ...]
    conflicts: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.free_bytes is None or self.bytes_todo <= self.free_bytes


class ProductState(StrEnum):
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    PENDING = "pending"
    MISSING = "missing"
    """Was finished, and its file is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductStatus:
    """One product as the journal and the disk have it."""

    file: str
    url: str
    """Query masked."""
    state: ProductState
    have: int
    total: int | None
    kind: str = ""
    reason: str = ""
    attempts: int = 0
    updated: float | None = None
    """Unix time of the last change in the journal."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    products: tuple[ProductStatus, ...]
    running: str = ""
    """Which process holds the destination now; empty for none."""
    journal: bool = True
    """False: there is none, so no run has begun here."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Origin -> what runs have learnt of it."""


class ProductVerdict(StrEnum):
    OK = "ok"
    UNCHECKED = "unchecked"
    """There, and nothing is known to hold it against."""
    WRONG = "wrong"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    file: str
    verdict: ProductVerdict
    reason: str = ""
    requeued: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    results: tuple[VerifyResult, ...]

    @property
    def bad(self) -> tuple[VerifyResult, ...]:
        return tuple(r for r in self.results if r.verdict in (ProductVerdict.WRONG, ProductVerdict.MISSING))


async def check(
    manifest: Manifest, *, options: RunOptions, environ: Mapping[str, str], prompt: Prompt | None = None
) -> CheckReport:
    """What a run would do now; nothing is written and nothing is asked of the network."""
    products = selected(manifest.products, options.select)
    entries = await asyncio.to_thread(read, manifest.destination) or {}
    async with Storage(manifest.destination) as storage:
        items = await survey(products, entries, storage, Claims())
    todo = [i for i in items if i.standing is not Standing.IN_PLACE]
    fetch = [i for i in todo if i.standing is not Standing.HASH]
    return CheckReport(
        products=len(items),
        in_place=len(items) - len(todo),
        to_verify=len(todo) - len(fetch),
        partial=sum(1 for i in fetch if i.have),
        todo=len(fetch),
        bytes_todo=sum(max(0, i.size - i.have) for i in fetch if i.size is not None),
        bytes_kept=sum(i.have for i in fetch),
        unknown_sizes=sum(1 for i in fetch if i.size is None),
        free_bytes=await asyncio.to_thread(_free, manifest.destination),
        accounts=tuple(_account_facts(a, products, environ, prompt) for a in manifest.accounts.values()),
        conflicts=tuple(_conflicts(items, overwrite=options.overwrite)),
        warnings=(*manifest.warnings, *_shared_names(items)),
    )


def _account_facts(
    account: Account, products: list[Product], environ: Mapping[str, str], prompt: Prompt | None
) -> AccountFacts:
    used = sum(1 for p in products if p.account == account.name)
    facts = AccountFacts(
        name=account.name,
        auth=account.auth,
        provider=account.provider,
        hosts=account.hosts.entries if account.hosts is not None else (),
        max_connections=account.max_connections,
        products=used,
    )
    if account.auth is AuthKind.NONE:
        return facts
    from bulkdl.auth.credentials import keyring_lookup, resolve  # noqa: PLC0415 - a plan without accounts needs none of it

    try:
        found = resolve(account, environ=environ, prompt=None, keyring=keyring_lookup())
    except AccountStopped as stopped:
        error = "" if prompt is not None or not used else str(stopped)
        return replace(
            facts, error=error, warnings=("what is missing will be asked for",) if prompt is not None else ()
        )
    sources = {name: source.value for name, source in found.sources.items()}
    return replace(facts, sources=sources, warnings=found.warnings)


def _conflicts(items: list[Item], *, overwrite: bool) -> list[str]:
    if overwrite:
        return []
    return [
        f"{item.shown} is already there and does not agree with what is known of it; move it away, or use --overwrite"
        for item in items
        if item.standing is Standing.DISAGREES
    ]


def _shared_names(items: list[Item]) -> list[str]:
    """Products that would have one name, unless the archive gives them others."""
    seen: dict[str, int] = {}
    clashes = [
        f"product {item.product.index + 1} ({item.shown}) has the same name as product {seen[fold(item.shown)] + 1}, "
        "unless the archive names it otherwise; give it a `file` of its own"
        for item in items
        if seen.setdefault(fold(item.shown), item.product.index) != item.product.index
    ]
    return (
        clashes if len(clashes) <= 10 else [*clashes[:10], f"and {len(clashes) - 10} more products that share a name"]
    )


def _free(folder: Path) -> int | None:
    for place in (folder, *folder.parents):
        if place.is_dir():
            try:
                return shutil.disk_usage(place).free
            except OSError:
                return None
    return None


def status(manifest: Manifest) -> StatusReport:
    """What the journal and the disk say of every product, also while a run is going on; nothing is written."""
    entries = read(manifest.destination)
    running = holder(manifest.destination)
    known = entries or {}
    now = SystemClock().wall()
    learnt = read_learnt(manifest.destination, now=now) or Learnt()
    return StatusReport(
        products=tuple(_status(p, known.get(p.id), manifest.destination) for p in manifest.products),
        running=str(running) if running is not None else "",
        journal=entries is not None,
        hosts={host: said for host, facts in sorted(learnt.hosts.items()) if (said := told(facts, now=now))},
    )


def _status(product: Product, entry: Entry | None, destination: Path) -> ProductStatus:
    file = product.file or (entry.file if entry is not None else None)
    size = _size(destination / file) if file is not None else None
    base = ProductStatus(
        file=file or from_url(product.url), url=str(product.url), state=ProductState.PENDING, have=0, total=product.size
    )
    if entry is None:
        agrees = size is not None and size == product.size
        return replace(base, state=ProductState.DONE, have=size or 0, note="not in the journal") if agrees else base
    base = replace(base, updated=entry.updated, attempts=entry.attempts, note=entry.note)
    if entry.phase in (Phase.DONE, Phase.PLACING) and size is not None:
        return replace(base, state=ProductState.DONE, have=size, total=entry.size)
    have = cover(entry.ranges)
    base = replace(base, have=have, total=entry.total if entry.total is not None else product.size)
    if entry.phase is Phase.FAILED:
        kind = entry.failure_kind.value if entry.failure_kind is not None else ""
        return replace(base, state=ProductState.FAILED, kind=kind, reason=entry.failure_reason)
    if entry.phase is Phase.DONE:
        return replace(base, state=ProductState.MISSING, reason="its file is gone; the next run fetches it again")
    return replace(base, state=ProductState.PARTIAL if have else ProductState.PENDING)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


async def verify(
    manifest: Manifest, *, requeue: bool, on_done: Callable[[VerifyResult], None] = lambda _result: None
) -> VerifyReport:
    """Read every product's file again and hold it against its size, checksums and structure.

    `requeue`: those that are wrong are fetched again by the next run, which takes the destination's lock meanwhile;
    raise `StorageStopped` when a run has it. Products that were never finished are `missing`.
    """
    if not requeue:
        entries = await asyncio.to_thread(read, manifest.destination) or {}
        return await _verify_all(manifest, entries, on_done)
    async with (
        DestinationLock(manifest.destination),
        Journal.open(manifest.destination, clock=SystemClock()) as journal,
    ):
        entries, learnt = await journal.entries(), await journal.learnt()
        report = await _verify_all(manifest, entries, on_done)
        results = [
            await _requeue(journal, entries, r, p) for p, r in zip(manifest.products, report.results, strict=True)
        ]
        for product, result in zip(manifest.products, results, strict=True):
            if result.requeued and product.id in learnt.evidence:  # a suspicion from now on, so that it is fetched
                await journal.put_evidence(replace(learnt.evidence[product.id], proven=False))
        return replace(report, results=tuple(results))


async def _verify_all(
    manifest: Manifest, entries: Mapping[str, Entry], on_done: Callable[[VerifyResult], None]
) -> VerifyReport:
    turns = asyncio.Semaphore(VERIFIERS)

    async def one(product: Product) -> VerifyResult:
        async with turns:
            result = await _verify(product, entries.get(product.id), manifest.destination)
        on_done(result)
        return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(p)) for p in manifest.products]
    return VerifyReport(results=tuple(task.result() for task in tasks))


async def _verify(product: Product, entry: Entry | None, destination: Path) -> VerifyResult:
    file = product.file or (entry.file if entry is not None else None)
    shown = file or from_url(product.url)
    if file is None or _size(destination / file) is None:
        return VerifyResult(file=shown, verdict=ProductVerdict.MISSING, reason="there is no such file")
    path, placed = destination / file, entry if entry is not None and entry.phase is Phase.DONE else None
    held = replace(
        product,
        size=product.size if product.size is not None else (placed.size if placed is not None else None),
        checksums=product.checksums or (placed.digests if placed is not None else ()),
    )
    from bulkdl.content.verify import check_product  # noqa: PLC0415 - all that reads archives is for `verify` only

    try:
        await check_product(path, held, name=path.name)
    except ProductFailed as failed:
        return VerifyResult(file=shown, verdict=ProductVerdict.WRONG, reason=str(failed))
    except OSError as error:
        return VerifyResult(file=shown, verdict=ProductVerdict.WRONG, reason=f"it cannot be read ({error.strerror})")
    known = bool(held.checksums) or held.size is not None
    return VerifyResult(file=shown, verdict=ProductVerdict.OK if known else ProductVerdict.UNCHECKED)


async def _requeue(
    journal: Journal, entries: Mapping[str, Entry], result: VerifyResult, product: Product
) -> VerifyResult:
    if result.verdict not in (ProductVerdict.WRONG, ProductVerdict.MISSING):
        return result
    entry = entries.get(product.id)
    if result.verdict is ProductVerdict.WRONG:
        await journal.put(_requeued(entry, product))
    elif entry is not None and entry.phase is Phase.DONE:
        await journal.forget(product.id)
    return replace(result, requeued=True)


def _requeued(entry: Entry | None, product: Product) -> Entry:
    return Entry(id=product.id, phase=Phase.REQUEUED, file=product.file or (entry.file if entry is not None else None))
