"""Whole nights in a second: a run with everything real except time, threads and the network.

`VirtualLoop` advances its time to the next timer as soon as nothing is left to do, so time-outs, pauses and tokens take no
real time, and a run that hangs is an error instead of a wait. Threads are replaced by calls, which makes a night
deterministic. `Archive` and `Endpoint` take the place of the two clients that `Services.network` gives a run.
"""

from __future__ import annotations

import asyncio
import json
import random
import selectors
import socket
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import aiohttp
from multidict import CIMultiDict

from bulkdl.auth.oidc.messages import EndpointFailed, TokenResponse
from bulkdl.content.hashing import HASHING
from bulkdl.core.events import Event, Hub, ProductFinished
from bulkdl.core.models import RunOptions, Settings, State, Trouble
from bulkdl.http.errors import map_exceptions
from bulkdl.http.head_parser import parse_head
from bulkdl.http.response import Response
from bulkdl.manifest.loader import from_mapping
from bulkdl.operations.run import run
from bulkdl.operations.services import NetworkClients, Services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from bulkdl.auth.base import Authenticator
    from bulkdl.core.secret import Secret
    from bulkdl.core.urls import HostList, Url
    from bulkdl.operations.result import RunResult

__all__ = ["ALL", "BEGAN", "CONNECTION", "REFUSAL", "SSO", "Down", "Night", "Spent"]

SSO = "https://sso.example.org:443"
SIZE = 4096
_PIECES = 4
_LATENCY_S = 0.05
_TOKEN_S = 600.0
_LONGEST_S = 48 * 3600.0
_MOST_TURNS = 300_000
"""Timers of a night; most nights have less than 20,000."""
BEGAN = 1_750_000_000.0

CONNECTION = ("refused", "name", "timeout", "reset", "silence")
STATUS = ("500", "503", "503 later", "429", "maintenance")
REFUSAL = ("401", "403", "404")
ALL = (*CONNECTION, *STATUS)


@dataclass(frozen=True, slots=True)
class Down:
    """An origin is out of order from `begin` to `end`, seconds after the beginning of the night."""

    origin: str
    begin: float
    end: float
    kind: str = "refused"


@dataclass(slots=True)
class Spent:
    """Result of a night."""

    result: RunResult
    events: list[tuple[float, Event]]
    asked: list[tuple[float, str, str]]
    """Time, origin and path of each request for a product."""
    tokens: list[tuple[float, str]]
    """Time and kind of each request for a token."""
    most_at_once: dict[str, int] = field(default_factory=dict)
    """Most requests at a time to an origin while it was out of order, apart from those of the first minutes."""

    def of(self, kind: type[Any]) -> list[tuple[float, Any]]:
        return [(at, event) for at, event in self.events if isinstance(event, kind)]

    def requests(self, origin: str, begin: float, end: float) -> int:
        return sum(origin == where and begin <= at < end for at, where, _ in self.asked)

    def finished(self, state: State = State.COMPLETED) -> dict[str, float]:
        """Return the time at which each product got the outcome `state`, by file."""
        return {e.outcome.file: at for at, e in self.of(ProductFinished) if e.outcome.state is state}


class _VirtualSelector(selectors.DefaultSelector):
    """Never waits: it advances the time instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self._turns = 0.0, 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            raise AssertionError("the run hangs: nothing is ready, and no timer is set")
        self.now += max(timeout, 1e-6)
        self._turns += 1
        if self.now > _LONGEST_S or self._turns > _MOST_TURNS:
            raise AssertionError(f"the run does not end: {self.now:.0f} s have passed")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)
        self.set_default_executor(_Inline())

    def time(self) -> float:
        return self._virtual.now


class _Inline(ThreadPoolExecutor):
    """Calls what is submitted at once."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__(1)

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*arguments, **named))
        except BaseException as error:  # noqa: BLE001 - as a pool does
            future.set_exception(error)
        return future


class _InlineWriter:
    """The journal's writer, without its thread and its batches."""

    def __init__(self, _path: Path, connect: Callable[[], Any], *, reserve: object = None) -> None:
        self._connect, self._reserve, self._connection = connect, reserve, None

    async def start(self) -> None:
        self._connection = self._connect()

    async def run(self, work: Callable[[Any], Any]) -> Any:
        assert self._connection is not None
        self._connection.execute("BEGIN")
        result = work(self._connection)
        self._connection.execute("COMMIT")
        return result

    def run_unsynced(self, work: Callable[[Any], object]) -> None:
        assert self._connection is not None
        self._connection.execute("BEGIN")
        work(self._connection)
        self._connection.execute("COMMIT")

    def raise_unseen(self) -> None:
        return

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class _Clock:
    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return BEGAN + self.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class _SimulatedResponse(Response):
    """A response whose body arrives in pieces, unless its origin goes down meanwhile."""

    async def read(self, _most: int | None = None) -> bytes:
        if self._peeked:
            return self._peeked.pop()
        body: Any = self._response
        return b"" if body is None else await body.next_piece()

    async def hand_over(self, *, given: int) -> None:
        return None

    def close(self) -> None:
        return

    @property
    def _has_arrived(self) -> bool:
        return self._response is None


class _Body:
    def __init__(self, archive: Archive, url: Url, data: bytes, *, slow_s: float) -> None:
        self._archive, self._url, self._slow_s = archive, url, slow_s
        self._due = self._silent = 0.0
        step = max(1, SIZE // _PIECES)
        self._pieces = [data[at : at + step] for at in range(0, len(data), step)]

    async def next_piece(self) -> bytes:
        """Return the next piece; a caller that loses patience finds it at the same time when it comes again."""
        if not self._pieces:
            return b""
        now = asyncio.get_running_loop().time()
        self._due = self._due or now + self._slow_s / _PIECES
        await asyncio.sleep(self._due - now)
        down = self._archive.night.down(self._url.origin)
        if down is not None and down.kind in CONNECTION:
            with map_exceptions(self._url):
                if down.kind in ("silence", "timeout"):
                    self._silent = self._silent or self._due + self._archive.night.settings.timeout
                    await asyncio.sleep(self._silent - asyncio.get_running_loop().time())
                    raise TimeoutError
                raise ConnectionResetError
        self._due = 0.0
        return self._pieces.pop(0)


class _Opening(AbstractAsyncContextManager["Response"]):
    def __init__(self, archive: Archive, url: Url, signer: Authenticator, headers: Mapping[str, str]) -> None:
        self._archive, self._url, self._signer, self._headers = archive, url, signer, headers

    async def __aenter__(self) -> Response:
        return await self._archive.send(self._url, self._signer, self._headers)

    async def __aexit__(self, *_: object) -> None:
        self._archive.leave(self._url.origin)


class Archive:
    """Takes the place of `HttpClient`."""

    def __init__(self, night: Night) -> None:
        self.night = night
        self.asked: list[tuple[float, str, str]] = []
        self.open_now: dict[str, int] = {}
        self.most_at_once: dict[str, int] = {}

    def open(
        self,
        url: Url,
        *,
        signer: Authenticator,
        allowed: HostList,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
    ) -> _Opening:
        assert method == "GET"
        return _Opening(self, url, signer, headers or {})

    def ahead(self, *_: object, **__: object) -> None:
        return None

    async def send(self, url: Url, signer: Authenticator, headers: Mapping[str, str]) -> Response:
        for tries in range(3):
            credential = await signer.credential() if signer.name else None
            self._note(url)
            try:
                await self._connect(url)
                reply = self._answer(url, headers, signed=credential is not None)
            except BaseException:
                self.leave(url.origin)
                raise
            if credential is None:
                return reply
            if reply.head.status not in (401, 403):
                signer.accepted(credential)
                return reply
            if tries == 2 or not await signer.rejected(credential, status=reply.head.status):
                return reply
            self.leave(url.origin)
        raise AssertionError("unreachable")

    def leave(self, origin: str) -> None:
        self.open_now[origin] -= 1

    def _note(self, url: Url) -> None:
        now, origin = asyncio.get_running_loop().time(), url.origin
        self.asked.append((now, origin, url.target))
        self.open_now[origin] = self.open_now.get(origin, 0) + 1
        down = self.night.down(origin)
        if down is not None and now > down.begin + 600:
            self.most_at_once[origin] = max(self.most_at_once.get(origin, 0), self.open_now[origin])

    async def _connect(self, url: Url) -> None:
        down = self.night.down(url.origin)
        with map_exceptions(url):
            await asyncio.sleep(_LATENCY_S)
            kind = down.kind if down is not None else ""
            key: Any = SimpleNamespace(host=url.host, port=url.port, ssl=None)
            if kind == "refused":
                raise aiohttp.ClientConnectorError(key, ConnectionRefusedError(111, "refused"))
            if kind == "name":
                raise aiohttp.ClientConnectorDNSError(key, socket.gaierror(socket.EAI_AGAIN, "try again"))
            if kind in ("timeout", "silence"):
                await asyncio.sleep(30.0 if kind == "timeout" else self.night.settings.timeout)
                raise TimeoutError
            if kind == "reset":
                raise ConnectionResetError

    def _answer(self, url: Url, headers: Mapping[str, str], *, signed: bool) -> Response:
        down = self.night.down(url.origin)
        if down is not None and down.kind not in CONNECTION:
            return self._refusal(url, down.kind, signed=signed)
        if url.target in self.night.gone:
            return self._refusal(url, "404", signed=signed)
        data, start = self.night.body(url.target), 0
        fields = CIMultiDict({"ETag": '"1"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"})
        end = len(data)
        if "Range" in headers:
            first, _, last = headers["Range"].removeprefix("bytes=").partition("-")
            start, end = int(first), min(end, int(last) + 1 if last else end)
            fields["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        fields["Content-Length"] = str(end - start)
        head = parse_head(_as_response(206 if "Range" in headers else 200, fields))
        body: Any = _Body(self, url, data[start:end], slow_s=self.night.product_s * (end - start) / len(data))
        return _SimulatedResponse(url, head, "", signed, body)

    def _refusal(self, url: Url, kind: str, *, signed: bool) -> Response:
        status, body = (200, b"<html><title>Down for maintenance") if kind == "maintenance" else (int(kind[:3]), b"")
        fields = CIMultiDict({"Content-Length": str(len(body)), "Content-Type": "text/html"})
        if kind == "503 later":
            fields["Retry-After"] = "120"
        return _SimulatedResponse(url, parse_head(_as_response(status, fields)), "", signed, None, _peeked=[body])


def _as_response(status: int, fields: CIMultiDict[str]) -> Any:
    return SimpleNamespace(status=status, headers=fields)


class Endpoint:
    """Takes the place of `HttpTokenEndpoint`."""

    def __init__(self, night: Night) -> None:
        self._night = night
        self.asked: list[tuple[float, str]] = []

    async def post(self, url: Url, form: Secret, *, authorization: Secret | None = None) -> TokenResponse:
        text, now = form.reveal(), asyncio.get_running_loop().time()
        kind = "login" if "grant_type=password" in text else "refresh" if "grant_type=refresh" in text else "logout"
        self.asked.append((now, kind))
        down = self._night.down(SSO)
        await asyncio.sleep(_LATENCY_S if down is None or down.kind not in ("timeout", "silence") else 30.0)
        if down is not None and down.kind in CONNECTION:
            raise EndpointFailed(f"no token endpoint ({down.kind})", trouble=Trouble.REFUSED)
        status, body = (200, b"{}") if kind == "logout" else (200, self._token())
        if down is not None:
            status, body = (200 if down.kind == "maintenance" else int(down.kind[:3])), b"<html>down"
        return TokenResponse(status=status, headers={}, body=body, sent_at=now)

    def _token(self) -> bytes:
        count = len(self.asked)
        values = {"access_token": f"a{count}", "expires_in": _TOKEN_S, "refresh_token": f"r{count}"}
        return json.dumps(values | {"refresh_expires_in": 86400}).encode()


class Night:
    """A night of one run; `products` are paths by origin."""

    def __init__(
        self,
        products: Mapping[str, int],
        *down: Down,
        product_s: float = 60.0,
        gone: tuple[str, ...] = (),
        with_account: bool = False,
        seed: int = 1,
        **settings: Any,
    ) -> None:
        self.products, self.outages, self.product_s, self.gone = products, down, product_s, gone
        self.with_account, self.seed = with_account, seed
        self.settings = replace(Settings(workers=4, segments=1, min_rate=0), **settings)
        self._loop = VirtualLoop()

    def down(self, origin: str) -> Down | None:
        now = self._loop.time()
        return next((each for each in self.outages if each.origin == origin and each.begin <= now < each.end), None)

    def body(self, path: str) -> bytes:
        return random.Random(path).randbytes(SIZE)

    def spend(self) -> Spent:
        shm = Path("/dev/shm")
        with (
            tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder,
            asyncio.Runner(loop_factory=lambda: self._loop) as runner,
        ):
            return runner.run(self._run(Path(folder)))

    async def _run(self, folder: Path) -> Spent:
        events: list[tuple[float, Event]] = []
        hub = Hub(lambda event: events.append((self._loop.time(), event)))
        archive, endpoint = Archive(self), Endpoint(self)

        @asynccontextmanager
        async def network(_self: Services, _tls: object = None) -> AsyncIterator[NetworkClients]:
            http: Any = archive
            yield NetworkClients(http, endpoint)

        environ = {"BULKDL_STATE_DIR": str(folder / "state"), "BULKDL_FAST_LANE": "0", "PASSWORD": "right"}
        with (
            mock.patch.object(Services, "network", network),
            mock.patch("bulkdl.journal.journal.JournalWriter", _InlineWriter),
            mock.patch("bulkdl.storage.destination.ThreadPoolExecutor", _Inline),
            mock.patch.object(HASHING, "_pool", _Inline()),
        ):
            result = await run(
                from_mapping(self._manifest(folder), base=folder, environ=environ),
                settings=self.settings,
                options=RunOptions(allow_sleep=True),
                hub=hub,
                environ=environ,
                clock=_Clock(),
                rng=random.Random(self.seed),
            )
        for origin, count in self.products.items():
            for number in range(count):
                file = folder / "products" / _file(origin, number)
                assert not file.exists() or file.read_bytes() == self.body(f"/{number}.bin"), "a wrong file"
        return Spent(result, events, archive.asked, endpoint.asked, archive.most_at_once)

    def _manifest(self, folder: Path) -> dict[str, Any]:
        each = list(self.products.items())
        listed = [
            {"url": f"{origin}/{number}.bin", "file": _file(origin, number)}
            | ({"account": "anna"} if self.with_account else {})
            for number in range(max(count for _, count in each))
            for origin, count in each
            if number < count
        ]
        account = {
            "auth": "oidc",
            "token_url": f"{SSO}/token",
            "client_id": "public",
            "username": "anna",
            "password": "${PASSWORD}",
            "hosts": sorted({_host(origin) for origin, _ in each}),
        }
        accounts = {"anna": account} if self.with_account else {}
        return {"version": 1, "destination": str(folder / "products"), "accounts": accounts, "products": listed}


def _file(origin: str, number: int) -> str:
    return f"{_host(origin)}-{number}.bin"


def _host(origin: str) -> str:
    return origin.partition("://")[2].partition(":")[0]
