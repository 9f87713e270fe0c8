"""Choose the proxy of a request by the environment variables as curl reads them, and interpret a proxy's refusal. Pure.

Products, logins and probes all ask `ProxyRules.proxy_for`. No library's own reading of the variables is used:
`urllib.request.getproxies` does not know networks (`10.0.0.0/8`) in `no_proxy`, and takes a value without a scheme for
a URL; aiohttp's `trust_env` builds on it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from bulkdl.core.errors import RunStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from bulkdl.core.urls import Url

__all__ = [
    "NoProxy",
    "Proxy",
    "ProxyRules",
    "ProxyTrouble",
    "basic_pair",
    "connect_failed",
    "is_socks_error",
    "parse_proxy",
    "proxy_unreachable",
    "socks_failed",
]

_VARIABLES: Final = {"http": ("http_proxy", "HTTP_PROXY"), "https": ("https_proxy", "HTTPS_PROXY")}
"""Variables by the scheme of the URL. HTTP_PROXY does not count in a CGI program, which gets it from a request's field
`Proxy`; curl never reads it, but many sites set nothing else."""
_FOR_ALL: Final = ("all_proxy", "ALL_PROXY")
_EXCEPTIONS: Final = ("no_proxy", "NO_PROXY")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_SOCKS_PORT: Final = 1080
_SOCKS: Final = frozenset({"socks", "socks4", "socks4a", "socks5", "socks5h"})
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]@]+))(?::(\d{0,5}))?")
_ENTRY: Final = re.compile(r"\[([^\]]*)\](/\d+)?(?::(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy of this machine's environment."""

    scheme: str
    host: str
    port: int
    source: str
    """Source of its name, as part of a sentence: a variable, or the system's settings."""
    user: str | None = None
    password: Secret | None = None

    @property
    def shown(self) -> str:
        """Host and port, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Its URL without user name and password."""
        return f"{self.scheme}://{self.shown}"

    @property
    def is_socks(self) -> bool:
        return self.scheme in _SOCKS

    @property
    def resolves_names(self) -> bool:
        """True if a SOCKS proxy is given the host's name, not its address."""
        return self.scheme in {"socks4a", "socks5h"}


class ProxyRules:
    """The proxy of each origin."""

    def __init__(self, environ: Mapping[str, str], *, system: Callable[[Url], str | None] | None = None) -> None:
        """`system`: returns the proxy of the operating system's settings, which count where no variable is set."""
        names = (*_VARIABLES["http"], *_VARIABLES["https"], *_FOR_ALL)
        values = {name: environ[name] for name in names if environ.get(name)}
        if "REQUEST_METHOD" in environ:
            values.pop("HTTP_PROXY", None)
        self._values = values
        self._except = NoProxy(_first(_EXCEPTIONS, environ)[1])
        self._system = None if self._values else system
        self._by_origin: dict[str, Proxy | None] = {}

    def proxy_for(self, url: Url) -> Proxy | None:
        """Return the proxy for `url`; None: connect directly.

        Raise `RunStopped` if the value of the variable is no proxy that bulkdl can use.
        """
        if not self._values and self._system is None:
            return None
        if url.origin not in self._by_origin:
            self._by_origin[url.origin] = self._find(url)
        return self._by_origin[url.origin]

    def _find(self, url: Url) -> Proxy | None:
        variable, value = _first((*_VARIABLES[url.scheme], *_FOR_ALL), self._values)
        source = f"the variable {variable}"
        if not value and self._system is not None:
            source, value = "the system's proxy settings", self._system(url) or ""
        if not value or self._except.covers(url.host, url.port):
            return None
        return parse_proxy(value, source=source)


def _first(names: Iterable[str], environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the first variable that is set and not empty, with its value."""
    return next(((name, environ[name]) for name in names if environ.get(name)), ("", ""))


def parse_proxy(value: str, *, source: str) -> Proxy:
    """Return the proxy that `value` describes; raise `RunStopped`, which never quotes `value`, if there is none."""
    text = value.strip()
    found = _SCHEME.match(text)
    scheme, rest = (found[1].lower(), text[found.end() :]) if found is not None else ("http", text)
    if scheme not in _DEFAULT_PORTS and scheme not in _SOCKS:
        raise RunStopped(
            f"{source} names a proxy with the scheme {scheme}, which bulkdl cannot use",
            hint="Use http://, https://, socks5h://, socks5:// or socks4://",
        )
    # Users write passwords with unencoded / ? # @, so the last @ separates them from the host.
    credentials, at, rest = rest.rpartition("@")
    host = _HOST.fullmatch(re.split(r"[/?#]", rest, maxsplit=1)[0])
    port = 0 if host is None else int(host[3] or _DEFAULT_PORTS.get(scheme, _SOCKS_PORT))
    if host is None or not 0 < port < 65536:
        raise RunStopped(
            f"the value of {source} is not the address of a proxy",
            hint="Write it as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT",
        )
    user, _, password = credentials.partition(":")
    return Proxy(
        scheme="socks4" if scheme == "socks" else scheme,
        host=(host[1] or host[2]).lower(),
        port=port,
        source=source,
        user=unquote(user) if at else None,
        password=Secret(unquote(password)) if at else None,
    )


class NoProxy:
    """The value of `no_proxy`: host names with their subdomains, addresses, networks, each also with a port, or `*`."""

    def __init__(self, text: str) -> None:
        words = [word for word in re.split(r"[\s,]+", text.lower()) if word]
        self._all = "*" in words
        self._names: list[tuple[str, int | None]] = []
        self._networks: list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, int | None]] = []
        for word in words:
            self._add(word)

    def _add(self, word: str) -> None:
        host, port = _split_entry(word)
        try:
            self._networks.append((ipaddress.ip_network(host, strict=False), port))
        except ValueError:
            name = host.removesuffix(".").removeprefix("*").removeprefix(".")
            if name and "/" not in name:
                self._names.append((name, port))

    def covers(self, host: str, port: int) -> bool:
        """Return True if requests to `host` (without brackets) and `port` go without a proxy."""
        if self._all:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            name = host.lower().removesuffix(".")
            return any(
                (name == known or name.endswith(f".{known}")) and only in (None, port) for known, only in self._names
            )
        return any(address in network and only in (None, port) for network, only in self._networks)


def _split_entry(word: str) -> tuple[str, int | None]:
    """Return the host or network of an entry and its port, if it has one."""
    if (found := _ENTRY.fullmatch(word)) is not None:
        return found[1] + (found[2] or ""), int(found[3]) if found[3] else None
    host, colon, port = word.partition(":")
    if colon and port.isdecimal():
        return host, int(port)
    return word, None  # also a bare IPv6 address


@dataclass(frozen=True, slots=True)
class ProxyTrouble:
    """A failure of a proxy; `lasting`: no retry of this run can help."""

    reason: str
    hint: str
    lasting: bool


def connect_failed(proxy: Proxy, status: int, *, host: str, port: int, challenges: Iterable[str] = ()) -> ProxyTrouble:
    """Return the meaning of a proxy's own error: any response to CONNECT but 2xx (RFC 9110 §9.3.6), or a 407.

    `challenges`: the values of `Proxy-Authenticate`.
    """
    if status == 407:
        return _credentials_refused(proxy, [text for text in challenges if text])
    if status in (401, 403, 405):
        return ProxyTrouble(
            f"the proxy {proxy.shown} does not allow connections to {host}:{port} ({status})",
            f"Ask its administrator to allow it; if {host} can be reached without the proxy, add it to no_proxy",
            lasting=True,
        )
    return ProxyTrouble(
        f"the proxy {proxy.shown} could not connect to {host}:{port} (it answered {status} to CONNECT)",
        f"Check {host}, and the proxy that {proxy.source} names",
        lasting=False,
    )


def _credentials_refused(proxy: Proxy, challenges: list[str]) -> ProxyTrouble:
    schemes = list(dict.fromkeys(text.split()[0].rstrip(",") for text in challenges if text.split()))
    if schemes and not any("basic" in text.lower() for text in challenges):
        return ProxyTrouble(
            f"the proxy {proxy.shown} wants a login by {' or '.join(schemes)} (407), and bulkdl knows only Basic",
            f"Run a local proxy that logs in to it, and name that one in {proxy.source}",
            lasting=True,
        )
    example = f"{proxy.scheme}://USER:PASSWORD@{proxy.shown}"
    if proxy.user is None:
        return ProxyTrouble(
            f"the proxy {proxy.shown} wants a user name and a password (407)",
            f"Set {proxy.source} to {example}, with special characters percent-encoded",
            lasting=True,
        )
    return ProxyTrouble(
        f"the proxy {proxy.shown} refused its user name and password (407)",
        f"Correct them in {proxy.source} ({example}, with special characters percent-encoded)",
        lasting=True,
    )


def proxy_unreachable(proxy: Proxy, why: str) -> ProxyTrouble:
    """Return the trouble of a proxy to which no connection can be made."""
    return ProxyTrouble(
        f"no connection to the proxy {proxy.shown} ({why})",
        f"Check that it is running, and {proxy.source}",
        lasting=False,
    )


def is_socks_error(error: BaseException) -> bool:
    """Return True for an error of the SOCKS libraries, which are imported only where a SOCKS proxy is used."""
    return type(error).__module__.partition(".")[0] in {"aiohttp_socks", "python_socks"}


def socks_failed(proxy: Proxy, error: Exception, *, host: str, port: int) -> ProxyTrouble:
    """Return the meaning of an error of the SOCKS libraries; their texts hold no secret, but are not quoted."""
    kind, text = type(error).__name__, str(error).lower()
    if kind == "ProxyConnectionError":
        return proxy_unreachable(proxy, "connection refused" if "refused" in text else "it cannot be reached")
    if any(word in text for word in ("malformed", "unexpected", "invalid", "version")):
        return ProxyTrouble(
            f"{proxy.shown} does not answer as a SOCKS proxy",
            f"Check the scheme in {proxy.source}",
            lasting=True,
        )
    if "auth" in text:
        wants = "refused its user name and password" if proxy.user is not None else "wants a user name and a password"
        return ProxyTrouble(
            f"the SOCKS proxy {proxy.shown} {wants}",
            f"Set them in {proxy.source} ({proxy.scheme}://USER:PASSWORD@{proxy.shown})",
            lasting=True,
        )
    why = "no answer in time" if kind == "ProxyTimeoutError" else "it reports a failure"
    return ProxyTrouble(
        f"the SOCKS proxy {proxy.shown} could not connect to {host}:{port} ({why})",
        f"Check {host}, and the proxy that {proxy.source} names",
        lasting=False,
    )


def basic_pair(proxy: Proxy) -> tuple[str, str] | None:
    """Return user name and password for `Proxy-Authorization`; None if the proxy has none."""
    if proxy.user is None:
        return None
    return proxy.user, proxy.password.reveal() if proxy.password is not None else ""
