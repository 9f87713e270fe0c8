"""`bulkdl login`: whether the accounts work, and what a night will ask of them."""

from __future__ import annotations

import asyncio
import json
import random
from functools import partial
from typing import TYPE_CHECKING

import aiohttp

from bulkdl.auth.credentials import keyring_lookup, resolve
from bulkdl.auth.endpoint import HttpTokenEndpoint
from bulkdl.auth.rehearsal import LoginReport, try_login
from bulkdl.cli.output import say, suggest, write_out
from bulkdl.cli.prompting import prompt_for
from bulkdl.cli.sentences import is_shown, sentence
from bulkdl.clock import SystemClock
from bulkdl.errors import UsageError
from bulkdl.events import Hub
from bulkdl.http import USER_AGENT, ssl_context
from bulkdl.run import state_folder
from bulkdl.summary import clean
from bulkdl.units import format_duration

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping, Sequence

    from bulkdl.cli.commands import Invocation
    from bulkdl.events import Event
    from bulkdl.model import Account, Settings

__all__ = ["login", "report_json", "report_lines", "try_accounts"]

_CANNOT_LOG_IN = 3
_NIGHT_H = 12.0


def login(invocation: Invocation) -> int:
    """Try one account or all; exit code 3 when one cannot log in."""
    manifest = invocation.load_manifest()
    invocation.warn(manifest)
    accounts = _chosen(manifest.accounts, invocation.arguments.account)
    if not accounts and not invocation.json:
        say("The manifest has no account: nothing to log in to.")
    reports = asyncio.run(try_accounts(accounts, invocation.settings(manifest), invocation))
    if invocation.json:
        write_out(json.dumps({"accounts": {r.account: report_json(r) for r in reports}}, indent=2) + "\n")
    else:
        write_out("\n".join("\n".join(report_lines(r)) + "\n" for r in reports))
    return _CANNOT_LOG_IN if any(r.error is not None for r in reports) else 0


def _chosen(accounts: Mapping[str, Account], name: str | None) -> Sequence[Account]:
    if name is None:
        return tuple(accounts.values())
    if name not in accounts:
        raise UsageError(f'the manifest has no account "{clean(name)}"', hint=suggest(name, tuple(accounts)))
    return (accounts[name],)


async def try_accounts(accounts: Sequence[Account], settings: Settings, invocation: Invocation) -> list[LoginReport]:
    """Log in to each account and out again; a failure is in its report."""
    verbosity = invocation.verbosity

    def observe(event: Event) -> None:
        if is_shown(event, verbosity):
            say(sentence(event))

    clock, environ = SystemClock(), invocation.environ
    connector = aiohttp.TCPConnector(ssl=_tls(settings, environ))
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": USER_AGENT}
    ) as session:
        endpoint = HttpTokenEndpoint(session, clock=clock, timeout=min(30.0, settings.timeout))
        find = partial(resolve, environ=environ, prompt=prompt_for(), keyring=keyring_lookup())
        attempt = partial(
            try_login,
            endpoint=endpoint,
            hub=Hub(observe),
            clock=clock,
            rng=random.Random(),  # noqa: S311 - jitter
            state_dir=state_folder(environ),
        )
        # One after the other: two accounts may share a TOTP secret, and a person reads along.
        return [await attempt(account, partial(find, account)) for account in accounts]


def _tls(settings: Settings, environ: Mapping[str, str]) -> ssl.SSLContext:
    files = tuple(str(file) for file in (settings.ca_file, environ.get("SSL_CERT_FILE")) if file)
    try:
        return ssl_context(files)
    except OSError as error:  # `ssl.SSLError` is one
        raise UsageError(
            f"the CA certificates in {' or '.join(files)} cannot be read", hint="Check --ca-file and SSL_CERT_FILE"
        ) from error


def report_lines(report: LoginReport) -> Iterator[str]:
    """What trying an account showed, for a person."""
    state = "could not log in" if report.error else "not tried" if report.note else "logged in"
    yield f"{clean(report.account)}: {state}"
    yield f"  {'grant':<16}{report.grant}{' with TOTP' if report.totp_used else ''}"
    for name, source in report.sources.items():
        yield f"  {name.replace('_', ' '):<16}from {source.value}"
    for name, text in _lifetimes(report):
        yield f"  {name:<16}{text}"
    if report.note:
        yield f"  {'note':<16}{clean(report.note)}"
    if report.error is not None:
        yield f"  {'why':<16}{clean(str(report.error))}"


def _lifetimes(report: LoginReport) -> Iterator[tuple[str, str]]:
    if report.access_lifetime is not None:
        yield "access token", f"valid {format_duration(report.access_lifetime)}"
        yield "refresh token", _refresh(report)
    if report.refreshed is not None:
        yield "refresh", "works" if report.refreshed else "does not work"
    if report.rotation is not None:
        yield "rotation", "each refresh brings a new refresh token" if report.rotation else "none"
    if report.clock_skew is not None:
        ahead = "ahead of" if report.clock_skew >= 0 else "behind"
        skew = abs(report.clock_skew)
        yield "server's clock", "agrees" if skew < 1 else f"{format_duration(skew)} {ahead} this machine's"
    nightly = report.logins_per_night(_NIGHT_H)
    if nightly is not None:
        yield f"in {_NIGHT_H:.0f} hours", f"about {nightly:,} login{'' if nightly == 1 else 's'}"


def _refresh(report: LoginReport) -> str:
    if not report.has_refresh_token:
        return "none: each access token is a new login"
    if report.refresh_lifetime is None:
        return "yes, the server names no end"
    return f"yes, valid {format_duration(report.refresh_lifetime)}"


def report_json(report: LoginReport) -> dict[str, object]:
    """The same for a program."""
    return {
        "ok": report.error is None,
        "grant": report.grant,
        "totp": report.totp_used,
        "sources": {name: source.value for name, source in report.sources.items()},
        "access_lifetime_s": report.access_lifetime,
        "refresh_token": report.has_refresh_token,
        "refresh_lifetime_s": report.refresh_lifetime,
        "clock_skew_s": report.clock_skew,
        "logins": report.logins,
        "note": report.note,
        "error": "" if report.error is None else str(report.error),
    }
