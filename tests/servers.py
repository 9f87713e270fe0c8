"""A server that misbehaves byte by byte: the test decides which bytes are sent.

    async with RawServer(reply(200, b"abc")) as server:
        ...  # GET server.url("/a.zip")

A responder is `async def respond(request, wire)`. Several responders answer the requests in turn; the last one
answers all that follow. The connection is closed when a responder returns, unless it called `wire.keep()`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

__all__ = [
    "RawRequest",
    "RawServer",
    "Responder",
    "Wire",
    "announce",
    "chunked",
    "hang",
    "head",
    "html",
    "http10",
    "huge_head",
    "multipart",
    "ranges",
    "redirect",
    "reply",
    "reset",
    "slow_head",
    "stall",
]

_REASONS = {200: "OK", 202: "Accepted", 206: "Partial Content", 302: "Found", 416: "Range Not Satisfiable"}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
class RawRequest:
    """The head of a request as received."""

    number: int
    """Number of the request over all connections, from 0."""
    connection: int
    """Number of the connection, from 0."""
    method: str
    target: str
    version: str
    headers: tuple[tuple[str, str], ...]
    """Header fields in order, with names as sent."""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def range(self, size: int) -> tuple[int, int] | None:
        """Return `(start, stop)` of a single range, cut at `size`; None without a range."""
        match = _RANGE.fullmatch(self.header("Range") or "")
        if match is None:
            return None
        first, last = match.groups()
        if not first:
            return max(0, size - int(last)), size
        return int(first), min(size, int(last) + 1) if last else size


@dataclass(slots=True)
class Wire:
    """The connection back to the client, byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    kept: bool = False

    async def send(self, data: bytes) -> None:
        """Write and flush; ignore a client that has disconnected."""
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    def keep(self) -> None:
        """Leave the connection open for the next request."""
        self.kept = True

    async def hang(self) -> None:
        """Send nothing more until the client closes."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    async def closed_within(self, seconds: float) -> bool:
        """Send nothing for so long; True as soon as the client has closed."""
        try:
            async with asyncio.timeout(seconds):
                return not await self.reader.read(1)
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def reset(self) -> None:
        """Close with a TCP reset instead of an orderly close; bytes in transit may be lost."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Responder = Callable[[RawRequest, Wire], Awaitable[None]]


class RawServer:
    """Listens on 127.0.0.1 inside `async with`; `log` has every request head.

    What a responder raises is kept in `errors` and raised again at the end of the `async with`.
    """

    def __init__(self, first: Responder, *then: Responder, port: int = 0) -> None:
        self.log: list[RawRequest] = []
        self.errors: list[Exception] = []
        self._responders = (first, *then)
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.errors and error is None:
            raise self.errors[0]

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Number of connections opened so far."""
        return self._connections

    def url(self, path: str = "/product.bin", *, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number = self._connections
        self._connections += 1
        try:
            await self._converse(number, Wire(reader, writer))
        except asyncio.CancelledError:
            pass  # the server is closing; asyncio's own callback would log it as an error
        except ConnectionError:
            pass
        except Exception as error:  # noqa: BLE001 - a bug in a test's responder must reach the test
            self.errors.append(error)
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _converse(self, connection: int, wire: Wire) -> None:
        while (request := await self._request(connection, wire.reader)) is not None:
            responder = self._responders[min(request.number, len(self._responders) - 1)]
            wire.kept = False
            await responder(request, wire)
            if not wire.kept:
                return

    async def _request(self, connection: int, reader: asyncio.StreamReader) -> RawRequest | None:
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        method, target, version = first.split(" ", 2)
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        await reader.readexactly(length)
        request = RawRequest(len(self.log), connection, method, target, version, headers)
        self.log.append(request)
        return request


# ---- Responders


def head(status: int = 200, *headers: tuple[str, object], version: str = "HTTP/1.1") -> bytes:
    """Return a response head with exactly the given headers, including duplicates."""
    lines = [f"{version} {status} {_REASONS.get(status, 'Status')}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def reply(status: int, body: bytes = b"", *headers: tuple[str, object]) -> Responder:
    """Send a complete, correct response with its `Content-Length`."""
    return announce(len(body), body, *headers, status=status)


def announce(length: int, body: bytes, *headers: tuple[str, object], status: int = 200) -> Responder:
    """Announce `length` bytes, send `body`, close: a dropped connection if the body is shorter."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(status, ("Content-Length", length), ("Connection", "close"), *headers))
        await wire.send(body)

    return respond


def ranges(body: bytes, *headers: tuple[str, object], etag: str | None = '"1"') -> Responder:
    """Behave correctly for one product: ranges, `If-Range`, 416, HEAD, persistent connections."""
    tag: tuple[tuple[str, object], ...] = () if etag is None else (("ETag", etag),)

    async def respond(request: RawRequest, wire: Wire) -> None:
        part = request.range(len(body))
        if request.header("If-Range") not in {None, etag}:
            part = None
        start, stop = part or (0, len(body))
        extra: tuple[tuple[str, object], ...] = (("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}"),)
        status = 200 if part is None else 206
        if part is not None and start >= stop:
            status, stop, extra = 416, start, (("Content-Range", f"bytes */{len(body)}"),)
        fields = (("Content-Length", stop - start), ("Accept-Ranges", "bytes"), *tag, *headers)
        await wire.send(head(status, *fields, *(() if status == 200 else extra)))
        if request.method != "HEAD":
            await wire.send(body[start:stop])
        wire.keep()

    return respond


def stall(length: int, body: bytes, *headers: tuple[str, object], status: int = 200) -> Responder:
    """Announce `length` bytes, send `body`, then nothing until the client closes."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(status, ("Content-Length", length), *headers))
        await wire.send(body)
        await wire.hang()

    return respond


def reset(length: int, body: bytes, *headers: tuple[str, object], status: int = 200) -> Responder:
    """Announce `length` bytes, send `body`, then a TCP reset."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(status, ("Content-Length", length), *headers))
        await wire.send(body)
        wire.reset()

    return respond


def hang() -> Responder:
    """Accept the request and never respond."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await wire.hang()

    return respond


def chunked(body: bytes, *headers: tuple[str, object], whole: bool = True, piece: int = 8192) -> Responder:
    """Send a chunked body; with `whole=False` close without the last chunk."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Transfer-Encoding", "chunked"), ("Connection", "close"), *headers))
        for start in range(0, len(body), piece):
            part = body[start : start + piece]
            await wire.send(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        if whole:
            await wire.send(b"0\r\n\r\n")

    return respond


def http10(body: bytes, *headers: tuple[str, object]) -> Responder:
    """Respond in HTTP/1.0 without a length: the end of the connection is the end of the body."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, *headers, version="HTTP/1.0") + body)

    return respond


def multipart(body: bytes, *spans: tuple[int, int], etag: str = '"1"') -> Responder:
    """Respond 206 with `multipart/byteranges` (RFC 9110 §14.6), one part for each `(start, stop)`."""
    parts = b"".join(
        f"\r\n--LIMIT\r\nContent-Range: bytes {start}-{stop - 1}/{len(body)}\r\n\r\n".encode() + body[start:stop]
        for start, stop in spans
    )
    return reply(
        206, parts + b"\r\n--LIMIT--\r\n", ("Content-Type", "multipart/byteranges; boundary=LIMIT"), ("ETag", etag)
    )


def redirect(location: str, status: int = 302) -> Responder:
    return reply(status, b"", ("Location", location))


def html(status: int = 200, text: str = "<!DOCTYPE html><html><title>Sign in</title></html>") -> Responder:
    """Send an HTML page instead of the product."""
    return reply(status, text.encode(), ("Content-Type", "text/html; charset=utf-8"))


def huge_head(size: int = 1 << 20) -> Responder:
    """Send a head with one field of `size` bytes."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await wire.send(head(200, ("Content-Length", 0), ("X-Filler", "x" * size)))

    return respond


def slow_head(sent: bytes = b"HTTP/1.1 200 OK\r\nContent-Le") -> Responder:
    """Send the beginning of a head, and then nothing until the client closes."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        await wire.send(sent)
        await wire.hang()

    return respond
