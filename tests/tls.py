"""The misbehaving server with TLS, and a certificate for it."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING, Self

import pytest

from tests.servers import RawServer, Responder

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TlsServer", "make_certificate", "server_context"]


def make_certificate(folder: Path) -> Path:
    """Create a certificate for 127.0.0.1 with its key in one PEM file; skip the test if `openssl` is missing."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    file = folder / "both.pem"
    request = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*request.split(), "-keyout", str(file), "-out", f"{file}.crt"], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + file.with_name("both.pem.crt").read_bytes())
    return file


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


class TlsServer(RawServer):
    """The misbehaving server with TLS."""

    def __init__(self, certificate: Path, *responders: Responder) -> None:
        super().__init__(*responders)
        self._tls = server_context(certificate)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        return self

    def url(self, path: str = "/product.bin", *, host: str = "127.0.0.1") -> str:
        return f"https://{host}:{self.port}{path}"
