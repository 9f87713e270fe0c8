"""Detect error pages and other wrong content from the first bytes of a body.

There are two checks: is the body an error page instead of the product, and does it begin with the signature that the
file name requires. A false alarm loses a product. So `signatures` lists a file type only if all its files begin
alike, and a name of any other type passes.
"""

from __future__ import annotations

import html
import json
import re
from functools import lru_cache

from bulkdl.content.signatures import FileType, Fit, Language, as_text, file_type_of, is_data_file
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.secret import MASK

__all__ = ["HEAD_SIZE", "html_or_json_error", "objection"]

HEAD_SIZE = 64 * 1024
"""Bytes at the beginning of a product that `objection` can use; it accepts fewer."""

_MAX_ERROR_BYTES = 64 * 1024  # a larger JSON document is not an error object
_MAX_QUOTE_CHARS = 60
_NOT_SPACE = re.compile(r"\S")
_NO_MARKUP = re.compile(rb"[\t-\r ]*[!-;=-~\x00-\x08\x0e-\x1b\x80-\xc1\xc3-\xe0\xe4-\xee\xf0-\xfd]")
"""Heads without a byte order mark whose first character, after white space, does not open an element."""
_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HTML_ROOTS = frozenset({"html", "head", "body"})
_ERROR_ROOTS = frozenset(
    {"error", "errors", "errorresponse", "exceptionreport", "fault", "serviceexception", "serviceexceptionreport"}
)
_HTML_ELEMENTS = _words(
    "a base br center div font form frameset h1 h2 h3 h4 hr iframe img link main meta noscript p pre "
    "script section span style table title"
)
"""Elements that begin an HTML page without a root. XML has some of them too, so the declared type must agree."""
_ERROR_KEYS = _words(
    "error errors error_description errorcode error_code errormessage error_message fault faultstring exception"
)
_MESSAGE_KEYS = _words("message msg detail details description reason")
_STATUS_KEYS = _words("status statuscode status_code httpstatus code success ok")
_COMPANION_KEYS = _words(
    "title type instance timestamp time path requestid request_id traceid trace_id trace correlationid "
    "transactionid resource hostid help documentation_url info url method"
)
_DATA_KEYS = frozenset(
    {"assets", "coordinates", "data", "features", "geometry", "items", "properties", "results", "value"}
)
_GOOD_STATUSES = frozenset({"ok", "success", "succeeded", "successful", "done", "true", "0"})
_MAX_OTHER_KEYS = 3
"""An error object has at most so many keys that are no words of errors."""


@dataclass(frozen=True, slots=True)
class _Page:
    label: str
    language: Language
    certain: bool = True
    """True if the bytes alone show it; False if XML or text may begin like it, and the Content-Type decides."""


def objection(
    *,
    name: str,
    head: bytes,
    content_type: str,
    size: int | None,
    requested_accept: str | None = None,
    name_is_guess: bool = False,
) -> str | None:
    """Return a sentence why a body that begins with `head` cannot be the product `name`, or None if it can.

    `content_type`: of the response, may be empty. `size`: the product's bytes, if known or declared.
    `requested_accept`: the product's own Accept header; if it asks for HTML, an HTML page is right. `name_is_guess`: the
    name is from a URL or a response, so another known file type is right too. A declared type alone is no reason: many
    servers declare `text/html` for whatever they do not know. The sentence quotes at most 60 characters of an error page, without tags, tokens or queries.
    """
    file_type = file_type_of(name)
    if not head:
        return (
            None
            if size == 0 or file_type is None or file_type.may_be_empty
            else f"the content is empty, which {file_type.label} never is"
        )
    fit = Fit.YES if file_type is None else file_type.fits(head, size is not None and len(head) >= size)
    page = _error_page(head, content_type, size)
    if page is not None and not _is_the_product(page, file_type, fit, content_type, requested_accept):
        return f"the content is {page.label}{'' if file_type is None else f', not {file_type.label}'}{_quoted(head)}"
    if file_type is None or fit is not Fit.NO or (name_is_guess and is_data_file(head)):
        return None
    return f"the content does not begin like {file_type.label}{_quoted(head)}"


def html_or_json_error(head: bytes, content_type: str) -> bool:
    """Tell whether a body that begins with `head` is an error page: HTML, an XML error or a JSON error object.

    Call it with the first bytes, before anything is written. The caller must know whether its product could be such a
    page itself (see `objection`). Return False for an empty `head`.
    """
    return bool(head) and _error_page(head, content_type, None) is not None


def _is_the_product(page: _Page, file_type: FileType | None, fit: Fit, content_type: str, accept: str | None) -> bool:
    """Tell whether the page is the product itself. A page sent as text/html is never an XML, text or CSV product."""
    if file_type is None:
        return page.language.value in (accept or "").lower()
    if file_type.language is None:
        return False
    if not page.certain:
        return fit is Fit.YES
    if page.language is Language.HTML and file_type.language in {Language.XML, Language.TEXT}:
        return _media_type(content_type) != "text/html"
    if page.language is Language.HTML and file_type.language is Language.JSON:
        return fit is Fit.YES
    return True


def _error_page(head: bytes, content_type: str, size: int | None) -> _Page | None:
    media = _media_type(content_type)
    if media not in _HTML_TYPES and not media.endswith("json") and _NO_MARKUP.match(head):
        return None
    text = as_text(head)
    root = _root(text)
    if root in _HTML_ROOTS:
        return _Page("an HTML page", Language.HTML)
    if root in _ERROR_ROOTS:
        return _Page("an XML error message", Language.XML)
    if (media.endswith("json") or media == "text/html") and _json_error(text, media, size):
        return _Page("a JSON error message", Language.JSON)
    if media in _HTML_TYPES and root in _HTML_ELEMENTS:
        return _Page("an HTML page", Language.HTML, certain=False)
    return None


@lru_cache(maxsize=64)
def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _reads_as_text(head: bytes) -> bool:
    """Tell whether the head has no control characters except white space."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    return not any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head[:1024])


def _looks_like_json(text: str) -> bool:
    return text.lstrip()[:1] in {"{", "["}


def _root(text: str) -> str:
    """Return the first element's local name in lower case, after declarations and comments.

    Return `html` for an HTML doctype, and an empty string if there is no element.
    """
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
    """Tell whether the text is one JSON object that says nothing but that an error has happened."""
    if not _looks_like_json(text):
        return False
    if media == "application/problem+json":  # RFC 9457
        return True
    if max(size or 0, len(text)) >= _MAX_ERROR_BYTES:
        return False
    text = text.strip()
    try:
        found, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        # The JSON is truncated or invalid, so only its first key can tell.
        first = _FIRST_ERROR.match(text[:256])
        return first is not None and first.group(1).lower() in _ERROR_KEYS
    if end < len(text):
        return False  # JSON lines
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    return isinstance(found, dict) and _error_object({key.lower(): value for key, value in found.items()})


_FIRST_ERROR = re.compile(r'[\s\[{]*"(\w{1,40})"\s*:\s*(?:"[^"]|\{\s*"|\[\s*["{]|true)')
"""The first key of an object, whose value is a text, an object or an array that is not empty, or true."""


def _error_object(found: dict[str, object]) -> bool:
    keys = found.keys()
    if any(_is_good_status(found[key]) for key in keys & _STATUS_KEYS) or any(found[key] for key in keys & _DATA_KEYS):
        return False
    others = keys - _ERROR_KEYS - _MESSAGE_KEYS - _STATUS_KEYS - _COMPANION_KEYS
    if any(_names_an_error(found[key]) for key in keys & _ERROR_KEYS):
        return len(others) <= _MAX_OTHER_KEYS
    says = any(isinstance(found[key], str) and found[key] for key in keys & _MESSAGE_KEYS)
    return not others and (says or any(_is_error_status(found[key]) for key in keys & _STATUS_KEYS))


def _names_an_error(value: object) -> bool:
    """Tell whether the value of a key like `error` reports one: `null`, an empty list or a measured error does not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return bool(value)
    return _is_error_status(value)


def _is_error_status(value: object) -> bool:
    return isinstance(value, int) and 400 <= value <= 599


def _is_good_status(value: object) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return value == 0 or 200 <= value <= 299
    return str(value).lower() in _GOOD_STATUSES


_SECRET_WORDS = "token|password|passwd|secret|signature|session|credential|totp|otp|key|sid|user|username"
_MASKED_PATTERNS = tuple(
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
    """Quote the readable text of the page as a clause, without tags and secrets; empty if there is none."""
    if not _reads_as_text(head):
        return ""
    text = as_text(head[:8192])
    text = re.sub(r"(?is)<(script|style)\b.*?(</\1\s*>|\Z)", " ", text)
    text = html.unescape(re.sub(r"<[^>]*(>|\Z)", " ", text))
    text = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in text.replace("\ufffd", ""))
    for pattern, replacement in _MASKED_PATTERNS:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    if not text:
        return ""
    return f'; it says "{text if len(text) <= _MAX_QUOTE_CHARS else text[: _MAX_QUOTE_CHARS - 1] + "…"}"'
