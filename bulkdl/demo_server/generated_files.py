"""Bytes of generated products, computed from a seed at any offset without storing them.

A product is `prefix + noise + suffix`. Prefix and suffix make it a valid file of its kind. The noise depends on the
seed and the absolute position, so a byte at the wrong offset is a wrong byte.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from enum import StrEnum
from functools import cache, lru_cache
from pathlib import PurePosixPath

from bulkdl.core.fast_dataclass import dataclass

__all__ = ["Kind", "Recipe"]

_CELL = 65536
_STAMP = 16
_POOL = 1 << 20
_BLOCK = 1 << 20
_LETTERS = bytes(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[n % 64] for n in range(256))
_JP2_BOXES = b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 \0\0\0\0jp2c\xff\x4f\xff\x51"
_DOS_DATE = 0x0021
"""1 January 1980, the earliest date in a ZIP file."""


class Kind(StrEnum):
    """File format of a product."""

    BIN = "bin"
    ZIP = "zip"
    TIFF = "tif"
    HDF5 = "nc"
    JP2 = "jp2"
    JSON = "json"

    @property
    def media_type(self) -> str:
        return _MEDIA_TYPES[self]


_MEDIA_TYPES = {
    Kind.BIN: "application/octet-stream",
    Kind.ZIP: "application/zip",
    Kind.TIFF: "image/tiff",
    Kind.HDF5: "application/x-netcdf",
    Kind.JP2: "image/jp2",
    Kind.JSON: "application/json",
}


@dataclass(frozen=True, slots=True)
class _Frame:
    prefix: bytes = b""
    suffix: bytes = b""
    text: bool = False
    """True for a text format: the noise consists of letters."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All parameters that determine the bytes of a product."""

    kind: Kind
    name: str
    size: int
    seed: int

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop` (exclusive), clipped to the size.

        Raise `ValueError` if `size` is too small or too large for this kind.
        """
        frame = _frame(self)
        stop = min(stop, self.size)
        if start >= stop:
            return b""
        parts = []
        if start < len(frame.prefix):
            parts.append(frame.prefix[start:stop])
        tail = self.size - len(frame.suffix)
        parts.append(_noise(self.seed, max(start, len(frame.prefix)), min(stop, tail), text=frame.text))
        if stop > tail:
            parts.append(frame.suffix[max(0, start - tail) : stop - tail])
        return b"".join(parts)


@cache
def _pool() -> bytes:
    return hashlib.shake_128(b"bulkdl archive").digest(_POOL)


def _noise(seed: int, start: int, stop: int, *, text: bool) -> bytes:
    cells = []
    for number in range(start // _CELL, -(-stop // _CELL)):
        base = number * _CELL
        cells.append(_cell(seed, number)[max(0, start - base) : stop - base])
    made = b"".join(cells)
    return made.translate(_LETTERS) if text else made


def _cell(seed: int, number: int) -> bytes:
    stamp = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=_STAMP).digest()
    offset = int.from_bytes(stamp[:4], "big") % (_POOL - _CELL)
    return stamp + _pool()[offset : offset + _CELL - _STAMP]


@lru_cache(maxsize=4096)
def _frame(recipe: Recipe) -> _Frame:
    name, size = recipe.name, recipe.size
    match recipe.kind:
        case Kind.ZIP:
            return _zip_frame(name, size, recipe.seed)
        case Kind.JSON:
            return _fitting(_Frame(f'{{"id": "{name}", "padding": "'.encode(), b'"}\n', text=True), Kind.JSON, size)
        case Kind.TIFF:
            # One directory with one entry (ImageWidth), directly after the header.
            return _cut(struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 256, 4, 1, 10980, 0), size)
        case Kind.HDF5:
            return _cut(_hdf5_superblock(size), size)
        case Kind.JP2:
            return _cut(_JP2_BOXES, size)
        case Kind.BIN:
            return _Frame()


def _cut(prefix: bytes, size: int) -> _Frame:
    return _Frame(prefix[:size])


def _fitting(frame: _Frame, kind: Kind, size: int) -> _Frame:
    least = len(frame.prefix) + len(frame.suffix)
    if size < least:
        raise ValueError(f"a {kind} product with this name has at least {least} bytes, not {size}")
    return frame


def _hdf5_superblock(size: int) -> bytes:
    none = 0xFFFFFFFFFFFFFFFF
    versions = bytes((0, 0, 0, 0, 0, 8, 8, 0))
    addresses = struct.pack("<HHIQQQQ", 4, 16, 0, 0, none, size, none)
    root = struct.pack("<QQII16x", 0, 96, 0, 0)
    return b"\x89HDF\r\n\x1a\n" + versions + addresses + root


def _zip_frame(name: str, size: int, seed: int) -> _Frame:
    """Return the frame of a ZIP with two stored members: a small text and the noise (PKWARE APPNOTE 4.3; no zip64)."""
    if size >= 0xFFFFFFFF:
        raise ValueError(f"a zip product has less than 4 GiB, not {size} bytes")
    folder = PurePosixPath(name).stem.removesuffix(".SAFE") + ".SAFE"
    note = f"<product>{folder}</product>\n".encode()
    first, second = f"{folder}/manifest.safe".encode(), f"{folder}/measurement.dat".encode()
    note_crc = zlib.crc32(note)
    lead = _local(first, note_crc, len(note)) + note
    least = len(lead) + 30 + len(second) + 2 * 46 + len(first) + len(second) + 22
    _fitting(_Frame(bytes(least)), Kind.ZIP, size)
    start, length = len(lead) + 30 + len(second), size - least
    crc = _crc(seed, start, start + length)
    central = _central(first, note_crc, len(note), 0) + _central(second, crc, length, len(lead))
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, len(central), start + length, 0)
    return _Frame(lead + _local(second, crc, length), central + end)


def _local(name: bytes, crc: int, size: int) -> bytes:
    return struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, _DOS_DATE, crc, size, size, len(name), 0) + name


def _central(name: bytes, crc: int, size: int, offset: int) -> bytes:
    head = struct.pack("<4s6H3I", b"PK\1\2", 20, 20, 0, 0, 0, _DOS_DATE, crc, size, size)
    return head + struct.pack("<5H2I", len(name), 0, 0, 0, 0, 0, offset) + name


def _crc(seed: int, start: int, stop: int) -> int:
    crc = 0
    for position in range(start, stop, _BLOCK):
        crc = zlib.crc32(_noise(seed, position, min(position + _BLOCK, stop), text=False), crc)
    return crc
