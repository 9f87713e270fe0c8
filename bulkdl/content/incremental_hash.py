"""Compute checksums during the download, by reading back and hashing the bytes already written to the partial.

The hasher reads the file and not the network. So it works alike for one connection, for many segments, for bytes of an
earlier run, and for bytes that never pass through Python. Bytes just written are still in the system's cache.

The digest is always that of the bytes in the file:
- A byte is hashed only after it, and all bytes before it, have been noted as written.
- `begin` says which bytes will not be written again. If bytes beyond them were hashed, hashing starts again at 0.
- An attempt that writes without `note` does not call `begin`. `invalidate` before each attempt then prevents a digest.
- If bytes are noted that may have been hashed already, the hasher gives up, and the complete file is read at the end.
- The hasher also gives up if the file is shorter than noted, cannot be read, or was replaced under the same name.

The complete file is also read if the digests do not match or belong to another file (inode, size). So a product is
rejected only for its bytes on disk.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from functools import partial
from typing import TYPE_CHECKING

from bulkdl.content.hashing import BLOCK, HASHING, Digests, file_id, hasher
from bulkdl.core.async_utils import run_to_completion
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.protocol.byte_ranges import normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from io import FileIO
    from pathlib import Path

    from bulkdl.content.hashing import Hasher
    from bulkdl.protocol.byte_ranges import Range

__all__ = ["IncrementalHasher", "ReadSizes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSizes:
    """Sizes for incremental hashing, in bytes."""

    min_product: int = 4 * 1024 * 1024
    """A product up to this size is read only when it is complete, which costs less."""
    min_batch: int = 4 * 1024 * 1024
    """A thread starts when this much is written but not hashed."""
    per_turn: int = 32 * 1024 * 1024
    """After this much the thread takes the file that has waited longest."""
    cheap: int = 64 * 1024 * 1024
    """If nobody needs the digests, hashing starts when this much is written, and only if it is affordable then."""
    block: int = BLOCK


@dataclass(slots=True, eq=False)
class _HashStream:
    """The progress of one algorithm through the file. Several algorithms use a thread each."""

    algorithm: str
    hasher: Hasher
    position: int = 0
    """All bytes before this offset are hashed, or a thread is reading them."""
    work: Future[None] | None = None
    """The work in progress or waiting for a thread; None if there is none."""


class IncrementalHasher:
    """Hashes one product's partial from its start while the rest is downloaded.

    Call its methods on the event loop. Only between `begin` and the end of `pause` do threads have the file open; each
    opens it by name.
    """

    def __init__(self, algorithms: Iterable[str], *, sizes: ReadSizes | None = None) -> None:
        self.algorithms = tuple(dict.fromkeys(algorithms))
        self._sizes = sizes or ReadSizes()
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._file: tuple[int, int] | None = None
        self._streams: tuple[_HashStream, ...] = ()
        self._prefix = 0
        """All bytes before this offset are written."""
        self._later_ranges: tuple[Range, ...] = ()
        """Ranges that are written too, but after a gap."""
        self._min_batch = self._sizes.min_batch
        self._paused = True
        self._gave_up = False
        self._valid = False
        self._affordable: Callable[[], bool] | None = None
        self.skipped = False
        """True if the digests of this file were not affordable."""

    def invalidate(self) -> None:
        """Return no digest until the next `begin`: other code may write the file without `note`."""
        self._valid = False

    def begin(
        self,
        path: Path,
        have: Iterable[Range],
        *,
        total: int | None,
        affordable: Callable[[], bool] | None = None,
    ) -> None:
        """Start to hash `path`. The bytes `have` are written and final; call `note` after each other write.

        If the hashed bytes of an earlier attempt are still valid, keep them. `total`: size of the product in bytes.
        `affordable`: the digests are only for the record. It is called once, from any thread, when a large product has
        begun to arrive; if it returns False, there are none.
        """
        self.skipped = False
        if not self.algorithms or (total is not None and total <= self._sizes.min_product):
            self._streams = ()
            return
        prefix, later = _split_prefix(have)
        if self._gave_up or path != self._path or not self._streams or any(s.position > prefix for s in self._streams):
            self._streams = tuple(_HashStream(algorithm, hasher(algorithm)) for algorithm in self.algorithms)
            self._file, self._gave_up = None, False
        with self._lock:
            self._path, self._prefix, self._later_ranges = path, prefix, later
            self._affordable = None if any(s.position for s in self._streams) else affordable
            self._min_batch, self._paused, self._valid = self._sizes.min_batch, False, True
            self._schedule()

    def note(self, start: int, end: int) -> None:
        """Record that the bytes from `start` to `end` have been written."""
        if not self._streams:
            return
        with self._lock:
            if any(start < stream.position for stream in self._streams):
                self._gave_up = True
            if start == self._prefix and not self._later_ranges:
                self._prefix = end
            else:
                self._prefix, self._later_ranges = _split_prefix(((0, self._prefix), *self._later_ranges, (start, end)))
            self._schedule()

    async def pause(self) -> None:
        """Stop, and return when no thread reads the file any more, even if cancelled.

        The hashed bytes are kept for the next `begin`. If a thread raised anything but an `OSError`, raise it here.
        """
        with self._lock:
            self._paused = True
            for stream in self._streams:
                if stream.work is not None and stream.work.cancel():
                    stream.work = None
        await run_to_completion(self._until_idle())

    async def finish(self) -> Digests | None:
        """Hash the rest of the complete file; return None if the whole file must be read again instead.

        A cancellation takes effect within one block.
        """
        if not self._valid:
            return None
        with self._lock:
            self._min_batch, self._paused = 1, False
            self._schedule()
        try:
            await self._until_idle()
        finally:
            await self.pause()
        return self._digests()

    def _digests(self) -> Digests | None:
        whole = not self._later_ranges and all(stream.position == self._prefix for stream in self._streams)
        if self._gave_up or not whole or not self._streams or self._file is None:
            return None
        found = {stream.algorithm: stream.hasher.hexdigest() for stream in self._streams}
        return Digests(file=self._file, size=self._prefix, found=found)

    async def _until_idle(self) -> None:
        for stream in self._streams:
            while (work := self._work_of(stream)) is not None:
                waiter = asyncio.wrap_future(work)
                await asyncio.wait([waiter])
                if self._work_of(stream) is work:  # it ended with an exception
                    stream.work = None
                    waiter.result()

    def _work_of(self, stream: _HashStream) -> Future[None] | None:
        with self._lock:  # a thread that ends one turn and starts the next sets it to None in between
            return stream.work

    # With the lock held

    def _schedule(self) -> None:
        if self._affordable is not None:
            if self._prefix < self._sizes.cheap and self._min_batch > 1:  # 1: the file is complete
                return
            if self._prefix >= self._sizes.cheap and not self._affordable():
                self._gave_up = self.skipped = True
            self._affordable = None
        for stream in self._streams:
            if (
                stream.work is None
                and self._prefix - stream.position >= self._min_batch
                and not (self._paused or self._gave_up)
            ):
                stream.work = HASHING.submit(partial(self._hash_turn, stream))

    # On a thread

    def _hash_turn(self, stream: _HashStream) -> None:
        try:
            self._read(stream)
        except OSError:
            self._gave_up = True  # reading the whole file later raises the same error and reports it
        except BaseException:
            self._gave_up = True
            raise
        with self._lock:
            stream.work = None
            self._schedule()

    def _read(self, stream: _HashStream) -> None:
        if self._path is None:
            return
        buffer = memoryview(bytearray(self._sizes.block))
        until = stream.position + self._sizes.per_turn
        with self._path.open("rb", buffering=0) as file:
            self._check_same_file(file)
            file.seek(stream.position)
            while stream.position < until and (count := self._reserve(stream)):
                _read_exactly(file, buffer[:count])
                stream.hasher.update(buffer[:count])

    def _check_same_file(self, file: FileIO) -> None:
        found = file_id(os.fstat(file.fileno()))
        with self._lock:
            self._file = self._file or found
            if found != self._file:
                self._gave_up = True

    def _reserve(self, stream: _HashStream) -> int:
        """Reserve the next bytes to read, which count as hashed from now on. Return 0 if the thread should stop."""
        with self._lock:
            if self._paused or self._gave_up:
                return 0
            count = min(self._prefix - stream.position, self._sizes.block)
            stream.position += count
            return count


def _split_prefix(ranges: Iterable[Range]) -> tuple[int, tuple[Range, ...]]:
    """Return the end of the range that starts at 0 (0 if there is none), and the ranges after it."""
    whole = normalise(ranges)
    return (whole[0][1], whole[1:]) if whole and whole[0][0] == 0 else (0, whole)


def _read_exactly(file: FileIO, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise OSError(errno.EIO, "the file is shorter than the bytes written to it")
        done += count
