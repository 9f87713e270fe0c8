"""Whether the first bytes of a body can be the product that was asked for.

Two questions: is it an error page in the product's place, and does it begin as its name says it must. A false alarm
loses a product, so a kind is listed only where every file of that kind begins alike; any other name is believed.
"""

from __future__ import annotations

import html
import json
import re
from functools import lru_cache

from bulkdl.content.signatures import Fit, Kind, Language, as_text, kind_of
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.secret import MASK

__all__ = ["HEAD_SIZE", "html_or_json_error", "objection"]

HEAD_SIZE = 64 * 1024
"""Bytes of a product that are worth giving to `objection`; fewer are judged by what they show."""

_SMALL = 64 * 1024  # no error object is larger
_QUOTE = 60
_NOT_SPACE = re.compile(r"\S")
_NO_MARKUP = re.compile(rb"[\t-\r ]*[!-;=-~\x00-\x08\x0e-\x1b\x80-\xc1\xc3-\xe0\xe4-\xee\xf0-\xfd]")
"""Beginnings without a byte order mark whose first letter, white space of Unicode aside, opens no element."""
_SUSPECT = frozenset({"text/html", "application/xhtml+xml"})

_HTML_ROOTS = frozenset({"html", "head", "body"})
_ERROR_ROOTS = frozenset(
    {"error", "errors", "errorresponse", "exceptionreport", "fault", "serviceexception", "serviceexceptionreport"}
)
_ERROR_KEYS = frozenset(
    {
        "error",
        "errors",
        "error_description",
        "errorcode",
        "errormessage",
        "detail",
        "message",
        "code",
        "fault",
        "exception",
    }
)
_DATA_KEYS = frozenset(
    {"assets", "coordinates", "data", "features", "geometry", "items", "properties", "results", "value"}
)


@dataclass(frozen=True, slots=True)
class _Page:
    label: str
    language: Language
    certain: bool = True
    """Seen in the bytes; otherwise only the Content-Type says so, and servers label what they don't know."""


def objection(
    *, name: str, head: bytes, content_type: str, size: int | None, requested_accept: str | None = None
) -> str | None:
    """Say in a sentence why a body that begins with `head` cannot be the product `name`; None when it can.

    `content_type` is the response's (may be empty), `size` the product's bytes where known or declared,
    `requested_accept` the product's own Accept header: who asks for HTML gets HTML. The sentence quotes at most
    60 characters of an error page, without tags, tokens or queries.
    """
    kind = kind_of(name)
    if not head:
        return (
            None
            if size == 0 or kind is None or kind.may_be_empty
            else f"what arrived is empty, which {kind.label} never is"
        )
    fit = Fit.YES if kind is None else kind.fits(head, size is not None and len(head) >= size)
    page = _error_page(head, content_type, size)
    if page is not None and not _excused(page, kind, fit, content_type, requested_accept):
        return f"what arrived is {page.label}{'' if kind is None else f', not {kind.label}'}{_quoted(head)}"
    if kind is None or fit is not Fit.NO:
        return None
    return f"what arrived does not begin like {kind.label}{_quoted(head)}"


def html_or_json_error(head: bytes, content_type: str) -> bool:
    """Tell whether a body that begins with `head` is an error page: HTML, an XML error, a JSON error object.

    For the moment when the first bytes are here and nothing is written yet; the caller knows whether its product
    could be such a page by itself (see `objection`). Without a byte it is False.
    """
    return bool(head) and _error_page(head, content_type, None) is not None


def _excused(page: _Page, kind: Kind | None, fit: Fit, content_type: str, accept: str | None) -> bool:
    """Whether a page is what was asked for; HTML that says so itself is no XML, text or CSV product."""
    if kind is None:
        return page.language.value in (accept or "").lower()
    if kind.language is None:
        return fit is Fit.YES and not page.certain
    if page.language is Language.HTML and kind.language in {Language.XML, Language.TEXT}:
        return _media_type(content_type) != "text/html"
    if page.language is Language.HTML and kind.language is Language.JSON:
        return fit is Fit.YES
    return True


def _error_page(head: bytes, content_type: str, size: int | None) -> _Page | None:
    media = _media_type(content_type)
    if media not in _SUSPECT and not media.endswith("json") and _NO_MARKUP.match(head):
        return None
    text = as_text(head)
    root = _root(text)
    if root in _HTML_ROOTS:
        return _Page("an HTML page", Language.HTML)
    if root in _ERROR_ROOTS:
        return _Page("an XML error message", Language.XML)
    if (media.endswith("json") or media == "text/html") and _json_error(text, media, size):
        return _Page("a JSON error message", Language.JSON)
    if media in {"text/html", "application/xhtml+xml"} and _reads_as_text(head) and not _looks_like_json(text):
        return _Page("an HTML page", Language.HTML, certain=False)
    return None


@lru_cache(maxsize=64)
def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _reads_as_text(head: bytes) -> bool:
    """No control characters but white space; many servers label what they don't know as text/html."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    return not any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head[:1024])


def _looks_like_json(text: str) -> bool:
    return text.lstrip()[:1] in {"{", "["}


def _root(text: str) -> str:
    """The first element's local name in lower case, behind declarations and comments; `html` for its doctype; else ''."""
    at = 0
    while True:
        word = _NOT_SPACE.search(text, at)
        if word is None:
            return ""
        at = word.start()
        opener, closer = next(((o, c) for o, c in (("<?", "?>"), ("<!--", "-->")) if text.startswith(o, at)), ("", ""))
        if not opener:
            break
        end = text.find(closer, at)
        if end < 0:
            return ""
        at = end + len(closer)
    if re.match(r"<!doctype\s+html\b", text[at : at + 64], re.IGNORECASE):
        return "html"
    element = re.match(r"<(?:[\w.-]{1,40}:)?([A-Za-z][\w.-]{0,60})[\s/>]", text[at : at + 128])
    return element.group(1).lower() if element else ""


def _json_error(text: str, media: str, size: int | None) -> bool:
    if not _looks_like_json(text):
        return False
    if media == "application/problem+json":  # RFC 9457
        return True
    if size is not None and size >= _SMALL:
        return False
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        # Cut off or not JSON at all: only the first key speaks.
        first = re.match(r'[\s\[{]*"(\w{1,40})"\s*:', text[:256])
        return first is not None and first.group(1).lower() in _ERROR_KEYS
    if isinstance(found, list):
        found = next(iter(found), None)
    if not isinstance(found, dict):
        return False
    keys = {key.lower() for key in found}
    return bool(keys & _ERROR_KEYS) and not keys & _DATA_KEYS


_SECRET_WORDS = "token|password|passwd|secret|signature|session|credential|totp|otp|key|sid|user|username"
_HIDE = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"//[^/\s@]{1,200}@", f"//{MASK}@"),
        (r"\?[^\s\"'<>]+", f"?{MASK}"),
        (r"\b(bearer|basic)\s+[^\s\"']+", rf"\1 {MASK}"),
        (rf"((?:{_SECRET_WORDS})\b[\"']?\s*(?:[:=]|%3D)\s*)(?:\"[^\"]*\"?|'[^']*'?|[^\s,;&}}\"']+)", rf"\1{MASK}"),
        (r"\beyJ[\w.+/=-]*", MASK),
        (r"[\w+/=.~%-]{20,}", MASK),
    )
)


def _quoted(head: bytes) -> str:
    """What a person can use of the page's own words, as a clause; empty where it has none."""
    if not _reads_as_text(head):
        return ""
    text = as_text(head[:8192])
    text = re.sub(r"(?is)<(script|style)\b.*?(</\1\s*>|\Z)", " ", text)
    text = html.unescape(re.sub(r"<[^>]*(>|\Z)", " ", text))
    text = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in text.replace("\ufffd", ""))
    for pattern, replacement in _HIDE:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    if not text:
        return ""
    return f'; it says "{text if len(text) <= _QUOTE else text[: _QUOTE - 1] + "…"}"'
