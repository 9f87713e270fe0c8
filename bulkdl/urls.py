"""URLs as a type that masks its query, and the rule for which hosts may have a credential."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urljoin, urlsplit

from bulkdl.secret import MASK

__all__ = ["HostList", "Url"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_BLANK = re.compile(r"[\s\x00-\x1f]")


class Url:
    """An absolute http(s) URL.

    `str()` and `repr()` mask the query and any user information, since either may hold a credential (a presigned
    URL, a token in the query); `raw` is what is sent.
    """

    __slots__ = ("_parts", "raw")

    def __init__(self, raw: str) -> None:
        """Raise `ValueError`, without quoting the query, when `raw` is not an absolute http or https URL."""
        try:
            parts = urlsplit(raw)
            port = parts.port
        except ValueError:
            raise ValueError("not a valid URL") from None
        if parts.scheme.lower() not in _DEFAULT_PORTS or not parts.hostname or port == 0:
            raise ValueError("not an absolute http:// or https:// URL")
        if _BLANK.search(raw):
            raise ValueError("white space in a URL")
        self.raw = raw
        self._parts: SplitResult = parts

    @property
    def scheme(self) -> str:
        return self._parts.scheme.lower()

    @property
    def host(self) -> str:
        """Lower-case host name, without port or brackets."""
        return (self._parts.hostname or "").lower().rstrip(".")

    @property
    def port(self) -> int:
        return self._parts.port or _DEFAULT_PORTS[self.scheme]

    @property
    def path(self) -> str:
        return self._parts.path

    @property
    def query(self) -> str:
        return self._parts.query

    @property
    def has_userinfo(self) -> bool:
        return "@" in self._parts.netloc

    @property
    def origin(self) -> str:
        """`scheme://host:port`, as RFC 9110 §4.3.1 compares it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def fingerprint(self) -> str:
        """A hash that names this URL in the journal without holding what its query may hold."""
        return hashlib.sha256(self.raw.encode()).hexdigest()[:32]

    @property
    def source(self) -> str:
        """Origin and path: names where a representation came from, without query or fragment."""
        return f"{self.origin}{self.path}"

    def join(self, location: str) -> Url:
        """The target of a redirect (RFC 9110 §10.2.2); raise `ValueError` when it is not http(s)."""
        joined = Url(urljoin(self.raw, location.strip().replace(" ", "%20")))
        if joined.has_userinfo:
            raise ValueError("a redirect to a URL with user:password@")
        return joined

    def __str__(self) -> str:
        netloc = self._parts.netloc.rpartition("@")
        shown = f"{MASK}@{netloc[2]}" if netloc[1] else netloc[2]
        query = f"?{MASK}" if self._parts.query else ""
        return f"{self._parts.scheme}://{shown}{self._parts.path}{query}"

    def __repr__(self) -> str:
        return f"Url({self!s})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)


@dataclass(frozen=True, slots=True)
class HostList:
    """The only hosts that a credential is ever sent to: `name` (any port), `name:port`, `[v6]:port` or `*.suffix`."""

    entries: tuple[str, ...]
    _exact: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_exact", frozenset(e.lower().rstrip(".") for e in self.entries))

    def allows(self, url: Url) -> bool:
        host = url.host
        literal = f"[{host}]" if ":" in host else host
        if {host, literal, f"{literal}:{url.port}"} & self._exact:
            return True
        return any(e.startswith("*.") and host.endswith(e[1:]) and len(host) > len(e) - 1 for e in self._exact)
