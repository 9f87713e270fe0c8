"""Control of Python's cyclic garbage collector: off during start-up, while a manifest is read, and at exit.

The collector finds only reference cycles. Modules and products form none and live until the process ends, but every
collection scans them all. During start-up these scans cost about 5 % of the time and free nothing.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["disable", "disable_for_exit", "disabled", "disabled_at_startup", "enable_after_startup"]

_THRESHOLDS = (10_000, 10, 10)
"""Collect after 10,000 new objects (Python's default is 700): most are products, small values without cycles."""


@contextmanager
def disabled() -> Iterator[None]:
    """Disable the collector inside the block; afterwards it is on or off as before."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def disabled_at_startup() -> Iterator[None]:
    """Disable the collector until `enable_after_startup`; restore all its settings after the block."""
    thresholds = gc.get_threshold()
    with disabled():
        try:
            yield
        finally:
            gc.unfreeze()
            gc.set_threshold(*thresholds)


def enable_after_startup() -> None:
    """Enable the collector for the objects that are created from now on."""
    gc.freeze()  # objects that already exist are never scanned
    gc.set_threshold(*_THRESHOLDS)
    gc.enable()


def disable() -> None:
    """Disable the collector; a plain function, because creating a context manager could already start a collection."""
    gc.disable()


def disable_for_exit() -> None:
    """Spare the process the collections of its exit: the operating system frees the memory anyway."""
    gc.disable()
    gc.freeze()  # the interpreter may still collect once, and then has nothing to scan
