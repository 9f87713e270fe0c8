"""The error for a product whose bytes are not what they should be."""

from __future__ import annotations

from bulkdl.core.errors import ProductFailed
from bulkdl.core.models import FailureKind

__all__ = ["bad_content"]


def bad_content(reason: str, *, hint: str = "") -> ProductFailed:
    """The error for a product whose bytes are not what they should be."""
    return ProductFailed(reason, kind=FailureKind.CONTENT, hint=hint)
