"""Content codings that a response names and its bytes do not have, so that the bytes are the product."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.protocol.content_coding import decodable, has_aws_chunks, is_only_label, parse_codings
from bulkdl.protocol.response_head import StatusClass, classify
from bulkdl.transfer.response_errors import not_the_product

if TYPE_CHECKING:
    from bulkdl.http.response import Response
    from bulkdl.transfer.task import DownloadTask

__all__ = ["keeps_coding", "without_label"]

_ENOUGH = 512
"""First bytes of a body that tell whether it has a coding."""


async def without_label(task: DownloadTask, response: Response) -> Response:
    """Return the response without a content coding that its first bytes do not have.

    Raise `TryAgain` if the chunks of `aws-chunked` are still in the body.
    """
    named = response.head.content_encoding
    if not named or classify(response.head.status) is not StatusClass.BODY:
        return response
    coding = parse_codings((named,))
    if not coding and "aws-chunked" not in named.lower():
        return response
    beginning, ended = await response.peek_up_to(_ENOUGH)
    if not coding:
        length = response.head.content_length
        if has_aws_chunks(beginning, length=length, labelled=True) and not task.product.checksums:
            raise not_the_product("the content still has the chunk framing of its upload (aws-chunked)")
        return response
    if response.head.status == 200 and is_only_label(coding, beginning, ended=ended):
        return replace(response, head=replace(response.head, content_encoding=""))
    return response


def keeps_coding(task: DownloadTask, response: Response) -> bool:
    """Return whether the body's content coding stays: it is the product's own format, or a checksum will decide.

    A checksum decides where the coding cannot be removed, and where the decoded bytes did not have it.
    """
    if not response.head.content_encoding:
        return False
    if task.keeps_coding(response):
        return True
    if not task.product.checksums:
        return False
    coding = parse_codings((response.head.content_encoding,))
    is_transfer_coding = coding.startswith("transfer ") or ", transfer " in coding
    mismatched = task.was_decoded and bool(task.rejections.downloads)
    return not is_transfer_coding and (mismatched or not decodable(coding))
