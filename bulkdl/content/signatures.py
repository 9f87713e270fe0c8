"""How files of the known kinds begin.

A kind is listed only where every file of that kind begins alike: a wrong refusal costs a product.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Fit", "Kind", "Language", "as_text", "kind_of"]

_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00PK")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF4 = b"\x0e\x03\x13\x01"
_NETCDF3 = (b"CDF\x01", b"CDF\x02", b"CDF\x05")
_JPEG2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_GZIP = (b"\x1f\x8b",)
_BZIP2 = tuple(b"BZh%d" % level for level in range(1, 10))
_XZ = (b"\xfd7zXZ\0",)
_ZSTD = (
    b"\x28\xb5\x2f\xfd",
    *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16)),
)  # RFC 8878 §3.1: skippable frames too


class Fit(Enum):
    YES = "yes"
    NO = "no"
    OPEN = "open"  # too few bytes to tell


class Language(Enum):
    """What a kind is written in, where an error page could be written in the same."""

    HTML = "html"
    JSON = "json"
    XML = "xml"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Kind:
    label: str
    fits: Callable[[bytes, bool], Fit]
    """(head, whether it is the whole file)."""
    language: Language | None = None
    may_be_empty: bool = False


def _starts(*signatures: bytes) -> Callable[[bytes, bool], Fit]:
    def fits(head: bytes, whole: bool) -> Fit:  # noqa: FBT001 - a predicate's plain arguments
        if head.startswith(signatures):
            return Fit.YES
        return Fit.OPEN if not whole and any(s.startswith(head) for s in signatures) else Fit.NO

    return fits


def _hdf5(head: bytes, whole: bool) -> Fit:  # noqa: FBT001
    """HDF5 specification III.A: the signature is at 0, 512, 1024, 2048 and so on, behind a user block."""
    offset = 0
    while offset + len(_HDF5) <= len(head):
        if head.startswith(_HDF5, offset):
            return Fit.YES
        offset = offset * 2 or 512
    seen_enough = whole or len(head) >= 2048 + len(_HDF5)
    return Fit.NO if seen_enough else Fit.OPEN


def _hdf(*others: bytes) -> Callable[[bytes, bool], Fit]:
    def fits(head: bytes, whole: bool) -> Fit:  # noqa: FBT001
        return Fit.YES if head.startswith(others) else _hdf5(head, whole)

    return fits


def _contains(pattern: bytes) -> Callable[[bytes, bool], Fit]:
    """For kinds that tolerate something in front: a WMO header before GRIB, a line before %PDF."""
    compiled = re.compile(pattern, re.DOTALL)

    def fits(head: bytes, whole: bool) -> Fit:  # noqa: FBT001
        if compiled.search(head):
            return Fit.YES
        return Fit.NO if whole or len(head) >= 1032 else Fit.OPEN

    return fits


def _tar(head: bytes, whole: bool) -> Fit:  # noqa: FBT001
    if head.startswith((*_GZIP, *_BZIP2, *_XZ, *_ZSTD)):
        return Fit.YES  # compressed without saying so in the name; every tar reads it
    if len(head) < 512:
        return Fit.NO if whole else Fit.OPEN
    block = head[:512]
    if block[257:262] == b"ustar" or not any(block):
        return Fit.YES
    return Fit.YES if _tar_checksum_holds(block) else Fit.NO


def _tar_checksum_holds(block: bytes) -> bool:
    """V7 archives have no magic, but each header has its own sum (POSIX pax, "ustar Interchange Format")."""
    try:
        stated = int(block[148:156].strip(b" \0") or b"-1", 8)
    except ValueError:
        return False
    return stated == sum(block[:148]) + sum(block[156:]) + 8 * 0x20


def _text_starts(pattern: str) -> Callable[[bytes, bool], Fit]:
    compiled = re.compile(pattern)

    def fits(head: bytes, whole: bool) -> Fit:  # noqa: FBT001
        text = as_text(head).lstrip()
        if not text:
            return Fit.NO if whole else Fit.OPEN
        return Fit.YES if compiled.match(text) else Fit.NO

    return fits


def _anything(head: bytes, whole: bool) -> Fit:  # noqa: ARG001, FBT001
    return Fit.YES


_KINDS: dict[str, Kind] = {}
for _kind, _suffixes in (
    (Kind("a ZIP archive", _starts(*_ZIP)), "zip kmz"),
    (Kind("a TIFF image", _starts(*_TIFF)), "tif tiff"),
    (Kind("a NetCDF file", _hdf(*_NETCDF3, _HDF4)), "nc nc4"),
    (Kind("an HDF5 file", _hdf5), "h5 hdf5 he5"),
    (Kind("an HDF file", _hdf(_HDF4)), "hdf"),
    (Kind("a JPEG 2000 image", _starts(*_JPEG2000)), "jp2"),
    (Kind("a gzip file", _starts(*_GZIP)), "gz tgz"),
    (Kind("a tar archive", _tar), "tar"),
    (Kind("a bzip2 file", _starts(*_BZIP2)), "bz2 tbz2"),
    (Kind("an xz file", _starts(*_XZ)), "xz txz"),
    (Kind("a Zstandard file", _starts(*_ZSTD)), "zst"),
    (Kind("a 7z archive", _starts(b"7z\xbc\xaf\x27\x1c")), "7z"),
    (Kind("a PNG image", _starts(b"\x89PNG\r\n\x1a\n")), "png"),
    (Kind("a JPEG image", _starts(b"\xff\xd8\xff")), "jpg jpeg"),
    (Kind("a PDF document", _contains(rb"%PDF-\d")), "pdf"),
    (Kind("a GRIB file", _contains(rb"GRIB...[\x00-\x02]")), "grib grib2 grb grb2"),
    (Kind("JSON", _text_starts(r'[\[{"\-0-9]|true\b|false\b|null\b'), Language.JSON), "json geojson"),
    (Kind("XML", _text_starts("<"), Language.XML), "xml gml kml"),
    (Kind("an HTML page", _text_starts("<"), Language.HTML, may_be_empty=True), "html htm xhtml"),
    (Kind("text", _anything, Language.TEXT, may_be_empty=True), "txt csv tsv md log md5 sha1 sha256"),
):
    for _suffix in _suffixes.split():
        _KINDS[_suffix] = _kind


def kind_of(name: str) -> Kind | None:
    """The kind that a file name promises by its last suffix; None where it promises nothing that can be checked."""
    base = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = base.rpartition(".")
    return _KINDS.get(suffix.lower()) if dot and stem else None


def as_text(head: bytes) -> str:
    """The bytes as text, without a byte order mark (Unicode 23.8); whatever is no text becomes U+FFFD."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head.decode("utf-16", "replace")
    return head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
