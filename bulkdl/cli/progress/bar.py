"""The live view at the bottom of a terminal; messages scroll above it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, TextIO, cast

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from bulkdl.cli.progress.layout import Glyphs, lines
from bulkdl.cli.progress.messages import EventFilter, level_of, sentence
from bulkdl.cli.progress.observers import Screen
from bulkdl.cli.progress.sampler import Sampler
from bulkdl.core.events import Level, Retrying, RunFinished, RunStarted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkdl.cli.background_writer import BackgroundStream
    from bulkdl.core.clock import Clock
    from bulkdl.core.events import Counters, Event

__all__ = ["BarProgress"]

_STYLES = {Level.ERROR: "bold red", Level.WARNING: "yellow", Level.DEBUG: "dim"}


class BarProgress:
    """Observer that draws from `RunStarted` to `RunFinished`; before that, prompts can use the terminal."""

    every_s = 0.2

    def __init__(
        self, *, counters: Counters, clock: Clock, stream: TextIO | BackgroundStream, verbosity: int = 0
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._verbosity = verbosity
        self._filter = EventFilter(verbosity)
        self._sampler = Sampler(counters)
        self._screen = Screen(stream)
        self._console = Console(
            file=cast("IO[str]", stream), highlight=False, markup=False, emoji=False, soft_wrap=False
        )
        self._glyphs = Glyphs(ascii_only=self._console.options.ascii_only)
        self._live: Live | None = None
        self._drawn: list[int] = []
        self._drawn_width = 0

    def observe(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._sampler.started(event)
        if isinstance(event, RunFinished):
            self.close()
        shown = self._filter.shows(event) or (isinstance(event, Retrying) and self._verbosity >= 0)
        if shown and not self._screen.leave_out():  # drawing takes time even if nobody sees it
            self._forget_wrapped()
            self._console.print(Text(sentence(event), _STYLES.get(level_of(event), "")))
        if isinstance(event, RunStarted):
            self._start()

    def tick(self) -> None:
        if self._live is None or self._screen.is_behind:
            return
        self._forget_wrapped()
        self._live.update(self._view(), refresh=True)

    def close(self) -> None:
        """Remove the live view and show the cursor again."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Remove the live view inside the block, so that a prompt can use the terminal."""
        was_live = self._live is not None
        self.close()
        try:
            yield
        finally:
            if was_live:
                self._start()

    def _start(self) -> None:
        # `tick` draws on the event loop: a refresh thread of rich would read the counters while they change.
        self._live = Live(
            self._view(), console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._live.start(refresh=True)

    def _view(self) -> Group:
        size = self._console.size
        # Leave 3 cells for the `^C` that a terminal echoes: it would wrap a full row, which rich does not erase.
        width = max(1, size.width - 3)
        drawn = lines(
            self._sampler.sample(self._clock.monotonic()),
            list(self._counters.flights.values()),
            self._counters.accounts,
            width=width,
            height=max(1, size.height - 1),
            glyphs=self._glyphs,
        )
        self._drawn, self._drawn_width = [line.cell_len for line in drawn], size.width
        for line in drawn:
            line.no_wrap = True
        return Group(*drawn)

    def _forget_wrapped(self) -> None:
        """Erase the extra rows of the last drawing if a narrower terminal wrapped it; rich erases only its own rows."""
        width = self._console.size.width
        if self._live is None or width >= self._drawn_width:
            return
        extra = sum(max(0, (cells - 1) // width) for cells in self._drawn)
        self._drawn_width = width
        self._console.control(Control(*[(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * extra))
