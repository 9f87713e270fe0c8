"""`bulkdl verify`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

from bulkdl.cli.output import write_out
from bulkdl.cli.text import clean, count
from bulkdl.core import gc_control
from bulkdl.core.exit_codes import exit_code
from bulkdl.operations.verify import ProductVerdict, verify_products

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bulkdl.cli.dispatch import Invocation
    from bulkdl.core.models import Manifest
    from bulkdl.operations.verify import VerifyReport, VerifyResult


__all__ = ["verify", "verify_lines"]


def verify(invocation: Invocation) -> int:
    """Read every file again; 1 when one is missing or wrong."""
    manifest = invocation.load_manifest()
    talkative = invocation.verbosity >= 0 and not invocation.json
    counter = _counter(len(manifest.products)) if talkative and sys.stderr and sys.stderr.isatty() else lambda _r: None
    gc_control.enable_after_startup()
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
