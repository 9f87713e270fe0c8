"""The program as users see it: a process with its files, and servers in a separate thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from bulkdl.demo_server.access import Access
from bulkdl.demo_server.catalog import Item
from bulkdl.demo_server.generated_files import Kind
from bulkdl.demo_server.server import Archive
from bulkdl.demo_server.token_server import ClientApp, Identity, User
from tests.contract import preloaded
from tests.effort import THOROUGH
from tests.servers import RawRequest, RawServer, Responder, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

__all__ = ["SECRETS", "Done", "Place", "Routes", "Running", "Site", "Stage", "eventually"]

_T = TypeVar("_T")
_CAN_FORK = sys.platform == "linux"
PATIENCE_S = 100.0
"""Longest wait for an event, in seconds; nothing is judged by how long it took."""
TOTP_SECRETS = {"tina": "gezd gnbv gy3t qojq gezd gnbv gy3t qojq", "ines": "MFRG GZDF MZTW Q2LK NNWG 23TP"}
SECRETS = {
    "JO_PASSWORD": "pÄss wörd+&=%€",
    "TINA_PASSWORD": "tina's %(secret)s = 7; #1",
    "INES_PASSWORD": "p%w=d; #x: y",
    "TINA_TOTP": TOTP_SECRETS["tina"],
    "OWN_SECRET": "s3cr:et +%canary",
    "BASIC_PASSWORD": "bäsic-canary:1%",
    "NETRC_PASSWORD": "netrc-canary-17",
    "FIXED_TOKEN": "fixed-canary-token-4711",
}
"""Secrets by environment variable; none of them may appear in any file afterwards."""

SHORT_WAITS = {"BULKDL_GIVE_UP_AFTER": "2s", "BULKDL_RETRY_FOR": "0s"}
"""Wait for an origin that is out of order, and time in which a product is tried again; by default hours."""


def eventually(condition: Callable[[], _T], *, what: str = "", process: Running | None = None) -> _T:
    """Wait until `condition()` is true and return its value; fail on a timeout or if the process ends first."""
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if process is not None and process.ended:
            if found := condition():
                return found
            raise AssertionError(f"the program ended before {what}: {process.done()}")
        assert time.monotonic() < end, f"never seen: {what}"
        threading.Event().wait(0.02)
    return found


class Stage:
    """An event loop in a thread, which runs servers while a test waits for a process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def running(self, server: AbstractAsyncContextManager[_T]) -> Iterable[_T]:  # type: ignore[misc]
        value = self._do(server.__aenter__())
        try:
            yield value
        finally:
            self._do(server.__aexit__(None, None, None))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)


class Routes:
    """Responder by path: the responders of a path answer in turn, the last one for ever; other paths get 404."""

    def __init__(self) -> None:
        self._by_path: dict[str, tuple[Responder, ...]] = {}
        self.log: list[RawRequest] = []

    def __setitem__(self, path: str, responders: Responder | tuple[Responder, ...]) -> None:
        self._by_path[path] = responders if isinstance(responders, tuple) else (responders,)

    def of(self, path: str) -> list[RawRequest]:
        return [request for request in self.log if request.path == path]

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        number = len(self.of(request.path))
        self.log.append(request)
        row = self._by_path.get(request.path)
        if row is None:
            await wire.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        await row[min(number, len(row) - 1)](request, wire)


class _Fixed:
    """Token checker that accepts one token."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def check(self, token: str) -> bool:
        return token == self._token


@dataclass(slots=True)
class Site:
    """Archive with a token endpoint. The prefix of a product's name determines the accepted credential."""

    archive: Archive
    identity: Identity
    raw: RawServer
    routes: Routes
    made: int = field(default=0)

    @classmethod
    @contextlib.contextmanager
    def open(cls, stage: Stage) -> Iterable[Site]:  # type: ignore[misc]
        identity = Identity(
            users=(
                User(name="jo", password=SECRETS["JO_PASSWORD"]),
                User(name="tina", password=SECRETS["TINA_PASSWORD"], totp_secret=TOTP_SECRETS["tina"]),
                User(name="ines", password=SECRETS["INES_PASSWORD"], totp_secret=TOTP_SECRETS["ines"]),
                User(name="nat", password=SECRETS["NETRC_PASSWORD"]),
            ),
            clients=(ClientApp(id="public"), ClientApp(id="robot", secret=SECRETS["OWN_SECRET"])),
        )
        access = {
            "header-": Access(header=identity),
            "query-": Access(query=identity),
            "field-": Access(query=identity, query_param="access"),
            "basic-": Access(basic=("bo", SECRETS["BASIC_PASSWORD"])),
            "bearer-": Access(header=_Fixed(SECRETS["FIXED_TOKEN"])),
            "forbidden-": Access(header=_Fixed(None), status=403),
        }
        routes = Routes()
        with (
            stage.running(Archive(access=access, identity=identity)) as archive,
            stage.running(RawServer(routes)) as raw,
        ):
            yield cls(archive, identity, raw, routes)

    def item(self, prefix: str = "open-", size: int = 1500, *, kind: Kind = Kind.BIN, **more: Any) -> Item:
        """Add a new product, different from all others of the site."""
        self.made += 1
        name = more.pop("name", None) or f"{prefix}{self.made:03d}.{kind.value}"
        return self.archive.put(Item(name=name, size=size, seed=self.made, kind=kind, **more))

    def url(self, item: Item, route: str = "files") -> str:
        return f"{self.archive.origin}/{route}/{item.name if route == 'files' else item.id}"

    def entry(self, item: Item, **more: Any) -> dict[str, Any]:
        """Return the long manifest form with all facts; a value of `...` omits the key."""
        known = {"url": self.url(item), "file": item.name, "size": item.size, "checksum": f"md5:{item.digest()}"}
        return {key: value for key, value in (known | more).items() if value is not ...}

    def bare(self, item: Item, **more: Any) -> dict[str, Any]:
        """Return the long manifest form without size and checksum."""
        return self.entry(item, size=..., checksum=..., **more)

    def oidc(self, user: str = "jo", **more: Any) -> dict[str, Any]:
        known = {
            "auth": "oidc",
            "token_url": self.archive.token_url,
            "client_id": "public",
            "username": user,
            "password": f"${{{user.upper()}_PASSWORD}}",
        }
        return {key: value for key, value in (known | more).items() if value is not ...}

    @property
    def requests(self) -> int:
        """Number of requests so far, including logins."""
        return len(self.archive.log) + len(self.raw.log) + len(self.identity.log)


@dataclass(frozen=True, slots=True)
class Done:
    """Result of a process that has ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON object on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def failures(self) -> dict[str, dict[str, Any]]:
        return {failure["file"]: failure for failure in self.summary["failures"]}

    def kind(self, file: str) -> str:
        return str(self.failures[file]["kind"])

    @property
    def counts(self) -> dict[str, int]:
        """The product counts that are not 0, without the total."""
        return {k: v for k, v in self.summary["products"].items() if v and k != "total"}


def _is_for_python(variable: str) -> bool:
    """Return whether Python reads this variable when it starts, so that a forked process would not see it."""
    return variable.startswith(("PYTHON", "LANG", "LC_", "TZ"))


def _new(words: Sequence[str], *, folder: Path, cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the program in a new interpreter; its standard streams are the files `in`, `out` and `err` of `folder`."""
    with (
        (folder / "in").open("rb") as given,
        (folder / "out").open("wb") as out,
        (folder / "err").open("wb") as err,
    ):
        return subprocess.Popen(
            [sys.executable, "-m", "bulkdl", *words], stdin=given, stdout=out, stderr=err, cwd=cwd, env=env
        )


class Running:
    """Running process; its output goes to files."""

    def __init__(self, process: subprocess.Popen[bytes] | preloaded.PreloadedProcess, folder: Path) -> None:
        self.process = process
        self._folder = folder

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text(encoding="utf-8", errors="replace")

    def until(self, condition: Callable[[], object], what: str) -> None:
        eventually(condition, what=what, process=self)

    def interrupt(self, number: int = signal.SIGINT) -> Done:
        self.process.send_signal(number)
        return self.done()

    def kill(self) -> None:
        """Kill the process, as a crash would."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def done(self) -> Done:
        """Wait for the end; assert that the output has no traceback and no secret."""
        try:
            code = self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()
        out = (self._folder / "out").read_text(encoding="utf-8", errors="replace")
        done = Done(code, out, self.err)
        assert "Traceback" not in done.err + done.out, done.err
        for name, secret in SECRETS.items():
            assert secret not in done.err + done.out, f"{name} was printed"
        return done


class Place:
    """Working folder with a manifest, a destination and its own home folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.home.mkdir(parents=True)
        self.cwd = root / "work"
        self.cwd.mkdir()
        self.products = self.cwd / "products"
        self._runs = 0
        self._running: list[Running] = []

    def close(self) -> None:
        """Kill processes that are still running."""
        for running in self._running:
            if not running.ended:
                running.kill()

    def write(self, products: Iterable[Any], *, name: str = "m.yaml", **more: Any) -> Path:
        """Write a manifest; `more`: accounts, settings, defaults, destination."""
        content = {"version": 1, "destination": "./products", **more, "products": list(products)}
        return self.text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), name=name)

    def text(self, text: str, *, name: str = "m.yaml") -> Path:
        path = self.cwd / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def put(self, name: str, data: bytes) -> Path:
        """Create a file in the destination before the run."""
        path = self.products / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def get(self, name: str) -> bytes | None:
        path = self.products / name
        return path.read_bytes() if path.is_file() else None

    def names(self) -> set[str]:
        """Return all files of the destination except those in `.bulkdl`."""
        found = (path.relative_to(self.products) for path in self.products.rglob("*") if path.is_file())
        return {path.as_posix() for path in found if path.parts[0] != ".bulkdl"}

    def start(
        self,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        cwd: Path | None = None,
    ) -> Running:
        self._runs += 1
        folder = self.root / f"output-{self._runs}"
        folder.mkdir()
        (folder / "in").write_text(stdin or "", encoding="utf-8")
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "SYSTEMROOT") if name in os.environ}
        given = {
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "SSL_CERT_FILE": os.environ["SSL_CERT_FILE"],
            **SECRETS,
            **SHORT_WAITS,
        }
        environ = {**kept, **given, **(env or {})}
        environ = {name: value for name, value in environ.items() if value != ""}
        starting = _new if THOROUGH or not _CAN_FORK or any(map(_is_for_python, env or ())) else preloaded.start
        running = Running(starting([*map(str, arguments)], folder=folder, cwd=cwd or self.cwd, env=environ), folder)
        self._running.append(running)
        return running

    def __call__(self, *arguments: object, **how: Any) -> Done:
        return self.start(*arguments, **how).done()

    def run(self, *arguments: object, manifest: object = "m.yaml", **how: Any) -> Done:
        """Run `bulkdl run m.yaml --json --progress plain ...`."""
        return self("run", manifest, "--json", "--progress", "plain", *arguments, **how)

    def leaks(self, *more: str) -> list[str]:
        """Return files of bulkdl that contain a secret, except files made by the tests (`secrets.conf`, `.netrc`)."""
        secrets = [secret.encode() for secret in (*SECRETS.values(), *more)]
        files = [p for p in self.root.rglob("*") if p.is_file() and p.name not in {"secrets.conf", ".netrc"}]
        return [str(path) for path in files if any(secret in path.read_bytes() for secret in secrets)]
