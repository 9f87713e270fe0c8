"""Kill the program at random moments and run it again, a given number of times; measure the cost of each kill."""

from __future__ import annotations

import asyncio
import random
import statistics
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from tests.crash.scene import ITEMS, Scene, ended, scene

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bulkdl.demo_server.catalog import Item

__all__ = ["Moment", "Toll", "endure"]

_LOOK_S = 0.002


class Moment(StrEnum):
    """Event before a kill; the kill follows after a short random time."""

    START = "start-up"
    BYTES = "transfer"
    COMMIT = "journal commit"
    PLACING = "placing"
    LAST = "closing"


@dataclass(slots=True)
class Toll:
    """Cost of the kills so far."""

    refetched: list[int] = field(default_factory=list)
    """For each kill: bytes that the archive sent to the killed run and the next run did not find."""
    moments: list[Moment] = field(default_factory=list)
    """Event before each kill."""
    rounds: int = 0
    """Number of completed destinations."""
    sent: int = 0
    wanted: int = 0

    @property
    def kills(self) -> int:
        return len(self.refetched)

    def __str__(self) -> str:
        worst, median = max(self.refetched), statistics.median(self.refetched)
        each = ", ".join(f"{self.moments.count(m)} at {m}" for m in Moment)
        extra = self.sent - self.wanted
        return (
            f"{self.kills} kills survived ({each}) in {self.rounds} destinations, 0 wrong files; refetched per kill: "
            f"worst {worst / 1e6:.2f} MB, median {median / 1e6:.2f} MB; in all {extra / 1e6:.1f} MB more than the "
            f"{self.wanted / 1e6:.1f} MB of products"
        )


async def endure(
    folder: Path,
    *,
    kills: int,
    seed: int,
    rate: float,
    items: Sequence[Item] = tuple(ITEMS.values()),
    words: Sequence[str] = (),
    on_kill: Callable[[Toll], None] = lambda _toll: None,
) -> Toll:
    """Kill runs until `kills` kills are survived and every started destination is complete.

    `rate` is the speed of each connection in bytes per second; `words` are further flags of `run`.
    """
    rng, toll = random.Random(seed), Toll()
    while toll.kills < kills:
        async with scene(folder, items=items, rate=rate, name=f"products-{seed}-{toll.rounds}") as place:
            await _one_destination(place, rng, toll, kills=kills, words=words, on_kill=on_kill)
            toll.rounds += 1
            toll.sent += place.archive.bytes_sent
            toll.wanted += sum(item.size for item in items)
    return toll


async def _one_destination(
    place: Scene,
    rng: random.Random,
    toll: Toll,
    *,
    kills: int,
    words: Sequence[str],
    on_kill: Callable[[Toll], None],
) -> None:
    while toll.kills < kills and place.finished() != {item.name for item in place.items}:
        sent, known, finished = place.archive.bytes_sent, place.durable(), place.finished()
        moment = rng.choice(list(Moment))
        process = await place.start(*words)
        killed = await _kill_at(process, place, moment, rng)
        done = await ended(process)
        place.assert_right()
        assert finished <= place.finished(), "a finished product has gone"
        assert "Traceback" not in done.err, done.err
        if killed:
            toll.refetched.append(place.archive.bytes_sent - sent - (place.durable() - known))
            toll.moments.append(moment)
            on_kill(toll)
        else:
            assert done.code == 0, done.err
    done = await place.run(*words)
    assert done.code == 0, done.err
    place.assert_complete()
    requests = len(place.archive.log)
    assert (await place.run(*words)).code == 0
    assert len(place.archive.log) == requests, "a finished product was asked for again"


async def _kill_at(process: asyncio.subprocess.Process, place: Scene, moment: Moment, rng: random.Random) -> bool:
    """Kill the process at `moment`; return False if it had already ended by itself."""
    came = _watch(place, moment, rng)
    waits = [asyncio.ensure_future(came), asyncio.ensure_future(process.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if process.returncode is None:
        process.kill()
    return await process.wait() < 0


async def _watch(place: Scene, moment: Moment, rng: random.Random) -> None:
    match moment:
        case Moment.START:
            await asyncio.sleep(rng.uniform(0.0, 1.5))
            return
        case Moment.BYTES:
            until = place.archive.bytes_sent + rng.randrange(8_000_000)
            await _look(lambda: place.archive.bytes_sent >= until)
        case Moment.COMMIT:
            before, count = _written(place), rng.randrange(1, 4)
            for _ in range(count):
                await _look(lambda: _written(place) != before)  # noqa: B023 - read before it changes
                before = _written(place)
        case Moment.PLACING:
            count = len(place.finished())
            await _look(lambda: len(place.finished()) > count)
        case Moment.LAST:
            everything = {item.name for item in place.items}
            await _look(lambda: place.finished() == everything)
    await asyncio.sleep(rng.choice((0.0, 0.0, 0.001, 0.005, 0.05)))


def _written(place: Scene) -> int:
    """Return a value that changes with every commit of the journal."""
    try:
        return (place.destination / ".bulkdl" / "journal.sqlite-wal").stat().st_mtime_ns
    except OSError:
        return 0


async def _look(come: Callable[[], bool]) -> None:
    while not come():  # noqa: ASYNC110 - another process sends no event
        await asyncio.sleep(_LOOK_S)
