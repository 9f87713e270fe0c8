"""Ask a product's current source about the product, without its body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.core.errors import TryAgain
from bulkdl.core.models import FailureKind
from bulkdl.http.probe import probe
from bulkdl.protocol.content_coding import parse_codings
from bulkdl.protocol.headers import parse_retry_after
from bulkdl.protocol.response_head import StatusClass, classify

if TYPE_CHECKING:
    from bulkdl.http.response import Response
    from bulkdl.transfer.context import RunContext
    from bulkdl.transfer.task import DownloadTask

__all__ = ["ask_size", "probe_source", "raise_if_busy"]


async def ask_size(context: RunContext, task: DownloadTask, *, question: str = "") -> int | None:
    """Return the size that the source gives for the product, None if it gives none.

    With a `question`, which the message names, raise `TryAgain` if the source can only answer later.
    """
    response = await probe_source(context, task, needs_size=True)
    if question:
        raise_if_busy(response, question, now=context.clock.wall())
    return _size(task, response)


async def probe_source(context: RunContext, task: DownloadTask, *, needs_size: bool = False) -> Response:
    """Return the closed response of the source to one or two requests without a body (`probe`)."""
    async with context.connections.slot(account=task.product.account, host=task.source.host, reserved=task.slot):
        return await probe(
            lambda method: context.open(task, headers={}, method=method),
            is_enough=lambda response: not needs_size or _size(task, response) is not None,
        )


def raise_if_busy(response: Response, question: str, *, now: float) -> None:
    """Raise `TryAgain` if the server cannot answer `question` yet: it is overloaded or prepares the product."""
    if classify(response.head.status) in (StatusClass.LATER, StatusClass.PREPARING):
        raise TryAgain(
            f"{response.url.host} answered {response.head.status} when asked {question}",
            kind=FailureKind.HTTP,
            wait=parse_retry_after(response.head.retry_after, now=now),
        )


def _size(task: DownloadTask, response: Response) -> int | None:
    """Return the bytes of the product. The length of a content coding says nothing about them (RFC 9110 §8.4)."""
    coded = parse_codings((response.head.content_encoding,)) and not task.keeps_coding(response)
    return response.head.content_length if response.head.status == 200 and not coded else None
