"""Checksums while a product arrives: a follower reads back what has been written of a partial and hashes it.

It reads the file instead of listening to the network, so it is all one whether bytes come on one connection or on many,
were there before, or never pass through Python. What has just been written is still in the system's cache.

The digest cannot be of other bytes than the file's:
- a byte is read only after it has been noted as written, and all bytes before it have;
- `begin` says which bytes nobody is going to write again: what was hashed beyond them is forgotten;
- an attempt that writes in another way does not begin, and `set_aside` before each sees to it that nothing is claimed then;
- a note of bytes that may have been read already ends the following, and the whole file is read once it is complete;
- so does a file that is shorter than noted, cannot be read, or is another one under the same name.
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
    from collections.abc import Iterable
    from concurrent.futures import Future
    from io import FileIO
    from pathlib import Path

    from bulkdl.content.hashing import Hasher
    from bulkdl.protocol.byte_ranges import Range

__all__ = ["Block", "IncrementalHasher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """How a follower goes, in bytes."""

    least: int = 4 * 1024 * 1024
    """A product that is not larger is read once it is complete: that costs less."""
    step: int = 4 * 1024 * 1024
    """A thread is asked for when this much has gathered."""
    turn: int = 32 * 1024 * 1024
    """After so much the thread goes to whoever has waited longest."""
    block: int = BLOCK


@dataclass(slots=True, eq=False)
class _HashStream:
    """One algorithm's way through the file; several algorithms go on threads of their own."""

    algorithm: str
    hasher: Hasher
    position: int = 0
    """Up to here bytes are hashed, or are being read."""
    turn: Future[None] | None = None
    """Under way, or waiting for a thread."""


class IncrementalHasher:
    """Hashes the beginning of one product's partial while the rest arrives.

    Its methods are called on the event loop. Between `begin` and the end of `pause` threads may have the file open, by
    its name and for themselves; at other times none has.
    """

    def __init__(self, algorithms: Iterable[str], *, stride: Block | None = None) -> None:
        self._algorithms = tuple(dict.fromkeys(algorithms))
        self._stride = stride or Block()
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._file: tuple[int, int] | None = None
        self._strands: tuple[_HashStream, ...] = ()
        self._prefix = 0
        """Everything before it has been written."""
        self._apart: tuple[Range, ...] = ()
        """Written too, but with a gap before."""
        self._step = self._stride.step
        self._held = True
        self._lost = False
        self._begun = False

    def set_aside(self) -> None:
        """Claim nothing until the next `begin`: the file may be written by somebody who notes nothing."""
        self._begun = False

    def begin(self, path: Path, have: Iterable[Range], *, total: int | None) -> None:
        """Follow `path`, in which the bytes `have` are and stay; any other is noted each time it has been written.

        What was hashed of the same file before is kept as far as that still holds. `total`: bytes of the whole product.
        """
        if not self._algorithms or (total is not None and total <= self._stride.least):
            self._strands = ()
            return
        prefix, apart = _divided(have)
        if self._lost or path != self._path or not self._strands or any(s.position > prefix for s in self._strands):
            self._strands = tuple(_HashStream(algorithm, hasher(algorithm)) for algorithm in self._algorithms)
            self._file, self._lost = None, False
        with self._lock:
            self._path, self._prefix, self._apart = path, prefix, apart
            self._step, self._held, self._begun = self._stride.step, False, True
            self._wake()

    def note(self, start: int, end: int) -> None:
        """The bytes from `start` to `end` have been written."""
        if not self._strands:
            return
        with self._lock:
            if any(start < strand.position for strand in self._strands):
                self._lost = True
            if start == self._prefix and not self._apart:
                self._prefix = end
            else:
                self._prefix, self._apart = _divided(((0, self._prefix), *self._apart, (start, end)))
            self._wake()

    async def pause(self) -> None:
        """Return once no thread reads any more, a cancellation included; what is hashed is kept for the next `begin`.

        What a thread has raised, other than an `OSError`, is raised here.
        """
        with self._lock:
            self._held = True
            for strand in self._strands:
                if strand.turn is not None and strand.turn.cancel():
                    strand.turn = None
        await run_to_completion(self._idle())

    async def finish(self) -> Digests | None:
        """Hash what is left of a file that is complete; None where only a reading of the whole file can tell.

        A cancellation ends it within a block.
        """
        if not self._begun:
            return None
        with self._lock:
            self._step, self._held = 1, False
            self._wake()
        try:
            await self._idle()
        finally:
            await self.pause()
        return self._digests()

    def _digests(self) -> Digests | None:
        whole = not self._apart and all(strand.position == self._prefix for strand in self._strands)
        if self._lost or not whole or not self._strands or self._file is None:
            return None
        found = {strand.algorithm: strand.hasher.hexdigest() for strand in self._strands}
        return Digests(file=self._file, size=self._prefix, found=found)

    async def _idle(self) -> None:
        for strand in self._strands:
            while (turn := self._turn_of(strand)) is not None:
                waiter = asyncio.wrap_future(turn)
                await asyncio.wait([waiter])
                if self._turn_of(strand) is turn:  # it ended with an exception
                    strand.turn = None
                    waiter.result()

    def _turn_of(self, strand: _HashStream) -> Future[None] | None:
        with self._lock:  # between one turn and the next of a strand there is none for a moment
            return strand.turn

    # With the lock held

    def _wake(self) -> None:
        for strand in self._strands:
            if strand.turn is None and self._prefix - strand.position >= self._step and not (self._held or self._lost):
                strand.turn = HASHING.submit(partial(self._turn, strand))

    # On a thread

    def _turn(self, strand: _HashStream) -> None:
        try:
            self._read(strand)
        except OSError:
            self._lost = True  # whoever reads the whole file meets it too, and says so
        except BaseException:
            self._lost = True
            raise
        with self._lock:
            strand.turn = None
            self._wake()

    def _read(self, strand: _HashStream) -> None:
        if self._path is None:
            return
        buffer = memoryview(bytearray(self._stride.block))
        until = strand.position + self._stride.turn
        with self._path.open("rb", buffering=0) as file:
            self._recognise(file)
            file.seek(strand.position)
            while strand.position < until and (count := self._granted(strand)):
                _fill(file, buffer[:count])
                strand.hasher.update(buffer[:count])

    def _recognise(self, file: FileIO) -> None:
        found = file_id(os.fstat(file.fileno()))
        with self._lock:
            self._file = self._file or found
            if found != self._file:
                self._lost = True

    def _granted(self, strand: _HashStream) -> int:
        """How many bytes may be read now; from here on they count as read."""
        with self._lock:
            if self._held or self._lost:
                return 0
            count = min(self._prefix - strand.position, self._stride.block)
            strand.position += count
            return count


def _divided(ranges: Iterable[Range]) -> tuple[int, tuple[Range, ...]]:
    """Where the bytes from 0 on end that `ranges` have without a gap, and the ranges behind it."""
    whole = normalise(ranges)
    return (whole[0][1], whole[1:]) if whole and whole[0][0] == 0 else (0, whole)


def _fill(file: FileIO, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise OSError(errno.EIO, "the file is shorter than what was written to it")
        done += count
