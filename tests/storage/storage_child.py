"""Child process that tests kill: `python storage_child.py write|hold|hold-without-locks DESTINATION`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bulkdl.core.clock import SystemClock
from bulkdl.journal.journal import Journal
from bulkdl.journal.records import Entry, Phase
from bulkdl.storage.destination_lock import DestinationLock, _lock_without_os_locks
from bulkdl.storage.filesystem import state_folder


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def write(destination: Path) -> None:
    """Put entries endlessly, eight at a time; print each id after its put returned."""
    async with Journal.open(destination, clock=SystemClock()) as journal, asyncio.TaskGroup() as group:
        for lane in range(8):
            group.create_task(put_for_ever(journal, lane))


async def put_for_ever(journal: Journal, lane: int) -> None:
    number = 0
    while True:
        product = f"{lane}/{number}"
        await journal.put(Entry(id=product, phase=Phase.PARTIAL, ranges=((0, number + 1),), source="x" * 200))
        say(product)
        number += 1


def hold(destination: Path) -> None:
    with DestinationLock(destination):
        say("held")
        sys.stdin.read()


def hold_without_locks(destination: Path) -> None:
    release = _lock_without_os_locks(state_folder(destination) / "lock.pid", destination)
    say("held")
    sys.stdin.read()
    release()


if __name__ == "__main__":
    mode, where = sys.argv[1], Path(sys.argv[2])
    if mode == "write":
        asyncio.run(write(where))
    elif mode == "hold":
        hold(where)
    else:
        hold_without_locks(where)
