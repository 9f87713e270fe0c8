"""Bytes kept for the journal: on a full disk they give way to the last checkpoints, so that nothing that arrived is lost."""

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
"""Bytes that are given at a time: another writer on the same disk may take them first, and then stops at its end too."""
_ROOM: Final = 4 * SIZE
"""Bytes that must be free before the reserve is made (again)."""


class SpaceReserve:
    """A file of real bytes; used by the one thread that writes the journal. It never raises: it is a help, no more."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._settled = False
        """Whole, or not to be had here."""

    def give(self) -> bool:
        """Give some of it to whoever writes next; False when there is nothing left."""
        self._settled = False
        try:
            left = self._path.stat().st_size - STEP
            if left > 0:
                os.truncate(self._path, left)
            else:
                self._path.unlink()
        except OSError:
            return False
        return True

    def renew(self) -> None:
        """Make it whole where there is room; costs nothing while it is."""
        if self._settled:
            return
        with suppress(OSError):
            if self._path.stat().st_size >= SIZE:
                self._settled = True
                return
        try:
            if shutil.disk_usage(self._path.parent).free < _ROOM:
                return
            self._make()
        except OSError:
            with suppress(OSError):
                self._path.unlink()
        self._settled = True

    def _make(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            for _ in range(0, SIZE, STEP):
                file.write(os.urandom(STEP))  # a file system may pack what it can, and keep no room for zeros
            sync_all(file.fileno())
        sync_folder(self._path.parent)
