"""Send one login's requests to its token endpoint, interpret the responses, and measure the server's clock."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.auth.oidc.messages import (
    EndpointFailed,
    client_credentials_form,
    logout_form,
    logout_url,
    password_form,
    refresh_form,
)
from bulkdl.auth.oidc.responses import (
    Misconfigured,
    Unavailable,
    clock_skew,
    interpret_response,
    wants_client_in_header,
)
from bulkdl.core.models import ClientAuth

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkdl.auth.oidc.login import LoginRequest, PasswordLogin
    from bulkdl.auth.oidc.login_lock import LoginLock
    from bulkdl.auth.oidc.messages import Client, TokenEndpoint, TokenResponse
    from bulkdl.auth.oidc.responses import Verdict
    from bulkdl.auth.oidc.totp import UsedCodeLedger
    from bulkdl.core.clock import Clock
    from bulkdl.core.secret import Secret
    from bulkdl.core.urls import Url

__all__ = ["TokenClient"]

_NEGLIGIBLE_SKEW_S = 2.0
"""Seconds of skew below which one-time codes follow this machine's clock."""


class TokenClient:
    """The token endpoint requests of one login; remembers the skew of the server's clock."""

    def __init__(
        self,
        login: LoginRequest,
        *,
        endpoint: TokenEndpoint,
        ledger: UsedCodeLedger,
        login_lock: LoginLock,
        clock: Clock,
    ) -> None:
        self._login = login
        self._endpoint = endpoint
        self._ledger = ledger
        self._login_lock = login_lock
        self._clock = clock
        self._logout_url = logout_url(login.token_url)
        self._client = login.client
        """The client, with the way to send its secret that works."""
        self.skew: float | None = None
        """Seconds by which the server's clock is ahead of this machine's; None if not known yet."""
        self.in_flight = False
        """A request is in progress. It may open a session, which must be closed later."""

    async def log_in(self, *, waiting: Callable[[float], None]) -> Verdict:
        """Log in. If the account uses TOTP, wait for an unused one-time code first."""
        login = self._login.password
        if login is None:
            return await self._ask(client_credentials_form)
        # Create the code while holding the lock, so that it cannot expire while another login is in progress.
        async with self._login_lock.hold(self._login.token_url, login.username):
            code = await self._code(login, waiting)
            totp = None if code is None else (login.totp_field, code)
            return await self._ask(lambda c: password_form(c, login.username, login.password, totp), code)

    async def _code(self, login: PasswordLogin, waiting: Callable[[float], None]) -> Secret | None:
        if login.totp_secret is None:
            return None
        skew = self.skew if self.skew is not None and abs(self.skew) >= _NEGLIGIBLE_SKEW_S else 0.0
        return await self._ledger.reserve(login.totp_secret, skew=skew, waiting=waiting)

    async def refresh(self, refresh: Secret) -> Verdict:
        return await self._ask(lambda client: refresh_form(client, refresh), refresh)

    async def log_out(self, refresh: Secret) -> bool:
        """End the session at a Keycloak. Return True if it has ended, or if the server offers no logout."""
        if self._logout_url is None:
            return True
        try:
            response = await self._post(self._logout_url, logout_form(self._client, refresh))
        except EndpointFailed:
            return False
        return response.status < 500 and response.status != 429

    async def _ask(self, form: Callable[[Client], Secret], *also: Secret | None) -> Verdict:
        """Send the form; send it once more if the server wants the client's secret in the header.

        Such a server has not looked at the rest of the form (RFC 6749 §3.2.1), so neither a password attempt nor a
        one-time code is spent. The way that worked is kept for the run.
        """
        url = self._login.token_url
        self.in_flight = True
        try:
            response = await self._post(url, form(self._client))
            other = replace(self._client, auth=ClientAuth.BASIC)
            if self._client.auth is None and other.authorization is not None and wants_client_in_header(response):
                again = await self._post(url, form(other), other)
                if not wants_client_in_header(again):
                    self._client = other
                response = again
        except EndpointFailed as error:
            if error.lasting:
                hint = error.hint or "Check `token_url`"
                return Misconfigured(reason=error.reason, hint=hint, definite=False, trouble=error.trouble)
            return Unavailable(reason=error.reason, trouble=error.trouble)
        finally:
            self.in_flight = False
        wall = self._clock.wall()
        measured = clock_skew(response, wall=wall)
        self.skew = self.skew if measured is None else measured
        return interpret_response(
            response, url=url, secrets=[*self._secrets(), *(s for s in also if s is not None)], now=wall
        )

    async def _post(self, url: Url, form: Secret, client: Client | None = None) -> TokenResponse:
        authorization = (client or self._client).authorization
        if authorization is None:
            return await self._endpoint.post(url, form)
        return await self._endpoint.post(url, form, authorization=authorization)

    def _secrets(self) -> list[Secret]:
        login = self._login.password
        mine = [self._login.client.secret, replace(self._client, auth=ClientAuth.BASIC).authorization]
        if login is not None:
            mine += [login.password, login.totp_secret]
        return [s for s in mine if s is not None]
