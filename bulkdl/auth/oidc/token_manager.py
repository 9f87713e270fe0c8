"""One token for many workers, all night: renewed in time, by one request at a time, never more logins than needed.

The manager owns the task that renews; workers wait on it without owning it, so a cancelled worker never loses a
rotated refresh token.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from bulkdl.auth.oidc.messages import Token
from bulkdl.auth.oidc.responses import DEFAULT_LIFETIME_S, Misconfigured, Refused, Unavailable
from bulkdl.auth.oidc.token_lifetime import (
    ActiveToken,
    RenewalReason,
    TokenPhase,
    hold,
    hold_to_the_end,
    is_useless,
    run_out,
)
from bulkdl.core.errors import AccountStopped
from bulkdl.core.events import AccountAction, AccountEvent, Level
from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from bulkdl.auth.oidc.login import LoginRequest
    from bulkdl.auth.oidc.responses import Verdict
    from bulkdl.auth.oidc.token_client import TokenClient
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub
    from bulkdl.core.secret import Secret

__all__ = ["Patience", "TokenManager"]

_BACKOFF_BASE_S = 1.0
_BACKOFF_CAP_S = 60.0
_SHORTEST_WAIT_S = 0.2
_PACE_S = 0.5
_NOTABLE_SKEW_S = 15.0
_MOST_LEFTOVERS = 20
_PASSWORD_HINT = (
    "Servers answer alike for a wrong user, a wrong password and a locked account. Check by signing in on the provider's "
    "website; if that works, wait 15 minutes (a lock passes) and run `bulkdl login`"
)
_TOTP_HINT = (
    "Servers answer alike for a wrong user, a wrong password, a wrong TOTP code and a locked account. Check by signing in "
    "on the provider's website with a code made from this TOTP secret; check this machine's clock; if all that works, "
    "wait 15 minutes (a lock passes) and run `bulkdl login`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long an endpoint that is out of order is asked again, once no valid token is left; seconds."""

    worked_s: float = 300.0
    """For an account that has logged in before, or when the server itself asked to wait."""
    new_s: float = 30.0
    new_tries: int = 4
    logout_s: float = 3.0
    """For all log-outs at the end, by the real clock."""


class TokenManager:
    """The token of one (token endpoint, client, user). See the module; `get` and `reject` are what signers use."""

    def __init__(
        self,
        login: LoginRequest,
        exchange: TokenClient,
        *,
        hub: Hub,
        clock: Clock,
        rng: random.Random,
        patience: Patience | None = None,
    ) -> None:
        self._login = login
        self._exchange = exchange
        self._hub = hub
        self._clock = clock
        self._rng = rng
        self._patience = patience or Patience()
        self._held: ActiveToken | None = None
        self._task: asyncio.Task[None] | None = None
        self._usual_lifetime = 0.0
        self._asked_at = float("-inf")
        self._troubled = False
        self._closed = False
        self._users = 0
        self._session: Secret | None = None
        """The newest refresh token of a session that may be alive."""
        self._leftovers: list[Secret] = []
        self._skew_noted = False
        self.logins = 0
        self.refreshes = 0
        self.stopped: AccountStopped | None = None

    @property
    def held(self) -> ActiveToken | None:
        """What is in hand now, in whatever phase."""
        return self._held

    @property
    def skew(self) -> float | None:
        """Seconds by which the server's clock is ahead; None until an answer told."""
        return self._exchange.skew

    @property
    def uses_totp(self) -> bool:
        return self._login.uses_totp

    @property
    def account(self) -> str:
        """Whose the manager is first of all; other accounts with the same login may use it too."""
        return self._login.account

    def join(self) -> None:
        """Count one more signer: the last one that leaves closes the manager."""
        self._users += 1

    async def leave(self) -> None:
        self._users -= 1
        if self._users <= 0:
            await self.close()

    async def get(self) -> ActiveToken:
        """A token that is good as far as is known; logs in, renews or waits as its phase asks. Raise `AccountStopped`."""
        while True:
            self._check_open()
            held = self._held
            phase = TokenPhase.OVER if held is None else held.phase(self._clock.monotonic())
            if held is not None and phase is TokenPhase.FRESH:
                return held
            task = self._renewal(_reason(held, phase))
            if held is not None and (phase is TokenPhase.SOFT or (phase is TokenPhase.HARD and self._troubled)):
                return held
            await self._wait_for(task)

    def reject(self, generation: int, *, session_over: bool = False) -> None:
        """The archive refused this generation: the next `get` brings a newer one (one request, whoever asks).

        `session_over`: by a login, since a refresh cannot bring it.
        """
        held = self._held
        if held is not None and held.generation == generation:
            token = dataclasses.replace(held.token, refresh=None) if session_over else held.token
            self._held = dataclasses.replace(held, token=token, rejected=True)

    async def renew(self, reason: RenewalReason) -> ActiveToken:
        """Renew now, whatever the phase, and give what came; for rehearsals. Raise `AccountStopped`."""
        self._check_open()
        await self._wait_for(self._renewal(reason))
        return await self.get()

    async def close(self) -> None:
        """Log out of every session that was opened, once, within `Patience.logout_s`."""
        if self._closed:
            return
        self._closed = True
        task = self._task
        try:
            async with asyncio.timeout(self._patience.logout_s):
                if task is not None and not task.done():
                    if not self._exchange.in_flight:
                        task.cancel()
                    await asyncio.wait({task})  # a session that is being opened is to be closed too
                await self._log_out_all()
        except TimeoutError:
            self._hub.note(
                Level.WARNING, f"{self._login.account}: the token endpoint did not answer the log-out in time"
            )
        finally:
            if task is not None and not task.done():
                task.cancel()

    # The renewal: everything below runs in the one task that the manager owns.

    def _renewal(self, reason: RenewalReason) -> asyncio.Task[None]:
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()  # a defect in a renewal that nobody waited for
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(
                self._renew(reason), name=f"token {self._login.account}"
            )
        return self._task

    async def _wait_for(self, task: asyncio.Task[None]) -> None:
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()  # a defect is everyone's

    async def _renew(self, reason: RenewalReason) -> None:
        try:
            pause = self._asked_at + _PACE_S - self._clock.monotonic()
            if pause > 0:
                await self._clock.sleep(pause)
            held = self._held
            if held is not None and reason is not RenewalReason.SECOND_LOGIN:
                refused = await self._refresh(held, reason)
                if refused is None:
                    return
                reason = refused
            await self._log_in(reason)
        except AccountStopped as stop:
            if self._closed:
                return
            self.stopped = stop
            self._show("stopped")
            self._emit(AccountAction.STOPPED, str(stop))

    async def _refresh(self, held: ActiveToken, reason: RenewalReason) -> RenewalReason | None:
        """None when a refresh brought a token that is of use; else why a login is due."""
        refresh = held.token.refresh
        if refresh is None:
            return RenewalReason.NO_REFRESH_TOKEN if reason is not RenewalReason.REJECTED else reason
        if not held.token.refresh_alive(self._clock.monotonic()):
            return RenewalReason.REFRESH_EXPIRED
        verdict = await self._persist(lambda: self._exchange.refresh(refresh))
        if not isinstance(verdict, Token):
            if isinstance(verdict, Refused) and verdict.session_over:
                self._session = None
            return RenewalReason.REFRESH_REFUSED
        token = _with_refresh_token(verdict, held.token)
        self._session = token.refresh
        if is_useless(token.lifetime, usual=self._usual_lifetime):
            # A login closes the session, and with it the token that workers have: it is used up first.
            rest = run_out(held, now=self._clock.monotonic())
            if rest is None:
                return RenewalReason.USELESS_LIFETIME
            self._held = rest
            self.refreshes += 1
            self._emit(AccountAction.REFRESH, RenewalReason.USELESS_LIFETIME.value, token.lifetime)
            return None
        if held.rejected and token.access == held.token.access:
            return RenewalReason.REJECTED
        self.refreshes += 1
        self._adopt(token, reason)
        self._emit(AccountAction.REFRESH, reason.value, token.lifetime)
        return None

    async def _log_in(self, reason: RenewalReason) -> None:
        await self._end_session()
        self._show("logging in")
        verdict = await self._persist(self._ask_login)
        if isinstance(verdict, Refused) and self._login.uses_totp and not verdict.hint:
            self._emit(AccountAction.WAITING, f"{verdict.reason}; one more try with the next one-time code")
            verdict = await self._persist(self._ask_login)
        if not isinstance(verdict, Token):
            raise self._stop(verdict)
        token = verdict if verdict.lifetime > 0 else dataclasses.replace(verdict, lifetime=DEFAULT_LIFETIME_S)
        self._usual_lifetime = token.lifetime
        self._session = token.refresh
        self.logins += 1
        self._adopt(token, reason)
        self._emit(AccountAction.LOGIN, reason.value, token.lifetime)

    async def _ask_login(self) -> Verdict:
        return await self._exchange.log_in(waiting=self._waiting_for_code)

    def _adopt(self, token: Token, reason: RenewalReason) -> None:
        held, now = self._held, self._clock.monotonic()
        if held is not None and not held.rejected and held.token.access == token.access:
            self._held = hold_to_the_end(token, generation=held.generation, because=held.because, now=now)
        else:
            generation = 1 if held is None else held.generation + 1
            usual = self._usual_lifetime
            self._held = hold(token, generation=generation, because=reason, now=now, rng=self._rng, usual=usual)
        self._show(f"token valid {token.lifetime:.0f} s")
        skew = self._exchange.skew
        if skew is not None and abs(skew) >= _NOTABLE_SKEW_S and not self._skew_noted:
            self._skew_noted = True
            where = "behind" if skew > 0 else "ahead of"
            text = f"{self._login.account}: this machine's clock is {abs(skew):.0f} s {where} the token endpoint's"
            self._hub.note(Level.WARNING, f"{text}; one-time codes are corrected for it")

    # Asking again.

    async def _persist(self, ask: Callable[[], Awaitable[Verdict]]) -> Token | Refused | Misconfigured:
        """Ask until there is a verdict that asking again cannot change, or patience is at its end."""
        began, tries = self._clock.monotonic(), 0
        try:
            while True:
                self._asked_at = self._clock.monotonic()
                verdict = await ask()
                trouble = self._trouble(verdict)
                if trouble is None:
                    assert not isinstance(verdict, Unavailable)
                    return verdict
                tries += 1
                wait = self._next_wait(trouble, began=began, tries=tries)
                self._troubled = True
                self._show(f"token endpoint in trouble, next try in {wait:.0f} s")
                self._emit(AccountAction.WAITING, f"{trouble.reason}; next try in {wait:.1f} s")
                await self._clock.sleep(wait)
        finally:
            self._troubled = False

    def _trouble(self, verdict: Verdict) -> Unavailable | None:
        """What may pass: also a foreign answer (a maintenance page) where logins have worked before."""
        if isinstance(verdict, Misconfigured) and not verdict.definite and self.logins:
            return Unavailable(reason=verdict.reason)
        return verdict if isinstance(verdict, Unavailable) else None

    def _next_wait(self, trouble: Unavailable, *, began: float, tries: int) -> float:
        """Full jitter, at least what the server asked for; raise `AccountStopped` when patience is at its end."""
        held, now, patience = self._held, self._clock.monotonic(), self._patience
        since = began if held is None or held.rejected else max(began, held.over_at)
        lenient = self.logins > 0 or trouble.wait is not None
        left = since + (patience.worked_s if lenient else patience.new_s) - now
        if self._closed or left <= 0 or (not lenient and tries >= patience.new_tries):
            hint = "Run again when it can be reached; what is done is kept"
            raise AccountStopped(f"{trouble.reason}; {tries} tries", account=self._login.account, hint=hint)
        ceiling = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2.0 ** min(tries - 1, 16))
        wait = max(_SHORTEST_WAIT_S, self._rng.uniform(0, ceiling), trouble.wait or 0.0)
        return min(wait, left)

    # Ending.

    async def _end_session(self) -> None:
        """Every password login is a new session, and servers limit them: the old one is closed first."""
        session, self._session = self._session, None
        if session is None:
            return
        if self._held is not None:  # it goes with its session: nobody is given it any more
            self._held = dataclasses.replace(self._held, rejected=True)
        if not await self._exchange.log_out(session):
            self._leftovers = [*self._leftovers, session][-_MOST_LEFTOVERS:]

    async def _log_out_all(self) -> None:
        sessions = [*self._leftovers, *([self._session] if self._session is not None else [])]
        self._session, self._leftovers = None, []
        if not sessions:
            return
        async with asyncio.TaskGroup() as group:
            ended = [group.create_task(self._exchange.log_out(session)) for session in sessions]
        done = sum(task.result() for task in ended)
        self._show("logged out")
        self._emit(AccountAction.LOGOUT, f"{done} of {len(sessions)} sessions ended" if len(sessions) > 1 else "")

    def _check_open(self) -> None:
        if self.stopped is not None:  # a new one each time: an exception that many raise grows one traceback for all
            raise AccountStopped(self.stopped.reason, account=self.stopped.account, hint=self.stopped.hint)
        if self._closed:
            raise AccountStopped("the account has been closed", account=self._login.account)

    def _stop(self, verdict: Refused | Misconfigured) -> AccountStopped:
        account = self._login.account
        if isinstance(verdict, Misconfigured):
            return AccountStopped(f"cannot log in: {verdict.reason}", account=account, hint=verdict.hint)
        hint = _PASSWORD_HINT if self._login.password else "Check client_id and client_secret"
        hint = verdict.hint or (_TOTP_HINT if self._login.uses_totp else hint)
        return AccountStopped(f"login refused: {verdict.reason}", account=account, hint=hint)

    # Telling.

    def _waiting_for_code(self, seconds: float) -> None:
        self._show(f"waiting {seconds:.0f} s for a one-time code")
        self._emit(AccountAction.WAITING, f"{seconds:.0f} s for the next one-time code (each is good for one login)")

    def _show(self, state: str) -> None:
        self._hub.counters.accounts[self._login.account] = state

    def _emit(self, action: AccountAction, detail: str, lifetime_s: float | None = None) -> None:
        account = self._login.account
        self._hub.emit(AccountEvent(account=account, action=action, detail=detail, lifetime_s=lifetime_s))


def _reason(held: ActiveToken | None, phase: TokenPhase) -> RenewalReason:
    if held is None:
        return RenewalReason.FIRST
    if held.rejected:
        return RenewalReason.REJECTED
    return RenewalReason.EXPIRED if phase is TokenPhase.OVER else RenewalReason.AGEING


def _with_refresh_token(token: Token, old: Token) -> Token:
    """A reply without a refresh token leaves the old one in force (RFC 6749 §6)."""
    if token.refresh is not None:
        return token
    lifetime = None if old.refresh_lifetime is None else old.issued + old.refresh_lifetime - token.issued
    return dataclasses.replace(token, refresh=old.refresh, refresh_lifetime=lifetime)
