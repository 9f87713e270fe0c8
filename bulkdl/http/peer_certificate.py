"""The certificate of a server that failed verification, for the message about it."""

from __future__ import annotations

import asyncio
import ssl

from bulkdl.protocol.certificate import Certificate, read_certificate

__all__ = ["peer_certificate"]

_TIMEOUT_S = 5.0


async def peer_certificate(host: str, port: int) -> Certificate | None:
    """Return the server's certificate, by a second handshake after which nothing is sent; None if that fails.

    `ssl` forgets a certificate that it could not verify.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except OSError:  # also ssl.SSLError and TimeoutError
        return None
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return None if der is None else read_certificate(der)
    finally:
        writer.transport.abort()
