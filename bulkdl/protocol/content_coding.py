"""Content codings that the server applied without being asked (RFC 9110 §8.4).

A coding either is the product's own format and is kept, or it is decoded while the body arrives.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

from bulkdl.core.errors import TryAgain
from bulkdl.core.models import FailureKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = ["Decoder", "decodable", "has_aws_chunks", "is_file_format", "is_only_label", "parse_codings"]

STEP = 256 * 1024
"""Limit of decoded bytes per step: a decompression bomb then needs no more memory than any other body."""
CORRUPT_CODING_TRIES = 3
"""Limit of attempts in a row if the coding of the body is corrupt."""
_FORMATS = {"gzip": ("gz", "tgz", "gzip", "svgz"), "br": ("br",), "zstd": ("zst", "zstd"), "deflate": ("zz", "zlib")}
"""File suffixes of the format that each coding produces."""
_REGISTERED = frozenset({"aes128gcm", "br", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "pack200-gzip", "zstd"})
"""The codings of IANA's registry (RFC 9110 §18.6) except `identity`."""
_MAGIC = {
    "gzip": (b"\x1f\x8b\x08",),
    "compress": (b"\x1f\x9d",),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16))),
    "dcb": (b"\xff\x44\x43\x42",),
    "dcz": (b"\x5e\x2a\x4d\x18",),
}
"""First bytes of each coding that has such."""
_AWS_SIGNED = re.compile(rb"[0-9a-fA-F]{1,16};chunk-signature=[0-9a-f]{64}\r\n")
_AWS_UNSIGNED = re.compile(rb"([0-9a-fA-F]{1,16})\r\n")
_GZIP = zlib.MAX_WBITS | 16
_GZIP_MAGIC = b"\x1f\x8b"


def parse_codings(fields: Collection[str]) -> str:
    """Return the codings in `Content-Encoding` fields, in order, without `identity`; "" if there is none.

    A word that names no registered coding is a label, such as `utf-8` or the `aws-chunked` of S3 gateways: the bytes are
    the product. A transfer coding that was not removed counts as a coding (`transfer NAME`).
    """
    if not any(fields):
        return ""
    words = [word.partition(";")[0].strip().lower() for field in fields for word in field.split(",")]
    words = [re.sub(r"^x-(?=(?:gzip|compress)$)", "", word) for word in words]
    return ", ".join(word for word in words if word in _REGISTERED or word.startswith("transfer "))


def is_file_format(coding: str, names: Iterable[str]) -> bool:
    """Return whether one of a product's names shows that `coding` is its own format, so that nothing is decoded.

    Servers label a stored `a.csv.gz` with `Content-Encoding: gzip`.
    """
    suffixes = tuple(f".{suffix}" for suffix in _FORMATS.get(coding, ()))
    return bool(suffixes) and any(name.lower().endswith(suffixes) for name in names)


def is_only_label(coding: str, beginning: bytes, *, ended: bool) -> bool:
    """Return whether a body with these first bytes cannot have `coding`, so that its bytes are the product.

    `ended`: these are all of its bytes.
    """
    outermost = coding.rpartition(", ")[2]
    if not beginning:
        return False
    if outermost == "deflate":
        return not _inflates(beginning)
    magic = _MAGIC.get(outermost)
    if magic is None or (not ended and len(beginning) < max(map(len, magic))):
        return False
    return not beginning.startswith(magic)


def _inflates(beginning: bytes) -> bool:
    bits = zlib.MAX_WBITS if _has_zlib_header(beginning) else -zlib.MAX_WBITS
    try:
        zlib.decompressobj(bits).decompress(beginning, STEP)
    except zlib.error:
        return False
    return True


def has_aws_chunks(beginning: bytes, *, length: int | None = None, labelled: bool = False) -> bool:
    """Return whether the chunk framing of an S3 upload is still in a body.

    Signed chunks are unmistakable. Unsigned ones count only in a body that is `labelled` as aws-chunked and whose `length`
    has room for the chunk and its framing.
    """
    if _AWS_SIGNED.match(beginning):
        return True
    plain = _AWS_UNSIGNED.match(beginning) if labelled else None
    return plain is not None and (length is None or int(plain[1], 16) + plain.end() < length)


def decodable(coding: str) -> bool:
    """Return whether `Decoder` supports `coding`."""
    return coding in {"gzip", "deflate"}


class Decoder:
    """Decodes a `gzip` or `deflate` body in steps.

    `gzip` is RFC 1952 with one or more members; `deflate` is RFC 1950, or raw RFC 1951, which many servers send. Pass
    received bytes to `feed`, then call `step` until it returns no more bytes. Call `finish` at the end of the body.
    """

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._pending = b""
        self._zlib = zlib.decompressobj(_GZIP) if coding == "gzip" else None
        self._encoded_count = 0

    def feed(self, encoded: bytes) -> None:
        self._pending += encoded
        self._encoded_count += len(encoded)

    def take_encoded_count(self) -> int:
        """Return and reset the number of encoded bytes that `feed` got since the last call."""
        count, self._encoded_count = self._encoded_count, 0
        return count

    def step(self) -> bytes:
        """Return at most `STEP` decoded bytes, b"" if more must arrive; raise `TryAgain` if the coding is corrupt."""
        while True:
            decoder = self._ready()
            if decoder is None:
                return b""
            try:
                out = decoder.decompress(self._pending, STEP)
            except zlib.error:
                raise self._corrupt("is corrupt") from None
            before, self._pending = len(self._pending), decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if out or len(self._pending) == before:
                return out

    def finish(self) -> None:
        """Raise `TryAgain` if the body ended before its coding did."""
        if self._zlib is None or not self._zlib.eof or self._pending:
            raise TryAgain(f"the {self._coding}-encoded response ended early", kind=FailureKind.NETWORK)

    def _ready(self) -> zlib._Decompress | None:
        """Return the decoder of the next bytes; None if more bytes are needed to choose one."""
        if self._zlib is None and len(self._pending) >= 2:
            self._zlib = zlib.decompressobj(zlib.MAX_WBITS if _has_zlib_header(self._pending) else -zlib.MAX_WBITS)
        elif self._zlib is not None and self._zlib.eof and self._pending:
            if self._coding != "gzip" or not self._pending.startswith(_GZIP_MAGIC[: len(self._pending)]):
                raise self._corrupt("has extra bytes at its end")
            if len(self._pending) < len(_GZIP_MAGIC):
                return None
            self._zlib = zlib.decompressobj(_GZIP)
        return self._zlib

    def _corrupt(self, how: str) -> TryAgain:
        return TryAgain(
            f"the {self._coding}-encoded response {how}",
            kind=FailureKind.CONTENT,
            limit=CORRUPT_CODING_TRIES,
            hint="The server compressed it although plain content was requested; report this to the archive",
        )


def _has_zlib_header(begin: bytes) -> bool:
    """Return whether a zlib header begins the body (RFC 1950 §2.2): method 8, and a valid check of the two bytes."""
    return len(begin) > 1 and begin[0] & 0x0F == 8 and begin[0] >> 4 <= 7 and (begin[0] << 8 | begin[1]) % 31 == 0
