"""What a run learns of a host's connections is where the next run begins, unless it is told not to remember."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.adaptive.archive import Site
from benchmarks.adaptive.content import names_of
from benchmarks.adaptive.rules import MB, Archive, Row, Rules
from bulkdl.concurrency.host_memory import HostMemory
from bulkdl.operations.connection_memory import ConnectionMemory, keep_memory

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 3
SEEN = HostMemory(account=None, host="h", connections=6, rate=5.0, connections_at=1.0, refused=8, refused_at=1.0)


async def bulkdl(folder: Path, *words: str) -> str:
    environ = {**os.environ, "BULKDL_STATE_DIR": str(folder / "state")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bulkdl", *words), cwd=folder, env=environ, stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    assert process.returncode in (0, 1), err.decode()
    return out.decode()


class Nights:
    """Two runs for one destination, with half of the products each, from an archive that serves three at once."""

    def __init__(self, site: Site, names: list[str], folder: Path) -> None:
        self.site, self.folder = site, folder
        for file, some in (("a.txt", names[:15]), ("b.txt", names[15:])):
            urls = "".join(f"http://127.0.0.1:{site.ports[0]}/{name}\n" for name in some)
            (folder / file).write_text(urls)

    async def refused_in(self, file: str, *words: str) -> int:
        before = self.site.log.refused
        await bulkdl(self.folder, "run", file, "-d", "out", "--allow-sleep", "--progress", "none", *words)
        return self.site.log.refused - before

    async def remembered(self) -> str:
        _, _, known = (await bulkdl(self.folder, "status", "a.txt", "-d", "out", "-v")).partition("Connections:\n")
        return known.strip()


@pytest.fixture
async def nights(tmp_path: Path):
    row = Row(name="three", archives=(Archive(rules=Rules(limit=LIMIT, each=MB), sizes=(300_000,) * 30),))
    names = names_of(row)
    async with Site(row.archives, names) as site:
        yield Nights(site, names[0], tmp_path)


async def test_the_second_run_begins_at_the_limit_that_the_first_met(nights: Nights):
    assert await nights.refused_in("a.txt") > 0
    assert (await nights.remembered()).startswith("127.0.0.1: 3 connections paid, 4 were refused")
    assert await nights.refused_in("b.txt") <= 1


async def test_without_memory_nothing_is_recorded_or_used(nights: Nights):
    assert await nights.refused_in("a.txt", "--no-memory") > 1
    assert await nights.remembered() == ""
    assert await nights.refused_in("b.txt", "--no-memory") > 1


async def test_only_what_has_changed_is_recorded():
    put: list[HostMemory] = []
    memory = ConnectionMemory([SEEN], put=put.append, is_rate_limited=False)
    memory.save([SEEN, HostMemory(account=None, host="nothing known")])
    assert put == []
    later = replace(SEEN, connections=7)
    memory.save([later])
    memory.save([later])
    assert put == [later]


@pytest.mark.parametrize("known", [(), (replace(SEEN, connections=12, refused=0),)])
async def test_under_a_rate_limit_only_refusals_are_recorded(known: tuple[HostMemory, ...]):
    put: list[HostMemory] = []
    ConnectionMemory(known, put=put.append, is_rate_limited=True).save([SEEN])
    assert [(each.connections, each.refused) for each in put] == [(12 if known else 0, 8)]


async def test_the_record_is_renewed_while_the_run_goes_on_and_at_its_end():
    put: list[HostMemory] = []
    now, recorded = [SEEN], asyncio.Event()

    def record(memory: HostMemory) -> None:
        put.append(memory)
        recorded.set()

    memory = ConnectionMemory((), put=record, is_rate_limited=False)
    async with keep_memory(memory, lambda: now, every_s=0.001):
        await recorded.wait()
        assert put == [SEEN]
        now[0] = replace(SEEN, connections=9)
    assert put == [SEEN, now[0]]
