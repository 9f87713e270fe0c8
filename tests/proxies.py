"""Proxies on loopback: HTTP with CONNECT and a login, and SOCKS 4, 4a and 5. Every name leads to 127.0.0.1."""

from __future__ import annotations

import asyncio
import base64
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

__all__ = ["HttpProxy", "SocksProxy"]


class _Listener:
    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.log: list[str] = []
        """Requests of each connection."""
        self.first_bytes: list[bytes] = []
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, *, first: bytes = b"") -> None:
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    far_writer.write(first)
    await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))


class HttpProxy(_Listener):
    """Forwards requests in absolute form, and tunnels after CONNECT; `answer` replaces all of that by a response."""

    def __init__(
        self, *, login: str | None = None, answer: bytes | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(tls=tls)
        self._login = None if login is None else "Basic " + base64.b64encode(login.encode()).decode()
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = await reader.readuntil(b"\r\n\r\n")
        self.first_bytes.append(raw)
        line, _, rest = raw.decode("latin-1").partition("\r\n")
        method, target, _ = line.split(" ")
        self.log.append(f"{method} {target}")
        fields = dict(field.split(": ", 1) for field in rest.strip().split("\r\n"))
        if self._answer is not None:
            writer.write(self._answer)
            return
        if self._login is not None and fields.get("Proxy-Authorization") != self._login:
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n"
                b"Content-Length: 6\r\nConnection: close\r\n\r\nDenied"
            )
            return
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _join(reader, writer, int(target.rpartition(":")[2]))
            return
        url = urlsplit(target)
        kept = "".join(
            f"{name}: {value}\r\n"
            for name, value in fields.items()
            if name not in ("Proxy-Authorization", "Connection")
        )
        path = url.path + (f"?{url.query}" if url.query else "")
        head = f"{method} {path or '/'} HTTP/1.1\r\n{kept}Connection: close\r\n\r\n"
        await _join(reader, writer, url.port or 80, first=head.encode("latin-1"))


class SocksProxy(_Listener):
    """SOCKS 4, 4a (RFC draft) and 5 (RFC 1928, 1929); `login` is wanted of version 5 only."""

    def __init__(self, *, login: tuple[str, str] | None = None) -> None:
        super().__init__()
        self._login = login

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version = await reader.readexactly(1)
        self.first_bytes.append(version)
        if version == b"\x05":
            await self._five(reader, writer)
        elif version == b"\x04":
            await self._four(reader, writer)

    async def _four(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, port, address = struct.unpack("!BH4s", await reader.readexactly(7))
        await reader.readuntil(b"\0")
        host = ".".join(map(str, address))
        if address[:3] == b"\0\0\0":
            host = (await reader.readuntil(b"\0"))[:-1].decode()
        self.log.append(f"4 {host}:{port}")
        writer.write(b"\0\x5a" + bytes(6))
        await _join(reader, writer, port)

    async def _five(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        wanted = 2 if self._login is not None else 0
        if wanted not in methods:
            writer.write(b"\x05\xff")
            return
        writer.write(bytes([5, wanted]))
        if self._login is not None:
            await reader.readexactly(1)
            user = await reader.readexactly((await reader.readexactly(1))[0])
            password = await reader.readexactly((await reader.readexactly(1))[0])
            right = (user.decode(), password.decode()) == self._login
            writer.write(b"\x01\0" if right else b"\x01\x01")
            if not right:
                return
        kind = (await reader.readexactly(4))[3]
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = ".".join(map(str, await reader.readexactly(4 if kind == 1 else 16)))
        (port,) = struct.unpack("!H", await reader.readexactly(2))
        self.log.append(f"5 {host}:{port}")
        writer.write(b"\x05\0\0\x01" + bytes(6))
        await _join(reader, writer, port)
