"""The garbage collector while a command starts.

Of modules and products, which stay to the end, it would find nothing to collect, and take a twentieth of the time for it.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["at_rest", "begin"]

_THRESHOLDS = (10_000, 10, 10)
"""Products are many small values without cycles: looking at them every 700th time finds nothing."""


@contextmanager
def at_rest() -> Iterator[None]:
    """Inside, nothing is collected until `begin`; afterwards the collector is as it was before."""
    was_on, thresholds = gc.isenabled(), gc.get_threshold()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        if was_on:
            gc.enable()


def begin() -> None:
    """The start is over: collect what is made from now on."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    gc.enable()
