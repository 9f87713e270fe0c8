"""`bulkdl check --remote`: check each product at its archive without downloading it."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from bulkdl.cli.output import say
from bulkdl.cli.progress.messages import is_shown, sentence
from bulkdl.cli.prompt import prompt_for
from bulkdl.cli.text import clean, count
from bulkdl.core import gc_control
from bulkdl.core.events import Hub
from bulkdl.core.units import format_bytes
from bulkdl.operations.check_remote import check_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bulkdl.cli.dispatch import Invocation
    from bulkdl.core.events import Event
    from bulkdl.core.models import Manifest
    from bulkdl.operations.check_remote import RemoteFacts

__all__ = ["query_archives", "remote_json", "remote_lines"]

_REPORT_EVERY = 500
"""Products between two progress lines if standard error is not a terminal."""


def query_archives(invocation: Invocation, manifest: Manifest) -> tuple[RemoteFacts, ...]:
    """Check every product at its archive; show a progress count on standard error."""
    verbosity = invocation.verbosity

    def observe(event: Event) -> None:
        if is_shown(event, verbosity):
            say(sentence(event))

    options = invocation.options()
    wanted = check_remote(
        manifest,
        settings=invocation.settings(manifest),
        options=options,
        hub=Hub(observe),
        environ=invocation.environ,
        prompt=prompt_for(manifest=invocation.arguments.manifest),
        on_done=_counter(len(manifest.products)) if verbosity >= 0 and not invocation.json else lambda _facts: None,
    )
    gc_control.enable_after_startup()
    return asyncio.run(wanted)


def _counter(total: int) -> Callable[[RemoteFacts], None]:
    terminal = sys.stderr is not None and sys.stderr.isatty()
    done = 0

    def on_done(_facts: RemoteFacts) -> None:
        nonlocal done
        done += 1
        if terminal:
            sys.stderr.write(f"\r{done:,} of {total:,} checked" if done < total else "\r\x1b[K")
            sys.stderr.flush()
        elif done % _REPORT_EVERY == 0:
            say(f"{done:,} of {total:,} products checked")

    return on_done


def remote_lines(found: Sequence[RemoteFacts], *, every: bool) -> Iterator[str]:
    """Yield a line for each product with a problem (`every`: for each product), then the counts."""
    for facts in found:
        if facts.problem:
            yield f"  PROBLEM   {clean(facts.file)}: {clean(facts.problem)}"
        elif every:
            size = "size unknown" if facts.size is None else format_bytes(facts.size)
            resumable = "" if facts.resumable else ", cannot be resumed"
            yield f"  {facts.status}       {clean(facts.file)}  {size}{resumable}"
    problems = sum(1 for facts in found if facts.problem)
    available = len(found) - problems
    size = format_bytes(sum(facts.size or 0 for facts in found))
    checked = f"Checked {count(len(found), 'product')}: {available:,} available, {problems:,} not"
    yield f"{checked}; {size} (sizes as reported by the archives)."


def remote_json(found: Sequence[RemoteFacts]) -> dict[str, object]:
    """Return the same facts as JSON values."""
    return {
        "asked": len(found),
        "problems": sum(1 for facts in found if facts.problem),
        "bytes": sum(facts.size or 0 for facts in found),
        "items": [
            {
                "file": facts.file,
                "status": facts.status,
                "size": facts.size,
                "resumable": facts.resumable,
                "problem": facts.problem,
            }
            for facts in found
        ],
    }
