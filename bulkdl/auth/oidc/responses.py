"""Interpret a token endpoint's response: a token, a refusal, a temporary failure, or a wrong setting.

Servers report the same case differently: a wrong password gives 400, 401 or 403, with one of several JSON errors or an
empty body. So 400, 401 and 403 count as a refusal, except for known errors (`_KNOWN_ERRORS`: a wrong setting).
"""

from __future__ import annotations

import base64
import json
import math
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from bulkdl.auth.challenges import parse_challenges
from bulkdl.auth.oidc.messages import Token
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Trouble
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
    "interpret_response",
    "wants_client_in_header",
]

DEFAULT_LIFETIME_S = 300.0
"""Seconds that we assume if the server does not say how long a token is valid."""
_MAX_LIFETIME_S = 365 * 86400.0
_MAX_WAIT_S = 300.0
"""Longest Retry-After that we obey, in seconds."""
_MAX_QUOTE = 200
_MIN_SECRET_CHARS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The server refuses the credentials, the one-time code or the refresh token. A retry with the same cannot help."""

    reason: str
    session_over: bool = False
    """The server says that the session has ended, so we need not log out."""
    hint: str = ""
    """Advice if the server names the cause; empty if its answer fits several causes."""
    is_oauth: bool = True
    """The response is an OAuth error (RFC 6749 §5.2). Otherwise a gateway may have sent it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """A temporary failure: retry later."""

    reason: str
    wait: float | None = None
    """Seconds to wait as the server asked (Retry-After), capped."""
    trouble: Trouble = Trouble.STATUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Misconfigured:
    """The token URL, the client or its rights are wrong; the user must change a setting."""

    reason: str
    hint: str
    definite: bool = True
    """False: the response is not from a token endpoint, so it may be temporary where a login has worked before."""
    is_page: bool = False
    """The response is a web page, as gateways send it during maintenance, so it may be temporary in any case."""
    trouble: Trouble = Trouble.PAGE
    """The trouble that it is, if it is temporary."""


Verdict = Token | Refused | Unavailable | Misconfigured


@dataclass(frozen=True, slots=True)
class _KnownError:
    """The meaning of one OAuth error (RFC 6749 §5.2) with status 400, 401 or 403.

    `error` is a pattern for the whole error code; `description` is a part of the description.
    """

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
"""Sent with the status of a wrong password, but it is temporary: it ends when other sessions end."""
_CLIENT_REFUSED = frozenset({"", "invalid_client", "invalid_request", "unauthorized", "unauthorized_client"})
"""Errors of a server that has not looked at the user's part of the form."""
_HEADER_WANTED = re.compile(r"client_secret_basic|authorization header|\bhttp[ -]basic|\bbasic auth", re.IGNORECASE)
_NAMED_REFUSALS = {
    "account disabled": "The provider has disabled this user: ask its support",
    "not fully set up": "Sign in once on the provider's website: it asks this user for something there (terms, e-mail, a new password)",
    "temporarily disabled": "The user is locked after failed logins: wait 15 minutes before the next one",
}
_KNOWN_ERRORS = (
    _KnownError(
        "unauthorized_client",
        "direct access",
        "Ask the service to allow direct access grants for this client, or set another client_id",
    ),
    _KnownError(
        "invalid_client|unauthorized_client", "", "Check client_id and client_secret, and `client_auth` (basic or post)"
    ),
    _KnownError("unsupported_grant_type|unsupported_response_type", "", "Check `grant` and `token_url`"),
    _KnownError("invalid_scope", "", "Check `scope`"),
)


def interpret_response(response: TokenResponse, *, url: Url, secrets: Iterable[Secret], now: float) -> Verdict:
    """Interpret a response. `now`: wall clock, for a Retry-After date. `secrets`: masked in quoted text."""
    document = _json(response.body)
    status = response.status
    if status in (408, 425, 429) or status >= 500:
        wait = parse_retry_after(response.header("Retry-After"), now=now)
        quoted = _quoted(document, secrets)
        reason = f"the token endpoint {url.host} answered {status}{quoted}"
        return Unavailable(reason=reason, wait=None if wait is None else min(wait, _MAX_WAIT_S))
    if 200 <= status < 300:
        return _success(response, document, url)
    if status in (400, 401, 403):
        if _is_page(response):
            text = f"the token endpoint {url.host} answered {status} with a web page, not with an OAuth error"
            return _not_a_token_endpoint(text, is_page=True)
        return _refusal(status, document, url, secrets)
    return _not_an_oauth_answer(response, url)


def wants_client_in_header(response: TokenResponse) -> bool:
    """Tell whether the server refuses the client in a way that the Authorization header may mend.

    `invalid_client` means an unknown client or an unsupported way to send its secret (RFC 6749 §5.2).
    """
    if response.status not in (400, 401):
        return False
    error, description = _oauth(_json(response.body))
    if error.lower() not in _CLIENT_REFUSED:
        return False  # the client was accepted
    asked = {c.scheme for c in parse_challenges(response.header("WWW-Authenticate") or "")}
    if error == "invalid_client" or (response.status == 401 and "basic" in asked):
        return True
    return _HEADER_WANTED.search(description) is not None


def clock_skew(response: TokenResponse, *, wall: float) -> float | None:
    """Return the seconds by which the server's clock is ahead of this machine's, or None if unknown.

    The server's time is its Date (RFC 9110 §6.6.1), else the token's `iat` claim (RFC 7519 §4.1.6).
    """
    date = parse_http_date(response.header("Date"))
    server_time = _issued_at(response.body) if date is None else date
    return None if server_time is None else server_time + 0.5 - wall  # the server cuts off half a second on average


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
    issued = _finite_number(claims.get("iat")) if isinstance(claims, dict) else None
    return issued if issued is not None and issued > 0 else None


def clean(text: str, secrets: Iterable[Secret]) -> str:
    """Return a server's text safe to show: secrets masked, no control characters, at most 200 characters."""
    for secret in secrets:
        raw = secret.reveal()
        if len(raw) < _MIN_SECRET_CHARS:
            continue  # masking every occurrence of so short a text would reveal it
        for form in sorted({raw, raw.strip(), quote(raw, safe=""), quote_plus(raw), quote(raw)} - {""}, key=len)[::-1]:
            text = re.sub(re.escape(form), MASK, text, flags=re.IGNORECASE)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _MAX_QUOTE else f"{text[: _MAX_QUOTE - 1]}…"


def _success(response: TokenResponse, document: Any, url: Url) -> Verdict:
    if not isinstance(document, dict):
        is_page = _is_page(response)
        kind = "a web page" if is_page else "something that is not a JSON object"
        return _not_a_token_endpoint(
            f"the token endpoint {url.host} answered {response.status} with {kind} instead of a token", is_page=is_page
        )
    access = document.get("access_token")
    if not isinstance(access, str) or not _is_header_value(access):
        return _not_a_token_endpoint(
            f"the token endpoint {url.host} answered {response.status} without a usable access_token"
        )
    refresh = document.get("refresh_token")
    return Token(
        access=Secret(access),
        refresh=Secret(refresh) if isinstance(refresh, str) and refresh else None,
        issued=response.sent_at,
        lifetime=_access_lifetime(document.get("expires_in")),
        refresh_lifetime=_refresh_lifetime(document.get("refresh_expires_in")),
    )


def _refusal(status: int, document: Any, url: Url, secrets: Iterable[Secret]) -> Verdict:
    secrets = tuple(secrets)
    error, description = _oauth(document)
    quoted = _quoted(document, secrets)
    reason = f"the token endpoint {url.host} answered {status}{quoted}"
    if _UNAVAILABLE.fullmatch(error) or _TOO_MANY_SESSIONS.search(description):
        return Unavailable(reason=reason)
    for known in _KNOWN_ERRORS:
        if re.fullmatch(known.error, error) and known.description in description.lower():
            return Misconfigured(reason=reason, hint=known.hint)
    hint = next((hint for words, hint in _NAMED_REFUSALS.items() if words in description.lower()), "")
    session_over = _SESSION_OVER.search(description) is not None
    return Refused(reason=reason, session_over=session_over, hint=hint, is_oauth=bool(error))


def _not_an_oauth_answer(response: TokenResponse, url: Url) -> Misconfigured:
    if 300 <= response.status < 400:
        target = _redirect_target(response.header("Location"), url)
        return _not_a_token_endpoint(
            f"the token endpoint {url.host} answered {response.status}, a redirect{target}; it is not followed"
        )
    return _not_a_token_endpoint(f"the token endpoint {url} answered {response.status}")


def _not_a_token_endpoint(reason: str, *, is_page: bool = False) -> Misconfigured:
    return Misconfigured(
        reason=reason,
        hint="Check `token_url`: it must be the token endpoint itself",
        definite=False,
        is_page=is_page,
    )


def _is_page(response: TokenResponse) -> bool:
    return response.body.lstrip()[:1] == b"<"


def _redirect_target(location: str | None, url: Url) -> str:
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
    """Return `error` and `error_description` (RFC 6749 §5.2), or the similar fields of other servers."""
    if not isinstance(document, dict):
        return "", ""
    error = document.get("error")
    texts = (document.get(key) for key in ("error_description", "message", "detail", "title"))
    description = next((t for t in texts if isinstance(t, str) and t), "")
    return error if isinstance(error, str) else "", description


def _quoted(document: Any, secrets: Iterable[Secret]) -> str:
    """Quote the error of a JSON body, in parentheses; empty for any other body."""
    error, description = _oauth(document)
    text = clean(f"{error}: {description}" if error and description else error or description, secrets)
    return f" ({text})" if text else ""


def _is_header_value(value: str) -> bool:
    return bool(value) and value.isascii() and all("!" <= c <= "~" for c in value)


def _finite_number(value: Any) -> float | None:
    """Return a finite number from JSON, also from a string; None for NaN, infinity, booleans and words."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _access_lifetime(value: Any) -> float:
    number = _finite_number(value)
    return DEFAULT_LIFETIME_S if number is None else min(max(0.0, number), _MAX_LIFETIME_S)


def _refresh_lifetime(value: Any) -> float | None:
    """Return the lifetime, or None to try a refresh anyway: Keycloak's 0 means no end, a negative one says nothing."""
    number = _finite_number(value)
    return None if number is None or number <= 0 else number
