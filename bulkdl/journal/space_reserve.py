"""Disk space reserved for the journal: on a full disk it is released, so the last checkpoints can be recorded."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from bulkdl.storage.filesystem import sync_all, sync_folder

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NAME", "SIZE", "STEP", "SpaceReserve"]

NAME: Final = "reserve"
SIZE: Final = 1024 * 1024
STEP: Final = 64 * 1024
"""Bytes released at a time. Small steps leave a rest if another program on the same disk uses up a released step."""
_MIN_FREE: Final = 4 * SIZE
"""Free bytes required before the reserve is created or refilled."""


class SpaceReserve:
    """File `.bulkdl/reserve` of random bytes, used by the journal's writer thread. Never raises; it is best-effort."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._checked = False
        """True if the file is complete or cannot be created here, so `refill` has nothing to do."""

    def release_step(self) -> bool:
        """Free one step of disk space for the next write; return False if nothing is left."""
        self._checked = False
        try:
            left = self._path.stat().st_size - STEP
            if left > 0:
                os.truncate(self._path, left)
            else:
                self._path.unlink()
        except OSError:
            return False
        return True

    def refill(self) -> None:
        """Fill the file up if enough disk space is free; cheap while it is complete."""
        if self._checked:
            return
        with suppress(OSError):
            if self._path.stat().st_size >= SIZE:
                self._checked = True
                return
        try:
            if shutil.disk_usage(self._path.parent).free < _MIN_FREE:
                return
            self._make()
        except OSError:
            with suppress(OSError):
                self._path.unlink()
        self._checked = True

    def _make(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            for _ in range(0, SIZE, STEP):
                file.write(os.urandom(STEP))  # a compressing file system would reserve no space for zeros
            sync_all(file.fileno())
        sync_folder(self._path.parent)
