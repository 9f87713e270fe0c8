"""Signatures (magic bytes) of the known file types, by file name suffix.

A type is listed only if all its files begin alike, because a wrong refusal loses a product.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FileType", "Fit", "Language", "as_text", "file_type_of", "fitting_name", "is_data_file"]

_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00PK")
_PROGRAMS = (b"MZ", b"\x7fELF", b"#!")
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
)  # RFC 8878 §3.1: includes skippable frames


_7Z, _PNG, _JPEG = b"7z\xbc\xaf\x27\x1c", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_DATA = (
    *_ZIP,
    *_TIFF,
    _HDF5,
    _HDF4,
    *_NETCDF3,
    *_JPEG2000,
    *_GZIP,
    *_BZIP2,
    *_XZ,
    *_ZSTD,
    _7Z,
    _PNG,
    _JPEG,
    b"%PDF-",
    b"GRIB",
)


class Fit(Enum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"  # too few bytes to tell


class Language(Enum):
    """Language of a text file type in which an error page could be written too."""

    HTML = "html"
    JSON = "json"
    XML = "xml"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class FileType:
    label: str
    fits: Callable[[bytes, bool], Fit]
    """Called with the head, and with True if the head is the whole file."""
    language: Language | None = None
    may_be_empty: bool = False


def _starts(*signatures: bytes) -> Callable[[bytes, bool], Fit]:
    def fits(head: bytes, whole: bool) -> Fit:  # noqa: FBT001 - a predicate's plain arguments
        if head.startswith(signatures):
            return Fit.YES
        return Fit.UNKNOWN if not whole and any(s.startswith(head) for s in signatures) else Fit.NO

    return fits


def _zip(head: bytes, whole: bool) -> Fit:  # noqa: FBT001
    """Look for a member or an end record. A program that unpacks the archive may stand in front of it (APPNOTE 4.1.9)."""
    if head.startswith(_ZIP) or b"PK\x03\x04" in head or b"PK\x05\x06" in head:
        return Fit.YES
    if not whole and head.startswith(_PROGRAMS):
        return Fit.UNKNOWN
    return _starts(*_ZIP)(head, whole)


def _hdf5(head: bytes, whole: bool) -> Fit:  # noqa: FBT001
    """Look for the signature at 0, 512, 1024, 2048 and so on, after a user block (HDF5 specification III.A)."""
    offset = 0
    while offset + len(_HDF5) <= len(head):
        if head.startswith(_HDF5, offset):
            return Fit.YES
        offset = offset * 2 or 512
    seen_enough = whole or len(head) >= 2048 + len(_HDF5)
    return Fit.NO if seen_enough else Fit.UNKNOWN


def _hdf(*others: bytes) -> Callable[[bytes, bool], Fit]:
    def fits(head: bytes, whole: bool) -> Fit:  # noqa: FBT001
        return Fit.YES if head.startswith(others) else _hdf5(head, whole)

    return fits


def _contains(pattern: bytes) -> Callable[[bytes, bool], Fit]:
    """Match types that allow bytes in front: a WMO header before GRIB, a line before %PDF."""
    compiled = re.compile(pattern, re.DOTALL)

    def fits(head: bytes, whole: bool) -> Fit:  # noqa: FBT001
        if compiled.search(head):
            return Fit.YES
        return Fit.NO if whole or len(head) >= 1032 else Fit.UNKNOWN

    return fits


def _tar(head: bytes, whole: bool) -> Fit:  # noqa: FBT001
    if head.startswith((*_GZIP, *_BZIP2, *_XZ, *_ZSTD)):
        return Fit.YES  # compressed although the name does not say so; every tar program reads it
    if len(head) < 512:
        return Fit.NO if whole else Fit.UNKNOWN
    block = head[:512]
    if block[257:262] == b"ustar" or not any(block):
        return Fit.YES
    return Fit.YES if _tar_checksum_holds(block) else Fit.NO


def _tar_checksum_holds(block: bytes) -> bool:
    """Verify the header checksum: V7 archives have no magic bytes (POSIX pax, "ustar Interchange Format")."""
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
            return Fit.NO if whole else Fit.UNKNOWN
        return Fit.YES if compiled.match(text) else Fit.NO

    return fits


_JSON = r'[\[{"\-0-9]|true\b|false\b|null\b'


def _json_lines(head: bytes, whole: bool) -> Fit:  # noqa: FBT001
    """Match values one after the other, also in JSON text sequences (RFC 7464), and a file of empty lines."""
    text = as_text(head).lstrip("\x1e \t\r\n")
    if not text:
        return Fit.YES if whole else Fit.UNKNOWN
    return Fit.YES if re.match(_JSON, text) else Fit.NO


def _anything(head: bytes, whole: bool) -> Fit:  # noqa: ARG001, FBT001
    return Fit.YES


_FILE_TYPES: dict[str, FileType] = {}
for _file_type, _suffixes in (
    (FileType("a ZIP archive", _zip), "zip kmz"),
    (FileType("a TIFF image", _starts(*_TIFF)), "tif tiff"),
    (FileType("a NetCDF file", _hdf(*_NETCDF3, _HDF4)), "nc nc4"),
    (FileType("an HDF5 file", _hdf5), "h5 hdf5 he5"),
    (FileType("an HDF file", _hdf(_HDF4)), "hdf"),
    (FileType("a JPEG 2000 image", _starts(*_JPEG2000)), "jp2"),
    (FileType("a gzip file", _starts(*_GZIP)), "gz tgz"),
    (FileType("a tar archive", _tar), "tar"),
    (FileType("a bzip2 file", _starts(*_BZIP2)), "bz2 tbz2"),
    (FileType("an xz file", _starts(*_XZ)), "xz txz"),
    (FileType("a Zstandard file", _starts(*_ZSTD)), "zst"),
    (FileType("a 7z archive", _starts(_7Z)), "7z"),
    (FileType("a PNG image", _starts(_PNG)), "png"),
    (FileType("a JPEG image", _starts(_JPEG)), "jpg jpeg"),
    (FileType("a PDF document", _contains(rb"%PDF-\d")), "pdf"),
    (FileType("a GRIB file", _contains(rb"GRIB...[\x00-\x02]")), "grib grib2 grb grb2"),
    (FileType("JSON", _text_starts(_JSON), Language.JSON), "json geojson topojson jsonld czml ipynb"),
    (FileType("JSON lines", _json_lines, Language.JSON, may_be_empty=True), "ndjson jsonl geojsonl geojsons jsonlines"),
    (FileType("XML", _text_starts("<"), Language.XML), "xml gml kml"),
    (FileType("an HTML page", _text_starts("<"), Language.HTML, may_be_empty=True), "html htm xhtml"),
    (FileType("text", _anything, Language.TEXT, may_be_empty=True), "txt csv tsv md log md5 sha1 sha256"),
):
    for _suffix in _suffixes.split():
        _FILE_TYPES[_suffix] = _file_type


def file_type_of(name: str) -> FileType | None:
    """Return the file type for the name's last suffix, or None if that type cannot be checked."""
    base = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = base.rpartition(".")
    return _FILE_TYPES.get(suffix.lower()) if dot and stem else None


def is_data_file(head: bytes) -> bool:
    """Tell whether the bytes begin with the signature of a known binary type, whatever the file's name is."""
    return head.startswith(_DATA)


def fitting_name(name: str, head: bytes) -> str:
    """Return the name with a suffix that fits a product with these first bytes: `a.nc` that is a zip file is `a.nc.zip`."""
    suffix = ".zip" if head.startswith(_ZIP) else ".gz" if head.startswith(_GZIP) else ""
    file_type = file_type_of(name)
    is_another = file_type is None or file_type.fits(head, True) is Fit.NO
    return f"{name}{suffix}" if suffix and is_another else name


def as_text(head: bytes) -> str:
    """Decode the bytes without their byte order mark (Unicode 23.8); invalid bytes become U+FFFD."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head.decode("utf-16", "replace")
    return head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
