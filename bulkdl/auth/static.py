"""Authenticate with a fixed credential: a user name and password, a bearer token, a key in a header, or none.

If fifty workers use a wrong password at once, the provider locks the account. So one request tries a fixed credential
first (the probe), and the others wait for its response.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bulkdl.auth.base import Credential, says_invalid_token
from bulkdl.auth.basic import PasswordScheme
from bulkdl.auth.challenges import parse_challenges
from bulkdl.core.errors import AccountStopped
from bulkdl.core.events import AccountAction, AccountEvent
from bulkdl.core.models import AuthKind, TokenIn
from bulkdl.core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulkdl.auth.credentials import Credentials
    from bulkdl.core.events import Hub
    from bulkdl.core.models import Account
    from bulkdl.core.urls import HostList

__all__ = ["NoAuthenticator", "StaticAuthenticator"]

_PROBE_WAIT_S = 15.0
"""Seconds that other requests wait for the probe; then the next one becomes the probe."""


class _WithoutLogin:
    """The properties that authenticators without a login share."""

    logins = 0
    refreshes = 0
    waiting = False

    def __init__(self, account: Account) -> None:
        self._account = account

    @property
    def name(self) -> str:
        return self._account.name

    @property
    def hosts(self) -> HostList | None:
        return self._account.hosts

    @property
    def dialect(self) -> str | None:
        return self._account.provider

    @property
    def max_connections(self) -> int | None:
        return self._account.max_connections


_NO_CREDENTIAL = Credential(0)


class NoAuthenticator(_WithoutLogin):
    """`auth: none`: the account only carries limits and hosts."""

    worked = True
    stopped = None

    async def credential(self) -> Credential:
        return _NO_CREDENTIAL

    async def rejected(
        self,
        used: Credential,  # noqa: ARG002
        *,
        status: int,  # noqa: ARG002
        challenge: str = "",  # noqa: ARG002
        session_over: bool = False,  # noqa: ARG002
    ) -> bool:
        return False

    def stop(self, stop: AccountStopped) -> None:
        """Do nothing: without a credential each product fails by itself."""

    def accepted(self, used: Credential) -> None:
        """Do nothing: there is no credential."""

    async def aclose(self) -> None:
        """Do nothing: there is no session."""


class StaticAuthenticator(_WithoutLogin):
    """A user name and password (`auth/basic`), a fixed bearer token (RFC 6750), or a key in a header of its own."""

    def __init__(
        self, account: Account, resolve: Callable[[], Credentials], *, hub: Hub, probe_wait: float = _PROBE_WAIT_S
    ) -> None:
        """`probe_wait`: seconds, by the real clock, that other requests wait for the probe's response."""
        super().__init__(account)
        self._resolve = resolve
        self._hub = hub
        self._probe_wait = probe_wait
        self._credential: Callable[[], Credential] | None = None
        self._password: PasswordScheme | None = None
        self._prober: asyncio.Task[object] | None = None
        self._probe_ended = asyncio.Event()
        self.worked = False
        self.stopped: AccountStopped | None = None

    async def credential(self) -> Credential:
        make = self._resolved()
        me = asyncio.current_task()
        while not self.worked:
            self._raise_if_stopped()
            if self._prober is None or self._prober is me or self._prober.done():
                self._start_probe(me)
                break
            await self._wait_for_probe()
        self._raise_if_stopped()
        return make()

    def accepted(self, used: Credential) -> None:
        if self._password is not None:
            self._password.accepted(used)
        if not self.worked and (used.header is not None or used.query is not None):
            self.worked = True
            self._hub.counters.accounts[self.name] = "accepted"
        self._end_probe()

    def stop(self, stop: AccountStopped) -> None:
        if self.stopped is None:
            self._stop(stop)
        self._end_probe()

    async def rejected(
        self,
        used: Credential,
        *,
        status: int,
        challenge: str = "",
        session_over: bool = False,  # noqa: ARG002
    ) -> bool:
        """See `Authenticator.rejected`. If no request was accepted before, one 401 stops the account.

        A 401 that asks for another scheme, or for a new nonce, is answered once more by the same worker.
        """
        unauthorised = status == 401 or says_invalid_token(challenge)
        if unauthorised and self.stopped is None:
            if self._may_answer(used, challenge):
                return True
            if not self.worked and self.stopped is None:
                self._stop(self._refused_error(status, challenge))
        self._end_probe()
        return self.stopped is not None

    async def aclose(self) -> None:
        """Wake the requests that wait for the probe; there is no session to close."""
        self._end_probe()

    # The probe.

    def _start_probe(self, me: asyncio.Task[object] | None) -> None:
        if me is not None and self._prober is not me:
            me.add_done_callback(self._prober_done)
        self._prober = me
        self._probe_ended.clear()

    def _prober_done(self, task: asyncio.Task[object]) -> None:
        """If the probe ended without a response (connection lost, cancelled), let the next request probe."""
        if self._prober is task:
            self._end_probe()

    async def _wait_for_probe(self) -> None:
        waited_for = self._prober
        try:
            async with asyncio.timeout(self._probe_wait):
                await self._probe_ended.wait()
        except TimeoutError:
            if self._prober is waited_for:
                self._end_probe()

    def _end_probe(self) -> None:
        self._prober = None
        self._probe_ended.set()

    # The credential.

    def _may_answer(self, used: Credential, challenge: str) -> bool:
        try:
            return self._password is not None and self._password.may_answer(used, challenge, worked=self.worked)
        except AccountStopped as stop:
            self._stop(stop)
            return False

    def _resolved(self) -> Callable[[], Credential]:
        self._raise_if_stopped()
        if self._credential is None:
            try:
                self._credential = self._make_credential(self._resolve())
            except AccountStopped as stop:
                self._stop(stop)
                raise
        return self._credential

    def _make_credential(self, given: Credentials) -> Callable[[], Credential]:
        if self._account.auth is AuthKind.BASIC:
            self._password = PasswordScheme(self._account, given)
            return self._password.credential
        credential = _token_credential(self._account, given.token or Secret(""))
        return lambda: credential

    def _refused_error(self, status: int, challenge: str) -> AccountStopped:
        asked = [c.scheme for c in parse_challenges(challenge)]
        if self._password is None:
            what, hint = "token", "Get a new one: it may have expired"
        elif asked and not {"basic", "digest"} & set(asked):
            what, hint = "user name and password", "Use an account of the kind that the archive asks for"
            status_text = f"{status}; it asks for {', '.join(dict.fromkeys(asked))}"
            return AccountStopped(f"the archive refused the {what} ({status_text})", account=self.name, hint=hint)
        else:
            what, hint = "user name and password", "Check them before running again: repeated failures lock accounts"
        return AccountStopped(f"the archive refused the {what} ({status})", account=self.name, hint=hint)

    def _stop(self, stop: AccountStopped) -> None:
        self.stopped = stop
        self._hub.counters.accounts[self.name] = "stopped"
        self._hub.emit(AccountEvent(account=self.name, action=AccountAction.STOPPED, detail=str(stop)))

    def _raise_if_stopped(self) -> None:
        if self.stopped is not None:
            raise AccountStopped(self.stopped.reason, account=self.name, hint=self.stopped.hint)


def _token_credential(account: Account, token: Secret) -> Credential:
    text = token.reveal()
    if not text.isascii() or any(c.isspace() or not c.isprintable() for c in text):
        raise AccountStopped("the token contains spaces or non-ASCII characters", account=account.name)
    if account.auth is AuthKind.HEADER:
        return Credential(1, header=token, field=account.header)
    if account.token_in is TokenIn.QUERY:
        return Credential(1, query=(account.token_param, token))
    return Credential(1, header=Secret(f"Bearer {text}"))
