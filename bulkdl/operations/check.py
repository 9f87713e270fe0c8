"""What a run would do now: the plan that `bulkdl check` prints. Without an event loop or a network, whose import takes longer."""

from __future__ import annotations

import shutil
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.core.errors import AccountStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.filenames import fold
from bulkdl.core.models import AuthKind
from bulkdl.journal.reader import read
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.name_registry import NameRegistry
from bulkdl.planning.plan import PlanBuilder, selected
from bulkdl.storage.file_info import look_at

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bulkdl.auth.credentials import Prompt
    from bulkdl.core.models import Account, Manifest, Product, RunOptions
    from bulkdl.planning.plan import PlannedProduct

__all__ = ["AccountFacts", "CheckReport", "check_products"]


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


def check_products(
    manifest: Manifest, *, options: RunOptions, environ: Mapping[str, str], prompt: Prompt | None = None
) -> CheckReport:
    """What a run would do now; nothing is written and nothing is asked of the network."""
    products = selected(manifest.products, options.select)
    survey = PlanBuilder(partial(look_at, manifest.destination), NameRegistry())
    survey.add(products, read(manifest.destination) or {})
    items = survey.end()
    todo = [i for i in items if i.local_status is not LocalFileStatus.IN_PLACE]
    fetch = [i for i in todo if i.local_status is not LocalFileStatus.HASH]
    return CheckReport(
        products=len(items),
        in_place=len(items) - len(todo),
        to_verify=len(todo) - len(fetch),
        partial=sum(1 for i in fetch if i.have),
        todo=len(fetch),
        bytes_todo=sum(max(0, i.size - i.have) for i in fetch if i.size is not None),
        bytes_kept=sum(i.have for i in fetch),
        unknown_sizes=sum(1 for i in fetch if i.size is None),
        free_bytes=_free(manifest.destination),
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
        found = resolve(account, environ=environ, prompt=None, keyring=keyring_lookup)
    except AccountStopped as stopped:
        error = "" if prompt is not None or not used else str(stopped)
        return replace(
            facts, error=error, warnings=("what is missing will be asked for",) if prompt is not None else ()
        )
    sources = {name: source.value for name, source in found.sources.items()}
    return replace(facts, sources=sources, warnings=found.warnings)


def _conflicts(items: list[PlannedProduct], *, overwrite: bool) -> list[str]:
    if overwrite:
        return []
    return [
        f"{item.shown} is already there and does not agree with what is known of it; move it away, or use --overwrite"
        for item in items
        if item.local_status is LocalFileStatus.DISAGREES
    ]


def _shared_names(items: list[PlannedProduct]) -> list[str]:
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
