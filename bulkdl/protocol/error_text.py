"""Read what an archive says in the body of an error response: one line, masked, for people. Pure.

An archive tells more than its status: a licence to accept and its link, a quota, a product that moved to cold storage.
The text stands behind the status in every message. A server may echo anything, so secrets are masked: those that the
request carried, and whatever looks like a token.
"""

from __future__ import annotations

import html
import json
import re
import zlib
from typing import TYPE_CHECKING, Any

from bulkdl.core.secret import MASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["MOST_CHARS", "error_text", "mask", "request_id"]

MOST_CHARS = 200
"""Limit of characters of the text."""
_MOST_DECOMPRESSED = 8192
"""Bytes of a compressed body that are read."""
_MOST_MASKED = 1000
"""Characters that are searched for secrets; the patterns take quadratic time on hostile text."""
_MIN_SECRET_CHARS = 4
"""A shorter secret is not looked for: masking every occurrence of it would reveal it."""

_HEADINGS = ("error", "title", "code", "errorcode", "error_code", "faultcode", "status_text", "name", "reason_code")
_DETAILS = (
    "detail",
    "details",
    "message",
    "error_description",
    "errormessage",
    "error_message",
    "description",
    "msg",
    "reason",
    "faultstring",
    "info",
    "text",
    "value",
)
_CONTAINERS = ("errors", "fault", "exception", "exceptions", "meta", "response", "result", "data")
_XML_DETAILS = (
    "message|exceptiontext|serviceexception|faultstring|text|detail|title|description|reason|error_description|msg"
)
_XML_HEADINGS = "code|faultcode|title"
_ID_FIELDS = (
    "x-request-id",
    "x-amz-request-id",
    "x-amzn-requestid",
    "x-correlation-id",
    "x-trace-id",
    "x-b3-traceid",
    "x-ms-request-id",
    "x-goog-request-id",
    "x-guploader-uploadid",
    "x-transaction-id",
    "x-openstack-request-id",
    "x-trans-id",
    "x-kong-request-id",
    "request-id",
    "correlation-id",
    "traceparent",
    "cf-ray",
    "x-amz-cf-id",
    "x-served-by",
)


def error_text(body: bytes, content_type: str = "", *, secrets: Iterable[str] = ()) -> str:
    """Return the message of an error's body in at most `MOST_CHARS` characters; "" if there is none to read.

    `body` may be cut off. `secrets`: the texts that the request carried and that must not be shown.
    """
    text = _decoded(body, content_type)
    if not text.strip() or _is_binary(text):
        return ""
    media = content_type.partition(";")[0].strip().lower()
    first = text.lstrip()[:1]
    if first in "{[" or (first == '"' and media.endswith("json")):
        found = _of_json(text)
    elif first == "<":
        found = _of_markup(text)
    else:
        found = text
    return _shortened(mask(found, secrets))


def request_id(headers: Mapping[str, str]) -> str:
    """Return the id that the server gave the request, as `name=value`, for a question to its operator; "" if none."""
    lowered = {name.lower(): value for name, value in headers.items()}
    for name in _ID_FIELDS:
        value = lowered.get(name, "")
        if re.fullmatch(r"[\w.:/+=@-]{1,128}", value, re.ASCII):
            return f"{name}={value}"
    return ""


def _decoded(body: bytes, content_type: str) -> str:
    if body.startswith(b"\x1f\x8b"):  # some servers compress their error pages whatever was asked for
        try:
            body = zlib.decompressobj(31).decompress(body, _MOST_DECOMPRESSED)
        except zlib.error:
            return ""
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16", "ignore")
    charset = re.search(r"charset\s*=\s*\"?([\w.:-]{1,40})", content_type, re.IGNORECASE)
    for name in (*((charset[1],) if charset else ()), "utf-8"):
        try:
            # The last character may be cut off, so an error in the last 4 bytes is none.
            return body.removeprefix(b"\xef\xbb\xbf").decode(name)
        except UnicodeDecodeError as error:
            if error.end >= len(body) - 4 and error.start > 0:
                return body[: error.start].decode(name, "ignore")
        except (LookupError, ValueError):
            continue
    return body.decode("cp1252", "replace")


def _is_binary(text: str) -> bool:
    return any(c < " " and c not in "\t\n\r\f\x1b" for c in text[:1024])


# JSON


def _of_json(text: str) -> str:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return _of_broken_json(text)
    try:
        return _joined(_messages(document)) or "; ".join(_leaves(document))
    except RecursionError:
        return ""


def _messages(value: Any) -> Iterator[str]:
    """Yield the heading, then the details, of an error object in any of the usual forms (RFC 9457 and others)."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value[:3]:
            yield from _messages(each)
    elif isinstance(value, dict):
        by_name = {key.lower().replace("-", "_"): each for key, each in value.items()}
        by_name |= {key.lower(): each for key, each in value.items()}
        for names in (_HEADINGS, _DETAILS, _CONTAINERS):
            for name in names:
                if name in by_name:
                    yield from _messages(by_name[name])


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _leaves(each)


def _of_broken_json(text: str) -> str:
    """Return the messages of JSON that is cut off or invalid, found by their keys; else the text itself."""
    keys = "|".join((*_HEADINGS, *_DETAILS))
    found = re.findall(rf'"(?:{keys})"\s*:\s*"((?:[^"\\]|\\.){{1,400}})', text[:4096], re.IGNORECASE)
    return _joined(re.sub(r"\\u[0-9a-fA-F]{4}|\\.", " ", each) for each in found) or text


def _joined(texts: Iterable[str]) -> str:
    """Join the texts, each once, leaving out those that another one contains."""
    kept: list[str] = []
    for text in (" ".join(t.split()).rstrip(":") for t in texts):
        if text and not any(text.lower() in other.lower() for other in kept):
            kept = [other for other in kept if other.lower() not in text.lower()]
            kept.append(text)
    return ": ".join(kept)


# XML and HTML


def _of_markup(text: str) -> str:
    text = re.sub(r"<!--.*?(?:-->|\Z)", " ", text, flags=re.DOTALL)
    text = re.sub(r"<!\[CDATA\[(.*?)(?:\]\]>|\Z)", lambda m: html.escape(m[1]), text, flags=re.DOTALL)
    if re.search(r"<!doctype\s+html|<(?:html|head|body|h1|title|p|div|center)\b", text[:2048], re.IGNORECASE):
        return _of_html(text)
    code = re.search(r"\b(?:exceptionCode|code)\s*=\s*[\"']([\w.:-]{1,80})", text)
    details = _elements(text, _XML_DETAILS)
    headings = _elements(text, _XML_HEADINGS) or ([code[1]] if code else [])
    return _joined((*headings, *details)) or _plain(re.sub(r"<\?.*?\?>", " ", text, flags=re.DOTALL))


def _elements(text: str, names: str) -> list[str]:
    pattern = rf"<(?:[\w.-]{{1,40}}:)?({names})(?:\s[^>]*)?>(.*?)(?:</(?:[\w.-]{{1,40}}:)?\1\s*>|\Z)"
    found = re.findall(pattern, text, re.IGNORECASE | re.DOTALL)
    return [plain for _, inner in found[:4] if (plain := _plain(inner))]


def _of_html(text: str) -> str:
    """Return the title, else the first heading; "" if they only repeat the status, as most servers' own pages do."""
    text = re.sub(r"(?is)<(script|style)\b.*?(?:</\1\s*>|\Z)", " ", text)
    for names in ("title", "h1", "h2"):
        for found in _elements(text, names):
            if not _REPEATS_STATUS.fullmatch(found):
                return found
    has_heading = re.search(r"<(?:title|h1|h2)\b", text, re.IGNORECASE)
    return "" if has_heading else _plain(text)


_REPEATS_STATUS = re.compile(
    r"(?:http\s*(?:status|error)?\W*)?(?:\d{3}\W*)?(?:error|bad request|unauthorized|(?:authorization|authentication)"
    r" required|payment required|forbidden|access denied|(?:page |file |object )?not found|method not allowed|gone|"
    r"too many requests|internal server error|bad gateway|(?:service|server) (?:temporarily )?unavailable|gateway time-?out)?"
    r"\W*(?:\d{3})?\W*",
    re.IGNORECASE,
)


def _plain(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*(?:>|\Z)", " ", text)).split())


# Masking


_SECRET_NAMES = (
    r"[\w-]{0,40}(?:token|passw(?:or)?d|passwd|pwd|passcode|passphrase|secret|signature|credential|totp|otp|api[_-]?key|access[_-]?key"
    r"|session(?:[_-]?id)?|sid|jsessionid|cookie|authorization|assertion|private[_-]?key)[\w-]{0,40}"
)
_ASSIGNED = re.compile(
    rf"\b({_SECRET_NAMES}[\"']?\s*(?:=|%3D)\s*[\"']?|{_SECRET_NAMES}[\"']?\s*:\s*(?:[\"']|(?=\S*\d|\S{{16,}})))"
    rf"(?!{re.escape(MASK)})[^\s,;&\"'<>]+",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(bearer|basic|digest|negotiate)\s+(?=\S*\d|\S{16,})[^\s\"',;<>]+", re.IGNORECASE)
_URL = re.compile(r"\b([a-z][a-z0-9+.-]{1,15}://)([^\s\"'<>]+)", re.IGNORECASE)
_PUBLIC_PARAMETER = re.compile(
    r"(?:lang|locale|id|page|product|dataset|collection|version|licen[cs]e|licen[cs]e_id|eula|doc|client_id)=[\w.-]{1,40}"
)
"""Parameters that a link to a licence needs; a client id is no secret (RFC 6749 §2.2)."""
_QUERY = re.compile(r"\?[^\s\"'<>]*=[^\s\"'<>]*")
_CANDIDATE = re.compile(r"[\w+/=~.%-]{20,}")
_JWT = re.compile(r"\beyJ[\w.+/=-]*")
_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE)


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` on one line without control characters, with secrets and whatever looks like one masked."""
    from urllib.parse import quote, quote_plus  # noqa: PLC0415 - most runs see no error

    for secret in sorted({s for s in secrets if len(s) >= _MIN_SECRET_CHARS}, key=len, reverse=True):
        forms = {secret, secret.strip(), quote(secret, safe=""), quote_plus(secret), quote(secret), html.escape(secret)}
        for form in sorted(forms - {""}, key=len, reverse=True):
            text = re.sub(re.escape(form), MASK, text, flags=re.IGNORECASE)
    text = " ".join("".join(c if c.isprintable() else " " for c in text.replace("\ufffd", "")).split())
    text = text[:_MOST_MASKED]
    text = _JWT.sub(MASK, text)
    text = _SCHEME.sub(rf"\1 {MASK}", text)
    links: list[str] = []

    def set_aside(found: re.Match[str]) -> str:
        links.append(_masked_url(found[1], found[2]))
        return f"\x00{len(links) - 1}\x00"

    text = _URL.sub(set_aside, text)
    text = _ASSIGNED.sub(rf"\1{MASK}", text)
    text = _UUID.sub(MASK, _QUERY.sub(f"?{MASK}", text))
    text = _CANDIDATE.sub(_masked_word, text)
    return re.sub("\x00(\\d+)\x00", lambda found: links[int(found[1])], text)


def _masked_url(scheme: str, rest: str) -> str:
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        authority = f"{MASK}@{authority.rpartition('@')[2]}"
    path = "/".join(MASK if _looks_secret(piece) or "=" in piece else piece for piece in path.split("/"))
    if query and not all(_PUBLIC_PARAMETER.fullmatch(each) for each in query.rstrip(".,;)").split("&")):
        query = MASK
    shown = f"{scheme}{authority}{slash}{path}{'?' if query else ''}{query}"
    return f"{shown}#{fragment}" if re.fullmatch(r"[\w-]{1,15}", fragment) else shown


def _masked_word(found: re.Match[str]) -> str:
    word = found[0]
    if word.startswith("/"):  # a path: its folders are judged one by one
        return "/".join(MASK if _looks_secret(piece) else piece for piece in word.split("/"))
    return MASK if _looks_secret(word) else word


def _looks_secret(word: str) -> bool:
    """Tell whether a word is long and mixed like a token; names of products have capitals, digits and separators."""
    if _UUID.search(word) or _JWT.search(word):
        return True
    for part in re.split(r"[._]", word) if re.search(r"\.[A-Za-z0-9]{1,8}$", word) else (word,):
        if len(part) < 20:
            continue
        letters, digits = re.sub(r"[^A-Za-z]", "", part), re.sub(r"\D", "", part)
        if (
            digits
            and re.search("[a-z]", letters)
            and (re.search("[A-Z]", letters) or re.search(r"[a-z]\d+[a-z]", part))
        ):
            return True
        if re.search(r"[A-Za-z0-9]{24,}", part) and digits and letters:
            return True
        if re.search(r"[+/=~%]", part) and re.search("[a-z]", letters) and re.search("[A-Z]", letters):
            return True
        if re.fullmatch(r"[A-Za-z]{20,}", part) and len(re.findall(r"[a-z][A-Z]", part)) >= 4:
            return True
    return False


def _shortened(text: str) -> str:
    text = text.strip(" .;:")
    return text if len(text) <= MOST_CHARS else f"{text[: MOST_CHARS - 1].rstrip()}…"
