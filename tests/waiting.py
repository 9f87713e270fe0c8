"""A server for tests of pipelining: it records which requests wait behind others, and a test decides the answers.

    async with Site(lambda batch: [ok(asked.path.encode()) for asked in batch]) as site:
        ...  # GET site.url("/a")

The responder gets all requests that wait on a connection and returns the bytes to send, in order. `CLOSE`, `CUT` or
`RESET` ends the connection; the site waits for an event. A request without an answer stays unanswered.

With a certificate the site speaks TLS: each piece of bytes is a record (several beyond 16 KiB), and only `CLOSE` sends close_notify
(RFC 8446 §6.1).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Self

from tests.tls import server_context

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CLOSE", "CUT", "RESET", "Asked", "Respond", "Site", "answer", "ok"]


class _End(Enum):
    CLOSE = "close"
    CUT = "cut"
    RESET = "reset"


CLOSE: Final = _End.CLOSE
CUT: Final = _End.CUT
RESET: Final = _End.RESET


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    connection: int
    """Number of the connection, from 0."""
    nth: int
    """Number of the request on its connection, from 1."""
    behind: int
    """Unanswered requests on the connection when this one arrived."""
    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Respond = Callable[[list[Asked]], Iterable["bytes | asyncio.Event | _End"]]


class Site:
    """Listens on 127.0.0.1 inside `async with`; `log` has every request."""

    def __init__(self, respond: Respond, *, certificate: Path | None = None) -> None:
        self.respond = respond
        self._tls = None if certificate is None else server_context(certificate)
        self.log: list[Asked] = []
        self.connections = 0
        self.port = 0
        self.asked: Callable[[Asked], None] = lambda _asked: None
        """Called with every request on arrival."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(error, Exception):
                raise error

    def url(self, path: str) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}{path}"

    def count(self, path: str) -> int:
        """Return the number of requests for `path`."""
        return sum(asked.path == path for asked in self.log)

    @property
    def ahead(self) -> list[Asked]:
        """Pipelined requests: those that arrived before the previous answer was sent."""
        return [asked for asked in self.log if asked.behind]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        talk = _Talk(self, self.connections, reader, writer)
        self.connections += 1
        try:
            await talk.run()
        except asyncio.CancelledError:
            # The server is closing. Abort here, since asyncio's own callback would log the cancellation as an error.
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()


class _Talk:
    """One connection."""

    def __init__(self, site: Site, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._site = site
        self._number = number
        self._reader = reader
        self._writer = writer
        self._waiting: list[Asked] = []
        self._came = asyncio.Event()
        self._over = False

    async def run(self) -> None:
        """Serve the connection until either side closes it."""
        reading = asyncio.create_task(self._read())
        try:
            await self._answer()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self) -> None:
        nth = 0
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")[:-2]
                method, target, _ = first.split(" ", 2)
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await self._reader.readexactly(int(headers.get("content-length", 0)))
                nth += 1
                asked = Asked(self._number, nth, len(self._waiting), method, target, headers, body)
                self._site.log.append(asked)
                self._waiting.append(asked)
                self._came.set()
                self._site.asked(asked)
        self._over = True
        self._came.set()

    async def _answer(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            batch, self._waiting = self._waiting, []
            with suppress(ConnectionError):
                for piece in self._site.respond(batch) if batch else ():
                    if isinstance(piece, _End):
                        self._end(piece)
                        return
                    if isinstance(piece, asyncio.Event):
                        await piece.wait()
                        continue
                    self._writer.write(piece if batch[0].method != "HEAD" else piece[: piece.index(b"\r\n\r\n") + 4])
                    await self._writer.drain()
            if self._over:
                return

    def _end(self, how: _End) -> None:
        raw = self._writer.get_extra_info("socket")
        if how is RESET:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        elif how is CUT:
            raw.shutdown(socket.SHUT_WR)


def answer(status: int, body: bytes = b"", *fields: tuple[str, object], version: str = "HTTP/1.1") -> bytes:
    """Return a complete response; Content-Length comes before `fields`."""
    lines = [
        f"{version} {status} Status",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in fields),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def ok(body: bytes, *fields: tuple[str, object]) -> bytes:
    return answer(200, body, *fields)
