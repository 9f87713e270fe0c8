"""One response: its head, and its body as a stream."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import field, replace
from typing import TYPE_CHECKING

import aiohttp

from bulkdl.core.errors import BulkdlError, TryAgain
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.http.aiohttp_compat import arrived, next_chunk
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
    """A response whose head has arrived; `url` is the last hop, without credential."""

    url: Url
    head: Head
    challenge: str
    signed: bool
    """Whether a credential went with the last hop."""
    _response: aiohttp.ClientResponse | None
    """None: all of the body is among `_peeked`."""
    ruling: ErrorInterpretation | None = None
    """What an error means in the dialect of the account's provider; None where only the status tells."""
    _peeked: list[bytes] = field(default_factory=list)
    decoder: Decoder | None = None
    """Takes off a coding that was not asked for; None where the bytes are the product's."""
    direct: bool = False
    """No proxy is between."""

    def decoded(self, coding: str) -> Response:
        """This response as one whose body comes without `coding`. To be called before the body is read."""
        return replace(self, head=uncoded(self.head), decoder=Decoder(coding))

    async def read(self) -> bytes:
        """The next bytes of the body, b"" at its end; raise `TryAgain` when connection, framing or coding break."""
        if self._peeked:
            return self._peeked.pop()
        if self.decoder is None:
            return await self._arrival()
        while not (piece := self.decoder.step()):
            if not (coded := await self._arrival()):
                self.decoder.finish()
                break
            self.decoder.feed(coded)
        return piece

    async def _arrival(self) -> bytes:
        if self._response is None:
            return b""
        with map_exceptions(self.url):
            try:
                return await next_chunk(self._response)
            except (aiohttp.ClientError, OSError):
                if rest := arrived(self._response.content):
                    return rest
                raise

    async def peek(self) -> bytes:
        """The first bytes of the body, b"" where it has none; `read` gives them again."""
        first = await self.read()
        if first:
            self._peeked.append(first)
        return first

    async def whole(self, length: int, *, within_s: float) -> bytes | None:
        """The body, when all of its `length` bytes come within so many seconds; else None, and `read` gives what has come."""
        pieces = [self._peeked.pop()] if self._peeked else []
        left = length - sum(map(len, pieces))
        try:
            # What is here already needs no timer.
            if left > 0:
                async with nullcontext() if self._is_here else asyncio.timeout(within_s):
                    while left > 0 and (piece := await self.read()):
                        pieces.append(piece)
                        left -= len(piece)
        except (TimeoutError, TryAgain):
            pass  # whoever reads on meets it again
        body = b"".join(pieces)
        if left == 0:
            return body
        if body:
            self._peeked.append(body)
        return None

    async def hand_over(self, *, given: int) -> Stream | None:
        """The connection, from which the fast lane receives the rest of the body; None where `read` goes on giving it.

        `given`: bytes of the body that `read` has given so far.
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
        """Ours for what ended the body in the fast lane; None: the server closed the connection early."""
        if isinstance(error, BulkdlError):
            return error
        return network_error(error or aiohttp.ClientPayloadError(), self.url)

    @property
    def _is_here(self) -> bool:
        """Whether nothing of the body has to be waited for."""
        return self._response is None or self._response.content.is_eof()

    def close(self) -> None:
        """Give up the rest of the body, and the connection with it."""
        if self._response is not None:
            self._response.close()
