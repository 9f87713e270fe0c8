"""One connection on which requests go out before the earlier answers have arrived (pipelining, RFC 9112 §9.3.2).

Only plain small responses (`keepalive_pool`) count as answers. The first other response ends the pipelining on this
connection, and the caller requests everything unanswered again. This module relies on the interfaces of aiohttp that
`keepalive_pool` names, and on aiohttp's parser reading one response after the other;
tests/http/lightweight/test_pipelined_connection.py checks both.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.http import HttpProcessingError

from bulkdl.http.lightweight.keepalive_pool import prepare_connection, read_small_response, take_small_response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.client_proto import ResponseHandler

    from bulkdl.http.lightweight.keepalive_pool import KeepAlivePool, PooledConnection, SmallResponse

__all__ = ["PipelinedConnection"]

_TRIAL_TIMEOUT_S: Final = 5.0
"""Longest wait for an answer during the trial (s). It is short because some servers drop pipelined requests."""


class PipelinedConnection:
    """Sends requests and returns their answers in the same order. Always `close` it."""

    def __init__(self, pool: KeepAlivePool) -> None:
        self._pool = pool
        self._pooled: PooledConnection | None = None
        self._protocol: ResponseHandler | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        """No further request goes out, and no further answer is believed."""
        self.unanswered = 0
        """Requests without an answer."""
        self.was_cut = False
        """The connection ended; else an unusable answer or a timeout ended the pipelining."""

    async def send(self, heads: Sequence[bytes]) -> None:
        """Send requests that consist of `heads` only; do nothing if the pipelining is over.

        Raises what aiohttp raises.
        """
        if self._protocol is None or self._transport is None:
            self._pooled = await self._pool.acquire()
            self._protocol, self._transport = prepare_connection(self._pooled.connection)
        self.was_cut = self.was_cut or self._transport.is_closing()
        # An unrequested answer would pass for the answer to the next request.
        self._is_over = self._is_over or self.was_cut or self.arrived > self.unanswered
        if self._is_over:
            return
        if self._pooled is not None and not self.unanswered:
            self._pooled.last_activity = self._loop.time()
        self.unanswered += len(heads)
        self._transport.write(b"".join(heads))

    async def answers(self) -> list[SmallResponse]:
        """Return the answers that have arrived; if there is none yet, wait for the next one.

        An empty list: the next answer is not plain or will not arrive. Request everything unanswered again.
        """
        found: list[SmallResponse] = []
        protocol, pooled = self._protocol, self._pooled
        if protocol is None or pooled is None or self._is_over:
            return found
        try:
            while not found or (self.unanswered and len(protocol)):
                message, payload = await protocol.read()
                # Most bodies have arrived already; reading those directly saves a turn of the event loop.
                small = (
                    take_small_response(message, payload)
                    if payload.is_eof()
                    else await read_small_response(message, payload)
                )
                # If more answers than requests have arrived, any of them may be the surplus one.
                if small is None or len(protocol) >= self.unanswered or not self._trusts(small):
                    self._is_over = True
                    break
                found.append(small)
                self.unanswered -= 1
        except (aiohttp.ClientError, OSError, HttpProcessingError) as error:
            # The ordinary request that follows meets the error again and reports it.
            self._is_over = True
            self.was_cut = isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
        pooled.last_activity = self._loop.time()
        return found

    def _trusts(self, small: SmallResponse) -> bool:
        return self._pool.policy.trusts(small.headers.get("Server", ""))

    @property
    def arrived(self) -> int:
        """Answers whose heads have arrived and are not read yet."""
        return 0 if self._protocol is None else len(self._protocol)

    def close(self) -> None:
        """Keep the connection for other requests if every answer has arrived; else close it."""
        if self._pooled is None:
            return
        if self.unanswered or self._is_over:
            self._pool.discard(self._pooled)
        else:
            self._pool.keep(self._pooled)
        self._pooled = None

    async def run_trial(self, first: bytes, second: bytes) -> tuple[bool | None, list[SmallResponse]]:
        """Send both requests together, then each alone.

        Return whether the order was kept, and the answers that came alone.

        The verdict is None if the two answers are alike or one did not arrive. If the two ways disagree, no answer is
        returned: an answer that seems to have come alone may be a late one to the requests before.

        """
        together = await self._exchange((first, second), ())
        alone = await self._exchange((second,), await self._exchange((first,), ())) if len(together) == 2 else []
        if len(alone) < 2:
            return None, []
        found, expected = [_identity(small) for small in together], [_identity(small) for small in alone]
        if found != expected:
            self._is_over = True
            return False, []
        return (None if found[0] == found[1] else True), alone

    async def _exchange(self, heads: Sequence[bytes], before: Sequence[SmallResponse]) -> list[SmallResponse]:
        """Return `before`, then the answers to `heads` that arrive within the trial's timeout."""
        found = list(before)
        if self._is_over:
            return found
        await self.send(heads)
        assert self._pooled is not None
        self._pooled.timeout_s = min(_TRIAL_TIMEOUT_S, self._pooled.timeout_s or _TRIAL_TIMEOUT_S)
        while self.unanswered and (more := await self.answers()):
            found += more
        return found


def _identity(small: SmallResponse) -> tuple[bytes, str]:
    """Return what distinguishes two representations (RFC 9110 §3.2): the body and the ETag."""
    return small.body, small.headers.get("ETag", "")
