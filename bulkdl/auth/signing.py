"""From an account to its signer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from bulkdl.auth.exchange import Exchange, Login, PasswordLogin
from bulkdl.auth.oidc import Client
from bulkdl.auth.oidc_signer import OidcSigner
from bulkdl.auth.signer import Credential, Signer
from bulkdl.auth.static_signer import NoSigner, StaticSigner
from bulkdl.auth.tokens import TokenManager
from bulkdl.auth.totp import StepLedger, normalise
from bulkdl.auth.turns import LoginTurns
from bulkdl.errors import AccountStopped
from bulkdl.events import Level
from bulkdl.model import AuthKind, Grant

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from bulkdl.auth.credentials import Credentials
    from bulkdl.auth.oidc import TokenEndpoint
    from bulkdl.clock import Clock
    from bulkdl.events import Hub
    from bulkdl.model import Account

__all__ = ["Credential", "Logins", "Signer", "login_for", "signer_for"]

_T = TypeVar("_T")


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
    state_dir: Path,
    logins: Logins | None = None,
) -> Signer:
    """The account's signer. Nothing is read, asked or sent before its first use.

    `credentials`: a callable is called at the first use, on the event loop; it may raise `AccountStopped`.
    `state_dir`: where the TOTP ledger and the turns of logins live, shared by all runs of this user.
    `logins`: shared with the accounts whose logins may be this one's too.
    """
    logins = logins or Logins()

    def resolve() -> Credentials:
        found = credentials() if callable(credentials) else credentials
        for warning in found.warnings:
            hub.note(Level.WARNING, f"{account.name}: {warning}")
        return found

    def manager() -> TokenManager:
        login = login_for(account, resolve())
        ledger = StepLedger(state_dir, clock=clock, warn=lambda text: hub.note(Level.WARNING, text))
        turns = LoginTurns(state_dir, clock=clock)
        exchange = Exchange(login, endpoint=endpoint, ledger=ledger, turns=turns, clock=clock)
        return logins.manager(login, lambda: TokenManager(login, exchange, hub=hub, clock=clock, rng=rng))

    if account.auth is AuthKind.OIDC:
        return OidcSigner(account, manager, hub=hub, clock=clock)
    if account.auth is AuthKind.NONE:
        return NoSigner(account)
    return StaticSigner(account, resolve, hub=hub)


def login_for(account: Account, credentials: Credentials) -> Login:
    """What a login at the account's token endpoint needs; raise `AccountStopped` where it is incomplete."""
    url = _need(account, account.token_url, "token_url")
    if account.grant is Grant.CLIENT_CREDENTIALS:
        client_id = _need(account, account.client_id or credentials.username, "client_id")
        secret = _need(account, credentials.client_secret, "client_secret")
        client = Client(id=client_id, secret=secret, scope=account.scope)
        return Login(account=account.name, token_url=url, client=client, password=None)
    client_id = _need(account, account.client_id, "client_id")
    try:
        totp = None if credentials.totp_secret is None else normalise(credentials.totp_secret.reveal())
    except ValueError as error:
        hint = "Copy it again from the page that shows the QR code"
        raise AccountStopped(str(error), account=account.name, hint=hint) from None
    password = PasswordLogin(
        username=_need(account, credentials.username, "username"),
        password=_need(account, credentials.password, "password"),
        totp_secret=totp,
        totp_field=account.totp_field,
    )
    client = Client(id=client_id, secret=credentials.client_secret, scope=account.scope)
    return Login(account=account.name, token_url=url, client=client, password=password)


def _need(account: Account, value: _T | None, what: str) -> _T:
    if value is None:
        raise AccountStopped(f"{what} is missing", account=account.name, hint=f"Set it for account {account.name}")
    return value
