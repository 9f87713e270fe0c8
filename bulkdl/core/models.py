"""Frozen values of the contract: products, accounts, settings, outcomes."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.filenames import from_url

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, time
    from pathlib import Path

    from bulkdl.core.urls import HostList, Url

__all__ = [
    "Account",
    "AuthKind",
    "Checksum",
    "ClientAuth",
    "Failure",
    "FailureKind",
    "Grant",
    "Manifest",
    "Order",
    "Outcome",
    "Product",
    "Quota",
    "QuotaUnit",
    "RateTimetable",
    "Resume",
    "RunOptions",
    "SecretRef",
    "SecretSource",
    "Settings",
    "State",
    "TokenIn",
    "Trouble",
    "Verify",
    "Window",
]


class AuthKind(StrEnum):
    OIDC = "oidc"
    BASIC = "basic"
    BEARER = "bearer"
    HEADER = "header"
    NONE = "none"


class Grant(StrEnum):
    """OAuth grant type (RFC 6749 §4.3 and §4.4)."""

    PASSWORD = "password"
    CLIENT_CREDENTIALS = "client_credentials"


class ClientAuth(StrEnum):
    """Way in which an OAuth client sends its secret (RFC 6749 §2.3.1): in the Authorization header, or in the form."""

    BASIC = "basic"
    POST = "post"


class TokenIn(StrEnum):
    HEADER = "header"
    QUERY = "query"


class Verify(StrEnum):
    BASIC = "basic"
    DEEP = "deep"


class Resume(StrEnum):
    """Condition for resuming a partial.

    `strict`: a validator rules out a mix of two versions, or a checksum would detect it; `overlap`: the total size and
    the last bytes must be identical.
    """

    STRICT = "strict"
    OVERLAP = "overlap"


class Order(StrEnum):
    """Order in which products of one priority are begun."""

    AUTO = "auto"
    MANIFEST = "manifest"
    LARGEST = "largest"
    SMALLEST = "smallest"
    NEWEST = "newest"


class State(StrEnum):
    COMPLETED = "completed"
    SKIPPED = "skipped"
    FAILED = "failed"
    PENDING = "pending"


class FailureKind(StrEnum):
    HTTP = "http"
    NETWORK = "network"
    AUTH = "auth"
    CHECKSUM = "checksum"
    SIZE = "size"
    CONTENT = "content"
    CONFLICT = "conflict"
    STORAGE = "storage"
    OFFLINE = "offline"


class Trouble(StrEnum):
    """A trouble that every request to an origin would meet: the `kind` of an outage."""

    NAME = "dns"
    NO_SUCH_NAME = "no such name"
    REFUSED = "refused"
    TLS = "tls"
    TIMEOUT = "timeout"
    BROKEN = "reset"
    STATUS = "server error"
    BUSY = "too many requests"
    PAGE = "page"
    DENIED = "denied"
    LOGIN = "login refused"
    NETWORK = "network"
    """The origin cannot be reached, as all others: this machine probably has no network."""


@dataclass(frozen=True, slots=True)
class Checksum:
    algorithm: str
    """One of md5, sha1, sha256, sha512, blake3."""
    hex: str
    """Lower case."""

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One file to download: its URL, its path in the destination, and its known properties."""

    index: int
    """Position in the manifest, from 0; of two products with the same name the lower index gets it."""
    url: Url
    file: str | None = None
    """Relative path under the destination, with `/`; None: use Content-Disposition, else `expected_file`."""
    name: str | None = None
    """Relative path that tells this product from others whose URLs end in the same name; None: there are none."""
    hint: str | None = None
    """The manifest's `name`: relative path for a product whose archive suggests none; its suffix follows the bytes."""
    size: int | None = None
    """Bytes."""
    checksums: tuple[Checksum, ...] = ()
    account: str | None = None
    mirrors: tuple[Url, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    extract: bool = False
    verify: Verify = Verify.BASIC
    resume: Resume = Resume.STRICT
    priority: int = 0
    """Products of a higher priority are begun first."""
    line: int = 0
    """Line in the manifest, from 1; 0 if the product came from no file."""

    @property
    def id(self) -> str:
        """Key in the journal: the file, or a hash of the URL if only the server knows the file name."""
        return self.file if self.file is not None else f"url:{self.url.fingerprint}"

    @property
    def expected_file(self) -> str:
        """`file`, or the path that the manifest or the URL suggests; the server may name another where `file` is None."""
        return self.file or self.hint or self.name or from_url(self.url)

    @property
    def sources(self) -> tuple[Url, ...]:
        return (self.url, *self.mirrors)


class QuotaUnit(StrEnum):
    BYTES = "bytes"
    ITEMS = "items"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """An amount of bytes or products that an account may have in any period of `period_s` seconds."""

    amount: int
    unit: QuotaUnit
    period_s: float
    text: str
    """As it was written, such as `12TB/30d`."""
    is_decimal: bool = False
    """The bytes were written in powers of 1000, and are shown so."""


class SecretSource(StrEnum):
    """Place where a secret was found; `check` and `login` print it, never the secret."""

    ENVIRONMENT = "environment"
    SECRETS_FILE = "secrets file"
    KEYRING = "keyring"
    NETRC = ".netrc"
    PROMPT = "prompt"
    GIVEN = "given"


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A secret as the manifest writes it (`${NAME}`, possibly with text around it); resolved when the run begins."""

    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One set of credentials and how they authenticate requests; preset applied, secrets not yet resolved."""

    name: str
    auth: AuthKind
    provider: str | None = None
    token_url: Url | None = None
    client_id: str | None = None
    client_secret: SecretRef | None = None
    grant: Grant = Grant.PASSWORD
    client_auth: ClientAuth | None = None
    """None: in the form, and in the header if the token endpoint asks for that."""
    scope: str | None = None
    username: SecretRef | None = None
    password: SecretRef | None = None
    totp_secret: SecretRef | None = None
    totp_field: str = "totp"
    token: SecretRef | None = None
    """The fixed token of `auth: bearer`, or the key of `auth: header`."""
    header: str = "Authorization"
    """Name of the field that carries the key of `auth: header`."""
    token_in: TokenIn = TokenIn.HEADER
    token_param: str = "token"
    hosts: HostList | None = None
    """Hosts that may get the credential; None: the host of each product's own URL."""
    max_connections: int | None = None
    quota: tuple[Quota, ...] = ()
    """What its provider allows in a period; a ledger on this machine has what was used."""
    resume: Resume | None = None
    secrets: Path | None = None
    """Absolute path of the secrets INI file."""
    netrc_hosts: tuple[str, ...] = ()
    """Machine names to look up in `.netrc`, in order."""


@dataclass(frozen=True, slots=True)
class Window:
    """Local time window, `start` inclusive to `end` exclusive; it may span midnight."""

    start: time
    end: time


@dataclass(frozen=True, slots=True)
class RateTimetable:
    """Changes of the rate limit over a week of local time; the last change of the week holds until the first one."""

    starts: tuple[int, ...]
    """Seconds since the beginning of Monday as clocks show them, ascending."""
    rates: tuple[int | None, ...]
    """Bytes per second from each of `starts` on; None: no limit."""

    def rate_at(self, now: datetime) -> int | None:
        """Return the limit at a local time; so midnight and the two changes of summer time need no case of their own."""
        second = now.weekday() * 86400 + now.hour * 3600 + now.minute * 60 + now.second
        return self.rates[bisect_right(self.starts, second) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a run; every field is a manifest key, a flag of `run` and a `BULKDL_…` variable."""

    workers: int | None = None
    """Limit of products in flight; None: what the archives bear."""
    segments: int | None = None
    """Limit of connections to one product; None: auto."""
    limit_rate: int | RateTimetable | None = None
    """Limit in bytes per second for the whole run, or by the time; None: no limit."""
    retries: int = 10
    """Attempts in a row without progress before a product fails."""
    timeout: float = 60.0
    """Seconds without a byte before a connection is dropped."""
    min_rate: int = 1024
    """Drop a connection slower than this over `timeout`, in bytes per second; 0: no limit."""
    retry_for: float = 3600.0
    """Seconds that the attempts of a product go on at least, for a trouble that may pass; 0: `retries` alone decides."""
    give_up_after: float = 21600.0
    """Seconds without one good answer after which an origin or a token endpoint is given up; infinity: never."""
    max_wait: float = 3600.0
    """Limit in seconds of waiting for one product as asked by the server (Retry-After, 202)."""
    quota: float | None = 1.0
    """Share of an account's quotas at which the run stops the account; None: never."""
    window: Window | None = None
    until: time | None = None
    max_bytes: int | None = None
    """Bytes received in this run after which no further product is begun; None: no limit."""
    order: Order = Order.AUTO
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of a run that only the command line sets."""

    select: tuple[str, ...] = ()
    overwrite: bool = False
    trust_existing: bool = False
    wait_for_space: bool = False
    allow_sleep: bool = False
    no_memory: bool = False
    """Neither use nor record what was learned of the connections of hosts."""
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    path: str
    """Path as the user wrote it; `-` for standard input."""
    destination: Path
    """Absolute path."""
    destination_shown: str
    """Destination as the user wrote it."""
    settings: Mapping[str, object]
    """Keys that the manifest sets, converted; `bulkdl.manifest.settings` defines the precedence."""
    accounts: Mapping[str, Account]
    products: tuple[Product, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    kind: FailureKind
    reason: str
    """What happened and what to do next, in one or two sentences, without secrets."""
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Result of one product in this run."""

    product: Product
    state: State
    file: str
    """Relative path under the destination; the URL's last segment if no better name is known yet."""
    destination: Path | None = None
    """Absolute path of the destination folder; None if the file is not in place."""
    written: int = 0
    """Bytes of the completed product."""
    resumed: int = 0
    """Bytes that earlier runs had downloaded and this run kept."""
    failure: Failure | None = None
    note: str = ""
    """Additional remark for the user, such as `existing, unverified`."""
    elapsed_s: float = 0.0
    sources: tuple[str, ...] = field(default=())
    """Hosts that served bytes."""

    @property
    def path(self) -> Path | None:
        """Absolute path of the file; None if it is not in place."""
        return None if self.destination is None else self.destination / self.file
