"""URLs as a type that masks its query, and the rule for which hosts may have a credential."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urljoin, urlsplit

from bulkdl.secret import MASK

__all__ = ["HostList", "Url"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_BLANK = re.compile(r"\s")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_AUTHORITY = re.compile(
    r"(?:[^\\\[\]]*@)?(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._\-\x80-\U0010ffff]+))(?::\d*)?", re.IGNORECASE
)
_RAW_BYTE = re.compile("[\udc80-\udcff]")
_ENTRY = re.compile(r"(\[.*\]|[^:]*)(?::(\d+))?")


class Url:
    """An absolute http(s) URL.

    `str()` and `repr()` mask the query and any user information, since either may hold a credential (a presigned
    URL, a token in the query); `raw` is what is sent.
    """

    __slots__ = ("_parts", "host", "raw")

    def __init__(self, raw: str) -> None:
        """Raise `ValueError`, without quoting the query, when `raw` is not an absolute http or https URL.

        A URL of which two programs could read two hosts is none: the host that is compared has to be the host that is
        connected to.
        """
        try:
            parts = urlsplit(raw)
            port = parts.port
        except ValueError:
            raise ValueError("not a valid URL") from None
        if parts.scheme.lower() not in _DEFAULT_PORTS or not parts.hostname or port == 0:
            raise ValueError("not an absolute http:// or https:// URL")
        if _BLANK.search(raw):
            raise ValueError("white space in a URL")
        if _UNPRINTABLE.search(raw):
            raise ValueError("a control character in a URL")
        self.raw = raw
        self.host = _host(parts.netloc)
        """Lower-case host name or compressed IPv6 address, without port, brackets or the root's dot."""
        self._parts: SplitResult = parts

    @property
    def scheme(self) -> str:
        return self._parts.scheme.lower()

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
        """The target of a redirect (RFC 9110 §10.2.2); raise `ValueError` when it is not http(s).

        Bytes that are not UTF-8 come as surrogates (PEP 383) and go back percent-encoded, as browsers have it.
        """
        text = _RAW_BYTE.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", location.strip().replace(" ", "%20"))
        joined = Url(urljoin(self.raw, text))
        if joined.has_userinfo:
            raise ValueError("a redirect to a URL with user:password@")
        if not joined.host.isascii():
            # Which name is asked for depends on the edition of IDNA; a URI has ASCII only (RFC 3986 §3.2.2).
            raise ValueError("a redirect to a host name in other than ASCII letters")
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
        object.__setattr__(self, "_exact", frozenset(map(_canonical, self.entries)))

    def allows(self, url: Url) -> bool:
        host = url.host
        literal = f"[{host}]" if ":" in host else host
        if {host, literal, f"{literal}:{url.port}"} & self._exact:
            return True
        return any(e.startswith("*.") and host.endswith(e[1:]) and len(host) > len(e) - 1 for e in self._exact)


def _host(netloc: str) -> str:
    """The one host that every reader finds in `netloc`; raise `ValueError` where there could be two."""
    found = _AUTHORITY.fullmatch(netloc)
    if found is None:
        raise ValueError("not a host name in a URL")
    if found["v6"] is not None:
        try:
            return str(ipaddress.IPv6Address(found["v6"]))
        except ValueError:
            raise ValueError("not an IPv6 address in a URL") from None
    name = found["name"].lower().removesuffix(".")
    if not all(name.split(".")):
        raise ValueError("an empty label in the host name of a URL")
    return name


def _canonical(entry: str) -> str:
    """An entry of a host list in the form that `HostList.allows` compares."""
    lowered = entry.strip().lower()
    found = _ENTRY.fullmatch(lowered)
    if found is None:
        return lowered  # a bare IPv6 address
    host = found[1].removesuffix(".")
    return host if found[2] is None else f"{host}:{int(found[2])}"
