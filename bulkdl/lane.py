"""The fast lane: the body of a large response goes from its socket to the file in a thread, past the event loop.

It applies to a response whose head has been judged and that has no content or transfer coding, one `Content-Length`, much
still to come, and a direct connection (no proxy) on a selector event loop of a POSIX system, in a run without a rate limit.
At any doubt `take_over` declines, and the body goes the ordinary way, through aiohttp. The first bytes always do: they are
looked at before anything is written.

A connection that was taken over moves in steps. Each runs in a thread of the lane for at most `STEP_BYTES` or `STEP_S`;
between them the event loop counts, checkpoints, lowers the end and cancels as it does for ordinary bodies, so that nothing
is written once a step has been waited for. Plain HTTP is spliced through a pipe where the system can, else received into a
buffer. With TLS the thread decrypts too; that is off unless asked for, since it has shown no sure gain: every record of 16 KiB
needs the interpreter's lock. The stall watchdog is `Stream.silence_s`: aiohttp's own time-out no longer applies.

The public interfaces that it stands on, each seen by tests/test_lane.py:

- aiohttp: `ClientResponse.connection`, `.content`, `.headers`, `.method` and `.close`; `Connection.transport`;
  `StreamReader.read_nowait`, `.exception`, `.is_eof` and `.total_bytes`. What is buffered is all that aiohttp holds of a body
  without coding: it delivers every such byte to the reader before it stops.
- asyncio: `SelectorEventLoop`; `transport.pause_reading`, `.resume_reading`, `.is_reading`, `.is_closing`, `.get_write_buffer_size`, `.abort`,
  and `.get_extra_info` for `socket` and `ssl_object`; with TLS `.set_read_buffer_limits`, which stops the loop from reading
  the socket once whoever reads the transport has paused.
- ssl: `SSLContext.wrap_bio` (asyncio calls it with the memory BIOs of each connection), `.sslobject_class`, `SSLObject.read`
  and `MemoryBIO`. Should asyncio change here, decryption fails: TLS never gives wrong bytes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, Self

from bulkdl.errors import BulkdlError, UsageError
from bulkdl.units import parse_size

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import aiohttp

    from bulkdl.store.pen import Pen

__all__ = ["Lane", "Step", "Stream", "TlsContext", "asks_for_tls", "lane_of", "take_over"]

LEAST: Final = 32 * 1024 * 1024
"""What must still be missing for a connection to be taken over: it is lost afterwards, and a new one starts slowly."""
FIRST: Final = 64 * 1024
"""Bytes that come the ordinary way."""
THREADS: Final = 128
"""One for each connection that a host may have (`growth.py`); most of them wait for the network."""
STEP_BYTES: Final = 16 * 1024 * 1024
STEP_S: Final = 0.1
_TELLING: Final = 1024
"""Bytes that show what a body is."""
DECRYPTING: Final = max(2, min(4, os.cpu_count() or 2))
"""Threads that decrypt at once: more would only hand the interpreter's lock to and fro, record by record."""
_BLOCK: Final = 1024 * 1024
_TLS_BLOCK: Final = 256 * 1024
_TLS_RAW: Final = 256 * 1024
_RECORD: Final = 17 * 1024
"""No record of TLS is larger (RFC 8446 §5.2), so that no more of one can be here without being readable yet."""
_SPLICES: Final = hasattr(os, "splice") and fcntl is not None
_SET_PIPE_SIZE: Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_WAKE: Final = 256 * 1024
"""A thread is woken for no less, unless it is the rest of the body or a step is over."""


def asks_for_tls(value: str | None) -> bool:
    """Whether `BULKDL_FAST_LANE` wants connections with TLS taken over too; else they have the usual context."""
    return "tls" in (value or "").split("+")


def lane_of(value: str | None, *, limited: bool) -> Lane | None:
    """The lane that `BULKDL_FAST_LANE` asks for: `0` for none, a size such as `64K` for the least body, else the usual one.

    With `tls` or `64K+tls` it takes connections with TLS too.

    None where the rate is `limited` too. Raise `UsageError` for what is no size.
    """
    if limited or value == "0":
        return None
    words = [word for word in (value or "").split("+") if word not in ("", "1")]
    sizes = [word for word in words if word != "tls"]
    try:
        return Lane(least=parse_size("+".join(sizes)) if sizes else LEAST, tls=asks_for_tls(value))
    except ValueError as error:
        raise UsageError(f"BULKDL_FAST_LANE: {error}", hint="Use 0 to turn the fast lane off, or remove it") from None


class Lane:
    """The lane of one run: its threads, and what is worth a place in it. To be used in `with`."""

    def __init__(self, *, least: int = LEAST, first: int = FIRST, threads: int = THREADS, tls: bool = False) -> None:
        """`least`: bytes that a body must still have, `first` of them not counted; `threads`: places, one a connection."""
        self.first = max(_TELLING, min(first, least))
        self.least = least
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="bulkdl-lane")
        self._free = threads
        self.gate = threading.Semaphore(DECRYPTING) if tls else None
        """Holds back whoever would decrypt; None where connections with TLS are left to the ordinary way."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.shutdown(wait=True)

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Yields whether there is a place; it is held until the end."""
        granted = self._free > 0
        self._free -= granted
        try:
            yield granted
        finally:
            self._free += granted


@dataclass(frozen=True, slots=True)
class Step:
    """What one step has done: `count` bytes received and written, after seconds of waiting for the network."""

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

    def step(self, pen: Pen, at: int, end: int, clock: Callable[[], float]) -> Step:
        """In a thread: receive what belongs to `at` and after, up to `end`, and write it; `clock` measures the waiting."""

    def close(self) -> None:
        """On the loop, when no step runs: give up the connection."""


# --- Taking over ------------------------------------------------------------------------------------------------------


class TlsContext(ssl.SSLContext):
    """A client's context with the defaults of `ssl.create_default_context`, whose connections can be taken over."""

    @classmethod
    def create(cls) -> Self:
        usual = ssl.create_default_context()
        own = cls(ssl.PROTOCOL_TLS_CLIENT)
        own.sslobject_class = _TlsObject
        own.options, own.verify_flags = usual.options, usual.verify_flags
        own.verify_mode, own.check_hostname = usual.verify_mode, usual.check_hostname
        own.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if usual.keylog_filename:
            own.keylog_filename = usual.keylog_filename
        return own

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - as asyncio calls it
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        if isinstance(made, _TlsObject):
            made.incoming, made.outgoing = incoming, outgoing
        return made


class _TlsObject(ssl.SSLObject):
    """Remembers what it reads from and writes to."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


@dataclass(frozen=True, slots=True)
class _Held:
    """What is needed of a connection, once all of it is there."""

    response: aiohttp.ClientResponse
    transport: asyncio.Transport
    fd: int
    tls: _TlsObject | None


async def take_over(
    response: aiohttp.ClientResponse, *, given: int, gate: threading.Semaphore | None
) -> Stream | bytes:
    """The connection of `response`, of whose body `given` bytes have been read; or what aiohttp held, where it declines.

    After bytes (which may be none) the body is read on in the ordinary way; after a stream the response is only closed.
    """
    held, length = _held(response), _length(response)
    if held is None or length is None or (held.tls is not None and gate is None):
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
    if held.tls is None or gate is None:
        return _Plain(response, _own_socket(held.fd), ahead, left)
    held.transport.set_read_buffer_limits(high=0)  # type: ignore[attr-defined]  # of every TLS transport; looked for before
    return _Tls(held, held.tls, ahead=ahead, left=left, gate=gate)


def _held(response: aiohttp.ClientResponse) -> _Held | None:
    connection = response.connection
    transport = connection.transport if connection is not None else None
    known_loop = os.name == "posix" and isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
    if transport is None or transport.is_closing() or not known_loop or response.method != "GET":
        return None
    sock, tls = transport.get_extra_info("socket"), transport.get_extra_info("ssl_object")
    if sock is None or transport.get_write_buffer_size():
        return None
    if tls is not None and not (isinstance(tls, _TlsObject) and hasattr(transport, "set_read_buffer_limits")):
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


def _own_socket(fd: int) -> socket.socket:
    """The same connection under a number of our own, so that neither side closes what the other still uses."""
    return socket.socket(fileno=os.dup(fd))


# --- Receiving --------------------------------------------------------------------------------------------------------


class _Receiver:
    """What all streams have: the socket, the waiting for it, and how a step ends."""

    def __init__(self, sock: socket.socket, ahead: bytes, left: int) -> None:
        self.ahead = ahead
        self.left = left
        self.silence_s = 0.0
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._clock: Callable[[], float] = time.monotonic
        self._waited = 0.0
        self._until = 0.0
        self._wake = 1

    def _begin(self, clock: Callable[[], float]) -> None:
        self._clock, self._waited = clock, 0.0
        self._until = time.monotonic() + STEP_S

    def _wait(self, wanted: int) -> bool:
        """Wait for `wanted` bytes, or for the end of the step; False when nothing has come by then."""
        self._wake_for(wanted)
        began, now = self._clock(), time.monotonic()
        ready = self._poll.poll(max(0.0, self._until - now) * 1000)
        self._waited += max(0.0, self._clock() - began)
        self.silence_s += time.monotonic() - now
        return bool(ready)

    def _wake_for(self, wanted: int) -> None:
        wake = max(1, min(_WAKE, wanted))
        if wake != self._wake:
            with suppress(OSError):  # a hint only
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wake)
            self._wake = wake

    @property
    def _over(self) -> bool:
        return time.monotonic() >= self._until


class _Plain(_Receiver):
    """Plain HTTP: the bytes are the file's."""

    def __init__(self, response: aiohttp.ClientResponse, sock: socket.socket, ahead: bytes, left: int) -> None:
        super().__init__(sock, ahead, left)
        self._response = response
        self._pipe = _Pipe.open()
        self._block: memoryview | None = None

    def step(self, pen: Pen, at: int, end: int, clock: Callable[[], float]) -> Step:
        self._begin(clock)
        start, end = at, min(end, at + STEP_BYTES)
        try:
            while at < end and not (at > start and self._over):
                self._wait(end - at)
                count = self._receive(pen, at, end - at)
                if count == 0:
                    return Step(at - start, self._waited, ended=True)
                if count is None and self._over:
                    break
                if count:
                    at, self.silence_s = at + count, 0.0
        except (OSError, BulkdlError) as error:
            return Step(at - start, self._waited, error=error)
        return Step(at - start, self._waited)

    def _receive(self, pen: Pen, at: int, most: int) -> int | None:
        """Move up to `most` bytes that are here to the file; None for none, 0 at the end of the connection."""
        try:
            if self._pipe is not None:
                try:
                    count = self._pipe.fill(self._sock, most)
                except OSError as error:
                    if not _cannot_splice(error):
                        raise
                    self._pipe.close()
                    self._pipe = None
                    return None
                if count:
                    pen.move(self._pipe.out, at, count)
                return count
            if self._block is None:
                self._block = memoryview(bytearray(_BLOCK))
            count = self._sock.recv_into(self._block, min(most, _BLOCK))
        except BlockingIOError:
            return None
        pen.write(at, self._block[:count])
        return count

    def close(self) -> None:
        self._poll.unregister(self._sock)
        self._sock.close()
        if self._pipe is not None:
            self._pipe.close()
        self._response.close()


class _Pipe:
    """A pipe of the system, through which bytes go from a socket to a file without being copied to this process."""

    def __init__(self) -> None:
        self.out, self._into = os.pipe()
        with suppress(OSError):  # a small one serves as well, with more system calls
            fcntl.fcntl(self._into, _SET_PIPE_SIZE, _BLOCK)

    @classmethod
    def open(cls) -> _Pipe | None:
        """None where there is none to be had."""
        with suppress(OSError):
            return cls() if _SPLICES else None
        return None

    def fill(self, sock: socket.socket, most: int) -> int:
        """What is here, up to `most` bytes and what the pipe holds; 0 at the end of the connection."""
        return os.splice(sock.fileno(), self._into, min(most, _BLOCK), flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)

    def close(self) -> None:
        os.close(self.out)
        os.close(self._into)


class _Tls(_Receiver):
    """TLS: what comes off the socket is decrypted with the connection's own state."""

    def __init__(self, held: _Held, tls: _TlsObject, *, ahead: bytes, left: int, gate: threading.Semaphore) -> None:
        super().__init__(_own_socket(held.fd), ahead, left)
        self._response = held.response
        self._transport = held.transport
        self._tls = tls
        self._gate = gate
        self._count = 0
        self._raw = memoryview(bytearray(_TLS_RAW))
        self._block = memoryview(bytearray(_TLS_BLOCK))

    def step(self, pen: Pen, at: int, end: int, clock: Callable[[], float]) -> Step:
        self._begin(clock)
        start, end = at, min(end, at + STEP_BYTES)
        try:
            while at < end:
                count, ended, error = self._fill(end - at)
                pen.write(at, self._block[:count])
                at += count
                if ended or error is not None:
                    return Step(at - start, self._waited, ended=ended, error=error)
                if self._over:
                    break
        except BulkdlError as error:
            return Step(at - start, self._waited, error=error)
        return Step(at - start, self._waited)

    def _fill(self, most: int) -> tuple[int, bool, OSError | None]:
        """Decrypt into the block until it is full, `most` bytes are there, or the step is over or broken.

        How many bytes are in it, whether the server has ended the connection, and what broke it.
        """
        most, count = min(most, _TLS_BLOCK), 0
        try:
            while count < most:
                with self._gate:
                    count = self._decrypt(count, most)
                if count < most and not self._feed(most - count) and self._over:
                    break
        except ssl.SSLEOFError:
            return self._count, True, None
        except OSError as error:
            return self._count, False, error
        return count, False, None

    def _decrypt(self, count: int, most: int) -> int:
        """Add to the `count` bytes in the block what is here, up to `most` in all; how many there are then.

        Raise `ssl.SSLEOFError` at the end of the connection.
        """
        self._count = count
        with suppress(ssl.SSLWantReadError):
            while self._count < most:
                piece = self._tls.read(most - self._count, self._block[self._count :])
                if not piece:
                    raise ssl.SSLEOFError
                self._count, self.silence_s = self._count + int(piece), 0.0
        return self._count

    def _feed(self, wanted: int) -> bool:
        """Bring more of what is encrypted; False when nothing has come."""
        if answer := self._tls.outgoing.read():  # to a change of keys
            self._sock.sendall(answer)
        self._wait(wanted - _RECORD)
        try:
            count = self._sock.recv_into(self._raw)
        except BlockingIOError:
            return False
        if count:
            self._tls.incoming.write(self._raw[:count])
        else:
            self._tls.incoming.write_eof()
        return True

    def close(self) -> None:
        self._poll.unregister(self._sock)
        self._sock.close()
        self._transport.abort()
        self._response.close()


def _cannot_splice(error: OSError) -> bool:
    return error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
