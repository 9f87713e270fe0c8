"""`bulkdl verify`: read the downloaded files and compare them with their checksums."""

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
    """Read every file; exit code 1 if one is missing or wrong."""
    manifest = invocation.load_manifest()
    show_text = invocation.verbosity >= 0 and not invocation.json
    counter = _counter(len(manifest.products)) if show_text and sys.stderr and sys.stderr.isatty() else lambda _r: None
    gc_control.enable_after_startup()
    report = asyncio.run(verify_products(manifest, requeue=invocation.arguments.requeue, on_done=counter))
    code = exit_code(failed=len(report.bad))
    if invocation.json:
        write_out(json.dumps(_verify_json(report, manifest, code), indent=2) + "\n")
    else:
        write_out("\n".join(verify_lines(report, every=invocation.verbosity > 0)) + "\n")
    return code


def _counter(total: int) -> Callable[[VerifyResult], None]:
    """Return a callback that shows a count on the terminal and erases it after the last file."""
    done = 0

    def on_done(_result: VerifyResult) -> None:
        nonlocal done
        done += 1
        sys.stderr.write(f"\r{done:,} of {total:,} read" if done < total else "\r\x1b[K")
        sys.stderr.flush()

    return on_done


def verify_lines(report: VerifyReport, *, every: bool) -> Iterator[str]:
    """Yield a line for each bad file (if `every`: for each file), then the counts and the next step."""
    for result in report.results:
        if every or result in report.bad:
            reason = f": {clean(result.reason)}" if result.reason else ""
            requeued = " (marked to be downloaded again)" if result.requeued else ""
            yield f"  {result.verdict.value:<9} {clean(result.file)}{reason}{requeued}"
    verdicts = Counter(result.verdict for result in report.results)
    parts = [f"{verdicts[v]:,} {v.value}" for v in ProductVerdict if verdicts[v]]
    yield f"{count(len(report.results), 'product')}: {', '.join(parts) or 'none'}."
    if verdicts[ProductVerdict.UNCHECKED]:
        yield "Unchecked: no checksum of these files is known, so only their size and structure were compared."
    if any(result.requeued for result in report.results):
        yield "Run `bulkdl run` to download the marked files again."
    elif verdicts[ProductVerdict.WRONG]:
        yield "Run `bulkdl verify --requeue` to mark the wrong files; `bulkdl run` then downloads them again."


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
