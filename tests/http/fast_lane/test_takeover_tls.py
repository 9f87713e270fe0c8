"""HTTPS in the fast lane: a download gives the bytes that the server sent, or an error, and never anything else."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Self

import aiohttp
import pytest

from bulkdl.core.events import Retrying
from bulkdl.core.models import Settings
from bulkdl.http.fast_lane.streams import Chunk, TlsContext, TlsStream, WorkerBuffers
from bulkdl.http.fast_lane.takeover import FastLane, may_apply, take_over
from bulkdl.http.tls import trusted_context
from bulkdl.storage.offset_writer import OffsetWriter
from tests.harness import Place, body_of
from tests.servers import ranges, stall
from tests.tls import TlsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from bulkdl.http.fast_lane.streams import Stream

SIZE = 3_000_000
BODY = body_of(SIZE)


@asynccontextmanager
async def taken_over(url: str, certificate: Path) -> AsyncIterator[tuple[Stream, int]]:
    """Yield a connection after the takeover, and the offset in the body at which it continues."""
    context = TlsContext.create()
    context.load_verify_locations(certificate)
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
        first = await response.content.readany()
        stream = await take_over(response, given=len(first))
        assert isinstance(stream, TlsStream)
        yield stream, len(first) + len(stream.ahead)
        stream.close()


@contextmanager
def opened(path: Path) -> Iterator[OffsetWriter]:
    path.touch()
    with path.open("r+b") as file:
        yield OffsetWriter(file.fileno(), path, None)


class BitFlippingProxy:
    """Proxy that forwards everything, but flips one bit on the way to the first client."""

    def __init__(self, port: int, *, flipped: int) -> None:
        """`flipped`: offset of the changed byte in the server's stream."""
        self._port = port
        self._flipped: int | None = flipped
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/x"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        flipped, self._flipped = self._flipped, None
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(forward(reader, to_server, None), forward(from_server, writer, flipped))
        for end in (writer, to_server):
            end.close()
            with suppress(ConnectionError):
                await end.wait_closed()


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flipped: int | None) -> None:
    at = 0
    while data := bytearray(await reader.read(65536)):
        if flipped is not None and at <= flipped < at + len(data):
            data[flipped - at] ^= 1
        at += len(data)
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def test_a_flipped_bit_ends_the_step_before_a_wrong_byte_is_written(certificate: Path, tmp_path: Path):
    async with (
        TlsServer(certificate, ranges(BODY)) as server,
        BitFlippingProxy(server.port, flipped=2_500_000) as proxy,
        taken_over(proxy.url, certificate) as (stream, start),
    ):
        at, error = start, None
        with FastLane() as lane, opened(tmp_path / "x") as writer:
            while error is None:
                step = await lane.step(stream, writer, at=at, end=SIZE)
                at, error = at + step.count, step.error
        assert isinstance(error, ssl.SSLError)
        assert start < at < 2_500_000
        assert (tmp_path / "x").read_bytes()[start:] == BODY[start:at]


async def test_the_product_is_resumed_after_a_flipped_bit(certificate: Path, tmp_path: Path):
    place = Place(tmp_path, ca_file=certificate)
    place.environ["BULKDL_FAST_LANE"] = "4K"
    async with (
        TlsServer(certificate, ranges(BODY)) as server,
        BitFlippingProxy(server.port, flipped=2_500_000) as proxy,
    ):
        done = await place.run({"url": proxy.url, "file": "x.bin"}, segments=1)
    assert (done.code, place.file("x.bin")) == (0, BODY)
    assert "broke (SSLError)" in done.of(Retrying)[0].reason


async def test_decrypted_bytes_need_no_further_byte_from_the_socket(certificate: Path, tmp_path: Path):
    """Steps that end within a TLS record return bytes although the server is silent and the socket empty."""
    sent = 2_000_000
    async with (
        TlsServer(certificate, stall(SIZE, BODY[:sent])) as server,
        taken_over(server.url(), certificate) as (stream, start),
    ):
        at, counts, waits = start, set(), []
        with FastLane() as lane, opened(tmp_path / "x") as writer:
            while at + 5_000 <= sent:
                step = await lane.step(stream, writer, at=at, end=at + 5_000)
                at += step.count
                counts.add(step.count)
                waits.append(step.waited_s)
        assert counts - {0} == {5_000}
        assert waits.count(0) > len(waits) / 2
        assert (tmp_path / "x").read_bytes()[start:] == BODY[start:at]


@pytest.mark.parametrize(
    ("version", "command", "flights"),
    [("-tls1_3", b"K\n", 1), ("-tls1_2", b"r\n", 2)],
    ids=["a change of keys", "another handshake"],
)
async def test_a_key_change_or_new_handshake_within_a_body_is_answered(
    certificate: Path, tmp_path: Path, version: str, command: bytes, flights: int
):
    """RFC 8446 §4.6.3 and RFC 5246 §7.4.1.1. OpenSSL's own server starts it when it reads a letter.

    `flights`: number of messages that the server sends for it; it sends the second after the answer to the first.
    """
    half = bytes(1_000_000)
    async with openssl_server(certificate, version) as (url, say):
        say.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + half)
        async with taken_over(url, certificate) as (stream, start):
            with FastLane() as lane, closing(WorkerBuffers()) as buffers, opened(tmp_path / "x") as writer:
                await run_steps(lane, stream, writer, start, len(half))
                say.write(command)
                for _ in range(flights):
                    await wait_readable(stream)
                    assert stream.receive(buffers, writer, len(half), len(half)) == Chunk(0)
                say.write(half)
                await run_steps(lane, stream, writer, len(half), 2 * len(half))
            assert (tmp_path / "x").read_bytes() == bytes(2_000_000)


@asynccontextmanager
async def openssl_server(certificate: Path, version: str) -> AsyncIterator[tuple[str, asyncio.StreamWriter]]:
    """Yield the server's URL, and the writer of the bytes that it sends to its one client."""
    command = ("openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", version, "-cert", str(certificate))
    server = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert server.stdin is not None
    assert server.stdout is not None
    line = b""
    while not line.startswith(b"ACCEPT"):
        line = await server.stdout.readline()
    rest = asyncio.create_task(server.stdout.read())
    try:
        yield f"https://127.0.0.1:{int(line.rpartition(b':')[2])}/", server.stdin
    finally:
        server.stdin.close()
        with suppress(ProcessLookupError):
            server.kill()
        await server.wait()
        await rest


async def wait_readable(stream: Stream) -> None:
    """Return when new bytes have arrived on a connection; all earlier ones must have been read."""
    stream.wake_for(1)
    loop, come = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(stream.fileno(), come.set)
    try:
        async with asyncio.timeout(30):
            await come.wait()
    finally:
        loop.remove_reader(stream.fileno())


async def run_steps(lane: FastLane, stream: Stream, writer: OffsetWriter, at: int, end: int) -> None:
    position = at
    while position < end:
        step = await lane.step(stream, writer, at=position, end=end)
        assert (step.ended, step.error) == (False, None)
        assert stream.silence_s < 30
        position += step.count


@pytest.mark.parametrize(
    ("value", "limited", "applies"),
    [(None, False, True), ("", False, True), ("64K", False, True), ("0", False, False), (None, True, False)],
)
def test_the_lane_applies_unless_disabled_or_rate_limited(*, value: str | None, limited: bool, applies: bool):
    assert may_apply(value, limited=limited) == applies


@pytest.mark.parametrize("value", [None, "0"])
def test_the_default_context_is_used_if_the_lane_is_disabled(certificate: Path, value: str | None):
    environ = {"SSL_CERT_FILE": str(certificate)} | ({} if value is None else {"BULKDL_FAST_LANE": value})
    context = trusted_context(Settings(), environ)
    assert isinstance(context, TlsContext) == (value is None)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
