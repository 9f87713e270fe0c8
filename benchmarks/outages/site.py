"""An archive and a token endpoint on loopback that are out of order as their night says.

A product takes six minutes of the tools' clock: its bytes come in small parts, so that no time-out meets a healthy
connection. Requests that met a trouble are counted; those to a closed port cannot be.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from typing import TYPE_CHECKING, Self

from .nights import TOKEN_LIFE_S, Ill, Night

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Site", "content"]

SIZE = 720_000
_TAKES_S = 360.0
_PARTS = 24
_PAGE = b"<html><head><title>Maintenance</title></head><body>We are back soon.</body></html>"
_HTML = "text/html"
_BYTES = "application/octet-stream"
_JSON = "application/json"


def content(name: str) -> bytes:
    """Return a product's bytes."""
    seed = hashlib.sha256(name.encode()).digest()
    return (seed * (SIZE // len(seed) + 1))[:SIZE]


class Site:
    """Servers of one night; `async with`. The night begins then."""

    def __init__(self, night: Night, *, speed: float) -> None:
        self.night = night
        self.ill_requests = 0
        """Requests to the server in trouble while it was."""
        self.requests = 0
        self.logins = 0
        self._speed = speed
        self._in_flight = 0
        self._tokens: dict[str, float] = {}
        self._refresh: set[str] = set()
        self._archive = _Port(self._serve_archive, night.archive, self)
        self._endpoint = _Port(self._serve_endpoint, night.endpoint or Ill("well"), self)

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        await self._archive.start()
        await self._endpoint.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._archive.stop()
        await self._endpoint.stop()

    @property
    def now(self) -> float:
        """Seconds of the night."""
        return (time.monotonic() - self._began) * self._speed

    @property
    def names(self) -> list[str]:
        return [f"p{number:03d}.bin" for number in range(self.night.products)]

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{self._archive.port}/{name}" for name in self.names]

    @property
    def token_url(self) -> str:
        return f"http://127.0.0.1:{self._endpoint.port}/token"

    async def _serve_archive(self, head: _Head, writer: asyncio.StreamWriter) -> None:
        name = head.path.rpartition("/")[2]
        self.requests += 1
        if self.night.archive.holds(self.now, name):
            self.ill_requests += 1
            await _trouble(self.night.archive.kind, writer)
        elif self.night.endpoint is not None and not self._admits(head):
            _send(writer, 401, b"", _JSON, 'WWW-Authenticate: Bearer error="invalid_token"\r\n')
        elif self.night.limit is not None and self._in_flight >= self.night.limit:
            self.ill_requests += 1
            _send(writer, 429, b"Too many connections", "text/plain")
        else:
            self._in_flight += 1
            try:
                await self._product(name, head, writer)
            finally:
                self._in_flight -= 1

    async def _product(self, name: str, head: _Head, writer: asyncio.StreamWriter) -> None:
        start, stop = _range(head.fields.get("range", ""))
        body = content(name)[start:stop]
        more = f'ETag: "{name}"\r\nAccept-Ranges: bytes\r\n'
        if "range" in head.fields:
            more += f"Content-Range: bytes {start}-{stop - 1}/{SIZE}\r\n"
        _head(writer, 206 if "range" in head.fields else 200, len(body), _BYTES, more)
        part = SIZE // _PARTS
        for begin in range(0, len(body), part):
            if self.night.archive.kind == "hole" and self.night.archive.holds(self.now):
                await asyncio.Event().wait()
            writer.write(body[begin : begin + part])
            await writer.drain()
            if len(body) > part:
                await asyncio.sleep(_TAKES_S / _PARTS / self._speed)

    def _admits(self, head: _Head) -> bool:
        token = head.fields.get("authorization", "").removeprefix("Bearer ")
        return self._tokens.get(token, 0.0) > self.now

    async def _serve_endpoint(self, head: _Head, writer: asyncio.StreamWriter) -> None:
        assert self.night.endpoint is not None
        if self.night.endpoint.holds(self.now):
            self.ill_requests += 1
            if self.night.endpoint.kind != "login":
                await _trouble(self.night.endpoint.kind, writer)
                return
            self._refresh.clear()
            error = {"error": "invalid_grant", "error_description": "Invalid user credentials"}
            _send(writer, 401, json.dumps(error).encode(), _JSON)
            return
        self.logins += "grant_type=password" in head.body
        number = len(self._tokens) + 1
        self._tokens[f"token-{number}"] = self.now + TOKEN_LIFE_S
        refresh = head.body.partition("refresh_token=")[2].partition("&")[0]
        if "grant_type=refresh_token" in head.body and refresh not in self._refresh:
            _send(writer, 400, b'{"error":"invalid_grant","error_description":"Session not active"}', _JSON)
            return
        self._refresh.add(f"refresh-{number}")
        answer = {"access_token": f"token-{number}", "token_type": "Bearer", "expires_in": TOKEN_LIFE_S}
        answer |= {"refresh_token": f"refresh-{number}", "refresh_expires_in": 36000}
        _send(writer, 200, json.dumps(answer).encode(), _JSON)


class _Head:
    """Head of a request, and its body if it has one."""

    def __init__(self, text: str, body: str) -> None:
        first, *lines = text.split("\r\n")
        self.path = first.split()[1]
        self.fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.body = body


class _Port:
    """One listening port. `refuse` closes it for a while; `reset` cuts what is open."""

    def __init__(self, serve: _Serve, ill: Ill, site: Site) -> None:
        self.port = 0
        self._serve = serve
        self._ill = ill
        self._site = site
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._listen()
        if self._ill.kind in ("refuse", "reset"):
            await self._follow()
            self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        self._close()
        await asyncio.sleep(0)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            await self._follow()

    async def _follow(self) -> None:
        ill = self._ill.holds(self._site.now)
        if self._ill.kind == "reset":
            if ill:
                self._cut()
        elif ill and self._server is not None:
            self._close()
        elif not ill and self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._cut()

    def _cut(self) -> None:
        for task, writer in list(self._open.items()):
            writer.transport.abort()
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            while True:
                text = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").removesuffix("\r\n\r\n")
                head = _Head(text, "")
                head.body = (await reader.readexactly(int(head.fields.get("content-length", "0")))).decode()
                await self._serve(head, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the night cut the connection
        finally:
            del self._open[task]
            writer.close()


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    _Serve = Callable[[_Head, asyncio.StreamWriter], Awaitable[None]]


async def _trouble(kind: str, writer: asyncio.StreamWriter) -> None:
    match kind:
        case "reset":
            writer.transport.abort()
        case "hole":
            await asyncio.Event().wait()
        case "page":
            _send(writer, 200, _PAGE, _HTML)
        case _:
            with contextlib.suppress(ValueError):
                _send(writer, int(kind), b"out of order", "text/plain")


def _range(text: str) -> tuple[int, int]:
    if not text:
        return 0, SIZE
    first, _, last = text.removeprefix("bytes=").partition("-")
    return int(first), min(SIZE, int(last) + 1 if last else SIZE)


def _send(writer: asyncio.StreamWriter, status: int, body: bytes, kind: str, more: str = "") -> None:
    _head(writer, status, len(body), kind, more)
    writer.write(body)


def _head(writer: asyncio.StreamWriter, status: int, length: int, kind: str, more: str) -> None:
    text = f"HTTP/1.1 {status} Status\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}\r\n"
    writer.write(text.encode())
