"""`bulkdl status`: list what is done, partial or failed, from the journal and the disk."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from bulkdl.cli.output import write_out
from bulkdl.cli.progress.outage_messages import outage_fields, outage_text
from bulkdl.cli.quota_text import quota_json, quota_text
from bulkdl.cli.summary import LISTED
from bulkdl.cli.text import clean, count, titled
from bulkdl.core.exit_codes import exit_code
from bulkdl.core.units import format_bytes
from bulkdl.operations.quota_forecast import quota_uses
from bulkdl.operations.status import ProductState, collect_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkdl.cli.dispatch import Invocation
    from bulkdl.core.models import Manifest
    from bulkdl.operations.status import ProductStatus, StatusReport

__all__ = ["status", "status_lines"]


def status(invocation: Invocation) -> int:
    """Print the state of every product; exit code 0 if all are in place, else 1."""
    manifest = invocation.load_manifest()
    report = collect_status(manifest)
    shows_quotas = invocation.json or invocation.verbosity > 0
    quotas = quota_uses(manifest.accounts, environ=invocation.environ) if shows_quotas else {}
    if invocation.json:
        accounts = {
            name: {"quota": {each.quota.text: quota_json(each) for each in uses}} for name, uses in quotas.items()
        }
        write_out(json.dumps(_status_json(report, manifest) | {"accounts": accounts}, indent=2) + "\n")
    else:
        every = invocation.verbosity > 0 or len(report.products) <= LISTED
        known = list(_known_of_hosts(report)) if invocation.verbosity > 0 else []
        used = titled(
            "Quotas:", [f"account {clean(n)}: {quota_text(use)}" for n, uses in quotas.items() for use in uses]
        )
        write_out("\n".join((*status_lines(report, every=every), *known, *used)) + "\n")
    states = Counter(p.state for p in report.products)
    failed, done = states[ProductState.FAILED], states[ProductState.DONE]
    return exit_code(failed=failed, pending=len(report.products) - done - failed)


def status_lines(report: StatusReport, *, every: bool) -> Iterator[str]:
    """Yield one line of counts, then a line for each product (without `every`: only for those that need attention)."""
    states = Counter(p.state for p in report.products)
    others = [f"{states[s]:,} {s.value}" for s in ProductState if s is not ProductState.DONE and states[s]]
    yield ", ".join([f"{states[ProductState.DONE]:,} of {count(len(report.products), 'product')} done", *others]) + "."
    if report.running:
        yield f"A run is in progress: {clean(report.running)}."
        for each in report.outages:
            if each.outage.ended is None:
                yield f"Outage: {clean(outage_text(each.outage, waiting=each.waiting))}."
    if not report.journal:
        yield "No run has been started in this destination folder yet."
    routine = () if every else (ProductState.DONE, ProductState.PENDING)
    for product in report.products:
        if product.state not in routine:
            yield from _product_lines(product)
    pending = Counter(p.reason for p in report.products if p.state in routine and p.reason)
    yield from (f"  pending  {count(number, 'product')}: {clean(reason)}" for reason, number in pending.items())


def _known_of_hosts(report: StatusReport) -> Iterator[str]:
    yield from titled("Hosts:", [f"{host}: {text}" for host, text in report.hosts.items()])
    yield from titled("Connections:", [f"{name}: {text}" for name, text in report.connections.items()])


def _product_lines(product: ProductStatus) -> Iterator[str]:
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
        "connections": dict(report.connections),
        "outages": [outage_fields(each.outage, waiting=each.waiting) for each in report.outages],
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
