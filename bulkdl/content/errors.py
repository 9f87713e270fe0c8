"""The error for a product with wrong content."""

from __future__ import annotations

from bulkdl.core.errors import ProductFailed
from bulkdl.core.models import FailureKind

__all__ = ["bad_content"]


def bad_content(reason: str, *, hint: str = "") -> ProductFailed:
    """Return a `ProductFailed` of kind `content`: the bytes are wrong or damaged."""
    return ProductFailed(reason, kind=FailureKind.CONTENT, hint=hint)
