"""The device that a destination is on, remembered: nothing is written below the mount point of a disk that is gone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from bulkdl.core.errors import StorageStopped

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["forget_mount", "remember_mount", "require_same_mount"]


_HOMES: Final[dict[Path, int]] = {}
"""The device (`st_dev`) of each destination that this process is working on, as it was when the work began."""


def remember_mount(root: Path) -> None:
    """From now on nothing is made below `root` once it is on another device; raise `OSError`."""
    _HOMES[root] = root.stat().st_dev


def forget_mount(root: Path) -> None:
    _HOMES.pop(root, None)


def require_same_mount(root: Path | None) -> None:
    """Raise `StorageStopped` when the destination `root` is not on the device any more that it was on.

    An unmounted disk leaves its mount point as an empty folder, and what is made there is on the disk below.
    """
    if root is not None and moved_to_another_mount(root):
        raise StorageStopped(
            f"The destination '{root}' is on another file system than when the run began: its disk was unmounted or replaced",
            hint="Mount the disk again, then run the same command again; nothing was written in its place",
        )


def is_on_mount(root: Path, device: int) -> bool:
    """Whether a file on `device` (`st_dev`) shows that the destination is where it was; False leaves it open."""
    return _HOMES.get(root) == device


def moved_to_another_mount(root: Path) -> bool:
    home = _HOMES.get(root)
    if home is None:
        return False
    try:
        return os.stat(root).st_dev != home
    except OSError:
        return False  # what is done next says what is wrong with it
