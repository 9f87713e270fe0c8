"""Check the structure of ZIP archives and read their members.

The standard library's zipfile reads them. Before that, we check what zipfile accepts: an archive that ends early inside
a nested archive or a comment, members that overlap, a central directory that is too large for memory.
(Section numbers are those of PKWARE's APPNOTE.TXT 6.3.)
"""

from __future__ import annotations

import struct
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from bulkdl.content.archive_errors import unreadable
from bulkdl.content.errors import bad_content
from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bulkdl.core.thread_pool import Stop

__all__ = ["check_structure", "open_zip", "read_member"]

BLOCK = 1024 * 1024
_MAX_DIRECTORY_BYTES = 256 * 1024 * 1024  # bytes; 256 MiB lists about two million members
_END = struct.Struct("<4s4H2LH")  # 4.3.16
_END64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
_MAX_COMMENT_BYTES = 0xFFFF


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive and check its structure. Raise `ProductFailed` (content) if broken; a disk's `OSError` passes."""
    with path.open("rb") as file:
        with unreadable("the ZIP archive is broken"):
            end_record = _end_record(file)
            archive = zipfile.ZipFile(file)
        with archive:
            with unreadable("the ZIP archive is broken"):
                _check_members(file, archive.infolist(), end_record)
            yield archive


def check_structure(path: Path) -> None:
    """Raise `ProductFailed` (content) if the directory is unreadable, or members overlap or exceed the file."""
    with open_zip(path):
        pass


def read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, stop: Stop, progress: Callable[[int], None]
) -> Iterator[bytes]:
    """Yield a member's contents in blocks and check its CRC at the end. `progress` gets the bytes of the archive read.

    Raise `ProductFailed` (content) if the contents differ from what the directory says.
    """
    what = f"member {member.filename!r} of the ZIP archive"
    hint = "Set `verify: basic` to skip the check of the members"
    stored = member.compress_type == zipfile.ZIP_STORED
    read = 0
    with unreadable(what, hint=hint), archive.open(member) as stream:
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
    if directory_at + directory_size != end_at:
        raise zipfile.BadZipFile(
            f"its directory should end at byte {directory_at + directory_size} and ends at {end_at}: "
            "bytes are missing or were added in front"
        )
    if directory_size > _MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile(f"its directory of {directory_size} bytes is larger than bulkdl reads")
    return _EndRecord(directory_at, directory_size)


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


def _check_members(file: BinaryIO, members: list[zipfile.ZipInfo], end_record: _EndRecord) -> None:
    """Check that each member ends before the next one begins: an overlap means damage or a bomb."""
    in_order = sorted(members, key=lambda member: member.header_offset)
    nexts = [member.header_offset for member in in_order[1:]] + [end_record.directory_at]
    for member, limit in zip(in_order, nexts, strict=True):
        file.seek(member.header_offset)
        data = file.read(_LOCAL.size)
        if len(data) < _LOCAL.size or not data.startswith(b"PK\x03\x04"):
            raise zipfile.BadZipFile(f"member {member.filename!r} does not begin where the directory says")
        header = _LOCAL.unpack(data)
        end = member.header_offset + _LOCAL.size + header[9] + header[10] + member.compress_size
        if end > limit:
            raise zipfile.BadZipFile(f"member {member.filename!r} overlaps what follows it")
