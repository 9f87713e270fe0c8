"""A slow disk delays only its own writes, not the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.demo_server.catalog import Item
from bulkdl.demo_server.server import Archive
from bulkdl.storage.destination import Storage
from bulkdl.transfer import batch_finalize
from tests.harness import Place, sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CALLS = ("pwrite", "fsync", "fdatasync", "ftruncate", "link", "unlink", "rename", "replace", "splice", "mkdir")


class ThrottledFiles:
    """Delays every call that changes a file until the event loop has run once more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = asyncio.get_running_loop()
        self.calls: set[str] = set()
        self.on_loop: list[str] = []
        self._thread = threading.get_ident()
        for name in _CALLS:
            if hasattr(os, name):
                monkeypatch.setattr(os, name, self._throttled(name, getattr(os, name)))

    def _throttled(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def throttled(*arguments: Any, **named: Any) -> Any:
            self.calls.add(name)
            if threading.get_ident() == self._thread:
                self.on_loop.append(name)
            else:
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result(timeout=60)
            return call(*arguments, **named)

        return throttled


@pytest.mark.parametrize("lane", ["0", "64K"])
@pytest.mark.parametrize("size", [0, 4096, 3_000_000])
async def test_no_file_is_changed_on_the_event_loops_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, lane: str
):
    items = [Item(name=f"{number}.bin", size=size, seed=number) for number in range(12)]
    place = Place(tmp_path, workers=6)
    place.environ["BULKDL_FAST_LANE"] = lane
    async with Archive(items) as archive:
        files = ThrottledFiles(monkeypatch)
        done = await place.run(*({"url": archive.url(item.name), "checksum": sha256(item.read())} for item in items))
    assert done.code == 0
    assert len(place.names()) == len(items)
    assert files.on_loop == []
    assert {"link", "fsync"} <= files.calls


async def test_a_disk_that_becomes_slow_does_not_block_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_finalize, "_MOST", 1)  # so that every disk counts as fast
    items = [Item(name=f"{number}.bin", size=4096, seed=number) for number in range(6)]
    place = Place(tmp_path, workers=6)
    async with Archive(items) as archive:
        files = ThrottledFiles(monkeypatch)
        done = await place.run(*({"url": archive.url(item.name)} for item in items))
    assert (done.code, len(place.names())) == (0, len(items))
    assert files.on_loop == []
    assert {"link", "fsync"} <= files.calls


async def test_conflicting_files_do_not_count_as_proof_of_a_fast_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They cost only a stat and no write."""
    items = [Item(name=f"{number}.bin", size=4096, seed=number) for number in range(40)]
    place, alone = Place(tmp_path, workers=2), []
    place.root.mkdir()
    for item in items:
        (place.root / item.name).write_bytes(b"of another size")
    work_blocking = Storage.work_blocking

    async def noted(self: Storage, *arguments: Any, **named: Any) -> Any:
        alone.append(arguments)
        return await work_blocking(self, *arguments, **named)

    monkeypatch.setattr(Storage, "work_blocking", noted)
    async with Archive(items) as archive:
        done = await place.run(*({"url": archive.url(item.name)} for item in items))
    assert done.result.failed == len(items)
    assert alone == []
