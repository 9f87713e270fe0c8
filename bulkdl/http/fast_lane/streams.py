"""Streams of the fast lane: connections whose bodies bulkdl receives without aiohttp, over plain HTTP or TLS.

`Stream.receive` moves the bytes that have arrived, up to `BLOCK`, from the socket to the file, and never waits. The
pipe and the buffers belong to the thread (`WorkerBuffers`), not to the connection.

- Plain HTTP: on Linux the bytes are spliced through the pipe and never enter this process. Elsewhere they are received
  into the block and written.
- TLS: encrypted bytes are received in pieces of 512 KiB, passed to the connection's own TLS state, and decrypted record
  by record into the block. The block is written as a whole. If a later asyncio handles the TLS state differently,
  decryption fails with an error: TLS never returns wrong bytes.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol, Self, cast

from bulkdl.core.errors import BulkdlError
from bulkdl.core.fast_dataclass import dataclass

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import asyncio

    import aiohttp

    from bulkdl.storage.offset_writer import OffsetWriter

__all__ = ["BLOCK", "Chunk", "PlainStream", "Stream", "TlsContext", "TlsObject", "TlsStream", "WorkerBuffers"]

BLOCK: Final = 1024 * 1024
"""Limit of one write and of one `receive` (bytes); the thread's other connections wait meanwhile."""
_ENCRYPTED: Final = 512 * 1024
"""Encrypted bytes received at once. The TLS state of each connection keeps a buffer of this size until it is closed."""
_RECORD: Final = 17 * 1024
"""Upper limit of a TLS record (bytes, RFC 8446 §5.2). At most this much can have arrived without being readable."""
_WAKE: Final = 512 * 1024
"""A socket wakes its thread when this much has arrived, or the rest of the range if that is less (bytes)."""
_TCP_INFO: Final = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_MIN_RTT: Final = slice(148, 152)
"""Place of `tcpi_min_rtt` in the system's `struct tcp_info`: microseconds (Linux 4.6, linux/tcp.h)."""
_SPLICES: Final = hasattr(os, "splice") and fcntl is not None
_SET_PIPE_SIZE: Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Result of one `receive` or one step: `count` bytes were received and written."""

    count: int
    waited_s: float = 0.0
    """Wait for the network (s)."""
    ended: bool = False
    """The server has closed the connection."""
    error: Exception | None = None
    """An `OSError` of the connection, or bulkdl's error for the disk. The `count` bytes before it are written."""


class Stream(Protocol):
    """A connection whose body is received outside the event loop. One step at a time."""

    ahead: bytes
    """Bytes of the body that aiohttp had received and nobody had read; the socket continues after them."""
    left: int
    """Bytes of the body after `ahead`, at the time of the takeover."""
    silence_s: float
    """Time since the last byte (s)."""
    round_trip_s: float | None
    """Shortest round trip as the system measured it, so load on this machine does not matter (s); None: unknown."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when `receive` is worthwhile."""

    def receive(self, buffers: WorkerBuffers, writer: OffsetWriter, at: int, most: int) -> Chunk:
        """Write the bytes that have arrived, at most `most`, at offset `at`; never wait for more.

        Call this in the thread that owns `buffers`.
        """

    def wake_for(self, wanted: int) -> None:
        """Make `fileno` readable when enough has arrived; at most `wanted` bytes of the body are still needed."""

    def close(self) -> None:
        """Close the connection. Call this on the event loop, when no step runs."""


# --- Buffers of a thread ----------------------------------------------------------------------------------------------


class WorkerBuffers:
    """The pipe and buffers of one thread, for all of its connections. Close it at the end."""

    def __init__(self) -> None:
        self.pipe = _Pipe.open()
        """None: the system cannot splice."""

    @cached_property
    def block(self) -> memoryview:
        return memoryview(bytearray(BLOCK))

    @cached_property
    def encrypted(self) -> memoryview:
        return memoryview(bytearray(_ENCRYPTED))

    def replace_pipe(self) -> None:
        """Open a new pipe. After a failed write the old one still holds bytes that must not reach another file."""
        self.close()
        self.pipe = _Pipe.open()

    def close(self) -> None:
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None


class _Pipe:
    """A system pipe that carries bytes from a socket to a file without a copy to this process."""

    def __init__(self) -> None:
        self.out, self._into = os.pipe()
        with suppress(OSError):  # a pipe of the default size works too, with more system calls
            fcntl.fcntl(self._into, _SET_PIPE_SIZE, BLOCK)

    @classmethod
    def open(cls) -> _Pipe | None:
        """Return a pipe; None if the system cannot splice or has no descriptor left."""
        with suppress(OSError):
            return cls() if _SPLICES else None
        return None

    def fill(self, sock: socket.socket, most: int) -> int:
        """Move arrived bytes into the pipe, at most `most` or its capacity.

        Return their number, 0 at the connection's end.
        """
        return os.splice(sock.fileno(), self._into, min(most, BLOCK), flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)

    def close(self) -> None:
        os.close(self.out)
        os.close(self._into)


# --- The streams ------------------------------------------------------------------------------------------------------


class _Connection:
    """Base of the streams: the socket, and how many bytes wake the thread."""

    def __init__(self, fd: int, *, ahead: bytes, left: int) -> None:
        self.ahead = ahead
        self.left = left
        self.silence_s = 0.0
        # Our own descriptor of the same connection: neither we nor asyncio then closes one that the other still uses.
        self._sock = socket.socket(fileno=os.dup(fd))
        self._wake = 1
        self.round_trip_s = _round_trip_s(self._sock)

    def fileno(self) -> int:
        return self._sock.fileno()

    def wake_for(self, wanted: int) -> None:
        wake = max(1, min(_WAKE, wanted))
        if wake != self._wake:
            with suppress(OSError):  # only an optimization
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wake)
            self._wake = wake


def _round_trip_s(sock: socket.socket) -> float | None:
    if _TCP_INFO is None:
        return None
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _MIN_RTT.stop)[_MIN_RTT]
    except OSError:
        return None
    micros = int.from_bytes(raw, sys.byteorder)
    return micros / 1e6 if len(raw) == 4 and 0 < micros < 2**32 - 1 else None


class PlainStream(_Connection):
    """A connection over plain HTTP; its bytes go to the file unchanged."""

    def __init__(self, response: aiohttp.ClientResponse, fd: int, *, ahead: bytes, left: int) -> None:
        super().__init__(fd, ahead=ahead, left=left)
        self._response = response

    def receive(self, buffers: WorkerBuffers, writer: OffsetWriter, at: int, most: int) -> Chunk:
        try:
            count = self._move(buffers, writer, at, min(most, BLOCK))
        except (OSError, BulkdlError) as error:
            return Chunk(0, error=error)
        return Chunk(count or 0, ended=count == 0)

    def _move(self, buffers: WorkerBuffers, writer: OffsetWriter, at: int, most: int) -> int | None:
        """Move arrived bytes to the file, at most `most`.

        Return their number, None for none yet, 0 at the connection's end.
        """
        try:
            if buffers.pipe is None:
                count = self._sock.recv_into(buffers.block, most)
                writer.write(at, buffers.block[:count])
                return count
            count = buffers.pipe.fill(self._sock, most)
        except BlockingIOError:
            return None
        except OSError as error:
            if buffers.pipe is None or not _cannot_splice(error):
                raise
            buffers.close()
            return self._move(buffers, writer, at, most)
        try:
            writer.move(buffers.pipe.out, at, count)
        except BulkdlError:
            buffers.replace_pipe()
            raise
        return count

    def close(self) -> None:
        self._sock.close()
        self._response.close()


def _cannot_splice(error: OSError) -> bool:
    return error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


class TlsStream(_Connection):
    """A connection over TLS, decrypted with the connection's own TLS state."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        transport: asyncio.Transport,
        fd: int,
        tls: TlsObject,
        *,
        ahead: bytes,
        left: int,
    ) -> None:
        super().__init__(fd, ahead=ahead, left=left)
        self._response = response
        self._transport = transport
        self._tls = tls

    def wake_for(self, wanted: int) -> None:
        super().wake_for(wanted - _RECORD)

    def receive(self, buffers: WorkerBuffers, writer: OffsetWriter, at: int, most: int) -> Chunk:
        chunk = self._decrypt(buffers, min(most, BLOCK))
        try:
            writer.write(at, buffers.block[: chunk.count])
        except BulkdlError as error:
            return Chunk(0, error=error)
        return chunk

    def _decrypt(self, buffers: WorkerBuffers, most: int) -> Chunk:
        """Decrypt arrived bytes into the block, at most `most`.

        Below that limit nothing that can be decrypted stays in the TLS state, since the socket would not wake us for
        it.
        """
        count, drained, read, block = 0, False, self._tls.read, buffers.block
        try:
            while count < most:
                try:
                    while count < most:
                        length: int = read(most - count, block[count:])  # type: ignore[assignment]  # into a buffer
                        if not length:
                            return Chunk(count, ended=True)
                        count += length
                except ssl.SSLWantReadError:
                    if self._tls.outgoing.pending:  # send pending TLS data (e.g. a post-handshake message)
                        self._sock.sendall(self._tls.outgoing.read())
                    if drained or count > BLOCK - _ENCRYPTED - _RECORD:
                        break
                    drained = self._feed(buffers.encrypted)
        except ssl.SSLEOFError:
            return Chunk(count, ended=True)
        except OSError as error:
            return Chunk(count, error=error)
        return Chunk(count)

    def _feed(self, buffer: memoryview) -> bool:
        """Receive more encrypted bytes; return True if the socket is empty now."""
        try:
            count = self._sock.recv_into(buffer)
        except BlockingIOError:
            return True
        if count:
            self._tls.incoming.write(buffer[:count])
        else:
            self._tls.incoming.write_eof()
        return 0 < count < len(buffer)

    def close(self) -> None:
        self._sock.close()
        self._transport.abort()
        self._response.close()


# --- TLS context and connections --------------------------------------------------------------------------------------


class TlsObject(ssl.SSLObject):
    """The TLS state of one connection, with access to its two memory buffers."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


class TlsContext(ssl.SSLContext):
    """A client context with the defaults of `ssl.create_default_context`.

    The fast lane can take over its connections.
    """

    @classmethod
    def create(cls) -> Self:
        context = ssl.create_default_context()
        context.__class__ = cls  # keeps all defaults of this Python, and loads the certificates only once
        context.sslobject_class = TlsObject
        return cast("Self", context)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - as asyncio calls it
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        if isinstance(made, TlsObject):
            made.incoming, made.outgoing = incoming, outgoing
        return made
