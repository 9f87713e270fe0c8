"""A reader who takes nothing holds nobody up; what waits for it is bounded and counted."""

from __future__ import annotations

import io
import os
import threading

import pytest

from bulkdl.cli.background_writer import BackgroundWriter, in_background


class Reader(io.RawIOBase):
    """A raw stream whose writes wait for `let_go`."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self.begun = threading.Event()
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.begun.set()
        self.let_go.wait()
        self.taken += bytes(data)
        return len(data)


def test_texts_are_written_in_order_and_drained_at_the_end():
    reader = Reader()
    reader.let_go.set()
    writer = BackgroundWriter(lambda: reader)
    for number in range(100):
        writer.put(f"{number}\n")
    assert writer.close(None)
    assert reader.taken.decode().split() == [str(number) for number in range(100)]


def test_what_a_stalled_reader_does_not_take_is_bounded_and_counted():
    reader = Reader()
    writer = BackgroundWriter(lambda: reader, most=3, left_out=lambda number: f"[{number}]")
    writer.put("a")
    reader.begun.wait()
    for text in "bcdef":
        writer.put(text)
    assert writer.leave_out()
    assert writer.is_behind
    assert not writer.drain(0.01)
    reader.let_go.set()
    assert writer.drain(None)
    assert not writer.leave_out()
    writer.put("h")
    assert writer.close(None)
    assert reader.taken == b"abcd[3]h"


def test_closing_gives_up_on_a_reader_who_takes_nothing():
    reader = Reader()
    writer = BackgroundWriter(lambda: reader)
    writer.put("a")
    reader.begun.wait()
    assert not writer.close(0.01)
    writer.put("b")
    reader.let_go.set()


def test_a_broken_stream_ends_the_writing_and_not_the_run():
    read_end, write_end = os.pipe()
    os.close(read_end)
    writer = BackgroundWriter(lambda: io.FileIO(write_end, "w", closefd=False))
    writer.put("a")
    assert not writer.close(None)
    os.close(write_end)
    assert isinstance(writer.error, BrokenPipeError)
    writer.put("b")
    assert not writer.is_behind


def test_a_descriptor_that_is_not_blocking_loses_nothing():
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    writer = BackgroundWriter(lambda: io.FileIO(write_end, "w", closefd=False))
    text, taken = "x" * 300_000, b""
    writer.put(text)
    with io.FileIO(read_end) as reader:
        while len(taken) < len(text):
            taken += reader.read(len(text)) or b""
    assert taken.decode() == text
    assert writer.close(None)
    os.close(write_end)


def test_a_stream_in_memory_needs_no_thread():
    stream = io.StringIO()
    assert in_background(stream, str) is stream


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_what_the_encoding_lacks_is_escaped(encoding):
    reader = Reader()
    reader.let_go.set()
    writer = BackgroundWriter(lambda: reader, encoding=encoding)
    writer.put("a→b\udc80\n")
    assert writer.close(None)
    assert reader.taken.decode(encoding).startswith("a→b" if encoding == "utf-8" else "a\\u2192b")
