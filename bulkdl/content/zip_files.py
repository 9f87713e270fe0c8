"""Check the structure of ZIP archives and read their members.

The standard library's zipfile reads the members. Before that, we read the directory ourselves. zipfile accepts too much:
an archive that ends early inside a nested archive or a comment, members that overlap, a directory that is too large for
memory. And it refuses what unzip reads: an extra field that is longer than the room for it.
(Section numbers are those of PKWARE's APPNOTE.TXT 6.3.)
"""

from __future__ import annotations

import io
import struct
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from bulkdl.content.archive_errors import unreadable
from bulkdl.content.errors import bad_content
from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from bulkdl.core.thread_pool import Stop

__all__ = ["check_structure", "open_zip", "read_member"]

BLOCK = 1024 * 1024
_BASIC_HINT = "Set `verify: basic` to skip the check of the members"
_MAX_DIRECTORY_BYTES = 256 * 1024 * 1024  # bytes; 256 MiB lists about two million members
_END = struct.Struct("<4s4H2LH")  # 4.3.16
_END64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_DIRECTORY = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
_MAX_COMMENT_BYTES = 0xFFFF
_SEEN_IN_FRONT = 64 * 1024
"""Bytes in front of the archive that are searched for a member of an outer archive, whose end is missing."""
_ZIP64_EXTRA, _UNICODE_PATH_EXTRA, _UNKNOWN_EXTRA = 0x0001, 0x7075, 0xFFFF
_SEE_ZIP64 = 0xFFFFFFFF


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive and check its structure. Raise `ProductFailed` (content) if broken; a disk's `OSError` passes."""
    with path.open("rb") as file:
        with unreadable("the ZIP archive is broken"):
            directory = _checked_directory(file)
        with unreadable("the ZIP archive is broken", hint=_BASIC_HINT):
            archive = zipfile.ZipFile(_Patched(file, directory.patches) if directory.patches else file)
        with archive:
            yield archive


def check_structure(path: Path) -> None:
    """Raise `ProductFailed` (content) if the directory is unreadable, or members overlap or exceed the file."""
    with path.open("rb") as file, unreadable("the ZIP archive is broken"):
        _checked_directory(file)


def read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, stop: Stop, progress: Callable[[int], None]
) -> Iterator[bytes]:
    """Yield a member's contents in blocks and check its CRC at the end. `progress` gets the bytes of the archive read.

    Raise `ProductFailed` (content) if the contents differ from what the directory says.
    """
    what = f"member {member.filename!r} of the ZIP archive"
    stored = member.compress_type == zipfile.ZIP_STORED
    read = 0
    with unreadable(what, hint=_BASIC_HINT), archive.open(member) as stream:
        while True:
            stop.check()
            block = stream.read(BLOCK)
            if not block:
                break
            read += len(block)
            if stored:
                progress(len(block))
            yield block
    if read != member.file_size:
        raise bad_content(f"{what} has {read} bytes, but its directory says {member.file_size}")
    if not stored:
        progress(member.compress_size)


@dataclass(frozen=True, slots=True)
class _EndRecord:
    directory_at: int
    directory_size: int
    in_front: int
    """Bytes in front of the archive; all offsets in it are too small by so many."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    header_at: int
    compressed_size: int


@dataclass(frozen=True, slots=True)
class _Directory:
    members: tuple[_Member, ...]
    patches: tuple[tuple[int, bytes], ...]
    """Offsets in the file and bytes to read there, so that zipfile accepts what unzip does."""


def _checked_directory(file: BinaryIO) -> _Directory:
    end_record = _end_record(file)
    file.seek(end_record.directory_at)
    directory = _read_directory(file.read(end_record.directory_size), end_record)
    _check_members(file, directory.members, end_record)
    return directory


def _end_record(file: BinaryIO) -> _EndRecord:
    """Find the end record as zipfile does, and make the checks that zipfile omits (4.3.6: order of the parts)."""
    size = file.seek(0, 2)
    tail_at = max(0, size - _END.size - _MAX_COMMENT_BYTES)
    file.seek(tail_at)
    tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise zipfile.BadZipFile("it has no end record, so its end is missing")
    record = _END.unpack_from(tail, place)
    directory_size, directory_at, comment = record[5], record[6], record[7]
    end_at = tail_at + place
    if end_at + _END.size + comment > size:
        raise zipfile.BadZipFile("it ends inside its comment")
    end64 = _end_record64(file, end_at)
    if end64 is not None:
        end_at, directory_size, directory_at = end64
    # unzip and zipfile read an archive with bytes in front of it, such as a program that unpacks it (4.1.9).
    in_front = end_at - directory_size - directory_at
    if in_front < 0:
        raise zipfile.BadZipFile(
            f"its directory should end at byte {directory_at + directory_size} and ends at {end_at}: bytes are missing"
        )
    file.seek(0)
    if in_front and b"PK\x03\x04" in file.read(min(in_front, _SEEN_IN_FRONT)):
        raise zipfile.BadZipFile("its own directory is missing, and what was found belongs to an archive inside it")
    if directory_size > _MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile(f"its directory of {directory_size} bytes is larger than bulkdl reads")
    return _EndRecord(directory_at + in_front, directory_size, in_front)


def _end_record64(file: BinaryIO, end_at: int) -> tuple[int, int, int] | None:
    """Return the Zip64 end record's offset, and the directory's size and offset; None if there is none."""
    if end_at < _END64_LOCATOR.size:
        return None
    file.seek(end_at - _END64_LOCATOR.size)
    magic, _disk, record_at, _disks = _END64_LOCATOR.unpack(file.read(_END64_LOCATOR.size))
    if magic != b"PK\x06\x07":
        return None
    for place in (end_at - _END64_LOCATOR.size - _END64.size, record_at):  # zipfile tries only the first
        if place >= 0:
            file.seek(place)
            data = file.read(_END64.size)
            if len(data) == _END64.size and data.startswith(b"PK\x06\x06"):
                record = _END64.unpack(data)
                return place, record[8], record[9]
    raise zipfile.BadZipFile("its Zip64 end record is not where the archive says")


def _read_directory(data: bytes, end_record: _EndRecord) -> _Directory:
    """Read the central directory. zipfile raises for odd extra fields, which unzip skips; so we read it ourselves."""
    members: list[_Member] = []
    patches: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if len(data) - at < _DIRECTORY.size or not data.startswith(b"PK\x01\x02", at):
            if data.startswith(b"PK\x05\x05", at):  # a digital signature ends the directory (4.3.13)
                break
            raise zipfile.BadZipFile(f"its directory is damaged at entry {len(members) + 1}")
        record = _DIRECTORY.unpack_from(data, at)
        name_length, extra_length, comment_length = record[10:13]
        extra_at = at + _DIRECTORY.size + name_length
        name = data[at + _DIRECTORY.size : extra_at].decode("utf-8", "replace")
        extra = data[extra_at : extra_at + extra_length]
        at = extra_at + extra_length + comment_length
        if at > len(data):
            raise zipfile.BadZipFile("its directory ends inside an entry")
        zip64, odd = _read_extra(extra)
        patches += [(end_record.directory_at + extra_at + place, field) for place, field in odd]
        compressed, header_at = _sizes(record, zip64)
        members.append(_Member(name, header_at + end_record.in_front, compressed))
    return _Directory(tuple(members), tuple(patches))


def _read_extra(extra: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return the Zip64 extra field, empty if there is none, and patches for the fields that zipfile does not accept."""
    zip64, odd, at = b"", [], 0
    while len(extra) - at >= 4:
        kind, length = struct.unpack_from("<2H", extra, at)
        left = len(extra) - at - 4
        if length > left:
            odd.append((at, struct.pack("<2H", _UNKNOWN_EXTRA, left)))
            break
        field = extra[at + 4 : at + 4 + length]
        if kind == _ZIP64_EXTRA:
            zip64 = zip64 or field
        elif kind == _UNICODE_PATH_EXTRA and not _is_unicode_path(field):
            odd.append((at, struct.pack("<2H", _UNKNOWN_EXTRA, length)))
        at += 4 + length
    return zip64, odd


def _is_unicode_path(field: bytes) -> bool:
    try:
        field[5:].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return len(field) > 5


def _sizes(record: tuple[Any, ...], zip64: bytes) -> tuple[int, int]:
    """Return the compressed size and the offset of the local header (4.5.3: only fields that are full are in Zip64)."""
    compressed, size, header_at = record[8], record[9], record[16]
    at = 8 if size == _SEE_ZIP64 else 0
    values = []
    for value in (compressed, header_at):
        if value == _SEE_ZIP64:
            if at + 8 > len(zip64):
                raise zipfile.BadZipFile("its directory lacks a Zip64 size or offset")
            (value,) = struct.unpack_from("<Q", zip64, at)  # noqa: PLW2901
            at += 8
        values.append(value)
    return values[0], values[1]


def _check_members(file: BinaryIO, members: Sequence[_Member], end_record: _EndRecord) -> None:
    """Check that each member ends before the next one begins: an overlap means damage or a bomb."""
    in_order = sorted(members, key=lambda member: member.header_at)
    limits = [*(member.header_at for member in in_order), end_record.directory_at][1:]
    for member, limit in zip(in_order, limits, strict=False):  # an archive without members has no limit either
        file.seek(member.header_at)
        data = file.read(_LOCAL.size)
        if len(data) < _LOCAL.size or not data.startswith(b"PK\x03\x04"):
            raise zipfile.BadZipFile(f"member {member.name!r} does not begin where the directory says")
        header = _LOCAL.unpack(data)
        end = member.header_at + _LOCAL.size + header[9] + header[10] + member.compressed_size
        if end > limit:
            raise zipfile.BadZipFile(f"member {member.name!r} overlaps what follows it")


class _Patched(io.BufferedIOBase):
    """A file that reads as if some of its bytes were others."""

    def __init__(self, file: BinaryIO, patches: Sequence[tuple[int, bytes]]) -> None:
        self._file = file
        self._patches = patches
        self._from = min(at for at, _ in patches)

    def read(self, size: int | None = -1, /) -> bytes:
        at = self._file.tell()
        data = self._file.read(-1 if size is None else size)
        if at + len(data) <= self._from:
            return data
        patched = bytearray(data)
        for place, new in self._patches:
            for offset, byte in enumerate(new, place - at):
                if 0 <= offset < len(patched):
                    patched[offset] = byte
        return bytes(patched)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True
