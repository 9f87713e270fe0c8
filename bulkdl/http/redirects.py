"""What may go to the next host of a redirect, and what of a credential has to be taken out of its URL first."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus

from bulkdl.core.errors import ProductFailed
from bulkdl.core.models import FailureKind
from bulkdl.core.urls import Url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bulkdl.auth.base import Credential

__all__ = ["generic", "redirected", "signed_headers", "strip_credentials", "target_with_credential", "without_secret"]

_GENERIC = frozenset({"accept", "accept-language", "range", "if-range"})


def generic(headers: Mapping[str, str]) -> dict[str, str]:
    """What may go to an origin that is neither the product's nor the account's."""
    return {name: value for name, value in headers.items() if name.lower() in _GENERIC}


def target_with_credential(url: Url, credential: Credential | None) -> str:
    """The target (path and query) of a request to `url`, with a credential that may go there."""
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
    """The headers of a request to where `credential` may go."""
    if credential is None or credential.header is None:
        return headers
    return {**headers, "Authorization": credential.header.reveal()}


def redirected(url: Url, location: str, credential: Credential | None, *, first: Url) -> Url:
    try:
        target = url.join(location)
    except ValueError:
        raise ProductFailed(f"{first} redirects to something that is not a usable URL", kind=FailureKind.HTTP) from None
    return target if credential is None else without_secret(target, credential)


def without_secret(url: Url, credential: Credential) -> Url:
    """`url` without any query field that holds the credential: servers like to echo a token into their redirects."""
    if not url.query:
        return url
    secrets = _secrets(credential)
    return _keeping(url, lambda value: value not in secrets)


def strip_credentials(url: Url, credential: Credential, *, first: Url) -> Url:
    """`url` for a host that may not have the credential: no query field has it inside, such as a page to come back to.

    Raise `ProductFailed` when it stands elsewhere in the URL.
    """
    secrets = [secret for secret in _secrets(credential) if len(secret) >= _TELLING]
    url = _keeping(url, lambda value: not _holds(value, secrets))
    if _holds(unquote_plus(url.raw), secrets):
        raise ProductFailed(
            f"{first} redirects to another host with the account's credential in the URL; it was not followed",
            kind=FailureKind.AUTH,
            hint="If that host is the archive's own, add it to the account's `hosts`",
        )
    return url


_TELLING = 6
"""A shorter secret could stand in a URL by chance."""


def _secrets(credential: Credential) -> set[str]:
    held = {s.reveal() for s in (credential.header, credential.query[1] if credential.query else None) if s is not None}
    return held | {s.partition(" ")[2] for s in held if " " in s}


def _holds(text: str, secrets: list[str]) -> bool:
    """Whether a secret stands in `text`, plain or percent-encoded once or twice more."""
    return any(
        secret in form for form in (text, unquote_plus(text), unquote_plus(unquote_plus(text))) for secret in secrets
    )


def _keeping(url: Url, wanted: Callable[[str], bool]) -> Url:
    """`url` with those query fields whose decoded value is `wanted`."""
    fields = url.query.split("&") if url.query else []
    kept = [f for f in fields if wanted(unquote_plus(f.partition("=")[2]))]
    if len(kept) == len(fields):
        return url
    base = url.raw.partition("#")[0].partition("?")[0]
    return Url(base + ("?" + "&".join(kept) if kept else ""))
