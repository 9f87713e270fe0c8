"""`bulkdl check` and `run --dry-run`: validate the manifest and print the plan.

`check` without `--remote` starts no event loop and does not import asyncio or the HTTP client.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bulkdl.cli.output import write_out
from bulkdl.cli.prompt import prompt_for
from bulkdl.cli.quota_text import forecast_json, forecast_text
from bulkdl.cli.summary import LISTED
from bulkdl.cli.text import clean, count, titled
from bulkdl.core.exit_codes import exit_code
from bulkdl.core.units import format_bytes
from bulkdl.operations.check import check_products
from bulkdl.planning.order import DESCRIPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkdl.cli.dispatch import Invocation
    from bulkdl.core.models import Manifest, Order
    from bulkdl.operations.check import AccountFacts, CheckReport

__all__ = ["check", "check_json", "check_lines", "dry_run"]


def check(invocation: Invocation) -> int:
    """Print the plan; exit code 0 if a run can do all of it."""
    manifest, report, order = _checked(invocation)
    if not invocation.arguments.remote:
        _print_plan(invocation, manifest, report, order)
        return _code(report)
    from bulkdl.cli.commands.check_remote import query_archives, remote_json, remote_lines  # noqa: PLC0415 - needed only for --remote

    found = query_archives(invocation, manifest)
    report = report.with_sizes({facts.index: facts.size for facts in found if facts.size is not None})
    _print_plan(invocation, manifest, report, order, remote=remote_json(found))
    if not invocation.json:
        every = invocation.verbosity > 0 or len(found) <= LISTED
        write_out("\nAt the archives:\n" + "\n".join(remote_lines(found, every=every)) + "\n")
    return exit_code(
        machine=report.fits is False,
        account=any(facts.account_stopped for facts in found),
        failed=len(report.conflicts) + sum(1 for facts in found if facts.problem),
    )


def dry_run(invocation: Invocation) -> int:
    """Print the same plan for `run --dry-run`; only what keeps a run from its work is an error, a conflict is not."""
    manifest, report, order = _checked(invocation)
    _print_plan(invocation, manifest, report, order)
    return exit_code(machine=report.fits is False, account=any(a.error for a in report.accounts))


def _code(report: CheckReport) -> int:
    return exit_code(
        machine=report.fits is False, account=any(a.error for a in report.accounts), failed=len(report.conflicts)
    )


def _checked(invocation: Invocation) -> tuple[Manifest, CheckReport, Order]:
    manifest = invocation.load_manifest()
    settings = invocation.settings(manifest)  # report a wrong flag or variable now, not when the run starts
    plan = check_products(
        manifest,
        options=invocation.options(),
        environ=invocation.environ,
        prompt=prompt_for(manifest=invocation.arguments.manifest),
        quota_share=settings.quota,
    )
    return manifest, plan, settings.order


def _print_plan(
    invocation: Invocation,
    manifest: Manifest,
    report: CheckReport,
    order: Order,
    *,
    remote: dict[str, object] | None = None,
) -> None:
    if invocation.json:
        more = {} if remote is None else {"remote": remote}
        write_out(json.dumps(check_json(report, manifest, order) | more, indent=2) + "\n")
    else:
        write_out("\n".join(check_lines(report, manifest, order)) + "\n")


def check_lines(report: CheckReport, manifest: Manifest, order: Order) -> Iterator[str]:
    """Return the plan as lines of text."""
    yield f"{'manifest':<13}{clean(manifest.path)}"
    yield f"{'destination':<13}{clean(str(manifest.destination))}"
    yield f"{'products':<13}{report.products:,}: {', '.join(_counts(report))}"
    yield f"{'to download':<13}{', '.join(_sizes(report))}"
    yield f"{'order':<13}{DESCRIPTIONS[order]}"
    if report.free_bytes is not None:
        yield f"{'free space':<13}{format_bytes(report.free_bytes)}: {_enough(report, report.free_bytes)}"
    for account in report.accounts:
        yield ""
        yield from _account_lines(account)
    yield from titled("Conflicts:", report.conflicts)
    yield from titled("Warnings:", report.warnings)


def _enough(report: CheckReport, free: int) -> str:
    if report.fits:
        return "enough"
    if report.fits is None:
        unknown = count(report.unknown_sizes, "product")
        return f"whether it is enough cannot be told, since the size of {unknown} is unknown (`--remote` asks for it)"
    short = format_bytes(report.bytes_todo - free)
    return f"NOT ENOUGH, {short} short. Free some space or choose another destination (-d)"


def _counts(report: CheckReport) -> Iterator[str]:
    yield f"{report.in_place:,} in place"
    yield f"{report.todo:,} to download"
    if report.partial:
        yield f"{report.partial:,} partly downloaded"
    if report.to_verify:
        yield f"{report.to_verify:,} existing, checksum to be verified"


def _sizes(report: CheckReport) -> Iterator[str]:
    yield format_bytes(report.bytes_todo)
    if report.unknown_sizes:
        yield f"and {count(report.unknown_sizes, 'product')} of unknown size"
    if report.bytes_kept:
        yield f"{format_bytes(report.bytes_kept)} already downloaded"


def _account_lines(account: AccountFacts) -> Iterator[str]:
    preset = f", preset {account.provider}" if account.provider else ""
    limit = f", at most {count(account.max_connections, 'connection')}" if account.max_connections else ""
    yield f"account {clean(account.name)}: {account.auth.value}{preset}, {count(account.products, 'product')}{limit}"
    hosts = ", ".join(account.hosts) or "the host of each product's own URL"
    yield f"  {'credential sent to':<20}{clean(hosts)}"
    for name, source in account.sources.items():
        yield f"  {name.replace('_', ' '):<20}from {clean(account.places.get(name, source))}"
    for forecast in account.quotas:
        yield f"  {'quota':<20}{forecast_text(forecast)}"
    for warning in account.warnings:
        yield f"  {'warning':<20}{clean(warning)}"
    if account.error:
        yield f"  {'PROBLEM':<20}{clean(account.error)}"


def check_json(report: CheckReport, manifest: Manifest, order: Order) -> dict[str, object]:
    """Return the plan as JSON values."""
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
        "order": order.value,
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
        "quota": {each.use.quota.text: forecast_json(each) for each in account.quotas},
        "sources": dict(account.sources),
        "warnings": list(account.warnings),
        "error": account.error,
    }
