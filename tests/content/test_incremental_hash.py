"""The incremental hasher on real files: for any order of writes it returns the file's digest or none."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import random
import tempfile
import threading
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from blake3 import blake3
from hypothesis import example, given
from hypothesis import strategies as st

from bulkdl.content.hashing import HASHING, Digests, file_id
from bulkdl.content.incremental_hash import IncrementalHasher, ReadSizes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

KIB = 1024
TINY = ReadSizes(min_product=0, min_batch=1, per_turn=16, block=5)
BODY = random.Random(1).randbytes(40 * KIB)


def hasher(*algorithms: str, step: int = 1) -> IncrementalHasher:
    return IncrementalHasher(
        algorithms or ("md5",), sizes=ReadSizes(min_product=0, min_batch=step, per_turn=8 * KIB, block=KIB)
    )


def write(path: Path, start: int, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, data, start)
    finally:
        os.close(fd)


def put(each: IncrementalHasher, path: Path, start: int, end: int, body: bytes = BODY) -> None:
    write(path, start, body[start:end])
    each.note(start, end)


def found(digests: Digests | None, path: Path) -> dict[str, str]:
    return {} if digests is None else dict(digests.of(path.stat()))


def md5(data: bytes) -> dict[str, str]:
    return {"md5": hashlib.md5(data).hexdigest()}


def open_files(path: Path) -> int:
    """Return the number of open descriptors of `path` in this process, if the system shows them."""
    count, here = 0, Path("/proc/self/fd")
    for fd in here.iterdir() if here.is_dir() else ():
        with suppress(OSError):
            count += fd.readlink() == path
    return count


def work_of(each: IncrementalHasher) -> list[object]:
    return [stream.work for stream in each._streams]


async def caught_up(each: IncrementalHasher) -> None:
    """Wait until everything noted is hashed, as happens on a slow network."""
    await each.finish()


# --- Digests it returns


@pytest.mark.parametrize(
    "ranges",
    [
        [(0, 40)],
        [(0, 10), (10, 20), (20, 40)],
        [(20, 40), (0, 20)],
        [(30, 40), (10, 20), (0, 10), (20, 30)],
        [(0, 10), (30, 40), (10, 20), (20, 30)],
    ],
)
async def test_ranges_in_any_order_give_the_digest_of_the_file(tmp_path, ranges):
    path, each = tmp_path / "p.part", hasher()
    path.touch()
    each.begin(path, (), total=len(BODY))
    for start, end in ranges:
        put(each, path, start * KIB, end * KIB)
    assert found(await each.finish(), path) == md5(BODY)


async def test_several_algorithms_are_each_computed(tmp_path):
    path, each = tmp_path / "p.part", hasher("md5", "sha256", "blake3", "md5")
    path.touch()
    each.begin(path, (), total=None)
    put(each, path, 0, len(BODY))
    expected = {**md5(BODY), "sha256": hashlib.sha256(BODY).hexdigest(), "blake3": blake3(BODY).hexdigest()}
    assert found(await each.finish(), path) == expected


async def test_bytes_already_on_disk_are_hashed_without_a_note(tmp_path):
    path, each = tmp_path / "p.part", hasher()
    write(path, 0, BODY[: 10 * KIB])
    write(path, 30 * KIB, BODY[30 * KIB :])
    each.begin(path, ((0, 10 * KIB), (30 * KIB, 40 * KIB)), total=len(BODY))
    put(each, path, 10 * KIB, 30 * KIB)
    assert found(await each.finish(), path) == md5(BODY)


async def test_the_next_attempt_does_not_read_hashed_bytes_again(tmp_path):
    path, each = tmp_path / "p.part", hasher()
    path.touch()
    each.begin(path, (), total=len(BODY))
    put(each, path, 0, 20 * KIB)
    await caught_up(each)
    write(path, 0, b"not what was hashed")
    each.begin(path, ((0, 20 * KIB),), total=len(BODY))
    put(each, path, 20 * KIB, 40 * KIB)
    assert found(await each.finish(), path) == md5(BODY)


async def test_nothing_is_read_before_a_full_batch_is_written(tmp_path):
    path, each = tmp_path / "p.part", hasher(step=10 * KIB)
    each.begin(path, (), total=None)
    each.note(0, 10 * KIB - 1)
    assert [work for work in work_of(each) if work is not None] == []
    each.note(10 * KIB - 1, 10 * KIB)
    assert all(work_of(each))
    await each.pause()


# --- Digests it must not return


async def rewritten(path: Path, each: IncrementalHasher) -> None:
    put(each, path, 0, 40 * KIB)
    await caught_up(each)
    put(each, path, 5, 6)


async def beyond_a_gap(path: Path, each: IncrementalHasher) -> None:
    put(each, path, 0, 10 * KIB)
    put(each, path, 20 * KIB, 40 * KIB)


async def shorter(path: Path, each: IncrementalHasher) -> None:
    put(each, path, 0, 20 * KIB)
    each.note(20 * KIB, 40 * KIB)


async def longer(path: Path, each: IncrementalHasher) -> None:
    put(each, path, 0, 20 * KIB)
    write(path, 20 * KIB, BODY[20 * KIB :])


async def gone(path: Path, each: IncrementalHasher) -> None:
    put(each, path, 0, 20 * KIB)
    await caught_up(each)
    each.begin(path, ((0, 20 * KIB),), total=None)
    os.rename(path, path.with_name("elsewhere"))  # noqa: PTH104
    each.note(20 * KIB, 40 * KIB)
    await caught_up(each)
    write(path, 0, BODY)


async def another_file(path: Path, each: IncrementalHasher) -> None:
    put(each, path, 0, 20 * KIB)
    await caught_up(each)
    each.begin(path, ((0, 20 * KIB),), total=None)
    other = path.with_name("other")
    other.write_bytes(BODY[: 20 * KIB])
    other.replace(path)
    put(each, path, 20 * KIB, 40 * KIB)


async def another_file_at_the_end(path: Path, each: IncrementalHasher) -> None:
    put(each, path, 0, 40 * KIB)
    await caught_up(each)
    other = path.with_name("other")
    other.write_bytes(BODY)
    other.replace(path)


@pytest.mark.parametrize(
    "happens", [rewritten, beyond_a_gap, shorter, longer, gone, another_file, another_file_at_the_end]
)
async def test_there_is_no_digest_for_a_file_that_was(tmp_path, happens):
    path, each = tmp_path / "p.part", hasher()
    path.touch()
    each.begin(path, (), total=None)
    await happens(path, each)
    assert found(await each.finish(), path) == {}
    await each.pause()
    assert open_files(path) == 0


@pytest.mark.parametrize("have", [(), ((0, 10 * KIB),), ((1, 40 * KIB),)])
async def test_hashes_of_bytes_beyond_the_kept_ones_are_dropped(tmp_path, have):
    path, each = tmp_path / "p.part", hasher()
    path.touch()
    each.begin(path, (), total=None)
    put(each, path, 0, 40 * KIB)
    await caught_up(each)
    other = random.Random(2).randbytes(40 * KIB)
    each.begin(path, have, total=None)
    kept = have[0][1] if have and have[0][0] == 0 else 0
    put(each, path, kept, 40 * KIB, BODY[:kept] + other[kept:])
    assert found(await each.finish(), path) == md5(BODY[:kept] + other[kept:])


async def test_after_giving_up_the_next_attempt_hashes_again(tmp_path):
    path, each = tmp_path / "p.part", hasher()
    path.touch()
    each.begin(path, (), total=None)
    await rewritten(path, each)
    assert await each.finish() is None
    await each.pause()
    each.begin(path, ((0, 40 * KIB),), total=None)
    assert found(await each.finish(), path) == md5(BODY)


async def test_a_download_into_a_new_file_of_the_same_name_is_hashed_again(tmp_path):
    path, each = tmp_path / "p.part", hasher()
    path.touch()
    each.begin(path, (), total=None)
    put(each, path, 0, 20 * KIB)
    await caught_up(each)
    other = tmp_path / "other"
    other.touch()
    other.replace(path)
    each.begin(path, (), total=None)
    put(each, path, 0, 40 * KIB)
    assert found(await each.finish(), path) == md5(BODY)


async def test_there_is_no_digest_if_other_code_may_have_written_the_file(tmp_path):
    path, each = tmp_path / "p.part", hasher()
    path.touch()
    each.begin(path, (), total=None)
    put(each, path, 0, 40 * KIB)
    await caught_up(each)
    each.invalidate()
    write(path, 0, b"x")
    assert await each.finish() is None


async def test_small_products_and_products_without_checksums_are_not_hashed_early(tmp_path):
    path = tmp_path / "p.part"
    for each in (
        IncrementalHasher(("md5",), sizes=ReadSizes(min_product=40 * KIB, min_batch=1)),
        IncrementalHasher(()),
    ):
        path.write_bytes(b"")
        each.begin(path, (), total=40 * KIB)
        put(each, path, 0, 40 * KIB)
        assert await each.finish() is None


# --- Threads


async def test_a_cancelled_finish_leaves_no_reading_thread(tmp_path):
    path, each = tmp_path / "p.part", IncrementalHasher(("md5", "sha512"))
    with path.open("wb") as file:
        file.truncate(64 * KIB * KIB * KIB)
    begun, loop = asyncio.Event(), asyncio.get_running_loop()
    watched = Noted(path, lambda: loop.call_soon_threadsafe(begun.set))
    each.begin(cast("Path", watched), ((0, 64 * KIB * KIB * KIB),), total=None)
    task = asyncio.create_task(each.finish())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_files(path) == 0


@asynccontextmanager
async def busy_threads() -> AsyncIterator[None]:
    """Occupy every hashing thread."""
    release = threading.Event()
    busy = [HASHING.submit(release.wait) for _ in range(64)]
    try:
        yield
    finally:
        release.set()
        await asyncio.gather(*map(asyncio.wrap_future, busy))


async def test_a_pause_does_not_wait_for_a_thread_that_has_not_started(tmp_path):
    path, each = tmp_path / "p.part", hasher()
    write(path, 0, BODY)
    async with busy_threads():
        each.begin(path, ((0, len(BODY)),), total=None)
        await each.pause()
    each.begin(path, ((0, len(BODY)),), total=None)
    assert found(await each.finish(), path) == md5(BODY)


async def test_a_long_file_yields_the_threads_to_other_files(tmp_path):
    """With more files than threads, each of many turns, all start before the first one finishes."""
    begun: set[int] = set()
    all_begun: list[bool] = []
    hashers = [hasher() for _ in range(24)]

    async def end(each: IncrementalHasher, path: Path) -> None:
        assert found(await each.finish(), path) == md5(BODY)
        all_begun.append(len(begun) == len(hashers))

    async with asyncio.TaskGroup() as group, busy_threads():
        for number, each in enumerate(hashers):
            path = tmp_path / f"{number}.part"
            write(path, 0, BODY)
            each.begin(cast("Path", Noted(path, partial(begun.add, number))), ((0, len(BODY)),), total=None)
            group.create_task(end(each, path))
        await asyncio.sleep(0)
    assert all(all_begun)


@dataclass(frozen=True)
class Noted:
    """A path that calls `opened` when it is opened."""

    path: Path
    opened: Callable[[], object]

    def open(self, *arguments, **options):
        self.opened()
        return self.path.open(*arguments, **options)


def fail() -> None:
    raise RuntimeError("a defect")


@pytest.mark.parametrize("ends", ["pause", "finish"])
async def test_a_bug_in_a_thread_is_raised(tmp_path, ends):
    path, each = tmp_path / "p.part", hasher()
    write(path, 0, BODY)
    each.begin(cast("Path", Noted(path, fail)), ((0, KIB),), total=None)
    started = each._streams[0].work
    assert started is not None
    assert isinstance(started.exception(), RuntimeError)
    with pytest.raises(RuntimeError, match="a defect"):
        await (each.pause() if ends == "pause" else each.finish())


# --- Any history

SIZE = 60
KINDS = ("write", "write", "catch up", "torn write", "attempt", "restart", "replace")
EVENTS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, SIZE), st.integers(0, SIZE)), max_size=20)


class History:
    """One partial through several attempts. Every write uses new random bytes, so a stale digest is noticed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.each = IncrementalHasher(("md5", "blake3"), sizes=TINY)
        self.noise = random.Random(7)
        self.written: set[int] = set()
        path.touch()
        self.each.begin(path, (), total=None)

    async def happen(self, what: str, start: int, end: int) -> None:
        match what:
            case "write":
                self.write(start, end)
            case "catch up":
                await self.each._until_idle()
            case "torn write":  # a failed write without a note, to bytes that are not known to be written
                for at in set(range(start, end)) - self.written:
                    write(self.path, at, self.noise.randbytes(1))
            case "attempt":  # a new attempt without the bytes of one lost checkpoint
                await self.attempt(self.written - set(range(start, end)))
            case "restart":
                await self.each.pause()
                os.truncate(self.path, 0)
                await self.attempt(set())
            case _:
                await self.each.pause()
                other = self.path.with_name("other")
                other.write_bytes(self.noise.randbytes(end))
                other.replace(self.path)
                await self.attempt(set())

    def write(self, start: int, end: int) -> None:
        if start < end:
            write(self.path, start, self.noise.randbytes(end - start))
            self.each.note(start, end)
            self.written.update(range(start, end))

    async def attempt(self, stays: set[int]) -> None:
        await self.each.pause()
        self.written = stays
        self.each.begin(self.path, tuple((at, at + 1) for at in stays), total=None)

    async def ends_right(self) -> bool:
        """Write everything that is missing; return True if there is a digest, which must be right."""
        for at in sorted(set(range(SIZE)) - self.written):
            self.write(at, at + 1)
        known = found(await self.each.finish(), self.path)
        data = self.path.read_bytes()
        assert known in ({}, {**md5(data), "blake3": blake3(data).hexdigest()})
        assert open_files(self.path) == 0
        return bool(known)


@given(events=EVENTS)
@example(events=[("write", 0, 40), ("catch up", 0, 0), ("write", 5, 6)])
@example(events=[("write", 0, 40), ("catch up", 0, 0), ("attempt", 5, 50), ("torn write", 0, 60)])
def test_after_any_history_the_digest_is_right_or_missing(events):
    async def live(folder: str) -> bool:
        history = History(Path(folder) / "p.part")
        for event in events:
            await history.happen(*event)
        return await history.ends_right()

    with tempfile.TemporaryDirectory() as folder:
        known = asyncio.run(live(folder))
    if not any(what == "write" for what, _, _ in events):
        assert known


@given(cuts=st.sets(st.integers(1, 199), max_size=8), data=st.randoms(use_true_random=False))
def test_pieces_that_do_not_overlap_always_give_a_digest(cuts, data):
    body = data.randbytes(200)
    edges = [0, *sorted(cuts), 200]
    pieces = list(itertools.pairwise(edges))
    data.shuffle(pieces)

    async def live(folder: str) -> None:
        path, each = Path(folder) / "p.part", IncrementalHasher(("md5",), sizes=TINY)
        path.touch()
        each.begin(path, (), total=200)
        for start, end in pieces:
            put(each, path, start, end, body)
            if data.random() < 0.3:
                await each.pause()
                each.begin(path, missing_after(pieces, (start, end)), total=200)
        assert found(await each.finish(), path) == md5(body)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live(folder))


def missing_after(pieces: list[tuple[int, int]], last: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the pieces that are written once `last` is."""
    return pieces[: pieces.index(last) + 1]


def test_digests_are_of_one_file_of_one_size(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(BODY)
    other.write_bytes(BODY)
    known = Digests(file=file_id(one.stat()), size=len(BODY), found=md5(BODY))
    assert known.of(one.stat()) == md5(BODY)
    assert known.of(other.stat()) == {}
    write(one, len(BODY), b"x")
    assert known.of(one.stat()) == {}


@pytest.mark.parametrize(("count", "affordable", "found"), [(99, False, True), (100, False, False), (100, True, True)])
async def test_digests_for_the_record_are_left_out_only_of_large_files_that_arrive_too_fast(
    count, affordable, found, tmp_path
):
    path, asked = tmp_path / "x", []
    hasher = IncrementalHasher(("blake3",), sizes=ReadSizes(min_product=0, min_batch=10, cheap=100))
    path.write_bytes(bytes(count))
    hasher.begin(path, (), total=count, affordable=lambda: asked.append(1) or affordable)
    for at in range(0, count, 9):
        hasher.note(at, min(at + 9, count))
    digests = await hasher.finish()
    assert (digests is not None, hasher.skipped) == (found, not found)
    assert len(asked) == (count >= 100)
