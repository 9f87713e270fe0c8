"""Validators of single values used by several parts of a manifest: URLs, hosts, `${NAME}` references, headers."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Checksum
from bulkdl.core.secret_headers import carries_secret, is_credential, may_carry_secret
from bulkdl.core.urls import Url, ascii_host
from bulkdl.manifest.problems import describe, describe_url, excerpt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkdl.manifest.problems import Findings
    from bulkdl.manifest.source_position import Place

__all__ = [
    "Environment",
    "check_headers",
    "check_host",
    "check_url",
    "expand",
    "has_reference",
    "header_name_problem",
    "header_problem",
    "host_problem",
    "is_loopback",
    "is_reference",
    "parse_checksum",
    "resolve_path",
]

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)
_CHECKSUM = re.compile(r"\s*([A-Za-z0-9-]+)\s*[:=]\s*([0-9A-Fa-f]*)\s*")
_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128, "blake3": 64}
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_RESERVED_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "host",
        "if-match",
        "if-none-match",
        "if-range",
        "range",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Environment variables, base folder and problem list of the manifest that is being read."""

    environ: Mapping[str, str]
    base: Path
    """Absolute folder to which the manifest's relative paths refer."""
    findings: Findings


def check_url(text: str, place: Place, findings: Findings, *path: str | int) -> Url | None:
    """Return the URL, or report a problem at `path` below `place` that never shows the query."""
    try:
        url = Url(text)
    except ValueError as error:
        why = f" ({error})" if "space" in str(error) else ""
        findings.add(place.at(*path), f"expected an absolute http:// or https:// URL, found {describe_url(text)}{why}")
        return None
    if url.has_userinfo:
        findings.add(
            place.at(*path),
            f"a user name or password in a URL ({url}) is a literal secret; "
            "remove it and name an account with `auth: basic` and its password as ${NAME}",
        )
        return None
    host = url.host
    problem = None if ":" in host else host_problem(host)
    if problem:
        findings.add(place.at(*path), f"{problem} (in {describe(text)})")
        return None
    return url


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(text: str) -> tuple[str, str | None]:
    """Return an entry of `hosts` in normalised form, and the problem if it is not a valid entry."""
    entry = text.strip().lower()
    if "://" in entry or "/" in entry or "@" in entry:
        return entry, f"expected a host name, found {describe(text)}; remove the scheme and the path"
    try:
        return str(ipaddress.IPv6Address(entry)), None
    except ValueError:
        pass
    host, port = entry, ""
    if entry.startswith("["):
        host, bracket, port = entry[1:].partition("]")
        try:
            host = f"[{ipaddress.IPv6Address(host)}]"
        except ValueError:
            bracket = ""
        if not bracket or (port and not port.startswith(":")):
            return entry, f"expected an IPv6 address such as [::1] or [::1]:8443, found {describe(text)}"
        return f"{host}{port}", _port_problem(port[1:], text) if port else None
    host, colon, port = entry.partition(":")
    if colon and (problem := _port_problem(port, text)):
        return entry, problem
    name = host.removeprefix("*.")
    try:
        host, name = host.removesuffix(name) + ascii_host(name), ascii_host(name)
    except ValueError as error:
        return entry, f"{error}, found {describe(text)}"
    entry = f"{host}{colon}{port}"
    if "*" in name or (name != host and colon):
        return entry, f"expected a host, `host:port` or `*.suffix` (any port), found {describe(text)}"
    return entry, host_problem(name)


def _port_problem(port: str, text: str) -> str | None:
    if port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535:
        return None
    return f"expected a port from 1 to 65535 after the host, found {describe(text)}"


@functools.lru_cache(maxsize=1024)
def host_problem(host: str) -> str | None:
    if _NAME.fullmatch(host) and len(host) <= 254:
        return None
    if not host.isascii():
        return f"a host name without an ASCII form (IDNA 2008), found {describe(host)}"
    return f"expected a host name, found {describe(host)}"


def has_reference(text: str) -> bool:
    """Return True if `text` contains a `${NAME}` and no malformed `${`."""
    return _REFERENCE.search(text) is not None and "${" not in _REFERENCE.sub("", text)


def is_reference(text: str) -> bool:
    """Return True if `text` is nothing but one or more `${NAME}`."""
    return has_reference(text) and not _REFERENCE.sub("", text).strip()


def expand(text: str, environ: Mapping[str, str], place: Place, findings: Findings) -> str | None:
    """Replace each `${NAME}` by its environment variable; if one is unset or malformed, report it and return None."""
    missing = [name for name in dict.fromkeys(_REFERENCE.findall(text)) if not environ.get(name)]
    for name in missing:
        findings.add(place, f"the environment variable {name} is not set")
    if "${" in _REFERENCE.sub("", text):
        findings.add(place, "expected ${NAME} with letters, digits and _ in NAME, found another form of ${...}")
        return None
    return None if missing else _REFERENCE.sub(lambda found: environ[found[1]], text)


def parse_checksum(text: str) -> Checksum:
    """Parse `algorithm:hex`; raise `ValueError` with the expected form."""
    found = _CHECKSUM.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a checksum such as md5:9e107d9d372bb6826bd81d3542a419d6, found {describe(text)}")
    # Intern the name, so that all products share one string.
    algorithm, digits = sys.intern(found[1].lower().replace("-", "")), found[2].lower()
    if algorithm not in _DIGITS:
        raise ValueError(f'expected md5, sha1, sha256, sha512 or blake3, found the algorithm "{excerpt(found[1], 40)}"')
    if len(digits) != _DIGITS[algorithm]:
        raise ValueError(f"{algorithm} has {_DIGITS[algorithm]} hexadecimal digits, found {len(digits)}")
    return Checksum(algorithm, digits)


def check_headers(headers: Mapping[str, str], place: Place, findings: Findings) -> tuple[tuple[str, str], ...]:
    """Return the headers that may be sent; report literal secrets and headers that bulkdl sets itself."""
    valid: list[tuple[str, str]] = []
    for name, text in headers.items():
        problem = header_problem(name, text)
        if problem:
            findings.add(place.key(name), problem)
            continue
        if may_carry_secret(name):
            findings.warn(
                place.key(name), f"the header {name[:60]} looks like a secret, but manifests are meant to be shared"
            )
        valid.append((name, text))
    return tuple(valid)


def header_problem(name: str, text: str) -> str | None:
    lower = name.strip().lower()
    if carries_secret(lower) or is_credential(text):
        shown = name.strip()[:60]
        kind = (
            "`auth: bearer` and `token: ${NAME}`"
            if lower in ("authorization", "cookie", "proxy-authorization")
            else f"`auth: header`, `header: {shown}` and `token: ${{NAME}}`"
        )
        return f"a literal {shown} header is a secret; name an account instead, such as one with {kind}"
    if problem := header_name_problem(name):
        return problem
    if any(ord(c) < 32 and c != "\t" for c in text) or "\x7f" in text:
        return f"the header {name} contains a line break or a control character"
    if "${" in text:
        return f"${{...}} is not replaced in headers (found in {name}); secrets belong to an account"
    return None


def header_name_problem(name: str) -> str | None:
    """Return what is wrong with the name of a header that is to be sent."""
    if not _TOKEN.fullmatch(name):
        return f"expected a header name, found {describe(name)}"
    if name.lower() in _RESERVED_HEADERS:
        return f"the header {name} is set by bulkdl itself; remove it"
    return None


def resolve_path(text: str, base: Path) -> Path:
    """Return the absolute path of `text` relative to `base`."""
    path = Path(text)
    with contextlib.suppress(RuntimeError):  # if no home folder is known, `~` is an ordinary name
        path = path.expanduser()
    return base / path
