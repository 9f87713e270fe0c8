"""Parser of `Content-Disposition` (RFC 6266): the file name that a server suggests, made safe. Pure.

Servers send many forms that no RFC allows. A form is understood if it can mean only one name; `file_name` says which
parameter wins.
"""

from __future__ import annotations

import binascii
import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from bulkdl.core.filenames import decode_name, safe_component

__all__ = ["file_name"]

_EXTENDED = re.compile(r"([A-Za-z0-9_.:+-]*)'[^']*'(.*)", re.DOTALL)
"""RFC 8187 §3.2.1: charset, language and percent-encoded text."""
_SECTION = re.compile(r"filename\*(0|[1-9][0-9]?)(\*?)")
"""One piece of a name in continuations (RFC 2231 §3)."""
_ENCODED_WORD = re.compile(r"=\?([^?*\s]+)(?:\*[^?]*)?\?([QqBb])\?([^?]*)\?=")
"""RFC 2047 §2; it is not allowed in a quoted string of HTTP, but mail libraries write it there."""
_BETWEEN_WORDS = re.compile(r"(\?=)\s+(?==\?)")
_WINDOWS_PATH = re.compile(r"[A-Za-z]:\\|\\\\|\.\.?\\")
_NEXT_VALUE = re.compile(r",\s*(?:attachment|inline|form-data)\s*(?:;|$)|,\s*filename\*?\s*=", re.IGNORECASE)
"""The beginning of a second field line that a proxy has joined to this one."""


@lru_cache(maxsize=64)
def file_name(value: str) -> str | None:
    """Return the file name of a `Content-Disposition`, made safe; None if it has none.

    `filename*` (RFC 8187) takes precedence, then a name in continuations (RFC 2231), then `filename`. The first
    parameter of a name wins. Only the last component of a path counts, whether it has slashes or backslashes.
    """
    if not value:
        return None
    parameters = _parameters(value)
    extended = _unquoted(parameters.get("filename*", ""))
    names = (
        _extended(extended),
        _continued(parameters),
        _encoded_words(_text(_unquoted(parameters.get("filename", "")))),
        "" if "'" in extended else decode_name(unquote_to_bytes(_bytes(extended))),  # without its charset
    )
    for name in names:
        last = re.split(r"[/\\]", _unquoted(name))[-1].strip()
        if last.strip(". "):
            return safe_component(last)
    return None


def _parameters(value: str) -> dict[str, str]:
    """Return the parameters, unquoted, with or without a disposition type before them; the first of each name wins."""
    found: dict[str, str] = {}
    rest = value
    while rest:
        name, mark, rest = _up_to_mark(rest)
        if mark == "=":
            text, rest = _value(rest.lstrip())
            found.setdefault(name.strip().lower(), text)
    return found


def _up_to_mark(text: str) -> tuple[str, str, str]:
    """Return the text up to the next `=`, `;` or quoted string, that mark, and the rest."""
    found = re.search(r'[=;"]', text)
    if found is None:
        return text, "", ""
    if found[0] == '"':  # a quoted string where a type or a name belongs
        return "", "", _quoted(text[found.start() :])[1]
    return text[: found.start()], found[0], text[found.end() :]


def _value(rest: str) -> tuple[str, str]:
    """Return a parameter's unquoted value and the rest of the text."""
    if rest.startswith('"'):
        text, after = _quoted(rest)
        return text, after.partition(";")[2]
    text, _, after = rest.partition(";")
    if (joined := _NEXT_VALUE.search(text)) is not None:
        return text[: joined.start()].strip(), ""
    return text.strip(), after


def _quoted(rest: str) -> tuple[str, str]:
    """Return the text of the quoted string at the beginning (RFC 9110 §5.6.4), and what follows it."""
    found = re.match(r'"((?:[^"\\]|\\.)*)"?', rest, re.DOTALL)
    body, after = (found[1], rest[found.end() :]) if found else (rest[1:], "")
    # Old servers send `C:\dir\a.zip` as it is, which must keep its separators.
    pairs = r'\\(["\\])' if _WINDOWS_PATH.match(body) else r"\\(.)"
    return re.sub(pairs, r"\1", body, flags=re.DOTALL), after


def _unquoted(text: str) -> str:
    """Return the text without a second pair of quotes, such as the single ones of `filename='a.nc'`."""
    text = text.strip()
    charset, mark, name = text.partition("''")
    if mark and len(name) > 1 and name[0] == name[-1] == '"':
        return charset + mark + name[1:-1]
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"" else text


def _extended(text: str) -> str:
    found = _EXTENDED.fullmatch(text)
    if found is None:
        return ""
    try:
        return unquote_to_bytes(_bytes(found[2])).decode(found[1] or "utf-8")
    except (LookupError, ValueError):
        return ""


def _continued(parameters: dict[str, str]) -> str:
    """Return the name whose pieces are `filename*0`, `filename*1*` and so on, up to the first that is missing."""
    pieces: dict[int, tuple[str, bool]] = {}
    for name, text in parameters.items():
        if (found := _SECTION.fullmatch(name)) is not None:
            pieces.setdefault(int(found[1]), (text, bool(found[2])))
    if 0 not in pieces:
        return ""
    first, is_extended = pieces[0]
    start = _EXTENDED.fullmatch(first) if is_extended else None
    charset = start[1] if start is not None else ""
    pieces[0] = (start[2] if start is not None else first, is_extended)
    raw = b""
    for number in range(len(pieces)):
        if number not in pieces:
            break
        text, is_encoded = pieces[number]
        raw += unquote_to_bytes(_bytes(text)) if is_encoded else _bytes(text)
    try:
        return raw.decode(charset) if charset else decode_name(raw)
    except (LookupError, ValueError):
        return decode_name(raw)


def _encoded_words(text: str) -> str:
    """Return the text with its encoded words (RFC 2047) decoded; one that cannot be decoded stays as it is."""
    if "=?" not in text:
        return text
    return _ENCODED_WORD.sub(_decoded_word, _BETWEEN_WORDS.sub(r"\1", text))


def _decoded_word(found: re.Match[str]) -> str:
    charset, kind, text = found.groups()
    try:
        raw = binascii.a2b_base64(text) if kind in "Bb" else binascii.a2b_qp(text, header=True)
        return raw.decode(charset)
    except (LookupError, ValueError):
        return found[0]


def _bytes(text: str) -> bytes:
    """Return the bytes of a field value: its text is Latin-1, or UTF-8 with surrogates for other bytes (PEP 383)."""
    for encoding in ("latin-1", "utf-8"):
        try:
            return text.encode(encoding, "surrogateescape")
        except UnicodeEncodeError:
            continue
    return text.encode("utf-8", "replace")


def _text(value: str) -> str:
    """Decode a plain `filename`: many servers mean UTF-8, others Latin-1."""
    return value if value.isascii() else decode_name(_bytes(value))
