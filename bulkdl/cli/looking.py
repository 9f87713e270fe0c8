"""`bulkdl status` and `verify`: what has happened, what the files are worth."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from bulkdl.cli import collector
from bulkdl.cli.output import write_out
from bulkdl.core.units import format_bytes
from bulkdl.operations.status import ProductState, collect_status
from bulkdl.operations.verify import ProductVerdict, verify_products
from bulkdl.summary import LISTED, clean, count, exit_code, titled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bulkdl.cli.commands import Invocation
    from bulkdl.core.models import Manifest
    from bulkdl.operations.status import ProductStatus, StatusReport
    from bulkdl.operations.verify import VerifyReport, VerifyResult

__all__ = ["status", "status_lines", "verify", "verify_lines"]


def status(invocation: Invocation) -> int:
    """Print what the journal and the disk say; 0 when every product is in place, else 1."""
    manifest = invocation.load_manifest()
    report = collect_status(manifest)
    if invocation.json:
        write_out(json.dumps(_status_json(report, manifest), indent=2) + "\n")
    else:
        every = invocation.verbosity > 0 or len(report.products) <= LISTED
        hosts = titled("Hosts:", [f"{h}: {s}" for h, s in report.hosts.items()] if invocation.verbosity > 0 else [])
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
    collector.begin()
    report = asyncio.run(verify_products(manifest, requeue=invocation.arguments.requeue, on_done=counter))
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
