"""Write text on a thread of its own, so that a reader who takes nothing never holds up the run.

A terminal takes nothing after Ctrl-S, behind a stalled ssh, and while text is selected in a Windows console; a pipe takes
nothing when its reader sleeps. A write to either waits without a limit, and so must not happen on the event loop.
"""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

__all__ = ["BackgroundStream", "BackgroundWriter", "in_background", "raw_of"]

MOST_QUEUED = 1000
"""Texts that wait at most; further ones are counted and left out."""
_CHUNK_BYTES = 4096
"""Bytes in one write: a reader that is slow but alive shows itself after each."""


class BackgroundWriter:
    """Queue of texts that a daemon thread writes in order; `put` never waits for the reader."""

    def __init__(
        self,
        open_raw: Callable[[], io.RawIOBase],
        *,
        encoding: str = "utf-8",
        left_out: Callable[[int], str] = lambda number: f"({number:,} lines left out: nobody read them)\n",
        most: int = MOST_QUEUED,
    ) -> None:
        """`open_raw` runs on the thread, since opening a FIFO waits for its reader. `left_out`: note about lost texts."""
        self._open_raw = open_raw
        self._encoding = encoding
        self._note = left_out
        self._most = most
        self._queue: deque[str] = deque()
        self._left_out = 0
        self._chunks = 0
        self._busy = False
        self._ended = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.error: OSError | None = None
        """The error that ended the writing; later texts are dropped."""

    @property
    def is_behind(self) -> bool:
        """True while a text waits: frames and samples, which the next one replaces, are not worth queueing then."""
        return self._busy or bool(self._queue)

    def put(self, text: str) -> None:
        with self._changed:
            if self._ended or not text:
                return
            if len(self._queue) >= self._most:
                self._left_out += 1
                return
            self._mention_left_out()
            self._queue.append(text)
            self._changed.notify_all()
        if self._thread is None:
            self._busy = True  # until the thread has opened its stream, which may wait for a reader
            self._thread = threading.Thread(target=self._work, name="bulkdl-writer", daemon=True)
            self._thread.start()

    def leave_out(self) -> bool:
        """Count one more text as left out if no further one is taken now; its caller need not make it then."""
        with self._changed:
            is_full = len(self._queue) >= self._most
            self._left_out += is_full
            return is_full

    def drain(self, patience_s: float | None) -> bool:
        """Wait until everything is written. Return False after `patience_s` seconds in which the reader took nothing."""
        with self._changed:
            while self.is_behind and not self._ended:
                seen = self._chunks
                moved = self._changed.wait(patience_s)
                if not moved and self._chunks == seen:
                    return False
            return self.error is None

    def close(self, patience_s: float | None) -> bool:
        """Drain, then end the thread; one that is still stuck in a write is left behind, and ends with the process."""
        drained = self.drain(patience_s)
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread is not None and not self._busy:
            self._thread.join()
        return drained

    def _mention_left_out(self) -> None:
        if self._left_out:
            self._queue.append(self._note(self._left_out))
            self._left_out = 0

    def _work(self) -> None:
        try:
            raw = self._open_raw()
            while (text := self._next()) is not None:
                self._write(raw, text.encode(self._encoding, "backslashreplace"))
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            with self._changed:
                self.error = error if isinstance(error, OSError) else None
                self._ended = True
                self._queue.clear()
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def _next(self) -> str | None:
        with self._changed:
            self._busy = False
            while True:
                if not self._queue:
                    self._mention_left_out()
                if self._queue or self._ended:
                    break
                self._changed.notify_all()
                self._changed.wait()
            if not self._queue:
                return None
            self._busy = True
            return self._queue.popleft()

    def _write(self, raw: io.RawIOBase, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = raw.write(view[:_CHUNK_BYTES])
            if count is None:  # another process has made the descriptor non-blocking
                _wait_until_writable(raw)
                continue
            view = view[count:]
            with self._changed:
                self._chunks += 1
                self._changed.notify_all()


def _wait_until_writable(raw: io.RawIOBase) -> None:
    import select  # noqa: PLC0415 - rarely needed

    select.select([], [raw], [])


class BackgroundStream(io.TextIOBase):
    """A text stream in front of `BackgroundWriter`, for rich and for lines."""

    def __init__(self, stream: TextIO, raw: io.RawIOBase, left_out: Callable[[int], str]) -> None:
        super().__init__()
        self._stream = stream
        self._encoding = stream.encoding or "utf-8"
        self._writer = BackgroundWriter(lambda: raw, encoding=self._encoding, left_out=left_out)
        # The raw stream knows nothing of line ends, which the text stream would translate on Windows.
        self._line_end = "\n" if stream.isatty() else os.linesep

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    @property
    def is_behind(self) -> bool:
        return self._writer.is_behind

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._writer.put(text if self._line_end == "\n" else text.replace("\n", self._line_end))
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes at once, and `drain` waits for it."""

    def leave_out(self) -> bool:
        return self._writer.leave_out()

    def drain(self, patience_s: float | None) -> bool:
        return self._writer.drain(patience_s)

    def end(self, patience_s: float | None) -> bool:
        """Drain and end the thread; return False if the reader took nothing for `patience_s` seconds."""
        return self._writer.close(patience_s)


def raw_of(stream: TextIO) -> io.RawIOBase | None:
    """Return the unbuffered stream below `stream`; None for one in memory, which never waits.

    Writing below the buffer matters at exit: the interpreter aborts if a thread still holds the buffer's lock then.
    """
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, io.RawIOBase) else None


def in_background(stream: TextIO, left_out: Callable[[int], str]) -> TextIO | BackgroundStream:
    """Return a stream that never waits for the reader of `stream`."""
    raw = raw_of(stream)
    if raw is None:
        return stream
    with suppress(OSError, ValueError):
        stream.flush()
    return BackgroundStream(stream, raw, left_out)
