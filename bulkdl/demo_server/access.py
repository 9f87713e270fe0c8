"""Access control of the demo archive: accepted credentials and the response to a request without one."""

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
        """Return True if this access token is valid now."""
        ...


class Given(StrEnum):
    """Place of the credential in a request."""

    NONE = "none"
    HEADER = "header"
    """`Authorization: Bearer`."""
    QUERY = "query"
    BASIC = "basic"


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    challenge: str | None
    """Value of `WWW-Authenticate`; None sends no such field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Accepted credentials for a product: any of those set. If none is set, the product is open to everyone."""

    header: TokenChecker | None = None
    query: TokenChecker | None = None
    query_param: str = "token"
    basic: tuple[str, str] | None = None
    """User and password, compared in UTF-8 (RFC 7617 §2.1)."""
    status: int = 401
    """Status for a missing or invalid credential; some archives answer 403 to an expired token."""
    account: str = ""
    """Products with the same account name share `max_connections`."""
    max_connections: int | None = None
    """Limit of concurrent responses; a further request is answered with 429."""
    retry_after: str | None = "1"
    """`Retry-After` of that 429."""

    @property
    def is_open(self) -> bool:
        return self.header is None and self.query is None and self.basic is None

    def refuses(self, request: web.Request) -> Refusal | None:
        """Return None if the request may have the product, otherwise the refusal."""
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
    """Return the place of the credential in the request, valid or not."""
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
