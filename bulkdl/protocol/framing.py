"""Framing of a response's body (RFC 9112 §6): where the body ends, as the raw bytes of its head say.

aiohttp's parsers (llhttp, and its parser in Python) reject heads that other clients read, and take other heads for a body
that the end of the connection ends, so that chunks would be stored with their framing. This module therefore reads the
framing fields before the parser does. It writes them anew in the one form that both parsers understand alike, and it
refuses what has no certain meaning. Pure.
"""

from __future__ import annotations

import re

from bulkdl.core.fast_dataclass import dataclass

__all__ = ["Framing", "FramingError", "could_be_head", "head_end", "read_framing", "transfer_codings"]

_FIELD = re.compile(rb"\n((?i:content-length|transfer-encoding))[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)")
"""A framing field with its continuation lines (obs-fold, RFC 9112 §5.2). It begins at the end of the line before."""
_STATUS_LINE = re.compile(rb"HTTP/(\d\.\d) +(\d{3})")
_HEAD_END = re.compile(rb"\n\r?\n")
_MAX_DIGITS = 19
"""Digits of the longest length that both parsers can count. `resume` decides which lengths are absurd."""


class FramingError(Exception):
    """A head whose framing has no certain meaning; `reason` completes "the server sent …"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Framing:
    """The end of a body, and the head that every parser reads alike."""

    head: bytes
    """The same object that was read if nothing had to be written anew."""
    status: int
    """0 if the head has no status line that this module understands; the parser refuses such a head."""
    length: int | None
    """Bytes of the body; None: its chunks or the end of the connection end it."""
    reusable: bool = True
    """False: the framing is ambiguous for others, so the connection must not be used again (RFC 9112 §6.3)."""


def head_end(data: bytes, at: int = 0) -> int:
    """Return the end of the head that begins at offset `at` of `data`, 0 if it has not arrived completely."""
    found = _HEAD_END.search(data, at)
    return 0 if found is None else found.end()


def could_be_head(data: bytes) -> bool:
    """Return whether `data` begins as a response does."""
    return data[:5] == b"HTTP/"[: len(data)]


def read_framing(head: bytes) -> Framing:
    """Return the framing of a complete head; raise `FramingError` if it has no certain meaning."""
    line = _STATUS_LINE.match(head)
    if line is None:
        return Framing(head, 0, None)
    status = int(line[2])
    found = _FIELD.findall(head)
    if not found:
        return Framing(head, status, _without_fields(status))
    if len(found) == 1 and len(found[0][0]) == len(b"content-length"):
        value = found[0][1].strip(b" \t\r")
        if value.isdigit() and len(value) <= _MAX_DIGITS:
            return Framing(head, status, _without_fields(status) if _has_no_body(status) else int(value))
    return _written_anew(head, status, found, is_http10=line[1] == b"1.0")


def transfer_codings(values: list[str]) -> list[str]:
    """Return the transfer codings of these field values in order, in lower case.

    `identity` and empty elements mean nothing (RFC 9110 §5.6.1). `chunked` counts once: servers behind a proxy name it
    twice, and no server applies it twice (RFC 9112 §6.1).
    """
    words = [word.strip(" \t\r\n").lower() for value in values for word in value.split(",")]
    words = [word for word in words if word not in {"", "identity"}]
    return ["chunked"] if set(words) == {"chunked"} else words


def _has_no_body(status: int) -> bool:
    """Return whether a response with this status never has a body (RFC 9112 §6.3)."""
    return 100 <= status <= 199 or status in (204, 304)


def _without_fields(status: int) -> int | None:
    return 0 if _has_no_body(status) else None


def _written_anew(head: bytes, status: int, found: list[tuple[bytes, bytes]], *, is_http10: bool) -> Framing:
    """Return the framing of unusual fields, and a head in which one plain field says the same."""
    codings = transfer_codings([value.decode("latin-1") for name, value in found if name[:1] in b"tT"])
    lengths = [value for name, value in found if name[:1] in b"cC"]
    rest = _FIELD.sub(b"", head)
    if codings:
        # A length beside a transfer coding does not count, and may be an attack on a proxy (RFC 9112 §6.3).
        field = b"Transfer-Encoding: " + ", ".join(codings).encode("latin-1")
        length = _without_fields(status)
        reusable = not lengths and not is_http10
    elif lengths:
        length = _one_length(lengths)
        field, reusable = b"Content-Length: %d" % length, len(lengths) == 1
        length = _without_fields(status) if _has_no_body(status) else length
    else:
        return Framing(rest, status, _without_fields(status))
    first, newline, others = rest.partition(b"\n")
    return Framing(first + newline + field + b"\r\n" + others, status, length, reusable)


def _one_length(values: list[bytes]) -> int:
    """Return the length that all elements of `Content-Length` agree on (RFC 9110 §8.6)."""
    words = [word.strip(b" \t\r\n") for value in values for word in value.split(b",")]
    words = [word.lstrip(b"0") or b"0" for word in words if word]
    if not words or not all(word.isdigit() for word in words):
        raise FramingError("a Content-Length that is not a number")
    if len(set(words)) > 1:
        shown = ", ".join(word[:20].decode("latin-1") for word in dict.fromkeys(words))
        raise FramingError(f"lengths that differ (Content-Length: {shown[:60]})")
    if len(words[0]) > _MAX_DIGITS:
        raise FramingError("a Content-Length that no file can have")
    return int(words[0])
