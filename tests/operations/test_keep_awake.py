"""The system is asked not to sleep after a minute of a run, and released with it; a system that refuses is no error."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.operations.keep_awake import keep_awake
from tests.clocks import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator


class System:
    """Stands in for wakepy."""

    def __init__(self) -> None:
        self.held, self.released = threading.Event(), threading.Event()
        self.modes: list[dict[str, Any]] = []

    @contextmanager
    def running(self, **how: Any) -> Iterator[None]:
        self.modes.append(how)
        self.held.set()
        yield
        self.released.set()


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    system, module = System(), ModuleType("wakepy")
    module.keep = SimpleNamespace(running=system.running)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wakepy", module)
    return system


async def test_a_run_of_more_than_a_minute_keeps_the_system_awake_until_its_end(system: System):
    clock = ManualClock()
    async with keep_awake(clock=clock):
        await clock.until_sleeping()
        await clock.advance(59)
        assert system.modes == []
        await clock.advance(2)
        assert await asyncio.to_thread(system.held.wait, 30)
        assert not system.released.is_set()
    assert await asyncio.to_thread(system.released.wait, 30)
    assert system.modes == [{"on_fail": "pass"}]


async def test_a_short_run_asks_for_nothing(system: System):
    async with keep_awake(clock=ManualClock()):
        pass
    assert system.modes == []


async def test_an_error_in_a_run_releases_the_system_and_goes_on(system: System):
    async def run() -> None:
        async with keep_awake(clock=clock):
            await clock.until_sleeping()
            await clock.advance(61)
            assert await asyncio.to_thread(system.held.wait, 30)
            raise ZeroDivisionError

    clock = ManualClock()
    with pytest.raises(ZeroDivisionError):
        await run()
    assert await asyncio.to_thread(system.released.wait, 30)
