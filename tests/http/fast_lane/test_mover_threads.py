"""The threads of the fast lane: each serves many connections without mixing them up."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from bulkdl.http.fast_lane import mover_threads, streams
from bulkdl.http.fast_lane.mover_threads import TransferThreads
from bulkdl.http.fast_lane.takeover import take_over
from bulkdl.storage.offset_writer import OffsetWriter
from tests.harness import body_of
from tests.servers import RawServer, Responder, ranges, stall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from bulkdl.http.fast_lane.streams import Chunk, Stream

SIZE = 3_000_000
BODIES = [body_of(SIZE, seed) for seed in range(12)]


@pytest.fixture(params=["spliced", "buffered"], autouse=True)
def copy_method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "buffered":
        monkeypatch.setattr(streams, "_SPLICES", False)
    elif not streams._SPLICES:
        pytest.skip("this system does not splice")


@pytest.fixture
def threads() -> Iterator[TransferThreads]:
    """A single thread that all connections share."""
    threads = TransferThreads(1)
    yield threads
    threads.close()
    assert lane_threads() == []


def lane_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("bulkdl-lane")]


@asynccontextmanager
async def taken_over(responder: Responder) -> AsyncIterator[tuple[Stream, int]]:
    """Yield a connection after the takeover, and the offset in the body at which it continues."""
    async with (
        RawServer(responder) as server,
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(server.url()) as response,
    ):
        first = await response.content.readany()
        stream = await take_over(response, given=len(first))
        assert not isinstance(stream, bytes)
        yield stream, len(first) + len(stream.ahead)
        stream.close()


@contextmanager
def opened(path: Path, mode: str = "r+b") -> Iterator[OffsetWriter]:
    path.touch()
    with path.open(mode) as file:
        yield OffsetWriter(file.fileno(), path, None)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked how long a round trip takes")
async def test_a_connection_knows_its_round_trip_time():
    async with taken_over(ranges(BODIES[0])) as (stream, _):
        assert stream.round_trip_s is not None
        assert 0 < stream.round_trip_s < 1


async def test_the_round_trip_time_is_unknown_if_the_system_does_not_report_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "_TCP_INFO", None)
    async with taken_over(ranges(BODIES[0])) as (stream, _):
        assert stream.round_trip_s is None


async def run_steps(threads: TransferThreads, stream: Stream, path: Path, at: int, *, end: int = SIZE) -> Chunk:
    """Run steps until the end of the range or an error; return the last chunk."""
    with opened(path) as writer:
        while True:
            step = await threads.step(stream, writer, at=at, end=end)
            at += step.count
            if at >= end or step.ended or step.error is not None:
                return step


async def test_connections_that_share_a_thread_each_fill_their_own_file(threads: TransferThreads, tmp_path: Path):
    async def download(number: int) -> int:
        async with taken_over(ranges(BODIES[number])) as (stream, start):
            step = await run_steps(threads, stream, tmp_path / str(number), start)
            assert (step.ended, step.error) == (False, None)
            return start

    starts = await asyncio.gather(*map(download, range(len(BODIES))))
    assert [(tmp_path / str(n)).read_bytes()[s:] == BODIES[n][s:] for n, s in enumerate(starts)] == [True] * len(BODIES)
    assert len(lane_threads()) == 1


async def test_threads_start_on_demand_up_to_the_limit(tmp_path: Path):
    threads = TransferThreads(2)
    assert lane_threads() == []
    async with taken_over(stall(SIZE, BODIES[0][:1_000_000])) as (stream, at):
        await threads.step(stream, OffsetWriter(-1, tmp_path, None), at=at, end=at)
        assert len(lane_threads()) == 1

        async def download(number: int) -> None:
            async with taken_over(ranges(BODIES[number])) as (stream, start):
                await run_steps(threads, stream, tmp_path / str(number), start)

        await asyncio.gather(*map(download, range(6)))
        assert len(lane_threads()) == 2
    threads.close()
    assert lane_threads() == []


async def test_bytes_left_over_by_a_failed_write_reach_no_other_file(threads: TransferThreads, tmp_path: Path):
    async with taken_over(ranges(BODIES[0])) as (broken, at), taken_over(ranges(BODIES[1])) as (sound, start):
        with opened(tmp_path / "0", "rb") as unwritable:
            step = await threads.step(broken, unwritable, at=at, end=SIZE)
        assert step.error is not None
        await run_steps(threads, sound, tmp_path / "1", start)
        assert (tmp_path / "1").read_bytes()[start:] == BODIES[1][start:]
        assert (tmp_path / "0").read_bytes() == b""


async def test_the_silence_of_one_connection_is_its_own(threads: TransferThreads, tmp_path: Path):
    async with (
        taken_over(stall(SIZE, BODIES[0][:1_000_000])) as (quiet, first),
        taken_over(ranges(BODIES[1])) as (busy, start),
    ):
        with opened(tmp_path / "0") as writer:
            at = first
            while at < 1_000_000:
                at += (await threads.step(quiet, writer, at=at, end=SIZE)).count
            silent = asyncio.create_task(threads.step(quiet, writer, at=at, end=SIZE))
            await run_steps(threads, busy, tmp_path / "1", start)
            assert (await silent).count == 0
        assert quiet.silence_s > 0
        assert busy.silence_s == 0


async def test_a_cancelled_step_ends_before_the_cancellation_is_raised(threads: TransferThreads, tmp_path: Path):
    async with taken_over(stall(SIZE, BODIES[0][:1_000_000])) as (stream, at):
        with opened(tmp_path / "x") as writer:
            step = asyncio.create_task(threads.step(stream, writer, at=at, end=SIZE))
            await asyncio.sleep(0)
            step.cancel()
            with suppress(asyncio.CancelledError):
                await step
        assert step.cancelled()
        assert (tmp_path / "x").read_bytes()[at:] == BODIES[0][
            at:1_000_000
        ]  # the bytes that had arrived were written first
        with opened(tmp_path / "x") as writer:
            assert (await threads.step(stream, writer, at=1_000_000, end=SIZE)).count == 0


class Defective:
    """A stream whose `receive` raises an unexpected exception."""

    ahead, left, silence_s = b"", SIZE, 0.0

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self, *_: object) -> Chunk:
        raise LookupError("a defect")

    def wake_for(self, wanted: int) -> None:
        pass

    def close(self) -> None:
        self._sock.close()


async def test_an_unexpected_exception_reaches_the_caller_and_the_thread_keeps_running(
    threads: TransferThreads, tmp_path: Path
):
    ours, theirs = socket.socketpair()
    with ours, theirs, opened(tmp_path / "0") as writer, pytest.raises(LookupError):
        await threads.step(Defective(ours), writer, at=0, end=SIZE)
    async with taken_over(ranges(BODIES[1])) as (stream, start):
        await run_steps(threads, stream, tmp_path / "1", start)
    assert (tmp_path / "1").read_bytes()[start:] == BODIES[1][start:]


async def test_a_connection_that_cannot_be_polled_ends_only_its_own_step(threads: TransferThreads, tmp_path: Path):
    async with taken_over(ranges(BODIES[0])) as (closed, at), taken_over(ranges(BODIES[1])) as (stream, start):
        closed.close()
        with opened(tmp_path / "0") as writer, pytest.raises(ValueError, match="file"):
            await threads.step(closed, writer, at=at, end=SIZE)
        await run_steps(threads, stream, tmp_path / "1", start)
    assert (tmp_path / "1").read_bytes()[start:] == BODIES[1][start:]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
async def test_every_descriptor_is_closed(tmp_path: Path):
    before = descriptors()
    threads = TransferThreads(2)
    for number in range(3):
        async with taken_over(ranges(BODIES[number])) as (stream, start):
            await run_steps(threads, stream, tmp_path / str(number), start)
    threads.close()
    await asyncio.sleep(0)  # asyncio closes its sockets in the next turn of the event loop
    assert descriptors() == before


async def test_a_step_receives_no_more_than_its_limit(
    threads: TransferThreads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mover_threads, "STEP_BYTES", 100_000)
    async with taken_over(ranges(BODIES[0])) as (stream, at):
        with opened(tmp_path / "x") as writer:
            assert (await threads.step(stream, writer, at=at, end=SIZE)).count == 100_000
            assert (await threads.step(stream, writer, at=at + 100_000, end=at + 100_001)).count == 1
