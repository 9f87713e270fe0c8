"""Secrets and settings of one login at a token endpoint."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from bulkdl.auth.oidc.messages import Client
    from bulkdl.auth.oidc.totp_secret import TotpSecret
    from bulkdl.core.secret import Secret
    from bulkdl.core.urls import Url


__all__ = ["LoginRequest", "PasswordLogin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordLogin:
    """Password grant (RFC 6749 §4.3), with a one-time code if there is a TOTP secret."""

    username: str = field(repr=False)
    password: Secret
    totp_secret: TotpSecret | None = None
    totp_field: str = "totp"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRequest:
    """Everything that a login needs. `password` None: client credentials grant (RFC 6749 §4.4)."""

    account: str
    token_url: Url
    client: Client
    password: PasswordLogin | None

    @property
    def uses_totp(self) -> bool:
        return self.password is not None and self.password.totp_secret is not None
