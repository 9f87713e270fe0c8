"""Exchange of small requests and responses over kept-alive connections.

For a product of a few KiB most of the work is aiohttp's `ClientResponse`, its timers, and the way into its connection
pool and back. So each origin has a `KeepAlivePool`. It takes connections from aiohttp's pool and keeps them as long as
one small exchange follows the other. One timer watches all of them. Only the result of aiohttp's parser is used of a
response. A response that is not small is put back, and `ClientResponse` reads it as if nothing had been read.

This module relies on these interfaces of aiohttp; tests/http/lightweight/test_keepalive_pool.py checks them:

- `Connection.protocol`, `.transport`, `.release` and `.close`;
- `ResponseHandler.set_response_params`, `.read`, `.__len__`, `.feed_data`, `.set_exception`, `.is_connected`,
  `.should_close`, `.read_timeout` and `.start_timeout`;
- `code` and `headers` of a message; `is_eof`, `wait_eof` and `read_nowait` of its payload.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.http.lightweight.pipelining_policy import PipeliningPolicy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from multidict import CIMultiDictProxy

__all__ = [
    "FIELD_SIZE",
    "KeepAlivePool",
    "PooledConnection",
    "SmallResponse",
    "prepare_connection",
    "read_small_response",
    "supports_small_responses",
    "take_small_response",
    "write_request",
]

FIELD_SIZE: Final = 65536
"""Limit of one header field of a response (bytes)."""
_BUFFER: Final = 65536
_SMALL: Final = 2 * _BUFFER
"""Longest body that is awaited as a small response (bytes). aiohttp stops receiving when it holds this much."""
_SMALL_WAIT_S: Final = 1.0
"""Longest wait for the rest of a small body (s)."""
_CHECK_S: Final = 1.0
"""Interval between two checks for overdue answers (s). An unused connection goes back to aiohttp's pool after this
time."""
_CHECKS_PER_TIMEOUT: Final = 8
"""Least number of checks within one timeout."""
_FIRST_FINAL: Final = 200
"""Lowest status of a final response; a lower one comes before it (RFC 9110 §15.2)."""
_PARAMETERS: Final = (
    "skip_payload",
    "read_until_eof",
    "auto_decompress",
    "read_timeout",
    "read_bufsize",
    "max_line_size",
    "max_field_size",
)
_OF_PROTOCOL: Final = (
    "read",
    "feed_data",
    "set_exception",
    "is_connected",
    "should_close",
    "read_timeout",
    "start_timeout",
    "__len__",
)


@dataclass(frozen=True, slots=True)
class SmallResponse:
    """A 200 that has arrived completely; its head asks for no further work (coding, cookie)."""

    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass(slots=True, eq=False)
class PooledConnection:
    """A connection of a `KeepAlivePool`, in use or kept for the next exchange."""

    connection: Connection
    last_activity: float
    """Time of the last request or answer (the event loop's clock)."""
    timeout_s: float | None
    """Seconds without an answer before the connection is given up; None: no limit."""


def supports_small_responses() -> bool:
    """Return True if this version of aiohttp has the interfaces that this module needs."""
    params = set(ResponseHandler.set_response_params.__code__.co_varnames)
    return (
        params.issuperset(_PARAMETERS)
        and all(hasattr(ResponseHandler, name) for name in _OF_PROTOCOL)
        and all(hasattr(aiohttp.StreamReader, name) for name in ("is_eof", "wait_eof", "read_nowait"))
    )


def write_request(
    connection: Connection, head: bytes, *, skip_payload: bool = False, read_timeout: float | None
) -> None:
    """Send a request that consists of `head` only.

    Raise `aiohttp.ServerDisconnectedError` if the connection is unusable.

    `read_timeout`: seconds without a byte after which aiohttp fails the response; None: aiohttp sets no timer.

    """
    protocol, transport = prepare_connection(connection, skip_payload=skip_payload, read_timeout=read_timeout)
    transport.write(head)
    if read_timeout is not None:
        protocol.start_timeout()


def prepare_connection(
    connection: Connection, *, skip_payload: bool = False, read_timeout: float | None = None
) -> tuple[ResponseHandler, asyncio.WriteTransport]:
    """Return the protocol to read responses from and the transport to write requests to.

    Raise as `write_request` does.
    """
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None or transport.is_closing() or protocol.should_close:
        raise aiohttp.ServerDisconnectedError
    protocol.set_response_params(
        skip_payload=skip_payload,
        read_until_eof=True,
        auto_decompress=False,
        read_timeout=read_timeout,
        read_bufsize=_BUFFER,
        max_line_size=FIELD_SIZE,
        max_field_size=FIELD_SIZE,
    )
    return protocol, transport


class KeepAlivePool:
    """The kept-alive connections to one origin."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        timeout_s: float | None,
        policy: PipeliningPolicy | None = None,
    ) -> None:
        """`connect` returns a connection of aiohttp's pool.

        `timeout_s`: seconds without an answer before one is given up.

        `policy`: decides whether requests to this origin may be pipelined.

        """
        self._connect = connect
        self._timeout_s = timeout_s
        self.policy = policy or PipeliningPolicy()
        self._loop = asyncio.get_running_loop()
        self._idle: list[PooledConnection] = []
        """The most recently used connection is the last."""
        self._in_use: set[PooledConnection] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def exchange(self, head: bytes) -> SmallResponse | Connection:
        """Send the GET `head`.

        Return its small response, or the connection for `ClientResponse.start` to read the response.

        `timeout_s` applies to the head as a whole, even if it arrives byte by byte. Raises what aiohttp raises.

        """
        pooled = await self.acquire()
        connection, protocol = pooled.connection, pooled.connection.protocol
        try:
            write_request(connection, head, read_timeout=None)
            assert protocol is not None
            try:
                message, payload = await protocol.read()
                if (small := await read_small_response(message, payload)) is not None:
                    self.policy.record_plain(small.headers.get("Server", ""))
                    self.keep(pooled)
                    return small
                protocol.feed_data((message, payload))
                if payload.is_eof() and message.code >= _FIRST_FINAL:
                    # Nothing would stop a timer for a body that has arrived, and it would end a later use.
                    self.policy.record_other()
                    return connection
            except HttpProcessingError:
                pass  # `ClientResponse` reads it again and raises aiohttp's own error
            finally:
                self._in_use.discard(pooled)
            self.policy.record_other()
            protocol.read_timeout = self._timeout_s
            protocol.start_timeout()
        except BaseException:
            self.discard(pooled)
            raise
        return connection

    async def acquire(self, *, timeout_s: float | None = None) -> PooledConnection:
        """Return a connection for the next request. The pool watches its timeout until it is kept or discarded.

        `timeout_s`: a shorter timeout than the pool's.
        """
        connection = self.take_idle() or await self._connect()
        pooled = PooledConnection(connection, self._loop.time(), timeout_s or self._timeout_s)
        self._in_use.add(pooled)
        if self._timer is None:
            self._schedule_check()
        return pooled

    def keep(self, pooled: PooledConnection) -> None:
        """Keep a connection for the next exchange; every answer on it must have arrived."""
        self._in_use.discard(pooled)
        self._idle.append(pooled)

    def discard(self, pooled: PooledConnection) -> None:
        """Close a connection, and drop whatever still arrives on it."""
        self._in_use.discard(pooled)
        pooled.connection.close()

    def take_idle(self) -> Connection | None:
        """Take a kept connection out of this pool, for any kind of exchange; None if there is none."""
        while self._idle:
            connection = self._idle.pop().connection
            protocol = connection.protocol
            # An unrequested response may have arrived. `should_close` is then true: it must not answer the next
            # request.
            if protocol is not None and protocol.is_connected() and not protocol.should_close:
                return connection
            connection.release()
        return None

    def release_idle(self) -> None:
        """Give the kept connections back to aiohttp's pool, for the session to use or the connector to close."""
        while self._idle:
            self._idle.pop().connection.release()
        if self._timer is not None and not self._in_use:
            self._timer.cancel()
            self._timer = None

    def _schedule_check(self) -> None:
        wait_s = min(_CHECK_S, (self._timeout_s or _CHECK_S) / _CHECKS_PER_TIMEOUT)
        self._timer = self._loop.call_later(wait_s, self._check)

    def _check(self) -> None:
        """Time out connections that are silent too long, and release those that have not been used for a while."""
        self._timer, now = None, self._loop.time()
        for pooled in self._in_use:
            protocol = pooled.connection.protocol
            if pooled.timeout_s and now - pooled.last_activity > pooled.timeout_s and protocol is not None:
                protocol.set_exception(aiohttp.SocketTimeoutError("Timeout on reading data from socket"))
        while self._idle and now - self._idle[0].last_activity > _CHECK_S:
            self._idle.pop(0).connection.release()
        if self._in_use or self._idle:
            self._schedule_check()


async def read_small_response(message: RawResponseMessage, payload: aiohttp.StreamReader) -> SmallResponse | None:
    """Return the response if it is a plain 200 whose body has arrived or arrives soon.

    None: `ClientResponse` must read it.
    """
    if payload.is_eof() or (
        message.code == 200 and _is_plain(message.headers) and await _arrives_soon(message, payload)
    ):
        return take_small_response(message, payload)
    return None


def take_small_response(message: RawResponseMessage, payload: aiohttp.StreamReader) -> SmallResponse | None:
    """Return a response whose body has arrived completely, if it is a plain 200; else None."""
    if message.code == 200 and _is_plain(message.headers):
        return SmallResponse(message.headers, payload.read_nowait())
    return None


async def _arrives_soon(message: RawResponseMessage, payload: aiohttp.StreamReader) -> bool:
    length = message.headers["Content-Length"]
    if len(length) > len(str(_SMALL)) or not length.isdecimal() or int(length) > _SMALL:
        return False
    try:
        async with asyncio.timeout(_SMALL_WAIT_S):
            await payload.wait_eof()
    except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError; the next read raises any other error again
        return False
    return True


def _is_plain(fields: CIMultiDictProxy[str]) -> bool:
    """Return True if `Content-Length` alone ends the body, and no coding or cookie has to be handled."""
    return (
        "Content-Length" in fields
        and "Transfer-Encoding" not in fields
        and "Content-Encoding" not in fields
        and "Content-Range" not in fields
        and "Set-Cookie" not in fields
    )
