"""The protocol of every connection to an archive or a login: it reads each head's framing before aiohttp's parser does.

`protocol/framing` decides where the body ends. This module gives the parser a head that says so plainly, and nothing behind
the end of the body. aiohttp cannot be told to accept more: llhttp's lenient flags are fixed in its source, it allows 128
header fields, and it discards a response that has arrived if one byte follows it.

This module relies on these interfaces of aiohttp; tests/http/test_framed_protocol.py checks them: `ResponseHandler` with
`data_received`, `set_response_params` and its `max_headers`, `set_exception`, `force_close`, `read_timeout` and
`start_timeout`, `_parser` (None before a request), and `BaseConnector._factory`, which makes the protocols.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

from bulkdl.protocol.framing import FramingError, could_be_head, head_end, read_framing

if TYPE_CHECKING:
    import ssl

__all__ = ["BrokenChunksError", "FramedProtocol", "UnusableHeadError", "framed", "new_connector"]

_TOO_MANY = (429, 503)
"""Statuses after which the connection is closed, so that the next request goes over one whose requests were served: some
servers limit connections, and count those that have just been used."""
_MAX_HEAD: Final = 300 * 1024
"""Longest head (bytes), as in curl."""
_MAX_FIELDS: Final = 5000
"""Most header fields of a response, as in curl."""
_TO_PARSER: Final = -1
"""State in which the parser finds the end of the body: chunks, or the end of the connection."""
_BLANK: Final = b"\r\n"
_HAS_MAX_HEADERS: Final = "max_headers" in ResponseHandler.set_response_params.__code__.co_varnames


class UnusableHeadError(aiohttp.ClientError):
    """The framing of a response has no certain meaning; `reason` completes "the server sent …"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BrokenChunksError(aiohttp.ClientPayloadError):
    """The chunks of a body are not valid HTTP."""


class FramedProtocol(ResponseHandler):
    """aiohttp's protocol behind our reading of the framing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._left = 0
        """Bytes of the body that are still to come, 0 if a head must come next, or `_TO_PARSER`."""
        self._incomplete = b""
        """The beginning of a head."""
        self._is_answered = False
        """A final response (RFC 9110 §15) has come since `set_response_params`."""
        self._skips_body = False

    def set_response_params(self, **parameters: Any) -> None:
        # A read timer of an earlier use of this connection must not end the next one: stop it. Without this, aiohttp leaves
        # it running if the body had arrived before the timer was started.
        self.read_timeout = None
        self.start_timeout()
        if _HAS_MAX_HEADERS:
            parameters["max_headers"] = _MAX_FIELDS
        self._left, self._incomplete, self._is_answered = 0, b"", False
        self._skips_body = bool(parameters.get("skip_payload"))
        super().set_response_params(**parameters)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        super().set_exception(exc, *cause)
        # aiohttp keeps the parser's error from the reader of a body, who would then wait for ever.
        if isinstance(exc, HttpProcessingError) and self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(BrokenChunksError())

    def data_received(self, data: bytes) -> None:
        if self._left == _TO_PARSER or self._parser is None or not data:
            super().data_received(data)
        elif len(data) <= self._left:
            self._left -= len(data)
            super().data_received(data)
        else:
            self._receive(self._incomplete + data)

    def _receive(self, data: bytes) -> None:
        """Pass on bodies and heads, each head as `read_framing` writes it; `data` goes on uncopied if all of it may."""
        self._incomplete = b""
        pieces, kept, at = [], 0, 0  # `pieces` replace `data[:kept]`
        try:
            while at < len(data) and self._left != _TO_PARSER:
                if self._left:
                    step = min(self._left, len(data) - at)
                    at, self._left = at + step, self._left - step
                    continue
                if self._is_answered and data[at] in _BLANK:  # llhttp skips blank lines before a head, too
                    pieces.append(data[kept:at])
                    kept = at = at + 1
                    continue
                end = self._head_end(data, at)
                if not end:
                    break
                head = data[at:end]
                if (plain := self._read_head(head)) is not head:
                    pieces += [data[kept:at], plain]
                    kept = end
                at = end
        except FramingError as error:
            self._pass_on(pieces, data[kept:at])
            self._refuse(error.reason)
            return
        if at == len(data) and not pieces:
            super().data_received(data)
            return
        # The parser gets the rest separately: if that is broken, the parser would drop the response before it as well.
        self._pass_on(pieces, data[kept:at])
        self._take_rest(data[at:])

    def _head_end(self, data: bytes, at: int) -> int:
        """Return the end of the head that begins `at`; 0 if it is incomplete, or if there is no head."""
        if not could_be_head(data[at : at + 5]):
            return 0
        end = head_end(data, at)
        if (end or len(data)) - at > _MAX_HEAD:
            raise FramingError("a head of more than 300 KiB")
        return end

    def _read_head(self, head: bytes) -> bytes:
        """Return the head for the parser, and set the state for what follows it."""
        framing = read_framing(head)
        is_interim = 100 <= framing.status <= 199 and framing.status != 101
        if framing.length is None or framing.status == 101:
            self._left = _TO_PARSER
        else:
            self._left = framing.length
        if self._skips_body and framing.status and not is_interim:
            self._left = 0
        self._is_answered = not is_interim
        if not framing.reusable or framing.status in _TOO_MANY:
            self.force_close()
        return framing.head

    def _pass_on(self, pieces: list[bytes], rest: bytes) -> None:
        if data := b"".join((*pieces, rest)):
            super().data_received(data)

    def _take_rest(self, rest: bytes) -> None:
        """Take what follows the last complete head and its body."""
        if not rest:
            return
        if self._left == 0 and could_be_head(rest[:5]):
            self._incomplete = rest
        elif self._left == 0 and self._is_answered:
            # No request asked for these bytes: drop them, and do not use the connection again. aiohttp's pool does not look
            # at `should_close` of a connection that it has already, so close the transport once the body is read.
            self.force_close()
            if self._payload is None:
                self._close_transport()
            else:
                self._payload.on_eof(self._close_transport)
        else:
            super().data_received(rest)

    def _close_transport(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def _refuse(self, reason: str) -> None:
        self._close_transport()
        self.set_exception(UnusableHeadError(reason))


def new_connector(tls: ssl.SSLContext) -> aiohttp.TCPConnector:
    """Return a pool of connections whose responses are read with `FramedProtocol`."""
    return framed(aiohttp.TCPConnector(limit=0, ssl=tls, ttl_dns_cache=60))


def framed(connector: aiohttp.TCPConnector) -> aiohttp.TCPConnector:
    """Return `connector`, whose connections use `FramedProtocol` from now on."""
    connector._factory = partial(FramedProtocol, asyncio.get_running_loop())  # type: ignore[assignment]  # noqa: SLF001
    return connector
