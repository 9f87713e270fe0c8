"""The fast lane: the body of a large response goes from its socket to the file in a thread, past the event loop.

It applies to a response whose head has been judged and that has no content or transfer coding, one `Content-Length`, much
still to come, and a direct connection (no proxy) on a selector event loop of a POSIX system, in a run without a rate limit.
At any doubt `take_over` declines, and the body goes the ordinary way, through aiohttp. The first bytes always do: they are
looked at before anything is written.

A connection that was taken over is a `Stream` (streams.py): plain HTTP, or TLS with the connection's own state. A few threads
for all connections (moving.py) move it in steps; between them the event loop counts, checkpoints, lowers the end and cancels
as it does for ordinary bodies, so that nothing is written once a step has been waited for. The stall watchdog is
`Stream.silence_s`: aiohttp's own time-out no longer applies.

The public interfaces that it stands on, each seen by tests/http/fast_lane/test_takeover.py:

- aiohttp: `ClientResponse.connection`, `.content`, `.headers`, `.method` and `.close`; `Connection.transport`;
  `StreamReader.read_nowait`, `.exception`, `.is_eof` and `.total_bytes`. What is buffered is all that aiohttp holds of a body
  without coding: it delivers every such byte to the reader before it stops.
- asyncio: `SelectorEventLoop`; `transport.pause_reading`, `.resume_reading`, `.is_reading`, `.is_closing`, `.get_write_buffer_size`, `.abort`,
  and `.get_extra_info` for `socket` and `ssl_object`; with TLS `.set_read_buffer_limits`, which stops the loop from reading
  the socket once whoever reads the transport has paused.
- ssl: `create_default_context` (the class of the context is changed), `SSLContext.wrap_bio` (asyncio calls it with the memory
  BIOs of each connection), `.sslobject_class`, `SSLObject.read`, and `MemoryBIO.pending`, `.read`, `.write` and `.write_eof`.
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
"""What must still be missing for a connection to be taken over: it is lost afterwards, and a new one starts slowly."""
FIRST: Final = 64 * 1024
"""Bytes that come the ordinary way."""
PLACES: Final = 128
"""Connections at once. A place costs a descriptor, and with TLS some 700 KiB; the threads are the same."""
_TELLING: Final = 1024
"""Bytes that show what a body is."""


def may_apply(value: str | None, *, limited: bool) -> bool:
    """Whether there is a lane, `BULKDL_FAST_LANE` having that value; not where the rate is `limited`."""
    return not limited and value != "0"


def fast_lane_for(value: str | None, *, limited: bool) -> FastLane | None:
    """The lane that `BULKDL_FAST_LANE` asks for: `0` for none, a size such as `64K` for the least body, else the usual one.

    None where the rate is `limited` too. Raise `UsageError` for what is no size.
    """
    if not may_apply(value, limited=limited):
        return None
    try:
        return FastLane(least=parse_size(value) if value and value != "1" else LEAST)
    except ValueError as error:
        raise UsageError(f"BULKDL_FAST_LANE: {error}", hint="Use 0 to turn the fast lane off, or remove it") from None


class FastLane:
    """The lane of one run: its threads, and what is worth a place in it. To be used in `with`."""

    def __init__(self, *, least: int = LEAST, first: int = FIRST, places: int = PLACES) -> None:
        """`least`: bytes that a body must still have, `first` of them not counted; `places`: connections at once."""
        self.first = max(_TELLING, min(first, least))
        self.least = least
        self._movers = TransferThreads()
        self._free = places

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._movers.close()

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Yields whether there is a place; it is held until the end."""
        granted = self._free > 0
        self._free -= granted
        try:
            yield granted
        finally:
            self._free += granted

    async def step(self, stream: Stream, pen: OffsetWriter, *, at: int, end: int) -> Chunk:
        """Receive what belongs to `at` and after, up to `end`, and write it, for a while; return when that is over."""
        return await self._movers.step(stream, pen, at=at, end=end)


# --- Taking over ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Held:
    """What is needed of a connection, once all of it is there."""

    response: aiohttp.ClientResponse
    transport: asyncio.Transport
    fd: int
    tls: TlsObject | None


async def take_over(response: aiohttp.ClientResponse, *, given: int) -> Stream | bytes:
    """The connection of `response`, of whose body `given` bytes have been read; or what aiohttp held, where it declines.

    After bytes (which may be none) the body is read on in the ordinary way; after a stream the response is only closed.
    """
    held, length = _held(response), _length(response)
    if held is None or length is None:
        return b""
    held.transport.pause_reading()
    ahead = _drained(response.content)
    if held.tls is not None:
        await asyncio.sleep(0)  # what was scheduled by reading on is over afterwards, and finds the transport paused
        ahead += _drained(response.content)
    left = length - given - len(ahead)
    held.transport.pause_reading()  # to drain is to resume
    if not _is_still(held, given=given + len(ahead), left=left):
        held.transport.resume_reading()
        return ahead
    if held.tls is None:
        return PlainStream(response, held.fd, ahead=ahead, left=left)
    held.transport.set_read_buffer_limits(high=0)  # type: ignore[attr-defined]  # of every TLS transport; looked for before
    return TlsStream(response, held.transport, held.fd, held.tls, ahead=ahead, left=left)


def _held(response: aiohttp.ClientResponse) -> _Held | None:
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
    return _Held(response, transport, sock.fileno(), tls)


def _length(response: aiohttp.ClientResponse) -> int | None:
    """The body's length where it is the one thing that says where the body ends."""
    fields = response.headers
    lengths = fields.getall("Content-Length", [])
    plain = "Transfer-Encoding" not in fields and fields.get("Content-Encoding", "identity").lower() == "identity"
    one = len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdecimal()
    return int(lengths[0]) if plain and one else None


def _drained(content: aiohttp.StreamReader) -> bytes:
    pieces: list[bytes] = []
    while content.exception() is None and (piece := content.read_nowait()):
        pieces.append(piece)
    return b"".join(pieces)


def _is_still(held: _Held, *, given: int, left: int) -> bool:
    """Whether the next byte off the socket is the next one of the body, and the loop will not take it."""
    content = held.response.content
    sound = content.exception() is None and not content.is_eof() and content.total_bytes == given
    return sound and left > 0 and not held.transport.is_closing() and not held.transport.is_reading()
