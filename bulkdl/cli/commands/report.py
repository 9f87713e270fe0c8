"""`bulkdl report` and `run --report`: one self-contained HTML file about a run or a destination."""

from __future__ import annotations

from collections import Counter
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from bulkdl._version import __version__
from bulkdl.cli.output import say
from bulkdl.cli.output_file import require_writable, write_file
from bulkdl.cli.progress.outage_messages import outage_row
from bulkdl.cli.text import clean, count
from bulkdl.core.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bulkdl.cli.dispatch import Invocation
    from bulkdl.core.models import Manifest
    from bulkdl.operations.result import RunResult
    from bulkdl.operations.status import StatusReport

__all__ = ["REPORT", "page", "report", "status_html", "table", "to_html"]

REPORT = "the report"
_OUTAGE_COLUMNS = ("archive or token endpoint", "what happened", "from", "to", "lasted", "products that waited")

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8886; overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none; }
.figures li { border: 1px solid #8886; border-radius: .5rem; padding: .5rem 1rem; }
.figures b { display: block; font-size: 1.6rem; }
.bad { color: #c62828; } .good { color: #2e7d32; }
footer { margin-top: 2rem; opacity: .7; }
"""


def to_html(result: RunResult, manifest: Manifest) -> str:
    """Return the report of one run; all text from outside is escaped."""
    good = result.exit_code == 0
    in_place = result.completed + result.skipped
    rate = format_rate(result.received / max(result.elapsed_s, 0.001))
    headline = f"{in_place:,} of {count(result.total, 'product')} in place, exit code {result.exit_code}."
    body = [
        f'<p class="{"good" if good else "bad"}">{headline}</p>',
        f"<p>{_text(result.stopped)}</p>" if result.stopped else "",
        figures(
            (
                ("completed", f"{result.completed:,}"),
                ("already there", f"{result.skipped:,}"),
                ("failed", f"{result.failed:,}"),
                ("pending", f"{result.pending:,}"),
                ("received", format_bytes(result.received)),
                ("on average", rate),
                ("time", format_duration(result.elapsed_s)),
            )
        ),
        table("Failed", ("file", "kind", "what happened", "attempts", "from"), _failures(result)),
        table("Not done yet", ("why",), ((reason,) for reason in result.pending_reasons)),
        table(
            "Accounts",
            ("account", "logins", "token refreshes", "stopped"),
            ((n, f"{u.logins:,}", f"{u.refreshes:,}", u.stopped) for n, u in result.accounts.items()),
        ),
        table("Outages", _OUTAGE_COLUMNS, (outage_row(o.outage, waiting=o.waiting) for o in result.outages)),
        table("Notes", ("note",), ((note,) for note in result.notes)),
    ]
    return page(manifest, "".join(body))


def _failures(result: RunResult) -> Iterable[Sequence[str]]:
    for outcome in result.failures:
        failure = outcome.failure
        if failure is not None:
            yield outcome.file, failure.kind.value, failure.reason, f"{failure.attempts:,}", str(outcome.product.url)


def report(invocation: Invocation) -> int:
    """Write the report of a destination from its journal; works at any time."""
    from bulkdl.operations.status import collect_status  # noqa: PLC0415 - `run --report` does not need the journal reader

    path = Path(invocation.arguments.output)
    require_writable(path, REPORT)
    manifest = invocation.load_manifest()
    write_file(path, status_html(collect_status(manifest), manifest), REPORT)
    if invocation.verbosity >= 0:
        say(f"report: {path}")
    return 0


def status_html(found: StatusReport, manifest: Manifest) -> str:
    """Return the report of a destination; all text from outside is escaped."""
    states = Counter(product.state.value for product in found.products)
    in_progress = f"<p>A run is in progress: {_text(found.running)}.</p>" if found.running else ""
    rows = (
        (
            p.state.value,
            p.file,
            format_bytes(p.have),
            "" if p.total is None else format_bytes(p.total),
            p.kind,
            p.reason,
        )
        for p in sorted(found.products, key=lambda p: p.state.value == "done")
    )
    body = [
        in_progress,
        figures((name, f"{number:,}") for name, number in states.items()),
        table("Outages", _OUTAGE_COLUMNS, (outage_row(o.outage, waiting=o.waiting) for o in found.outages)),
        table("Products", ("state", "file", "downloaded", "size", "kind", "what happened"), rows),
    ]
    return page(manifest, "".join(body))


def figures(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a row of numbers with their names."""
    return f'<ul class="figures">{"".join(f"<li><b>{_text(v)}</b>{_text(n)}</li>" for n, v in pairs)}</ul>'


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with a title, or an empty text if there are no rows."""
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return ""
    names = "".join(f"<th>{_text(name)}</th>" for name in head)
    return f"<h2>{_text(title)}</h2><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def page(manifest: Manifest, body: str) -> str:
    """Return the whole document around `body`; it loads nothing and runs no script."""
    title = _text(f"bulkdl: {manifest.path}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<p>Destination: {_text(str(manifest.destination))}</p>{body}"
        f"<footer>bulkdl {_text(__version__)}</footer></body></html>\n"
    )


def _text(text: str) -> str:
    return escape(clean(text))
