"""Create the authenticator of an account."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.auth.static import NoAuthenticator, StaticAuthenticator
from bulkdl.core.events import Level
from bulkdl.core.models import AuthKind

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from bulkdl.auth.base import Authenticator
    from bulkdl.auth.credentials import Credentials
    from bulkdl.auth.oidc.login import LoginRequest
    from bulkdl.auth.oidc.messages import TokenEndpoint
    from bulkdl.auth.oidc.token_manager import TokenManager
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.models import Account

__all__ = ["make_authenticator"]


def make_authenticator(
    account: Account,
    credentials: Credentials | Callable[[], Credentials],
    *,
    endpoint: TokenEndpoint,
    hub: Hub,
    clock: Clock,
    rng: random.Random,
    state_dir: Path | Callable[[], Path],
    logins: dict[LoginRequest, TokenManager] | None = None,
    give_up_after: float | None = None,
) -> Authenticator:
    """Return the account's authenticator. Before its first use it reads, asks and sends nothing.

    `credentials`: a callable is called at the first use, on the event loop; it may raise `AccountStopped`.
    `state_dir`: folder of the TOTP ledger and the login locks, shared by all runs of this user.
    `logins`: the token managers of the run so far. Accounts with the same endpoint, client, user and secrets share
    one, so they log in once and have one session.
    `give_up_after`: seconds that a run waits for a token endpoint that is out of order; None: a command with a user who
    waits for its answer.
    """

    def resolve() -> Credentials:
        found = credentials() if callable(credentials) else credentials
        for warning in found.warnings:
            hub.note(Level.WARNING, f"{account.name}: {warning}")
        return found

    if account.auth is AuthKind.NONE:
        return NoAuthenticator(account)
    if account.auth is not AuthKind.OIDC:
        return StaticAuthenticator(account, resolve, hub=hub)
    from bulkdl.auth.oidc.factory import oidc_authenticator  # noqa: PLC0415 - only OIDC accounts need it

    return oidc_authenticator(
        account,
        resolve,
        endpoint=endpoint,
        hub=hub,
        clock=clock,
        rng=rng,
        state_dir=state_dir if callable(state_dir) else lambda: state_dir,
        logins=logins if logins is not None else {},
        give_up_after=give_up_after,
    )
