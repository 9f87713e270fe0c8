"""The compared tools: bulkdl without flags or with fixed ones, and its peers with the best flags for the archive."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.process import Command
from benchmarks.tools import bulkdl_command

from .content import names_of
from .rules import best_connections

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from .rules import Archive, Row

__all__ = ["BULKDL", "Tool", "fixed", "peers"]

_MOST_PER_PRODUCT = 16
"""Limit of aria2c's `-x`."""
_MOST_AT_ONCE = 64
_CURL_PARALLEL = "-Z --parallel-immediate --parallel-max"
_CURL = "-q --silent --show-error --fail --retry 100000 --retry-all-errors --retry-delay 1"
_ARIA2C = "--no-conf --quiet --file-allocation=none --async-dns=false -k1M -m0 --retry-wait=1 --max-file-not-found=0"


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    command: Callable[[Row, Sequence[str], Path], Command]
    """Return the command line for the archives' base URLs; it writes its files to the folder, products to `products`
    there."""


def _bulkdl(row: Row, bases: Sequence[str], folder: Path, flags: Sequence[str] = ()) -> Command:
    products = [
        {"url": f"{base}/{name}", "file": name, "size": size}
        for base, archive, names in zip(bases, row.archives, names_of(row), strict=True)
        for name, size in zip(names, archive.sizes, strict=True)
    ]
    manifest: dict[str, object] = {"version": 1, "products": products}
    if row.account_limit is not None:
        account = {"auth": "basic", "username": "u", "password": "${BENCH_TOKEN}"}
        manifest |= {"accounts": {"own": account | {"max_connections": row.account_limit}}}
        manifest |= {"defaults": {"account": "own"}}
    path = folder / "manifest.yaml"
    path.write_text(json.dumps(manifest))
    command = bulkdl_command("run", str(path), "-d", "products", "--json", "--progress", "none", *flags)
    # Nothing that an earlier trial learned about a host may help.
    return Command(command.argv, {**command.env, "HOME": str(folder), "BULKDL_STATE_DIR": str(folder / "state")})


BULKDL = Tool("bulkdl", _bulkdl)


def fixed(row: Row) -> list[Tool]:
    """Return bulkdl with each pair of `-j` and `-s` of the sweep that differs for this row."""
    products = sum(len(archive.sizes) for archive in row.archives)
    pairs = [(j, 1) for j in (1, 2, 4, 8, 16, 32, 64)] + [(2, 8), (4, 4), (8, 4)]
    if products == 1:
        pairs = [(1, s) for s in (1, 2, 4, 8, 16, 32)]
    return [_with_flags(("-j", str(j), "-s", str(s))) for j, s in pairs if j <= max(1, products)]


def _with_flags(flags: Sequence[str]) -> Tool:
    return Tool(f"bulkdl {' '.join(flags)}", lambda row, bases, folder: _bulkdl(row, bases, folder, flags))


def peers() -> list[Tool]:
    """Return the installed peers."""
    return [tool for tool in (Tool("curl", _curl), Tool("aria2c", _aria2c)) if shutil.which(tool.name)]


def _best(row: Row) -> int:
    """Return the best fixed number of requests at once over all archives, for somebody who knows the rules."""
    return sum(_best_of(archive, row.account_limit) for archive in row.archives)


def _best_of(archive: Archive, account_limit: int | None) -> int:
    rules, products = archive.rules, len(archive.sizes)
    if rules.request_rate is not None or not _bears_any_number(archive) or account_limit is not None:
        return best_connections(rules, account_limit)
    # More than the smallest best number does no harm, and fewer products are left for the end.
    return max(best_connections(rules), min(products, _MOST_AT_ONCE))


def _bears_any_number(archive: Archive) -> bool:
    """Return whether an archive serves any number of requests as quickly as the best number."""
    rules = archive.rules
    return rules.limit is None and rules.suffers_above is None and rules.served_at_once is None


def _give_up_below(row: Row) -> int | None:
    """Return the rate in bytes per second under which a stream is slow for this row; None if none slows."""
    rules = row.archives[0].rules
    return round((rules.each or 0) / 10) if rules.slow_share else None


def _curl(row: Row, bases: Sequence[str], folder: Path) -> Command:
    config = folder / "curl.conf"
    pairs = [(f"{base}/{name}", name) for base, names in zip(bases, names_of(row), strict=True) for name in names]
    config.write_text("".join(f'url = "{url}"\noutput = "products/{name}"\n' for url, name in pairs))
    slow, rate = _give_up_below(row), row.archives[0].rules.request_rate
    more = ["--speed-limit", str(slow), "--speed-time", "2"] if slow else []
    # curl paces requests only if it sends them one after the other.
    how = ["--rate", f"{rate:g}/s"] if rate else [*_CURL_PARALLEL.split(), str(min(300, _best(row)))]
    return Command(["curl", *_CURL.split(), *how, *more, "--config", str(config)])


def _aria2c(row: Row, bases: Sequence[str], folder: Path) -> Command:
    urls = folder / "urls.txt"
    names = names_of(row)
    urls.write_text("".join(f"{base}/{name}\n" for base, of in zip(bases, names, strict=True) for name in of))
    best, products = _best(row), sum(map(len, names))
    unequal = any(len(set(archive.sizes)) > 1 and _bears_any_number(archive) for archive in row.archives)
    per_product = _MOST_PER_PRODUCT if unequal else min(_MOST_PER_PRODUCT, -(-best // products))
    slow = _give_up_below(row)
    more = [f"--lowest-speed-limit={slow}"] if slow else []
    flags = [*_ARIA2C.split(), f"-j{best}", f"-x{per_product}", f"-s{per_product}", *more]
    return Command(["aria2c", *flags, "-d", "products", "-i", str(urls)])
