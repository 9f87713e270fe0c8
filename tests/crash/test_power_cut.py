"""Power cuts: no final file is wrong, whatever the disk lost, tore or reordered since the last fsync."""

from __future__ import annotations

import random
import tempfile
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.core.clock import SystemClock
from bulkdl.core.models import Product, RunOptions
from bulkdl.core.urls import Url
from bulkdl.demo_server.catalog import Item, Validators
from bulkdl.demo_server.faults import Chunked, Cut, Fault, Flip, IgnoreRange, NewEdition
from bulkdl.demo_server.generated_files import Kind
from bulkdl.demo_server.server import Archive, Route
from bulkdl.journal.journal import Journal
from bulkdl.journal.records import Entry, Phase
from bulkdl.transfer import body_reader, checkpoints, segment_scaling
from tests.crash.powercut import Trace, Wreck, Write
from tests.effort import effort
from tests.harness import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.harness import Done

pytestmark = pytest.mark.long

KIB = 1024
ITEMS = (
    Item(name="tagged.bin", size=300 * KIB, seed=1, validators=Validators.ETAG),
    Item(name="segments.zip", size=700 * KIB, seed=2, kind=Kind.ZIP),
    Item(name="summed.bin", size=250 * KIB, seed=3, validators=Validators.NONE),
    Item(name="empty.bin", size=0),
    Item(name="named.tif", size=120 * KIB, seed=4, kind=Kind.TIFF),
    Item(name="dated.bin", size=150 * KIB, seed=5, validators=Validators.DATE),
    Item(name="below.nc", size=100 * KIB, seed=6, kind=Kind.HDF5),
    Item(name="x" * 252, size=90 * KIB, seed=7),
)
LONG = ITEMS[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Circumstances of a run before the power cut."""

    faults: tuple[Fault, ...] = ()
    here: Mapping[str, bytes] = field(default_factory=dict)
    """Files at final names before the run."""
    requeued: tuple[str, ...] = ()
    options: RunOptions = field(default_factory=RunOptions)
    changes: bool = False
    """True: the archive has new versions after the power cut."""


SCENARIOS = {
    "a plain night": Scenario(),
    "connections that break": Scenario(
        faults=(
            *(Fault(Cut(after=n * 40 * KIB), item="*.bin", times=2) for n in (1, 2, 3)),
            Fault(Cut(after=200 * KIB, reset=True), item="segments.zip", times=3),
            Fault(IgnoreRange(), item="tagged.bin", skip=1),
            Fault(Chunked(cut_after=60 * KIB), item="named.tif"),
        )
    ),
    "other editions on the way": Scenario(
        faults=(
            Fault(Cut(after=100 * KIB), item="tagged.bin"),
            Fault(NewEdition(), item="tagged.bin", skip=1),
            Fault(Cut(after=90 * KIB), item="dated.bin"),
            Fault(NewEdition(), item="dated.bin", skip=1),
        )
    ),
    "flipped bytes that a checksum finds": Scenario(
        faults=(Fault(Flip(at=70 * KIB), item="summed.bin"), Fault(Flip(at=9), item="summed.bin"))
    ),
    "files in the way that are replaced": Scenario(
        here={"tagged.bin": b"o" * 300 * KIB, "summed.bin": b"old", "below.nc": b""},
        options=RunOptions(overwrite=True),
    ),
    "files that verify found wrong": Scenario(
        here={"tagged.bin": b"o" * 300 * KIB, "summed.bin": b"o" * 250 * KIB, "segments.zip": b"old"},
        requeued=("tagged.bin", "summed.bin", "segments.zip"),
    ),
    "an archive that has changed when the power is back": Scenario(
        faults=(Fault(Cut(after=100 * KIB), item="*", times=4),), changes=True
    ),
}


class Night:
    """Runs of one scenario, each with its own destination."""

    def __init__(self, folder: Path, archive: Archive, scenario: Scenario) -> None:
        self.folder = folder
        self.archive = archive
        self.scenario = scenario
        self.number = 0
        self.right: dict[str, set[bytes]] = {}

    def products(self) -> list[dict[str, Any]]:
        return [self.product(item) for item in ITEMS]

    def product(self, item: Item) -> dict[str, Any]:
        if item.name.startswith("named"):
            return {"url": self.archive.url(item, Route.DOWNLOAD)}
        product: dict[str, Any] = {"url": self.archive.url(item), "file": item.name}
        if item.name.startswith("below"):
            product["file"] = f"a/b/{item.name}"
        if item.name.startswith("summed"):
            product["checksum"] = f"sha256:{item.digest('sha256')}"
        if item.name in self.scenario.requeued and not item.name.startswith("summed"):
            product["size"] = item.size
        return product

    def place(self) -> Place:
        self.number += 1
        (base := self.folder / str(self.number)).mkdir()
        return Place(base, workers=3, segments=3)

    def file(self, item: Item) -> str:
        return str(self.product(item).get("file", item.name))

    def note_editions(self) -> None:
        for item in self.archive.items:
            self.right.setdefault(self.file(item), set()).add(item.read())

    async def prepare(self, place: Place) -> dict[str, Entry]:
        """Create the files that exist beforehand; return the journal entries."""
        for name, content in self.scenario.here.items():
            path = place.root / (f"a/b/{name}" if name.startswith("below") else name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if not self.scenario.requeued:
            return {}
        async with Journal.open(place.root, clock=SystemClock()) as journal:
            for name in self.scenario.requeued:
                await journal.put(Entry(id=name, phase=Phase.REQUEUED, file=name))
            return await journal.entries()

    async def trace(
        self, place: Place, entries: dict[str, Entry], patch: pytest.MonkeyPatch, *, lose: str = ""
    ) -> Trace:
        trace = Trace(place.root, entries=entries)
        with trace.recording(patch, lose=lose):
            await self.run(place)
        return trace

    async def run(self, place: Place) -> Done:
        return await place.run(*self.products(), options=self.scenario.options, watch=lambda _event: None)

    def assert_survived(self, wreck: Wreck) -> None:
        """Assert, before the next run, that acknowledged products exist and every final file is its product."""
        for item in ITEMS:
            name = self.file(item)
            found = wreck.files.get(name)
            old = self.scenario.here.get(item.name)
            if self.id(item) in wreck.acknowledged:
                assert found is not None, f"{name} was done, and is gone"
                assert found[0] in self.right[name], f"{name} was done, and is wrong"
            elif found is not None:
                assert found[0] in self.right[name] or found[0] == old, f"{name} is wrong at its final name"

    def id(self, item: Item) -> str:
        product = self.product(item)
        return Product(index=0, url=Url(product["url"]), file=product.get("file")).id

    def assert_all_survive(self, trace: Trace, rng: random.Random, count: int) -> None:
        for _ in range(count):
            self.assert_survived(trace.wreck(rng.randrange(len(trace.ops) + 1), rng))

    async def recover(self, wreck: Wreck) -> None:
        """Run again on this state; assert that all products are correct and no finished one is downloaded again."""
        place = self.place()
        await wreck.build(place.root, SystemClock())
        asked = len(self.archive.log)
        done = await self.run(place)
        self.note_editions()
        asked_for = {record.item for record in self.archive.log[asked:]}
        for item in ITEMS:
            name = self.file(item)
            assert place.file(name) in self.right[name], (
                f"{name} is wrong after the next run: {done.outcomes.get(name)}"
            )
            if self.id(item) in wreck.acknowledged:
                assert item.name not in asked_for, f"{name} was done, and was asked for again"
        assert done.code == 0, [outcome.failure for outcome in done.outcomes.values() if outcome.failure]
        assert not [name for name in place.names() if name.endswith(".part")]


@contextmanager
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory if possible; the model decides what fsync keeps, so a real one may be free."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and checkpoints so small that a product has many of them."""
    monkeypatch.setattr(body_reader, "BLOCK", 16 * KIB)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_BYTES", 48 * KIB)
    monkeypatch.setattr(segment_scaling, "MIN_SPLIT", 64 * KIB)


async def _night(stack: AsyncExitStack, tmp_path: Path, scenario: Scenario) -> Night:
    folder = stack.enter_context(quick_folder(tmp_path))
    archive = await stack.enter_async_context(Archive(ITEMS, faults=scenario.faults))
    return Night(folder, archive, scenario)


@pytest.mark.thorough
@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("name", SCENARIOS)
async def test_after_a_power_cut_every_product_comes_out_right(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Cut the power at random instants with random disk states, and once more during the recovery."""
    rng = random.Random(name)
    async with AsyncExitStack() as stack:
        night = await _night(stack, tmp_path, SCENARIOS[name])
        night.note_editions()
        place = night.place()
        trace = await night.trace(place, await night.prepare(place), monkeypatch)
        night.note_editions()
        if night.scenario.changes:
            for item in list(night.archive.items):
                if item.size and not item.name.startswith("summed"):
                    night.archive.put(item.next_edition())
            night.note_editions()
        for count in range(STATES):
            wreck = trace.wreck(rng.randrange(len(trace.ops) + 1), rng)
            night.assert_survived(wreck)
            if count % 4 == 3:
                again = night.place()
                await wreck.build(again.root, SystemClock())
                second = await night.trace(again, wreck.entries, monkeypatch)
                wreck = second.wreck(rng.randrange(len(second.ops) + 1), rng)
                night.assert_survived(wreck)
            await night.recover(wreck)


STATES = effort(5, 24)
"""For each scenario."""


NEXT_RUNS = effort(5, 1)
"""After a kill, the next run meets one of so many states that it may have left."""


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["a plain night", "files that verify found wrong"])
async def test_a_kill_between_any_two_steps_costs_nothing_finished(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Kill before each disk or journal call, with the pending commit done or not."""
    async with AsyncExitStack() as stack:
        night = await _night(stack, tmp_path, SCENARIOS[name])
        night.note_editions()
        place = night.place()
        trace = await night.trace(place, await night.prepare(place), monkeypatch)
        # Writes are alike, so a sample of them is enough.
        moments = [at for at, op in enumerate([*trace.ops, None]) if not isinstance(op, Write) or at % 12 == 0]
        states = [trace.killed(at, unacknowledged=made) for at in moments for made in (False, True)]
        for wreck in states:
            night.assert_survived(wreck)
        unlike = [wreck for number, wreck in enumerate(states) if number == 0 or wreck != states[number - 1]]
        for wreck in unlike[::NEXT_RUNS]:
            await night.recover(wreck)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("lost", ["data", "folders"])
async def test_the_model_misses_an_fsync_that_is_left_out(lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Omitting fsync of files or folders must fail: the model really loses unsynced data."""
    rng = random.Random(lost)
    async with AsyncExitStack() as stack:
        night = await _night(stack, tmp_path, SCENARIOS["a plain night"])
        night.note_editions()
        trace = await night.trace(night.place(), {}, monkeypatch, lose=lost)
        with pytest.raises(AssertionError, match=r"was done, and is (gone|wrong)|wrong at its final name"):
            night.assert_all_survive(trace, rng, 200)
