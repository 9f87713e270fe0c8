"""Real runs for tests: run a manifest given as a mapping, then inspect the disk and the journal."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import bulkdl
from bulkdl.core.clock import SystemClock
from bulkdl.core.events import Event, Hub, ProductFinished
from bulkdl.core.models import Outcome, RunOptions, Settings
from bulkdl.journal.reader import read
from bulkdl.manifest.loader import from_mapping
from bulkdl.operations.run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bulkdl.core.clock import Clock
    from bulkdl.core.stop_request import StopSignal
    from bulkdl.journal.records import Entry
    from bulkdl.operations.result import RunResult

__all__ = ["Done", "HurriedClock", "Place", "body_of", "sha256"]

_E = TypeVar("_E")
_REAL_S = 0.25
_PROGRAM = Path(bulkdl.__file__).parent


class HurriedClock(SystemClock):
    """Real time, except that sleeps of more than 0.25 s end at once and advance the time."""

    def __init__(self) -> None:
        self.skipped = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped

    def wall(self) -> float:
        return super().wall() + self.skipped

    async def sleep(self, seconds: float) -> None:
        task = asyncio.current_task()
        if seconds <= _REAL_S or (task is not None and task.get_name().startswith("keep ")):
            # The tasks that keep a token or the machine awake must not drive the time.
            await super().sleep(seconds)
            return
        self.slept.append(seconds)
        self.skipped += seconds
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Done:
    """A finished run."""

    result: RunResult
    events: list[Event]

    @property
    def code(self) -> int:
        return self.result.exit_code

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """Outcomes by file."""
        return {e.outcome.file: e.outcome for e in self.events if isinstance(e, ProductFinished)}

    @property
    def failure(self) -> tuple[str, int, str]:
        """Kind, attempts and reason of the only failure."""
        (outcome,) = self.result.failures
        assert outcome.failure is not None
        return outcome.failure.kind.value, outcome.failure.attempts, outcome.failure.reason

    def of(self, kind: type[_E]) -> list[_E]:
        return [event for event in self.events if isinstance(event, kind)]


class Place:
    """One destination below `tmp_path` for several runs in a row.

    `settings` are the defaults of every run here.
    """

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        self.root = tmp_path / "products"
        defaults = {"timeout": 10.0, "min_rate": 0, "retries": 3, "workers": 4, "retry_for": 0.0, "give_up_after": 20.0}
        self.settings = Settings(**{**defaults, **settings})
        self.environ = {"BULKDL_STATE_DIR": str(tmp_path / "state")}
        self._base = tmp_path

    def manifest(self, products: list[Any], accounts: Mapping[str, object] | None = None) -> Any:
        data = {"version": 1, "destination": str(self.root), "accounts": dict(accounts or {}), "products": products}
        return from_mapping(data, base=self._base, environ=self.environ)

    async def run(
        self,
        *products: Any,
        accounts: Mapping[str, object] | None = None,
        options: RunOptions | None = None,
        clock: Clock | None = None,
        stop: StopSignal | None = None,
        watch: Callable[[Event], None] = lambda _event: None,
        **settings: Any,
    ) -> Done:
        """Run to the end, and assert that the run left no task behind."""
        before = asyncio.all_tasks()
        events: list[Event] = []
        hub = Hub(events.append, watch)
        result = await run(
            self.manifest(list(products), accounts),
            settings=replace(self.settings, **settings),
            options=replace(options or RunOptions(), allow_sleep=True),
            hub=hub,
            environ=self.environ,
            stop=stop,
            clock=clock or HurriedClock(),
            rng=random.Random(7),
        )
        assert [task for task in asyncio.all_tasks() - before if _is_of_the_program(task)] == []
        assert hub.counters.flights == {}
        return Done(result, events)

    def file(self, name: str) -> bytes | None:
        """Return the bytes at a product's final path, None if there is no file."""
        path = self.root / name
        return path.read_bytes() if path.exists() else None

    def part(self, name: str) -> bytes | None:
        return self.file(f"{name}.part")

    def journal(self) -> dict[str, Entry]:
        return read(self.root) or {}

    def entry(self) -> Entry:
        """Return the only entry of the journal."""
        (entry,) = self.journal().values()
        return entry

    def entry_of(self, file: str) -> Entry:
        return next(entry for entry in self.journal().values() if entry.file == file)

    def names(self) -> list[str]:
        """Return the relative paths of all files except journal and lock."""
        return sorted(
            p.relative_to(self.root).as_posix()
            for p in self.root.rglob("*")
            if p.is_file() and (".bulkdl" not in p.parts or "partials" in p.parts)
        )


def _is_of_the_program(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    file = Path(code.co_filename) if code is not None else Path()
    return file.is_relative_to(_PROGRAM) and not file.is_relative_to(_PROGRAM / "demo_server")


def body_of(size: int, seed: int = 0) -> bytes:
    """Return random bytes, different for each seed and at each offset."""
    return random.Random(seed).randbytes(size)


def sha256(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
