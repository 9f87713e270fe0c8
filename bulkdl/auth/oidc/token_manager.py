"""Keep one access token valid for many workers: renew it in time, with one request at a time and few logins.

There is one `TokenManager` for each login: accounts with the same endpoint, client, user and secrets share it.
The manager owns the task that renews the token, and workers only wait for it. So if a worker is cancelled, a rotated
refresh token is not lost. A login ends the old session; if a session is about to end, its last token is used up first.
"""

from __future__ import annotations

import asyncio
import dataclasses
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.auth.oidc.endpoint_retries import EndpointRetries, RetryLimits
from bulkdl.auth.oidc.messages import Token
from bulkdl.auth.oidc.responses import DEFAULT_LIFETIME_S, Misconfigured, Refused
from bulkdl.auth.oidc.token_lifetime import (
    ActiveToken,
    RenewalReason,
    TokenPhase,
    schedule_renewal,
    session_is_ending,
    use_until_expiry,
    use_up,
)
from bulkdl.core.errors import AccountStopped, AccountWaiting
from bulkdl.core.events import AccountAction, AccountEvent, Level

if TYPE_CHECKING:
    import random

    from bulkdl.auth.oidc.login import LoginRequest
    from bulkdl.auth.oidc.login_memory import LoginMemory
    from bulkdl.auth.oidc.responses import Verdict
    from bulkdl.auth.oidc.token_client import TokenClient
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.secret import Secret

__all__ = ["RetryLimits", "TokenManager"]

_KEEPER_CHECK_S = 30.0
"""Longest sleep before the token's age is looked at again, since a sleep does not count a suspend of the system."""
_MIN_INTERVAL_S = 0.5
"""Seconds between two token requests."""
_NOTABLE_SKEW_S = 15.0
"""Seconds of clock skew from which the user gets a warning."""
_MAX_SESSIONS_TO_CLOSE = 20
"""Sessions whose logout failed and is tried again at the end; older ones are dropped."""
_PASSWORD_HINT = (
    "Servers give the same answer for a wrong user, a wrong password and a locked account. Sign in on the provider's "
    "website to check. If that works, wait 15 minutes (a lock expires) and run `bulkdl login`"
)
_TOTP_HINT = (
    "Servers give the same answer for a wrong user, a wrong password, a wrong TOTP code and a locked account. To check, "
    "sign in on the provider's website with a code from this TOTP secret, and check this machine's clock. If both are "
    "right, wait 15 minutes (a lock expires) and run `bulkdl login`"
)


class TokenManager:
    """The token of one (token endpoint, client, user). Authenticators call `access_token` and `reject`."""

    def __init__(
        self,
        login: LoginRequest,
        token_client: TokenClient,
        *,
        hub: Hub,
        clock: Clock,
        rng: random.Random,
        retry_limits: RetryLimits | None = None,
        memory: LoginMemory | None = None,
    ) -> None:
        self._login = login
        self._token_client = token_client
        self._hub = hub
        self._clock = clock
        self._rng = rng
        self._retry_limits = retry_limits or RetryLimits()
        self._active: ActiveToken | None = None
        self._task: asyncio.Task[None] | None = None
        self._login_lifetime = 0.0
        self._asked_at = float("-inf")
        self._retries = EndpointRetries(
            login,
            hub=hub,
            clock=clock,
            rng=rng,
            limits=self._retry_limits,
            memory=memory,
            valid_until=self._valid_until,
        )
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False
        self._users = 0
        self._session: Secret | None = None
        """The newest refresh token of the current session; None if there is no session."""
        self._sessions_to_close: list[Secret] = []
        """Refresh tokens of older sessions whose logout failed; `close` tries again."""
        self._skew_noted = False
        self.logins = 0
        self.refreshes = 0
        self.stopped: AccountStopped | None = None

    @property
    def active_token(self) -> ActiveToken | None:
        """The current token, in any phase; None before the first login."""
        return self._active

    @property
    def waiting(self) -> bool:
        """True if there is no usable token and the endpoint is out of order, so that requests have to wait."""
        if not self._retries.failing.is_set() or self.stopped is not None:
            return False
        active = self._active
        return active is None or active.phase(self._clock.monotonic()) is TokenPhase.EXPIRED

    @property
    def skew(self) -> float | None:
        """Seconds by which the server's clock is ahead; None if not known yet."""
        return self._token_client.skew

    @property
    def uses_totp(self) -> bool:
        return self._login.uses_totp

    @property
    def account(self) -> str:
        """The account that created the manager; other accounts with the same login may share it."""
        return self._login.account

    def attach(self) -> None:
        """Count one more authenticator; when the last one calls `detach`, the manager closes."""
        self._users += 1

    async def detach(self) -> None:
        self._users -= 1
        if self._users <= 0:
            await self.close()

    async def access_token(self) -> ActiveToken:
        """Return a token that should be valid; log in, refresh or wait if necessary.

        Raise `AccountStopped`, or `AccountWaiting` if this is a run and the endpoint is out of order.
        """
        while True:
            self._raise_if_closed()
            active = self._active
            phase = TokenPhase.EXPIRED if active is None else active.phase(self._clock.monotonic())
            if active is not None and phase is TokenPhase.FRESH:
                return active
            task = self._renewal(_renewal_reason(active, phase))
            if active is not None and (
                phase is TokenPhase.REFRESH_SOON or (phase is TokenPhase.REFRESH_NOW and self._retries.endpoint_failing)
            ):
                return active
            await self._wait_for(task)

    def reject(self, generation: int, *, session_over: bool = False) -> None:
        """Mark this generation as refused by the archive: the next `access_token` renews it, once for all workers.

        `session_over`: renew by a login, because a refresh cannot help.
        """
        active = self._active
        if active is not None and active.generation == generation:
            token = dataclasses.replace(active.token, refresh=None) if session_over else active.token
            self._active = dataclasses.replace(active, token=token, rejected=True)

    async def renew(self, reason: RenewalReason) -> ActiveToken:
        """Renew the token now, in any phase, and return the new one (for rehearsals). Raise `AccountStopped`."""
        self._raise_if_closed()
        await self._wait_for(self._renewal(reason))
        return await self.access_token()

    async def close(self) -> None:
        """Log out of every open session, once, within `RetryLimits.logout_s`."""
        if self._closed:
            return
        self._closed = self._retries.closed = True
        task = self._task
        if self._keeper is not None:
            self._keeper.cancel()
        try:
            async with asyncio.timeout(self._retry_limits.logout_s):
                if task is not None and not task.done():
                    if not self._token_client.in_flight or self._retries.failing.is_set():
                        task.cancel()
                    await asyncio.wait({task})  # it may just be opening a session, which we must close too
                await self._log_out_all()
        except TimeoutError:
            self._hub.note(
                Level.WARNING,
                f"{self._login.account}: the token endpoint did not answer the logout in time",
            )
        finally:
            if task is not None and not task.done():
                task.cancel()

    # The renewal. It runs in the one task that the manager owns.

    def _renewal(self, reason: RenewalReason) -> asyncio.Task[None]:
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()  # raise a bug in a renewal that no worker waited for
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(
                self._renew(reason), name=f"token {self._login.account}"
            )
        return self._task

    async def _wait_for(self, task: asyncio.Task[None]) -> None:
        if self._retry_limits.hold:
            failing = asyncio.ensure_future(self._retries.failing.wait())
            try:
                await asyncio.wait({task, failing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                failing.cancel()
            if not task.done() and self.waiting:
                raise AccountWaiting(self._retries.reason, account=self._login.account)
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()  # raise a bug in every worker that waits

    def _keep_renewing(self) -> None:
        """Renew the token in time also while no request asks, so that an outage of the endpoint is met with a valid token."""
        if not self._retry_limits.hold or (self._keeper is not None and not self._keeper.done()):
            return
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=f"keep {self._login.account}")

    async def _keep(self) -> None:
        while not self._closed and self.stopped is None and (active := self._active) is not None:
            wait = active.refresh_soon_at - self._clock.monotonic()
            if wait > 0:
                await self._clock.sleep(min(wait, _KEEPER_CHECK_S))
                continue
            if active.token.refresh is None:
                return  # only a login could renew it: log in when a request needs the token
            await asyncio.wait({self._renewal(RenewalReason.EXPIRES_SOON)})
            if self._active is active:
                return  # the next request reports what is wrong

    async def _renew(self, reason: RenewalReason) -> None:
        try:
            pause = self._asked_at + _MIN_INTERVAL_S - self._clock.monotonic()
            if pause > 0:
                await self._clock.sleep(pause)
            active = self._active
            if active is not None and reason is not RenewalReason.SECOND_LOGIN:
                refused = await self._refresh(active, reason)
                if refused is None:
                    return
                reason = refused
            await self._log_in(reason)
        except AccountStopped as stop:
            if self._closed:
                return
            self.stopped = stop
            self._set_state("stopped")
            self._emit(AccountAction.STOPPED, str(stop))

    async def _refresh(self, active: ActiveToken, reason: RenewalReason) -> RenewalReason | None:
        """Refresh the token. Return None on success, else the reason why a login is needed."""
        refresh = active.token.refresh
        if refresh is None:
            return RenewalReason.NO_REFRESH_TOKEN if reason is not RenewalReason.REJECTED else reason
        if not active.token.refresh_alive(self._clock.monotonic()):
            return RenewalReason.REFRESH_EXPIRED
        verdict = await self._retries.until_final(partial(self._ask_refresh, refresh))
        if not isinstance(verdict, Token):
            if isinstance(verdict, Refused) and verdict.session_over:
                self._session = None
            return RenewalReason.REFRESH_REFUSED
        token = _with_refresh_token(verdict, active.token)
        self._session = token.refresh
        if session_is_ending(token.lifetime, login_lifetime=self._login_lifetime):
            # A login ends the session and with it the token that workers use, so use that token up first.
            rest = use_up(active, now=self._clock.monotonic())
            if rest is None:
                return RenewalReason.SESSION_ENDING
            self._active = rest
            self.refreshes += 1
            self._emit(AccountAction.REFRESH, RenewalReason.SESSION_ENDING.value, token.lifetime)
            return None
        if active.rejected and token.access == active.token.access:
            return RenewalReason.REJECTED
        self.refreshes += 1
        self._activate(token, reason)
        self._emit(AccountAction.REFRESH, reason.value, token.lifetime)
        return None

    async def _log_in(self, reason: RenewalReason) -> None:
        await self._end_session()
        self._set_state("logging in")
        verdict = await self._retries.until_final(self._ask_login)
        if isinstance(verdict, Refused) and self._retries.has_worked():
            verdict = await self._retries.after_refused_login(verdict, self._ask_login)
        elif isinstance(verdict, Refused) and self._login.uses_totp and not verdict.hint:
            self._emit(AccountAction.WAITING, f"{verdict.reason}; one more attempt with the next one-time code")
            verdict = await self._retries.until_final(self._ask_login)
        if not isinstance(verdict, Token):
            raise self._stop_error(verdict)
        token = verdict if verdict.lifetime > 0 else dataclasses.replace(verdict, lifetime=DEFAULT_LIFETIME_S)
        self._login_lifetime = token.lifetime
        self._session = token.refresh
        self.logins += 1
        self._retries.record_login()
        self._activate(token, reason)
        self._emit(AccountAction.LOGIN, reason.value, token.lifetime)

    def _valid_until(self) -> float:
        """Return the monotonic time at which the current token expires; minus infinity if there is no usable one."""
        active = self._active
        return float("-inf") if active is None or active.rejected else active.expires_at

    async def _ask_refresh(self, refresh: Secret) -> Verdict:
        self._asked_at = self._clock.monotonic()
        return await self._token_client.refresh(refresh)

    async def _ask_login(self) -> Verdict:
        self._asked_at = self._clock.monotonic()
        return await self._token_client.log_in(waiting=self._waiting_for_code)

    def _activate(self, token: Token, reason: RenewalReason) -> None:
        active, now = self._active, self._clock.monotonic()
        if active is not None and not active.rejected and active.token.access == token.access:
            self._active = use_until_expiry(token, generation=active.generation, reason=active.reason, now=now)
        else:
            generation = 1 if active is None else active.generation + 1
            login_lifetime = self._login_lifetime
            self._active = schedule_renewal(
                token, generation=generation, reason=reason, now=now, rng=self._rng, login_lifetime=login_lifetime
            )
        self._set_state(f"token valid {token.lifetime:.0f} s")
        self._keep_renewing()
        skew = self._token_client.skew
        if skew is not None and abs(skew) >= _NOTABLE_SKEW_S and not self._skew_noted:
            self._skew_noted = True
            where = "behind" if skew > 0 else "ahead of"
            text = f"{self._login.account}: this machine's clock is {abs(skew):.0f} s {where} the token endpoint's"
            self._hub.note(Level.WARNING, f"{text}; one-time codes are corrected for it")

    # Ending.

    async def _end_session(self) -> None:
        """Log out of the old session before a login, which opens a new one: servers limit open sessions."""
        session, self._session = self._session, None
        if session is None:
            return
        if self._active is not None:  # the logout invalidates it: give it to no worker
            self._active = dataclasses.replace(self._active, rejected=True)
        if not await self._token_client.log_out(session):
            self._sessions_to_close = [*self._sessions_to_close, session][-_MAX_SESSIONS_TO_CLOSE:]

    async def _log_out_all(self) -> None:
        sessions = [*self._sessions_to_close, *([self._session] if self._session is not None else [])]
        self._session, self._sessions_to_close = None, []
        if not sessions:
            return
        async with asyncio.TaskGroup() as group:
            ended = [group.create_task(self._token_client.log_out(session)) for session in sessions]
        done = sum(task.result() for task in ended)
        self._set_state("logged out")
        self._emit(AccountAction.LOGOUT, f"{done} of {len(sessions)} sessions ended" if len(sessions) > 1 else "")

    def _raise_if_closed(self) -> None:
        if self.stopped is not None:  # a new exception each time: a shared one would collect every worker's traceback
            raise AccountStopped(self.stopped.reason, account=self.stopped.account, hint=self.stopped.hint)
        if self._closed:
            raise AccountStopped(
                "bulkdl is shutting down: no more tokens for this account", account=self._login.account
            )

    def _stop_error(self, verdict: Refused | Misconfigured) -> AccountStopped:
        account = self._login.account
        if isinstance(verdict, Misconfigured):
            return AccountStopped(f"cannot log in: {verdict.reason}", account=account, hint=verdict.hint)
        hint = _PASSWORD_HINT if self._login.password else "Check client_id and client_secret"
        hint = verdict.hint or (_TOTP_HINT if self._login.uses_totp else hint)
        return AccountStopped(f"login refused: {verdict.reason}", account=account, hint=hint)

    # State and events.

    def _waiting_for_code(self, seconds: float) -> None:
        self._set_state(f"waiting {seconds:.0f} s for a one-time code")
        self._emit(AccountAction.WAITING, f"{seconds:.0f} s for the next one-time code (each code works for one login)")

    def _set_state(self, state: str) -> None:
        self._hub.counters.accounts[self._login.account] = state

    def _emit(self, action: AccountAction, detail: str, lifetime_s: float | None = None) -> None:
        account = self._login.account
        self._hub.emit(AccountEvent(account=account, action=action, detail=detail, lifetime_s=lifetime_s))


def _renewal_reason(active: ActiveToken | None, phase: TokenPhase) -> RenewalReason:
    if active is None:
        return RenewalReason.FIRST
    if active.rejected:
        return RenewalReason.REJECTED
    return RenewalReason.EXPIRED if phase is TokenPhase.EXPIRED else RenewalReason.EXPIRES_SOON


def _with_refresh_token(token: Token, old: Token) -> Token:
    """Keep the old refresh token if the response has none (RFC 6749 §6)."""
    if token.refresh is not None:
        return token
    lifetime = None if old.refresh_lifetime is None else old.issued + old.refresh_lifetime - token.issued
    return dataclasses.replace(token, refresh=old.refresh, refresh_lifetime=lifetime)
