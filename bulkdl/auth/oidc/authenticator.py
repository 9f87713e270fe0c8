"""Authenticate requests with an OIDC access token.

If the archive answers 401 or 403, this module decides whether a new token may help or whether the product is refused.
Accounts with the same login share one `TokenManager`. Its logins and refreshes are counted once, for its own account.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.auth.base import Credential, says_invalid_token
from bulkdl.auth.oidc.messages import logout_url
from bulkdl.auth.oidc.token_lifetime import RenewalReason
from bulkdl.core.errors import AccountStopped, AccountWaiting
from bulkdl.core.events import AccountAction, AccountEvent
from bulkdl.core.models import TokenIn
from bulkdl.core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkdl.auth.oidc.token_lifetime import ActiveToken
    from bulkdl.auth.oidc.token_manager import TokenManager
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.models import Account
    from bulkdl.core.urls import HostList

__all__ = ["OidcAuthenticator"]

_FIRST_COOLDOWN_S = 2.0
"""Seconds between two tokens that replace a refused one; doubles each time the new token did not help."""
_MAX_COOLDOWN_S = 300.0
_REFUSALS_FOR_NEW_TOKEN = 3
"""Refusals in a row after which a token that worked before may be replaced before the cooldown ends."""


class OidcAuthenticator:
    """An `Authenticator` over a `TokenManager`, created at the first use because only then secrets are needed."""

    def __init__(self, account: Account, make: Callable[[], TokenManager], *, hub: Hub, clock: Clock) -> None:
        self._account = account
        self._make = make
        self._hub = hub
        self._clock = clock
        self._manager: TokenManager | None = None
        self._setup_error: AccountStopped | None = None
        self._stopped: AccountStopped | None = None
        """Set when an archive stopped the account."""
        self._closed = False
        self._accepted = 0
        """The newest generation that an archive accepted."""
        self._replaced_at = 0.0
        self._cooldown = _FIRST_COOLDOWN_S
        self._replacement_failed = False
        """The archive refused the newest replacement of a refused token too."""
        self._refusals_in_row = 0
        """Refusals of the newest generation since an archive last accepted it."""

    @property
    def name(self) -> str:
        return self._account.name

    @property
    def hosts(self) -> HostList | None:
        return self._account.hosts

    @property
    def dialect(self) -> str | None:
        """The provider preset, else `keycloak` if the token endpoint is a Keycloak."""
        url = self._account.token_url
        return self._account.provider or ("keycloak" if url is not None and logout_url(url) is not None else None)

    @property
    def max_connections(self) -> int | None:
        return self._account.max_connections

    @property
    def manager(self) -> TokenManager | None:
        return self._manager

    @property
    def logins(self) -> int:
        return self._manager.logins if self._manager is not None and self._is_owner else 0

    @property
    def refreshes(self) -> int:
        return self._manager.refreshes if self._manager is not None and self._is_owner else 0

    @property
    def waiting(self) -> bool:
        return self._stopped is None and self._manager is not None and self._manager.waiting

    @property
    def worked(self) -> bool:
        if self._stopped is not None:
            return self._accepted > 0
        return self._manager is not None and self._manager.logins > 0

    @property
    def stopped(self) -> AccountStopped | None:
        if self._manager is None or self._stopped is not None:
            return self._stopped or self._setup_error
        return None if self._manager.stopped is None else self._for_this_account(self._manager.stopped)

    @property
    def _is_owner(self) -> bool:
        return self._manager is not None and self._manager.account == self.name

    async def token(self) -> ActiveToken:
        """Return the active token with its lifetimes. Raise `AccountStopped`."""
        if self._stopped is not None:
            raise AccountStopped(self._stopped.reason, account=self.name, hint=self._stopped.hint)
        try:
            return await self._get_manager().access_token()
        except AccountStopped as stop:
            raise self._for_this_account(stop) from None
        except AccountWaiting as waiting:
            raise AccountWaiting(waiting.reason, account=self.name) from None

    async def renewed(self, reason: RenewalReason) -> ActiveToken:
        """Renew the token now (`bulkdl login --rehearse`). Raise `AccountStopped`."""
        return await self._get_manager().renew(reason)

    def _for_this_account(self, stop: AccountStopped) -> AccountStopped:
        """Return the same error with the name of this account."""
        return stop if stop.account == self.name else AccountStopped(stop.reason, account=self.name, hint=stop.hint)

    async def credential(self) -> Credential:
        active = await self.token()
        access = active.token.access
        if self._account.token_in is TokenIn.QUERY:
            return Credential(active.generation, query=(self._account.token_param, access))
        return Credential(active.generation, header=Secret(f"Bearer {access.reveal()}"))

    def stop(self, stop: AccountStopped) -> None:
        """See `Authenticator.stop`. The session stays open for other accounts that share it, until the run ends."""
        if self._stopped is None:
            self._stopped = stop
            self._hub.counters.accounts[self.name] = "stopped"
            self._hub.emit(AccountEvent(account=self.name, action=AccountAction.STOPPED, detail=str(stop)))

    def accepted(self, used: Credential) -> None:
        self._accepted = max(self._accepted, used.generation)
        active = None if self._manager is None else self._manager.active_token
        if active is not None and used.generation == active.generation:
            self._refusals_in_row = 0

    async def rejected(self, used: Credential, *, status: int, challenge: str = "", session_over: bool = False) -> bool:
        """See `Authenticator.rejected`. If the refused token is an old generation, no request is needed."""
        manager = self._get_manager()
        active = manager.active_token
        if manager.stopped is not None or active is None or used.generation < active.generation:
            return True
        expired = self._clock.monotonic() >= active.refresh_now_at  # it may have expired by the server's clock
        if status != 401 and not says_invalid_token(challenge) and not expired:
            return False
        if active.rejected:
            return True
        self._refusals_in_row += 1
        if not expired and not self._new_token_may_help(active):
            self._replacement_failed = True
            return False
        if active.reason is RenewalReason.REJECTED:
            self._cooldown = min(_MAX_COOLDOWN_S, 2 * self._cooldown) if self._replacement_failed else _FIRST_COOLDOWN_S
        self._replaced_at, self._replacement_failed, self._refusals_in_row = self._clock.monotonic(), False, 0
        manager.reject(active.generation, session_over=session_over)
        return True

    def _new_token_may_help(self, active: ActiveToken) -> bool:
        """Tell whether a new token may help; otherwise the product's permissions are the likely cause.

        If the active token did not replace a refused one, it may have been revoked: True. If it did, a further token
        would be refused too, unless an archive accepted this one or the one before. Then the cooldown must have passed,
        which doubles while new tokens do not help, or several requests in a row must have been refused.
        """
        if active.reason is not RenewalReason.REJECTED:
            return True
        if self._accepted < active.generation - 1:
            return False
        since = self._clock.monotonic() - self._replaced_at
        worked = self._accepted >= active.generation
        return since >= self._cooldown or (
            worked and self._refusals_in_row >= _REFUSALS_FOR_NEW_TOKEN and since >= _FIRST_COOLDOWN_S / 2
        )

    async def aclose(self) -> None:
        closed, self._closed = self._closed, True
        if self._manager is not None and not closed:
            await self._manager.detach()

    def _get_manager(self) -> TokenManager:
        if self._manager is None:
            if self._closed:
                raise AccountStopped("bulkdl is shutting down: no more tokens for this account", account=self.name)
            if self._setup_error is not None:
                raise AccountStopped(self._setup_error.reason, account=self.name, hint=self._setup_error.hint)
            try:
                self._manager = self._make()
                self._manager.attach()
                if not self._is_owner:
                    self._hub.counters.accounts[self.name] = f"shares the login of {self._manager.account}"
            except AccountStopped as stop:
                self._setup_error = stop
                self._hub.counters.accounts[self.name] = "stopped"
                self._hub.emit(AccountEvent(account=self.name, action=AccountAction.STOPPED, detail=str(stop)))
                raise
        return self._manager
