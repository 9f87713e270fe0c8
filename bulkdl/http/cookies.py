"""Cookies of one account (RFC 6265, as curl has it): stored as the server wrote them, sent back unchanged.

aiohttp's own jar is not used. It puts quotes around values with `/` or `=`, which archives then do not recognise; it
drops the cookies of hosts that are IP addresses; and a redirect chain sees the cookies that other requests got
meanwhile, so that a login which compares a `state` cookie fails.
"""

from __future__ import annotations

import ipaddress
import re
import time
from typing import TYPE_CHECKING, Final

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bulkdl.core.urls import Url

__all__ = ["ChainCookies", "CookieJar"]

_MAX_COOKIES: Final = 150
"""Most cookies of one account; the oldest go first. curl sends no more than this."""
_MAX_COOKIE: Final = 4096
"""Longest name and value together (characters, RFC 6265 §6.1)."""
_MAX_HEADER: Final = 8190
"""Longest `Cookie` field (characters), as in curl."""
_CONTROL: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts whose `Secure` cookies also go over http, as in curl: their bytes do not leave this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cookie:
    name: str
    value: str
    domain: str
    path: str
    host_only: bool
    secure: bool
    expires: float | None
    """Unix time; None: with the run."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.domain, self.path, self.name

    def belongs_to(self, url: Url, path: str, now: float) -> bool:
        if self.expires is not None and self.expires <= now:
            return False
        if self.secure and not _is_secure(url):
            return False
        if not (url.host == self.domain or (not self.host_only and _is_below(url.host, self.domain))):
            return False
        return path == self.path or path.startswith(self.path if self.path.endswith("/") else f"{self.path}/")


_Store = dict[tuple[str, str, str], _Cookie]
"""Cookies by domain, path and name, in the order of their creation."""


class CookieJar:
    """The cookies of one account. No other account's requests see them."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self._stored: _Store = {}

    def __len__(self) -> int:
        return len(self._stored)

    def header(self, url: Url, target: str, own: _Store | None = None) -> str:
        """Return the value of `Cookie` for a request of `target` at `url`'s origin, "" if there is none.

        `own`: cookies that outrank those of the jar.
        """
        stored = {**self._stored, **own} if own else self._stored
        if not stored:
            return ""
        path, now = _path(target), self.now()
        found = [cookie for cookie in stored.values() if cookie.belongs_to(url, path, now)]
        found.sort(key=lambda cookie: len(cookie.path), reverse=True)  # stable: older cookies first (RFC 6265 §5.4)
        text = ""
        for cookie in found:
            more = f"{'; ' if text else ''}{cookie.name}={cookie.value}"
            if len(text) + len(more) <= _MAX_HEADER:
                text += more
        return text

    def store(self, lines: Iterable[str], url: Url, target: str) -> list[_Cookie]:
        """Store the cookies of the `Set-Cookie` fields of a response, and return them; ignore what is not valid."""
        made = [cookie for line in lines if (cookie := _parse(line, url, target, self.now())) is not None]
        for cookie in made:
            if cookie.expires is not None and cookie.expires <= self.now():
                self._stored.pop(cookie.key, None)
                continue
            self._stored[cookie.key] = cookie  # a renewed cookie keeps its place in the order
            if len(self._stored) > _MAX_COOKIES:
                del self._stored[next(iter(self._stored))]
        return made


class ChainCookies:
    """The cookies of one request and its redirects: those that the chain got outrank those of the account.

    So parallel requests may each go through a login that gives a cookie and wants it back.
    """

    def __init__(self, jar: CookieJar) -> None:
        self._jar = jar
        self._own: _Store = {}

    def header(self, url: Url, target: str) -> str:
        return self._jar.header(url, target, self._own)

    def store(self, lines: Iterable[str], url: Url, target: str) -> None:
        self._own.update((cookie.key, cookie) for cookie in self._jar.store(lines, url, target))


def _parse(line: str, url: Url, target: str, now: float) -> _Cookie | None:
    """Return the cookie of a `Set-Cookie` field (RFC 6265 §5.2); None if it is not valid or not from this host."""
    first, *rest = line.split(";")
    name, equals, value = (part.strip() for part in first.partition("="))
    if not equals or not name or _CONTROL.search(name + value) or len(name) + len(value) > _MAX_COOKIE:
        return None
    fields = {key.strip().lower(): text.strip() for key, _, text in (part.partition("=") for part in rest)}
    secure, domain, path = (
        "secure" in fields,
        fields.get("domain", "").lower().removeprefix("."),
        fields.get("path", ""),
    )
    path = path if path.startswith("/") else _default_path(target)
    if secure and not _is_secure(url):
        return None
    if name.startswith("__Secure-") and not secure:
        return None
    if name.startswith("__Host-") and not (secure and not domain and path == "/"):
        return None
    if domain and not _may_set(url.host, domain):
        return None
    host_only = not domain or _is_address(url.host)
    return _Cookie(
        name=name,
        value=value,
        domain=url.host if host_only else domain,
        path=path,
        host_only=host_only,
        secure=secure,
        expires=_expiry(fields.get("max-age"), fields.get("expires"), now),
    )


def _may_set(host: str, domain: str) -> bool:
    """Return True if `host` may set cookies for `domain`: for itself, or for a domain above it that is no top level."""
    return host == domain or ("." in domain.strip(".") and _is_below(host, domain))


def _is_below(host: str, domain: str) -> bool:
    return host.endswith(f".{domain}") and not _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_secure(url: Url) -> bool:
    return url.scheme == "https" or url.host in _LOCAL


def _path(target: str) -> str:
    return target.partition("?")[0] or "/"


def _default_path(target: str) -> str:
    """Return the folder of the request's path (RFC 6265 §5.1.4)."""
    path = _path(target)
    return path[: path.rfind("/")] or "/" if path.startswith("/") else "/"


def _expiry(max_age: str | None, expires: str | None, now: float) -> float | None:
    """Return when a cookie ends, as Unix time; `Max-Age` outranks `Expires` (RFC 6265 §5.3)."""
    age = (max_age or "").strip('"')
    if re.fullmatch(r"-?\d{1,15}", age):
        return now + int(age) if int(age) > 0 else 0.0
    if not expires:
        return None
    from email.utils import mktime_tz, parsedate_tz  # noqa: PLC0415 - few archives need it

    # RFC 850 dates have dashes, which `parsedate_tz` reads only as blanks.
    parts = parsedate_tz(re.sub(r"(\d)-([A-Za-z]{3})-(\d)", r"\1 \2 \3", expires.strip('"')))
    return None if parts is None else float(mktime_tz(parts))
