"""Content codings that nobody asked for (RFC 9110 §8.4): which belong to the product, which come off while it arrives."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

from bulkdl.core.errors import TryAgain
from bulkdl.core.models import FailureKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = ["Decoder", "decodable", "is_the_format", "named"]

STEP = 256 * 1024
"""Bytes that one step decodes at most: a thousandfold bomb then costs no more memory than any other body."""
CODED_TRIES = 3
"""A damaged coding is asked for again this often."""
_FORMATS = {"gzip": ("gz", "tgz", "gzip", "svgz"), "br": ("br",), "zstd": ("zst", "zstd"), "deflate": ("zz", "zlib")}
"""The suffixes of files that are what a coding makes."""
_GZIP = zlib.MAX_WBITS | 16
_GZIP_MAGIC = b"\x1f\x8b"


def named(fields: Collection[str]) -> str:
    """The codings that `Content-Encoding` fields name, in their order, without `identity`; "" where there is none."""
    if not any(fields):
        return ""
    words = [re.sub(r"^x-(?=gzip$)", "", word.strip().lower()) for field in fields for word in field.split(",")]
    return ", ".join(word for word in words if word not in {"", "identity"})


def is_the_format(coding: str, names: Iterable[str]) -> bool:
    """Whether one of a product's names says that the product is what `coding` makes: then nothing is to be decoded.

    Servers label an `a.csv.gz` that lies on their disk with `Content-Encoding: gzip`.
    """
    suffixes = tuple(f".{suffix}" for suffix in _FORMATS.get(coding, ()))
    return bool(suffixes) and any(name.lower().endswith(suffixes) for name in names)


def decodable(coding: str) -> bool:
    """Whether `Decoder` takes it off."""
    return coding in {"gzip", "deflate"}


class Decoder:
    """Takes `gzip` (RFC 1952, several members too) or `deflate` (RFC 1950, and bare RFC 1951 as many send it) off a body.

    `feed` gives it what has arrived; `step` is to be called until it gives nothing more; `finish` is for the body's end.
    """

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._waiting = b""
        self._inner = zlib.decompressobj(_GZIP) if coding == "gzip" else None
        self._taken = 0

    def feed(self, coded: bytes) -> None:
        self._waiting += coded
        self._taken += len(coded)

    def taken(self) -> int:
        """Coded bytes since this was last asked."""
        taken, self._taken = self._taken, 0
        return taken

    def step(self) -> bytes:
        """At most `STEP` decoded bytes, b"" when more has to arrive first; raise `TryAgain` for what is no such coding."""
        while True:
            inner = self._ready()
            if inner is None:
                return b""
            try:
                out = inner.decompress(self._waiting, STEP)
            except zlib.error:
                raise self._damaged("is damaged") from None
            before, self._waiting = len(self._waiting), inner.unused_data if inner.eof else inner.unconsumed_tail
            if out or len(self._waiting) == before:
                return out

    def finish(self) -> None:
        """The body has ended: raise `TryAgain` unless the coding has too."""
        if self._inner is None or not self._inner.eof or self._waiting:
            raise TryAgain(f"the body ended inside its {self._coding} coding", kind=FailureKind.NETWORK)

    def _ready(self) -> zlib._Decompress | None:
        """What decodes the next bytes; None when that cannot be told yet."""
        if self._inner is None and len(self._waiting) >= 2:
            self._inner = zlib.decompressobj(zlib.MAX_WBITS if _has_zlib_header(self._waiting) else -zlib.MAX_WBITS)
        elif self._inner is not None and self._inner.eof and self._waiting:
            if self._coding != "gzip" or not self._waiting.startswith(_GZIP_MAGIC[: len(self._waiting)]):
                raise self._damaged("is followed by something else")
            if len(self._waiting) < len(_GZIP_MAGIC):
                return None
            self._inner = zlib.decompressobj(_GZIP)
        return self._inner

    def _damaged(self, how: str) -> TryAgain:
        return TryAgain(
            f"the body's {self._coding} coding {how}",
            kind=FailureKind.CONTENT,
            limit=CODED_TRIES,
            hint="The archive codes what was asked for plain; report it there",
        )


def _has_zlib_header(begin: bytes) -> bool:
    """RFC 1950 §2.2: method 8, and a check of the two bytes."""
    return begin[0] & 0x0F == 8 and begin[0] >> 4 <= 7 and (begin[0] << 8 | begin[1]) % 31 == 0
