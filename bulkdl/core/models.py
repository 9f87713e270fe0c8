"""The words of the contract as frozen values: products, accounts, settings, outcomes."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import time
    from pathlib import Path

    from bulkdl.core.urls import HostList, Url

__all__ = [
    "Account",
    "AuthKind",
    "Checksum",
    "Failure",
    "FailureKind",
    "Grant",
    "Manifest",
    "Outcome",
    "Product",
    "Resume",
    "RunOptions",
    "SecretRef",
    "SecretSource",
    "Settings",
    "State",
    "TokenIn",
    "Verify",
    "Window",
]


class AuthKind(StrEnum):
    OIDC = "oidc"
    BASIC = "basic"
    BEARER = "bearer"
    NONE = "none"


class Grant(StrEnum):
    """RFC 6749 §4.3 and §4.4."""

    PASSWORD = "password"
    CLIENT_CREDENTIALS = "client_credentials"


class TokenIn(StrEnum):
    HEADER = "header"
    QUERY = "query"


class Verify(StrEnum):
    BASIC = "basic"
    DEEP = "deep"


class Resume(StrEnum):
    """`strict`: a splice of two editions is ruled out or caught; `overlap`: size and last stretch are compared."""

    STRICT = "strict"
    OVERLAP = "overlap"


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
    """One thing to download: where it is, where it goes, and what is known of it."""

    index: int
    """Its place in the manifest, from 0; decides who has a contested name."""
    url: Url
    file: str | None = None
    """Relative path under the destination, with `/`; None: Content-Disposition, else the URL's last segment."""
    size: int | None = None
    """Bytes."""
    checksums: tuple[Checksum, ...] = ()
    account: str | None = None
    mirrors: tuple[Url, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    extract: bool = False
    verify: Verify = Verify.BASIC
    resume: Resume = Resume.STRICT
    line: int = 0
    """Where it stands in the manifest, from 1; 0 where it has no manifest."""

    @property
    def id(self) -> str:
        """The key in the journal: the file, or a hash of the URL where the file is not known beforehand."""
        return self.file if self.file is not None else f"url:{self.url.fingerprint}"

    @property
    def sources(self) -> tuple[Url, ...]:
        return (self.url, *self.mirrors)


class SecretSource(StrEnum):
    """Where a secret was found; printed by `check` and `login`, never the secret."""

    ENVIRONMENT = "environment"
    SECRETS_FILE = "secrets file"
    KEYRING = "keyring"
    NETRC = ".netrc"
    PROMPT = "prompt"
    GIVEN = "given"


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A secret as the manifest names it (`${NAME}`, perhaps with text around it); resolved when the run begins."""

    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One set of credentials and how it signs requests, preset applied, secrets not yet resolved."""

    name: str
    auth: AuthKind
    provider: str | None = None
    token_url: Url | None = None
    client_id: str | None = None
    client_secret: SecretRef | None = None
    grant: Grant = Grant.PASSWORD
    scope: str | None = None
    username: SecretRef | None = None
    password: SecretRef | None = None
    totp_secret: SecretRef | None = None
    totp_field: str = "totp"
    token: SecretRef | None = None
    """For `bearer`."""
    token_in: TokenIn = TokenIn.HEADER
    token_param: str = "token"
    hosts: HostList | None = None
    """None: the host of each product's own URL."""
    max_connections: int | None = None
    resume: Resume | None = None
    secrets: Path | None = None
    """The INI file, absolute."""
    netrc_hosts: tuple[str, ...] = ()
    """Machines to look up in `.netrc`, in order."""


@dataclass(frozen=True, slots=True)
class Window:
    """Local time of day, `start` inclusive to `end` exclusive; it may pass midnight."""

    start: time
    end: time


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run behaves; every field is a manifest key, a flag of `run` and a `BULKDL_…` variable."""

    workers: int = 8
    segments: int | None = None
    """Most connections to one product; None: auto."""
    limit_rate: int | None = None
    """Bytes a second over the whole run."""
    retries: int = 10
    """Attempts in a row that got no further than the furthest byte so far."""
    timeout: float = 60.0
    """Seconds without a byte."""
    min_rate: int = 1024
    """Bytes a second over `timeout`; 0: no such limit."""
    max_wait: float = 3600.0
    """Seconds that a server's Retry-After or 202 is obeyed for one product."""
    window: Window | None = None
    until: time | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What only the command line says of a run."""

    select: tuple[str, ...] = ()
    overwrite: bool = False
    trust_existing: bool = False
    wait_for_space: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    path: str
    """As the user named it; `-` for standard input."""
    destination: Path
    """Absolute."""
    destination_shown: str
    """As the user wrote it."""
    settings: Mapping[str, object]
    """The keys that the manifest sets, converted; see `bulkdl.manifest.settings` for what wins."""
    accounts: Mapping[str, Account]
    products: tuple[Product, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    kind: FailureKind
    reason: str
    """What happened and what to do next, in one or two sentences, free of secrets."""
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one product in this run."""

    product: Product
    state: State
    file: str
    """Relative path under the destination; the URL's last segment where no better name is known yet."""
    destination: Path | None = None
    """Where the file is in place: the destination's folder, absolute."""
    written: int = 0
    """Bytes of the completed product."""
    resumed: int = 0
    """Bytes found on disk when the run began and kept."""
    failure: Failure | None = None
    note: str = ""
    """What else a reader should know, such as `existing, unverified`."""
    elapsed_s: float = 0.0
    sources: tuple[str, ...] = field(default=())
    """Hosts that served bytes."""

    @property
    def path(self) -> Path | None:
        """Absolute, where the file is in place."""
        return None if self.destination is None else self.destination / self.file
