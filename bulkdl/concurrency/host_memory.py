"""What runs have learned of the connections of one account to one host; the journal keeps it for later runs.

Each part counts for 30 days after it was observed. It is where the next run begins; the first trial of that run checks it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.units import format_duration, format_rate

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EXPIRES_S", "HostMemory", "describe", "first_connections", "fresh"]

EXPIRES_S = 30 * 86400.0
"""Seconds after which an observation no longer counts."""
CLOCK_S = 86400.0
"""Seconds that the system clock may have been set back since an observation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """Observations of one account at one host; each `*_at` is the Unix time of the last observation of its part."""

    account: str | None
    host: str
    """"": all hosts of an account with a stated limit."""
    connections: int = 0
    """Number of connections that paid; 0: unknown."""
    rate: float = 0.0
    """What they brought: bytes per second, or answers per second; 0: unknown."""
    is_rate_of_answers: bool = False
    connections_at: float = 0.0
    refused: int = 0
    """Number of connections that the host refused; 0: none."""
    refused_at: float = 0.0
    pause_s: float = 0.0
    """Seconds before a place is used again; 0: none are needed."""
    pause_refused_s: float = 0.0
    """Longest pause that the host refused."""
    pause_accepted_s: float = 0.0
    """Shortest longer pause that it accepted."""
    pause_at: float = 0.0

    @property
    def key(self) -> str:
        """Return the name for messages; it is unique within a destination."""
        if not self.host:
            return f"account {self.account}"
        return self.host if self.account is None else f"{self.account}@{self.host}"

    @property
    def at(self) -> float:
        return max(self.connections_at, self.refused_at, self.pause_at)


def fresh(memory: HostMemory, *, now: float) -> HostMemory:
    """Return `memory` without what is too old or lies in the future; `now` is Unix time."""

    def is_old(at: float) -> bool:
        return not -CLOCK_S <= now - at < EXPIRES_S

    if is_old(memory.connections_at):
        memory = replace(memory, connections=0, rate=0.0, connections_at=0.0)
    if is_old(memory.refused_at):
        memory = replace(memory, refused=0, refused_at=0.0)
    if is_old(memory.pause_at):
        memory = replace(memory, pause_s=0.0, pause_refused_s=0.0, pause_accepted_s=0.0, pause_at=0.0)
    return memory


def first_connections(memory: HostMemory, *, otherwise: int, least: int) -> int:
    """Return the number to begin with; below `least` only because of a refusal."""
    number = max(memory.connections, least) if memory.connections else otherwise
    if not memory.refused:
        return number
    return max(1, min(memory.connections or number, memory.refused - 1))


def describe(memory: HostMemory, *, now: float) -> str:
    """Return what is remembered as a line for users, "" if it is nothing; `now` is Unix time."""
    memory = fresh(memory, now=now)
    numbers = ", ".join(_numbers(memory))
    if not numbers:
        return ""
    rate = []
    if memory.rate:
        rate = [f"{memory.rate:.1f} answers/s" if memory.is_rate_of_answers else format_rate(memory.rate)]
    return "; ".join([numbers, *rate, f"{format_duration(max(0.0, now - memory.at))} ago"])


def _numbers(memory: HostMemory) -> Iterator[str]:
    if memory.connections:
        yield f"{memory.connections} {'connection' if memory.connections == 1 else 'connections'} paid"
    if memory.refused:
        yield f"{memory.refused} were refused" if memory.connections else f"{memory.refused} connections were refused"
    if memory.pause_s:
        yield f"{memory.pause_s:.2g} s between two uses of a place"
