"""A partial file keeps what was written and synced, whatever is cancelled."""

from __future__ import annotations

import asyncio
import os
import resource
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.storage.destination import Storage
from bulkdl.storage.file_info import FileFacts
from bulkdl.storage.partial_file import Partial
from tests.effort import effort
from tests.storage.storage_places import descriptors, make_link, mounted


@settings(max_examples=effort(15, 80))
@given(
    writes=st.lists(
        st.tuples(st.integers(0, 300), st.binary(max_size=60), st.sampled_from([bytes, bytearray, memoryview]))
    )
)
def test_writes_at_any_offset_in_any_order_equal_the_same_writes_in_memory(writes) -> None:
    expected = bytearray()

    async def run(path: Path) -> None:
        async with Partial.open(path) as partial:
            for offset, data, kind in writes:
                await partial.write(offset, kind(data))
                if data:
                    expected.extend(bytes(max(0, offset + len(data) - len(expected))))
                    expected[offset : offset + len(data)] = data
            await partial.sync()
            assert await partial.size() == len(expected)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "folder" / "x.part"
        asyncio.run(run(path))
        assert path.read_bytes() == expected


@pytest.mark.parametrize(("truncate", "left"), [(False, b"012345ab89"), (True, bytes(6) + b"ab")])
async def test_opening_keeps_the_content_unless_it_is_truncated(
    tmp_path: Path,
    truncate: bool,  # noqa: FBT001
    left: bytes,
) -> None:
    path = tmp_path / "x.part"
    path.write_bytes(b"0123456789")
    async with Partial.open(path, truncate=truncate) as partial:
        assert await partial.size() == (0 if truncate else 10)
        await partial.write(6, b"ab")
        facts = await partial.seal()
    assert path.read_bytes() == left
    assert facts == FileFacts(size=len(left), mtime_ns=path.stat().st_mtime_ns, is_file=True)


async def test_many_tasks_write_their_own_ranges_of_one_partial(tmp_path: Path) -> None:
    blocks = [bytes([n]) * 70_000 for n in range(40)]
    async with Storage(tmp_path) as storage:
        async with storage.open_partial("x.part") as partial, asyncio.TaskGroup() as group:
            for n, block in enumerate(blocks):
                group.create_task(partial.write(n * 70_000, block))
        assert (tmp_path / "x.part").read_bytes() == b"".join(blocks)


async def test_a_cancelled_write_is_over_before_the_cancellation_goes_on(tmp_path: Path) -> None:
    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        async with Partial.open(tmp_path / "x.part", executor=executor) as partial:
            executor.submit(release.wait)
            data = bytearray(b"payload")
            task = asyncio.ensure_future(partial.write(0, data))
            await asyncio.sleep(0)
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
            release.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            data[:] = b"another"
    assert (tmp_path / "x.part").read_bytes() == b"payload"


async def test_closing_waits_for_writes_that_nobody_awaits(tmp_path: Path) -> None:
    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        async with Partial.open(tmp_path / "x.part", executor=executor) as partial:
            executor.submit(release.wait)
            task = asyncio.ensure_future(partial.write(0, b"late"))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(release.set)
        await task
        with pytest.raises(ValueError, match="closed"):
            await partial.write(0, b"x")
    assert (tmp_path / "x.part").read_bytes() == b"late"


async def test_a_cancelled_opening_leaves_no_descriptor_open(tmp_path: Path) -> None:
    release = threading.Event()
    before = descriptors()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(release.wait)
        task = asyncio.ensure_future(Partial.open(tmp_path / "x.part", executor=executor).__aenter__())
        await asyncio.sleep(0)
        task.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (tmp_path / "x.part").exists()
    assert descriptors() <= before


async def test_after_a_failed_sync_no_later_one_succeeds(tmp_path: Path) -> None:
    reading, writing = os.pipe()  # a descriptor that cannot be synced
    partial = Partial(writing, tmp_path / "x.part", root=None, executor=None)
    with pytest.raises(ProductFailed) as first:
        await partial.sync()
    os.dup2(os.open(tmp_path / "x.part", os.O_RDWR | os.O_CREAT), writing)  # now one that can be synced
    with pytest.raises(ProductFailed) as second:
        await partial.seal()
    assert first.value is second.value
    await partial._close()
    os.close(reading)


async def test_a_file_past_the_limit_fails_its_product_only(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, limits[1]))
    try:
        async with Storage(tmp_path) as storage, storage.open_partial("x.part") as partial:
            with pytest.raises(ProductFailed, match=r"Could not write 'x.part': the file is larger than"):
                await partial.write(64 << 20, b"x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_full_disk_stops_the_run_and_keeps_what_was_synced(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=256k") as place:
        async with Storage(place) as storage:
            async with storage.open_partial("x.part") as partial:
                await partial.write(0, b"a" * 100_000)
                await partial.sync()
                with pytest.raises(StorageStopped, match=r"Could not write 'x.part': no space left") as stopped:
                    await partial.write(100_000, b"b" * 1_000_000)
            assert stopped.value.full
            assert (place / "x.part").read_bytes()[:100_000] == b"a" * 100_000
            assert await storage.free_bytes() == 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(Path.mkdir, "a folder with this name is in the way", id="folder"),
        pytest.param(make_link, "a symbolic link is in the way", id="link"),
        pytest.param(os.mkfifo, "not a regular file", id="fifo"),
    ],
)
async def test_what_is_no_file_at_the_partials_name_fails_the_product(tmp_path: Path, make, says: str) -> None:
    make(tmp_path / "x.part")
    async with Storage(tmp_path) as storage:
        with pytest.raises(ProductFailed, match=says):
            async with storage.open_partial("x.part"):
                pass
