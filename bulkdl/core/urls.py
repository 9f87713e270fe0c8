"""URLs as a type that masks its query, and the list of hosts that may get a credential."""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import field
from urllib.parse import urljoin, urlsplit

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.secret import MASK

__all__ = ["HostList", "Url", "ascii_host"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_BLANK = re.compile(r"\s")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_AUTHORITY = re.compile(r"(?:[^\\\[\]]*@)?(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\x00-,/:-@\[-^`{-\x7f]+))(?::\d*)?")
"""A host name has ASCII letters, digits, `._-` and non-ASCII characters; the negated class compiles faster."""
_USUAL = re.compile(r"(https?://[A-Za-z0-9._:-]+)(?:[/?#][!-~]*)?")
"""A URL of printable ASCII without ambiguous characters in its authority; matches nearly all URLs."""
_MORE_SLASHES = re.compile(r"\A(https?:)/{3,}", re.IGNORECASE)
_RAW_BYTE = re.compile("[\udc80-\udcff]")
_ENTRY = re.compile(r"(\[.*\]|[^:]*)(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class _Origin:
    """The part of a URL before its path; all URLs of one server share one object."""

    scheme: str
    host: str
    port: int
    text: str
    shown: str
    """Scheme and authority as written, with any user information masked."""
    has_userinfo: bool
    length: int
    """Number of characters of the URL before its path."""


class Url:
    """An absolute http(s) URL.

    `str()` and `repr()` mask the query and any user information, since either may hold a credential (a presigned
    URL, a token in the query). `raw` is the unmasked text that is sent; a host name in other than ASCII is in its ASCII
    form there (RFC 5891).
    """

    __slots__ = ("_fingerprint", "_origin", "raw")

    def __init__(self, raw: str) -> None:
        """Raise `ValueError`, without quoting the query, if `raw` is not an absolute http or https URL.

        A URL that two parsers could read as two different hosts is refused: the host checked against `HostList` must be
        the host that the client connects to.
        """
        usual = _USUAL.fullmatch(raw)
        if usual is None and not raw.isascii():
            raw = _with_ascii_host(raw)
        # The rest of such a URL cannot change the meaning of its origin, so each origin is parsed once and cached.
        self._origin = _usual_origin(usual[1]) if usual is not None else _origin(raw)
        self.raw = raw
        self._fingerprint: str | None = None

    @property
    def scheme(self) -> str:
        return self._origin.scheme

    @property
    def host(self) -> str:
        """Lower-case host name or compressed IPv6 address, without port, brackets or trailing dot."""
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
        """Path, question mark (or an empty string) and query (RFC 3986 §3)."""
        return self.raw[self._origin.length :].partition("#")[0].partition("?")

    @property
    def beginning(self) -> str:
        """Scheme and authority as written, up to the path."""
        return self.raw[: self._origin.length]

    @property
    def target(self) -> str:
        """Path and query as written; not masked."""
        return self.raw[self._origin.length :].partition("#")[0]

    @property
    def has_userinfo(self) -> bool:
        return self._origin.has_userinfo

    @property
    def origin(self) -> str:
        """`scheme://host:port` in normal form, for comparison (RFC 9110 §4.3.1)."""
        return self._origin.text

    @property
    def fingerprint(self) -> str:
        """Hash that identifies this URL in the journal without exposing secrets of its query."""
        if self._fingerprint is None:  # computed on first use: only few of very many URLs need it
            import hashlib  # noqa: PLC0415 - imports OpenSSL, which not every command needs

            self._fingerprint = hashlib.sha256(self.raw.encode()).hexdigest()[:32]
        return self._fingerprint

    @property
    def source(self) -> str:
        """Origin and path without query or fragment: identifies the source of a representation."""
        return self._origin.text + self._target[0]

    def join(self, location: str) -> Url:
        """Return the target of a redirect (RFC 9110 §10.2.2); raise `ValueError` if it is not http(s).

        Bytes that are not UTF-8 arrive as surrogates (PEP 383) and are percent-encoded, as browsers do.
        """
        text = _RAW_BYTE.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", location.strip().replace(" ", "%20"))
        # `urljoin` takes the host of `http:////host/path` for a path at the own host; browsers and curl take it for a host.
        joined = Url(urljoin(self.raw, _MORE_SLASHES.sub(r"\1//", text)))
        if joined.has_userinfo:
            raise ValueError("a redirect to a URL with user:password@")
        if not joined.host.isascii():
            raise ValueError("a redirect to a host name without an ASCII form (IDNA 2008)")
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
    """Hosts that a credential may be sent to: `name` (any port), `name:port`, `[v6]:port` or `*.suffix`."""

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

    def names(self) -> tuple[str, ...]:
        """Return the names of the single hosts, without ports and brackets. `*.suffix` names no single host."""
        entries = [entry for entry in map(_canonical, self.entries) if not entry.startswith("*.")]
        return tuple(dict.fromkeys(_name_of(entry) for entry in entries))


def _name_of(entry: str) -> str:
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry if entry.count(":") > 1 else entry.partition(":")[0]


@functools.lru_cache(maxsize=256)
def ascii_host(name: str) -> str:
    """Return the ASCII form of a host name as browsers and curl look it up; raise `ValueError` if it has none.

    `str.encode("idna")` of the standard library is IDNA 2003, which gives another host for some names (`faß.de`).
    """
    if name.isascii():
        return name
    import idna  # noqa: PLC0415 - its tables are large, and few manifests need them

    try:
        found = idna.encode(name, uts46=True).decode("ascii").lower()
    except idna.IDNAError:
        found = ""
    if "xn--" not in found:  # also for letters that only look like ASCII, such as full-width ones
        raise ValueError("a host name without an ASCII form (IDNA 2008)")
    return found


def _with_ascii_host(raw: str) -> str:
    """Return `raw` with its host name in ASCII, so that no part of the program reads it in another way."""
    try:
        netloc = urlsplit(raw).netloc
    except ValueError:
        return raw  # parsing it again will say what is wrong
    user, at, rest = netloc.rpartition("@")
    host, colon, port = rest.partition(":")
    if host.isascii() or _BLANK.search(netloc):
        return raw
    try:
        return raw.replace(netloc, f"{user}{at}{ascii_host(host)}{colon}{port}", 1)
    except ValueError:
        return raw  # it stays another host than any listed one, and a manifest or a redirect may not name it


def _origin(raw: str) -> _Origin:
    """Parse and check all of `raw`; raise `ValueError` without quoting it."""
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
    """Return the host of `netloc`; raise `ValueError` if another parser could find a different one."""
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
    """Return an entry of a host list in the form that `HostList.allows` compares."""
    lowered = entry.strip().lower()
    found = _ENTRY.fullmatch(lowered)
    if found is None:
        return lowered  # a bare IPv6 address
    host = found[1].removesuffix(".")
    return host if found[2] is None else f"{host}:{int(found[2])}"
