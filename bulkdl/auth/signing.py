"""From an account to its signer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.auth.signer import Credential, Signer
from bulkdl.auth.static_signer import NoSigner, StaticSigner
from bulkdl.events import Level
from bulkdl.model import AuthKind

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from bulkdl.auth.credentials import Credentials
    from bulkdl.auth.exchange import Login
    from bulkdl.auth.oidc import TokenEndpoint
    from bulkdl.auth.tokens import TokenManager
    from bulkdl.clock import Clock
    from bulkdl.events import Hub
    from bulkdl.model import Account

__all__ = ["Credential", "Logins", "Signer", "signer_for"]


class Logins:
    """The managers of one run. Accounts that log in alike, with the same secrets, have one: one login, one session."""

    def __init__(self) -> None:
        self._managers: dict[Login, TokenManager] = {}

    def manager(self, login: Login, make: Callable[[], TokenManager]) -> TokenManager:
        key = replace(login, account="")
        if key not in self._managers:
            self._managers[key] = make()
        return self._managers[key]


def signer_for(
    account: Account,
    credentials: Credentials | Callable[[], Credentials],
    *,
    endpoint: TokenEndpoint,
    hub: Hub,
    clock: Clock,
    rng: random.Random,
    state_dir: Path | Callable[[], Path],
    logins: Logins | None = None,
) -> Signer:
    """The account's signer. Nothing is read, asked or sent before its first use.

    `credentials`: a callable is called at the first use, on the event loop; it may raise `AccountStopped`.
    `state_dir`: where the TOTP ledger and the turns of logins live, shared by all runs of this user.
    `logins`: shared with the accounts whose logins may be this one's too.
    """

    def resolve() -> Credentials:
        found = credentials() if callable(credentials) else credentials
        for warning in found.warnings:
            hub.note(Level.WARNING, f"{account.name}: {warning}")
        return found

    if account.auth is AuthKind.NONE:
        return NoSigner(account)
    if account.auth is not AuthKind.OIDC:
        return StaticSigner(account, resolve, hub=hub)
    from bulkdl.auth.oidc_account import oidc_signer  # noqa: PLC0415 - one-time codes and logins only where they are needed

    return oidc_signer(
        account,
        resolve,
        endpoint=endpoint,
        hub=hub,
        clock=clock,
        rng=rng,
        state_dir=state_dir if callable(state_dir) else lambda: state_dir,
        logins=logins or Logins(),
    )
