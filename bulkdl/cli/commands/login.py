"""`bulkdl login`: test the credentials, show token lifetimes and estimate the logins of a long run."""

from __future__ import annotations

import asyncio
import json
import math
import random
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.cli.output import say, suggest, write_out
from bulkdl.cli.progress.messages import is_shown, sentence
from bulkdl.cli.prompt import prompt_for
from bulkdl.cli.text import clean
from bulkdl.core import gc_control
from bulkdl.core.clock import SystemClock
from bulkdl.core.errors import UsageError
from bulkdl.core.events import Hub
from bulkdl.core.units import format_duration
from bulkdl.operations.services import Services
from bulkdl.operations.state_folder import state_folder
from bulkdl.operations.try_login import LoginReport, rehearse, try_login

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bulkdl.cli.dispatch import Invocation
    from bulkdl.core.events import Event
    from bulkdl.core.models import Account, Settings

__all__ = ["DEFAULT_HOURS", "login", "report_json", "report_lines", "try_accounts"]

_CANNOT_LOG_IN = 3
DEFAULT_HOURS = 10.0


def login(invocation: Invocation) -> int:
    """Try one account or all; exit code 3 if one cannot log in."""
    manifest = invocation.load_manifest()
    invocation.warn(manifest)
    accounts = _chosen(manifest.accounts, invocation.arguments.account)
    if not accounts and not invocation.json:
        say("The manifest has no accounts, so there is nothing to log in to.")
    hours, rehearsal = _hours(invocation.arguments.hours), invocation.arguments.rehearse
    gc_control.enable_after_startup()
    reports = asyncio.run(try_accounts(accounts, invocation.settings(manifest), invocation, rehearsal=rehearsal))
    if invocation.json:
        found = {report.account: report_json(report, hours=hours) for report in reports}
        write_out(json.dumps({"accounts": found}, indent=2) + "\n")
    else:
        write_out("\n".join("\n".join(report_lines(report, hours=hours)) + "\n" for report in reports))
    return _CANNOT_LOG_IN if any(r.error is not None for r in reports) else 0


def _hours(text: str | None) -> float:
    if text is None:
        return DEFAULT_HOURS
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours <= 1000:
        raise UsageError(f'--hours: expected a number of hours up to 1000, found "{clean(text)[:40]}"')
    return hours


def _chosen(accounts: Mapping[str, Account], name: str | None) -> Sequence[Account]:
    if name is None:
        return tuple(accounts.values())
    if name not in accounts:
        raise UsageError(
            f'the manifest has no account "{clean(name)}"', hint=suggest(name, tuple(accounts), "accounts")
        )
    return (accounts[name],)


async def try_accounts(
    accounts: Sequence[Account], settings: Settings, invocation: Invocation, *, rehearsal: bool = False
) -> list[LoginReport]:
    """Log in to each account and log out again; a failure becomes part of its report.

    With `rehearsal`, also force a token refresh and log in a second time with the next one-time code.
    """
    verbosity = invocation.verbosity

    def observe(event: Event) -> None:
        if is_shown(event, verbosity):
            say(sentence(event))

    services = Services(
        settings=settings,
        environ=invocation.environ,
        prompt=prompt_for(manifest=invocation.arguments.manifest),
        hub=Hub(observe),
        clock=SystemClock(),
        rng=random.Random(),  # noqa: S311 - jitter
    )
    async with services.network() as network:
        attempt = partial(
            rehearse if rehearsal else try_login,
            endpoint=network.endpoint,
            hub=services.hub,
            clock=services.clock,
            rng=services.rng,
            state_dir=state_folder(services.environ),
        )
        # One after the other: two accounts may share a TOTP secret, and a user may have to answer prompts.
        return [await attempt(account, partial(services.find, account)) for account in accounts]


def report_lines(report: LoginReport, *, hours: float = DEFAULT_HOURS) -> Iterator[str]:
    """Yield the report of one account as text; `hours` is the length of a run for the estimate of its logins."""
    state = "could not log in" if report.error else "not tried" if report.note else "logged in"
    yield f"{clean(report.account)}: {state}"
    for name, text in _rows(report, hours):
        yield f"  {name:<16}{text}"


def _rows(report: LoginReport, hours: float) -> Iterator[tuple[str, str]]:
    yield "grant", f"{report.grant}{' with TOTP' if report.totp_used else ''}"
    for name, source in report.sources.items():
        yield name.replace("_", " "), f"from {clean(report.places.get(name, source.value))}"
    if report.access_lifetime is not None:
        yield "access token", f"valid {format_duration(report.access_lifetime)}"
        yield "refresh token", _refresh(report)
    if report.refreshed is not None:
        yield "refresh", "works" if report.refreshed else "does not work; every access token needs a new login"
    if report.rotation is not None:
        yield "rotation", "each refresh issues a new refresh token" if report.rotation else "none"
    if report.logins > 1:
        yield "second login", "works"
    if report.clock_skew is not None:
        yield "server clock", _skew(report.clock_skew)
    estimate = report.logins_per_night(hours)
    if estimate is not None:
        yield "logins", f"{_about(estimate)} in {hours:g} hours"
    if report.note:
        yield "note", clean(report.note)
    if report.error is not None:
        yield "reason", clean(report.error.reason)
        if report.error.hint:
            yield "what to do", clean(report.error.hint)


def _skew(seconds: float) -> str:
    if abs(seconds) < 2:
        return "agrees with this machine's clock"
    return f"{format_duration(abs(seconds))} {'ahead of' if seconds > 0 else 'behind'} this machine's clock"


def _about(logins: int) -> str:
    return "1 login" if logins == 1 else f"about {logins:,} logins"


def _refresh(report: LoginReport) -> str:
    if not report.has_refresh_token:
        return "none; every access token needs a new login"
    if report.refresh_lifetime is None:
        return "yes, no expiry reported"
    return f"yes, valid {format_duration(report.refresh_lifetime)}"


def report_json(report: LoginReport, *, hours: float = DEFAULT_HOURS) -> dict[str, object]:
    """Return the report of one account as JSON values."""
    return {
        "ok": report.error is None,
        "grant": report.grant,
        "totp": report.totp_used,
        "sources": {name: source.value for name, source in report.sources.items()},
        "access_lifetime_s": report.access_lifetime,
        "refresh_token": report.has_refresh_token,
        "refresh_lifetime_s": report.refresh_lifetime,
        "refresh_works": report.refreshed,
        "rotation": report.rotation,
        "clock_skew_s": report.clock_skew,
        "logins": report.logins,
        "logins_a_night": report.logins_per_night(hours),
        "note": report.note,
        "error": "" if report.error is None else str(report.error),
    }
