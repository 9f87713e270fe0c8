"""Rounds of a row: each contestant once per round, in rotation, until the rounds or the time are used up."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .figures import Sample, rotation

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from .scene import Row, Scene

__all__ = ["Played", "play", "rounds"]

_WARM_UP = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A row and its samples."""

    row: Row
    samples: tuple[Sample, ...] = ()
    skipped: str | None = None
    """Reason why there are no samples."""


def play(row: Row, scene: Scene, *, number: int | None, budget_s: float, say: Callable[[str], None]) -> Played:
    """Run a row for about `budget_s` seconds, or exactly `number` rounds.

    Skip it with the reason if it cannot run here.
    """
    try:
        contestants = row.contestants(scene)
    except RuntimeError as error:
        say(f"  skipped: {error}")
        return Played(row=row, skipped=str(error))
    most = number or min(row.rounds or scene.scale.rounds, scene.scale.rounds)

    def attempt(name: str, round_: int) -> Sample:
        contestant = next(one for one in contestants if one.name == name)
        with scene.scratch() as folder:
            sample = contestant.attempt(folder, round_)
            shutil.rmtree(folder / "products", ignore_errors=True)
        say(f"  {'warm-up' if round_ == _WARM_UP else f'round {round_ + 1}':8} {_line(sample)}")
        return sample

    samples = rounds(
        [one.name for one in contestants],
        attempt,
        most=most,
        budget_s=float("inf") if number else budget_s,
        warm=row.rounds != 1,
        once={one.name for one in contestants if one.slow},
    )
    return Played(row=row, samples=tuple(samples))


def rounds(
    names: Sequence[str],
    attempt: Callable[[str, int], Sample],
    *,
    most: int,
    budget_s: float,
    once: Collection[str] = (),
    warm: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> list[Sample]:
    """Return the samples of the rounds that count.

    With `warm` a warm-up round comes first. It counts only if it took so long that no second round fits. Contestants in
    `once` take part only in the first round that counts. One that fails still takes part in the next round.
    """
    started = clock()
    lively = [name for name in names if name not in once]
    warm_up = [attempt(name, _WARM_UP) for name in rotation(lively, 0)] if warm else []
    longest = clock() - started
    if warm_up and longest > budget_s / 2:
        counted = [_as_round(sample, 0) for sample in warm_up]
        return counted + [attempt(name, 0) for name in names if name in once]
    counted = []
    for number in range(most):
        began = clock()
        if number and began - started + longest > budget_s:
            break
        counted += [attempt(name, number) for name in rotation(lively if number else list(names), number)]
        if number or not warm_up:
            longest = max(longest, clock() - began)
    return counted


def _as_round(sample: Sample, number: int) -> Sample:
    return replace(sample, round=number)


def _line(sample: Sample) -> str:
    if sample.problem is not None:
        return f"{sample.tool:10} wrong: {sample.problem}"
    peak = sample.rss_bytes / 2**20
    return f"{sample.tool:10} {sample.wall_s:8.3f} s wall {sample.cpu_s:8.3f} s CPU {peak:6.0f} MiB"
