"""Figures from samples: rotation of the contestants, ratios within a round, medians, and verdicts on the limits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "BEST",
    "Kind",
    "Limit",
    "Measure",
    "Sample",
    "Spread",
    "Verdict",
    "best_peer",
    "by_tool",
    "judge",
    "per_round",
    "rotation",
    "spread",
]

BEST = "best peer"
"""Stands in a limit for the peer with the lowest median wall time in this run."""


class Measure(Enum):
    """The quantity that is compared."""

    WALL = "wall"
    CPU = "cpu"
    RSS = "rss"
    REQUESTS = "requests"


class Kind(Enum):
    """Relation of a limit to another contestant of the same round."""

    RATIO = "ratio"
    DIFFERENCE = "difference"
    ALONE = "alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Figures of one process from its start to its end, or the reason why there are none."""

    tool: str
    round: int
    wall_s: float = 0.0
    cpu_s: float = 0.0
    """User and system time of the process and of the children that it waited for (s)."""
    rss_bytes: int = 0
    """Peak of the largest process."""
    requests: int | None = None
    command: str = ""
    """The command line, with placeholders for this run's folders and ports."""
    problem: str | None = None
    """Description of a failure; if set, no figure counts."""

    def value(self, measure: Measure) -> float | None:
        """Return seconds, bytes or a count; None if it was not measured."""
        if self.problem is not None:
            return None
        match measure:
            case Measure.WALL:
                return self.wall_s
            case Measure.CPU:
                return self.cpu_s
            case Measure.RSS:
                return float(self.rss_bytes)
            case Measure.REQUESTS:
                return None if self.requests is None else float(self.requests)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median, the lowest and the highest value of some rounds."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A target: `tool`'s measure, as a ratio to or a difference from `against`, or alone, is at most `most`."""

    tool: str
    measure: Measure
    kind: Kind
    most: float
    against: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A limit and the measured value; `found` is None if one side has no figures."""

    limit: Limit
    against: str | None
    found: Spread | None

    @property
    def kept(self) -> bool | None:
        """True if the median is within the limit; None if nothing was measured."""
        return None if self.found is None else self.found.median <= self.limit.most


def rotation(tools: Sequence[str], round_: int) -> list[str]:
    """Return the order of a round: each begins one contestant later, so that none always follows the same one."""
    start = round_ % len(tools) if tools else 0
    return [*tools[start:], *tools[:start]]


def spread(values: Iterable[float]) -> Spread | None:
    """Return the median, the lowest and the highest value; None without values."""
    kept = sorted(values)
    return Spread(median(kept), kept[0], kept[-1], len(kept)) if kept else None


def by_tool(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Return the samples of each contestant, in the order of their rounds."""
    found: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.round):
        found.setdefault(sample.tool, []).append(sample)
    return found


def per_round(samples: Sequence[Sample], *, tool: str, against: str, measure: Measure, kind: Kind) -> Spread | None:
    """Compare `tool` with another in each round that both finished correctly, and return the median.

    Noise that lasts longer than a round then affects both sides of a ratio, and one bad round does not move the median.
    """
    ours, theirs = _values(samples, tool, measure), _values(samples, against, measure)
    rounds = sorted(ours.keys() & theirs.keys())
    if kind is Kind.DIFFERENCE:
        return spread(ours[number] - theirs[number] for number in rounds)
    return spread(ours[number] / theirs[number] for number in rounds if theirs[number] > 0)


def best_peer(samples: Sequence[Sample], *, peers: Iterable[str]) -> str | None:
    """Return the peer with the lowest median wall time among those with a correct round."""
    medians = {tool: found.median for tool in peers if (found := spread(_values(samples, tool, Measure.WALL).values()))}
    return min(medians, key=lambda tool: medians[tool], default=None)


def judge(limit: Limit, samples: Sequence[Sample], *, peers: Iterable[str]) -> Verdict:
    """Return the verdict of these samples on a limit."""
    if limit.kind is Kind.ALONE:
        return Verdict(limit, None, spread(_values(samples, limit.tool, limit.measure).values()))
    against = best_peer(samples, peers=peers) if limit.against == BEST else limit.against
    if against is None:
        return Verdict(limit, None, None)
    found = per_round(samples, tool=limit.tool, against=against, measure=limit.measure, kind=limit.kind)
    return Verdict(limit, against, found)


def _values(samples: Sequence[Sample], tool: str, measure: Measure) -> Mapping[int, float]:
    found = {sample.round: sample.value(measure) for sample in samples if sample.tool == tool}
    return {number: value for number, value in found.items() if value is not None}
