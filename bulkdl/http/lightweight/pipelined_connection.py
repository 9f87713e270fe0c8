"""One connection on which requests go out ahead of the answers to those before them (RFC 9112 §9.3.2).

Of the answers only plain ones are of use here, as in `brief`; the first that is not ends it, and what was asked behind that has
to be asked again. It stands on the interfaces of aiohttp that `brief` names, and on its parser taking one response
after the other; tests/http/lightweight/test_pipelined_connection.py sees them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.http import HttpProcessingError

from bulkdl.http.lightweight.keepalive_pool import prepared, small_response, small_response_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.client_proto import ResponseHandler

    from bulkdl.http.lightweight.keepalive_pool import KeepAlivePool, PooledConnection, SmallResponse

__all__ = ["PipelinedConnection"]

_TRIAL_S: Final = 5.0
"""Seconds that an answer takes at most while the order of answers is on trial: some servers forget what was asked ahead."""


class PipelinedConnection:
    """Gives the answers in the order of the requests. `close` it, whatever has happened."""

    def __init__(self, lines: KeepAlivePool) -> None:
        self._lines = lines
        self._line: PooledConnection | None = None
        self._protocol: ResponseHandler | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        self.under_way = 0
        """Requests without an answer."""
        self.was_cut = False
        """Whether it was over because its connection was."""

    async def ask(self, heads: Sequence[bytes]) -> None:
        """Send requests whose heads are all of them, unless it is over. Raises what aiohttp raises."""
        if self._protocol is None or self._transport is None:
            self._line = await self._lines.take()
            self._protocol, self._transport = prepared(self._line.connection)
        self.was_cut = self.was_cut or self._transport.is_closing()
        # An answer that nobody has asked for would pass for the next one.
        self._is_over = self._is_over or self.was_cut or self.arrived > self.under_way
        if self._is_over:
            return
        if self._line is not None and not self.under_way:
            self._line.since = self._loop.time()
        self.under_way += len(heads)
        self._transport.write(b"".join(heads))

    async def answers(self) -> list[SmallResponse]:
        """The answers that are here, of those under way; where none is, the next one.

        None at all where that is no plain one, or will not come: then what is under way has to be asked anew.
        """
        found: list[SmallResponse] = []
        protocol, line = self._protocol, self._line
        if protocol is None or line is None or self._is_over:
            return found
        try:
            while not found or (self.under_way and len(protocol)):
                message, payload = await protocol.read()
                # Most are here whole, and that is seen without another turn.
                brief = (
                    small_response_now(message, payload) if payload.is_eof() else await small_response(message, payload)
                )
                # Of more answers than were asked for nobody can tell which one is too many.
                if brief is None or len(protocol) >= self.under_way or not self._trusts(brief):
                    self._is_over = True
                    break
                found.append(brief)
                self.under_way -= 1
        except (aiohttp.ClientError, OSError, HttpProcessingError) as error:
            # Whoever asks anew meets it, and says what it is.
            self._is_over = True
            self.was_cut = isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
        line.since = self._loop.time()
        return found

    def _trusts(self, brief: SmallResponse) -> bool:
        return self._lines.lead.trusts(brief.headers.get("Server", ""))

    @property
    def arrived(self) -> int:
        """Answers whose heads are here."""
        return 0 if self._protocol is None else len(self._protocol)

    def close(self) -> None:
        """Keep the connection for others where every answer has come; else it is of no use."""
        if self._line is None:
            return
        if self.under_way or self._is_over:
            self._lines.drop(self._line)
        else:
            self._lines.keep(self._line)
        self._line = None

    async def on_trial(self, first: bytes, second: bytes) -> tuple[bool | None, list[SmallResponse]]:
        """Ask for both at once, then for each alone: whether the answers come in order, and those that came alone.

        None in the place of the former: nobody can tell, since the two are alike or one did not come. Where the two ways
        disagree, neither is believed: what came alone on this connection may be a late answer to what was asked ahead.
        """
        ahead = await self._asked((first, second), ())
        alone = await self._asked((second,), await self._asked((first,), ())) if len(ahead) == 2 else []
        if len(alone) < 2:
            return None, []
        told, expected = [_told(brief) for brief in ahead], [_told(brief) for brief in alone]
        if told != expected:
            self._is_over = True
            return False, []
        return (None if told[0] == told[1] else True), alone

    async def _asked(self, heads: Sequence[bytes], before: Sequence[SmallResponse]) -> list[SmallResponse]:
        """The answers to `heads` behind those that came `before`, as far as they come soon."""
        found = list(before)
        if self._is_over:
            return found
        await self.ask(heads)
        assert self._line is not None
        self._line.silence_s = min(_TRIAL_S, self._line.silence_s or _TRIAL_S)
        while self.under_way and (more := await self.answers()):
            found += more
        return found


def _told(brief: SmallResponse) -> tuple[bytes, str]:
    """What tells one representation from another."""
    return brief.body, brief.headers.get("ETag", "")
