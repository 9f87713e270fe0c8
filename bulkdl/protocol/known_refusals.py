"""Refusals that mean the same at every host, whatever the archive's own rules say. Pure.

These are bot checks, links that have expired, client certificates, and http on a port for https.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from bulkdl.core.models import FailureKind
from bulkdl.protocol.provider_errors import ErrorAction, ErrorInterpretation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkdl.core.urls import Url
    from bulkdl.protocol.provider_errors import Answer

__all__ = ["is_bot_check", "known_refusal", "link_expiry"]

_BOT_CHECKS: Final = {
    "x-amzn-waf-action": re.compile("challenge|captcha", re.IGNORECASE),
    "cf-mitigated": re.compile("challenge|block", re.IGNORECASE),
    "x-vercel-mitigated": re.compile("challenge|deny", re.IGNORECASE),
}
_EXPIRED: Final = re.compile(
    r"expired|not valid in the specified time frame|past its expir|no longer valid", re.IGNORECASE
)
_S3_EXPIRED: Final = re.compile(r"<Message>\s*Request has expired\.?\s*</Message>|<X-Amz-Expires>", re.IGNORECASE)
_NO_CERTIFICATE: Final = re.compile(
    r"no required ssl certificate was sent|client certificate (?:is |was )?(?:required|missing|not (?:provided|sent))",
    re.IGNORECASE,
)
_PLAIN_HTTP: Final = re.compile(
    r"plain http request was sent to https port|speaking plain http to an ssl|http request to an https server"
    r"|requires TLS\.?\s*$",
    re.IGNORECASE,
)
_DATED: Final = re.compile(r"x-([a-z]+)-date")


def is_bot_check(headers: Mapping[str, str]) -> bool:
    """Return True if a response asks for proof that a person sent the request; it can have any status, also 202."""
    return any(
        (value := headers.get(name)) is not None and pattern.search(value) for name, pattern in _BOT_CHECKS.items()
    )


def known_refusal(url: Url, answer: Answer, *, asked: Url, now: float) -> ErrorInterpretation | None:
    """Return the meaning of `answer` to a request of `url`; None if it is none of these.

    `asked`: the product's URL, which may have redirected to `url`; `now`: Unix time.
    """
    if is_bot_check(answer.headers):
        return ErrorInterpretation(
            action=ErrorAction.FAIL,
            text="a bot check, which only a browser can pass",
            hint="Ask the archive for an address for programs, or to allow this machine; fewer connections may help",
        )
    text = answer.body.decode("utf-8", "replace")
    if answer.status in (400, 401, 403, 495, 496) and (answer.status == 496 or _NO_CERTIFICATE.search(text)):
        return ErrorInterpretation(
            action=ErrorAction.FAIL,
            text="it wants a client certificate, which bulkdl cannot send",
            hint="Ask the archive for another way to log in",
            kind=FailureKind.AUTH,
        )
    if answer.status in (400, 403, 426, 497) and (answer.status == 497 or _PLAIN_HTTP.search(text)):
        return ErrorInterpretation(
            action=ErrorAction.FAIL, text="this port speaks https", hint="Write https:// in the URL, not http://"
        )
    if answer.status in (400, 401, 403):
        return _expired_link(url, text, asked=asked, now=now)
    return None


def _expired_link(url: Url, text: str, *, asked: Url, now: float) -> ErrorInterpretation | None:
    is_presigned, ends = link_expiry(url.query)
    is_over = ends is not None and ends <= now
    if not ((is_presigned and (is_over or _EXPIRED.search(text))) or (url.query and _S3_EXPIRED.search(text))):
        return None
    until = f" (it was valid until {_shown(ends)})" if ends is not None and is_over else ""
    if url.source != asked.source:  # the archive makes a new link for each request
        return ErrorInterpretation(action=ErrorAction.WAIT, text=f"the link that {asked.host} made has expired{until}")
    return ErrorInterpretation(
        action=ErrorAction.FAIL,
        text=f"the link has expired{until}",
        hint="Make a new link and put it into the manifest; what has arrived so far is kept",
        kind=FailureKind.AUTH,
    )


def link_expiry(query: str) -> tuple[bool, float | None]:
    """Return whether a query is that of a presigned URL, and when it ends (Unix time), if that can be read.

    S3 and its like (`X-Amz-Date` and `X-Amz-Expires`, also `X-Goog-`, `X-OSS-`), Azure (`se`, `sig`), and the older
    form of S3, GCS and CloudFront (`Expires`, `Signature`).
    """
    fields = {name.lower(): value for name, value in parse_qsl(query)}
    for name, value in fields.items():
        if (found := _DATED.fullmatch(name)) is not None and f"x-{found[1]}-signature" in fields:
            begins = _date(value, "%Y%m%dT%H%M%SZ")
            seconds = fields.get(f"x-{found[1]}-expires", "")
            return True, begins + int(seconds) if begins is not None and _is_number(seconds) else None
    if "sig" in fields and "se" in fields:
        forms = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d", "%Y-%m-%dT%H:%M:%S.%fZ")
        return True, next((at for form in forms if (at := _date(fields["se"], form)) is not None), None)
    if "signature" in fields and "expires" in fields:
        return True, float(fields["expires"]) if _is_number(fields["expires"]) else None
    return any(name.endswith("-signature") for name in fields), None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 13


def _date(text: str, form: str) -> float | None:
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _shown(at: float) -> str:
    return f"{datetime.fromtimestamp(min(at, 253402300799.0), tz=UTC):%Y-%m-%d %H:%M} UTC"
