"""Token endpoint that behaves like Keycloak, for the demo and for tests that compress hours into a second.

It reproduces the statuses and messages of Keycloak, one-time codes that work once, and refresh token rotation, which
ends the session if a token is reused. It also locks a user after two quick failures, bounds token lifetimes by the
session, limits sessions, and supports logout.
"""

from __future__ import annotations

import hmac
import secrets
from collections import Counter, deque
from dataclasses import field
from email.utils import formatdate
from typing import TYPE_CHECKING

import pyotp
from aiohttp import web

from bulkdl.core.clock import SystemClock
from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping

    from bulkdl.core.clock import Clock

__all__ = ["Call", "ClientApp", "EndpointFault", "Identity", "Policy", "User"]

_PERIOD_S = 30
_CODE_LIFE_S = 90.0
_BAD_CREDENTIALS = (401, "invalid_grant", "Invalid user credentials")
_LIMIT_PAGE = "<!DOCTYPE html>\n<html><head><title>Session limit exceeded</title></head></html>\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    name: str
    password: str = field(repr=False)
    totp_secret: str | None = field(default=None, repr=False)
    """Base32; spaces and lower case are fine."""
    enabled: bool = True
    complete: bool = True
    """False: logins fail with Keycloak's "Account is not fully set up"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientApp:
    """Registered client. With a secret it is confidential and may use client credentials."""

    id: str
    secret: str | None = field(default=None, repr=False)
    direct_grant: bool = True
    expires_in: float | None = None
    """Lifetime of access tokens in seconds; None means that of the realm."""
    refresh_expires_in: float | None = None
    """Lifetime of refresh tokens in seconds; None means that of the realm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Settings of the realm; times are in seconds."""

    expires_in: float = 300.0
    refresh_expires_in: float = 1800.0
    """0 means no expiry."""
    session_max: float = 36000.0
    """Maximum age of a session; its tokens never live longer."""
    session_limit: int | None = None
    rotate: bool = True
    """Each refresh token works once; reuse ends the session."""
    brute_force: bool = True
    """Lock users after failures, and refuse a second concurrent login of a user like a wrong password."""
    quick_login_check: float = 1.0
    """Two failures within this time lock the user."""
    quick_login_wait: float = 60.0
    """Duration of the lock."""
    failure_factor: int = 30
    """This many failures in a row lock the user too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFault:
    """Fault for one request, instead of its processing or after it."""

    status: int | None = None
    """Status of a scripted response; None sends the real one."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Mapping[str, object] = b""
    """A mapping is sent as JSON; if `status` is None, it overrides fields of the real response."""
    without: tuple[str, ...] = ()
    """Fields to remove from the real response."""
    delay: float = 0.0
    until: asyncio.Event | None = None
    """Hold the response back until this is set."""
    drop: bool = False
    """Process the request, then close the connection without a response."""


@dataclass(frozen=True, slots=True)
class Call:
    """Request to the endpoint and its outcome."""

    at: float
    """Unix time."""
    kind: str
    """Grant type (`password`, `refresh_token`, `client_credentials`, or the unsupported one), or `logout`."""
    status: int
    error: str
    """Error description of Keycloak, "" for a success or a scripted response."""
    user: str = ""


@dataclass(slots=True, eq=False)
class _Session:
    user: str
    client: str
    started: float
    refresh: str = ""
    used: list[str] = field(default_factory=list)
    """Refresh tokens that rotation replaced."""
    refreshed: float = 0.0
    ended: bool = False


@dataclass(slots=True)
class _Access:
    session: _Session | None
    expires: float


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: float = float("-inf")
    locked_until: float = float("-inf")


class _Refusal(Exception):  # noqa: N818 - a response, not a defect
    def __init__(self, status: int, error: str, description: str, *, page: bool = False) -> None:
        super().__init__(description)
        self.status, self.error, self.description, self.page = status, error, description, page


class Identity:
    """Users, clients and sessions of one realm, with the endpoints `…/token` and `…/logout`."""

    def __init__(
        self,
        users: Iterable[User] = (),
        clients: Iterable[ClientApp] = (),
        *,
        policy: Policy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.users = {user.name: user for user in users}
        self.clients = {client.id: client for client in clients}
        self.policy = policy or Policy()
        self.log: list[Call] = []
        self._clock = clock or SystemClock()
        self._sessions: list[_Session] = []
        self._access: dict[str, _Access] = {}
        self._refresh: dict[str, _Session] = {}
        self._failures: dict[str, _Failures] = {}
        self._codes: dict[tuple[str, str], float] = {}
        self._logging_in: set[str] = set()
        self._faults: deque[EndpointFault] = deque()
        self._logout_faults: deque[EndpointFault] = deque()

    # Control of the server.

    def app(self) -> web.Application:
        """Return the application to mount, for instance at `/auth/realms/demo/protocol/openid-connect`."""
        app = web.Application()
        app.router.add_post("/token", self._token)
        app.router.add_post("/logout", self._logout)
        return app

    def check(self, token: str) -> bool:
        """Return True if the access token is valid now."""
        access = self._access.get(token)
        if access is None or self._now() >= access.expires:
            return False
        return access.session is None or self._alive(access.session)

    def script(self, *faults: EndpointFault, times: int = 1) -> None:
        """Apply these faults to the next requests to `…/token`, one each; repeat the sequence `times` times."""
        self._faults.extend(faults * times)

    def script_logout(self, *faults: EndpointFault) -> None:
        """Apply these faults to the next requests to `…/logout`; only their delays count."""
        self._logout_faults.extend(faults)

    def revoke_access(self) -> None:
        """Revoke every access token; sessions stay alive."""
        self._access.clear()

    def end_sessions(self, user: str | None = None) -> None:
        """End the sessions of one user, or all, as an administrator would."""
        for session in self._sessions:
            session.ended = session.ended or user in (None, session.user)

    def unlock(self, user: str) -> None:
        self._failures.pop(user, None)

    @property
    def sessions(self) -> int:
        """Number of active sessions."""
        return sum(self._alive(session) for session in self._sessions)

    @property
    def logins(self) -> int:
        return self.count("password", status=200) + self.count("client_credentials", status=200)

    @property
    def refreshes(self) -> int:
        return self.count("refresh_token", status=200)

    @property
    def logouts(self) -> int:
        return self.count("logout", status=204)

    @property
    def failures(self) -> Counter[str]:
        """Number of refusals by Keycloak's error description."""
        return Counter(call.error for call in self.log if call.error)

    def count(self, kind: str, *, status: int | None = None, user: str | None = None) -> int:
        """Return the number of requests of a kind, optionally with one status or of one user."""
        return sum(
            call.kind == kind and status in (None, call.status) and user in (None, call.user) for call in self.log
        )

    # HTTP handlers.

    async def _token(self, request: web.Request) -> web.Response:
        form = {key: value for key, value in (await request.post()).items() if isinstance(value, str)}
        fault = self._faults.popleft() if self._faults else EndpointFault()
        kind, user = form.get("grant_type", ""), form.get("username", "")
        if fault.status is not None:
            answer = _scripted(fault)
            self._record(kind, fault.status, "", user)
        else:
            answer = self._process(kind, form, fault)
        first = user not in self._logging_in
        self._logging_in.add(user)
        try:
            await self._hold_back(request, fault)
        finally:
            if first:
                self._logging_in.discard(user)
        answer.headers.setdefault("Date", formatdate(self._clock.wall(), usegmt=True))
        return answer

    async def _hold_back(self, request: web.Request, fault: EndpointFault) -> None:
        if fault.delay:
            await self._clock.sleep(fault.delay)
        if fault.until is not None:
            await fault.until.wait()
        if fault.drop and request.transport is not None:
            request.transport.close()

    def _process(self, kind: str, form: Mapping[str, str], fault: EndpointFault) -> web.Response:
        session = self._refresh.get(form.get("refresh_token", ""))
        user = form.get("username", "") if session is None else session.user
        try:
            document = self._grant(kind, form)
        except _Refusal as refusal:
            self._record(kind, refusal.status, refusal.description, user)
            return _refused(refusal)
        self._record(kind, 200, "", user)
        changed = {**document, **(fault.body if not isinstance(fault.body, bytes) else {})}
        return web.json_response({k: v for k, v in changed.items() if k not in fault.without}, headers=fault.headers)

    async def _logout(self, request: web.Request) -> web.Response:
        form = {key: value for key, value in (await request.post()).items() if isinstance(value, str)}
        await self._hold_back(request, self._logout_faults.popleft() if self._logout_faults else EndpointFault())
        try:
            session = self._end_session(self._client(form), form.get("refresh_token", ""))
        except _Refusal as refusal:
            self._record("logout", refusal.status, refusal.description, "")
            return _refused(refusal)
        self._record("logout", 204, "", session.user)
        return web.Response(status=204)

    def _record(self, kind: str, status: int, error: str, user: str) -> None:
        self.log.append(Call(self._clock.wall(), kind, status, error, user))

    # Grants (RFC 6749).

    def _grant(self, kind: str, form: Mapping[str, str]) -> dict[str, object]:
        client = self._client(form)
        if kind == "password":
            return self._log_in(client, form)
        if kind == "refresh_token":
            return self._renew(client, form.get("refresh_token", ""))
        if kind != "client_credentials":
            raise _Refusal(400, "unsupported_grant_type", "Unsupported grant_type")
        if client.secret is None:
            raise _Refusal(401, "unauthorized_client", "Public client not allowed to retrieve service account")
        lifetime = self.policy.expires_in
        return {"access_token": self._mint(None, lifetime), "expires_in": _number(lifetime), "token_type": "Bearer"}

    def _client(self, form: Mapping[str, str]) -> ClientApp:
        client = self.clients.get(form.get("client_id", ""))
        if client is None:
            raise _Refusal(401, "invalid_client", "Invalid client or Invalid client credentials")
        if client.secret is not None and not _same(client.secret, form.get("client_secret", "")):
            raise _Refusal(401, "unauthorized_client", "Invalid client or Invalid client credentials")
        return client

    def _log_in(self, client: ClientApp, form: Mapping[str, str]) -> dict[str, object]:
        if not client.direct_grant:
            raise _Refusal(400, "unauthorized_client", "Client not allowed for direct access grants")
        user = self.users.get(form.get("username", ""))
        if user is None:
            raise _Refusal(*_BAD_CREDENTIALS)
        if not user.enabled:
            raise _Refusal(400, "invalid_grant", "Account disabled")
        self._authenticate(user, form)
        if not user.complete:
            raise _Refusal(400, "invalid_grant", "Account is not fully set up")
        alive = sum(self._alive(s) for s in self._sessions if s.user == user.name)
        if self.policy.session_limit is not None and alive >= self.policy.session_limit:
            raise _Refusal(403, "", "session limit", page=True)
        session = _Session(user=user.name, client=client.id, started=self._now())
        self._sessions = [s for s in self._sessions if self._alive(s)] + [session]
        return self._issue(session)

    def _authenticate(self, user: User, form: Mapping[str, str]) -> None:
        """Check password and code; refuse either, and any login of a locked user, with the same error."""
        failures = self._failures.setdefault(user.name, _Failures())
        now = self._now()
        if self.policy.brute_force and (now < failures.locked_until or user.name in self._logging_in):
            raise _Refusal(*_BAD_CREDENTIALS)
        if _same(user.password, form.get("password", "")) and self._code_is_valid(user, form):
            failures.count = 0
            return
        failures.count += 1
        if now - failures.last <= self.policy.quick_login_check or failures.count >= self.policy.failure_factor:
            failures.locked_until = now + self.policy.quick_login_wait
        failures.last = now
        raise _Refusal(*_BAD_CREDENTIALS)

    def _code_is_valid(self, user: User, form: Mapping[str, str]) -> bool:
        """Check the code in `otp`, or in `totp` if `otp` is absent; a code is valid once within 90 s."""
        if user.totp_secret is None:
            return True
        code = form.get("otp", form.get("totp", ""))
        totp = pyotp.TOTP(user.totp_secret.replace(" ", "").upper())
        step = int(self._clock.wall() // _PERIOD_S)
        if not any(_same(totp.generate_otp(step + shift), code) for shift in (-1, 0, 1)):
            return False
        now, key = self._now(), (user.name, code)
        self._codes = {k: at for k, at in self._codes.items() if now - at < _CODE_LIFE_S}
        if key in self._codes:
            return False
        self._codes[key] = now
        return True

    def _renew(self, client: ClientApp, token: str) -> dict[str, object]:
        session = self._refresh.get(token)
        if session is None or session.client != client.id:
            raise _Refusal(400, "invalid_grant", "Invalid refresh token")
        if not self._alive(session):
            raise _Refusal(400, "invalid_grant", "Session not active")
        life = _first_set(client.refresh_expires_in, self.policy.refresh_expires_in)
        if life and self._now() >= session.refreshed + life:
            raise _Refusal(400, "invalid_grant", "Token is not active")
        if token != session.refresh and self.policy.rotate:
            session.ended = True
            last = token == session.used[-1]
            raise _Refusal(
                400, "invalid_grant", "Maximum allowed refresh token reuse exceeded" if last else "Stale token"
            )
        return self._issue(session)

    def _end_session(self, client: ClientApp, token: str) -> _Session:
        session = self._refresh.get(token)
        if session is None or session.client != client.id or not self._alive(session):
            raise _Refusal(400, "invalid_grant", "Invalid refresh token")
        session.ended = True
        return session

    def _issue(self, session: _Session) -> dict[str, object]:
        now = self._now()
        left = max(0.0, session.started + self.policy.session_max - now)
        client = self.clients[session.client]
        lifetime = min(_first_set(client.expires_in, self.policy.expires_in), left)
        refresh_lifetime = min(_first_set(client.refresh_expires_in, self.policy.refresh_expires_in), left)
        if self.policy.rotate or not session.refresh:
            if session.refresh:
                session.used.append(session.refresh)
            session.refresh = f"rt.{secrets.token_urlsafe(24)}"
            self._refresh[session.refresh] = session
        session.refreshed = now
        return {
            "access_token": self._mint(session, lifetime),
            "expires_in": _number(lifetime),
            "refresh_expires_in": _number(refresh_lifetime),
            "refresh_token": session.refresh,
            "token_type": "Bearer",
        }

    def _mint(self, session: _Session | None, lifetime: float) -> str:
        now = self._now()
        self._access = {token: access for token, access in self._access.items() if now < access.expires}
        token = f"at.{secrets.token_urlsafe(24)}"
        self._access[token] = _Access(session, now + lifetime)
        return token

    def _alive(self, session: _Session) -> bool:
        return not session.ended and self._now() < session.started + self.policy.session_max

    def _now(self) -> float:
        return self._clock.monotonic()


def _same(expected: str, given: str) -> bool:
    return hmac.compare_digest(expected.encode(), given.encode())


def _first_set(own: float | None, realm: float) -> float:
    return realm if own is None else own


def _number(seconds: float) -> int | float:
    return int(seconds) if seconds == int(seconds) or seconds > 1 else seconds


def _refused(refusal: _Refusal) -> web.Response:
    if refusal.page:
        return web.Response(status=refusal.status, text=_LIMIT_PAGE, content_type="text/html")
    document = {"error": refusal.error, "error_description": refusal.description}
    return web.json_response(document, status=refusal.status)


def _scripted(fault: EndpointFault) -> web.Response:
    status = 200 if fault.status is None else fault.status
    if isinstance(fault.body, bytes):
        return web.Response(status=status, body=fault.body, headers=fault.headers)
    return web.json_response(dict(fault.body), status=status, headers=fault.headers)
