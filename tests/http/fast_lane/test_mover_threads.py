"""The threads of the fast lane: each serves many connections, and keeps them apart."""

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
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "buffered":
        monkeypatch.setattr(streams, "_SPLICES", False)
    elif not streams._SPLICES:
        pytest.skip("this system does not splice")


@pytest.fixture
def one() -> Iterator[TransferThreads]:
    """A single thread, so that all connections share it."""
    movers = TransferThreads(1)
    yield movers
    movers.close()
    assert lane_threads() == []


def lane_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("bulkdl-lane")]


@asynccontextmanager
async def taken(responder: Responder) -> AsyncIterator[tuple[Stream, int]]:
    """A connection that was taken over, and where in the body it goes on; what came before is left out."""
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
async def test_a_connection_tells_how_long_a_round_trip_takes():
    async with taken(ranges(BODIES[0])) as (stream, _):
        assert stream.round_trip_s is not None
        assert 0 < stream.round_trip_s < 1


async def test_where_the_system_does_not_tell_the_round_trip_is_unknown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "_TCP_INFO", None)
    async with taken(ranges(BODIES[0])) as (stream, _):
        assert stream.round_trip_s is None


async def moved(movers: TransferThreads, stream: Stream, path: Path, at: int, *, end: int = SIZE) -> Chunk:
    """All steps until the end, or until something ends them; the last one."""
    with opened(path) as pen:
        while True:
            step = await movers.step(stream, pen, at=at, end=end)
            at += step.count
            if at >= end or step.ended or step.error is not None:
                return step


async def test_connections_that_share_a_thread_each_fill_their_own_file(one: TransferThreads, tmp_path: Path):
    async def fetch(number: int) -> int:
        async with taken(ranges(BODIES[number])) as (stream, start):
            step = await moved(one, stream, tmp_path / str(number), start)
            assert (step.ended, step.error) == (False, None)
            return start

    starts = await asyncio.gather(*map(fetch, range(len(BODIES))))
    assert [(tmp_path / str(n)).read_bytes()[s:] == BODIES[n][s:] for n, s in enumerate(starts)] == [True] * len(BODIES)
    assert len(lane_threads()) == 1


async def test_threads_start_when_they_are_needed_and_are_no_more_than_allowed(tmp_path: Path):
    movers = TransferThreads(2)
    assert lane_threads() == []
    async with taken(stall(SIZE, BODIES[0][:1_000_000])) as (stream, at):
        await movers.step(stream, OffsetWriter(-1, tmp_path, None), at=at, end=at)
        assert len(lane_threads()) == 1

        async def fetch(number: int) -> None:
            async with taken(ranges(BODIES[number])) as (stream, start):
                await moved(movers, stream, tmp_path / str(number), start)

        await asyncio.gather(*map(fetch, range(6)))
        assert len(lane_threads()) == 2
    movers.close()
    assert lane_threads() == []


async def test_what_a_failed_write_leaves_behind_reaches_no_other_file(one: TransferThreads, tmp_path: Path):
    async with taken(ranges(BODIES[0])) as (broken, at), taken(ranges(BODIES[1])) as (sound, start):
        with opened(tmp_path / "0", "rb") as unwritable:
            step = await one.step(broken, unwritable, at=at, end=SIZE)
        assert step.error is not None
        await moved(one, sound, tmp_path / "1", start)
        assert (tmp_path / "1").read_bytes()[start:] == BODIES[1][start:]
        assert (tmp_path / "0").read_bytes() == b""


async def test_the_silence_of_one_connection_is_its_own(one: TransferThreads, tmp_path: Path):
    async with taken(stall(SIZE, BODIES[0][:1_000_000])) as (quiet, first), taken(ranges(BODIES[1])) as (busy, start):
        with opened(tmp_path / "0") as pen:
            at = first
            while at < 1_000_000:
                at += (await one.step(quiet, pen, at=at, end=SIZE)).count
            silent = asyncio.create_task(one.step(quiet, pen, at=at, end=SIZE))
            await moved(one, busy, tmp_path / "1", start)
            assert (await silent).count == 0
        assert quiet.silence_s > 0
        assert busy.silence_s == 0


async def test_a_cancelled_step_is_over_when_the_cancellation_is(one: TransferThreads, tmp_path: Path):
    async with taken(stall(SIZE, BODIES[0][:1_000_000])) as (stream, at):
        with opened(tmp_path / "x") as pen:
            step = asyncio.create_task(one.step(stream, pen, at=at, end=SIZE))
            await asyncio.sleep(0)
            step.cancel()
            with suppress(asyncio.CancelledError):
                await step
        assert step.cancelled()
        assert (tmp_path / "x").read_bytes()[at:] == BODIES[0][at:1_000_000]  # what was here was written before the end
        with opened(tmp_path / "x") as pen:
            assert (await one.step(stream, pen, at=1_000_000, end=SIZE)).count == 0


class Defective:
    """A connection whose code fails."""

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


async def test_a_defect_is_told_to_who_waits_and_the_thread_goes_on(one: TransferThreads, tmp_path: Path):
    ours, theirs = socket.socketpair()
    with ours, theirs, opened(tmp_path / "0") as pen, pytest.raises(LookupError):
        await one.step(Defective(ours), pen, at=0, end=SIZE)
    async with taken(ranges(BODIES[1])) as (stream, start):
        await moved(one, stream, tmp_path / "1", start)
    assert (tmp_path / "1").read_bytes()[start:] == BODIES[1][start:]


async def test_a_connection_that_cannot_be_watched_ends_its_step_alone(one: TransferThreads, tmp_path: Path):
    async with taken(ranges(BODIES[0])) as (closed, at), taken(ranges(BODIES[1])) as (stream, start):
        closed.close()
        with opened(tmp_path / "0") as pen, pytest.raises(ValueError, match="file"):
            await one.step(closed, pen, at=at, end=SIZE)
        await moved(one, stream, tmp_path / "1", start)
    assert (tmp_path / "1").read_bytes()[start:] == BODIES[1][start:]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
async def test_every_descriptor_is_given_back(tmp_path: Path):
    before = descriptors()
    movers = TransferThreads(2)
    for number in range(3):
        async with taken(ranges(BODIES[number])) as (stream, start):
            await moved(movers, stream, tmp_path / str(number), start)
    movers.close()
    await asyncio.sleep(0)  # asyncio closes its sockets when the loop goes round
    assert descriptors() == before


async def test_a_step_brings_no_more_than_its_bound(
    one: TransferThreads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mover_threads, "STEP_BYTES", 100_000)
    async with taken(ranges(BODIES[0])) as (stream, at):
        with opened(tmp_path / "x") as pen:
            assert (await one.step(stream, pen, at=at, end=SIZE)).count == 100_000
            assert (await one.step(stream, pen, at=at + 100_000, end=at + 100_001)).count == 1
