"""Read tar archives and single compressed files once, forward, in bounded memory.

The standard library's tarfile ends silently at a damaged header and at a missing end; here both are errors.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import tarfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from bulkdl.content.archive_errors import unreadable
from bulkdl.content.errors import bad_content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bulkdl.core.thread_pool import Stop

__all__ = ["TarReader", "open_tar", "read_single", "read_through"]

BLOCK = 1024 * 1024
_MAX_HEADER_BYTES = 16 * 1024 * 1024  # bytes; a long name or PAX header is read into memory completely
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZERO_BLOCK = bytes(tarfile.BLOCKSIZE)


def _zstd_opener() -> tuple[tuple[bytes, Callable[[BinaryIO], IO[bytes]]], ...]:
    try:
        module = importlib.import_module("compression.zstd")  # since Python 3.14
    except ImportError:
        return ()
    return ((_ZSTD_MAGIC, lambda file: cast("IO[bytes]", module.ZstdFile(file))),)


_OPENERS: tuple[tuple[bytes, Callable[[BinaryIO], IO[bytes]]], ...] = (
    (b"\x1f\x8b", lambda file: cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb"))),
    (b"BZh", lambda file: cast("IO[bytes]", bz2.BZ2File(file))),
    (b"\xfd7zXZ\0", lambda file: cast("IO[bytes]", lzma.LZMAFile(file))),  # noqa: SIM115
    *_zstd_opener(),
)


class _ForwardStream:
    """The decompressed bytes as a file for tarfile: forward only, in blocks, cancellable by `stop`."""

    def __init__(self, file: BinaryIO, *, stop: Stop, progress: Callable[[int], None]) -> None:
        magic = file.read(8)
        file.seek(0)
        opener = next((opener for start, opener in _OPENERS if magic.startswith(start)), None)
        self._file = file
        self._stream: IO[bytes] = file if opener is None else opener(file)
        self.is_plain = opener is None
        self._stop = stop
        self._progress = progress
        self._reported = 0
        self._position = 0
        self.last = b""

    def read(self, size: int = BLOCK) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"its header has an invalid size of {size} bytes")
        self._stop.check()
        self.last = self._stream.read(size)
        self._position += len(self.last)
        self._report()
        return self.last

    def tell(self) -> int:
        return self._position

    def seek(self, target: int) -> int:
        if target < self._position:
            raise tarfile.ReadError("its headers point backwards")
        if self.is_plain:
            self._position = self._stream.seek(target)
            self._report()
        while self._position < target and self.read(min(BLOCK, target - self._position)):
            pass
        return self._position

    def drain(self) -> None:
        """Read to the end, where gzip, bzip2 and xz store their checksums."""
        while self.read():
            pass

    def _report(self) -> None:
        now = self._file.tell()
        if now > self._reported:
            self._progress(now - self._reported)
            self._reported = now


class TarReader:
    """The members of one archive, in order. Read each one before you ask for the next."""

    def __init__(self, archive: tarfile.TarFile, stream: _ForwardStream) -> None:
        self._archive = archive
        self._stream = stream

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield the members; raise `ProductFailed` (content) if the archive is damaged or its end is missing."""
        with unreadable("the tar archive is broken"):
            while (member := self._archive.next()) is not None:
                self._archive.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps every member
                yield member
            # tarfile took the header that it read last for the end of the archive.
            if self._stream.last != _ZERO_BLOCK:
                raise tarfile.ReadError("its end is missing, or a header is damaged")
            self._stream.drain()

    def read(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        """Yield a file's contents in blocks."""
        with unreadable(f"member {member.name!r} of the tar archive"):
            source = self._archive.extractfile(member)
            while source is not None and (block := source.read(BLOCK)):
                yield block


@contextmanager
def open_tar(path: Path, *, stop: Stop, progress: Callable[[int], None]) -> Iterator[TarReader]:
    """Open a tar archive; its first bytes tell whether it is plain or compressed by gzip, bzip2 or xz.

    `progress` is called with the bytes read from the file. Raise `ProductFailed` (content) if it is not a tar archive.
    """
    with path.open("rb") as file:
        with unreadable("the tar archive is broken"):
            stream = _ForwardStream(file, stop=stop, progress=progress)
            archive = tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:")  # noqa: SIM115 - closed below
        with archive:
            yield TarReader(archive, stream)


def read_single(path: Path, *, stop: Stop, progress: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the decompressed contents of a gzip, bzip2 or xz file in blocks.

    Raise `ProductFailed` (content) if it is damaged or another type of file.
    """
    with path.open("rb") as file:
        with unreadable("the compressed file is broken"):
            stream = _ForwardStream(file, stop=stop, progress=progress)
        if stream.is_plain:
            file.seek(0)
            if file.read(4) == _ZSTD_MAGIC:
                raise bad_content(
                    "this Python cannot unpack Zstandard",
                    hint="Use Python 3.14, or remove `extract` and unpack it yourself",
                )
            raise bad_content("it is not compressed by gzip, bzip2 or xz")
        while True:
            with unreadable("the compressed file is broken"):
                block = stream.read()
            if not block:
                return
            yield block


def read_through(path: Path, *, stop: Stop, progress: Callable[[int], None]) -> None:
    """Decompress a gzip, bzip2 or xz file and drop the output; raise `ProductFailed` (content) if it is damaged."""
    with path.open("rb") as file:
        if not file.read(1):
            raise bad_content("the compressed file is empty")
        file.seek(0)
        with unreadable("the compressed file is broken"):
            _ForwardStream(file, stop=stop, progress=progress).drain()
