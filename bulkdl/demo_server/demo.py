"""Archive of `bulkdl demo`: three kinds of login, short-lived tokens, typical faults, and two outages if asked for."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import TYPE_CHECKING, Self

import pyotp

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.demo_server.access import Access
from bulkdl.demo_server.catalog import Catalogue, Item, demo_catalogue
from bulkdl.demo_server.faults import Cut, Fault, Refuse, Stall
from bulkdl.demo_server.generated_files import Kind
from bulkdl.demo_server.outages import OutageRehearsal, Part, PlannedOutage
from bulkdl.demo_server.server import Archive, Route
from bulkdl.demo_server.token_server import ClientApp, Identity, Policy, User

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from aiohttp import web

    from bulkdl.demo_server.demo_clock import DemoClock

__all__ = ["DemoArchive", "demo_faults", "demo_outages"]

_CLIENT, _PATIENT_CLIENT = "demo-public", "demo-long-tokens"
_PATIENT_LIFETIME_S = 60.0
_FIRST, _SECOND, _THIRD = "creodias-like", "terrascope-like", "basic"
_HEADER = """\
# The demo of bulkdl: an archive on this machine that behaves like a real one on a bad day.
# This file contains no secrets: each ${{NAME}} is read from the environment, so you may share it.
version: 1
destination: ./products

settings:
  timeout: 2                 # seconds without a byte; short, because one connection of the demo stalls

accounts:
  creodias-like:             # password and TOTP once, then tokens that live {lifetime:g} s, sent in the query
    auth: oidc
    token_url: {token_url}
    client_id: {client}
    username: ${{DEMO_TOTP_USERNAME}}
    password: ${{DEMO_TOTP_PASSWORD}}
    totp_secret: ${{DEMO_TOTP_SECRET}}
    token_in: query
    hosts: ["{host}"]
    max_connections: 4
  terrascope-like:           # password only; the token is sent in a header
    auth: oidc
    token_url: {second_token_url}
    client_id: {second_client}
    username: ${{DEMO_USERNAME}}
    password: ${{DEMO_PASSWORD}}
    hosts: ["{host}"]
    max_connections: 4
  basic:                     # user and password with every request
    auth: basic
    username: ${{DEMO_BASIC_USERNAME}}
    password: ${{DEMO_BASIC_PASSWORD}}
    hosts: ["{host}"]

products:
"""


@dataclass(frozen=True, slots=True)
class _Group:
    """Products that share a URL route and an account."""

    prefix: str
    account: str | None
    route: Route
    checksum: str
    named: bool = True
    """True: the manifest sets `file`. False: the URL gives the name."""


_GROUPS = (
    _Group("S2A_MSIL1C_", _FIRST, Route.DOWNLOAD, "md5"),
    _Group("S5P_", _FIRST, Route.CATALOGUE, "blake3"),
    _Group("S2B_", _SECOND, Route.FILES, "sha256"),
    _Group("T31UFS_", _THIRD, Route.FILES, "md5"),
    _Group("", None, Route.FILES, "sha256", named=False),
)
"""The first group with a matching prefix applies; the archive uses the same prefixes for access."""


class DemoArchive:
    """Archive with an identity server, and the manifest and environment for a run against it; use `async with`.

    `rate` is in bytes per second for each connection, `token_lifetime` in seconds. Secrets are new each time, so no
    TOTP code of an earlier demo counts as used. With `outages`, the archive runs by their clock, and the two accounts
    with tokens have a token endpoint each, so that one of them works while the other one is out of order.
    """

    def __init__(
        self,
        *,
        count: int = 36,
        seed: int = 7,
        rate: float | None = 600_000,
        token_lifetime: float = 4.0,
        faulty: Callable[[Catalogue], list[Fault]] | None = None,
        port: int = 0,
        outages: OutageRehearsal | None = None,
    ) -> None:
        self._lifetime = token_lifetime
        self._outages = outages
        self.catalogue = demo_catalogue(count, seed)
        self.environ: Mapping[str, str] = {
            "DEMO_TOTP_USERNAME": "jo.totp@example.org",
            "DEMO_TOTP_PASSWORD": secrets.token_urlsafe(12),
            "DEMO_TOTP_SECRET": pyotp.random_base32(),
            "DEMO_USERNAME": "jo@example.org",
            "DEMO_PASSWORD": secrets.token_urlsafe(12),
            "DEMO_BASIC_USERNAME": "jo",
            "DEMO_BASIC_PASSWORD": secrets.token_urlsafe(12),
        }
        """Values of the `${NAME}` variables in the manifest."""
        self.identity = self._identity()
        faults = (faulty or demo_faults)(self.catalogue)
        self.archive = Archive(
            self.catalogue,
            access=self._access(),
            faults=faults,
            identity=self.identity,
            rate=rate,
            port=port,
            clock=None if outages is None else outages.clock,
            realms=("demo",) if outages is None else ("demo", "demo-2"),
            extend=None if outages is None else self._add_outages,
        )

    async def __aenter__(self) -> Self:
        await self.archive.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.archive.__aexit__(kind, error, trace)

    @property
    def manifest_text(self) -> str:
        """Manifest as YAML text."""
        host = self.archive.origin.removeprefix("http://")
        head = _HEADER.format(
            lifetime=self._lifetime,
            token_url=self.archive.token_url,
            client=_CLIENT,
            second_token_url=self.archive.token_urls[-1],
            second_client=_CLIENT if self._outages is None else _PATIENT_CLIENT,
            host=host,
        )
        return head + "".join(self._entry(item) for item in self.catalogue)

    def write_manifest(self, path: Path) -> Path:
        """Write the manifest to `path`; its folder must exist."""
        path.write_text(self.manifest_text, encoding="utf-8")
        return path

    def write_environment(self, path: Path) -> Path:
        """Write the variables in shell syntax, readable only by the owner."""
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text("".join(f"{name}={value}\n" for name, value in self.environ.items()), encoding="utf-8")
        return path

    def _identity(self) -> Identity:
        env = self.environ
        users = (
            User(
                name=env["DEMO_TOTP_USERNAME"],
                password=env["DEMO_TOTP_PASSWORD"],
                totp_secret=env["DEMO_TOTP_SECRET"],
            ),
            User(name=env["DEMO_USERNAME"], password=env["DEMO_PASSWORD"]),
        )
        # While one endpoint is out of order and the clock runs fast, short tokens of the other one would expire on the way.
        clients = [ClientApp(id=_CLIENT), ClientApp(id=_PATIENT_CLIENT, expires_in=_PATIENT_LIFETIME_S)]
        clock = None if self._outages is None else self._outages.clock
        return Identity(users, clients, policy=Policy(expires_in=self._lifetime), clock=clock)

    def _add_outages(self, app: web.Application) -> None:
        assert self._outages is not None
        self._outages.install(app, self._part_of, self._progress)

    def _part_of(self, path: str) -> Part | None:
        if not path.startswith("/auth/"):
            return Part.ARCHIVE
        return Part.TOKEN_ENDPOINT if self.archive.token_url.endswith(path) else None

    def _progress(self) -> int:
        """Return the number of products sent; 0 while a refusal is planned, which could look like an outage that lasts."""
        if any(isinstance(fault.effect, Refuse) for fault in self.archive.faults.left):
            return 0
        sent: Counter[str] = Counter()
        for record in self.archive.log:
            sent[record.item] += record.bytes_sent
        return sum(item.name in sent and sent[item.name] >= item.size for item in self.catalogue)

    def _access(self) -> dict[str, Access]:
        access = {
            _FIRST: Access(account=_FIRST, query=self.identity, max_connections=6),
            _SECOND: Access(account=_SECOND, header=self.identity),
            _THIRD: Access(
                account=_THIRD, basic=(self.environ["DEMO_BASIC_USERNAME"], self.environ["DEMO_BASIC_PASSWORD"])
            ),
        }
        return {group.prefix: access[group.account] for group in _GROUPS if group.account}

    def _entry(self, item: Item) -> str:
        group = _group(item)
        lines = [f"url: {self.archive.url(item, group.route)}"]
        if group.named:
            lines.append(f"file: {item.name}")
        lines.append(f"size: {item.size}")
        lines.append(f"checksum: {group.checksum}:{item.digest(group.checksum)}")
        if group.account:
            lines.append(f"account: {group.account}")
        return "  - " + "\n    ".join(lines) + "\n"


def demo_faults(catalogue: Catalogue) -> list[Fault]:
    """Return three cut connections, a burst of 503, a 429 and a stall, each for a product that is large enough."""

    def nth(kind: Kind, number: int) -> str:
        names = [item.name for item in catalogue if item.kind is kind and item.size > 300_000]
        return names[number] if number < len(names) else "no product is large enough"

    return [
        Fault(Refuse(503), times=4, skip=12),
        Fault(Cut(after=256_000), item=nth(Kind.ZIP, 1)),
        Fault(Cut(after=256_000, reset=True), item=nth(Kind.ZIP, 3)),
        Fault(Cut(after=200_000), item=nth(Kind.TIFF, 2)),
        Fault(Stall(after=150_000), item=nth(Kind.HDF5, 2)),
        Fault(Refuse(429, retry_after="1"), item=nth(Kind.JP2, 1)),
    ]


def demo_outages(clock: DemoClock) -> OutageRehearsal:
    """Return an outage of the archive and a later one of the token endpoint, two minutes each by `clock`."""
    planned = (PlannedOutage(part=Part.ARCHIVE, after=10), PlannedOutage(part=Part.TOKEN_ENDPOINT, after=15))
    return OutageRehearsal(planned, clock=clock)


def _group(item: Item) -> _Group:
    return next(group for group in _GROUPS if item.name.startswith(group.prefix))
