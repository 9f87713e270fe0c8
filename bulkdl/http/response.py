"""A response: its head, and its body as a stream."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import field, replace
from typing import TYPE_CHECKING

import aiohttp

from bulkdl.core.errors import BulkdlError, TryAgain
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.http.aiohttp_compat import next_chunk, take_buffered
from bulkdl.http.errors import map_exceptions, network_error
from bulkdl.http.fast_lane.takeover import take_over
from bulkdl.protocol.content_coding import Decoder
from bulkdl.protocol.response_head import Head, uncoded

if TYPE_CHECKING:
    from bulkdl.core.urls import Url
    from bulkdl.http.fast_lane.streams import Stream
    from bulkdl.protocol.provider_errors import ErrorInterpretation


__all__ = ["Response"]


@dataclass(frozen=True, slots=True)
class Response:
    """A response whose head has arrived; `url` is the URL after all redirects, without the credential."""

    url: Url
    head: Head
    challenge: str
    signed: bool
    """A credential went out with the last hop."""
    _response: aiohttp.ClientResponse | None
    """None: `_peeked` holds the whole body."""
    interpretation: ErrorInterpretation | None = None
    """Meaning of an error by the provider's rules; None: no rule fits, so the status decides."""
    error_text: str = ""
    """The message in the body of an error, masked; "" if there is none."""
    request_id: str = ""
    """The id that the server gave a request that failed, as `name=value`."""
    _peeked: list[bytes] = field(default_factory=list)
    """Bytes that were read already and that `read` returns again."""
    decoder: Decoder | None = None
    """Removes a content coding that the client did not ask for; None: the body has no coding."""
    direct: bool = False
    """There is no proxy between client and server."""
    proxy: str = ""
    """Host and port of the proxy that forwarded the response, and may have made it itself."""
    signed_in_at: str = ""
    """Host of an earlier hop, or of an earlier request's to this origin, that took the credential and redirected further."""

    def decoded(self, coding: str) -> Response:
        """Return this response with `coding` removed from its body. Call this before the body is read; it may be peeked."""
        decoder = Decoder(coding)
        while self._peeked:
            decoder.feed(self._peeked.pop())
        return replace(self, head=uncoded(self.head), decoder=decoder)

    async def read(self, most: int | None = None) -> bytes:
        """Return the next bytes of the body, b"" at its end.

        `most`: limit of bytes; of a body with a coding it limits the coded bytes that are read at once. Raise `TryAgain` if connection, framing or coding break.
        """
        if self._peeked:
            piece = self._peeked.pop()
            if most is not None and len(piece) > most:
                self._peeked.append(piece[most:])
                piece = piece[:most]
            return piece
        if self.decoder is None:
            return await self._read_undecoded(most)
        while not (piece := self.decoder.step()):
            if not (coded := await self._read_undecoded(most)):
                self.decoder.finish()
                break
            self.decoder.feed(coded)
        return piece

    async def _read_undecoded(self, most: int | None) -> bytes:
        if self._response is None:
            return b""
        with map_exceptions(self.url):
            try:
                return await next_chunk(self._response, most)
            except (aiohttp.ClientError, OSError):
                if rest := take_buffered(self._response.content):
                    return rest
                raise

    async def peek(self) -> bytes:
        """Return the first bytes of the body, b"" if it is empty; `read` returns them again."""
        first = await self.read()
        if first:
            self._peeked.append(first)
        return first

    async def peek_up_to(self, most: int) -> tuple[bytes, bool]:
        """Return about `most` first bytes of the body, and whether these are all; `read` returns them again."""
        pieces, count, ended = [], 0, False
        while count < most and not ended:
            pieces.append(piece := await self.read())
            count, ended = count + len(piece), not piece
        if body := b"".join(pieces):
            self._peeked.append(body)
        return body, ended

    async def whole(self, length: int, *, within_s: float) -> bytes | None:
        """Return the body if all of its `length` bytes arrive within `within_s` seconds.

        Else return None; `read` then returns the bytes that arrived, and goes on from there.
        """
        pieces = [self._peeked.pop()] if self._peeked else []
        left = length - sum(map(len, pieces))
        try:
            # A body that has arrived already needs no timer.
            if left > 0:
                async with nullcontext() if self._has_arrived else asyncio.timeout(within_s):
                    while left > 0 and (piece := await self.read()):
                        pieces.append(piece)
                        left -= len(piece)
        except (TimeoutError, TryAgain):
            pass  # the next read raises it again
        body = b"".join(pieces)
        if left == 0:
            return body
        if body:
            self._peeked.append(body)
        return None

    async def hand_over(self, *, given: int) -> Stream | None:
        """Detach the connection, for the fast lane to receive the rest of the body; None: use `read` as before.

        `given`: bytes of the body that `read` has returned so far.
        """
        if self._response is None or self._peeked or self.decoder is not None or not self.direct:
            return None
        with map_exceptions(self.url):
            taken = await take_over(self._response, given=given)
        if isinstance(taken, bytes):
            self._peeked.extend([taken] if taken else ())
            return None
        return taken

    def broken(self, error: Exception | None) -> Exception:
        """Return bulkdl's error for the one that ended a body in the fast lane; None: the server closed early."""
        if isinstance(error, BulkdlError):
            return error
        return network_error(error or aiohttp.ClientPayloadError(), self.url)

    @property
    def _has_arrived(self) -> bool:
        return self._response is None or self._response.content.is_eof()

    def close(self) -> None:
        """Abandon the rest of the body, and close the connection."""
        if self._response is not None:
            self._response.close()
