"""Who may have a product: which credentials the archive takes, and how it refuses."""

from __future__ import annotations

import base64
import binascii
import hmac
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Access", "Given", "Refusal", "TokenChecker", "given"]


class TokenChecker(Protocol):
    def check(self, token: str) -> bool:
        """Whether this access token is valid now."""
        ...


class Given(StrEnum):
    """How a request carried a credential."""

    NONE = "none"
    HEADER = "header"
    """`Authorization: Bearer`."""
    QUERY = "query"
    BASIC = "basic"


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    challenge: str | None
    """The `WWW-Authenticate` field, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What opens a product: any one of the ways that are set; with none set it is open to everyone."""

    header: TokenChecker | None = None
    query: TokenChecker | None = None
    query_param: str = "token"
    basic: tuple[str, str] | None = None
    """User and password, compared in UTF-8 (RFC 7617 §2.1)."""
    status: int = 401
    """Of a refusal; some archives answer 403 for an expired token."""
    account: str = ""
    """Products with one account name share `max_connections`."""
    max_connections: int | None = None
    """Responses under way at once; the next one is 429."""
    retry_after: str | None = "1"
    """Of that 429."""

    @property
    def is_open(self) -> bool:
        return self.header is None and self.query is None and self.basic is None

    def refuses(self, request: web.Request) -> Refusal | None:
        """None when the request may have the product."""
        if self.is_open or self._admits(request):
            return None
        if self.header is None and self.query is None:
            return Refusal(self.status, 'Basic realm="archive", charset="UTF-8"')
        if given(request, self.query_param) is Given.NONE:
            return Refusal(self.status, 'Bearer realm="archive"')
        return Refusal(self.status, 'Bearer realm="archive", error="invalid_token"')

    def _admits(self, request: web.Request) -> bool:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if self.header is not None and scheme.lower() == "bearer" and self.header.check(value.strip()):
            return True
        if self.basic is not None and scheme.lower() == "basic" and _same(value, self.basic):
            return True
        token = request.query.get(self.query_param)
        return self.query is not None and token is not None and self.query.check(token)


def given(request: web.Request, query_param: str = "token") -> Given:
    """How the request carries a credential, whether or not it is a good one."""
    scheme = request.headers.get("Authorization", "").partition(" ")[0].lower()
    if scheme:
        return Given.BASIC if scheme == "basic" else Given.HEADER
    return Given.QUERY if query_param in request.query else Given.NONE


def _same(encoded: str, expected: tuple[str, str]) -> bool:
    try:
        sent = base64.b64decode(encoded.strip(), validate=True)
    except binascii.Error:
        return False
    return hmac.compare_digest(sent, ":".join(expected).encode())
