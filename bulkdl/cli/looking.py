"""`bulkdl check`, `status` and `verify`: what would happen, what has happened, what the files are worth."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from bulkdl import inspect
from bulkdl.cli.output import write_out
from bulkdl.cli.prompting import prompt_for
from bulkdl.inspect import ProductState, ProductVerdict
from bulkdl.summary import clean, count, exit_code
from bulkdl.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bulkdl.cli.commands import Invocation
    from bulkdl.inspect import AccountFacts, CheckReport, ProductStatus, StatusReport, VerifyReport, VerifyResult
    from bulkdl.model import Manifest

__all__ = ["check", "check_lines", "dry_run", "status", "status_lines", "verify", "verify_lines"]

LISTED = 50
"""Products that `status` lists all of; of more it lists those that need attention, unless `-v` is given."""


def check(invocation: Invocation) -> int:
    """Print the plan; the exit code says whether a run could do all of it."""
    manifest, report = _checked(invocation)
    code = exit_code(
        machine=not report.fits, account=any(a.error for a in report.accounts), failed=len(report.conflicts)
    )
    if not invocation.arguments.remote:
        _print_plan(invocation, manifest, report)
        return code
    from bulkdl.cli.asking import ask, remote_json, remote_lines  # noqa: PLC0415 - only with --remote

    found = ask(invocation, manifest)
    _print_plan(invocation, manifest, report, remote=remote_json(found))
    if not invocation.json:
        every = invocation.verbosity > 0 or len(found) <= LISTED
        write_out("\nAt the archives:\n" + "\n".join(remote_lines(found, every=every)) + "\n")
    return exit_code(
        machine=not report.fits,
        account=any(facts.account_stopped for facts in found),
        failed=len(report.conflicts) + sum(1 for facts in found if facts.problem),
    )


def dry_run(invocation: Invocation) -> int:
    """`run --dry-run`: the same plan."""
    _print_plan(invocation, *_checked(invocation))
    return 0


def _checked(invocation: Invocation) -> tuple[Manifest, CheckReport]:
    manifest = invocation.load_manifest()
    invocation.settings(manifest)  # a wrong flag or variable is said here, not at night
    plan = inspect.check(manifest, options=invocation.options(), environ=invocation.environ, prompt=prompt_for())
    return manifest, asyncio.run(plan)


def _print_plan(
    invocation: Invocation, manifest: Manifest, report: CheckReport, remote: dict[str, object] | None = None
) -> None:
    if invocation.json:
        more = {} if remote is None else {"remote": remote}
        write_out(json.dumps(check_json(report, manifest) | more, indent=2) + "\n")
    else:
        write_out("\n".join(check_lines(report, manifest)) + "\n")


def check_lines(report: CheckReport, manifest: Manifest) -> Iterator[str]:
    """The plan for a person."""
    yield f"{'manifest':<13}{clean(manifest.path)}"
    yield f"{'destination':<13}{clean(str(manifest.destination))}"
    yield f"{'products':<13}{report.products:,}: {', '.join(_standings(report))}"
    yield f"{'to fetch':<13}{', '.join(_sizes(report))}"
    if report.free_bytes is not None:
        short = report.bytes_todo - report.free_bytes
        enough = "enough" if report.fits else f"NOT ENOUGH, {format_bytes(short)} too little: free some, or use -d"
        yield f"{'free space':<13}{format_bytes(report.free_bytes)}: {enough}"
    for account in report.accounts:
        yield ""
        yield from _account_lines(account)
    yield from _titled("Conflicts:", report.conflicts)
    yield from _titled("Warnings:", report.warnings)


def _standings(report: CheckReport) -> Iterator[str]:
    yield f"{report.in_place:,} in place"
    yield f"{report.todo:,} to fetch"
    if report.partial:
        yield f"{report.partial:,} of them begun"
    if report.to_verify:
        yield f"{report.to_verify:,} there and to be read first"


def _sizes(report: CheckReport) -> Iterator[str]:
    yield format_bytes(report.bytes_todo)
    if report.unknown_sizes:
        yield f"and {count(report.unknown_sizes, 'product')} of unknown size"
    if report.bytes_kept:
        yield f"{format_bytes(report.bytes_kept)} of it here already, kept"


def _account_lines(account: AccountFacts) -> Iterator[str]:
    preset = f", preset {account.provider}" if account.provider else ""
    limit = f", at most {count(account.max_connections, 'connection')}" if account.max_connections else ""
    yield f"account {clean(account.name)}: {account.auth.value}{preset}, {count(account.products, 'product')}{limit}"
    hosts = ", ".join(account.hosts) or "the host of each product's own URL"
    yield f"  {'sent to':<14}{clean(hosts)}"
    for name, source in account.sources.items():
        yield f"  {name.replace('_', ' '):<14}from {source}"
    for warning in account.warnings:
        yield f"  {'warning':<14}{clean(warning)}"
    if account.error:
        yield f"  {'PROBLEM':<14}{clean(account.error)}"


def check_json(report: CheckReport, manifest: Manifest) -> dict[str, object]:
    """The plan for a program."""
    return {
        "manifest": manifest.path,
        "destination": manifest.destination_shown,
        "products": {
            "total": report.products,
            "in_place": report.in_place,
            "to_verify": report.to_verify,
            "partial": report.partial,
            "todo": report.todo,
            "unknown_sizes": report.unknown_sizes,
        },
        "bytes": {"todo": report.bytes_todo, "kept": report.bytes_kept, "free": report.free_bytes},
        "fits": report.fits,
        "accounts": {a.name: _account_json(a) for a in report.accounts},
        "conflicts": list(report.conflicts),
        "warnings": list(report.warnings),
    }


def _account_json(account: AccountFacts) -> dict[str, object]:
    return {
        "auth": account.auth.value,
        "provider": account.provider,
        "products": account.products,
        "hosts": list(account.hosts),
        "max_connections": account.max_connections,
        "sources": dict(account.sources),
        "warnings": list(account.warnings),
        "error": account.error,
    }


def status(invocation: Invocation) -> int:
    """Print what the journal and the disk say; 0 when every product is in place, else 1."""
    manifest = invocation.load_manifest()
    report = inspect.status(manifest)
    if invocation.json:
        write_out(json.dumps(_status_json(report, manifest), indent=2) + "\n")
    else:
        every = invocation.verbosity > 0 or len(report.products) <= LISTED
        hosts = _titled("Hosts:", [f"{h}: {s}" for h, s in report.hosts.items()] if invocation.verbosity > 0 else [])
        write_out("\n".join((*status_lines(report, every=every), *hosts)) + "\n")
    states = Counter(p.state for p in report.products)
    failed, done = states[ProductState.FAILED], states[ProductState.DONE]
    return exit_code(failed=failed, pending=len(report.products) - done - failed)


def status_lines(report: StatusReport, *, every: bool) -> Iterator[str]:
    """One line of counts, then a line for each product, or (not `every`) for each that needs attention."""
    states = Counter(p.state for p in report.products)
    others = [f"{states[s]:,} {s.value}" for s in ProductState if s is not ProductState.DONE and states[s]]
    yield ", ".join([f"{states[ProductState.DONE]:,} of {count(len(report.products), 'product')} done", *others]) + "."
    if report.running:
        yield f"A run is going on: {clean(report.running)}."
    if not report.journal:
        yield "No run has begun in this destination yet."
    routine = () if every else (ProductState.DONE, ProductState.PENDING)
    for product in report.products:
        if product.state not in routine:
            yield from _status_of(product)


def _status_of(product: ProductStatus) -> Iterator[str]:
    total = "" if product.total is None else f" of {format_bytes(product.total)}"
    share = f" ({product.have / product.total:.0%})" if product.total and product.state is ProductState.PARTIAL else ""
    size = format_bytes(product.have) if product.state is ProductState.DONE else f"{format_bytes(product.have)}{total}"
    known = product.have or product.total
    when = ""
    if product.updated is not None:
        when = f", {datetime.fromtimestamp(product.updated).astimezone():%Y-%m-%d %H:%M}"
    yield f"  {product.state.value:<8} {clean(product.file)}{f'  {size}{share}' if known else ''}{when}"
    if product.reason:
        attempts = f" after {count(product.attempts, 'attempt')}" if product.attempts > 1 else ""
        kind = f"{product.kind}{attempts}: " if product.kind else ""
        yield f"           {kind}{clean(product.reason)}"
    if product.note:
        yield f"           {clean(product.note)}"


def _status_json(report: StatusReport, manifest: Manifest) -> dict[str, object]:
    states = Counter(p.state for p in report.products)
    return {
        "manifest": manifest.path,
        "destination": manifest.destination_shown,
        "running": report.running,
        "journal": report.journal,
        "hosts": dict(report.hosts),
        "products": {"total": len(report.products), **{s.value: states[s] for s in ProductState}},
        "items": [
            {
                "file": p.file,
                "url": p.url,
                "state": p.state.value,
                "have": p.have,
                "total": p.total,
                "kind": p.kind,
                "reason": p.reason,
                "attempts": p.attempts,
                "updated": p.updated,
                "note": p.note,
            }
            for p in report.products
        ],
    }


def verify(invocation: Invocation) -> int:
    """Read every file again; 1 when one is missing or wrong."""
    manifest = invocation.load_manifest()
    talkative = invocation.verbosity >= 0 and not invocation.json
    counter = _counter(len(manifest.products)) if talkative and sys.stderr and sys.stderr.isatty() else lambda _r: None
    report = asyncio.run(inspect.verify(manifest, requeue=invocation.arguments.requeue, on_done=counter))
    code = exit_code(failed=len(report.bad))
    if invocation.json:
        write_out(json.dumps(_verify_json(report, manifest, code), indent=2) + "\n")
    else:
        write_out("\n".join(verify_lines(report, every=invocation.verbosity > 0)) + "\n")
    return code


def _counter(total: int) -> Callable[[VerifyResult], None]:
    """A line on the terminal that counts, and is gone when the last file has been read."""
    done = 0

    def on_done(_result: VerifyResult) -> None:
        nonlocal done
        done += 1
        sys.stderr.write(f"\r{done:,} of {total:,} read" if done < total else "\r\x1b[K")
        sys.stderr.flush()

    return on_done


def verify_lines(report: VerifyReport, *, every: bool) -> Iterator[str]:
    """The bad ones with their reasons (with `every`: all), then the counts and the next step."""
    for result in report.results:
        if every or result in report.bad:
            reason = f": {clean(result.reason)}" if result.reason else ""
            requeued = " (to be fetched again)" if result.requeued else ""
            yield f"  {result.verdict.value:<9} {clean(result.file)}{reason}{requeued}"
    verdicts = Counter(result.verdict for result in report.results)
    parts = [f"{verdicts[v]:,} {v.value}" for v in ProductVerdict if verdicts[v]]
    yield f"{count(len(report.results), 'product')}: {', '.join(parts) or 'none'}."
    if any(result.requeued for result in report.results):
        yield "`bulkdl run` fetches those that are to be fetched again."
    elif verdicts[ProductVerdict.WRONG]:
        yield "`bulkdl verify --requeue` marks the wrong ones to be fetched again."


def _verify_json(report: VerifyReport, manifest: Manifest, code: int) -> dict[str, object]:
    verdicts = Counter(result.verdict for result in report.results)
    return {
        "manifest": manifest.path,
        "destination": manifest.destination_shown,
        "exit_code": code,
        "products": {"total": len(report.results), **{v.value: verdicts[v] for v in ProductVerdict}},
        "failures": [
            {"file": r.file, "verdict": r.verdict.value, "reason": r.reason, "requeued": r.requeued} for r in report.bad
        ],
    }


def _titled(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield title
        yield from (f"  {clean(line)}" for line in lines)
