"""Parser of a response's header fields into the `Head` that decisions are based on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.protocol.byte_ranges import ContentRange, parse_content_range
from bulkdl.protocol.digest_fields import digest_fields
from bulkdl.protocol.framing import transfer_codings
from bulkdl.protocol.response_head import Head

if TYPE_CHECKING:
    import aiohttp
    from multidict import CIMultiDictProxy

    from bulkdl.http.lightweight.keepalive_pool import SmallResponse

__all__ = ["parse_head", "parse_small_head"]


def parse_head(response: aiohttp.ClientResponse) -> Head:
    """Return the head of any response."""
    fields = response.headers
    length = fields.get("Content-Length", "")
    chunked = "Transfer-Encoding" in fields  # overrides a length (RFC 9112 §6.3)
    codings = (*fields.getall("Content-Encoding", ()), *_transfer_codings(fields))
    return Head(
        status=response.status,
        content_length=int(length) if length.isdecimal() and length.isascii() and not chunked else None,
        content_range=_content_range(fields),
        content_type=fields.get("Content-Type", ""),
        content_encoding=", ".join(codings),
        etag=_one(fields, "ETag"),
        last_modified=fields.get("Last-Modified"),
        date=fields.get("Date"),
        accept_ranges=fields.get("Accept-Ranges", ""),
        disposition=fields.get("Content-Disposition", ""),
        retry_after=fields.get("Retry-After"),
        digests=digest_fields(fields),
    )


def parse_small_head(small: SmallResponse) -> Head:
    """Return the head of a small response, which is always a 200 without a coding."""
    fields = small.headers
    return Head(
        status=200,
        content_length=len(small.body),
        content_type=fields.get("Content-Type", ""),
        etag=_one(fields, "ETag"),
        last_modified=fields.get("Last-Modified"),
        date=fields.get("Date"),
        accept_ranges=fields.get("Accept-Ranges", ""),
        disposition=fields.get("Content-Disposition", ""),
        digests=digest_fields(fields),
    )


def _content_range(fields: CIMultiDictProxy[str]) -> ContentRange | None:
    """Return the Content-Range; one that cannot be parsed still shows that the body may be a part."""
    value = _one(fields, "Content-Range")
    return None if value is None else parse_content_range(value) or ContentRange(None, None)


def _one(fields: CIMultiDictProxy[str], name: str) -> str | None:
    """Return the value of a field that may occur once.

    Different values are joined, so that no parser accepts the result.
    """
    if name not in fields:
        return None
    values = fields.getall(name)
    return ", ".join(dict.fromkeys(values)) if len(values) > 1 else values[0]


def _transfer_codings(fields: CIMultiDictProxy[str]) -> list[str]:
    """Return the transfer codings (RFC 9112 §7) except `chunked` alone, the only one that is removed from the body."""
    if "Transfer-Encoding" not in fields:
        return []
    words = transfer_codings(fields.getall("Transfer-Encoding"))
    return [f"transfer {word}" for word in words if word != "chunked"]
