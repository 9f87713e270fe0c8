"""Connections whose bodies are received outside aiohttp: plain HTTP and TLS, one turn at a time and without waiting.

A turn moves what is here, up to `BLOCK` bytes, from the socket to the file. What it needs for that belongs to the thread
(`WorkerBuffers`), not to the connection: plain HTTP is spliced through a pipe where the system can, else received into a block; TLS
is received in large pieces, given to the connection's own state, and decrypted record by record into one block, which is
then written as a whole. Should asyncio change here, decryption fails: TLS never gives wrong bytes.
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
"""Bytes written at once, and the most of one turn: others wait meanwhile."""
_ENCRYPTED: Final = 512 * 1024
"""Bytes received at once with TLS; each connection keeps room for as many until it is closed."""
_RECORD: Final = 17 * 1024
"""No record of TLS is larger (RFC 8446 §5.2), so that no more of one can be here without being readable yet."""
_WAKE: Final = 512 * 1024
"""A thread is woken for no less, unless it is the rest of what is wanted."""
_TCP_INFO: Final = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_MIN_RTT: Final = slice(148, 152)
"""Of the system's `struct tcp_info`: microseconds, as the system itself has measured them (Linux 4.6, linux/tcp.h)."""
_SPLICES: Final = hasattr(os, "splice") and fcntl is not None
_SET_PIPE_SIZE: Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a turn or a step has done: `count` bytes received and written, after seconds of waiting for the network."""

    count: int
    waited_s: float = 0.0
    ended: bool = False
    """The server has closed the connection."""
    error: Exception | None = None
    """What broke: an `OSError` of the connection, or ours of the disk. The `count` bytes before it are written."""


class Stream(Protocol):
    """A connection whose body is received outside the event loop. One step at a time."""

    ahead: bytes
    """What aiohttp had received and had not been asked for: the body goes on after it."""
    left: int
    """Bytes of the body after `ahead` when it was taken over."""
    silence_s: float
    """How long nothing has come."""
    round_trip_s: float | None
    """The shortest so far, however busy this machine is; None where the system does not tell."""

    def fileno(self) -> int:
        """The descriptor that is readable when a turn is worth it."""

    def receive(self, desk: WorkerBuffers, pen: OffsetWriter, at: int, most: int) -> Chunk:
        """One turn, in the thread of `desk`: write at `at` up to `most` bytes of what is here, and do not wait for more."""

    def wake_for(self, wanted: int) -> None:
        """Be readable when what is here is worth a turn; no more than `wanted` bytes of the body are to come."""

    def close(self) -> None:
        """On the loop, when no step runs: give up the connection."""


# --- What a thread works with -----------------------------------------------------------------------------------------


class WorkerBuffers:
    """What one thread works with, whichever connection it serves. To be closed."""

    def __init__(self) -> None:
        self.pipe = _Pipe.open()
        """None where the system does not splice."""

    @cached_property
    def block(self) -> memoryview:
        return memoryview(bytearray(BLOCK))

    @cached_property
    def encrypted(self) -> memoryview:
        return memoryview(bytearray(_ENCRYPTED))

    def renew(self) -> None:
        """Another pipe: what is left in this one belongs to a file that it did not get to."""
        self.close()
        self.pipe = _Pipe.open()

    def close(self) -> None:
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None


class _Pipe:
    """A pipe of the system, through which bytes go from a socket to a file without being copied to this process."""

    def __init__(self) -> None:
        self.out, self._into = os.pipe()
        with suppress(OSError):  # a small one serves as well, with more system calls
            fcntl.fcntl(self._into, _SET_PIPE_SIZE, BLOCK)

    @classmethod
    def open(cls) -> _Pipe | None:
        """None where there is none to be had."""
        with suppress(OSError):
            return cls() if _SPLICES else None
        return None

    def fill(self, sock: socket.socket, most: int) -> int:
        """What is here, up to `most` bytes and what the pipe holds; 0 at the end of the connection."""
        return os.splice(sock.fileno(), self._into, min(most, BLOCK), flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)

    def close(self) -> None:
        os.close(self.out)
        os.close(self._into)


# --- The streams ------------------------------------------------------------------------------------------------------


class _Connection:
    """What all streams have: the socket, and when it wakes a thread."""

    def __init__(self, fd: int, *, ahead: bytes, left: int) -> None:
        self.ahead = ahead
        self.left = left
        self.silence_s = 0.0
        # The same connection under a number of our own, so that neither side closes what the other still uses.
        self._sock = socket.socket(fileno=os.dup(fd))
        self._wake = 1
        self.round_trip_s = _round_trip_s(self._sock)

    def fileno(self) -> int:
        return self._sock.fileno()

    def wake_for(self, wanted: int) -> None:
        wake = max(1, min(_WAKE, wanted))
        if wake != self._wake:
            with suppress(OSError):  # a hint only
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wake)
            self._wake = wake


def _round_trip_s(sock: socket.socket) -> float | None:
    if _TCP_INFO is None:
        return None
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _MIN_RTT.stop)[_MIN_RTT]
    except OSError:
        return None
    micros = int.from_bytes(told, sys.byteorder)
    return micros / 1e6 if len(told) == 4 and 0 < micros < 2**32 - 1 else None


class PlainStream(_Connection):
    """Plain HTTP: the bytes are the file's."""

    def __init__(self, response: aiohttp.ClientResponse, fd: int, *, ahead: bytes, left: int) -> None:
        super().__init__(fd, ahead=ahead, left=left)
        self._response = response

    def receive(self, desk: WorkerBuffers, pen: OffsetWriter, at: int, most: int) -> Chunk:
        try:
            count = self._move(desk, pen, at, min(most, BLOCK))
        except (OSError, BulkdlError) as error:
            return Chunk(0, error=error)
        return Chunk(count or 0, ended=count == 0)

    def _move(self, desk: WorkerBuffers, pen: OffsetWriter, at: int, most: int) -> int | None:
        """Move up to `most` bytes that are here to the file; None for none, 0 at the end of the connection."""
        try:
            if desk.pipe is None:
                count = self._sock.recv_into(desk.block, most)
                pen.write(at, desk.block[:count])
                return count
            count = desk.pipe.fill(self._sock, most)
        except BlockingIOError:
            return None
        except OSError as error:
            if desk.pipe is None or not _cannot_splice(error):
                raise
            desk.close()
            return self._move(desk, pen, at, most)
        try:
            pen.move(desk.pipe.out, at, count)
        except BulkdlError:
            desk.renew()
            raise
        return count

    def close(self) -> None:
        self._sock.close()
        self._response.close()


def _cannot_splice(error: OSError) -> bool:
    return error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


class TlsStream(_Connection):
    """TLS: what comes off the socket is decrypted with the connection's own state."""

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

    def receive(self, desk: WorkerBuffers, pen: OffsetWriter, at: int, most: int) -> Chunk:
        step = self._fill(desk, min(most, BLOCK))
        try:
            pen.write(at, desk.block[: step.count])
        except BulkdlError as error:
            return Chunk(0, error=error)
        return step

    def _fill(self, desk: WorkerBuffers, most: int) -> Chunk:
        """Decrypt what is here into the block, up to `most` bytes.

        Nothing that could be decrypted is left behind unless `most` bytes are there: the socket would not tell of it.
        """
        count, drained, read, block = 0, False, self._tls.read, desk.block
        try:
            while count < most:
                try:
                    while count < most:
                        length: int = read(most - count, block[count:])  # type: ignore[assignment]  # into a buffer
                        if not length:
                            return Chunk(count, ended=True)
                        count += length
                except ssl.SSLWantReadError:
                    if self._tls.outgoing.pending:  # the answer to a new handshake
                        self._sock.sendall(self._tls.outgoing.read())
                    if drained or count > BLOCK - _ENCRYPTED - _RECORD:
                        break
                    drained = self._feed(desk.encrypted)
        except ssl.SSLEOFError:
            return Chunk(count, ended=True)
        except OSError as error:
            return Chunk(count, error=error)
        return Chunk(count)

    def _feed(self, buffer: memoryview) -> bool:
        """Bring more of what is encrypted; True when there was no more."""
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


# --- What it is decrypted with ----------------------------------------------------------------------------------------


class TlsObject(ssl.SSLObject):
    """Remembers what it reads from and writes to."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


class TlsContext(ssl.SSLContext):
    """A client's context with the defaults of `ssl.create_default_context`, whose connections can be taken over."""

    @classmethod
    def create(cls) -> Self:
        own = ssl.create_default_context()
        own.__class__ = cls  # what a release of Python sets there stays as it is, and nothing is loaded twice
        own.sslobject_class = TlsObject
        return cast("Self", own)

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
