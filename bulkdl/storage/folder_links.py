"""Folders below the destination that are symbolic links, so that two names can be one file."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FolderLinks"]


class FolderLinks:
    """Finds the real folder of a name. Each folder is looked at once; what is in a folder that is not there, never."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._real: dict[str, str | None] = {}
        """Real folder by folder; None for one that does not exist."""

    def real_folder(self, folder: str) -> str:
        """Return the folder (relative, with `/`) to which `folder` leads; an absolute path if it is not below the root."""
        found, rest = "", folder.split("/")
        for depth in range(1, len(rest) + 1):
            prefix = "/".join(rest[:depth])
            if prefix not in self._real:
                self._real[prefix] = self._look(os.path.join(found, rest[depth - 1]))  # noqa: PTH118 - as in file_info
            real = self._real[prefix]
            if real is None:
                return "/".join((found, *rest[depth - 1 :])) if found else folder
            found = real
        return found

    def _look(self, folder: str) -> str | None:
        path = os.path.join(self._root, folder)  # noqa: PTH118
        try:
            facts = os.lstat(path)
        except (OSError, ValueError):
            return None
        if not stat.S_ISLNK(facts.st_mode) and not getattr(facts, "st_reparse_tag", 0):
            return folder.replace(os.sep, "/")
        target, root = os.path.realpath(path), os.path.realpath(self._root)
        inside = target.startswith(os.path.join(root, ""))  # noqa: PTH118
        return (target[len(root) + 1 :] if inside else target).replace(os.sep, "/")
