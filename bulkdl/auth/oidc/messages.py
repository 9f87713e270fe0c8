"""Requests to a token endpoint (RFC 6749), its raw response, and the token."""

from __future__ import annotations

import base64
from dataclasses import field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote_plus, urlencode

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import ClientAuth, Trouble
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
    """The OAuth client (RFC 6749 §2). A public client has no secret."""

    id: str
    secret: Secret | None = None
    scope: str | None = None
    auth: ClientAuth | None = None
    """Way in which the secret is sent (§2.3.1). None: in the form until the server asks for the header."""

    @property
    def authorization(self) -> Secret | None:
        """The value of `Authorization`, if the secret is sent there: both parts are form-encoded before base64."""
        if self.secret is None or self.auth is not ClientAuth.BASIC:
            return None
        pair = f"{quote_plus(self.id)}:{quote_plus(self.secret.reveal())}"
        return Secret(f"Basic {base64.b64encode(pair.encode()).decode()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An access token and its refresh token. Times are readings of the monotonic clock."""

    access: Secret
    refresh: Secret | None
    issued: float
    """The time when the request was sent; the token's lifetime may have begun then."""
    lifetime: float
    """Seconds; 0 if the server said that nothing is left."""
    refresh_lifetime: float | None = None
    """Seconds; None if no end is known. The session may still have an idle timeout."""

    @property
    def expires(self) -> float:
        return self.issued + self.lifetime

    def refresh_alive(self, now: float) -> bool:
        """Tell whether a refresh may succeed."""
        if self.refresh is None:
            return False
        return self.refresh_lifetime is None or now < self.issued + self.refresh_lifetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenResponse:
    """The raw response of a token endpoint. The body may contain tokens, so `repr` hides it."""

    status: int
    headers: Mapping[str, str]
    """As sent by the server, names in any case; use `header` to read one."""
    body: bytes = field(repr=False)
    sent_at: float
    """Monotonic time just before the request was sent."""

    def header(self, name: str) -> str | None:
        lower = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == lower), None)


class EndpointFailed(Exception):  # noqa: N818 - the name says what happened
    """No response: connection, timeout or TLS failure. `lasting`: a retry cannot help (certificate not trusted)."""

    def __init__(
        self, reason: str, *, lasting: bool = False, hint: str = "", trouble: Trouble = Trouble.BROKEN
    ) -> None:
        super().__init__(reason)
        self.trouble = trouble
        self.reason = reason
        self.hint = hint
        self.lasting = lasting


class TokenEndpoint(Protocol):
    async def post(self, url: Url, form: Secret, *, authorization: Secret | None = None) -> TokenResponse:
        """Send an encoded form without following redirects; raise `EndpointFailed` if there is no response."""
        ...


def password_form(client: Client, username: str, password: Secret, totp: tuple[str, Secret] | None = None) -> Secret:
    """Encode a password grant (RFC 6749 §4.3.2). `totp`: name of the form field for the one-time code, and the code."""
    fields = [("grant_type", "password"), ("username", username), ("password", password.reveal())]
    if totp is not None:
        fields.append((totp[0], totp[1].reveal()))
    return _form(client, fields, scope=True)


def client_credentials_form(client: Client) -> Secret:
    """Encode a client credentials grant (RFC 6749 §4.4.2)."""
    return _form(client, [("grant_type", "client_credentials")], scope=True)


def refresh_form(client: Client, refresh: Secret) -> Secret:
    """Encode a refresh (RFC 6749 §6). Without a scope the server keeps the scope it granted."""
    return _form(client, [("grant_type", "refresh_token"), ("refresh_token", refresh.reveal())], scope=False)


def logout_form(client: Client, refresh: Secret) -> Secret:
    return _form(client, [("refresh_token", refresh.reveal())], scope=False)


def _form(client: Client, fields: list[tuple[str, str]], *, scope: bool) -> Secret:
    """Encode as `application/x-www-form-urlencoded` in UTF-8 (RFC 6749 appendix B). Keep spaces around a value."""
    if client.authorization is None:
        fields = [*fields, ("client_id", client.id)]
        if client.secret is not None:
            fields.append(("client_secret", client.secret.reveal()))
    if scope and client.scope:
        fields.append(("scope", client.scope))
    return Secret(urlencode(fields, encoding="utf-8"))


def logout_url(token_url: Url) -> Url | None:
    """Return Keycloak's logout URL (`…/token` -> `…/logout`), or None if the token URL is not a Keycloak's."""
    if not token_url.path.rstrip("/").endswith("/protocol/openid-connect/token"):
        return None
    head, _, _ = token_url.raw.partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")
    return Url(f"{head}/logout")
