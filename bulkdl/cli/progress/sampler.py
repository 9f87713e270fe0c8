"""Compute the progress of a run from its counters; the only state is a window of past samples."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bulkdl.cli.text import count
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from bulkdl.core.events import Counters, RunStarted

__all__ = ["RateWindow", "Sample", "Sampler", "progress_line"]

WINDOW_S = 15.0


class RateWindow:
    """Rate over the last `window_s` seconds, so that the number follows the network and not the whole run."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, value: int) -> float:
        """Add the total at `now` (monotonic seconds); return the rate per second, 0 until there are two samples."""
        self._samples.append((now, value))
        # Keep the newest sample older than the window: the window starts there.
        while len(self._samples) > 2 and self._samples[1][0] <= now - self._window_s:
            self._samples.popleft()
        then, before = self._samples[0]
        return (value - before) / (now - then) if now > then else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    products: int
    """Products in the run."""
    done: int
    """Products completed, already in place or failed."""
    failed: int
    in_flight: int
    retries: int
    received: int
    left: int
    """Bytes still to download, as far as sizes are known."""
    rate: float
    """Bytes per second."""
    eta_s: float | None
    """Seconds left; None if unknown: no rate, or no known size of the remaining products."""

    @property
    def total(self) -> int:
        return self.received + self.left

    @property
    def fraction(self) -> float:
        """Return the completed fraction, 0 to 1: of the bytes if sizes are known, else of the products."""
        if self.done >= self.products:
            return 1.0
        if self.left:
            return self.received / self.total
        return self.done / self.products


class Sampler:
    """Turn the hub's counters into samples; one sample costs a few additions."""

    def __init__(self, counters: Counters, *, window_s: float = WINDOW_S) -> None:
        self._counters = counters
        self._rates = RateWindow(window_s)
        self._products = 0

    def started(self, event: RunStarted) -> None:
        self._products = event.total

    def sample(self, now: float) -> Sample:
        c = self._counters
        rate = self._rates.add(now, c.received)
        # A product in flight may have had no known size when the run started.
        in_flight_left = sum(max(0, f.total - f.have) for f in c.flights.values() if f.total is not None)
        left = max(0, c.bytes_todo - c.received, in_flight_left)
        return Sample(
            products=self._products,
            done=c.completed + c.skipped + c.failed,
            failed=c.failed,
            in_flight=len(c.flights),
            retries=c.retries,
            received=c.received,
            left=left,
            rate=rate,
            eta_s=left / rate if left and rate > 0 else None,
        )


def progress_line(sample: Sample) -> str:
    """Return the progress line that plain mode prints every 30 s."""
    parts = [f"{sample.fraction:.0%}", f"{sample.done:,} of {count(sample.products, 'product')} done"]
    parts += [f"{sample.failed:,} failed"] if sample.failed else []
    parts += [f"{sample.in_flight} in flight"] if sample.in_flight else []
    if sample.left:
        parts += [f"{format_bytes(sample.received)} of {format_bytes(sample.total)}"]
    else:
        parts += [f"{format_bytes(sample.received)} received"]
    parts += [format_rate(sample.rate)]
    parts += [f"{format_duration(sample.eta_s)} left"] if sample.eta_s is not None else []
    return ", ".join(parts)
