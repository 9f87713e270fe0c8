"""How requests are signed: what a transfer sees of an account."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from bulkdl.core.errors import AccountStopped
    from bulkdl.core.secret import Secret
    from bulkdl.core.urls import HostList


__all__ = ["Authenticator", "Credential", "says_invalid_token"]


def says_invalid_token(challenge: str) -> bool:
    """RFC 6750 §3.1: the token is expired, revoked or malformed, also where the status is 403."""
    return re.search(r'\bBearer\b.*\berror\s*=\s*"?invalid_token\b', challenge, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class Credential:
    """What one request carries. It goes only to the account's hosts, decided at each hop."""

    generation: int
    """Counts up with each new token; an answer is reported together with the credential that earned it."""
    header: Secret | None = None
    """The value of `Authorization`."""
    query: tuple[str, Secret] | None = None
    """Name and value of a query parameter; the value is not yet percent-encoded."""


class Authenticator(Protocol):
    """One account's credentials over a run. Every method may be called by many workers at once."""

    @property
    def name(self) -> str: ...
    @property
    def hosts(self) -> HostList | None:
        """The only hosts that may have the credential; None: the host of each product's own URL."""
        ...

    @property
    def dialect(self) -> str | None:
        """The provider whose errors the archive's are; None: nothing is known of it."""
        ...

    @property
    def max_connections(self) -> int | None: ...
    @property
    def logins(self) -> int: ...
    @property
    def refreshes(self) -> int: ...
    @property
    def worked(self) -> bool:
        """Whether a login succeeded, or a fixed credential was accepted, at least once."""
        ...

    @property
    def stopped(self) -> AccountStopped | None:
        """Why the account can do nothing more, or None."""
        ...

    async def credential(self) -> Credential:
        """The credential to use now; may log in, refresh or wait. Raise `AccountStopped`."""
        ...

    async def rejected(self, used: Credential, *, status: int, challenge: str = "", session_over: bool = False) -> bool:
        """Report a 401 or 403 with its `WWW-Authenticate`; `session_over`: no refresh will bring a better one.

        True: ask `credential` again (it gives another one, or raises `AccountStopped`) and repeat the request.
        False: the credential is good as far as is known, and it is the product that is refused.
        """
        ...

    def stop(self, stop: AccountStopped) -> None:
        """The archive has said that the account can get nothing there."""
        ...

    def accepted(self, used: Credential) -> None:
        """Report that a server took the credential (any answer other than 401 and 403)."""
        ...

    async def aclose(self) -> None:
        """Log out of every session that was opened, in bounded time; safe to call again."""
        ...
