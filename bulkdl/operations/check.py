"""The plan that `bulkdl check` prints.

It uses no event loop and no network, whose import would take longer than the check itself.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.core.errors import AccountStopped, ProductFailed
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.filenames import fold
from bulkdl.core.models import AuthKind
from bulkdl.core.urls import Url
from bulkdl.journal.reader import read
from bulkdl.planning.local_status import LocalFileStatus
from bulkdl.planning.name_registry import NameRegistry
from bulkdl.planning.plan import PlanBuilder, selected
from bulkdl.storage.file_info import check_name, look_at
from bulkdl.storage.folder_links import FolderLinks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bulkdl.auth.credentials import Prompt
    from bulkdl.core.models import Account, Manifest, Product, RunOptions
    from bulkdl.core.quota import QuotaForecast
    from bulkdl.planning.plan import PlannedProduct

_Origins = Counter[tuple[str | None, str, str, int]]
"""Number of products by account, scheme, host and port."""

__all__ = ["AccountFacts", "CheckReport", "check_products"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFacts:
    """An account in the plan."""

    name: str
    auth: AuthKind
    provider: str | None
    hosts: tuple[str, ...]
    """Hosts that may get the credential; empty: the host of each product's own URL."""
    max_connections: int | None
    products: int
    sources: Mapping[str, str] = field(default_factory=dict)
    """Place where each secret was found, by name of the secret."""
    places: Mapping[str, str] = field(default_factory=dict)
    """The place in words, such as the name of the variable."""
    quotas: tuple[QuotaForecast, ...] = ()
    """Empty also while its user name is not known."""
    warnings: tuple[str, ...] = ()
    error: str = ""
    """Missing or unusable secret of an account that products need; "" if none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The plan of a run; sizes in bytes, as far as known."""

    products: int
    in_place: int
    to_verify: int
    """Existing files whose checksum must be computed first."""
    partial: int
    todo: int
    """Products to download, including partial ones."""
    bytes_todo: int
    bytes_kept: int
    """Bytes of partial products that are already on disk."""
    unknown_sizes: int
    free_bytes: int | None
    accounts: tuple[AccountFacts, ...]
    conflicts: tuple[str, ...]
    warnings: tuple[str, ...]

    unknown: tuple[int, ...] = ()
    """Indices (`Product.index`) of the products of unknown size."""

    @property
    def fits(self) -> bool | None:
        """False if the products do not fit; None if sizes are unknown and those that are known fit."""
        if self.free_bytes is None:
            return None
        if self.bytes_todo > self.free_bytes:
            return False
        return None if self.unknown_sizes else True

    def with_sizes(self, sizes: Mapping[int, int]) -> CheckReport:
        """Return the report with the sizes that the archives gave, by `Product.index`."""
        learnt = {index: sizes[index] for index in self.unknown if index in sizes}
        return replace(
            self,
            bytes_todo=self.bytes_todo + sum(learnt.values()),
            unknown_sizes=self.unknown_sizes - len(learnt),
            unknown=tuple(index for index in self.unknown if index not in learnt),
        )


def check_products(
    manifest: Manifest,
    *,
    options: RunOptions,
    environ: Mapping[str, str],
    prompt: Prompt | None = None,
    quota_share: float | None = 1.0,
) -> CheckReport:
    """Return the plan of a run, without writing anything and without requests.

    `quota_share`: see `Settings.quota`.
    """
    products = selected(manifest.products, options.select)
    builder = PlanBuilder(
        partial(look_at, manifest.destination), NameRegistry(FolderLinks(manifest.destination).real_folder)
    )
    builder.add(products, read(manifest.destination) or {})
    items = builder.build()
    origins = Counter((p.account, p.url.scheme, p.url.host, p.url.port) for p in manifest.products)
    todo = [i for i in items if i.local_status is not LocalFileStatus.IN_PLACE]
    download = [i for i in todo if i.local_status is not LocalFileStatus.NEEDS_CHECKSUM]
    sizes: dict[str | None, list[int | None]] = {}
    for item in download:
        left = None if item.size is None else max(0, item.size - item.have)
        sizes.setdefault(item.product.account, []).append(left)

    def quotas(account: Account, username: str | None) -> tuple[QuotaForecast, ...]:
        if not account.quota:
            return ()
        from bulkdl.operations.quota_forecast import forecasts  # noqa: PLC0415 - it imports SQLite

        return forecasts(account, username, sizes.get(account.name, []), environ=environ, share=quota_share)

    return CheckReport(
        products=len(items),
        in_place=len(items) - len(todo),
        to_verify=len(todo) - len(download),
        partial=sum(1 for i in download if i.have),
        todo=len(download),
        bytes_todo=sum(max(0, i.size - i.have) for i in download if i.size is not None),
        bytes_kept=sum(i.have for i in download),
        unknown_sizes=sum(1 for i in download if i.size is None),
        unknown=tuple(i.product.index for i in download if i.size is None),
        free_bytes=_free(manifest.destination),
        accounts=tuple(
            _with_host_warnings(_account_facts(a, products, environ, prompt, quotas), a, origins)
            for a in manifest.accounts.values()
        ),
        conflicts=(*_unstorable(download), *_conflicts(items, overwrite=options.overwrite)),
        warnings=(*manifest.warnings, *_shared_names(items)),
    )


def _account_facts(
    account: Account,
    products: list[Product],
    environ: Mapping[str, str],
    prompt: Prompt | None,
    quotas: Callable[[Account, str | None], tuple[QuotaForecast, ...]],
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
        return replace(facts, quotas=quotas(account, None))
    from bulkdl.auth.credentials import MissingSecret, keyring_lookup, resolve  # noqa: PLC0415 - not needed without accounts

    try:
        found = resolve(account, environ=environ, prompt=None, keyring=keyring_lookup)
    except AccountStopped as stopped:
        can_prompt = prompt is not None and isinstance(stopped, MissingSecret)
        error = "" if can_prompt or not used else str(stopped)
        return replace(
            facts, error=error, warnings=("bulkdl will prompt for the missing secret",) if can_prompt else ()
        )
    sources = {name: source.value for name, source in found.sources.items()}
    return replace(
        facts,
        sources=sources,
        places=found.places,
        warnings=found.warnings,
        quotas=quotas(account, found.username),
    )


def _unstorable(items: list[PlannedProduct]) -> list[str]:
    """Return the products whose names the file system encoding of this process cannot hold."""
    found = []
    for item in items:
        try:
            check_name(item.shown)
        except ProductFailed as failed:
            found.append(str(failed))
    return found


def _with_host_warnings(facts: AccountFacts, account: Account, origins: _Origins) -> AccountFacts:
    """Add a warning where the account and the hosts of the products do not go together."""
    if account.hosts is None or account.auth is AuthKind.NONE:
        return facts
    own = {origin: number for origin, number in origins.items() if origin[0] == account.name}
    if not own:
        free = {o[2]: n for o, n in origins.items() if o[0] is None and account.hosts.allows(_url_of(o))}
        if not free:
            return facts
        warning = (
            f"no product uses this account, although its `hosts` match {', '.join(sorted(free))} "
            f"({sum(free.values()):,} without an account): add `account: {account.name}` to them, or to `defaults`"
        )
        return replace(facts, warnings=(*facts.warnings, warning))
    outside = {o[2]: n for o, n in own.items() if not account.hosts.allows(_url_of(o))}
    if not outside:
        return facts
    warning = (
        f"the credential is not sent to {', '.join(sorted(outside))}, the host of {sum(outside.values()):,} of its "
        "products: its `hosts` do not list it. Add it there if it belongs to the archive"
    )
    return replace(facts, warnings=(*facts.warnings, warning))


def _url_of(origin: tuple[str | None, str, str, int]) -> Url:
    _, scheme, host, port = origin
    return Url(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/")


def _conflicts(items: list[PlannedProduct], *, overwrite: bool) -> list[str]:
    if overwrite:
        return []
    return [
        f"{item.shown} already exists, but its size or content differs from the manifest or the journal; "
        "move it away, or use --overwrite"
        for item in items
        if item.local_status is LocalFileStatus.CONFLICTS
    ]


def _shared_names(items: list[PlannedProduct]) -> list[str]:
    """Return a warning for each product whose name another one has, unless the archive sends another name."""
    seen: dict[str, int] = {}
    clashes = [
        f"product {item.product.index + 1} ({item.shown}) has the same name as product {seen[fold(item.shown)] + 1}, "
        "unless the archive gives it another name; set its `file` in the manifest"
        for item in items
        if seen.setdefault(fold(item.shown), item.product.index) != item.product.index
    ]
    return (
        clashes if len(clashes) <= 10 else [*clashes[:10], f"and {len(clashes) - 10} more products with a shared name"]
    )


def _free(folder: Path) -> int | None:
    for place in (folder, *folder.parents):
        if place.is_dir():
            try:
                return shutil.disk_usage(place).free
            except OSError:
                return None
    return None
