"""Workarounds for aiohttp: how a connection ended, and bytes that arrived before an error."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http import HttpProcessingError

from bulkdl.http.framed_protocol import BrokenChunksError

if TYPE_CHECKING:
    from aiohttp.connector import Connection


__all__ = ["WatchedResponse", "next_chunk", "read_some", "release_connection", "take_buffered"]


_DRAIN_LIMIT = 64 * 1024
"""Longest body that is read to its end so that the connection can be used again (bytes)."""


class WatchedResponse(aiohttp.ClientResponse):
    """A response that knows how its connection ended.

    If a body ends with its connection, aiohttp takes a reset for that end. RFC 9112 §8 calls such a body incomplete. So
    this class looks at the connection. It relies on `ClientResponse.start`, `Connection.protocol` and the protocol's
    `closed`; tests/transfer/test_attempt.py checks them.
    """

    _connection_closed: asyncio.Future[None] | None = None
    """Done when the connection ends; None also if it had ended before the response was started."""

    async def start(self, connection: Connection) -> WatchedResponse:
        protocol = connection.protocol
        self._connection_closed = protocol.closed if protocol is not None else None
        if self._connection_closed is not None and id(self._connection_closed) not in _watched:
            _watched.add(id(self._connection_closed))
            self._connection_closed.add_done_callback(_forget)
        await super().start(connection)
        return self

    @property
    def was_cut(self) -> bool:
        """True if the connection broke, or may have broken, within a body that only the end of the connection ends."""
        closed = self._connection_closed
        if "Content-Length" in self.headers or "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return False
        return closed is None or (closed.done() and not closed.cancelled() and closed.exception() is not None)


_watched: set[int] = set()
"""The identities of the `closed` futures of all open connections."""


def _forget(closed: asyncio.Future[None]) -> None:
    _watched.discard(id(closed))
    if not closed.cancelled():
        closed.exception()  # mark it as retrieved, so that asyncio logs nothing; the body's reader gets its own error


async def next_chunk(response: aiohttp.ClientResponse, most: int | None = None) -> bytes:
    """Return the next bytes of the body, at most `most`; b"" at its end."""
    try:
        piece = await (response.content.readany() if most is None else response.content.read(most))
    except (RuntimeError, HttpProcessingError) as error:
        raise _framing_error(error) from error
    if not piece and isinstance(response, WatchedResponse) and response.was_cut:
        raise aiohttp.ClientPayloadError("the connection broke")
    return piece


async def read_some(response: aiohttp.ClientResponse, most: int) -> bytes:
    try:
        return await response.content.read(most)
    except (RuntimeError, HttpProcessingError) as error:
        raise _framing_error(error) from error


def _framing_error(error: Exception) -> Exception:
    """Return the payload error that aiohttp should raise for a body with broken framing.

    With llhttp it raises a `RuntimeError`, and with its parser in Python a `HttpProcessingError`.
    """
    known = isinstance(error, HttpProcessingError) or error.args == ("Connection closed.",)
    return BrokenChunksError() if known else error


def take_buffered(content: aiohttp.StreamReader) -> bytes:
    """Return the bytes that arrived before the connection broke; aiohttp itself would raise the error and drop them."""
    error = content.exception()
    if error is None:
        return b""
    content.set_exception(None)  # type: ignore[arg-type]  # the only public way to the buffered bytes
    try:
        return content.read_nowait()
    finally:
        content.set_exception(error)


async def release_connection(response: aiohttp.ClientResponse) -> None:
    """Give the connection back to the pool if the rest of its body is short; else close it."""
    if response.closed:
        return
    length = response.content_length
    try:
        if not response.content.at_eof() and length is not None and length <= _DRAIN_LIMIT:
            async with asyncio.timeout(2):
                await response.read()
    except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
        response.close()
    except (RuntimeError, HttpProcessingError) as error:
        response.close()
        if _framing_error(error) is error:
            raise
    finally:
        response.release()
