"""The interface between a transfer and an account: the credential that authenticates a request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkdl.core.errors import AccountStopped
    from bulkdl.core.secret import Secret
    from bulkdl.core.urls import HostList, Url


__all__ = ["Authenticator", "Credential", "says_invalid_token"]


def says_invalid_token(challenge: str) -> bool:
    """Tell whether the challenge says that the token is expired, revoked or malformed (RFC 6750 §3.1).

    Some servers send it with 403 instead of 401.
    """
    return re.search(r'\bBearer\b.*\berror\s*=\s*"?invalid_token\b', challenge, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class Credential:
    """The credential of one request. Each redirect is checked again: only the account's hosts get it."""

    generation: int
    """Number of the token, higher for each new one. A response is reported with the credential of its request."""
    header: Secret | None = None
    """The value of the header field."""
    query: tuple[str, Secret] | None = None
    """Name and value of a query parameter; the value is not yet percent-encoded."""
    field: str = "Authorization"
    """Name of the header field."""
    bind: Callable[[str, Url], Credential | None] | None = None
    """Makes the credential of one request from its method and URL; None: that URL gets none. It is called at each hop."""
    origin: str = ""
    """Origin of the request that a bound credential is for; its answer is reported also where it has no header yet."""


class Authenticator(Protocol):
    """The credentials of one account during a run. Many workers may call every method at the same time."""

    @property
    def name(self) -> str: ...
    @property
    def hosts(self) -> HostList | None:
        """The only hosts that may receive the credential. None: the host of each product's own URL."""
        ...

    @property
    def dialect(self) -> str | None:
        """The provider whose error rules apply to this archive. None: unknown, only the generic rules apply."""
        ...

    @property
    def max_connections(self) -> int | None: ...
    @property
    def logins(self) -> int: ...
    @property
    def refreshes(self) -> int: ...
    @property
    def worked(self) -> bool:
        """True if a login succeeded, or a server accepted a fixed credential, at least once."""
        ...

    @property
    def waiting(self) -> bool:
        """True if no credential can be had now, since the token endpoint is out of order."""
        ...

    @property
    def stopped(self) -> AccountStopped | None:
        """The reason why the account cannot be used any more, or None."""
        ...

    async def credential(self) -> Credential:
        """Return the credential to use now; log in, refresh or wait if necessary. Raise `AccountStopped`."""
        ...

    async def rejected(self, used: Credential, *, status: int, challenge: str = "", session_over: bool = False) -> bool:
        """Report a 401 or 403 with its `WWW-Authenticate`. `session_over`: a refresh cannot help, only a login.

        Return True if the caller should call `credential` again and repeat the request (`credential` returns
        another one or raises `AccountStopped`). Return False if the credential seems valid: the server refuses
        access to this product.
        """
        ...

    def stop(self, stop: AccountStopped) -> None:
        """Stop the account: the archive said that it cannot download anything there."""
        ...

    def accepted(self, used: Credential) -> None:
        """Report that a server accepted the credential (any response other than 401 and 403)."""
        ...

    async def aclose(self) -> None:
        """Log out of every open session, in bounded time. A second call does nothing."""
        ...
