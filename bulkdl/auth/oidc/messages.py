"""What is sent to a token endpoint (RFC 6749) and the token that comes back."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Client",
    "EndpointFailed",
    "Token",
    "TokenEndpoint",
    "TokenResponse",
    "client_credentials_form",
    "logout_form",
    "logout_url",
    "password_form",
    "refresh_form",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who asks (RFC 6749 §2): a public client has no secret. A secret goes into the form (§2.3.1)."""

    id: str
    secret: Secret | None = None
    scope: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a token endpoint gave. Times are readings of the monotonic clock."""

    access: Secret
    refresh: Secret | None
    issued: float
    """When the request was sent: the life of the token cannot have begun later."""
    lifetime: float
    """Seconds; 0 where the server named none that is left."""
    refresh_lifetime: float | None = None
    """Seconds; None where no end is known. Sessions have idle time-outs all the same."""

    @property
    def expires(self) -> float:
        return self.issued + self.lifetime

    def refresh_alive(self, now: float) -> bool:
        """Whether a refresh may be worth a request."""
        if self.refresh is None:
            return False
        return self.refresh_lifetime is None or now < self.issued + self.refresh_lifetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenResponse:
    """A token endpoint's answer; the body may hold tokens and shows nowhere."""

    status: int
    headers: Mapping[str, str]
    """Names in any case as the server sent them; look them up with `header`."""
    body: bytes = field(repr=False)
    sent_at: float
    """Monotonic reading from before the request was sent."""

    def header(self, name: str) -> str | None:
        lower = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == lower), None)


class EndpointFailed(Exception):  # noqa: N818 - says what happened
    """No answer came: connection, time-out, TLS. `lasting`: trying again cannot mend it (a certificate is refused)."""

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting


class TokenEndpoint(Protocol):
    async def post(self, url: Url, form: Secret) -> TokenResponse:
        """Send an encoded form without following redirects; raise `EndpointFailed` when no answer comes."""
        ...


def password_form(client: Client, username: str, password: Secret, totp: tuple[str, Secret] | None = None) -> Secret:
    """RFC 6749 §4.3.2; `totp` is the name of the field that carries the code, and the code."""
    fields = [("grant_type", "password"), ("username", username), ("password", password.reveal())]
    if totp is not None:
        fields.append((totp[0], totp[1].reveal()))
    return _form(client, fields, scope=True)


def client_credentials_form(client: Client) -> Secret:
    """RFC 6749 §4.4.2."""
    return _form(client, [("grant_type", "client_credentials")], scope=True)


def refresh_form(client: Client, refresh: Secret) -> Secret:
    """RFC 6749 §6, without a scope: what was granted stays granted."""
    return _form(client, [("grant_type", "refresh_token"), ("refresh_token", refresh.reveal())], scope=False)


def logout_form(client: Client, refresh: Secret) -> Secret:
    return _form(client, [("refresh_token", refresh.reveal())], scope=False)


def _form(client: Client, fields: list[tuple[str, str]], *, scope: bool) -> Secret:
    """`application/x-www-form-urlencoded` in UTF-8 (RFC 6749 appendix B); outer spaces are part of a value."""
    fields = [*fields, ("client_id", client.id)]
    if client.secret is not None:
        fields.append(("client_secret", client.secret.reveal()))
    if scope and client.scope:
        fields.append(("scope", client.scope))
    return Secret(urlencode(fields, encoding="utf-8"))


def logout_url(token_url: Url) -> Url | None:
    """Where Keycloak ends a session (`…/token` -> `…/logout`); None for a URL that is not Keycloak's."""
    if not token_url.path.rstrip("/").endswith("/protocol/openid-connect/token"):
        return None
    head, _, _ = token_url.raw.partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")
    return Url(f"{head}/logout")
