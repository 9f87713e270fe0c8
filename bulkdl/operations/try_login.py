"""Try the login of an account before a run: token lifetimes, refresh, and the expected number of logins."""

from __future__ import annotations

import math
from dataclasses import field
from typing import TYPE_CHECKING

from bulkdl.auth.credentials import Credentials
from bulkdl.auth.factory import make_authenticator
from bulkdl.auth.oidc.authenticator import OidcAuthenticator
from bulkdl.auth.oidc.token_lifetime import RenewalReason
from bulkdl.core.errors import AccountStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import AuthKind, SecretSource

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bulkdl.auth.oidc.messages import TokenEndpoint
    from bulkdl.auth.oidc.token_lifetime import ActiveToken
    from bulkdl.auth.oidc.token_manager import TokenManager
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.models import Account

__all__ = ["LoginReport", "rehearse", "try_login"]

_UNTRIED = {
    AuthKind.BASIC: "user and password are sent with each request; they cannot be tested without a product",
    AuthKind.BEARER: "the token is sent with each request; it cannot be tested without a product",
    AuthKind.HEADER: "the key is sent with each request; it cannot be tested without a product",
    AuthKind.NONE: "no credential is used",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginReport:
    """Result of a trial login, without secrets."""

    account: str
    grant: str
    """`password`, `client_credentials`, or the kind of authentication if there is no login."""
    sources: Mapping[str, SecretSource] = field(default_factory=dict)
    """Place where each secret was found, by name of the secret."""
    places: Mapping[str, str] = field(default_factory=dict)
    """The place in words, such as the name of the variable."""
    access_lifetime: float | None = None
    """Seconds, as in all fields below; None if not tried, or not sent by the server."""
    refresh_lifetime: float | None = None
    has_refresh_token: bool = False
    refreshed: bool | None = None
    """True if a refresh worked; None: not rehearsed, or no refresh token."""
    rotation: bool | None = None
    """True if the refresh returned a new refresh token; None: not rehearsed."""
    clock_skew: float | None = None
    """Seconds by which the server's clock is ahead of this machine's."""
    totp_used: bool = False
    logins: int = 0
    note: str = ""
    error: AccountStopped | None = None

    def logins_per_night(self, hours: float) -> int | None:
        """Return the most logins that an unattended run of `hours` should need; None if unknown.

        A refresh token with a known expiry may end the session then, although some servers extend it with each refresh.
        Without refresh tokens every access token needs a login. No server sends the maximum age of a session.
        """
        if self.access_lifetime is None:
            return None
        renewable = self.has_refresh_token and self.refreshed is not False
        life = self.refresh_lifetime if renewable else self.access_lifetime
        return 1 if life is None else max(1, math.ceil(hours * 3600 / max(life, 1.0)))


async def try_login(
    account: Account,
    credentials: Credentials | Callable[[], Credentials],
    *,
    endpoint: TokenEndpoint,
    hub: Hub,
    clock: Clock,
    rng: random.Random,
    state_dir: Path,
) -> LoginReport:
    """Log in once and log out again; a failure is in the report and is not raised."""
    trial = _Trial(account, credentials)
    authenticator = make_authenticator(
        account, trial.resolve, endpoint=endpoint, hub=hub, clock=clock, rng=rng, state_dir=state_dir
    )
    if not isinstance(authenticator, OidcAuthenticator):
        return trial.untried()
    try:
        active = await authenticator.token()
        return trial.report(authenticator.manager, active)
    except AccountStopped as stop:
        return trial.report(authenticator.manager, None, error=stop)
    finally:
        await authenticator.aclose()


async def rehearse(
    account: Account,
    credentials: Credentials | Callable[[], Credentials],
    *,
    endpoint: TokenEndpoint,
    hub: Hub,
    clock: Clock,
    rng: random.Random,
    state_dir: Path,
) -> LoginReport:
    """Rehearse a run in a minute: a login, a forced refresh, and a second login with the next one-time code."""
    trial = _Trial(account, credentials)
    authenticator = make_authenticator(
        account, trial.resolve, endpoint=endpoint, hub=hub, clock=clock, rng=rng, state_dir=state_dir
    )
    if not isinstance(authenticator, OidcAuthenticator):
        return trial.untried()
    first = second = None
    refreshed: bool | None = None
    try:
        first = await authenticator.token()
        if first.token.refresh is not None:
            second = await authenticator.renewed(RenewalReason.REHEARSAL)
            refreshed = authenticator.refreshes > 0
        await authenticator.renewed(RenewalReason.SECOND_LOGIN)
        return trial.report(authenticator.manager, first, refreshed=refreshed, second=second)
    except AccountStopped as stop:
        return trial.report(authenticator.manager, first, refreshed=refreshed, second=second, error=stop)
    finally:
        await authenticator.aclose()


class _Trial:
    """Records where the secrets were found, since an authenticator does not report it."""

    def __init__(self, account: Account, credentials: Credentials | Callable[[], Credentials]) -> None:
        self._account = account
        self._given = credentials
        self._found: Credentials | None = None

    def resolve(self) -> Credentials:
        self._found = self._given() if callable(self._given) else self._given
        return self._found

    def untried(self) -> LoginReport:
        account = self._account
        try:
            found = Credentials() if account.auth is AuthKind.NONE else self.resolve()
        except AccountStopped as stop:
            return LoginReport(account=account.name, grant=account.auth.value, error=stop)
        note = _UNTRIED[account.auth]
        return LoginReport(
            account=account.name, grant=account.auth.value, sources=found.sources, places=found.places, note=note
        )

    def report(
        self,
        manager: TokenManager | None,
        active: ActiveToken | None,
        *,
        refreshed: bool | None = None,
        second: ActiveToken | None = None,
        error: AccountStopped | None = None,
    ) -> LoginReport:
        token = None if active is None else active.token
        rotation = None
        if refreshed and token is not None and second is not None:
            rotation = second.token.refresh != token.refresh
        return LoginReport(
            account=self._account.name,
            grant=self._account.grant.value,
            sources={} if self._found is None else self._found.sources,
            places={} if self._found is None else self._found.places,
            access_lifetime=None if token is None else token.lifetime,
            refresh_lifetime=None if token is None else token.refresh_lifetime,
            has_refresh_token=token is not None and token.refresh is not None,
            refreshed=refreshed,
            rotation=rotation,
            clock_skew=None if manager is None else manager.skew,
            totp_used=manager is not None and manager.uses_totp,
            logins=0 if manager is None else manager.logins,
            error=error,
        )
