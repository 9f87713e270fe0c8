"""The program is killed (SIGKILL) at random moments and resumes each time from the recorded bytes on disk."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.crash.kills import Toll, endure
from tests.crash.scene import ITEMS
from tests.effort import effort

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here"),
]

RATE = 2_000_000
KILLS = effort(3, 10)
"""In each of two lanes."""


@pytest.mark.thorough
async def test_kills_cost_no_finished_product_and_little_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """After every kill what stands at a final name is right and the journal is sound; at the end all is complete."""
    tolls = await asyncio.gather(*(endure(tmp_path, kills=KILLS, seed=seed, rate=RATE) for seed in (11, 12)))
    both = Toll()
    for toll in tolls:
        both.refetched += toll.refetched
        both.moments += toll.moments
        both.rounds += toll.rounds
        both.sent += toll.sent
        both.wanted += toll.wanted
    with capsys.disabled():
        print(f"\n{both}")  # noqa: T201 - measured figures
    # A kill loses the bytes since the last checkpoint. Each product is below 16 MiB, so only the checkpoint interval of
    # 1 s bounds them, and the amount depends on the machine. Still, a kill costs less than everything.
    total = sum(item.size for item in ITEMS.values())
    assert both.kills == 2 * KILLS
    assert both.sent <= both.wanted + both.kills * total
