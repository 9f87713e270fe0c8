"""Create the authenticator of an account that logs in at a token endpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from bulkdl.auth.oidc.authenticator import OidcAuthenticator
from bulkdl.auth.oidc.login import LoginRequest, PasswordLogin
from bulkdl.auth.oidc.login_lock import LoginLock
from bulkdl.auth.oidc.login_memory import LoginMemory
from bulkdl.auth.oidc.messages import Client
from bulkdl.auth.oidc.token_client import TokenClient
from bulkdl.auth.oidc.token_manager import RetryLimits, TokenManager
from bulkdl.auth.oidc.totp import UsedCodeLedger
from bulkdl.auth.oidc.totp_secret import normalise
from bulkdl.core.errors import AccountStopped
from bulkdl.core.events import Level
from bulkdl.core.models import Grant

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from bulkdl.auth.credentials import Credentials
    from bulkdl.auth.oidc.messages import TokenEndpoint
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.models import Account

__all__ = ["login_for", "oidc_authenticator"]

_T = TypeVar("_T")


def oidc_authenticator(
    account: Account,
    resolve: Callable[[], Credentials],
    *,
    endpoint: TokenEndpoint,
    hub: Hub,
    clock: Clock,
    rng: random.Random,
    state_dir: Callable[[], Path],
    logins: dict[LoginRequest, TokenManager],
    give_up_after: float | None = None,
) -> OidcAuthenticator:
    """Return the authenticator (see `make_authenticator`); its first use calls `resolve` and `state_dir`."""

    def manager() -> TokenManager:
        login, folder = login_for(account, resolve()), state_dir()
        ledger = UsedCodeLedger(folder, clock=clock, warn=lambda text: hub.note(Level.WARNING, text))
        login_lock = LoginLock(folder, clock=clock)
        token_client = TokenClient(login, endpoint=endpoint, ledger=ledger, login_lock=login_lock, clock=clock)
        key = replace(login, account="")  # accounts with the same secrets share a login, whatever their names
        if key not in logins:
            logins[key] = TokenManager(
                login,
                token_client,
                hub=hub,
                clock=clock,
                rng=rng,
                retry_limits=RetryLimits() if give_up_after is None else RetryLimits(give_up_after, hold=True),
                memory=LoginMemory(folder, login, clock=clock),
            )
        return logins[key]

    return OidcAuthenticator(account, manager, hub=hub, clock=clock)


def login_for(account: Account, credentials: Credentials) -> LoginRequest:
    """Return everything that the account's login needs; raise `AccountStopped` if something is missing."""
    url = _require(account, account.token_url, "token_url")
    if account.grant is Grant.CLIENT_CREDENTIALS:
        client_id = _require(account, account.client_id or credentials.username, "client_id")
        secret = _require(account, credentials.client_secret, "client_secret")
        client = Client(id=client_id, secret=secret, scope=account.scope, auth=account.client_auth)
        return LoginRequest(account=account.name, token_url=url, client=client, password=None)
    client_id = _require(account, account.client_id, "client_id")
    try:
        totp = None if credentials.totp_secret is None else normalise(credentials.totp_secret.reveal())
    except ValueError as error:
        hint = "Copy it again from the page that shows the QR code"
        raise AccountStopped(str(error), account=account.name, hint=hint) from None
    password = PasswordLogin(
        username=_require(account, credentials.username, "username"),
        password=_require(account, credentials.password, "password"),
        totp_secret=totp,
        totp_field=account.totp_field,
    )
    client = Client(id=client_id, secret=credentials.client_secret, scope=account.scope, auth=account.client_auth)
    return LoginRequest(account=account.name, token_url=url, client=client, password=password)


def _require(account: Account, value: _T | None, what: str) -> _T:
    if value is None:
        raise AccountStopped(f"{what} is missing", account=account.name, hint=f"Set it for account {account.name}")
    return value
