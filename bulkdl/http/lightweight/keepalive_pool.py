"""Brief exchanges: responses that are here whole at once, or nearly so, over connections that are kept for the next.

For a product of a few KiB aiohttp's `ClientResponse`, its timers and the way into its pool and back are most of the work.
A connection of that pool stays with its origin's `KeepAlivePool` as long as one brief exchange follows the other, one timer
watches over all of them, and of the response only what aiohttp's parser has made is used. Any other response is put back
for `ClientResponse` to take, as if nobody had looked.

The interfaces of aiohttp that this stands on, seen by tests/http/lightweight/test_keepalive_pool.py: `Connection.protocol`, `.transport`, `.release` and
`.close`; of `ResponseHandler` `set_response_params`, `read`, `__len__`, `feed_data`, `set_exception`, `is_connected`, `should_close`, `read_timeout`
and `start_timeout`; of a message `code` and `headers`, of its payload `is_eof`, `wait_eof` and `read_nowait`.
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
    "has_known_parts",
    "prepared",
    "small_response",
    "small_response_now",
    "write",
]

FIELD_SIZE: Final = 65536
"""Bytes of one field of a response's head, at most."""
_BUFFER: Final = 65536
_BRIEF: Final = 2 * _BUFFER
"""Bytes of the longest body that is waited for: aiohttp holds so many before it stops to receive;"""
_SOON_S: Final = 1.0
"""and for how long."""
_LOOK_S: Final = 1.0
"""How often it is looked which answers are late; so long a connection that is not used is kept from aiohttp's pool."""
_LOOKS: Final = 8
"""That often at least until an answer is late."""
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
    """A 200 that is here whole, and has nothing in its head that needs more than reading."""

    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass(slots=True, eq=False)
class PooledConnection:
    """A connection that is in use, or kept for the next exchange."""

    connection: Connection
    since: float
    """When it was asked, or gave an answer, last."""
    silence_s: float | None
    """Seconds without an answer before it is given up."""


def has_known_parts() -> bool:
    """Whether aiohttp has the interfaces that brief exchanges need."""
    params = set(ResponseHandler.set_response_params.__code__.co_varnames)
    return (
        params.issuperset(_PARAMETERS)
        and all(hasattr(ResponseHandler, name) for name in _OF_PROTOCOL)
        and all(hasattr(aiohttp.StreamReader, name) for name in ("is_eof", "wait_eof", "read_nowait"))
    )


def write(connection: Connection, head: bytes, *, skip_payload: bool = False, read_timeout: float | None) -> None:
    """Send a request whose `head` is all of it; raise `aiohttp.ServerDisconnectedError` where the connection is of no use.

    `read_timeout`: seconds without a byte that aiohttp allows; None: it does not look.
    """
    protocol, transport = prepared(connection, skip_payload=skip_payload, read_timeout=read_timeout)
    transport.write(head)
    if read_timeout is not None:
        protocol.start_timeout()


def prepared(
    connection: Connection, *, skip_payload: bool = False, read_timeout: float | None = None
) -> tuple[ResponseHandler, asyncio.WriteTransport]:
    """What the responses to the requests to come are read from, and what those are written to; raises as `write` does."""
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
    """The connections that brief exchanges with one origin go over."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        silence_s: float | None,
        lead: PipeliningPolicy | None = None,
    ) -> None:
        """`connect` gives a connection of aiohttp's pool; `silence_s`: seconds without an answer before one is given up.

        `lead`: what the origin has to show before anything is asked ahead.
        """
        self._connect = connect
        self._silence_s = silence_s
        self.lead = lead or PipeliningPolicy()
        self._loop = asyncio.get_running_loop()
        self._idle: list[PooledConnection] = []
        """The one that was used last stands last."""
        self._asked: set[PooledConnection] = set()
        self._watch: asyncio.TimerHandle | None = None

    async def exchange(self, head: bytes) -> SmallResponse | Connection:
        """The answer to a GET that is `head`; or the connection over which it comes, for `ClientResponse.start`.

        A head that takes longer than `silence_s` as a whole counts as silence. Raises what aiohttp raises.
        """
        line = await self.take()
        connection, protocol = line.connection, line.connection.protocol
        try:
            write(connection, head, read_timeout=None)
            assert protocol is not None
            try:
                message, payload = await protocol.read()
                if (brief := await small_response(message, payload)) is not None:
                    self.lead.plain(brief.headers.get("Server", ""))
                    self.keep(line)
                    return brief
                protocol.feed_data((message, payload))
            except HttpProcessingError:
                pass  # `ClientResponse` meets it again, and says it in aiohttp's words
            finally:
                self._asked.discard(line)
            self.lead.other()
            protocol.read_timeout = self._silence_s
            protocol.start_timeout()
        except BaseException:
            self.drop(line)
            raise
        return connection

    async def take(self, *, silence_s: float | None = None) -> PooledConnection:
        """A connection to ask on: watched over until it is kept or dropped, or `ClientResponse` has it.

        `silence_s`: where it is less than usual.
        """
        connection = self.idle_connection() or await self._connect()
        line = PooledConnection(connection, self._loop.time(), silence_s or self._silence_s)
        self._asked.add(line)
        if self._watch is None:
            self._look_soon()
        return line

    def keep(self, line: PooledConnection) -> None:
        """Every answer has come: the connection is there for the next."""
        self._asked.discard(line)
        self._idle.append(line)

    def drop(self, line: PooledConnection) -> None:
        """Nothing that comes over the connection is wanted any more."""
        self._asked.discard(line)
        line.connection.close()

    def idle_connection(self) -> Connection | None:
        """One of the connections that are kept, for another kind of exchange; None where there is none."""
        while self._idle:
            connection = self._idle.pop().connection
            protocol = connection.protocol
            # What has come meanwhile would pass for the answer to the next request.
            if protocol is not None and protocol.is_connected() and not protocol.should_close:
                return connection
            connection.release()
        return None

    def give_back(self) -> None:
        """Leave what is kept to aiohttp's pool: other ways to send follow, or the connector's end."""
        while self._idle:
            self._idle.pop().connection.release()
        if self._watch is not None and not self._asked:
            self._watch.cancel()
            self._watch = None

    def _look_soon(self) -> None:
        self._watch = self._loop.call_later(min(_LOOK_S, (self._silence_s or _LOOK_S) / _LOOKS), self._look)

    def _look(self) -> None:
        """What has been silent for too long is given up, and what has not been used for a while given back to the pool."""
        self._watch, now = None, self._loop.time()
        for line in self._asked:
            protocol = line.connection.protocol
            if line.silence_s and now - line.since > line.silence_s and protocol is not None:
                protocol.set_exception(aiohttp.SocketTimeoutError("Timeout on reading data from socket"))
        while self._idle and now - self._idle[0].since > _LOOK_S:
            self._idle.pop(0).connection.release()
        if self._asked or self._idle:
            self._look_soon()


async def small_response(message: RawResponseMessage, payload: aiohttp.StreamReader) -> SmallResponse | None:
    """The response, where it is a plain 200 and all of it is here, or soon is; None where `ClientResponse` has to take it."""
    if payload.is_eof() or (message.code == 200 and _is_told(message.headers) and await _ends(message, payload)):
        return small_response_now(message, payload)
    return None


def small_response_now(message: RawResponseMessage, payload: aiohttp.StreamReader) -> SmallResponse | None:
    """The same of a response whose body has ended."""
    if message.code == 200 and _is_told(message.headers):
        return SmallResponse(message.headers, payload.read_nowait())
    return None


async def _ends(message: RawResponseMessage, payload: aiohttp.StreamReader) -> bool:
    """Whether all of a short body comes soon."""
    length = message.headers["Content-Length"]
    if len(length) > len(str(_BRIEF)) or not length.isdecimal() or int(length) > _BRIEF:
        return False
    try:
        async with asyncio.timeout(_SOON_S):
            await payload.wait_eof()
    except (aiohttp.ClientError, OSError):  # TimeoutError is one; whoever reads on meets the others again
        return False
    return True


def _is_told(fields: CIMultiDictProxy[str]) -> bool:
    """Whether a body that has ended has its length from `Content-Length` alone, and nothing else is to be done for it."""
    return (
        "Content-Length" in fields
        and "Transfer-Encoding" not in fields
        and "Content-Encoding" not in fields
        and "Set-Cookie" not in fields
    )
