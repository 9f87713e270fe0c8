"""A real Keycloak for tests: downloaded and built once, started with the realms of `realms/` and a database in memory.

The distribution comes from Maven Central by way of `mvn` and is kept outside the checkout, in
`${XDG_CACHE_HOME:-~/.cache}/bulkdl-ci`. A folder there gets its final name only when it is complete. Each start has its
own home, which links to the distribution, so that no state survives a test session.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock

from .processes import free_port, spawn, stop, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["REALMS", "TOTP_SECRET", "Keycloak", "distribution"]

VERSION = "26.4.7"
REALMS = Path(__file__).parent / "realms"
TOTP_SECRET = "gezd gnbv gy3t qojq gezd gnbv gy3t qojq"
"""TOTP secret as a user writes it down: base32 of the `value` in the realm file."""

_BUILD = ("--db=dev-mem", "--http-relative-path=/auth")
_ADMIN = ("admin", "for these tests alone")
_THREADS = "io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory"
_JAVA = (
    *("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8"),
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in ("util", "util.concurrent", "security")),
    "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
    f"-Djava.util.concurrent.ForkJoinPool.common.threadFactory={_THREADS}",
)
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Keycloak:
    """A running Keycloak on 127.0.0.1; `with Keycloak(folder) as keycloak:` starts and stops it.

    All counts come from the server itself (its admin API), never from the client under test.
    """

    def __init__(self, folder: Path, *, realms: Path = REALMS, timeout_s: float = 240) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/auth"
        self.realms = tuple(sorted(json.loads(path.read_text())["realm"] for path in realms.glob("*.json")))
        self.log = folder / "keycloak.log"
        self._home = folder / "keycloak"
        self._source = realms
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._built = distribution()
        self._prepare_home(self._built)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            stop(self._process)
            self._process = None

    def start(self) -> None:
        """Start it, and return when it answers. After `kill`, sessions, counts and signing keys are new ones."""
        built = self._built
        self._process = process = spawn(
            [
                *("java", *_JAVA),
                *(f"-Dkc.home.dir={self._home}", f"-Djboss.server.config.dir={self._home / 'conf'}"),
                *("-cp", built / "lib" / "quarkus-run.jar", "io.quarkus.bootstrap.runner.QuarkusEntryPoint"),
                *(
                    "start",
                    "--optimized",
                    "--import-realm",
                    "--cache=local",
                    "--http-enabled=true",
                    "--hostname-strict=false",
                ),
                *("--http-host=127.0.0.1", f"--http-port={self.port}"),
            ],
            log=self.log,
            env={"KC_BOOTSTRAP_ADMIN_USERNAME": _ADMIN[0], "KC_BOOTSTRAP_ADMIN_PASSWORD": _ADMIN[1]},
            cwd=self._home,
        )
        try:
            until(self._ready, process, what="Keycloak", log=self.log, timeout_s=self._timeout_s)
        except BaseException:
            stop(process)
            raise

    def kill(self) -> None:
        """End it as a crash does; what it knows is lost with its memory."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it neither answer nor refuse a connection."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def issuer(self, realm: str) -> str:
        return f"{self.url}/realms/{realm}"

    def token_url(self, realm: str) -> str:
        return f"{self.issuer(realm)}/protocol/openid-connect/token"

    def events(self, realm: str, kind: str, *, user: str | None = None) -> int:
        """Return the number of events of a kind (LOGIN, LOGIN_ERROR, REFRESH_TOKEN, LOGOUT, ...), at most 10,000."""
        query = {"type": kind, "max": "10000"} | ({"user": self._id(realm, user)} if user is not None else {})
        return len(self._admin(realm, f"events?{urllib.parse.urlencode(query)}"))

    def clear_events(self, realm: str) -> None:
        self._admin(realm, "events", method="DELETE")

    def sessions(self, realm: str, user: str) -> int:
        """Return the number of open sessions of a user."""
        return len(self._admin(realm, f"users/{self._id(realm, user)}/sessions"))

    def end_sessions(self, realm: str, user: str) -> None:
        """End all sessions of a user, as an administrator does."""
        self._admin(realm, f"users/{self._id(realm, user)}/logout", method="POST")

    def locked(self, realm: str, user: str) -> bool:
        """Tell whether brute-force protection locks the user now."""
        return bool(self._admin(realm, f"attack-detection/brute-force/users/{self._id(realm, user)}")["disabled"])

    def unlock(self, realm: str, user: str) -> None:
        self._admin(realm, f"attack-detection/brute-force/users/{self._id(realm, user)}", method="DELETE")

    def _prepare_home(self, built: Path) -> None:
        (self._home / "data" / "import").mkdir(parents=True)
        for name in ("lib", "providers", "themes"):
            (self._home / name).symlink_to(built / name)
        shutil.copytree(built / "conf", self._home / "conf")
        for path in self._source.glob("*.json"):
            shutil.copy(path, self._home / "data" / "import")

    def _ready(self) -> bool:
        try:
            for realm in self.realms:
                _call(f"{self.issuer(realm)}/.well-known/openid-configuration")
        except (OSError, urllib.error.URLError):
            return False
        return True

    def _id(self, realm: str, user: str) -> str:
        found = self._admin(realm, f"users?{urllib.parse.urlencode({'username': user, 'exact': 'true'})}")
        return str(found[0]["id"])

    def _admin(self, realm: str, path: str, *, method: str = "GET") -> Any:
        form = {"grant_type": "password", "client_id": "admin-cli", "username": _ADMIN[0], "password": _ADMIN[1]}
        token = _call(self.token_url("master"), method="POST", form=form)["access_token"]
        return _call(f"{self.url}/admin/realms/{realm}/{path}", method=method, token=token)


def distribution() -> Path:
    """Return the built distribution. The first call on a machine downloads, unpacks and builds it (about a minute)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "bulkdl-ci"
    cache.mkdir(parents=True, exist_ok=True)
    built = cache / f"keycloak-{VERSION}-{hashlib.sha256(' '.join(_BUILD).encode()).hexdigest()[:8]}"
    with FileLock(cache / "keycloak.lock"):
        if not _is_complete(built):
            shutil.rmtree(built, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix=".keycloak-") as scratch:
                _build(Path(scratch)).rename(built)
    return built


def _build(scratch: Path) -> Path:
    folder = scratch / f"keycloak-{VERSION}"
    try:
        _unpack(_download(scratch), scratch)
    except (tarfile.TarError, EOFError, OSError):
        # Maven's shared cache may contain a truncated archive; our own repository cannot.
        shutil.rmtree(folder, ignore_errors=True)
        _unpack(_download(scratch, f"-Dmaven.repo.local={scratch / 'repository'}"), scratch)
    _command([folder / "bin" / "kc.sh", "build", *_BUILD])
    (folder / "SIZES").write_text(json.dumps(_sizes(folder)))
    os.sync()
    return folder


def _download(scratch: Path, *options: str) -> Path:
    _command(
        [
            *("mvn", "-q", "-B", *options, "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"),
            f"-Dartifact=org.keycloak:keycloak-quarkus-dist:{VERSION}:tar.gz",
            *(f"-DoutputDirectory={scratch}", "-Dmdep.overWriteReleases=true"),
        ]
    )
    return scratch / f"keycloak-quarkus-dist-{VERSION}.tar.gz"


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def _is_complete(built: Path) -> bool:
    """Tell whether every file has its full size: after a power cut, files may be empty."""
    try:
        return bool(json.loads((built / "SIZES").read_text()) == _sizes(built))
    except (OSError, ValueError):
        return False


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "SIZES")
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _command(command: list[str | Path]) -> None:
    done = subprocess.run(
        [*map(str, command)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with code {done.returncode}:\n{done.stdout}\n{done.stderr}")


def _call(url: str, *, method: str = "GET", form: dict[str, str] | None = None, token: str = "") -> Any:
    data = None if form is None else urllib.parse.urlencode(form).encode()
    request = urllib.request.Request(url, data=data, method=method)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with _direct.open(request, timeout=30) as response:
        body = response.read()
    return json.loads(body) if body else None
