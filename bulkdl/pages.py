"""What a body is not: a page in the product's place, or another edition than the one on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.content.error_pages import objection
from bulkdl.core.errors import TryAgain
from bulkdl.core.models import FailureKind

if TYPE_CHECKING:
    from bulkdl.task import Job

__all__ = ["SNIFF", "compared", "not_the_product", "objection_to"]

SNIFF = 1024
"""Bytes that are looked at."""
CONTENT_TRIES = 3
"""A page instead of the product is asked for again this often: a maintenance page passes, a login page does not."""


def objection_to(job: Job, head: bytes, *, name: str, content_type: str, size: int | None) -> str | None:
    """Why a body that begins with `head` cannot be the product, which is called `name`; None when it can."""
    accept = None
    if job.product.headers:
        accept = next((value for key, value in job.product.headers if key.lower() == "accept"), None)
    return objection(name=name, head=head[:SNIFF], content_type=content_type, size=size, requested_accept=accept)


def not_the_product(reason: str) -> TryAgain:
    return TryAgain(
        reason,
        kind=FailureKind.CONTENT,
        limit=CONTENT_TRIES,
        hint="Open the URL in a browser: it may want a login, a licence, or be another URL",
    )


def compared(chunk: bytes, compare: bytes) -> tuple[bytes, bytes]:
    """Hold the overlap against what is on disk; what is left of the chunk and of the overlap."""
    count = min(len(chunk), len(compare))
    if chunk[:count] != compare[:count]:
        raise TryAgain("the server has another edition now", kind=FailureKind.CONTENT, restart=True)
    return chunk[count:], compare[count:]
