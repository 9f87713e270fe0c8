"""The fast lane: a thread moves the body of a large response from its socket to the file, past the event loop.

It applies only if all of the following hold; else `take_over` declines and the body goes through aiohttp:

- The head was accepted, and has one `Content-Length` and no content or transfer coding.
- At least 32 MiB are still to come, or 1 MiB of a product that has at least 32 MiB.
- The connection is direct (no proxy), on a selector event loop of a POSIX system.
- The run has no rate limit, and `BULKDL_FAST_LANE` is not 0.

The first bytes of a product always come through aiohttp: they are checked for an error page before anything is written.
So does an overlap that is compared with the partial.

After the takeover the connection is a `Stream` (`streams`): plain HTTP, or TLS with the connection's own state. Two to
four threads for all connections (`mover_threads`) move it in steps. Between the steps the event loop counts bytes,
makes checkpoints, shortens the range and cancels as for an ordinary body. A running step is always awaited, so nothing
is written afterwards. aiohttp's timeout no longer applies; the receiver compares `Stream.silence_s` with the timeout
instead.

This module relies on the following public interfaces; tests/http/fast_lane/test_takeover.py checks them:

- aiohttp: `ClientResponse.connection`, `.content`, `.headers`, `.method` and `.close`; `Connection.transport`;
  `StreamReader.read_nowait`, `.exception`, `.is_eof` and `.total_bytes`. aiohttp delivers every byte of a body without
  coding to the reader before it pauses, so the reader's buffer is all that aiohttp holds of it.
- asyncio: `SelectorEventLoop`; `transport.pause_reading`, `.resume_reading`, `.is_reading`, `.is_closing`,
  `.get_write_buffer_size`, `.abort`, and `.get_extra_info` for `socket` and `ssl_object`; with TLS
  `.set_read_buffer_limits`, which keeps the loop from reading the socket while the transport is paused.
- ssl: `create_default_context` (the class of the context is changed), `SSLContext.wrap_bio` (asyncio calls it with the
  memory BIOs of each connection), `.sslobject_class`, `SSLObject.read`, and `MemoryBIO.pending`, `.read`, `.write` and
  `.write_eof`.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

from bulkdl.core.errors import UsageError
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.units import parse_size
from bulkdl.http.fast_lane.mover_threads import TransferThreads
from bulkdl.http.fast_lane.streams import Chunk, PlainStream, Stream, TlsObject, TlsStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    import aiohttp

    from bulkdl.storage.offset_writer import OffsetWriter

__all__ = ["FastLane", "fast_lane_for", "may_apply", "take_over"]

LEAST: Final = 32 * 1024 * 1024
"""Least rest of a body for a takeover (bytes). The connection cannot be used again afterwards, and a new one starts
slowly."""
FIRST: Final = 64 * 1024
"""First bytes of a product, or of an overlap, that come through aiohttp."""
MAX_CONNECTIONS: Final = 128
"""Limit of connections in the fast lane. Each needs a descriptor, and with TLS some 700 KiB, but no own thread."""
_CHECKED_BYTES: Final = 1024
"""Bytes that are enough to recognize an error page."""


def may_apply(value: str | None, *, limited: bool) -> bool:
    """Return True if there is a fast lane. `value`: of `BULKDL_FAST_LANE`; `limited`: the run has a rate limit."""
    return not limited and not _is_zero(value)


def _is_zero(value: str | None) -> bool:
    """Tell whether the value is a zero however it is written, such as `00`, `0K` or ` 0 `; no rest of a body is 0 bytes."""
    try:
        return value is not None and value.strip() != "" and parse_size(value.strip()) == 0
    except ValueError:
        return False


def fast_lane_for(value: str | None, *, limited: bool) -> FastLane | None:
    """Return the fast lane for a value of `BULKDL_FAST_LANE`; None if it is `0` or the rate is `limited`.

    A size such as `64K` is the least rest of a body; without one it is 32 MiB. Raise `UsageError` if it is not a size.
    """
    if not may_apply(value, limited=limited):
        return None
    try:
        return FastLane(least=parse_size(value) if value and value != "1" else LEAST)
    except ValueError as error:
        raise UsageError(
            f"BULKDL_FAST_LANE: {error}", hint="Set it to 0 to disable the fast lane, or unset it"
        ) from None


class FastLane:
    """The fast lane of one run: its threads and its slots. Use it in `with`."""

    def __init__(self, *, least: int = LEAST, first: int = FIRST, slots: int = MAX_CONNECTIONS) -> None:
        """`least`: least rest of a body (bytes), after the `first` ones; `slots`: limit of connections."""
        self.first = max(_CHECKED_BYTES, min(first, least))
        self.least = least
        self._threads = TransferThreads()
        self._free = slots

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.close()

    @contextmanager
    def slot(self) -> Iterator[bool]:
        """Yield True with a slot that is held until the end of the block, or False if none is free."""
        granted = self._free > 0
        self._free -= granted
        try:
            yield granted
        finally:
            self._free += granted

    async def step(self, stream: Stream, writer: OffsetWriter, *, at: int, end: int) -> Chunk:
        """Receive body bytes from offset `at` up to `end` and write them, for one step.

        Return when the step is over.
        """
        return await self._threads.step(stream, writer, at=at, end=end)


# --- Taking over ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ConnectionParts:
    """The parts of a connection that a takeover needs."""

    response: aiohttp.ClientResponse
    transport: asyncio.Transport
    fd: int
    tls: TlsObject | None


async def take_over(response: aiohttp.ClientResponse, *, given: int) -> Stream | bytes:
    """Take the connection of `response`, of whose body `given` bytes were read, and return it as a stream.

    Bytes instead of a stream (maybe none) mean that the takeover was declined: they are the next ones of the body, and
    aiohttp reads the rest. After a takeover the response may only be closed.
    """
    parts, length = _connection_parts(response), _exact_length(response)
    if parts is None or length is None:
        return b""
    parts.transport.pause_reading()
    ahead = _drain(response.content)
    if parts.tls is not None:
        await asyncio.sleep(0)  # a read that was scheduled before the pause ends now; its bytes are taken below
        ahead += _drain(response.content)
    left = length - given - len(ahead)
    parts.transport.pause_reading()  # draining resumes the transport, so pause it again
    if not _is_in_step(parts, given=given + len(ahead), left=left):
        parts.transport.resume_reading()
        return ahead
    if parts.tls is None:
        return PlainStream(response, parts.fd, ahead=ahead, left=left)
    parts.transport.set_read_buffer_limits(high=0)  # type: ignore[attr-defined]  # `_connection_parts` checked for it
    return TlsStream(response, parts.transport, parts.fd, parts.tls, ahead=ahead, left=left)


def _connection_parts(response: aiohttp.ClientResponse) -> _ConnectionParts | None:
    connection = response.connection
    transport = connection.transport if connection is not None else None
    known_loop = os.name == "posix" and isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
    if transport is None or transport.is_closing() or not known_loop or response.method != "GET":
        return None
    sock, tls = transport.get_extra_info("socket"), transport.get_extra_info("ssl_object")
    if sock is None or transport.get_write_buffer_size():
        return None
    if tls is not None and not (isinstance(tls, TlsObject) and hasattr(transport, "set_read_buffer_limits")):
        return None
    return _ConnectionParts(response, transport, sock.fileno(), tls)


def _exact_length(response: aiohttp.ClientResponse) -> int | None:
    """Return the body's length if nothing but one `Content-Length` determines where the body ends; else None."""
    fields = response.headers
    lengths = fields.getall("Content-Length", [])
    plain = "Transfer-Encoding" not in fields and fields.get("Content-Encoding", "identity").lower() == "identity"
    one = len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdecimal()
    return int(lengths[0]) if plain and one else None


def _drain(content: aiohttp.StreamReader) -> bytes:
    pieces: list[bytes] = []
    while content.exception() is None and (piece := content.read_nowait()):
        pieces.append(piece)
    return b"".join(pieces)


def _is_in_step(parts: _ConnectionParts, *, given: int, left: int) -> bool:
    """Return True if the socket's next byte is the body's next byte, and the event loop will not read it."""
    content = parts.response.content
    sound = content.exception() is None and not content.is_eof() and content.total_bytes == given
    return sound and left > 0 and not parts.transport.is_closing() and not parts.transport.is_reading()
