"""Guard against writing below the mount point of an unmounted disk.

When a run begins, the device of the destination is remembered. It is compared whenever a file is created or moved.
Batches of small files compare the `fstat` of each file, and check the destination itself once for the whole batch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from bulkdl.core.errors import StorageStopped

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["forget_mount", "remember_mount", "require_same_mount"]


_DEVICES: Final[dict[Path, int]] = {}
"""Device (`st_dev`) of each destination in use by this process, as it was when the run began."""


def remember_mount(root: Path) -> None:
    """Remember the device of `root` for later checks; raise `OSError`."""
    _DEVICES[root] = root.stat().st_dev


def forget_mount(root: Path) -> None:
    _DEVICES.pop(root, None)


def require_same_mount(root: Path | None) -> None:
    """Raise `StorageStopped` if the destination `root` is no longer on its remembered device.

    An unmounted disk leaves its mount point as an empty folder; files created there would land on the disk below.
    """
    if root is not None and moved_to_another_mount(root):
        raise StorageStopped(
            f"The destination folder '{root}' is on another file system than at the start of the run: its disk was "
            "unmounted or replaced",
            hint="Mount the disk again, then run the same command again; nothing was written to the other disk",
        )


def is_on_mount(root: Path, device: int) -> bool:
    """Return True if `device` (`st_dev` of a file) proves an unchanged mount; False proves nothing."""
    return _DEVICES.get(root) == device


def moved_to_another_mount(root: Path) -> bool:
    device = _DEVICES.get(root)
    if device is None:
        return False
    try:
        return os.stat(root).st_dev != device
    except OSError:
        return False  # the next operation reports the reason
