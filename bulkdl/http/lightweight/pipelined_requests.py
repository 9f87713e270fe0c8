"""Small products of one origin and account, asked for ahead: signed as any request, answered in order, all or none."""

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
    """One worker's requests on one connection. `close` it, whatever has happened."""

    def __init__(
        self, sender: LightweightSender, lines: KeepAlivePool, url: Url, *, signer: Authenticator, allowed: HostList
    ) -> None:
        self._sender = sender
        self._lead = lines.lead
        self._signer = signer
        self._may_sign = allowed.allows(url)
        self._pipeline = PipelinedConnection(lines)
        self._asked = 0
        """Requests without an answer."""
        self._credential: Credential | None = None
        """What they were signed with."""
        self._accepted: Credential | None = None
        self._loop = asyncio.get_running_loop()
        self._since = 0.0
        """When what is under way was asked for."""

    @property
    def wants_trial(self) -> bool:
        """Whether the origin is to show now that it keeps the order of requests: then there is only `on_trial`."""
        return self._lead.may_ask_ahead and self._lead.order is OrderProof.UNKNOWN

    def room(self, size: int) -> int:
        """So many more products of about `size` bytes may be asked for now; 0 until all are answered that have been asked for."""
        return 0 if self._asked or not self._lead.may_ask_ahead else self._lead.depth(size)

    async def ask(self, urls: Sequence[Url]) -> bool:
        """Send the requests; False where that is not possible. Raise `AccountStopped`."""
        signed = await self._signed(urls)
        if signed is None:
            return False
        self._credential, heads = signed
        self._since = self._loop.time()
        try:
            await self._pipeline.ask(heads)
        except (aiohttp.ClientError, OSError):
            return False  # whoever asks anew meets it, and says what it is
        self._asked = len(heads)
        return True

    async def answers(self) -> list[tuple[Head, bytes]]:
        """The answers to all that has been asked for: what decides of each, and its body.

        None at all where one of them is not plain, or will not come; then all has to be asked anew: of answers that are too few
        nobody can tell which one is missing, and those behind it are answers to other requests than they seem.
        """
        briefs: list[SmallResponse] = []
        while len(briefs) < self._asked and (more := await self._pipeline.answers()):
            briefs += more
        if not briefs or len(briefs) < self._asked:
            self._lead.ended(cut=self._pipeline.was_cut)
            return []
        self._lead.ahead(len(briefs))
        self._lead.took(self._loop.time() - self._since, answers=len(briefs))
        self._asked = 0
        self._took(self._credential)
        return [(parse_small_head(brief), brief.body) for brief in briefs]

    async def on_trial(self, first: Url, second: Url) -> list[tuple[Head, bytes]]:
        """Find out whether the origin keeps the order; the answers to both, where they can be believed. Raise `AccountStopped`."""
        signed = await self._signed((first, second))
        if signed is None:
            return []
        self._lead.on_trial()
        kept: bool | None = None
        alone: list[SmallResponse] = []
        try:
            kept, alone = await self._pipeline.on_trial(*signed[1])
        except (aiohttp.ClientError, OSError):
            pass  # as in `ask`
        finally:
            self._lead.tried(kept=kept)
        if alone:
            self._took(signed[0])
        return [(parse_small_head(brief), brief.body) for brief in alone]

    def of_no_use(self) -> None:
        """An answer was plain and yet not the product: as with any other odd one, much has to be shown anew."""
        self._lead.ended(cut=False)

    def close(self) -> None:
        self._pipeline.close()

    async def _signed(self, urls: Sequence[Url]) -> tuple[Credential | None, list[bytes]] | None:
        """The requests, and what they are signed with; None where one of them has to go another way."""
        credential = await self._signer.credential() if self._may_sign else None
        targets = [target_with_credential(url, credential) for url in urls]
        heads = self._sender.heads(urls[0], targets, headers=signed_headers({}, credential))
        return None if heads is None else (credential, heads)

    def _took(self, credential: Credential | None) -> None:
        if credential is not None and credential is not self._accepted:
            self._accepted = credential
            self._signer.accepted(credential)
