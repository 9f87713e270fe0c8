"""What a token endpoint's answer means: a token, a refusal, a passing trouble, or a setting that is wrong.

Servers disagree about the same case (a wrong password is 400, 401 or 403, with a JSON error, another one, or an empty
body), so a refusal is read tolerantly; `_DIALECTS` holds as data what is known to mean something else.
"""

from __future__ import annotations

import base64
import json
import math
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from bulkdl.auth.oidc.messages import Token
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.secret import MASK, Secret
from bulkdl.protocol.headers import parse_http_date, parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bulkdl.auth.oidc.messages import TokenResponse
    from bulkdl.core.urls import Url

__all__ = [
    "DEFAULT_LIFETIME_S",
    "Misconfigured",
    "Refused",
    "Unavailable",
    "Verdict",
    "clean",
    "clock_skew",
    "read_reply",
]

DEFAULT_LIFETIME_S = 300.0
_LONGEST_LIFETIME_S = 365 * 86400.0
_LONGEST_WAIT_S = 300.0
_LONGEST_QUOTE = 200
_SHORTEST_SECRET = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The credentials, the code or the refresh token are not accepted; asking again with the same is useless."""

    reason: str
    session_over: bool = False
    """The server says that the session is gone, so there is none to log out."""
    hint: str = ""
    """What to do, where the server names the cause; empty where it answers alike for several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """A passing trouble: ask again after a while."""

    reason: str
    wait: float | None = None
    """Seconds, the server's own wish (Retry-After), capped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misconfigured:
    """The token URL, the client or its rights are wrong; a person has to mend something."""

    reason: str
    hint: str
    definite: bool = True
    """False: the answer did not come from a token endpoint at all, as when a maintenance page stands before it."""


Verdict = Token | Refused | Unavailable | Misconfigured


@dataclass(frozen=True, slots=True)
class _Dialect:
    """One known meaning of an OAuth error (RFC 6749 §5.2) with status 400, 401 or 403; patterns match whole words."""

    error: str
    description: str
    hint: str


_UNAVAILABLE = re.compile(r"temporarily_unavailable|server_error|slow_down|too_many_requests")
_SESSION_OVER = re.compile(
    r"session not active|token is not active|stale token|reuse exceeded|session expired", re.IGNORECASE
)
_TOO_MANY_SESSIONS = re.compile(
    r"(?:too many|maximum|max|limit).{0,40}\bsessions?\b|\bsessions?\b.{0,40}(?:limit|exceeded)", re.IGNORECASE
)
"""Refused with a status of wrong passwords, but no one guesses here: it passes when other sessions end."""
_NAMED_REFUSALS = {
    "account disabled": "The provider has disabled this user: ask its support",
    "not fully set up": "Sign in once on the provider's website: it wants something of this user there (terms, e-mail, a new password)",
    "temporarily disabled": "The user is locked after failed attempts: wait a quarter of an hour before the next one",
}
_DIALECTS = (
    _Dialect(
        "unauthorized_client",
        "direct access",
        "Ask the service to allow direct access grants for this client, or set another client_id",
    ),
    _Dialect("invalid_client|unauthorized_client", "", "Check client_id and client_secret"),
    _Dialect("unsupported_grant_type|unsupported_response_type", "", "Check `grant` and `token_url`"),
    _Dialect("invalid_scope", "", "Check `scope`"),
)


def read_reply(reply: TokenResponse, *, url: Url, secrets: Iterable[Secret], now: float) -> Verdict:
    """Judge an answer; `now` is the wall clock for a Retry-After date, `secrets` are masked in what is quoted."""
    document = _json(reply.body)
    status = reply.status
    if status in (408, 425, 429) or status >= 500:
        wait = parse_retry_after(reply.header("Retry-After"), now=now)
        said = _said(document, secrets)
        reason = f"the token endpoint {url.host} answered {status}{said}"
        return Unavailable(reason=reason, wait=None if wait is None else min(wait, _LONGEST_WAIT_S))
    if 200 <= status < 300:
        return _success(reply, document, url)
    if status in (400, 401, 403):
        return _refusal(status, document, url, secrets)
    return _elsewhere(reply, url)


def clock_skew(reply: TokenResponse, *, wall: float) -> float | None:
    """Seconds by which the server's clock is ahead of this machine's; None where unknown.

    Its clock is its Date (RFC 9110 §6.6.1), else the time at which the token says it was issued (RFC 7519 §4.1.6).
    """
    date = parse_http_date(reply.header("Date"))
    told = _issued_at(reply.body) if date is None else date
    return None if told is None else told + 0.5 - wall  # whole seconds: on average half a second is cut off


def _issued_at(body: bytes) -> float | None:
    document = _json(body)
    access = document.get("access_token") if isinstance(document, dict) else None
    parts = access.split(".") if isinstance(access, str) else []
    if len(parts) != 3:
        return None
    try:
        claims = _json(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    issued = _number(claims.get("iat")) if isinstance(claims, dict) else None
    return issued if issued is not None and issued > 0 else None


def clean(text: str, secrets: Iterable[Secret]) -> str:
    """Text from a server, fit to be shown: no secret raw or percent-encoded, no control characters, at most 200."""
    for secret in secrets:
        raw = secret.reveal()
        if len(raw) < _SHORTEST_SECRET:
            continue  # a mask in place of each such letter would tell what it hides
        for form in sorted({raw, raw.strip(), quote(raw, safe=""), quote_plus(raw), quote(raw)} - {""}, key=len)[::-1]:
            text = re.sub(re.escape(form), MASK, text, flags=re.IGNORECASE)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _LONGEST_QUOTE else f"{text[: _LONGEST_QUOTE - 1]}…"


def _success(reply: TokenResponse, document: Any, url: Url) -> Verdict:
    if not isinstance(document, dict):
        kind = "a web page" if reply.body.lstrip()[:1] == b"<" else "something that is no JSON object"
        return _foreign(f"the token endpoint {url.host} answered {reply.status} with {kind} in place of a token")
    access = document.get("access_token")
    if not isinstance(access, str) or not _fits_a_header(access):
        return _foreign(f"the token endpoint {url.host} answered {reply.status} without a usable access_token")
    refresh = document.get("refresh_token")
    return Token(
        access=Secret(access),
        refresh=Secret(refresh) if isinstance(refresh, str) and refresh else None,
        issued=reply.sent_at,
        lifetime=_access_lifetime(document.get("expires_in")),
        refresh_lifetime=_refresh_lifetime(document.get("refresh_expires_in")),
    )


def _refusal(status: int, document: Any, url: Url, secrets: Iterable[Secret]) -> Verdict:
    secrets = tuple(secrets)
    error, description = _oauth(document)
    said = _said(document, secrets)
    reason = f"the token endpoint {url.host} answered {status}{said}"
    if _UNAVAILABLE.fullmatch(error) or _TOO_MANY_SESSIONS.search(description):
        return Unavailable(reason=reason)
    for dialect in _DIALECTS:
        if re.fullmatch(dialect.error, error) and dialect.description in description.lower():
            return Misconfigured(reason=reason, hint=dialect.hint)
    hint = next((hint for words, hint in _NAMED_REFUSALS.items() if words in description.lower()), "")
    return Refused(reason=reason, session_over=_SESSION_OVER.search(description) is not None, hint=hint)


def _elsewhere(reply: TokenResponse, url: Url) -> Misconfigured:
    if 300 <= reply.status < 400:
        target = _target(reply.header("Location"), url)
        return _foreign(
            f"the token endpoint {url.host} answered {reply.status}, a redirect{target}; it is not followed"
        )
    return _foreign(f"the token endpoint {url} answered {reply.status}")


def _foreign(reason: str) -> Misconfigured:
    return Misconfigured(
        reason=reason, hint="Check `token_url`: it has to be the token endpoint itself", definite=False
    )


def _target(location: str | None, url: Url) -> str:
    try:
        return f" to {url.join(location)}" if location else ""
    except ValueError:
        return ""


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _oauth(document: Any) -> tuple[str, str]:
    """`error` and `error_description` (RFC 6749 §5.2), or the nearest that other servers have."""
    if not isinstance(document, dict):
        return "", ""
    error = document.get("error")
    texts = (document.get(key) for key in ("error_description", "message", "detail", "title"))
    description = next((t for t in texts if isinstance(t, str) and t), "")
    return error if isinstance(error, str) else "", description


def _said(document: Any, secrets: Iterable[Secret]) -> str:
    """What the server's JSON says for itself; bodies of another kind are not quoted."""
    error, description = _oauth(document)
    text = clean(f"{error}: {description}" if error and description else error or description, secrets)
    return f" ({text})" if text else ""


def _fits_a_header(value: str) -> bool:
    return bool(value) and value.isascii() and all("!" <= c <= "~" for c in value)


def _number(value: Any) -> float | None:
    """A finite number from JSON, also one in a string; NaN, infinity, true and words are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _access_lifetime(value: Any) -> float:
    number = _number(value)
    return DEFAULT_LIFETIME_S if number is None else min(max(0.0, number), _LONGEST_LIFETIME_S)


def _refresh_lifetime(value: Any) -> float | None:
    """Keycloak's 0 means no end; a negative or missing one says nothing, so that a refresh is tried."""
    number = _number(value)
    return None if number is None or number <= 0 else number
