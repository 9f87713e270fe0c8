"""Paths in a manifest: relative to its folder, `~` for the home folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["resolve_path"]


def resolve_path(text: str, base: Path) -> Path:
    """The absolute path that `text` names from `base`."""
    path = Path(text)
    with contextlib.suppress(RuntimeError):  # no home folder is known: `~` is then a name like any other
        path = path.expanduser()
    return base / path
