"""A server that records the arrival of the first request, and answers every request with a small file."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Listener", "listening"]

_HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: application/octet-stream\r\nETag: "1"\r\nConnection: close\r\n\r\n'


class Listener:
    """Server that serves one connection at a time, with one answer each."""

    body = b"benchmarks"

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.first: float | None = None
        """Arrival of the first bytes (monotonic clock, s)."""
        self._listener = listener

    def serve(self) -> None:
        """Answer until the listener is shut down."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    connection.settimeout(10)
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        head = b""
        with contextlib.suppress(OSError):
            while not head.endswith(b"\r\n\r\n"):
                data = connection.recv(65536)
                if not data:
                    return
                if self.first is None:
                    self.first = time.monotonic()
                head += data
            body = b"" if head.startswith(b"HEAD ") else self.body
            connection.sendall(_HEAD % len(self.body) + body)


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """Run the server for as long as the block lasts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Listener(listener)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
