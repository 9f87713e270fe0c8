"""Archives that unzip reads, and archives that are damaged."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zipfile

import pytest

from bulkdl.content.zip_files import check_structure, open_zip
from bulkdl.core.errors import ProductFailed

MEMBERS = {"a.txt": b"first " * 200, "b/c.bin": bytes(range(256)) * 20}


def made(*, compression: int = zipfile.ZIP_DEFLATED, extra: bytes = b"", stream: bool = False, **members) -> bytes:
    buffer = io.BytesIO()
    target = _Unseekable(buffer) if stream else buffer
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, data in (members or MEMBERS).items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.extra = compression, extra
            archive.writestr(info, data)
    return buffer.getvalue()


class _Unseekable(io.RawIOBase):
    def __init__(self, buffer: io.BytesIO) -> None:
        self._buffer = buffer

    def write(self, data) -> int:
        return self._buffer.write(data)

    def writable(self) -> bool:
        return True


def with_extra(extra: bytes) -> bytes:
    """Return an archive whose directory has `extra` in the place of well-formed extra fields."""
    marker = struct.pack("<2H", 0x4242, len(extra) - 4) + b"\x99" * (len(extra) - 4)
    data = made(extra=marker)
    directory = data.index(
        b"PK\x01\x02"
    )  # unzip finds fault with odd fields before a member, and reads it all the same
    return data[:directory] + data[directory:].replace(marker, extra)


def with_method(method: int) -> bytes:
    data = bytearray(made())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = data.find(signature)
        while at >= 0:
            struct.pack_into("<H", data, at + offset, method)
            at = data.find(signature, at + 4)
    return bytes(data)


GOOD = {
    "plain": made(),
    "stored": made(compression=zipfile.ZIP_STORED),
    "bzip2": made(compression=zipfile.ZIP_BZIP2),
    "lzma": made(compression=zipfile.ZIP_LZMA),
    "data descriptors": made(stream=True),
    "no members": made()[:0] + b"PK\x05\x06" + bytes(18),
    "an extra field that is too long": with_extra(b"\x01\x99\xff\x00abcdefgh"),
    "an extra field of one byte too many": with_extra(struct.pack("<2H", 0x5455, 9) + b"abcdefgh"),
    "a good extra field before an odd one": with_extra(struct.pack("<2H4s2H", 0x7777, 4, b"wxyz", 0x5455, 900)),
    "an extra field that is cut": with_extra(struct.pack("<2H4s", 0x7777, 4, b"wxyz") + b"\x55\x54\x05"),
    "a Unicode path without a text": with_extra(struct.pack("<2H", 0x7075, 2) + b"\x01\x00"),
    "a Unicode path that is not UTF-8": with_extra(struct.pack("<2H", 0x7075, 8) + b"\x01abcd\xff\xfe\xfd"),
    "one byte in front": b"\n" + made(),
    "a script in front": b"#!/bin/sh\nexit 0\n" + made(),
    "64 KiB in front": b"MZ" + bytes(70_000) + made(),
    "one byte in front of no members": b"\n" + b"PK\x05\x06" + bytes(18),
    "an odd extra field and bytes in front": b"xyz" + with_extra(b"\x01\x99\xff\x00abcdefgh"),
    "a comment": made()[:-2] + struct.pack("<H", 5) + b"hello",
    "bytes behind": made() + b"\n",
}
NOT_READ = {"Deflate64": with_method(9), "a rare method": with_method(97)}
"""Archives that zipfile cannot unpack."""
BAD = {
    "cut": made()[:-40],
    "cut in front": made()[40:],
    "a hole": made()[:60] + made()[80:],
    "bytes in the middle": made()[:60] + b"x" + made()[60:],
    "a directory entry that is damaged": made().replace(b"PK\x01\x02", b"PK\x01\x03", 1),
    "a local header that is damaged": made().replace(b"PK\x03\x04", b"PK\x03\x05", 1),
    "an outer archive that is cut": made(compression=zipfile.ZIP_STORED, **{"in.zip": made()})[: 36 + len(made())],
    "nothing": b"",
    "no archive": b"hello",
}


@pytest.mark.parametrize("name", [*GOOD, *NOT_READ])
def test_the_structure_of_an_archive_that_unzip_reads_is_accepted(name, tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes((GOOD | NOT_READ)[name])
    check_structure(path)


@pytest.mark.parametrize("name", GOOD)
def test_such_an_archive_can_be_read(name, tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(GOOD[name])
    with open_zip(path) as archive:
        assert {info.filename: archive.read(info) for info in archive.infolist()} in (MEMBERS, {})


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
@pytest.mark.parametrize("name", GOOD)
def test_unzip_reads_it_with_warnings_at_most(name, tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(GOOD[name])
    done = subprocess.run(["unzip", "-t", str(path)], capture_output=True, check=False)
    assert done.returncode in ((0, 1) if "lzma" not in name else (0, 1, 81)), done.stdout + done.stderr


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_archive_is_refused(name, tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(BAD[name])
    with pytest.raises(ProductFailed):
        check_structure(path)
