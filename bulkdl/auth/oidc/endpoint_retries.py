"""Ask a token endpoint again: while it is out of order, and after it refused a login that worked before."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bulkdl.auth.oidc.endpoint_outage import EndpointOutage
from bulkdl.auth.oidc.messages import Token
from bulkdl.auth.oidc.responses import Misconfigured, Refused, Unavailable
from bulkdl.concurrency.origin_health import NEW_ORIGIN_S, probe_pause
from bulkdl.core.errors import AccountStopped
from bulkdl.core.events import AccountAction, AccountEvent
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Trouble

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from bulkdl.auth.oidc.login import LoginRequest
    from bulkdl.auth.oidc.login_memory import LoginMemory
    from bulkdl.auth.oidc.responses import Verdict
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Hub

__all__ = ["EndpointRetries", "RetryLimits"]

_LOCK_PAUSES_S = (1200.0, 2400.0, 4800.0)
"""Waits (s) before a login that has worked, but is refused now, is tried again: a lock ends, and so do other sessions."""
_MAX_LOGIN_RETRIES = 4
"""Such retries in one run."""
_MIN_WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """Limits of the wait for a token endpoint that is out of order, counted from the end of the last valid token; in seconds."""

    give_up_after: float = 30.0
    """Longest wait; infinity: never give up. An endpoint that has never worked is waited for at most `NEW_ORIGIN_S`."""
    hold: bool = False
    """True in a run: while the endpoint is out of order, `access_token` raises `AccountWaiting` instead of waiting, a login
    that worked before is tried again after a refusal, and the token is renewed in time although nobody asks for it."""
    logout_s: float = 3.0
    """For all logouts at the end of the run, by the real clock."""


class EndpointRetries:
    """The retries of one login; `failing` is set while they wait."""

    def __init__(
        self,
        login: LoginRequest,
        *,
        hub: Hub,
        clock: Clock,
        rng: random.Random,
        limits: RetryLimits,
        memory: LoginMemory | None,
        valid_until: Callable[[], float],
    ) -> None:
        """`valid_until`: return the monotonic time at which the current token expires; minus infinity if there is none."""
        self._login = login
        self._hub = hub
        self._clock = clock
        self._rng = rng
        self._limits = limits
        self._memory = memory
        self._valid_until = valid_until
        self._outage: EndpointOutage | None = None
        self._logged_in = False
        self._login_retries = 0
        self.failing = asyncio.Event()
        self.endpoint_failing = False
        """True while the endpoint is out of order; False while a refused login waits for its next try."""
        self.closed = False
        """True if the run ends, so that no wait begins any more."""

    @property
    def reason(self) -> str:
        """Trouble of the endpoint now; empty if there is none."""
        return "" if self._outage is None else self._outage.reason

    def record_login(self) -> None:
        self._logged_in = True
        if self._memory is not None:
            self._memory.record()

    def has_worked(self) -> bool:
        """Return whether the same credentials have logged in before, so that a refusal is probably a lock that ends."""
        if not self._limits.hold:
            return False
        return self._logged_in or (self._memory is not None and self._memory.has_worked())

    async def until_final(self, send: Callable[[], Awaitable[Verdict]]) -> Token | Refused | Misconfigured:
        """Send the request again until the response is final; raise `AccountStopped` when the endpoint is given up."""
        began, failures = self._clock.monotonic(), 0
        outage = self._outage = EndpointOutage(self._login, clock=self._clock, hub=self._hub)
        given_up = True
        try:
            while True:
                verdict = await send()
                failure = self._temporary_failure(verdict)
                if failure is None:
                    assert not isinstance(verdict, Unavailable)
                    given_up = False
                    return verdict
                wait, left = self._next_wait(failure, began=began, failures=failures)
                failures += 1
                self.endpoint_failing = True
                outage.failed(failure.reason, failure.trouble, wait=wait, gives_up_in=left)
                self._set_state(f"token endpoint unavailable, retrying in {wait:.0f} s")
                if failures == 1:  # later ones are told by the outage
                    detail = f"{failure.reason}; retrying in {wait:.1f} s"
                    self._hub.emit(
                        AccountEvent(account=self._login.account, action=AccountAction.WAITING, detail=detail)
                    )
                self.failing.set()
                await self._clock.sleep(wait)
        finally:
            self.endpoint_failing = False
            self.failing.clear()
            self._outage = None
            outage.over(given_up=given_up)

    async def after_refused_login(
        self, refused: Refused, send: Callable[[], Awaitable[Verdict]]
    ) -> Token | Refused | Misconfigured:
        """Try a login that worked before again after growing pauses, a few times; the account's products wait meanwhile."""
        verdict: Token | Refused | Misconfigured = refused
        outage = EndpointOutage(self._login, clock=self._clock, hub=self._hub)
        try:
            for pause in _LOCK_PAUSES_S:
                if not isinstance(verdict, Refused) or self._login_retries >= _MAX_LOGIN_RETRIES or self.closed:
                    break
                self._login_retries += 1
                outage.failed(verdict.reason, Trouble.LOGIN, wait=pause, gives_up_in=None)
                self._set_state(f"login refused, trying again in {pause / 60:.0f} min")
                self.failing.set()
                await self._clock.sleep(pause)
                verdict = await self.until_final(send)
        finally:
            self.failing.clear()
            outage.over(given_up=not isinstance(verdict, Token))
        return verdict

    def _temporary_failure(self, verdict: Verdict) -> Unavailable | None:
        """Return a temporary failure, or None. What a gateway may have sent counts as one if a login worked before."""
        worked = self._logged_in or self.has_worked()
        match verdict:
            case Misconfigured() if not verdict.definite and (worked or (verdict.is_page and self._limits.hold)):
                return Unavailable(reason=verdict.reason, trouble=verdict.trouble)
            case Refused() if not verdict.is_oauth and worked:
                return Unavailable(reason=verdict.reason, trouble=Trouble.PAGE)
            case Unavailable():
                return verdict
            case _:
                return None

    def _next_wait(self, failure: Unavailable, *, began: float, failures: int) -> tuple[float, float]:
        """Return the seconds before the next try, at least the server's wish, and those until the endpoint is given up.

        Raise `AccountStopped` if it is given up now.
        """
        limit = self._limits.give_up_after
        if self._limits.hold and not self.has_worked():
            limit = min(limit, NEW_ORIGIN_S)
        left = max(began, self._valid_until()) + limit - self._clock.monotonic()
        if self.closed or left <= 0:
            hint = "Run again when the token endpoint works; finished products are kept"
            raise AccountStopped(
                f"{failure.reason}; gave up after {failures + 1} attempts", account=self._login.account, hint=hint
            )
        pause = probe_pause(failures, random=self._rng.random())
        return min(max(_MIN_WAIT_S, pause, failure.wait or 0.0), left), left

    def _set_state(self, state: str) -> None:
        self._hub.counters.accounts[self._login.account] = state
