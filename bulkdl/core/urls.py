"""URLs as a type that masks its query, and the rule for which hosts may have a credential."""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import field
from urllib.parse import urljoin, urlsplit

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.secret import MASK

__all__ = ["HostList", "Url"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_BLANK = re.compile(r"\s")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_AUTHORITY = re.compile(r"(?:[^\\\[\]]*@)?(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\x00-,/:-@\[-^`{-\x7f]+))(?::\d*)?")
"""A name is of letters, digits and `._-`, or of what is not ASCII: said by what it is not, which compiles at once."""
_USUAL = re.compile(r"(https?://[A-Za-z0-9._:-]+)(?:[/?#][!-~]*)?")
"""Nothing but ASCII, and no character in the authority that anyone could read in two ways."""
_RAW_BYTE = re.compile("[\udc80-\udcff]")
_ENTRY = re.compile(r"(\[.*\]|[^:]*)(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class _Origin:
    """A URL up to its path; the many URLs of one server share it."""

    scheme: str
    host: str
    port: int
    text: str
    shown: str
    """As it is written, the user masked."""
    has_userinfo: bool
    length: int
    """Characters of the URL before its path."""


class Url:
    """An absolute http(s) URL.

    `str()` and `repr()` mask the query and any user information, since either may hold a credential (a presigned
    URL, a token in the query); `raw` is what is sent.
    """

    __slots__ = ("_fingerprint", "_origin", "raw")

    def __init__(self, raw: str) -> None:
        """Raise `ValueError`, without quoting the query, when `raw` is not an absolute http or https URL.

        A URL of which two programs could read two hosts is none: the host that is compared has to be the host that is
        connected to.
        """
        usual = _USUAL.fullmatch(raw)
        # What may follow a usual beginning cannot change what that means, so each beginning is judged once.
        self._origin = _usual_origin(usual[1]) if usual is not None else _origin(raw)
        self.raw = raw
        self._fingerprint: str | None = None

    @property
    def scheme(self) -> str:
        return self._origin.scheme

    @property
    def host(self) -> str:
        """Lower-case host name or compressed IPv6 address, without port, brackets or the root's dot."""
        return self._origin.host

    @property
    def port(self) -> int:
        return self._origin.port

    @property
    def path(self) -> str:
        return self._target[0]

    @property
    def query(self) -> str:
        return self._target[2]

    @property
    def _target(self) -> tuple[str, str, str]:
        """The path, a question mark if there is one, and the query (RFC 3986 §3)."""
        return self.raw[self._origin.length :].partition("#")[0].partition("?")

    @property
    def beginning(self) -> str:
        """What is sent before the path: scheme and authority, as they are written."""
        return self.raw[: self._origin.length]

    @property
    def target(self) -> str:
        """Path and query as they are written; not masked."""
        return self.raw[self._origin.length :].partition("#")[0]

    @property
    def has_userinfo(self) -> bool:
        return self._origin.has_userinfo

    @property
    def origin(self) -> str:
        """`scheme://host:port`, as RFC 9110 §4.3.1 compares it."""
        return self._origin.text

    @property
    def fingerprint(self) -> str:
        """A hash that names this URL in the journal without holding what its query may hold."""
        if self._fingerprint is None:  # asked for often, by few of many
            import hashlib  # noqa: PLC0415 - with it comes OpenSSL, which not every command needs

            self._fingerprint = hashlib.sha256(self.raw.encode()).hexdigest()[:32]
        return self._fingerprint

    @property
    def source(self) -> str:
        """Origin and path: names where a representation came from, without query or fragment."""
        return self._origin.text + self._target[0]

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
        path, _, query = self._target
        return f"{self._origin.shown}{path}{f'?{MASK}' if query else ''}"

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
        if host in self._exact:
            return True
        literal = f"[{host}]" if ":" in host else host
        if literal in self._exact or f"{literal}:{url.port}" in self._exact:
            return True
        return any(e.startswith("*.") and host.endswith(e[1:]) and len(host) > len(e) - 1 for e in self._exact)


def _origin(raw: str) -> _Origin:
    """Judge the whole of `raw`; raise `ValueError` without quoting it."""
    try:
        parts = urlsplit(raw)
        port = parts.port
    except ValueError:
        raise ValueError("not a valid URL") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not parts.hostname or port == 0:
        raise ValueError("not an absolute http:// or https:// URL")
    if _BLANK.search(raw):
        raise ValueError("white space in a URL")
    if _UNPRINTABLE.search(raw):
        raise ValueError("a control character in a URL")
    host, port = _host(parts.netloc), port or _DEFAULT_PORTS[scheme]
    _, at, shown = parts.netloc.rpartition("@")
    return _Origin(
        scheme=scheme,
        host=host,
        port=port,
        text=f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}",
        shown=f"{scheme}://{MASK}@{shown}" if at else f"{scheme}://{shown}",
        has_userinfo=bool(at),
        length=len(scheme) + len("://") + len(parts.netloc),
    )


_usual_origin = functools.lru_cache(maxsize=1024)(_origin)


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
