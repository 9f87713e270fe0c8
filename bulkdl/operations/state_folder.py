"""The folder of state that all runs of a user share."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["state_folder"]


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of state shared by all runs of a user, such as the ledgers of used TOTP codes and of quotas."""
    named = environ.get("BULKDL_STATE_DIR")
    if named:
        return Path(named)
    import platformdirs  # noqa: PLC0415 - needed only for logins and quotas

    try:
        return Path(platformdirs.user_state_dir("bulkdl", appauthor=False))
    except RuntimeError:  # neither HOME nor a passwd entry, as in a container with a random user id
        return _temporary_state_folder()


def _temporary_state_folder() -> Path:
    """Return a private folder for this user id below the system's folder of temporary files.

    All runs of the user share it. Anybody may write beside it, so a folder that is not ours alone is not used.
    """
    import tempfile  # noqa: PLC0415 - needed only without a home folder

    folder = Path(tempfile.gettempdir()) / f"bulkdl-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        owner = os.getuid() if hasattr(os, "getuid") else found.st_uid
        if stat.S_ISDIR(found.st_mode) and found.st_uid == owner and not found.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="bulkdl-"))
