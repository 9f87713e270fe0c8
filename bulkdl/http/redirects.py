"""Redirects (RFC 9110 §15.4): which headers the next host may receive, and how its URL loses the credential."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus

from bulkdl.core.errors import ProductFailed
from bulkdl.core.models import FailureKind
from bulkdl.core.urls import Url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bulkdl.auth.base import Credential

__all__ = [
    "generic_headers",
    "redirect_target",
    "sent_secrets",
    "signed_headers",
    "strip_credentials",
    "target_with_credential",
    "without_secret",
]

_GENERIC = frozenset({"accept", "accept-language", "range", "if-range"})


def generic_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that may go to an origin that is neither the product's nor the account's."""
    return {name: value for name, value in headers.items() if name.lower() in _GENERIC}


def target_with_credential(url: Url, credential: Credential | None) -> str:
    """Return the target (path and query) of a request to `url`, which may receive `credential`."""
    if credential is None:
        return url.target
    if url.query:
        url = without_secret(url, credential)
    target = url.target
    if credential.query is not None:
        name, value = credential.query
        target += f"{'&' if '?' in target else '?'}{quote(name)}={quote(value.reveal(), safe='')}"
    return target


def signed_headers(headers: Mapping[str, str], credential: Credential | None) -> Mapping[str, str]:
    """Return the headers of a request to a host that may receive `credential`."""
    if credential is None or credential.header is None:
        return headers
    return {**headers, credential.field: credential.header.reveal()}


def redirect_target(url: Url, location: str, credential: Credential | None, *, first: Url) -> Url:
    try:
        target = url.join(location)
    except ValueError:
        raise ProductFailed(f"{first} redirects to something that is not a usable URL", kind=FailureKind.HTTP) from None
    return target if credential is None else without_secret(target, credential)


def without_secret(url: Url, credential: Credential) -> Url:
    """Return `url` without the query fields whose value is the credential.

    Some servers echo a token into a redirect.
    """
    if not url.query:
        return url
    secrets = _secrets(credential)
    return _filter_query(url, lambda value: value not in secrets)


def strip_credentials(url: Url, credential: Credential, *, first: Url) -> Url:
    """Return `url` for a host that may not receive the credential, without every query field that contains it.

    Such a field may be the address of a page to return to. Raise `ProductFailed` if another part of the URL contains
    it.
    """
    secrets = [secret for secret in _secrets(credential) if len(secret) >= _MIN_SECRET_LENGTH]
    url = _filter_query(url, lambda value: not _contains_secret(value, secrets))
    if _contains_secret(unquote_plus(url.raw), secrets):
        raise ProductFailed(
            f"{first} redirects to another host with the account's credential in the URL; not followed",
            kind=FailureKind.AUTH,
            hint="If that host belongs to the archive, add it to the account's `hosts`",
        )
    return url


_MIN_SECRET_LENGTH = 6
"""Shorter secrets are not searched for inside other values, since a URL may contain one by chance (characters)."""


def _secrets(credential: Credential) -> set[str]:
    held = {s.reveal() for s in (credential.header, credential.query[1] if credential.query else None) if s is not None}
    return held | {s.partition(" ")[2] for s in held if " " in s}


def sent_secrets(headers: Mapping[str, str], credential: Credential | None, url: Url) -> set[str]:
    """Return every secret text that a request may have carried, for masking what the server says.

    A server may echo a header, the user name and password of Basic, and the values of a query.
    """
    held = set() if credential is None else _secrets(credential)
    for text in tuple(held):
        with suppress(ValueError):
            user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
            held |= {user, password} if colon else set()
    values = (value for name, value in headers.items() if name.lower() not in _GENERIC)
    held |= {value for value in values if len(value) >= _MIN_SECRET_LENGTH}
    fields = (unquote_plus(field.partition("=")[2]) for field in url.query.split("&"))
    return held | {value for value in fields if len(value) >= _MIN_SECRET_LENGTH}


def _contains_secret(text: str, secrets: list[str]) -> bool:
    """Return True if `text` contains a secret, plain or percent-encoded once or twice more."""
    return any(
        secret in form for form in (text, unquote_plus(text), unquote_plus(unquote_plus(text))) for secret in secrets
    )


def _filter_query(url: Url, wanted: Callable[[str], bool]) -> Url:
    """Return `url` with only the query fields whose decoded value is `wanted`."""
    fields = url.query.split("&") if url.query else []
    kept = [f for f in fields if wanted(unquote_plus(f.partition("=")[2]))]
    if len(kept) == len(fields):
        return url
    base = url.raw.partition("#")[0].partition("?")[0]
    return Url(base + ("?" + "&".join(kept) if kept else ""))
