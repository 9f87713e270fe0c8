"""HTTP/1.1 servers that keep to the rules of their archives; `python -m benchmarks.adaptive.archive` runs them.

The program reads the archives as one line of JSON, prints their ports as another, serves until its standard input
ends, and then prints what it saw (`log.Seen`). It is a process of its own, so that it does not share an interpreter
with a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Self

from .content import part
from .log import Log
from .rules import CLOSE, Archive, Rules, allocate, total_rate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ["Site", "archives_from_json", "archives_to_json"]

_TICK_S = 0.025
_AT_ONCE = 16 * 1024
"""Bytes that a response sends with its head; they are charged against its rate afterwards."""
_UNREAD = 1 << 20
"""Bytes that a client may leave unread before its response is no longer counted as sending."""
_SLOW = 0.01
_REASONS = {200: "OK", 206: "Partial Content", 404: "Not Found", 429: "Too Many Requests", 503: "Service Unavailable"}


class Site:
    """Archives on loopback for one trial; `async with`."""

    def __init__(self, archives: Sequence[Archive], names: Sequence[Sequence[str]]) -> None:
        self.log = Log()
        self._services = [
            _Service(archive, dict(zip(of, archive.sizes, strict=True)), self.log)
            for archive, of in zip(archives, names, strict=True)
        ]
        self._servers: list[asyncio.Server] = []
        self.ports: list[int] = []

    async def __aenter__(self) -> Self:
        for service in self._services:
            await self._listen(service)
            service.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()
        for service in self._services:
            service.stop()
        await asyncio.sleep(0)

    async def _listen(self, service: _Service) -> None:
        def connection() -> _Connection:
            return _Connection(service)

        loop = asyncio.get_running_loop()
        server = await loop.create_server(connection, "127.0.0.1", 0, backlog=1024)
        self.ports.append(server.sockets[0].getsockname()[1])
        self._servers.append(server)
        if service.archive.host == "localhost":
            with contextlib.suppress(OSError):  # there is no IPv6
                self._servers.append(await loop.create_server(connection, "::1", self.ports[-1], backlog=1024))


class _Service:
    """One archive: its places, its queue, and the pace of its responses."""

    def __init__(self, archive: Archive, sizes: dict[str, int], log: Log) -> None:
        self.archive = archive
        self.rules: Rules = archive.rules
        self.sizes = sizes
        self.log = log
        self.connections: set[_Connection] = set()
        self._places: dict[_Connection, asyncio.TimerHandle | None] = {}
        """Connections that have a place; with a timer if only the place still counts."""
        self._queue: deque[_Response] = deque()
        self._served: set[_Response] = set()
        self._tokens = 1.0 + self.rules.burst
        self._tokens_at = time.monotonic()
        self._responses = 0
        self._pacer: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._pacer = asyncio.create_task(self._pace())

    def stop(self) -> None:
        if self._pacer is not None:
            self._pacer.cancel()
        for timer in self._places.values():
            if timer is not None:
                timer.cancel()
        for connection in list(self.connections):
            connection.abort()

    def admit_connection(self, connection: _Connection) -> bool:
        """Return whether a connection may stay; only a limit with `CLOSE` counts connections."""
        if self.rules.refusal == CLOSE and not self._take_place(connection):
            self.log.refused += 1
            return False
        self.connections.add(connection)
        return True

    def forget(self, connection: _Connection) -> None:
        self.connections.discard(connection)
        if self.rules.refusal == CLOSE:
            self._release_place(connection)

    def refuses(self, connection: _Connection) -> bool:
        """Return whether a request is refused; if it is not, it takes a place and a token."""
        self.log.requested()
        if self._has_token() and (self.rules.refusal == CLOSE or self._take_place(connection)):
            self._tokens -= 1
            return False
        self.log.refused += 1
        return True

    def serve(self, response: _Response) -> None:
        self.log.opened(+1)
        self._queue.append(response)
        self._serve_next()

    def end(self, response: _Response) -> None:
        """Release what a response holds, whether it is complete or its connection is lost."""
        self.log.opened(-1)
        self._served.discard(response)
        with contextlib.suppress(ValueError):
            self._queue.remove(response)
        self.end_without_body(response.connection)
        self._serve_next()

    def end_without_body(self, connection: _Connection) -> None:
        """Release the place of a request; with `CLOSE` the connection keeps it."""
        if self.rules.refusal != CLOSE:
            self._release_place(connection)

    def slows_after(self, length: int) -> int | None:
        """Return the number of bytes after which the next response slows; one in each group of responses does."""
        number, self._responses = self._responses, self._responses + 1
        if not self.rules.slow_share:
            return None
        group, place = divmod(number, round(1 / self.rules.slow_share))
        draw = random.Random(f"slow-{group}")
        slow = draw.randrange(round(1 / self.rules.slow_share))
        return round(length * draw.uniform(0.05, 0.5)) if place == slow else None

    def _take_place(self, connection: _Connection) -> bool:
        limit = self.rules.limit_at(self.log.now())
        if connection not in self._places and limit is not None and len(self._places) >= limit:
            return False
        timer = self._places.get(connection)
        if timer is not None:
            timer.cancel()
        self._places[connection] = None
        return True

    def _release_place(self, connection: _Connection) -> None:
        if connection not in self._places:
            return
        if self.rules.linger_s:
            later = asyncio.get_running_loop().call_later
            self._places[connection] = later(self.rules.linger_s, self._places.pop, connection)
        else:
            del self._places[connection]

    def _has_token(self) -> bool:
        if self.rules.request_rate is None:
            return True
        now = time.monotonic()
        more = (now - self._tokens_at) * self.rules.request_rate
        self._tokens, self._tokens_at = min(1.0 + self.rules.burst, self._tokens + more), now
        return self._tokens >= 1

    def _serve_next(self) -> None:
        most = self.rules.served_at_once
        while self._queue and (most is None or len(self._served) < most):
            response = self._queue.popleft()
            self._served.add(response)
            if self.rules.first_byte_s:
                response.timer = asyncio.get_running_loop().call_later(self.rules.first_byte_s, response.begin)
            else:
                response.begin()

    async def _pace(self) -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            self._send(now - before)
            before = now

    def _send(self, elapsed_s: float) -> None:
        """Give every response its share of the elapsed time."""
        sending = [r for r in self._served if r.begun and r.connection.unread() < _UNREAD]
        each = self.rules.each_at(self.log.now())
        total = total_rate(self.rules, len(sending))
        caps = [min(each, total) * (_SLOW if response.is_slow else 1) for response in sending]
        for response, rate in zip(sending, allocate(caps, total), strict=True):
            response.send(rate * elapsed_s)


class _Response:
    """Response of one request."""

    def __init__(self, connection: _Connection, name: str, start: int, stop: int) -> None:
        self.connection = connection
        self.begun = False
        self.timer: asyncio.TimerHandle | None = None
        self._name = name
        self._at = start
        self._stop = stop
        self._credit = 0.0
        slow = connection.service.slows_after(stop - start)
        self._slow_from = None if slow is None else start + slow

    @property
    def is_slow(self) -> bool:
        return self._slow_from is not None and self._at >= self._slow_from

    def begin(self) -> None:
        """Send the head and the first bytes."""
        self.begun = True
        self.connection.send_head()
        at_once = min(_AT_ONCE, self._stop - self._at)
        self._credit = at_once
        self.send(0)
        self._credit -= at_once

    def send(self, credit: float) -> None:
        """Send as many bytes as the credit allows, which grows by `credit`."""
        self._credit += credit
        stop = min(self._stop, self._at + int(self._credit))
        if self._slow_from is not None and self._at < self._slow_from:
            stop = min(stop, max(self._slow_from, self._at))
        self._credit = min(self._credit - max(0, stop - self._at), 1.0) if stop < self._stop else 0.0
        while self._at < stop:
            body = part(self._name, self._at, stop)
            self.connection.write(body)
            self._at += len(body)
        if self._at >= self._stop:
            self.connection.finish(self)


class _Connection(asyncio.Protocol):
    """One connection: its requests are answered one after the other."""

    def __init__(self, service: _Service) -> None:
        self.service = service
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._response: _Response | None = None
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if not self.service.admit_connection(self):
            transport.close()
            return
        self._transport = transport
        self.service.log.connected(+1)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        if self._transport is None:
            return
        self._transport = None
        self.service.log.connected(-1)
        self._end()
        self.service.forget(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._next()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def unread(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send_head(self) -> None:
        if self._transport is not None:
            self._transport.write(self._head)

    def write(self, body: memoryview) -> None:
        if self._transport is not None:
            self._transport.write(body)
            self.service.log.sending(len(body))

    def finish(self, response: _Response) -> None:
        """Go on with the next request after the last byte of this one."""
        if self._response is response:
            self._end()
            asyncio.get_running_loop().call_soon(self._next)

    def _end(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            if response.timer is not None:
                response.timer.cancel()
            self.service.end(response)

    def _next(self) -> None:
        while self._response is None and self._transport is not None and b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            self._answer(head.decode("latin1"))

    def _answer(self, text: str) -> None:
        first, *lines = text.split("\r\n")
        method, target = first.split()[:2]
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        name = target.rpartition("/")[2]
        if self.service.refuses(self):
            self._answer_without_body(503 if self.service.rules.refusal == CLOSE else self.service.rules.refusal)
            return
        size = self.service.sizes.get(name)
        if size is None or method == "HEAD":
            self._answer_without_body(404 if size is None else 200, name, size or 0)
            self.service.end_without_body(self)
            return
        tag = f'"{name}-{size}"'
        ranged = "range" in fields and fields.get("if-range", tag) == tag
        start, stop = _range(fields["range"], size) if ranged else (0, size)
        more = f"Content-Range: bytes {start}-{stop - 1}/{size}\r\n" if ranged else ""
        self._head = _head(206 if ranged else 200, stop - start, f"ETag: {tag}\r\nAccept-Ranges: bytes\r\n{more}")
        self._response = _Response(self, name, start, stop)
        self.service.serve(self._response)

    def _answer_without_body(self, status: int, name: str = "", size: int = 0) -> None:
        more = f'ETag: "{name}-{size}"\r\nAccept-Ranges: bytes\r\n' if status == 200 else ""
        assert self._transport is not None
        self._transport.write(_head(status, size, more))


def _head(status: int, length: int, more: str) -> bytes:
    kind = "Content-Type: application/octet-stream\r\n"
    return f"HTTP/1.1 {status} {_REASONS[status]}\r\n{kind}Content-Length: {length}\r\n{more}\r\n".encode()


def _range(text: str, size: int) -> tuple[int, int]:
    first, _, last = text.removeprefix("bytes=").partition("-")
    return int(first), min(size, int(last) + 1 if last else size)


def archives_to_json(archives: Sequence[Archive], names: Sequence[Sequence[str]]) -> str:
    """Return the program's first line of input."""
    return json.dumps({"archives": [asdict(archive) for archive in archives], "names": names})


def archives_from_json(text: str) -> tuple[list[Archive], list[list[str]]]:
    """Return the archives and the names of their products from that line."""
    read = json.loads(text)
    archives = [
        Archive(rules=Rules(**each["rules"]), sizes=tuple(each["sizes"]), host=each["host"])
        for each in read["archives"]
    ]
    return archives, read["names"]


async def _serve() -> None:
    async with Site(*archives_from_json(sys.stdin.readline())) as site:
        print(json.dumps(site.ports), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        print(json.dumps(site.log.summary()), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())
