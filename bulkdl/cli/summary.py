"""Format the result of a run as JSON for scripts and as text for people; pure functions."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from bulkdl.cli.next_step import next_step
from bulkdl.cli.progress.outage_messages import outage_fields, outage_text
from bulkdl.cli.quota_text import quota_json, quota_text
from bulkdl.cli.text import clean, count
from bulkdl.core.models import AuthKind
from bulkdl.core.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bulkdl.core.models import Account, Manifest, Outcome
    from bulkdl.operations.result import AccountUse, RunResult

__all__ = ["FAILURES_SHOWN", "LISTED", "to_json", "to_text"]

FAILURES_SHOWN = 50
"""Limit of failures listed in the text; `bulkdl status` lists all."""
NOTES_SHOWN = 10
"""Limit of products listed for one note, and of different notes."""
OUTAGES_SHOWN = 10
"""Limit of outages listed; the report and `--json` have all."""
LISTED = 50
"""Up to this number every product is listed; above it only those that need attention, unless `-v` is given."""


def to_json(result: RunResult, manifest: Manifest) -> dict[str, object]:
    """Return the object that `--json` prints: the documented keys in their order, then additional ones."""
    return {
        "manifest": manifest.path,
        "destination": manifest.destination_shown,
        "exit_code": result.exit_code,
        "elapsed_s": round(result.elapsed_s, 3),
        "products": {
            "total": result.total,
            "completed": result.completed,
            "skipped": result.skipped,
            "failed": result.failed,
            "pending": result.pending,
        },
        "bytes": {"written": result.written, "received": result.received, "resumed": result.resumed},
        "accounts": {name: _account_json(use) for name, use in result.accounts.items()},
        "failures": [_failure_json(outcome) for outcome in result.failures],
        "outages": [outage_fields(each.outage, waiting=each.waiting) for each in result.outages],
        "pending_reasons": list(result.pending_reasons),
        "notes": list(result.notes),
        "stopped": result.stopped,
    }


def _account_json(use: AccountUse) -> dict[str, object]:
    found: dict[str, object] = {"logins": use.logins, "refreshes": use.refreshes}
    if use.stopped:
        found["stopped"] = use.stopped
    if use.quotas:
        found["quota"] = {each.quota.text: quota_json(each) for each in use.quotas}
    return found


def _failure_json(outcome: Outcome) -> dict[str, object]:
    failure = outcome.failure
    return {
        "file": outcome.file,
        "url": str(outcome.product.url),
        "kind": failure.kind.value if failure else "",
        "reason": failure.reason if failure else "",
        "attempts": failure.attempts if failure else 0,
    }


def to_text(result: RunResult, manifest: Manifest, *, again: Sequence[str] = (), stops_told: bool = False) -> str:
    """Return the text summary: what is in place, what is not and why, and what to do next.

    `again`: the words of a command line that can be run again. `stops_told`: the reader has just seen on the same
    terminal why an account was stopped.
    """
    blocks = (
        _headline(result),
        _figures(result),
        _accounts(result, manifest),
        _failures(result, manifest),
        _section("Outages:", _outages(result)),
        _section("Not done yet:", _pending(result, stops_told=stops_told)),
        _section("Notes:", _notes(result, manifest)),
        next_step(result, manifest=manifest.path, again=again) if again else "",
    )
    return "\n\n".join(block for block in blocks if block) + "\n"


def _headline(result: RunResult) -> str:
    in_place = result.completed + result.skipped
    if in_place < result.total:
        parts = [f"{in_place:,} of {count(result.total, 'product')} in place"]
        parts += [f"{result.failed:,} failed"] if result.failed else []
        parts += [f"{result.pending:,} not done yet"] if result.pending else []
        text = ", ".join(parts) + "."
    else:
        text = {0: "There was no product to download.", 1: "The only product is in place."}.get(
            in_place, f"All {in_place:,} products are in place."
        )
    return f"{text}\nThe run ended early: {clean(result.stopped)}" if result.stopped else text


def _figures(result: RunResult) -> str:
    seconds = max(result.elapsed_s, 0.001)
    rows = [
        ("completed", result.completed, f"{format_bytes(result.written)}" if result.completed else ""),
        ("already there", result.skipped, "not downloaded again" if result.skipped else ""),
        ("failed", result.failed, ""),
        ("pending", result.pending, ""),
    ]
    lines = [f"  {name:<14}{number:>8,}{'   ' + more if more else ''}" for name, number, more in rows]
    lines.append(f"  {'time':<14}{format_duration(result.elapsed_s):>8}")
    if result.received:
        rate = format_rate(result.received / seconds)
        lines.append(f"  {'received':<14}{format_bytes(result.received):>8}   {rate} on average")
    if result.resumed:
        lines.append(f"  {'resumed':<14}{format_bytes(result.resumed):>8}   already downloaded by earlier runs")
    return "\n".join(lines)


def _accounts(result: RunResult, manifest: Manifest) -> str:
    lines = (
        f"  {clean(name)}: {_account_use(use, manifest.accounts.get(name))}" for name, use in result.accounts.items()
    )
    return _section("Accounts:", lines)


def _account_use(use: AccountUse, account: Account | None) -> str:
    if account is not None and account.auth is not AuthKind.OIDC:
        used = f"{account.auth.value}, no separate login"
    else:
        used = f"{count(use.logins, 'login')}, {count(use.refreshes, 'token refresh', 'token refreshes')}"
    parts = (used, *(["stopped"] if use.stopped else []), *(quota_text(each) for each in use.quotas))
    return "; ".join(parts)


def _outages(result: RunResult) -> Iterator[str]:
    """Yield the outages, the latest last; a night of many shows the first ones and their number."""
    for each in result.outages[:OUTAGES_SHOWN]:
        yield f"  {clean(outage_text(each.outage, waiting=each.waiting))}"
    if len(result.outages) > OUTAGES_SHOWN:
        yield f"  … and {len(result.outages) - OUTAGES_SHOWN:,} more"


def _pending(result: RunResult, *, stops_told: bool) -> Iterator[str]:
    stops = {f"account {name}: {use.stopped}": name for name, use in result.accounts.items() if use.stopped}
    for reason in result.pending_reasons:
        if reason in stops and stops_told:
            yield f"  products of account {clean(stops[reason])}, which was stopped for the reason above"
        elif reason != result.stopped:
            yield f"  {clean(reason)}"


def _notes(result: RunResult, manifest: Manifest) -> Iterator[str]:
    """Yield the notes about products; many equal ones give a count and the first names, the same in every run."""
    groups: dict[str, list[str]] = {}
    for note in result.notes:
        file, _, text = note.rpartition(": ")
        groups.setdefault(text, []).append(file)
    for text, files in list(groups.items())[:NOTES_SHOWN]:
        if len(files) <= NOTES_SHOWN:
            yield from (f"  {clean(file)}: {clean(text)}" for file in files)
            continue
        yield f"  {clean(text)}: {count(len(files), 'product')}"
        yield from (f"    {clean(file)}" for file in files[:NOTES_SHOWN])
        yield f"    … and {len(files) - NOTES_SHOWN:,} more: {_status_command(manifest)} -v"
    if len(groups) > NOTES_SHOWN:
        yield f"  … and {len(groups) - NOTES_SHOWN:,} other notes: {_status_command(manifest)} -v"


def _failures(result: RunResult, manifest: Manifest) -> str:
    lines = [line for outcome in result.failures[:FAILURES_SHOWN] for line in _failure(outcome)]
    more = len(result.failures) - FAILURES_SHOWN
    if more > 0:
        lines.append(f"  … and {more:,} more: {_status_command(manifest)}")
    return _section("Failed:", lines)


def _failure(outcome: Outcome) -> Iterator[str]:
    yield f"  {clean(outcome.file)}"
    if outcome.failure is not None:
        attempts = outcome.failure.attempts
        tried = f" after {count(attempts, 'attempt')}" if attempts > 1 else ""
        yield f"    {outcome.failure.kind.value}{tried}: {clean(outcome.failure.reason)}"
    yield f"    from {outcome.product.url}"


def _status_command(manifest: Manifest) -> str:
    return f"bulkdl status {quote(clean(manifest.path))} -d {quote(clean(manifest.destination_shown))}"


def _section(title: str, lines: Iterable[str]) -> str:
    body = "\n".join(lines)
    return f"{title}\n{body}" if body else ""
