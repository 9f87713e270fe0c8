"""The parts of aiohttp's response that the public interface does not give."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from aiohttp.connector import Connection


__all__ = ["WatchedResponse", "read_some", "release_connection"]


_DRAIN = 64 * 1024


class WatchedResponse(aiohttp.ClientResponse):
    """One that knows how its connection ended.

    Where the end of the connection is that of the body, aiohttp takes a reset for it, too (RFC 9112 §8 does not).
    """

    _lost: asyncio.Future[None] | None = None
    """None too where it had ended before the response was taken."""

    async def start(self, connection: Connection) -> WatchedResponse:
        protocol = connection.protocol
        self._lost = protocol.closed if protocol is not None else None
        if self._lost is not None and id(self._lost) not in _watched:
            _watched.add(id(self._lost))
            self._lost.add_done_callback(_seen)
        await super().start(connection)
        return self

    @property
    def was_cut(self) -> bool:
        """Whether the connection broke before it was closed, in a body that has no other end; or nobody can tell any more."""
        lost = self._lost
        if "Content-Length" in self.headers or "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return False
        return lost is None or (lost.done() and not lost.cancelled() and lost.exception() is not None)


_watched: set[int] = set()
"""The connections that are open, by the identity of the future of their end."""


def _seen(lost: asyncio.Future[None]) -> None:
    _watched.discard(id(lost))
    if not lost.cancelled():
        lost.exception()  # whoever waits for a body hears of it otherwise


async def next_chunk(response: aiohttp.ClientResponse) -> bytes:
    try:
        piece = await response.content.readany()
    except RuntimeError as error:
        raise _unframed(error) from error
    if not piece and isinstance(response, WatchedResponse) and response.was_cut:
        raise aiohttp.ClientPayloadError("the connection broke")
    return piece


async def read_some(response: aiohttp.ClientResponse, most: int) -> bytes:
    try:
        return await response.content.read(most)
    except RuntimeError as error:
        raise _unframed(error) from error


def _unframed(error: RuntimeError) -> Exception:
    """What aiohttp says by a bare `RuntimeError`: the framing of a body is no HTTP. It is a broken body like the others."""
    return aiohttp.ClientPayloadError("the framing is broken") if error.args == ("Connection closed.",) else error


def arrived(content: aiohttp.StreamReader) -> bytes:
    """What came before the connection broke: aiohttp reports the break first, and would drop bytes that are here."""
    error = content.exception()
    if error is None:
        return b""
    content.set_exception(None)  # type: ignore[arg-type]  # the only public way to what is buffered
    try:
        return content.read_nowait()
    finally:
        content.set_exception(error)


async def release_connection(response: aiohttp.ClientResponse) -> None:
    """Give the connection back where its body is over or short, else close it."""
    if response.closed:
        return
    length = response.content_length
    try:
        if not response.content.at_eof() and length is not None and length <= _DRAIN:
            async with asyncio.timeout(2):
                await response.read()
    except (aiohttp.ClientError, OSError):  # TimeoutError is one
        response.close()
    except RuntimeError as error:
        response.close()
        if _unframed(error) is error:
            raise
    finally:
        response.release()
