"""Pipelined requests for small products of one origin and account.

`scheduler/engine` lets a worker run a `transfer/pipelined_fetch.PipelinedFetcher` for products that need nothing but a
plain answer. This module adds the credential to their requests and returns the answers. `pipelined_connection` is the
connection, and `pipelining_policy` decides whether and how many requests go out together. One write, one wake-up and
one turn of the event loop then serve several products.

The requests that went out together are believed together: if one answer is missing or not plain, the answers behind it
may belong to other requests. All of them are then requested again one by one, the ordinary way. Pipelining needs no
more connections or slots than ordinary requests. It is not used through a proxy, with cookies, with a rate limit or a
daily window, or for products with headers of their own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from bulkdl.http.head_parser import parse_small_head
from bulkdl.http.lightweight.pipelined_connection import PipelinedConnection
from bulkdl.http.lightweight.pipelining_policy import OrderProof
from bulkdl.http.redirects import signed_headers, target_with_credential

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bulkdl.auth.base import Authenticator, Credential
    from bulkdl.core.urls import HostList, Url
    from bulkdl.http.lightweight.keepalive_pool import KeepAlivePool, SmallResponse
    from bulkdl.http.lightweight.sender import LightweightSender
    from bulkdl.protocol.response_head import Head

__all__ = ["PipelinedRequests"]


class PipelinedRequests:
    """One worker's requests on one connection. Always `close` it."""

    def __init__(
        self, sender: LightweightSender, pool: KeepAlivePool, url: Url, *, signer: Authenticator, allowed: HostList
    ) -> None:
        self._sender = sender
        self._policy = pool.policy
        self._signer = signer
        self._may_sign = allowed.allows(url)
        self._connection = PipelinedConnection(pool)
        self._credential: Credential | None = None
        """Credential of the unanswered requests."""
        self._accepted: Credential | None = None
        self._loop = asyncio.get_running_loop()
        self._sent_at = 0.0
        """Time at which the unanswered requests were sent."""

    @property
    def wants_trial(self) -> bool:
        """True if the origin must prove now that it answers in order; call only `on_trial` then."""
        return self._policy.may_pipeline and self._policy.order is OrderProof.UNKNOWN

    def room(self, size: int) -> int:
        """Return how many products of about `size` bytes may be requested now.

        0 while earlier requests are unanswered.
        """
        return 0 if self._connection.unanswered or not self._policy.may_pipeline else self._policy.depth(size)

    async def ask(self, urls: Sequence[Url]) -> bool:
        """Send the requests; return False if that is not possible. Raise `AccountStopped`."""
        signed = await self._signed(urls)
        if signed is None:
            return False
        self._credential, heads = signed
        self._sent_at = self._loop.time()
        try:
            await self._connection.send(heads)
        except (aiohttp.ClientError, OSError):
            return False  # the ordinary request that follows meets the error again and reports it
        return True

    async def answers(self) -> list[tuple[Head, bytes]]:
        """Return the head and the body of every answer, in the order of the requests.

        An empty list if one answer is not plain or will not arrive: request all of them again. If answers are missing,
        nobody can tell which one, and those behind it answer other requests than they seem to.
        """
        found: list[SmallResponse] = []
        while self._connection.unanswered and (more := await self._connection.answers()):
            found += more
        if not found or self._connection.unanswered:
            self._policy.record_unanswered(cut=self._connection.was_cut)
            return []
        self._policy.record_pipelined(len(found))
        self._policy.record_duration(self._loop.time() - self._sent_at, answers=len(found))
        self._report_accepted(self._credential)
        return [(parse_small_head(small), small.body) for small in found]

    async def on_trial(self, first: Url, second: Url) -> list[tuple[Head, bytes]]:
        """Test whether the origin answers in order; return both answers if they can be believed.

        Raise `AccountStopped`.
        """
        signed = await self._signed((first, second))
        if signed is None:
            return []
        self._policy.begin_trial()
        kept: bool | None = None
        alone: list[SmallResponse] = []
        try:
            kept, alone = await self._connection.run_trial(*signed[1])
        except (aiohttp.ClientError, OSError):
            pass  # as in `ask`
        finally:
            self._policy.end_trial(kept=kept)
        if alone:
            self._report_accepted(signed[0])
        return [(parse_small_head(small), small.body) for small in alone]

    def reject_answer(self) -> None:
        """Record a violation: a plain answer did not contain the requested product."""
        self._policy.record_unanswered(cut=False)

    def close(self) -> None:
        self._connection.close()

    async def _signed(self, urls: Sequence[Url]) -> tuple[Credential | None, list[bytes]] | None:
        """Return the credential and the requests signed with it; None if the session must send one of them."""
        credential = await self._signer.credential() if self._may_sign else None
        if credential is not None and credential.bind is not None and credential.header is None:
            return None  # each request has a header of its own
        targets = [target_with_credential(url, credential) for url in urls]
        heads = self._sender.request_heads(urls[0], targets, headers=signed_headers({}, credential))
        return None if heads is None else (credential, heads)

    def _report_accepted(self, credential: Credential | None) -> None:
        if credential is not None and credential is not self._accepted:
            self._accepted = credential
            self._signer.accepted(credential)
