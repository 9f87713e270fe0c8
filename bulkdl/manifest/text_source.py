"""Decode the bytes of a manifest; check encoding, forbidden characters and size, and report positions."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Protocol

from bulkdl.manifest.problems import FatalProblem

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ByteStream", "Source"]

_MAX_BYTES = 512 * 1024 * 1024
_CHUNK = 64 * 1024
_CONTROLS = bytes([*range(9), 11, 12, *range(14, 32), 127])
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ufffe\uffff]")
_URL_LINE = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")


class ByteStream(Protocol):
    """The part of a binary stream that is used."""

    def read(self, size: int, /) -> bytes: ...


class Source:
    """Decoded text of a binary stream, with the `read` method that libyaml calls."""

    def __init__(self, stream: ByteStream, *, allow_controls: bool = False) -> None:
        self._stream = stream
        self._allow_controls = allow_controls
        self._decoder: codecs.IncrementalDecoder | None = None
        self._read_ahead: list[str] = []
        self._bytes = 0
        self._ended = False
        self.line = 1
        """Line and column (from 1) of the end of the text read so far."""
        self.column = 1

    def read(self, size: int = _CHUNK) -> str:  # noqa: ARG002 - libyaml accepts any length
        """Return the next text, empty at the end. Raise `FatalProblem` if the bytes are not text."""
        return self._read_ahead.pop(0) if self._read_ahead else self._next()

    def is_url_list(self) -> bool:
        """Return True if the first line that is not blank or a comment starts like a URL.

        Read only as many chunks as this takes; `read` returns them again.
        """
        text = ""
        while True:
            for line in text.split("\n"):
                if line.strip() and not line.lstrip().startswith("#"):
                    return _URL_LINE.match(line) is not None
            chunk = self._next()
            if not chunk:
                return False
            self._read_ahead.append(chunk)
            text = text.rpartition("\n")[2] + chunk

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield every line with its number (from 1), without its line end."""
        rest, number = "", 1
        while chunk := self.read():
            *whole, rest = (rest + chunk).split("\n")
            for line in whole:
                yield number, line.removesuffix("\r")
                number += 1
        if rest:
            yield number, rest

    def _next(self) -> str:
        while not self._ended:
            raw = self._stream.read(_CHUNK)
            if self._decoder is None:
                while raw and len(raw) < 4 and (more := self._stream.read(_CHUNK)):
                    raw += more
                self._decoder = _decoder_for(raw)
            self._ended = not raw
            self._bytes += len(raw)
            if self._bytes > _MAX_BYTES:
                raise FatalProblem(self.line, self.column, "the manifest is larger than 512 MiB; split it into several")
            text = self._decode(raw)
            if text:
                return text
        return ""

    def _decode(self, raw: bytes) -> str:
        decoder = self._decoder
        if decoder is None:
            return ""
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            valid = bytes(error.object[: error.start]).decode(error.encoding, "ignore")
            self._advance(valid)
            found = f"0x{error.object[error.start]:02x}"
            message = (
                f"not {error.encoding.upper()} text (byte {found}); expected UTF-8: save the file in that encoding"
            )
            raise FatalProblem(self.line, self.column, message) from None
        if not self._allow_controls and (not text.isascii() or len(raw.translate(None, _CONTROLS)) != len(raw)):
            self._refuse_controls(text)
        self._advance(text)
        return text

    def _refuse_controls(self, text: str) -> None:
        found = _NOT_TEXT.search(text)
        if found:
            self._advance(text[: found.start()])
            message = f"a control character (U+{ord(found[0]):04X}); expected plain text"
            raise FatalProblem(self.line, self.column, message)

    def _advance(self, text: str) -> None:
        lines = text.count("\n")
        if lines:
            self.line += lines
            self.column = len(text) - text.rfind("\n")
        else:
            self.column += len(text)


def _decoder_for(start: bytes) -> codecs.IncrementalDecoder:
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise FatalProblem(1, 1, "UTF-32 text; expected UTF-8: save the file in that encoding")
    if len(start) >= 4 and start[0] and start[2] and start[1] == start[3] == 0:  # ASCII text in UTF-16 without a mark
        return codecs.getincrementaldecoder("utf-16-le")()
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return codecs.getincrementaldecoder("utf-16")()
    return codecs.getincrementaldecoder("utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8")()
