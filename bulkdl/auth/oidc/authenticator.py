"""Signing with an OIDC token: when a refusal by the archive is worth a new token, and when it is the product's.

Accounts that log in alike share a manager: what it asked for is counted once, for the account that it belongs to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.auth.base import Credential, says_invalid_token
from bulkdl.auth.oidc.messages import logout_url
from bulkdl.auth.oidc.token_lifetime import RenewalReason
from bulkdl.core.errors import AccountStopped
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
_LONGEST_COOLDOWN_S = 300.0
_STREAK = 3


class OidcAuthenticator:
    """A `Signer` over a `TokenManager`, which is made at the first use (only then are secrets needed)."""

    def __init__(self, account: Account, make: Callable[[], TokenManager], *, hub: Hub, clock: Clock) -> None:
        self._account = account
        self._make = make
        self._hub = hub
        self._clock = clock
        self._manager: TokenManager | None = None
        self._unmade: AccountStopped | None = None
        self._stopped: AccountStopped | None = None
        """By the archive."""
        self._closed = False
        self._accepted = 0
        """The newest generation that an archive took."""
        self._replaced_at = 0.0
        self._cooldown = _FIRST_COOLDOWN_S
        self._vain = False
        """The newest replacement after a refusal did not help someone."""
        self._streak = 0
        """Refusals of the newest generation in a row since it was last accepted."""

    @property
    def name(self) -> str:
        return self._account.name

    @property
    def hosts(self) -> HostList | None:
        return self._account.hosts

    @property
    def dialect(self) -> str | None:
        """The preset's; else Keycloak's where the token endpoint is one."""
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
    def worked(self) -> bool:
        if self._stopped is not None:
            return self._accepted > 0
        return self._manager is not None and self._manager.logins > 0

    @property
    def stopped(self) -> AccountStopped | None:
        if self._manager is None or self._stopped is not None:
            return self._stopped or self._unmade
        return None if self._manager.stopped is None else self._mine(self._manager.stopped)

    @property
    def _is_owner(self) -> bool:
        return self._manager is not None and self._manager.account == self.name

    async def token(self) -> ActiveToken:
        """The token itself, for whoever reports its lifetimes. Raise `AccountStopped`."""
        if self._stopped is not None:
            raise AccountStopped(self._stopped.reason, account=self.name, hint=self._stopped.hint)
        try:
            return await self._made().get()
        except AccountStopped as stop:
            raise self._mine(stop) from None

    async def renewed(self, reason: RenewalReason) -> ActiveToken:
        """Renew now; for rehearsals. Raise `AccountStopped`."""
        return await self._made().renew(reason)

    def _mine(self, stop: AccountStopped) -> AccountStopped:
        """The same end, told of this account."""
        return stop if stop.account == self.name else AccountStopped(stop.reason, account=self.name, hint=stop.hint)

    async def credential(self) -> Credential:
        held = await self.token()
        access = held.token.access
        if self._account.token_in is TokenIn.QUERY:
            return Credential(held.generation, query=(self._account.token_param, access))
        return Credential(held.generation, header=Secret(f"Bearer {access.reveal()}"))

    def stop(self, stop: AccountStopped) -> None:
        """See `Signer.stop`; the session lives on for other accounts that share it, until the end."""
        if self._stopped is None:
            self._stopped = stop
            self._hub.counters.accounts[self.name] = "stopped"
            self._hub.emit(AccountEvent(account=self.name, action=AccountAction.STOPPED, detail=str(stop)))

    def accepted(self, used: Credential) -> None:
        self._accepted = max(self._accepted, used.generation)
        held = None if self._manager is None else self._manager.held
        if held is not None and used.generation == held.generation:
            self._streak = 0

    async def rejected(self, used: Credential, *, status: int, challenge: str = "", session_over: bool = False) -> bool:
        """See `Signer.rejected`. A refusal of an old generation costs no request."""
        manager = self._made()
        held = manager.held
        if manager.stopped is not None or held is None or used.generation < held.generation:
            return True
        expired = self._clock.monotonic() >= held.hard_at  # by the server's clock it may be
        if status != 401 and not says_invalid_token(challenge) and not expired:
            return False
        if held.rejected:
            return True
        self._streak += 1
        if not expired and not self._worth_another(held):
            self._vain = True
            return False
        if held.because is RenewalReason.REJECTED:
            self._cooldown = min(_LONGEST_COOLDOWN_S, 2 * self._cooldown) if self._vain else _FIRST_COOLDOWN_S
        self._replaced_at, self._vain, self._streak = self._clock.monotonic(), False, 0
        manager.reject(held.generation, session_over=session_over)
        return True

    def _worth_another(self, held: ActiveToken) -> bool:
        """Whether a refused token may be at fault, rather than the product's permissions.

        A token that did not come from a refusal may have been revoked. One that did, and is refused again, is no more
        at fault than the next would be, unless it worked meanwhile: then a while has to pass, longer after each vain
        replacement, or several products in a row have to be refused.
        """
        if held.because is not RenewalReason.REJECTED:
            return True
        if self._accepted < held.generation - 1:
            return False
        since = self._clock.monotonic() - self._replaced_at
        worked = self._accepted >= held.generation
        return since >= self._cooldown or (worked and self._streak >= _STREAK and since >= _FIRST_COOLDOWN_S / 2)

    async def aclose(self) -> None:
        closed, self._closed = self._closed, True
        if self._manager is not None and not closed:
            await self._manager.leave()

    def _made(self) -> TokenManager:
        if self._manager is None:
            if self._closed:
                raise AccountStopped("the account has been closed", account=self.name)
            if self._unmade is not None:
                raise AccountStopped(self._unmade.reason, account=self.name, hint=self._unmade.hint)
            try:
                self._manager = self._make()
                self._manager.join()
                if not self._is_owner:
                    self._hub.counters.accounts[self.name] = f"shares the login of {self._manager.account}"
            except AccountStopped as stop:
                self._unmade = stop
                self._hub.counters.accounts[self.name] = "stopped"
                self._hub.emit(AccountEvent(account=self.name, action=AccountAction.STOPPED, detail=str(stop)))
                raise
        return self._manager
